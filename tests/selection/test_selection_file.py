"""Files of a selection as people write them: what is read, what is refused, and where each fault is."""

from __future__ import annotations

import re

import pytest

from pacsifier_ops.query.options import Refused
from pacsifier_ops.selection.reading import selection_of
from pacsifier_ops.selection.rules import Condition, Priors, Rules
from tests.support.places import REPO


def read(text: str) -> Rules:
    selection = selection_of(text.encode(), "chest.yaml")
    assert list(selection) == ["default"]
    rules = selection.of("")
    assert rules is not None
    return rules


def refused(text: str) -> list[str]:
    with pytest.raises(Refused) as caught:
        selection_of(text.encode(), "chest.yaml")
    return caught.value.reasons


def test_the_example_of_the_documentation_is_read() -> None:
    page = (REPO / "docs" / "selection.md").read_text(encoding="utf-8")
    first, sets = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)[:2]
    rules = read(first)
    assert (rules.anchor, rules.days, rules.studies, rules.age) == ("closest", (-30, 30), 1, (18, None))
    assert rules.priors == Priors(2, 3650, ("Modality", "BodyPartExamined"))
    assert [rule.name for rule in rules.include + rules.exclude] == ["thin CT", "scouts", "localizers"]
    assert rules.include[0].conditions[1] == Condition("BodyPartExamined", ("CHEST", "THORAX"))
    assert rules.prefer == ("thinnest", "most images")
    assert list(selection_of(sets.encode(), "two.yaml")) == ["default", "controls"]


def test_nothing_given_selects_everything() -> None:
    assert read("") == read("# nothing yet\n") == read("days:\nseries:\n") == Rules()


def test_values_are_text_as_they_are_written() -> None:
    rules = read(
        'series: {exclude: [{Modality: NO, SeriesNumber: [3, "07", 10..12], StationName: 1.50}]}\nprefer: latest'
    )
    assert [one.wanted for one in rules.exclude[0].conditions] == [("NO",), ("3", "07", "10..12"), ("1.50",)]
    assert rules.exclude[0].name == "exclude 1"
    assert rules.prefer == ("latest",)


def test_rules_may_be_shared_by_an_alias() -> None:
    text = "sets:\n  default: {series: {exclude: &no [{name: SR, Modality: SR}]}}\n  b: {series: {exclude: *no}}"
    selection = selection_of(text.encode(), "a.yaml")
    assert selection.sets["default"] == selection.sets["b"]
    # Aliases of aliases are read once each: the file is small, what it stands for is not.
    bomb = "sets:\n  a: &x {series: &s {include: &l [" + ", ".join(["&r {Modality: CT}"] + ["*r"] * 3000) + "]}}\n"
    bomb += "".join(f"  a{number}: *x\n" for number in range(3000))
    assert len(selection_of(bomb.encode(), "a.yaml").sets) == 3001


def test_the_digest_of_rules_is_of_what_they_say() -> None:
    one = read("series: {exclude: [{name: a, Modality: CT}]}\nstudies: 1")
    other = read("studies: 1 # one\nseries:\n  exclude:\n    - {Modality: [CT], name: b}")
    assert one.digest() == other.digest() != read("series: {exclude: [{Modality: MR}]}\nstudies: 1").digest()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("anchor: nearest", "line 1, anchor: none of closest, first after, last before, all"),
        ("\ndays: 30", "line 2, days: not two numbers; write [first, last]"),
        ("days: [30, -30]", "line 1, days: ends before it begins"),
        ("days: [a, 3]", "line 1, days: not a whole number"),
        ("age: [-1, 3]", "line 1, age: not a whole number from 0 on"),
        ("studies: 0", "line 1, studies: not a whole number from 1 on"),
        ("studys: 1", "line 1: studys is not known (did you mean studies?)"),
        ("studies: 1\nstudies: 2", "line 2, studies: there twice (line 1)"),
        ("priors: 2", "line 1, priors: not a list of keys"),
        ("priors:\n  same: [PatientID]", "line 2, priors.same: none of Modality"),
        ("series: [a]", "line 1, series: not a list of keys"),
        ("series:\n  exclude: {Modality: CT}", "line 2, series.exclude: not a list; write one rule on each line"),
        ("series:\n  exclude:\n    - {name: a}", "line 3, series.exclude: a rule without a condition"),
        (
            "series:\n  exclude:\n    - {Modalty: CT}",
            "line 3, series.exclude: Modalty is not known (did you mean Modality?)",
        ),
        ("ZQX7183: P1", "line 1: a key that is no plain word is not known"),
        ("series:\n  include:\n    - {Modality: []}", "line 3, series.include.Modality: an empty list"),
        (
            "series:\n  include:\n    - {SliceThickness: thin}",
            "line 3, series.include.SliceThickness: not a comparison",
        ),
        ("series: {include: [{SliceThickness: 3..1}]}", "SliceThickness: the range ends before it begins"),
        ("series: {include: [{Modality: CT, Modality: MR}]}", "Modality: there twice"),
        (
            "series: {exclude: [{name: exclude 2, Modality: CT}, {Modality: SR}]}",
            "two rules have this name",
        ),
        (
            "series: {include: [{name: a, Modality: CT}], exclude: [{name: a, Modality: SR}]}",
            "two rules have this name",
        ),
        ("prefer: [thick]", "line 1, prefer: none of thinnest, most images, latest"),
        ("unknown_age: maybe", "line 1, unknown_age: none of leave out, keep"),
        ("sets: {default: {}}\nstudies: 1", "line 2, studies: stands beside sets"),
        ("sets: {a: {}, a: {}}", "two sets have this name"),
        ("sets:", "line 1, sets: has no set"),
        ("- a", "line 1: holds no rules"),
        ("series: {exclude: [{SeriesDescription: *scout*}]}", "line 1: is not YAML; check"),
    ],
)
def test_each_fault_names_file_line_key_and_what_to_do(text: str, expected: str) -> None:
    reasons = refused(text)
    assert any(reason.startswith("chest.yaml: ") and expected in reason for reason in reasons), reasons


def test_all_faults_are_told_at_once() -> None:
    assert len(refused("anchor: x\ndays: 1\nages: [1, 2]\nseries: {include: [{Mod: CT}], exclude: 1}")) == 5


def test_the_examples_are_read() -> None:
    files = sorted((REPO / "include" / "selections").glob("*.yaml"))
    assert len(files) == 2
    assert [list(selection_of(path.read_bytes(), path.name)) for path in files] == [
        ["default"],
        ["default", "follow_up", "controls"],
    ]
