"""Statements of rights, and whom they let through."""

from __future__ import annotations

from typing import Any

import pytest

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import ConfigError, NotAllowed
from pacsifier_ops.base.rights import IDENTIFIED, RIGHTS, SEND, TAKE, URGENT, Person, Statement, refuse_without

ANNA, BEN = Person("anna"), Person("ben")
TRIALS = {"Trials": frozenset({"anna"})}


def node(**rights: Any) -> PacsNode:
    return PacsNode("pacs", "127.0.0.1", 104, "PACS", **rights)


def may(statement: str, person: Person, right: str = TAKE) -> bool:
    try:
        refuse_without(right, node(**{f"may_{right}": statement}), person)
    except NotAllowed:
        return False
    return True


@pytest.mark.parametrize(
    ("statement", "anna", "ben", "scheduled"),
    [
        ("", True, True, True),
        ("everybody", True, True, True),
        ("nobody", False, False, False),
        ("anna", True, False, False),
        (" anna , carl ", True, False, False),
        ("Anna", False, False, False),
        ("schedule", False, False, True),
        ("ben, schedule", False, True, True),
        ("role:Trials", False, False, False),
    ],
)
def test_whom_a_statement_lets_through(statement: str, anna: bool, ben: bool, scheduled: bool) -> None:
    for right in RIGHTS:
        assert [may(statement, who, right) for who in (ANNA, BEN, Person())] == [anna, ben, scheduled]


def test_a_user_called_as_an_entry_is_nobody_else() -> None:
    assert not may("schedule", Person("schedule")) and not may("nobody", Person("nobody"))
    assert not may("role:Trials", Person("role:Trials")) and not may("role:Trials", Person("Trials"))


def test_roles_are_those_of_the_members() -> None:
    assert may("role:Trials", Person("anna", members=TRIALS))
    assert not may("role:Trials", Person("ben", members=TRIALS))
    assert not may("role:Other", Person("anna", members=TRIALS))
    with pytest.raises(NotAllowed, match="Airflow did not tell who has the role Other"):
        refuse_without(TAKE, node(may_take="role:Other, role:Trials"), Person("ben", members=TRIALS))


def test_a_scheduled_run_has_the_rights_of_an_owner() -> None:
    assert may("anna", Person(owners=("ben", "anna")))
    assert may("role:Trials", Person(owners=("anna",), members=TRIALS))
    assert not may("carl", Person(owners=("ben", "anna")))
    assert not may("anna", Person("ben", owners=("anna",)))  # whoever starts it has none but his own


def test_the_refusal_names_right_connection_person_and_what_to_do() -> None:
    with pytest.raises(NotAllowed) as caught:
        refuse_without(SEND, node(may_send="anna"), BEN)
    assert str(caught.value) == (
        "ben may not send images to pacs: may_send of this connection does not name them; ask an administrator for "
        "this right"
    )
    assert caught.value.facts == {"right": SEND, "connections": ["pacs"]} and caught.value.exit_code == 2
    with pytest.raises(NotAllowed, match="the schedule, for anna and carl, may not be urgent at pacs: may_urgent"):
        refuse_without(URGENT, node(may_urgent="ben"), Person(owners=("anna", "carl")))


@pytest.mark.parametrize("broken", [",", "anna,,ben", "anna, ", "role:", "role: ", "group:x", "nobody, anna"])
def test_a_broken_statement_lets_nobody_through(broken: str) -> None:
    with pytest.raises(ConfigError, match="connection pacs: may_identified"):
        node(may_identified=broken)
    with pytest.raises(ConfigError, match="here"):
        Statement.parse(broken, "here")


def test_what_is_not_stated_is_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_RIGHTS", "stated")
    with pytest.raises(NotAllowed, match="there: it does not state may_identified, and PACSIFIER_RIGHTS says"):
        refuse_without(IDENTIFIED, node(may_take="anna"), ANNA)
    refuse_without(TAKE, node(may_take="anna"), ANNA)
    wrong: Any = "close"
    monkeypatch.setenv("PACSIFIER_RIGHTS", wrong)
    with pytest.raises(ConfigError, match="PACSIFIER_RIGHTS is neither open"):
        refuse_without(IDENTIFIED, node(), ANNA)
