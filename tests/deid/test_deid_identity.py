"""Whose an object is that has no PatientID: told by folder or by study where they agree, else by nobody."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from pacsifier_ops.base.errors import PatientsRefused
from pacsifier_ops.cli import anonymize
from pacsifier_ops.deid import steps
from pacsifier_ops.deid.books import DeidAccount
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.pseudonyms.linkage import Linkage
from pacsifier_ops.runs.folder import Run

FOLDER = "Wurzelbacher_Kunigunde"


def put(root: Path, folder: str, number: int = 1, **values: Any) -> list[Dataset]:
    """A series of two images without a PatientID, in a folder."""
    who = {"patient_id": values.pop("PatientID", ""), "patient_name": values.pop("PatientName", "")}
    given = {"n_images": 2, "rows": 8, "columns": 8, "modality": "MR", **values}
    images = phantom_series(series_number=number, **who, **given)
    for image in images:
        image.PatientBirthDate = values.get("PatientBirthDate", "")
    write(images, root / folder / f"{number}" if folder else root)
    return images


def deidentify(source: Path, out: Path, identity: str, units: int = 1000, **values: Any) -> tuple[Run, DeidAccount]:
    run = Run.fresh()
    request = DeidRequest(source, out, "default", identity=identity, contact_sheets=False, **values)
    for unit in steps.prepare(run, request)[:units]:
        steps.convert(run, unit)
    return run, steps.report(run)


def people(out: Path) -> list[str]:
    """PatientIDs of the objects of a data set, each once."""
    return sorted({str(dcmread(path).PatientID) for path in out.rglob("*.dcm")})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "in"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_without_being_asked_nobody_is_told(source: Path, out: Path) -> None:
    put(source, FOLDER)
    _, account = deidentify(source, out, "patient_id")
    assert account.totals()["quarantined"] == 2 and not people(out)


@pytest.mark.parametrize("identity", ["folder", "study"])
def test_folder_or_study_tells_whose_it_is_and_the_report_says_so(
    source: Path, out: Path, identity: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, FOLDER)
    put(source, FOLDER, 2, PatientName="Wurzelbacher^Kunigunde")
    put(source, "sub-2", 3, study_date="19940102")
    put(source, "sub-3", 4, PatientID="ZQX-71830-KW", study_date="19950102")
    for _ in range(2):  # who it is stays
        arguments = ["-d", str(source), "-o", str(out), "--profile", "default", "--identity", identity]
        assert anonymize.main([*arguments, "--no_contact_sheets"]) == 0
        told = capsys.readouterr().out
        assert f"2 patient(s) are identified only by their {identity}" in told
        assert "without PatientID: 6 object(s)" in told
    assert len(people(out)) == 3
    report = next(Path(line.split()[-1]) for line in told.splitlines() if line.startswith("report:"))
    assert f"Patients without PatientID, told by their {identity}" in report.read_text()
    assert len(Linkage("default").people().given) == 3
    for path in out.rglob("*"):
        data = str(path.relative_to(out)).encode() + (path.read_bytes() if path.is_file() else b"")
        assert b"urzelbacher" not in data and b"unigunde" not in data, path


def test_a_patient_id_counts_and_the_others_of_the_folder_are_of_the_same_patient(source: Path, out: Path) -> None:
    put(source, "sub-1", 1, PatientID="ZQX-71830-KW")
    put(source, "sub-1", 2)
    put(source, "sub-2", 3, PatientID="ZQX-71830-KW", study_date="19940102")
    _, account = deidentify(source, out, "folder")
    assert account.totals()["deidentified"] == 6 and len(people(out)) == 1
    assert account.told_by == {"patient_id": 1} and account.nameless == 2


UNDECIDED = {
    "two patients": ([{"PatientID": "A-1"}, {"PatientID": "B-2"}, {}], "objects of several patients"),
    "two names": ([{"PatientName": "Stein^Anna"}, {"PatientName": "Lang^Eva"}, {}], "contradict each other"),
    "two birth dates": ([{"PatientBirthDate": "19700102"}, {"PatientBirthDate": "19710102"}], "contradict each other"),
}


@pytest.mark.parametrize("case", UNDECIDED)
def test_a_folder_that_contradicts_itself_tells_nothing(case: str, source: Path, out: Path) -> None:
    series, reason = UNDECIDED[case]
    for number, values in enumerate(series, 1):
        put(source, FOLDER, number, **values)
    _, account = deidentify(source, out, "folder")
    reasons = [reason for _, _, reason in account.set_apart]
    assert len(reasons) == 2 * sum("PatientID" not in values for values in series)
    assert all(reason in found for found in reasons)


def test_names_that_are_spelt_otherwise_or_stand_for_nobody_do_not_contradict(source: Path, out: Path) -> None:
    for number, name in enumerate(("Stein^Anna", "ANNA STEIN", "Stein^Anna=山田", "Anonymous", ""), 1):
        put(source, FOLDER, number, PatientName=name)
    _, account = deidentify(source, out, "folder")
    assert account.totals()["quarantined"] == 0 and len(people(out)) == 1


def test_folders_that_are_no_patients_tell_nothing(source: Path, out: Path) -> None:
    """Beside the folders of patients: no folder, series as folders, and where an extraction puts everybody."""
    for folder, date in (("", "19940101"), ("sub-No_PatientID", "19940102")):
        put(source, folder, study_date=date)
    images = put(source, "T1", 2, study_date="19950102")
    put(source, "T2", 3, study_date="19950102", study_uid=images[0].StudyInstanceUID)
    _, account = deidentify(source, out, "folder")
    reasons = sorted({reason for _, _, reason in account.set_apart})
    assert [reason.partition("lies in ")[2][:14] for reason in reasons] == ["several folder", "no folder of i"]
    assert account.totals()["quarantined"] == 8
    _, account = deidentify(source, out.with_name("other"), "study")
    assert account.totals()["deidentified"] == 8 and account.told_by["study"] == 3


def test_files_name_the_folder_and_a_pseudonym_that_tells_it_is_refused(
    source: Path, out: Path, tmp_path: Path
) -> None:
    put(source, f"sub-{FOLDER}")
    (source / f"sub-{FOLDER}" / "new_id.txt").write_text("P0042")
    (tmp_path / "shift.json").write_text(f'{{"{FOLDER}": -40}}')
    deidentify(source, out, "folder", day_shift=str(tmp_path / "shift.json"))
    assert people(out) == ["P0042"]
    (source / f"sub-{FOLDER}" / "new_id.txt").unlink()
    for name in (FOLDER, "KunigundeWurzelbacher1"):
        (tmp_path / "ids.json").write_text(f'{{"{FOLDER}": "{name}"}}')
        with pytest.raises(PatientsRefused):
            deidentify(source, out.with_name("o"), "folder", new_ids=str(tmp_path / "ids.json"), project="other")


def test_in_place_a_folder_says_the_same_after_a_part_of_it_was_converted(source: Path) -> None:
    put(source, FOLDER, 1, PatientID="A-1")
    put(source, FOLDER, 2, study_date="19940102")
    put(source, FOLDER, 3, PatientID="B-2", study_date="19950102")
    deidentify(source, source, "folder", units=1)
    _, account = deidentify(source, source, "folder")
    assert [reason for _, _, reason in account.set_apart] == [
        "it has no PatientID, and its folder holds objects of several patients"
    ] * 2


def test_what_came_of_a_folder_is_taken_back_when_it_says_something_else(source: Path, out: Path) -> None:
    put(source, FOLDER)
    deidentify(source, out, "folder")
    (before,) = people(out)
    put(source, FOLDER, 2, PatientID="A-1")
    deidentify(source, out, "folder")
    assert len(people(out)) == 1 and people(out) != [before]
    put(source, FOLDER, 3, PatientID="B-2")
    _, account = deidentify(source, out, "folder")
    assert len(people(out)) == 2 and len(list(out.rglob("*.dcm"))) == 4
    assert account.patients == 2 and account.totals()["series"] == 2  # whom all was taken from is counted no more


OTHER_DISC: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "another name": ({"PatientName": "Stein^Anna"}, {"PatientName": "Lang^Eva"}, 0),
    "another birth date": (
        {"PatientName": "Stein^Anna", "PatientBirthDate": "19700102"},
        {"PatientName": "Stein^Anna", "PatientBirthDate": "19900102"},
        0,
    ),
    "the same birth date alone": ({"PatientBirthDate": "19700102"}, {"PatientBirthDate": "19700102"}, 0),
    "nothing that tells": ({}, {}, 0),
    "no name any more": ({"PatientName": "Stein^Anna"}, {}, 0),
    "the same name": ({"PatientName": "Stein^Anna"}, {"PatientName": "STEIN^ANNA"}, 2),
    "the same study": ({"study_uid": "2.25.7101"}, {"study_uid": "2.25.7101"}, 2),
}


@pytest.mark.parametrize("case", OTHER_DISC)
def test_a_folder_of_another_run_is_of_the_same_patient_only_where_it_says_so(
    case: str, source: Path, out: Path, tmp_path: Path
) -> None:
    one, two, told = OTHER_DISC[case]
    put(source, "001", 1, **one)
    put(tmp_path / "in2", "001", 2, study_date="19960102", **two)
    deidentify(source, out, "folder")
    _, account = deidentify(tmp_path / "in2", tmp_path / "out2", "folder")
    assert account.totals()["deidentified"] == told
    assert all("rename the folder, give another project" in reason for _, _, reason in account.set_apart)
    assert people(tmp_path / "out2") == (people(out) if told else [])
    _, account = deidentify(source, out, "folder")  # the first one stays
    assert account.totals()["deidentified"] == 2
    kept = next(path for path in tmp_path.rglob("folders.json")).read_text()
    assert "stein" not in kept.casefold() and "1970" not in kept and "2.25.7101" not in kept
    deidentify(tmp_path / "in2", tmp_path / "out3", "folder", project="other")
    assert people(tmp_path / "out3") not in ([], people(out))


@pytest.mark.parametrize("how", ["copy", "link"])
@pytest.mark.parametrize("other", ["0_by_date", "z_by_date", "sub-1"])
def test_an_object_in_several_folders_is_nobodys(how: str, other: str, source: Path, out: Path) -> None:
    """Wherever the copy stands, before or behind the first: else three patients became one."""
    put(source, "sub-1", 1, PatientID="A-1")
    for number, folder in enumerate(("sub-2", "sub-3"), 2):
        put(source, folder, number, study_date=f"199{number}0102")
    deidentify(source, out, "folder")
    assert len(people(out)) == 3
    (source / other).mkdir(exist_ok=True)
    for path in sorted((source / "sub-2").rglob("*.dcm")):
        copy = source / other / path.name
        shutil.copy2(path, copy) if how == "copy" else copy.symlink_to(path)
    for _ in range(2):
        _, account = deidentify(source, out, "folder")
        told = {Path(path).parts[0] for path, _, reason in account.set_apart if "study lies in several" in reason}
        assert told == {"sub-2", other} and len(people(out)) == 2 and account.patients == 2
        assert account.totals()["quarantined"] == 4 and account.totals()["passed_over"] == 0


def test_names_that_folders_and_other_objects_tell_go_from_descriptions_and_folder_names(
    source: Path, out: Path
) -> None:
    put(source, "Lang Max", SeriesDescription="CT Lang Max")
    images = put(source, "z", PatientID="P1", SeriesDescription="CT Stein Axel")
    images[0].PatientName = "Stein^Axel"
    write(images, source / "z" / "1")
    deidentify(source, out, "folder")
    assert {dcmread(path).SeriesDescription for path in out.rglob("*.dcm")} == {"CT"}
    assert {path.parent.name for path in out.rglob("*.dcm")} == {"00001-CT"}
