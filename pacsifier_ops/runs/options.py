"""Options that the requests of several jobs have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pacsifier_ops.base.options import EVERYWHERE, IN_FORM, Flag, Section, option
from pacsifier_ops.state.turns import BULK, NORMAL, URGENT

#: Default connection.
DEFAULT_NODE = "pacs_default"


def node(
    title: str = "PACS",
    help: str = "Id of a connection of type dicom.",
    section: Section = Section.WHERE_FROM,
    joined: bool = False,
    receives: bool = False,
) -> Any:
    """Return the option for the connection of a node, or of several (see `operators.base.nodes_of`).

    Args:
        joined: several connections are allowed.
        receives: see `options.Option`.
    """
    return option(title, help, section, default="", form=DEFAULT_NODE, joined=joined, node=True, receives=receives)


def configuration(section: Section = Section.WHERE_FROM) -> Any:
    """Return the option for a configuration file of PACSIFIER."""
    return option(
        "PACSIFIER configuration",
        "Instead of the connection: path of a PACSIFIER config.json below the data root.",
        section,
        default="",
        stands=(IN_FORM,),
    )


def urgency(stands: Sequence[str] = (IN_FORM,)) -> Any:
    """Return the option for the place of a run among others at the same PACS; `stands`: see `option`."""
    return option(
        "Urgency",
        "Which of several runs a free association with the PACS goes to. A series that has begun is finished first.",
        Section.HOW,
        default=NORMAL,
        choices={
            URGENT: "before all others",
            NORMAL: "in turn with others, those first of which least was done",
            BULK: "after small runs, and one turn for ten of a large run",
        },
        stands=stands,
        flag=Flag("which of several runs goes first at the PACS (normal)", extra=True) if IN_FORM in stands else None,
    )


def tell() -> Any:
    """Return the option for those who get the messages of a run."""
    return option(
        "Tell",
        "Mail addresses, or ids of connections of type message_channel, separated by commas, that get the messages of "
        "this run beside those of the settings: how it ended, and questions that wait. They hold counts and a link.",
        Section.HOW,
        default="",
        joined=True,
        pattern="^[A-Za-z0-9@._%+', -]*$",
        stands=EVERYWHERE,
    )


def accept_incomplete(flag: Flag | None = Flag("end with exit code 0 if something is missing", extra=True)) -> Any:
    """Return the option that makes an incomplete run a success."""
    return option(
        "Accept incomplete",
        "The run counts as a success even if something is missing. The report says what.",
        Section.HOW,
        default=False,
        flag=flag,
    )
