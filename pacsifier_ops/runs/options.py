"""Options that the requests of several jobs have."""

from __future__ import annotations

from typing import Any

from pacsifier_ops.base.options import IN_FORM, Flag, Section, option

#: Connection of a run that names none.
DEFAULT_NODE = "pacs_default"


def node(
    title: str = "PACS",
    help: str = "Id of a connection of type dicom.",
    section: Section = Section.WHERE_FROM,
    joined: bool = False,
) -> Any:
    """The connection of a node, or of several of them (see `operators.base.nodes_of`)."""
    return option(title, help, section, default="", form=DEFAULT_NODE, joined=joined)


def configuration(section: Section = Section.WHERE_FROM) -> Any:
    """A file instead of that connection."""
    return option(
        "PACSIFIER configuration",
        "Instead of the connection: path of a PACSIFIER config.json below the data root.",
        section,
        default="",
        stands=(IN_FORM,),
    )


def accept_incomplete(flag: Flag | None = Flag("end with exit code 0 if something is missing", extra=True)) -> Any:
    """Whether a run that is not complete is a success."""
    return option(
        "Accept incomplete",
        "The run counts as a success even if something is missing; the report tells what.",
        Section.HOW,
        default=False,
        flag=flag,
    )
