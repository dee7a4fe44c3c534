"""The rights of persons on a node: who may take images from it, send to it, take identified data, or be urgent there.

A connection states a right as names, separated by commas:

| entry       | who                                                                                 |
|-------------|-------------------------------------------------------------------------------------|
| anna        | the Airflow user of that name                                                       |
| role:Trials | users with that role                                                                |
| schedule    | runs that nobody has started                                                        |
| everybody   | everybody who may start the run in Airflow                                          |
| nobody      | nobody; it stands alone                                                             |

A run that nobody has started acts for the owners of its project, and one of them is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import ConfigError, NotAllowed
from pacsifier_ops.base.words import listed

TAKE, SEND, IDENTIFIED, URGENT = "take", "send", "identified", "urgent"

#: The rights, and what they allow at a node, for sentences.
RIGHTS: Mapping[str, str] = {
    TAKE: "take images from {}",
    SEND: "send images to {}",
    IDENTIFIED: "take identified data from {}, or send them there",
    URGENT: "be urgent at {}",
}

EVERYBODY, NOBODY, SCHEDULE, _ROLE = "everybody", "nobody", "schedule", "role:"


@dataclass(frozen=True)
class Statement:
    """Who has a right.

    Attributes:
        stated: the connection says anything about it.
        users, roles: names.
        everybody, schedule: see above.
    """

    stated: bool = False
    users: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    everybody: bool = False
    schedule: bool = False

    @classmethod
    def parse(cls, text: str, where: str) -> Statement:
        """Return the statement of a text; empty: nothing is stated.

        Raises:
            ConfigError: it cannot be understood; names `where`.
        """
        if not text.strip():
            return cls()
        entries = [entry.strip() for entry in text.split(",")]
        plain = {entry for entry in entries if not entry.startswith(_ROLE)}
        roles = {entry.removeprefix(_ROLE).strip() for entry in entries if entry.startswith(_ROLE)}
        if not all(plain | roles) or any(":" in entry for entry in plain):
            raise ConfigError(
                f"{where} is not understood; give names of users and role:NAME with commas between them, or schedule, "
                "everybody, nobody"
            )
        if NOBODY in plain and len(entries) > 1:
            raise ConfigError(f"{where} names nobody and others; give one of them")
        users = frozenset(plain - {EVERYBODY, NOBODY, SCHEDULE})
        return cls(True, users, frozenset(roles), EVERYBODY in plain, SCHEDULE in plain)


@dataclass(frozen=True)
class Person:
    """For whom a run acts.

    Attributes:
        user: name of the Airflow user who started it; empty: nobody did.
        owners: names of the owners of its project.
        members: names of the users with each role; a role that is not there is not known.
    """

    user: str = ""
    owners: tuple[str, ...] = ()
    members: Mapping[str, frozenset[str]] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The users for whom the run acts."""
        return (self.user,) if self.user else self.owners

    def __str__(self) -> str:
        if self.user:
            return self.user
        return f"the schedule, for {listed(self.owners)}," if self.owners else "the schedule"


def statement_of(node: Any, right: str) -> Statement:
    """Return who has a right on a node.

    Args:
        node: a `config.PacsNode`.

    Raises:
        ConfigError: the connection's statement cannot be understood.
    """
    return Statement.parse(getattr(node, f"may_{right}"), f"connection {node.name}: may_{right}")


def refuse_without(right: str, node: Any, person: Person) -> None:
    """Check that a run may do something with a node.

    Args:
        right: one of RIGHTS.
        node: a `config.PacsNode`.

    Raises:
        NotAllowed: the run may not; names right, connection and person, and says what to do.
        ConfigError: the statement, or the setting for what is not stated, cannot be understood.
    """
    who, field = statement_of(node, right), f"may_{right}"
    refusal = f"{person} may not {RIGHTS[right].format(node.name)}"
    if not who.stated:
        if settings.rights_are_closed():
            raise NotAllowed(
                f"{refusal}: it does not state {field}, and PACSIFIER_RIGHTS says that nobody may what is not stated; "
                "ask an administrator to state it in the connection",
                right=right,
                connections=[node.name],
            )
        return
    members = person.members or {}
    allowed = who.users.union(*(members.get(role, frozenset()) for role in who.roles))
    if who.everybody or (who.schedule and not person.user) or allowed.intersection(person.names):
        return
    why = ""
    if unknown := sorted(role for role in who.roles if role not in members):
        why = f"; Airflow did not tell who has the {'role' if len(unknown) == 1 else 'roles'} {listed(unknown)}"
    raise NotAllowed(
        f"{refusal}: {field} of this connection does not name them{why}; ask an administrator for this right",
        right=right,
        connections=[node.name],
    )
