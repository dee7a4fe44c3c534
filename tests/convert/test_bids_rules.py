"""Rules of BIDS, and names that are given once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.convert.naming import Labels, Paths, Wish, label
from pacsifier_ops.convert.rules import NO_RULE, BidsRules, read_rules, rules_of, shipped_rules, values_of
from pacsifier_ops.convert.store import ImageRecord


def image(name: str = "image", dims: tuple[int, ...] = (64, 64, 30), files: str = "", **sidecar: Any) -> ImageRecord:
    made = {ending: [1, ""] for ending in files.split()}
    return ImageRecord(name, list(dims), 1 if len(dims) < 4 else dims[3], made, sidecar)


MR: dict[str, Any] = {"Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}
DERIVED: dict[str, Any] = {"Modality": "MR", "ImageType": ["DERIVED", "SECONDARY"]}
TIME = (64, 64, 30, 200)
#: Descriptions as scanners of several makers and sites have them, and what they are.
CASES: dict[str, tuple[ImageRecord, str]] = {
    "Siemens T1": (image(**MR, SeriesDescription="t1_mprage_sag_p2_iso"), "anat/sub-1_ses-2_T1w"),
    "GE T1": (image(**MR, SeriesDescription="Sag 3D BRAVO"), "anat/sub-1_ses-2_T1w"),
    "upper case": (image(**MR, SeriesDescription="AX T1 SE"), "anat/sub-1_ses-2_T1w"),
    "with contrast": (
        image(**MR, SeriesDescription="T1 post", ContrastBolusAgent="Gadovist"),
        "anat/sub-1_ses-2_ce-contrast_T1w",
    ),
    "T2": (image(**MR, SeriesDescription="t2_tse_tra"), "anat/sub-1_ses-2_T2w"),
    "FLAIR before T2": (image(**MR, SeriesDescription="T2 FLAIR tra dark-fluid"), "anat/sub-1_ses-2_FLAIR"),
    "diffusion": (
        image(**MR, dims=TIME, files=".bval .bvec", SeriesDescription="ep2d_diff_64dir", PhaseEncodingDirection="j-"),
        "dwi/sub-1_ses-2_dir-jn_dwi",
    ),
    "rest": (
        image(**MR, dims=TIME, SeriesDescription="ep2d_bold_rest", RepetitionTime=2.0),
        "func/sub-1_ses-2_task-rest_bold",
    ),
    "echoes of rest": (
        image("image_e2", **MR, dims=TIME, SeriesDescription="resting state", RepetitionTime=2.0),
        "func/sub-1_ses-2_task-rest_echo-2_bold",
    ),
    "task": (
        image(**MR, dims=TIME, SeriesDescription="fMRI_nback", RepetitionTime=2.0),
        "func/sub-1_ses-2_task-unnamed_bold",
    ),
    "magnitude": (image("image_e1", **MR, SeriesDescription="gre_field_mapping"), "fmap/sub-1_ses-2_magnitude1"),
    "second magnitude": (image("image_e2", **MR, SeriesDescription="gre_field_mapping"), "fmap/sub-1_ses-2_magnitude2"),
    "phase": (
        image(
            "image_e2_ph",
            Modality="MR",
            ImageType=["ORIGINAL", "PRIMARY", "P"],
            SeriesDescription="gre_field_mapping",
            EchoTime1=0.004,
            EchoTime2=0.007,
        ),
        "fmap/sub-1_ses-2_phasediff",
    ),
    "directions": (
        image(
            **MR, SeriesDescription="SpinEchoFieldMap_AP_fmap_epi", PhaseEncodingDirection="j", TotalReadoutTime=0.05
        ),
        "fmap/sub-1_ses-2_dir-j_epi",
    ),
    "CT": (
        image(Modality="CT", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], SeriesDescription="Head"),
        "ct/sub-1_ses-2_ct",
    ),
    "corrected CT": (image("image_Tilt_1", Modality="CT"), "ct/sub-1_ses-2_rec-Tilt1_ct"),
}
UNASSIGNED: dict[str, ImageRecord] = {
    "localizer": image(**MR, SeriesDescription="localizer_t1"),
    "scout": image(**MR, SeriesDescription="AAHead_Scout T1"),
    "derived": image(**DERIVED, SeriesDescription="t1_mprage_MPR"),
    "T2 star": image(**MR, SeriesDescription="t2star_swi"),
    "T1 map": image(**MR, SeriesDescription="T1_map_molli"),
    "diffusion map": image(Modality="MR", ImageType=["DERIVED", "PRIMARY", "ADC"], SeriesDescription="ep2d_diff_ADC"),
    "diffusion without vectors": image(**MR, SeriesDescription="DTI 32 dir"),
    "three volumes of rest": image(**MR, dims=(64, 64, 30, 3), SeriesDescription="rest", RepetitionTime=2.0),
    "topogram": image(Modality="CT", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesDescription="Topogram 0.6"),
    "PET without times": image(Modality="PT", SeriesDescription="PET AC"),
    "ultrasound": image(Modality="US", SeriesDescription="Abdomen"),
    "nothing": image(),
}


@pytest.fixture(scope="module")
def shipped() -> BidsRules:
    return read_rules(shipped_rules())[0]


@pytest.mark.parametrize("one, wanted", CASES.values(), ids=CASES)
def test_what_an_image_is_by_the_rules_of_the_package(one: ImageRecord, wanted: str, shipped: BidsRules) -> None:
    rule, why = shipped.rule_for(one)
    assert rule is not None, why
    assert rule.name_of("sub-1_ses-2", values_of(one)).replace("{run}", "") == f"sub-1/ses-2/{wanted}"


@pytest.mark.parametrize("one", UNASSIGNED.values(), ids=UNASSIGNED)
def test_what_is_left_unassigned(one: ImageRecord, shipped: BidsRules) -> None:
    rule, why = shipped.rule_for(one)
    assert rule is None and why
    assert (why == NO_RULE) or "without" in why


def test_an_image_that_lacks_what_bids_wants_says_so(shipped: BidsRules) -> None:
    assert shipped.rule_for(UNASSIGNED["diffusion without vectors"])[1] == "diffusion, without .bval, .bvec"
    assert "TracerName" in shipped.rule_for(UNASSIGNED["PET without times"])[1]


GOOD = "rules:\n- match: {Modality: MR}\n  datatype: anat\n  suffix: T1w\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no rules"),
        ("- a", "holds no rules"),
        ("rules: 1", "rules: is missing, or no list"),
        ("rulez: []", "line 1.*rulez.*did you mean rules"),
        ("rules:\n- match: {Modality: MR}\n  datatype: anat", "line 2, rules.1.: has no suffix"),
        (GOOD.replace("anat", "anatomy"), "line 3, rules.1.*anatomy is not known.*anat"),
        (GOOD.replace("T1w", "T1 w"), "line 4, rules.1..suffix: give one word"),
        (GOOD.replace("match:", "matches:"), "line 2.*matches is not known.*match"),
        (GOOD + "  entities: {tsk: a}", "line 5.*tsk is not known.*task"),
        (GOOD + "  entities: {run: 1}", "line 5.*run is not known"),
        (GOOD + "  needs: {a: b}", "give one value"),
        ("rules: [", "not YAML"),
    ],
)
def test_rules_that_are_wrong_are_told_with_line_and_key(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"bids_rules.*{told}"):
        read_rules(tmp_path / "rules.yaml")


def test_rules_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bids_rules"):
        read_rules(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [
        ("t1*", "T1_mprage", True),
        ("t1", "t1_mprage", False),
        ("*t1", "sag T1", True),
        ("t[*]1", "t*1", True),
        (">2", 3, True),
        (">2", 2, False),
        ("<=0.1", 0.1, True),
        (">2", "many", False),
        ("3", 3, True),
        ("true", True, True),
        ("PHASE", ["ORIGINAL", "PRIMARY", "phase"], True),
        ("ORIGINAL*", ["ORIGINAL", "PRIMARY"], True),
    ],
)
def test_patterns(pattern: str, value: Any, fits: bool) -> None:
    text = f"rules:\n- match: {{Key: '{pattern}'}}\n  datatype: anat\n  suffix: T1w\n"
    assert (rules_of(text.encode()).rule_for(image(Key=value))[0] is not None) is fits


def test_the_first_rule_that_fits_holds_and_all_of_its_keys_have_to() -> None:
    text = (
        "rules:\n"
        "- {match: {A: x, B: y}, unless: {C: z}, datatype: anat, suffix: T2w}\n"
        "- {match: {A: x}, datatype: anat, suffix: T1w, sidecar: {Note: n}}\n"
    )
    rules = rules_of(text.encode())
    every: list[dict[str, Any]] = [{"A": "x", "B": "y"}, {"A": "x"}, {"A": "x", "B": "y", "C": "z"}]
    found = [rules.rule_for(image(**one))[0] for one in every]
    assert [rule.suffix if rule else "" for rule in found] == ["T2w", "T1w", "T1w"]


# Names


def test_labels_are_letters_and_digits_and_no_two_patients_have_the_same() -> None:
    """A-1 and A.1 are two people, also where a file system does not tell letters from capitals."""
    labels = Labels()
    given = [labels.patient(f"{one}\0", one) for one in ("A-1", "A.1", "a1", "Ä", "", "P 2")]
    assert len({one.casefold() for one in given}) == 6 and given[0] == "A1" and given[5] == "P2"
    assert all(one and label(one) == one for one in given)
    assert [labels.patient(f"{one}\0", one) for one in ("A-1", "A.1")] == given[:2]


def test_sessions_that_come_later_get_later_numbers() -> None:
    labels = Labels()
    labels.number("P\0", ["P\0\0b", "P\0\0c"])
    labels.number("P\0", ["P\0\0a", "P\0\0b", "P\0\0c"])
    labels.number("P\0x", ["P\0x\0a"])
    assert labels.sessions == {"P\0\0b": 1, "P\0\0c": 2, "P\0\0a": 3, "P\0x\0a": 1}


def _wish(key: str, wish: str = "sub-1/anat/sub-1{run}_T1w", order: int = 0) -> Wish:
    return Wish(key, (order,), wish)


def test_one_image_has_no_number_and_several_are_numbered_in_order() -> None:
    paths = Paths()
    paths.give([_wish("b", order=2), _wish("a", order=10), _wish("c", "sub-1/anat/sub-1{run}_T2w")])
    assert paths.path("b") == "sub-1/anat/sub-1_run-1_T1w" and paths.path("a") == "sub-1/anat/sub-1_run-2_T1w"
    assert paths.path("c") == "sub-1/anat/sub-1_T2w"


def test_a_name_that_was_given_stays() -> None:
    paths = Paths()
    paths.give([_wish("a", order=5)])
    paths.give([_wish("a", order=5), _wish("b", order=1)])
    assert (paths.path("a"), paths.path("b")) == ("sub-1/anat/sub-1_T1w", "sub-1/anat/sub-1_run-2_T1w")
    paths.give([_wish("b"), _wish("c", order=9)])  # a is not there this night, and its name is not given away
    assert paths.path("c") == "sub-1/anat/sub-1_run-3_T1w"
    paths.give([_wish("a", "sub-1/anat/sub-1{run}_T2w"), _wish("b")])
    assert paths.path("a") == "sub-1/anat/sub-1_T2w" and paths.path("b") == "sub-1/anat/sub-1_run-2_T1w"
    paths.give([_wish("n", "folder/00001-Head{run}"), _wish("m", "folder/00001-head{run}")])
    assert {paths.path("n").casefold(), paths.path("m").casefold()} == {"folder/00001-head_1", "folder/00001-head_2"}
