"""The decision on the series of a row: each rule, its edges, ties, and what people have met elsewhere."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pacsifier_ops.selection.deciding import Candidate, Decision, decide
from pacsifier_ops.selection.reading import selection_of
from pacsifier_ops.selection.rules import Rules


def rules(text: str) -> Rules:
    return selection_of(text.encode(), "rules.yaml").sets["default"]


def series(study: str, date: str = "20200101", uid: str = "", patient: str = "P", **attributes: str) -> Candidate:
    return Candidate(patient, study, uid or f"{study}.1", {"StudyDate": date, **attributes})


def selected(text: str, found: Sequence[Candidate], anchor: str = "20200101", **more: Any) -> list[str]:
    decision = decide(rules(text), anchor, found, **more)
    return [found[place].series for place in decision.selected]


def reasons(text: str, found: Sequence[Candidate], anchor: str = "20200101", **more: Any) -> list[str]:
    return decide(rules(text), anchor, found, **more).reasons


DAYS = ["20191130", "20191230", "20200101", "20200103", "20200131", "20200202"]


def dated(*days: str) -> list[Candidate]:
    return [series(str(number), day) for number, day in enumerate(days or DAYS)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("anchor: closest\nstudies: 1", "2"),
        ("anchor: closest\nstudies: 2", "12"),
        ("anchor: closest\nstudies: 3", "123"),
        ("anchor: first after\nstudies: 1", "2"),  # the day of the anchor is both after and before it
        ("anchor: last before\nstudies: 1", "2"),
        ("anchor: first after\ndays: [1, 30]\nstudies: 1", "3"),
        ("anchor: last before\ndays: [null, -1]\nstudies: 1", "1"),
        ("anchor: last before\nstudies: 2", "12"),
        ("anchor: first after", "2345"),
        ("days: [-2, 30]", "1234"),
        ("days: [-32, null]", "012345"),
        ("studies: 2", "01"),
    ],
)
def test_which_studies_come_first(text: str, expected: str) -> None:
    assert {uid[0] for uid in selected(text, dated())} == set(expected)


def test_reasons_are_the_first_that_holds() -> None:
    found = [
        series("a", "", SeriesDescription="Scout"),
        series("b", "20200301", SeriesDescription="Scout"),
        series("c", "20200101", SeriesDescription="Scout"),
        series("d", "20200102"),
        series("e", "20200103"),
    ]
    text = "anchor: closest\ndays: [-30, 30]\nstudies: 1\nseries: {exclude: [{SeriesDescription: scout}]}"
    expected = ["no study date", "outside days", "excluded by exclude 1", "", "not chosen"]
    assert reasons(text, found) == expected
    assert reasons("series: {exclude: [{SeriesDescription: scout}]}", found)[0] == "excluded by exclude 1"


def test_a_tie_is_named_and_goes_to_the_earlier_day_time_and_uid() -> None:
    text = "anchor: closest\nstudies: 1"
    decision = decide(rules(text), "20200102", dated("20200103", "20200101"))
    assert decision.reasons == ["not chosen", ""]
    assert len(decision.remarks) == 1
    same_day = [series(uid, StudyTime=time) for uid, time in (("a", ""), ("b", "1015"), ("c", "10"), ("d", "101459"))]
    assert selected(text, same_day) == ["c.1"]
    assert selected("anchor: last before\nstudies: 1", same_day) == ["b.1"]
    assert selected("anchor: closest\nstudies: 3", same_day) == ["b.1", "c.1", "d.1"]
    assert not decide(rules(text), "20200101", dated()).remarks  # days alone decided


def test_patients_of_a_row_are_decided_each_on_their_own() -> None:
    found = [series("a", "20200101"), series("b", "20200102"), series("c", "20200105", patient="Q")]
    assert selected("anchor: closest\nstudies: 1", found) == ["a.1", "c.1"]


@pytest.mark.parametrize(
    ("born", "date", "told", "years"),
    [
        ("20000229", "20180228", "", 17),
        ("20000229", "20180301", "", 18),
        ("20000229", "20200229", "", 20),
        ("20000101", "20171231", "", 17),
        ("20000101", "20180101", "017Y", 18),  # the birth date counts more
        ("", "20180101", "018Y", 18),
        ("", "20180101", "215M", 17),
        ("", "20180101", "940W", 18),
        ("", "20180101", "365D", 1),
        ("2000", "20180101", "", None),
        ("20190101", "20180101", "", None),  # born after the study
        ("20190101", "20180101", "030Y", 30),
        ("", "20180101", "18", None),
    ],
)
def test_age_at_the_study(born: str, date: str, told: str, years: int | None) -> None:
    found = [series("a", date, PatientBirthDate=born, PatientAge=told)]
    if years is None:
        assert reasons("age: [0, null]", found) == ["age unknown"]
        assert reasons("age: [0, null]\nunknown_age: keep", found) == [""]
    else:
        assert reasons(f"age: [{years}, {years}]", found) == [""]
        assert reasons(f"age: [{years + 1}, null]", found) == ["age"]


def test_text_is_compared_without_case_as_a_whole_and_with_wildcards() -> None:
    def excluded(pattern: str, value: str) -> bool:
        text = f"series: {{exclude: [{{SeriesDescription: {pattern!r}}}]}}"
        return reasons(text, [series("a", SeriesDescription=value)]) != [""]

    assert excluded("*scout*", "SCOUT 1.0") and excluded("*Scout*", "the scout")
    assert not excluded("scout", "scout 2") and excluded("scout ?", "  Scout 2 ")
    assert excluded("a[1]*", "A[1] x") and not excluded("a[1]*", "a1")
    assert excluded("*über*", "ÜBERSICHT") and excluded("*straße*", "STRASSE 3")


def test_numbers_and_attributes_with_several_values() -> None:
    def kept(condition: str, **attributes: str) -> bool:
        return reasons(f"series: {{include: [{{{condition}}}]}}", [series("a", **attributes)]) == [""]

    for wanted in ('"<=1.5"', "1.5", "1..2", '">=1.50"', '["<1", ">1"]'):
        assert kept(f"SliceThickness: {wanted}", SliceThickness=" 1.500 ")
    for wanted in ('"<1.5"', '">1.5"', "1.6..2"):
        assert not kept(f"SliceThickness: {wanted}", SliceThickness="1.5")
    assert kept("SeriesNumber: 7", SeriesNumber="007")
    assert kept("ImageType: localizer", ImageType="ORIGINAL\\PRIMARY\\LOCALIZER")
    assert not kept("ImageType: LOCAL", ImageType="ORIGINAL\\PRIMARY\\LOCALIZER")


def test_what_the_archive_does_not_tell_decides_nothing() -> None:
    found = [
        series("a"),
        series("b", SliceThickness="thin"),
        series("c", SliceThickness="1"),
        series("d", Modality="SR"),
    ]
    exclude = "series: {exclude: [{name: thick, SliceThickness: '>2', Modality: [CT, MR]}]}"
    decision = decide(rules(exclude), "", found)
    assert (decision.reasons, decision.undecided) == (["", "", "", ""], 2)
    strict = "undecided: leave out\n" + exclude
    assert reasons(strict, found) == ["undecided: thick", "undecided: thick", "", ""]
    include = "series: {include: [{name: thin, SliceThickness: '<2'}, {Modality: SR}]}"
    assert reasons(include, found) == ["undecided: thin", "undecided: thin", "", ""]
    # A rule that matches is named before one that is undecided.
    both = "undecided: leave out\nseries: {exclude: [{SliceThickness: '>2'}, {name: reports, Modality: SR}]}"
    assert reasons(both, found)[3] == "excluded by reports"


def test_images_are_asked_once_a_series_and_only_where_a_rule_needs_it() -> None:
    asked: list[int] = []

    def ask(place: int) -> Mapping[str, Sequence[str]]:
        asked.append(place)
        return {"SliceThickness": ["1", "5"], "ConvolutionKernel": ["B30"]}

    found = [
        series("a", Modality="CT"),
        series("b", Modality="SR"),
        series("c", "20300101", Modality="CT"),
        series("d", Modality="CT", SliceThickness="5", ConvolutionKernel="B70"),
    ]
    text = (
        "days: [-1, 1]\nseries: {exclude: [{Modality: SR}, {Modality: CT, ConvolutionKernel: B7*}], "
        "include: [{SliceThickness: '<2', Modality: CT}]}"
    )
    assert reasons(text, found, ask=ask) == ["", "excluded by exclude 1", "outside days", "excluded by exclude 2"]
    assert asked == [0]
    asked.clear()
    decide(rules("prefer: most images"), "", [series("a", uid="1"), series("a", uid="2")], ask)
    decide(rules("prefer: thinnest"), "", [series("a", uid="1", SeriesNumber="1")], ask)
    assert asked == [0, 1]  # for SeriesNumber; one series alone needs no choice


def test_priors_are_before_the_earliest_that_was_taken() -> None:
    found = [
        series("old", "20100101", Modality="CT"),
        series("mr", "20190601", Modality="MR"),
        series("ct", "20190501", Modality="ct "),
        series("scout", "20191201", Modality="CT", SeriesDescription="scout"),
        series("ct2", "20180501", Modality="CT"),
        series("now", "20200101", Modality="CT"),
        series("later", "20200601", Modality="CT"),
    ]
    text = (
        "anchor: closest\ndays: [-30, 30]\nstudies: 1\npriors: {studies: 2, days: 3650, same: [Modality]}\n"
        "series: {exclude: [{SeriesDescription: scout}]}"
    )
    decision = decide(rules(text), "20200101", found)
    assert [found[place].study for place in decision.selected] == ["ct", "ct2", "now"]
    assert decision.roles == ["", "", "prior", "", "prior", "study", ""]
    assert {decision.reasons[place] for place in (0, 1, 3, 6)} == {"outside days"}
    assert selected(text, found[:5]) == []  # nothing taken, no priors
    assert len(selected(text.replace("studies: 2, ", ""), found)) == 3
    everything = selected("anchor: closest\nstudies: 1\npriors: {}", found)
    assert everything == [one.series for one in found if one.study != "later"]


def test_a_study_of_the_same_day_is_a_prior_only_where_both_times_are_known() -> None:
    def priors(*times: str) -> list[str]:
        found = [series(f"s{number}", StudyTime=time) for number, time in enumerate(times)]
        decision = decide(rules("anchor: last before\nstudies: 1\npriors: {}"), "20200101", found)
        return [found[place].study for place in decision.selected if decision.roles[place] == "prior"]

    assert priors("08", "1015") == ["s0"]
    assert priors("", "1015") == []
    assert priors("10", "100000") == []  # the same moment


def test_an_excluded_series_of_a_prior_keeps_its_own_reason() -> None:
    found = [
        series("a", "20200101"),
        series("b", "20190101", uid="b.1"),
        series("b", "20190101", uid="b.2", Modality="SR"),
    ]
    text = "anchor: closest\ndays: [-30, 30]\nstudies: 1\npriors: {studies: 1}\nseries: {exclude: [{Modality: SR}]}"
    assert reasons(text, found) == ["", "", "excluded by exclude 1"]


def test_one_series_of_a_study_is_preferred() -> None:
    def preferred(words: str, *attributes: dict[str, str]) -> tuple[str, bool]:
        found = [series("a", uid=f"u{number}", **one) for number, one in enumerate(attributes)]
        decision = decide(rules(f"prefer: {words}"), "", found)
        assert sorted(decision.reasons) == ["", *["not preferred"] * (len(found) - 1)]
        return found[decision.selected[0]].series, bool(decision.remarks)

    thick = [{"SliceThickness": "5"}, {"SliceThickness": "1.25"}, {"SliceThickness": "0.625\\10"}, {}]
    assert preferred("thinnest", *thick) == ("u2", False)
    count = "NumberOfSeriesRelatedInstances"
    assert preferred("most images", {count: "9"}, {count: "10"}, {}) == ("u1", False)
    assert preferred("[thinnest, most images]", {count: "9"}, {count: "10"}) == ("u1", False)
    days = [{"SeriesDate": "20200101"}, {"SeriesDate": "20200101", "SeriesTime": "09"}, {"SeriesTime": "23"}]
    assert preferred("latest", *days) == ("u1", False)
    assert preferred("thinnest", {"SeriesNumber": "10"}, {"SeriesNumber": "9"}, {}) == ("u1", True)
    assert preferred("thinnest", {}, {}) == ("u0", True)


def test_attributes_of_a_study_are_those_of_the_first_series_that_tells_them() -> None:
    found = [
        Candidate("P", "a", "9", {"StudyDate": "20300101"}),
        Candidate("P", "a", "10", {"StudyDate": "2020.01.01"}),  # as text, 10 is before 9
        Candidate("P", "a", "1", {"StudyDate": "yesterday"}),
    ]
    assert reasons("days: [0, 0]", found) == ["", "", ""]


# Another run


def role(*uids: str, kind: str = "study") -> dict[tuple[str, str], str]:
    return {(uid, f"{uid}.1"): kind for uid in uids}


def test_what_was_selected_stays_and_new_studies_fill_free_places() -> None:
    text = "anchor: closest\nstudies: 1\n"
    found = [series("first", "20200110"), series("closer", "20200102")]
    decision = decide(rules(text), "20200101", found, kept=role("first"))
    assert decision.reasons == ["", "not chosen"]
    assert "reselect" in decision.remarks[0]
    assert not decide(rules(text), "20200101", found, kept=role("closer")).remarks
    assert selected(text, found, kept=role("gone")) == ["closer.1"]
    assert selected("anchor: closest\nstudies: 2", [*found, series("x", "20200105")], kept=role("first")) == [
        "first.1",
        "closer.1",
    ]
    # It stays whatever the archive tells of it since.
    assert selected("days: [0, 1]", found, kept=role("first")) == ["first.1", "closer.1"]


def test_series_and_priors_stay_and_fill_free_places() -> None:
    found = [
        series("a", uid="a.1", SliceThickness="5"),
        series("a", uid="a.2", SliceThickness="1"),
        series("p1", "20180101"),
        series("p2", "20190101"),
        series("p3", "20190601"),
    ]
    text = "anchor: closest\nstudies: 1\npriors: {studies: 2}\n"
    kept = role("a") | role("p1", kind="prior")
    assert selected(text, found, kept=kept) == ["a.1", "a.2", "p1.1", "p3.1"]
    assert selected(text + "prefer: thinnest", found, kept=kept) == ["a.1", "p1.1", "p3.1"]
    assert selected(text + "prefer: thinnest", found) == ["a.2", "p2.1", "p3.1"]
    # The study is gone from the archive: a prior that fits takes its place.
    assert selected(text, found[2:4], kept=kept) == ["p1.1", "p2.1"]


def test_a_repeated_decision_is_the_same_in_any_order() -> None:
    chance = random.Random(4)
    texts = [
        "anchor: closest\ndays: [-40, 40]\nstudies: 2\npriors: {studies: 1, same: [Modality]}\nprefer: thinnest",
        "anchor: last before\nstudies: 1\nseries: {include: [{Modality: CT}], exclude: [{SliceThickness: '>3'}]}",
        "age: [18, 60]\nstudies: 3\nprefer: [latest, most images]",
    ]
    for number in range(300):
        found = [
            Candidate(
                chance.choice("PQ"),
                study := str(chance.randrange(5)),
                f"{study}.{place}",
                {
                    "StudyDate": chance.choice([*DAYS, ""]),
                    "StudyTime": chance.choice(["", "10", "1015", "113000"]),
                    "Modality": chance.choice(["CT", "MR", ""]),
                    "SliceThickness": chance.choice(["", "1", "5"]),
                    "PatientBirthDate": chance.choice(["", "19800101", "20100101"]),
                },
            )
            for place in range(chance.randrange(1, 12))
        ]
        text = texts[number % len(texts)]
        once = dict(zip((one.series for one in found), reasons(text, found), strict=True))
        first = decide(rules(text), "20200101", found)
        kept = {(found[p].study, found[p].series): first.roles[p] for p in first.selected}
        again: Decision = decide(rules(text), "20200101", found, kept=kept)
        assert again.selected == first.selected
        assert not any("reselect" in remark for remark in again.remarks)
        chance.shuffle(found)
        assert dict(zip((one.series for one in found), reasons(text, found), strict=True)) == once
