"""Folder names: safe, never shared, always the same; and who may write into a tree."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsifier_ops.base.errors import StorageError, TreeError
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.state.leases import Leases, shared
from pacsifier_ops.state.tree import (
    BY_UID,
    NAMINGS,
    PACSIFIER,
    Names,
    Tree,
    file_name,
    names_object,
    patient_identity,
    safe,
    series_folder,
    study_folder,
)

#: Few letters, so that names collide; hostile ones, so that they try to get out.
NASTY = st.text(alphabet="aA1./\\- _*\0\n~:äßЖ日", max_size=6) | st.sampled_from(["..", "/etc", "con", "a" * 300, "🙂"])
SERIES = st.fixed_dictionaries(
    {
        "PatientID": NASTY,
        "IssuerOfPatientID": st.sampled_from(["", "H"]),
        "StudyDate": st.sampled_from(["", "20200101", "../.."]),
        "StudyTime": st.sampled_from(["", "10", "10.5", "/"]),
        "SeriesNumber": st.sampled_from(["", "1", "01", "-1", "12345678"]),
        "SeriesDescription": NASTY,
    }
)
COHORT = st.lists(st.tuples(SERIES, st.integers(0, 5)), min_size=1, max_size=25)


def uids(cohort: list[tuple[dict[str, str], int]]) -> list[tuple[dict[str, str], str, str]]:
    """Each series with UIDs of its own; a study belongs to one patient."""
    named = []
    studies: dict[tuple[int, str], str] = {}
    for number, (attributes, study) in enumerate(cohort):
        study_uid = studies.setdefault((study, patient_identity(attributes, str(study))), f"1.{len(studies) + 1}")
        named.append((attributes, study_uid, f"{study_uid}.{number}"))
    return named


@given(st.text())
def test_safe_text_keeps_letters_and_digits_only(text: str) -> None:
    assert re.fullmatch("[0-9A-Za-z_]*", safe(text)) and "__" not in safe(text)
    assert bool(safe(text)) == bool(re.sub("[\u0300-\u036f]", "", text))


@pytest.mark.parametrize(
    ("text", "name"),
    [("Schädel T1", "Schadel_T1"), ("Ж", "_"), ("A-1", "A_1"), ("", ""), ("a//b", "a_b"), ("Größe", "Gro_e")],
)
def test_safe_text(text: str, name: str) -> None:
    assert safe(text) == name


@given(COHORT, st.sampled_from(NAMINGS))
def test_no_name_leads_out_of_the_tree(cohort: list[tuple[dict[str, str], int]], naming: str) -> None:
    names = Names(naming=naming)
    for attributes, study_uid, series_uid in uids(cohort):
        path = Path(names.series(attributes, study_uid, series_uid))
        assert not path.is_absolute() and ".." not in path.parts and 2 <= len(path.parts) <= 3
        assert path.parts[0].startswith("sub-") and re.fullmatch("[0-9A-Za-z_.+-]{5,200}", path.name)
        assert len(path.parts) == 2 or path.parts[1].startswith("ses-")
        assert len(str(path)) < 500


@given(COHORT, st.sampled_from(NAMINGS))
def test_no_two_identities_share_a_folder(cohort: list[tuple[dict[str, str], int]], naming: str) -> None:
    names = Names(naming=naming)
    owners: dict[tuple[str, ...], set[str]] = {}
    for attributes, study_uid, series_uid in uids(cohort):
        parts = names.series(attributes, study_uid, series_uid).lower().split("/")
        patient = patient_identity(attributes, study_uid)
        whose = [patient, series_uid] if len(parts) == 2 else [patient, study_uid, series_uid]
        for depth, owner in enumerate(whose, start=1):
            owners.setdefault(tuple(parts[:depth]), set()).add(owner)
    assert all(len(owner) == 1 for owner in owners.values())


@given(COHORT, st.randoms(use_true_random=False))
def test_names_are_the_same_in_every_run(cohort: list[tuple[dict[str, str], int]], chance: random.Random) -> None:
    series = uids(cohort)
    first = Names()
    given_names = [first.series(*one) for one in series]
    # Kept and loaded, asked in another order, among others that came later: nobody is renamed.
    again = Names(dict(first.given))
    order = list(range(len(series)))
    chance.shuffle(order)
    again.series({"PatientID": "new"}, "9.9", "9.9.9")
    assert {i: again.series(*series[i]) for i in order} == dict(enumerate(given_names))


def test_names_as_people_know_them() -> None:
    attributes = {
        "PatientID": "PT 01",
        "StudyDate": "20200229",
        "StudyTime": "080000.5",
        "SeriesNumber": "3",
        "SeriesDescription": "t1 mprage (sag)",
    }
    names = Names()
    assert names.series(attributes, "1.2", "1.2.3") == "sub-PT_01/ses-20200229080000_5/00003-t1_mprage_sag_"
    twin = names.series(attributes, "1.2", "1.2.4")
    assert re.fullmatch("sub-PT_01/ses-20200229080000_5/00003-t1_mprage_sag__[0-9a-f]{8}", twin)
    assert series_folder({"SeriesNumber": "12"}) == "00012-No_series_description"
    assert study_folder({"StudyTime": "10"}) == ""
    assert names.series({}, "1.5", "1.5.1") == "sub-No_PatientID/00000-No_series_description"
    assert names.series({}, "1.6", "1.6.1").startswith("sub-No_PatientID_")
    issuers = {
        names.series({"PatientID": "X", "IssuerOfPatientID": issuer}, "1.7", f"1.7.{issuer}1") for issuer in "12"
    }
    assert len({path.split("/")[0] for path in issuers}) == 2


@pytest.mark.parametrize(
    ("sop_class", "name"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", "CT.1.2.3"),
        ("1.2.840.10008.5.1.4.1.1.128", "PI.1.2.3"),
        ("1.2.840.10008.5.1.4.1.1.88.3", "SR_d.1.2.3"),
        ("1.2.3.4", "UNKNOWN.1.2.3"),
    ],
)
def test_files_are_named_as_dcmtk_names_them(sop_class: str, name: str) -> None:
    assert file_name(PACSIFIER, sop_class, "1.2.3") == name and names_object(name, PACSIFIER)
    assert file_name(BY_UID, sop_class, "1.2.3") == "1.2.3.dcm" and names_object("1.2.3.dcm", BY_UID)
    assert not names_object(name, BY_UID) and not names_object("1.2.3.dcm", PACSIFIER)
    others = ("00001-Loc.csv", "Thumbs.db", "new_id.txt", ".1.2.3.dcm.part", "notes.1.txt")
    assert not any(names_object(other, naming) for other in others for naming in NAMINGS)


def test_names_are_kept_outside_the_tree(tmp_path: Path, state_root: Path) -> None:
    tree = Tree.open(tmp_path / "out")
    names = tree.load_names()
    path = names.series({"PatientID": "P"}, "1.2", "1.2.3")
    tree.save_names(names)
    assert Tree.open(tmp_path / "out").load_names().given == names.given
    assert Tree.open(tmp_path / "other").load_names().given == {}
    assert path and state_root in tree.state.parents and (tmp_path / "out") not in tree.state.parents


def test_a_tree_that_is_not_identified_is_refused(tmp_path: Path) -> None:
    Tree.open(tmp_path)
    for state in ("converting", "de-identified"):
        (tmp_path / ".pacsifier" / "tree.json").write_text(f'{{"state":"{state}"}}')
        with pytest.raises(TreeError, match=state):
            Tree.open(tmp_path)


def test_nobody_works_in_a_tree_that_is_converted_meanwhile(tmp_path: Path) -> None:
    opened = Tree.open(tmp_path / "out")
    Tree.convert(tmp_path / "out", {}, in_place=True, run="a")
    with pytest.raises(TreeError, match="converting by now"), opened.workplace(shared()):
        pass
    assert not any(opened.incoming.iterdir())


@pytest.mark.parametrize("link", [".pacsifier", ".pacsifier/incoming"])
def test_nothing_is_cleared_up_through_a_link(tmp_path: Path, link: str) -> None:
    thesis = tmp_path / "elsewhere" / "incoming" / "thesis"
    thesis.mkdir(parents=True)
    root = tmp_path / "out"
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(thesis.parent if link.endswith("incoming") else thesis.parents[1])
    with pytest.raises(TreeError, match="link"):
        Tree.open(root)
    assert Tree.existing(root) is None and thesis.is_dir()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TreeError, match="out_directory"):
        Tree.open(tmp_path / "file" / "out")


def test_workplaces_of_the_dead_are_cleared_and_those_of_the_living_are_not(tmp_path: Path, state_root: Path) -> None:
    tree = Tree.open(tmp_path / "out")
    dead = tmp_path / "out" / ".pacsifier" / "incoming" / "0123"
    dead.mkdir(parents=True)
    (dead / "x.part").write_text("half")
    with tree.workplace(shared()) as one:
        assert not dead.exists()
        (one / "x.part").write_text("half")
        with tree.workplace(Leases(state_root / "leases")) as two:
            assert one != two and (one / "x.part").exists()
        assert one.exists() and not two.exists()
    assert not one.exists()


def test_a_workplace_on_a_disk_that_is_gone(tmp_path: Path) -> None:
    tree = Tree.open(tmp_path / "out")
    (tmp_path / "out" / ".pacsifier" / "incoming").write_text("")
    with pytest.raises(StorageError, match="output folder"), tree.workplace(shared()):
        pass


def test_names_that_an_earlier_version_gave_by_the_series_uid_alone() -> None:
    attributes = {"PatientID": "P", "StudyDate": "20200101", "SeriesNumber": "1"}
    named = Names().series(attributes, "1.1", "1.7")
    names = Names({"series:1.7": named, "series:1.8": "sub-P/elsewhere/00001-x"})
    assert names.folder_of(SeriesId("1.1", "1.7")) == named == names.folder_of(SeriesId("1.2", "1.7"))
    # It is the series of the study in whose folder it lies, and of that alone.
    other = names.series({**attributes, "StudyDate": "20200202"}, "1.2", "1.7")
    assert other != named and names.series(attributes, "1.1", "1.7") == named
    twin = names.series(attributes, "1.3", "1.7")
    assert twin not in (named, other)
    assert dict(names.of_series()) == {
        SeriesId("", "1.8"): "sub-P/elsewhere/00001-x",
        SeriesId("1.1", "1.7"): named,
        SeriesId("1.2", "1.7"): other,
        SeriesId("1.3", "1.7"): twin,
    }
