"""De-identification as a run: from a folder to a folder, in place, killed, repeated; who becomes whom; the books."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from pacsifier_ops.base import durable
from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import Cancelled, InputError, PatientsRefused, StorageError, TreeError, Unfit
from pacsifier_ops.base.files import fsync_files
from pacsifier_ops.cli import anonymize
from pacsifier_ops.deid import outcome, policy, steps
from pacsifier_ops.deid.books import BOOKS, DeidAccount
from pacsifier_ops.deid.inplace import put_apart
from pacsifier_ops.deid.run import DeidRequest, Settled, Store, series_of
from pacsifier_ops.dicom.scan import scan
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.pseudonyms import local
from pacsifier_ops.pseudonyms.linkage import Linkage, Person
from pacsifier_ops.pseudonyms.secret import Secret, project_folder, project_secret
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.progress import progress_of
from pacsifier_ops.state import tree
from pacsifier_ops.state.facts import forget_facts
from pacsifier_ops.state.leases import LeaseBusy, shared
from pacsifier_ops.state.tree import CONVERTING, DEIDENTIFIED, Tree, marker_of, refuse_unfinished
from pacsifier_ops.upload import steps as upload_steps
from pacsifier_ops.upload.run import UploadRequest
from tests.support.airflow_home import KUNIGUNDE, ZEBEDAEUS
from tests.support.kills import WITH_WRITES, killed
from tests.support.tables import parquet_as_csv

NAMES = ("Wurzelbacher", "Kunigunde", "Schnürpel", "Zebedäus", "ZQX-71830-KW", "YVJ-55912-ZS", "QACC990171")


def series(patient: dict[str, Any], number: int = 1, date: str = "19931224", **rest: Any) -> list[Dataset]:
    values: dict[str, Any] = {"n_images": 2, "rows": 8, "columns": 8, "AccessionNumber": "QACC990171", **rest}
    return phantom_series(**{**patient, **values}, study_date=date, study_time="070809", series_number=number)


def put(folder: Path, images: list[Dataset]) -> list[Path]:
    """Write a series where an extraction would."""
    first = images[0]
    patient, study = f"sub-{str(first.PatientID).replace('-', '_')}", f"ses-{first.StudyDate}{first.StudyTime}"
    return write(images, folder / patient / study / f"{int(first.SeriesNumber):05d}-Phantom")


def fill(folder: Path) -> dict[str, Path]:
    """Two patients, three studies, and what an extraction leaves beside their images; files by SOP Instance UID."""
    files = [
        *put(folder, series(KUNIGUNDE)),
        *put(folder, series(KUNIGUNDE, 2)),
        *put(folder, series(KUNIGUNDE, date="19940102", modality="MR")),
        *put(folder, series(ZEBEDAEUS)),
    ]
    files[0].parent.with_suffix(".csv").write_text("PatientID,PatientName\nZQX-71830-KW,Wurzelbacher^Kunigunde\n")
    (folder / "logs").mkdir()
    (folder / "logs" / "pacsifier_log.csv").write_text("PatientID\nZQX-71830-KW\n")
    return {path.stem: path for path in files}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """To start others takes longer than the tests."""
    monkeypatch.setattr(anonymize, "_cores", lambda: 1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def request(source: Path, out: Path, **values: Any) -> DeidRequest:
    return DeidRequest(source, out, **{"profile": "default", "contact_sheets": False, **values})


def deidentify(source: Path, out: Path, **values: Any) -> tuple[Run, DeidAccount]:
    """A whole run; returns its accounts."""
    run = Run.fresh()
    for unit in steps.prepare(run, request(source, out, **values)):
        steps.convert(run, unit)
    return run, steps.report(run)


def command(*arguments: object) -> int:
    return anonymize.main([*map(str, arguments), "--no_contact_sheets"])


def images(folder: Path) -> dict[str, Dataset]:
    """The objects of a data set by the path of their files."""
    return {path.relative_to(folder).as_posix(): dcmread(path) for path in sorted(folder.rglob("*.dcm"))}


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder, without the tree's own."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in paths
        if path.relative_to(folder).parts[0] != ".pacsifier"
    }


def without_traces(folder: Path) -> None:
    """Nothing below a folder, names included, tells who it is."""
    for path in folder.rglob("*"):
        told = str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b"")
        for name in NAMES:
            assert not any(name.encode(code, "ignore") in told for code in ("utf-8", "latin-1")), path


def linkage(project: str = "default") -> dict[str, Any]:
    """What was written of who became whom, by file."""
    (folder,) = (project_folder(project) / "data_sets").iterdir()
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder, *folder.iterdir()))
    mapper = json.loads((folder / "mapper.json").read_text())
    tables = {path.name: list(csv.reader(path.read_text().splitlines()[1:])) for path in folder.glob("*.csv")}
    return {"mapper.json": mapper, **{name: dict(rows) for name, rows in tables.items()}}


def test_a_folder_becomes_another_one(source: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = fill(source)
    before = content(source)
    assert command("-d", source, "-o", out, "--profile", "default", "--delete_identifiable") == 0
    assert content(source) == before
    without_traces(out)
    secret, told = project_secret(), linkage()
    people = {key: local.pseudonym(secret, key) for key in (KUNIGUNDE["patient_id"], ZEBEDAEUS["patient_id"])}
    assert told["mapper.json"] == {new: old for old, new in people.items()}
    assert told["date_offsets.csv"] == {new: str(local.shift(secret, old)) for old, new in people.items()}
    results = images(out)
    assert {told["uid_map.csv"][str(image.SOPInstanceUID)] for image in results.values()} == files.keys()
    for path, image in results.items():
        old = dcmread(files[told["uid_map.csv"][str(image.SOPInstanceUID)]])
        assert path.startswith(f"sub-{people[old.PatientID]}/ses-{image.StudyDate}{image.StudyTime}/0000")
        assert Path(path).stem == image.SOPInstanceUID == image.file_meta.MediaStorageSOPInstanceUID
        assert image.PatientID == people[old.PatientID] and image.StudyDate != old.StudyDate
        assert image.PixelData == old.PixelData
    assert len({Path(path).parent for path in results}) == 4
    assert marker_of(out)["state"] == DEIDENTIFIED
    said = capsys.readouterr()
    assert "complete: 2 patients, 4 series; of 8 objects 8 de-identified" in said.out and not said.err
    assert "passed over: 2 file(s), not DICOM" in said.out


def test_manifest_and_report_account_for_every_object(source: Path, out: Path) -> None:
    fill(source)
    screen: dict[str, Any] = {"secondary_capture": True, "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}
    put(source, series(ZEBEDAEUS, 7, **screen))
    cut = put(source, series(ZEBEDAEUS, 3))[0]
    cut.write_bytes(cut.read_bytes()[:-10])
    put(source, series({**ZEBEDAEUS, "patient_id": ""}, 4))
    run, account = deidentify(source, out, delete_identifiable=True, contact_sheets=True)
    assert progress_of(run).images.items() >= {"de-identified": 9, "excluded": 2, "in quarantine": 1}.items()
    totals = {"deidentified": 9, "excluded": 2, "quarantined": 3, "missing": 0, "objects": 14}
    assert account.verdict == COMPLETE and account.totals().items() >= totals.items()
    with (out / "manifest.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert parquet_as_csv(out / "manifest.csv") == lines
    assert {line["SOPInstanceUID"] for line in lines} - {""} == {str(i.SOPInstanceUID) for i in images(out).values()}
    assert {line["Profile"] for line in lines} == {account.digest} and len(lines) == 14
    assert all(line["Rules"] if line["Outcome"] == "de-identified" else line["Reason"] for line in lines)
    assert len(run.part("manifest").read_text().splitlines()) == 14
    without_traces(out)
    page = run.report.read_text(encoding="utf-8")
    assert "Complete" in page and cut.name in page and "E.1-1" in page and "it has no PatientID" in page
    assert 'href="contact-sheets-1.html#series-1"' in page
    sheets = (run.folder / "contact-sheets-1.html").read_text(encoding="utf-8")
    assert sheets.count("data:image/png") == 5 and 'id="series-1"' in sheets
    (sheet,) = outcome.sheets(run)
    shown = sorted(map(int, re.findall(r'id="series-(\d+)"', sheets)))
    assert (sheet.first, sheet.last, sheet.page) == (shown[0], shown[-1], "contact-sheets-1.html")
    assert json.loads((run.folder / "summary.json").read_text())["totals"] == account.totals()


@pytest.mark.parametrize("shared", [False, True])
def test_the_command_loads_nothing_that_decodes_pixels_and_no_numpy(shared: bool, source: Path, out: Path) -> None:
    put(source / "one", series(KUNIGUNDE))
    if shared:
        put(source / "more", series(KUNIGUNDE, 2, n_images=steps.PART + 1))
    command = [sys.executable, "-X", "importtime", "-m", "pacsifier_ops.cli.anonymize", "-d", source, "-o", out]
    done = subprocess.run([*map(str, command), "--profile", "default"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    packages = {name.partition(".")[0] for name in loaded if "." in name}  # an import that failed has no modules below
    assert {"pydicom", "pyarrow"} <= packages
    assert not packages & {"numpy", "PIL", "gdcm", "requests", "pandas"}


def test_again_does_nothing_and_what_is_new_or_gone_is_done(source: Path, out: Path) -> None:
    files = fill(source)
    deidentify(source, out)
    before = content(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.dcm")}
    _, account = deidentify(source, out)
    assert account.verdict == COMPLETE and content(out) == before
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*.dcm")}

    gone = min(times)
    gone.unlink()
    changed = next(iter(files.values()))
    image = dcmread(changed)
    image.InstanceNumber = 77
    image.save_as(changed)
    put(source, series(ZEBEDAEUS, 2))
    _, account = deidentify(source, out)
    assert account.verdict == COMPLETE and account.totals()["deidentified"] == 10
    assert gone.exists() and sum(image.InstanceNumber == 77 for image in images(out).values()) == 1
    assert before.keys() < content(out).keys()


def test_books_are_written_again_only_where_they_would_differ(source: Path, out: Path) -> None:
    fill(source)
    deidentify(source, out)
    books = [*(out / name for name in BOOKS), *(project_folder("default") / "data_sets").rglob("*.*")]
    assert {path.suffix for path in books} == {".csv", ".parquet", ".json"}

    def written_again() -> set[str]:
        before = {path: path.stat().st_ino if path.exists() else 0 for path in books}
        run, account = deidentify(source, out)
        assert (
            account.verdict == COMPLETE
            and len(run.part("manifest").read_text().splitlines()) == account.totals()["objects"]
        )
        return {path.name for path in books if path.stat().st_ino != before[path]}

    names = {path.name for path in books}
    contents = {path: path.read_bytes() for path in books}
    assert written_again() == set()
    # One that was changed or lost is mended, with all others.
    for spoil in (lambda: books[0].write_bytes(contents[books[0]][:-1]), books[-1].unlink, lambda: forget_facts(out)):
        spoil()
        assert (written_again(), written_again()) == (names, set())
        assert {path: path.read_bytes() for path in books} == contents
    put(source, series(ZEBEDAEUS, 2))
    assert (written_again(), written_again()) == (names, set())
    assert contents[books[0]] != books[0].read_bytes()


def test_the_result_of_what_is_somebody_elses_by_now_is_taken_back(source: Path, out: Path) -> None:
    first, second = put(source, series(KUNIGUNDE))
    deidentify(source, out)
    uids = linkage()["uid_map.csv"]
    moved = dcmread(first)
    moved.PatientID, moved.PatientName = ZEBEDAEUS["patient_id"], ZEBEDAEUS["patient_name"]
    moved.save_as(first)
    account = deidentify(source, out)[1]
    assert (account.verdict, account.totals()["deidentified"], account.totals()["quarantined"]) == (COMPLETE, 2, 0)
    secret = project_secret()
    found = {str(i.SOPInstanceUID): str(i.PatientID) for i in images(out).values()}
    assert len(images(out)) == 2 and found == {
        secret.uid(first.stem): local.pseudonym(secret, ZEBEDAEUS["patient_id"]),
        secret.uid(second.stem): local.pseudonym(secret, KUNIGUNDE["patient_id"]),
    }
    assert {*uids.items()} <= {*linkage()["uid_map.csv"].items()}  # what was replaced once is never forgotten
    other = dcmread(second)
    other.PatientComments = "another content"
    other.save_as(second.with_name("copy.dcm"))
    account = deidentify(source, out)[1]
    assert (account.totals()["deidentified"], account.totals()["quarantined"]) == (1, 2)
    assert len((out / "manifest.csv").read_text().splitlines()) == 1 + 3
    assert [str(i.SOPInstanceUID) for i in images(out).values()] == [secret.uid(first.stem)]


def test_what_came_from_another_folder_is_not_taken_back(source: Path, out: Path, tmp_path: Path) -> None:
    files = put(source, series(KUNIGUNDE))
    deidentify(source, out)
    batch = tmp_path / "batch"
    put(batch, series(ZEBEDAEUS))
    broken = batch / files[0].relative_to(source)
    broken.parent.mkdir(parents=True)
    broken.write_bytes(files[0].read_bytes()[:300])
    totals = deidentify(batch, out)[1].totals()
    assert (totals["deidentified"], totals["quarantined"], len(images(out))) == (4, 1, 4)


def test_any_worker_in_any_order_gives_the_same(
    source: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(source, series(KUNIGUNDE, n_images=5))
    put(source, series(ZEBEDAEUS))
    deidentify(source, out)
    monkeypatch.setattr(steps, "PART", 2)  # large series are shared out
    run = Run.fresh()
    units = steps.prepare(run, request(source, tmp_path / "other", contact_sheets=True))
    assert len(units) == 4
    with steps.Converting(run) as one, steps.Converting(run) as two:
        for worker, unit in zip(
            (one, two, one, two, one), (units[3], units[1], units[0], units[2], units[1]), strict=True
        ):
            worker.unit(unit)
    account = steps.report(run)
    assert account.verdict == COMPLETE and [s.deidentified for s in account.series] in ([5, 2], [2, 5])
    assert (run.folder / "contact-sheets-1.html").read_text().count("data:image/png") == 2
    assert content(tmp_path / "other").keys() == content(out).keys()
    assert {path: data for path, data in content(out).items() if path not in BOOKS}.items() <= content(
        tmp_path / "other"
    ).items()


@pytest.mark.slow
def test_several_processes_give_the_same(
    source: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(source)
    assert command("-d", source, "-o", out) == 0
    monkeypatch.setattr(anonymize, "_cores", lambda: 2)
    assert command("-d", source, "-o", tmp_path / "other") == 0
    assert content(tmp_path / "other") == content(out) and len(images(out)) == 8


# Who becomes whom


@pytest.mark.parametrize("cores", [1, 2])
def test_the_command_takes_the_secret_that_is_kept_elsewhere(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, cores: int
) -> None:
    fill(source)
    monkeypatch.setenv("PACSIFIER_PROJECT_SECRET", "ab" * 32)
    monkeypatch.setattr(anonymize, "_cores", lambda: cores)
    assert command("-d", source, "-o", out) == 0
    kept = Secret(b"\xab" * 32)
    assert set(linkage()["mapper.json"]) == {local.pseudonym(kept, p["patient_id"]) for p in (KUNIGUNDE, ZEBEDAEUS)}
    assert not (project_folder("default") / "secret").exists()


@pytest.mark.parametrize("profile", ["basic+uids", "pacsifier+uids"])
def test_uids_stay_where_somebody_wants_them(source: Path, out: Path, profile: str) -> None:
    (path,) = put(source, series(KUNIGUNDE, n_images=1))
    _, account = deidentify(source, out, profile=profile)
    assert account.totals()["deidentified"] == 1
    (made,) = out.rglob("*.dcm")
    assert dcmread(made).SOPInstanceUID == dcmread(path).SOPInstanceUID


def test_every_source_is_heard(source: Path, out: Path, tmp_path: Path) -> None:
    others = [{"patient_id": f"HJK-{n}", "patient_name": f"Other^{n}"} for n in range(3)]
    for patient in (KUNIGUNDE, ZEBEDAEUS, *others):
        put(source, series(patient))
    (source / "sub-ZQX_71830_KW" / "new_id.txt").write_text("FROM-FOLDER\n")
    new_ids, day_shift = tmp_path / "new_ids.json", tmp_path / "day_shift.json"
    new_ids.write_text(json.dumps({"sub-YVJ_55912_ZS": "FROM-FILE", "HJK-0": "BARE", "ZQX-71830-KW": "FROM-FOLDER"}))
    day_shift.write_text(json.dumps({"sub-YVJ-55912-ZS": "-3", "HJK-1": 5, "HJK-7": 6}))
    Linkage("study").add({"HJK-2": Person("FROM-LINKAGE", 9), "HJK-1": Person("TWO", 5)})
    _, account = deidentify(source, out, new_ids=str(new_ids), day_shift=str(day_shift), project="study")
    assert account.verdict == COMPLETE
    assert account.sources == {"new_ids": 2, "the linkage": 2, "new_id.txt": 1}
    assert account.strangers == {"day_shift": 1}
    assert account.dates == "moved by the days of each patient"
    told = linkage("study")
    assert told["mapper.json"] == {
        **{"FROM-FOLDER": "ZQX-71830-KW", "FROM-FILE": "YVJ-55912-ZS", "BARE": "HJK-0"},
        **{"TWO": "HJK-1", "FROM-LINKAGE": "HJK-2"},
    }
    assert told["date_offsets.csv"].items() >= {"FROM-FILE": "-3", "TWO": "5", "FROM-LINKAGE": "9"}.items()
    moved = {path.split("/")[0]: image.StudyDate for path, image in images(out).items()}
    assert moved["sub-FROM-FILE"] == "19931221" and moved["sub-FROM-LINKAGE"] == "19940102"
    # All of them are linked from now on, whatever sources a later run has.
    assert Linkage("study").people().of("YVJ-55912-ZS") == Person("FROM-FILE", -3)


@pytest.mark.parametrize(
    ("new_ids", "day_shift", "folder", "reason"),
    [
        ({"YVJ-55912-ZS": "ONE"}, {}, "TWO", "new_id.txt and new_ids give different pseudonyms"),
        ({"HJK-2": "ANOTHER"}, {}, "", "new_ids and the linkage give different pseudonyms"),
        ({}, {"HJK-2": 1}, "", "day_shift and the linkage give different day shifts"),
        ({"YVJ-55912-ZS": "ONE", "HJK-2": "LINKED", "sub-YVJ-55912-ZS": "TWO"}, {}, "", "under two keys"),
        ({"YVJ-55912-ZS": "linked"}, {}, "", "several patients one pseudonym"),
        ({"YVJ-55912-ZS": "HJK-2"}, {}, "", "it would hide nobody"),
        ({"YVJ-55912-ZS": "S_yvj55912zs.1"}, {}, "", "holds the patient's name.*it would hide nobody: patient 2"),
        ({"YVJ-55912-ZS": "STUDY-19481107"}, {}, "", "holds the patient's name"),
        ({"YVJ-55912-ZS": "a/b"}, {}, "", "entry 1: not fit to name a patient"),
        ({}, {}, "a\\b", "new_id.txt in folder 1 of those that have one: not fit"),
        ({}, {"YVJ-55912-ZS": 0, "HJK-2": 0}, "", "give different day shifts"),
    ],
)
def test_sources_that_disagree_end_the_run_before_anything_is_touched(
    source: Path, out: Path, tmp_path: Path, new_ids: Any, day_shift: Any, folder: str, reason: str
) -> None:
    put(source, series(ZEBEDAEUS))
    put(source, series({"patient_id": "HJK-2", "patient_name": "Other^2"}))
    if folder:
        (source / "sub-YVJ_55912_ZS" / "new_id.txt").write_text(folder)
    Linkage("default").add({"HJK-2": Person("LINKED", 9)})
    files = {"new_ids": tmp_path / "n.json", "day_shift": tmp_path / "d.json"}
    files["new_ids"].write_text(json.dumps(new_ids))
    files["day_shift"].write_text(json.dumps(day_shift))
    before = content(source)
    with pytest.raises(InputError, match=reason) as error:
        deidentify(source, out, **{name: str(path) for name, path in files.items()})
    assert not any(word in str(error.value) for word in ("YVJ", "HJK", "ONE", "TWO", "LINKED", "ANOTHER"))
    assert not out.exists() and content(source) == before


def test_one_patient_id_of_two_issuers_is_two_patients(source: Path, out: Path) -> None:
    put(source, series(ZEBEDAEUS, 1))
    put(source, series(ZEBEDAEUS, 2, IssuerOfPatientID="HOSPITAL A"))
    _, account = deidentify(source, out)  # where none is named, it may be any
    assert account.totals()["patients"] == 1
    put(source, series(ZEBEDAEUS, 3, IssuerOfPatientID="HOSPITAL B"))
    with pytest.raises(PatientsRefused, match=r"two IssuerOfPatientIDs.*patient 1$"):
        deidentify(source, out)


def test_who_it_is_is_what_the_object_says_not_its_folder(source: Path, out: Path) -> None:
    put(source, series(KUNIGUNDE))
    (stray,) = write(series(ZEBEDAEUS, n_images=1), source / "sub-ZQX_71830_KW" / "ses-1" / "00001-x")
    (source / "sub-ZQX_71830_KW" / "new_id.txt").write_text("FIRST-ONE")
    deidentify(source, out)
    found = {str(image.PatientID): path for path, image in images(out).items()}
    other = local.pseudonym(project_secret(), ZEBEDAEUS["patient_id"])
    assert found.keys() == {"FIRST-ONE", other} and found[other].startswith(f"sub-{other}/")
    stray.rename(source / "stray.dcm")
    (source / "sub-ZQX_71830_KW").rename(source / "somewhere")
    (source / "stray.dcm").rename(source / "somewhere" / "stray.dcm")
    with pytest.raises(InputError, match=r"folder 1 .* several patients"):
        deidentify(source, out)


def test_dates_that_would_stay_as_they_are_are_no_moved_dates(source: Path, out: Path) -> None:
    put(source, series(ZEBEDAEUS))
    Linkage("default").add({"YVJ-55912-ZS": Person("P1", 0)})
    with pytest.raises(InputError, match="day shift of every patient is 0"):
        deidentify(source, out)
    assert deidentify(source, out, profile="basic")[1].verdict == COMPLETE


def test_what_is_refused_does_not_get_into_the_linkage(source: Path, out: Path, tmp_path: Path) -> None:
    put(source, series(KUNIGUNDE))
    days = tmp_path / "days.json"
    days.write_text('{"ZQX-71830-KW": 0}')
    with pytest.raises(InputError, match="day shift of every patient is 0"):
        deidentify(source, out, day_shift=str(days))
    days.write_text('{"ZQX-71830-KW": 7}')
    assert deidentify(source, out, day_shift=str(days))[1].verdict == COMPLETE
    assert {i.StudyDate for i in images(out).values()} == {"19931231"}


def test_who_a_patient_became_in_a_folder_holds_there(source: Path, out: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.json"
    ids.write_text('{"ZQX-71830-KW": "P1"}')
    put(source, series(KUNIGUNDE))
    deidentify(source, out, new_ids=str(ids))
    for path in project_folder("default").glob("*.json"):
        path.unlink()
    shutil.rmtree(source)
    put(source, series(ZEBEDAEUS))
    ids.write_text('{"YVJ-55912-ZS": "P1"}')
    with pytest.raises(PatientsRefused, match="several patients one pseudonym: patient 1"):
        deidentify(source, out, new_ids=str(ids))
    put(source, series(KUNIGUNDE, 2))
    assert deidentify(source, out)[1].sources == {"out_folder": 1, "the project's secret": 1}
    assert {str(i.PatientID) for path, i in images(out).items() if path.startswith("sub-P1/")} == {"P1"}
    assert linkage()["mapper.json"]["P1"] == "ZQX-71830-KW" and len(linkage()["mapper.json"]) == 2


# What is kept, and names


def test_folders_keep_names_that_are_no_text(source: Path, out: Path) -> None:
    (path, *_) = put(source, series(KUNIGUNDE))
    os.rename(path.parents[2], os.fsencode(source) + b"/sub-M\xfcller")
    assert deidentify(source, out, keep_patient_dir_names=True)[1].verdict == COMPLETE
    assert {path.split("/")[0] for path in images(out)} == {"sub-M\ufffdller"}


def test_names_follow_what_becomes_of_dates_and_descriptions(source: Path, out: Path, tmp_path: Path) -> None:
    fill(source)
    deidentify(source, out, profile="basic")
    patient = f"sub-{local.pseudonym(project_secret(), KUNIGUNDE['patient_id'])}"
    sessions = {path.split("/")[1]: image.Modality for path, image in images(out).items() if path.startswith(patient)}
    assert sessions == {"ses-01": "CT", "ses-02": "MR"}  # in order of their dates
    deidentify(source, tmp_path / "kept", profile="basic", keep_patient_dir_names=True)
    assert {path.split("/")[0] for path in images(tmp_path / "kept")} == {"sub-ZQX_71830_KW", "sub-YVJ_55912_ZS"}
    deidentify(source, tmp_path / "third", profile="pacsifier")
    assert {path.split("/")[1] for path in images(tmp_path / "third")} == {"ses-19931224070809", "ses-19940102070809"}


def test_flags_only_ever_remove_more(source: Path, out: Path) -> None:
    from pacsifier_ops.deid.rules import ProfileOption

    asked = request(source, out, profile="pacsifier")
    kept = policy.Policy.of(asked).rules.options
    assert {ProfileOption.FULL_DATES, ProfileOption.SAFE_PRIVATE} <= kept
    assert policy.Policy.of(replace(asked, remove_private_tags=True)).rules.options == kept - {
        ProfileOption.SAFE_PRIVATE
    }
    moved = policy.Policy.of(replace(asked, fuzz_acq_dates=True)).rules.options
    assert moved == kept - {ProfileOption.FULL_DATES} | {ProfileOption.MODIFIED_DATES}
    basic = replace(asked, profile="basic", remove_private_tags=True, fuzz_acq_dates=True)
    assert policy.Policy.of(basic).rules.options == frozenset()


def test_the_command_of_pacsifier_tells_no_machine_unless_asked_to(source: Path, out: Path, tmp_path: Path) -> None:
    texts = {
        keyword: f"Bern {number:02}"
        for number, keyword in enumerate(
            "StationName DeviceSerialNumber ScheduledStudyLocation PerformedStationName TreatmentMachineName GantryID "  # noqa: SIM905
            "PlateID CassetteID DetectorID ScheduledProcedureStepLocation".split()
        )
    }
    udi = Dataset()
    udi.UniqueDeviceIdentifier = texts["UniqueDeviceIdentifier"] = "(01)00884838054455"
    machine: dict[str, Any] = {"DeviceUID": "1.2.3.4.5", "UDISequence": [udi], **texts}
    del machine["UniqueDeviceIdentifier"]
    put(source, series(KUNIGUNDE, **machine))
    put(source, series(ZEBEDAEUS, **machine))
    assert command("-d", source, "-o", out) == 0
    assert command("-d", source, "-o", tmp_path / "kept", "--profile", "pacsifier+device") == 0
    for raw in content(out).values():
        assert not any(text.encode() in raw for text in (*texts.values(), "1.2.3.4.5"))
    kept = list(images(tmp_path / "kept").values())
    assert all(image.DeviceSerialNumber == "Bern 01" and image.DeviceUID == "1.2.3.4.5" for image in kept)
    assert len({image.StationName for image in kept}) == 1 and "Bern" not in kept[0].StationName
    assert all("ScheduledProcedureStepLocation" not in image for image in kept)


# States of a tree


def test_a_folder_is_replaced_in_place(source: Path, tmp_path: Path) -> None:
    Tree.open(source)
    fill(source)
    screen: dict[str, Any] = {"secondary_capture": True, "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}
    shown = put(source, series(ZEBEDAEUS, 7, n_images=1, **screen))[0]
    cut = put(source, series(ZEBEDAEUS, 3, n_images=1))[0]
    cut.write_bytes(cut.read_bytes()[:-10])
    before = content(source)
    shutil.copytree(source, tmp_path / "copy", ignore=shutil.ignore_patterns(".pacsifier"))
    assert command("-d", source, "-o", source, "-i", "--profile", "default") == 0
    without_traces(source)
    assert marker_of(source)["state"] == DEIDENTIFIED and len(images(source)) == 8
    assert {path.name for path in source.iterdir() if not path.name.startswith("sub-P")} == {
        ".pacsifier",
        *BOOKS,
    }
    (apart,) = (project_folder("default") / "apart").iterdir()
    left = {path.relative_to(apart).as_posix(): path.read_bytes() for path in apart.rglob("*") if path.is_file()}
    assert all(path.stat().st_mode & 0o077 == 0 for path in apart.rglob("*"))
    names = {
        f"excluded/{shown.relative_to(source)}",
        f"quarantined/{cut.relative_to(source)}",
        "left/logs/pacsifier_log.csv",
    }
    assert names < left.keys() and len(left) == 4
    assert all(before[name.split("/", 1)[1]] == data for name, data in left.items())
    for again in (Tree.open, lambda root: deidentify(root, root)):
        with pytest.raises(TreeError, match="de-identified"):
            again(source)
    # The same as into another folder.
    deidentify(tmp_path / "copy", tmp_path / "out", delete_identifiable=True)
    assert {path: data for path, data in content(source).items() if path.endswith(".dcm")} == {
        path: data for path, data in content(tmp_path / "out").items() if path.endswith(".dcm")
    }


@pytest.mark.slow
@pytest.mark.parametrize("in_place", [True, False])
def test_killed_anywhere_and_run_again_it_heals(tmp_path: Path, in_place: bool) -> None:
    fresh = tmp_path / "fresh"
    fill(fresh)
    screen: dict[str, Any] = {"secondary_capture": True, "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}
    put(fresh, series(ZEBEDAEUS, 7, n_images=1, **screen))
    deidentify(fresh, tmp_path / "wanted", delete_identifiable=True)
    wanted = content(tmp_path / "wanted")
    for after in range(3, 10_000, 41):
        source = tmp_path / f"{after}"
        shutil.copytree(fresh, source)
        target = source if in_place else tmp_path / f"{after}-out"
        ended = killed(partial(deidentify, source, target, delete_identifiable=True), after, WITH_WRITES)
        half = marker_of(target).get("state") == CONVERTING
        if half:
            with pytest.raises(TreeError, match="half de-identified"):
                hand_over(target)
        if ended and (half or not in_place or marker_of(target) == {}):
            _, account = deidentify(source, target, delete_identifiable=True)
            totals = account.totals()
            assert (account.verdict, totals["deidentified"], totals["excluded"]) == (COMPLETE, 8, 1), after
        assert marker_of(target)["state"] == DEIDENTIFIED
        assert content(target) == wanted
        without_traces(target)
        if not ended:
            break


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("broken", ["disk", "stop"])
def test_results_are_on_disk_before_their_outcomes_and_what_is_made_stays(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, broken: str, in_place: bool
) -> None:
    put(source, series(KUNIGUNDE, n_images=8))
    target = source if in_place else out
    flushed: list[int] = []

    def flush(paths: Iterable[Path]) -> None:
        files = [*paths]
        if broken == "disk" and flushed:
            raise OSError(5, "Input/output error")
        fsync_files(files)
        settled = run_store(target)
        assert len(settled) <= sum(flushed)
        flushed.append(len(files))

    asked = iter(range(100))
    run = Run.fresh()
    (unit,) = steps.prepare(run, request(source, target))
    with monkeypatch.context() as patched, pytest.raises(StorageError if broken == "disk" else Cancelled):
        patched.setattr(steps, "Durable", partial(durable.Durable, most=3))
        patched.setattr(durable, "fsync_files", flush)
        steps.convert(run, unit, cancelled=lambda: broken == "stop" and next(asked) >= 6)
    assert len(run_store(target)) == (3 if broken == "disk" else 6) == sum(flushed)
    _, account = deidentify(source, target)
    assert (account.verdict, account.totals()["deidentified"]) == (COMPLETE, 8)
    assert len([*target.rglob("*.dcm")]) == 8


def run_store(target: Path) -> dict[str, Settled]:
    """The outcomes in a folder that is converted."""
    found = Tree.existing(target)
    assert found
    store = Store(found, marker_of(target)["id"])
    return {uid: item for one in series_of(store) for uid, item in store.settled(one.key).items()}


def hand_over(folder: Path) -> None:
    node = PacsNode(name="pacs", host="127.0.0.1", port=9, called_aet="PACS", calling_aet="PACSIFIER")
    upload_steps.prepare(Run.fresh(), UploadRequest(folder, folder.parent / "log"), node)


def test_what_is_put_apart_replaces_nothing_that_lies_there(tmp_path: Path) -> None:
    for text in ("first", "second"):
        (tmp_path / "image.dcm").write_text(text)
        put_apart(tmp_path / "image.dcm", tmp_path / "apart" / "image.dcm")
    assert {path.read_text() for path in (tmp_path / "apart").iterdir()} == {"first", "second"}


def test_what_cannot_be_read_is_missing_and_the_folder_stays_half_done(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pacsifier_ops.deid import reading

    files = fill(source)
    bad, read = next(iter(files.values())), reading.read

    def failing(path: Path) -> Dataset:
        if path == bad:
            raise OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(reading, "read", failing)
    for target in (out, source):
        assert command("-d", source, "-o", target) == 3
        assert "1 missing: it cannot be read: Input/output error" in capsys.readouterr().err
        assert marker_of(target)["state"] == CONVERTING
        for folder in (target, target / ".pacsifier", next(target.glob("sub-*"))):
            with pytest.raises(TreeError, match="half de-identified"):
                hand_over(folder)
        with pytest.raises(TreeError, match="half de-identified"):
            refuse_unfinished(scan(target.parent).trees)
    assert bad.exists()


def test_what_is_unexpected_ends_in_quarantine(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pacsifier_ops.deid import verifier

    fill(source)
    found: Iterator[Any] = iter([["PatientName found in (0020,000D)"], RuntimeError("Wurzelbacher")])

    def search(path: Path, identifiers: Any, searched: Any) -> list[str]:
        result: Any = next(found, [])
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(verifier, "search", search)
    run, account = deidentify(source, out)
    assert account.totals()["quarantined"] == 2 and len(images(out)) == 6
    reasons = sorted(reason for _, _, reason in account.set_apart)
    assert reasons[0].startswith("the result still tells who it is: PatientName found in (0020,000D)")
    assert (
        reasons[1].startswith("unexpected RuntimeError") and "Wurzelbacher" in (run.folder / "problems.txt").read_text()
    )
    without_traces(out)
    assert not any((out / ".pacsifier").rglob("*.dcm"))


def test_nothing_but_quarantine_is_no_data_set(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pacsifier_ops.deid import reading

    fill(source)

    def unfit(path: Path) -> Dataset:
        raise Unfit("its encoding is damaged")

    monkeypatch.setattr(reading, "read", unfit)
    assert command("-d", source, "-o", source) == 3
    assert marker_of(source)["state"] == CONVERTING
    apart = project_folder("default") / "apart"
    assert len(list(apart.glob("*/quarantined/**/*.dcm"))) == 8 and not list(source.rglob("*.dcm"))


def test_what_does_not_go_together_is_refused(source: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no DICOM file"):
        deidentify(source, out)
    fill(source)
    with pytest.raises(InputError, match="one within the other"):
        deidentify(source, source / "out")
    with pytest.raises(InputError, match="is not a folder"):
        deidentify(tmp_path / "nowhere", out)
    out.mkdir()
    (out / "thesis.txt").touch()
    with pytest.raises(TreeError, match="holds something else"):
        deidentify(source, out)
    (out / "thesis.txt").unlink()
    deidentify(source, out)
    for other in ({"profile": "basic"}, {"project": "another"}, {"delete_identifiable": True}, {"identity": "folder"}):
        with pytest.raises(TreeError, match="begun with other settings"):
            deidentify(source, out, **other)
    with pytest.raises(TreeError, match="data that is de-identified already"):
        deidentify(out, tmp_path / "twice")
    with pytest.raises(TreeError, match="data that is de-identified already"):
        deidentify(tmp_path, tmp_path.parent / "above")
    tree = Tree.open(source)
    with tree.workplace(shared()), pytest.raises(TreeError, match="somebody is at work"):
        deidentify(source, source)


def test_a_folder_that_holds_the_state_root_is_not_replaced_in_place(tmp_path: Path, state_root: Path) -> None:
    fill(state_root.parent)
    key = project_secret().fingerprint
    with pytest.raises(InputError, match="holds the state root"):
        deidentify(tmp_path, tmp_path)
    assert project_secret().fingerprint == key and marker_of(tmp_path) == {}


def test_a_folder_is_done_when_the_last_run_into_it_is(source: Path, out: Path) -> None:
    put(source, series(KUNIGUNDE))
    first, last = Run.fresh(), Run.fresh()
    for unit in steps.prepare(first, request(source, out)):
        steps.convert(first, unit)
    put(source, series(ZEBEDAEUS))
    units = steps.prepare(last, request(source, out))
    assert steps.report(first).verdict == COMPLETE
    assert marker_of(out)["state"] == CONVERTING
    with steps.Converting(last) as converting:
        for unit in units:
            converting.unit(unit)
        with pytest.raises(LeaseBusy, match="others still convert"):
            steps.report(last)
        assert marker_of(out)["state"] == CONVERTING
    assert steps.report(last).verdict == COMPLETE
    assert marker_of(out)["state"] == DEIDENTIFIED


def test_two_runs_that_begin_a_folder_at_once_share_its_books(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(root: Path) -> dict[str, Any]:
        found = marker_of(root)
        time.sleep(0.2)
        return found

    sources = [tmp_path / "one", tmp_path / "two"]
    for folder, patient in zip(sources, (KUNIGUNDE, ZEBEDAEUS), strict=True):
        put(folder, series(patient))
    project_secret()
    monkeypatch.setattr(tree, "marker_of", slowly)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda folder: steps.prepare(Run.fresh(), request(folder, out)), sources))
    opened = Tree.existing(out)
    assert opened is not None
    assert {s.patient_id for s in series_of(Store(opened, marker_of(out)["id"]))} == {"ZQX-71830-KW", "YVJ-55912-ZS"}


def test_a_record_that_finds_no_room_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(Tree(tmp_path, tmp_path / "state"), "id")
    store.settle("key", Settled("1.2", "x" * 2000, 1, 1, "excluded"), durable=False)
    room = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2200, room[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            store.settle("key", Settled("1.3", "y", 1, 1, "excluded"), durable=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
    store.settle("key", Settled("1.3", "z", 1, 1, "excluded"), durable=True)
    assert {uid: item.source[0] for uid, item in store.settled("key").items()} == {"1.2": "x", "1.3": "z"}


def test_stopped_it_says_what_is_left(source: Path, out: Path) -> None:
    fill(source)
    run = Run.fresh()
    units = steps.prepare(run, request(source, out))
    steps.convert(run, units[0])
    account = steps.report(run)
    assert (account.verdict, account.totals()["missing"]) == (INCOMPLETE, 6)
    assert {s.reason for s in account.series} == {"", "not attempted: the run ended before"}
    assert marker_of(out)["state"] == CONVERTING
    assert deidentify(source, out)[1].verdict == COMPLETE


@pytest.mark.parametrize(
    ("name", "pseudonym", "tells"),
    [
        ("Wurzelbacher^Kunigunde", "kunigunde-wurzelbacher", True),
        ("Wurzelbacher^Kunigunde", "WURZELBACHER K", False),
        ("Li^A", "LIA-1", False),
        ("", "P-1", False),
    ],
)
def test_a_pseudonym_is_no_other_way_to_write_the_name(
    source: Path, out: Path, tmp_path: Path, name: str, pseudonym: str, tells: bool
) -> None:
    put(source, series({"patient_id": "HJK-2", "patient_name": name}))
    (tmp_path / "n.json").write_text(json.dumps({"HJK-2": pseudonym}))
    if not tells:
        deidentify(source, out, new_ids=str(tmp_path / "n.json"))
        return
    with pytest.raises(PatientsRefused, match=r"it would hide nobody: patient 1$"):
        deidentify(source, out, new_ids=str(tmp_path / "n.json"))
