"""Info dumps move out of the images: whole, never over another file; killed, and against PACSIFIER."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import InputError, PacsifierError, StorageError, TreeError
from pacsifier_ops.cli.anonymize import main as anonymize
from pacsifier_ops.cli.move_dumps import main
from pacsifier_ops.deid.books import BOOKS
from pacsifier_ops.handover import dumps
from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state import facts
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import CONTROL, CONVERTING, DEIDENTIFIED, Tree, write_marker
from tests.support import old_pacsifier
from tests.support.disks import disk, unmount
from tests.support.embedded import extract, node_of, series, serving
from tests.support.kills import killed

ROWS = [{"PatientID": "A-1", "new_ids": "P1"}, {"PatientID": "B2", "new_ids": ""}, {"PatientID": "C", "new_ids": ""}]
DATED, UNDATED = "sub-A_1/ses-20180102081500/00001-Phantom_CT.csv", "sub-C/00001-Phantom_CT.csv"


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tree of an extraction: three patients, a study without a date, a pseudonym."""
    folder = tmp_path_factory.mktemp("extracted")
    when = {"study_date": "20180102", "study_time": "081500"}
    images = [
        *series("A-1", **when),
        *series("A-1", series_number=2, **when),
        *series("B2", n_images=3, **when),
        *series("C", study_date="", study_time=""),
    ]
    with pytest.MonkeyPatch.context() as patch, serving(images, folder / "pacs") as pacs:
        patch.setenv("PACSIFIER_STATE_ROOT", str(folder / "state"))
        extract(node_of(pacs), ROWS, folder / "tree", info=True)
    return folder / "tree"


@pytest.fixture
def tree(extracted: Path, tmp_path: Path) -> Path:
    """Return a copy of it, with the files that PACSIFIER's anonymization writes."""
    folder = tmp_path / "tree"
    shutil.copytree(extracted, folder)
    (folder / "mapper.json").write_text('{"P1": "A-1"}')
    (folder / "date_offsets.csv").write_text("P1,-3\n")
    return folder


@pytest.fixture(params=["same file system", "another file system"])
def info(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder that is not there yet."""
    if request.param == "same file system":
        yield tmp_path / "new" / "info"
        return
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to be written to")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder) / "new" / "info"


def moving(data: Path, info: Path, most: int = 2) -> ToolAccount:
    """A whole run; returns its account."""
    run = Run.fresh()
    for unit in dumps.prepare(run, dumps.DumpsRequest(data, info), most):
        dumps.move(run, unit)
    return dumps.report(run)


def contents(folder: Path) -> dict[str, bytes]:
    """All files, but the tree's own and the listing."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and CONTROL not in path.parts and path.name != dumps.LISTING
    }


def identifying(folder: Path) -> dict[str, bytes]:
    """Return the files to be moved."""
    every, names = contents(folder), ("mapper.json", "date_offsets.csv")
    return {name: data for name, data in every.items() if name in names or ("sub-" in name and name.endswith(".csv"))}


def listed(info: Path) -> list[dict[str, str]]:
    with (info / dumps.LISTING).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def left_of(account: ToolAccount) -> dict[str, str]:
    return {path: remark for path, remark in account.done if remark.startswith(dumps.LEFT)}


# What is moved, and what is left


def test_dumps_of_all_levels_move_and_files_that_stay_are_reported(tree: Path, info: Path) -> None:
    wanted, before = identifying(tree), contents(tree)
    assert len(wanted) == 6 and {DATED, UNDATED} < wanted.keys()
    times = {name: (tree / name).stat().st_mtime_ns for name in wanted}
    account = moving(tree, info)
    assert contents(info) == wanted and contents(tree) == {k: v for k, v in before.items() if k not in wanted}
    assert times == {name: (info / name).stat().st_mtime_ns for name in wanted}
    assert {path.stat().st_mode & 0o077 for path in (info, *info.rglob("*")) if path.is_dir()} == {0}
    assert not (info / CONTROL).exists()
    assert account.verdict == COMPLETE
    assert account.counts == {"patients": 3, "moved": 6, "already there": 0, "left": 5, "DICOM files": 6}
    assert left_of(account)["sub-A_1/new_id.txt"] == "left: a de-identification reads it"
    assert left_of(account).keys() == {name for name in contents(tree) if not name.endswith(".dcm")}
    lines = listed(info)
    assert {line["File"]: (int(line["Bytes"]), line["DataFolder"]) for line in lines} == {
        name: (len(content), str(tree)) for name, content in wanted.items()
    }

    for name in left_of(account):
        (tree / name).unlink()
    run = Run.fresh()
    for unit in dumps.prepare(run, dumps.DumpsRequest(tree, info)):
        dumps.move(run, unit)
    again = dumps.report(run)
    assert (again.counts["moved"], again.counts["left"], again.done) == (0, 0, [])
    assert "Nothing but DICOM is left" in run.report.read_text() and listed(info) == lines
    assert contents(info) == wanted


def test_every_file_that_stays_is_inspected(tree: Path, tmp_path: Path) -> None:
    here = tree / "sub-B2" / "ses-20180102081500"
    image = next(here.glob("*/*.dcm"))
    (here / "00001-Phantom_CT" / "bare").write_bytes(image.read_bytes()[132:])
    (here / "cut.dcm").write_bytes(image.read_bytes()[:200])
    (here / "empty.dcm").touch()
    (tree / "notes.csv").write_text("beside the folders of patients")
    (here / "00001-Phantom_CT" / "deep.CSV").write_text("in the folder of a series")
    (tree / "DICOMDIR").write_bytes(
        image.read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.1.3.10\0\0\0\0\0\0")
    )
    (tree / "other" / CONTROL).mkdir(parents=True)
    (tree / "other" / "text.txt").write_text("text")
    (tree / "manifest.csv").write_text("not ours: the tree is identified")
    (tree / "link.dcm").symlink_to(image)
    (tree / "outside").symlink_to(tmp_path)
    os.mkfifo(tree / "pipe")
    account = moving(tree, tmp_path / "info")
    new = left_of(account).keys() - {name for name in left_of(account) if "logs" in name or "new_id" in name}
    assert new == {
        *("sub-B2/ses-20180102081500/empty.dcm", "notes.csv", "other/text.txt"),
        *("manifest.csv", "outside", "pipe"),
    }
    assert account.passed_over == {"DICOMDIR": 1, "damaged DICOM": 1, "link to something in the folder": 1}
    assert (tmp_path / "info" / here.relative_to(tree) / "00001-Phantom_CT" / "deep.CSV").is_file()
    assert account.counts["DICOM files"] == 7 and account.verdict == COMPLETE


def test_a_patients_folder_that_is_as_it_was_is_not_looked_into(
    extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "_GRANULARITY", 0)
    data, looked = tmp_path / "tree", list[str]()
    Tree.open(data)
    shutil.copytree(extracted, data, dirs_exist_ok=True, ignore=shutil.ignore_patterns(CONTROL))
    kind = dumps._Moving._kind

    def heard(self: Any, path: Path, *more: Any) -> str:
        looked.append(path.relative_to(data).parts[0])
        return kind(self, path, *more)

    monkeypatch.setattr(dumps._Moving, "_kind", heard)
    stamp = dumps.stamps_of

    def stamped(root: Path, folder: str) -> dict[str, str]:
        assert (root / folder).name.startswith("sub-")  # once, and not as a part of the whole
        return stamp(root, folder)

    monkeypatch.setattr(dumps, "stamps_of", stamped)

    def again() -> tuple[ToolAccount, set[str]]:
        time.sleep(0.02)
        looked.clear()
        account = moving(data, tmp_path / "info")
        return account, {name for name in looked if name.startswith("sub-")}

    patients = {path.name for path in data.glob("sub-*")}
    assert again()[1] == patients
    assert again()[1] == set()  # nothing is there to be moved
    note = data / "sub-C" / "note.txt"
    note.write_text("somebody")
    account, seen = again()
    assert seen == {"sub-C"} and "sub-C/note.txt" in left_of(account)
    account, seen = again()
    assert seen == set() and "sub-C/note.txt" in left_of(account)
    (data / "sub-C" / "new.csv").write_text("a dump")
    account, seen = again()
    assert dict(account.done)["sub-C/new.csv"] == dumps.MOVED and not (data / "sub-C" / "new.csv").exists()


def test_a_de_identified_data_set_keeps_its_manifest_and_pseudonyms_are_found_later(tree: Path, tmp_path: Path) -> None:
    moving(tree, tmp_path / "info")
    out = tmp_path / "deid"
    assert anonymize(["-d", str(tree), "-o", str(out), "--no_contact_sheets"]) == 0
    assert (out / "sub-P1").is_dir()  # what new_id.txt says
    account = moving(out, tmp_path / "info2")
    assert left_of(account) == dict.fromkeys(BOOKS, "left: a table of the data set, or its card")
    assert account.counts["moved"] == 0
    with pytest.raises(TreeError, match="data that is de-identified"):
        moving(tree, out / "sub-P1")


def test_the_files_that_pacsifier_moves_are_the_same(tree: Path, tmp_path: Path) -> None:
    copy, theirs, ours = tmp_path / "copy", tmp_path / "theirs", tmp_path / "ours"
    shutil.copytree(tree, copy)
    theirs.mkdir()
    program = old_pacsifier.installed() / "pacsifier-move-csv"
    subprocess.run([program, "-d", copy, "-o", theirs], check=True, capture_output=True, timeout=120)
    assert main(["-d", str(tree), "-o", str(ours)]) == 0
    # PACSIFIER does not move dumps of studies without a date, and the file of date shifts.
    more = {UNDATED, "date_offsets.csv"}
    assert contents(theirs) == {name: data for name, data in contents(ours).items() if name not in more}
    assert contents(copy) == contents(tree) | {name: contents(ours)[name] for name in more}


# Again


def test_dumps_that_are_written_again_move_and_a_changed_one_is_reported(tmp_path: Path, info: Path) -> None:
    tree = tmp_path / "tree"
    when = {"study_date": "20180102", "study_time": "081500"}
    for name, changed in (("one", {}), ("two", {}), ("three", {"StudyDescription": "corrected"})):
        images = [*series("A-1", study_uid="2.25.1", series_uid="2.25.2", **when, **changed), *series("B2", **when)]
        with serving(images, tmp_path / name) as pacs:
            extract(node_of(pacs), [{"PatientID": "A-1"}], tree, info=True)
        written = (tree / DATED).read_bytes()
        account = moving(tree, info)
        if name == "one":
            first = written
            assert (account.counts["moved"], account.counts["already there"]) == (1, 0)
        elif name == "two":
            assert (account.counts["moved"], account.counts["already there"], account.problems) == (0, 1, [])
    assert account.verdict == INCOMPLETE and account.problems == [(DATED, dumps._OTHER_FILE)]
    assert first != written and ((info / DATED).read_bytes(), (tree / DATED).read_bytes()) == (first, written)
    (info / DATED).unlink()
    assert moving(tree, info).verdict == COMPLETE and (info / DATED).read_bytes() == written
    assert len(listed(info)) == 1


def test_an_existing_file_is_not_replaced_and_the_others_move(tree: Path, info: Path) -> None:
    wanted = identifying(tree)
    one, two, three, *rest = sorted(name for name in wanted if name.startswith("sub-"))
    (info / one).parent.mkdir(parents=True)
    (info / one).write_bytes(b"something else\n")
    (info / two).symlink_to("/nowhere")
    (info / three).mkdir(parents=True)
    account = moving(tree, info)
    assert sorted(account.problems) == [(name, dumps._OTHER_FILE) for name in (one, two, three)]
    assert contents(tree).items() >= {name: wanted[name] for name in (one, two, three)}.items()
    assert (info / one).read_bytes() == b"something else\n" and (info / two).is_symlink() and (info / three).is_dir()
    assert all((info / name).read_bytes() == wanted[name] for name in (*rest, "mapper.json"))


# Links, mounts, unfit folders


def test_links_are_not_followed(tree: Path, tmp_path: Path) -> None:
    outside, info = tmp_path / "outside", tmp_path / "info"
    shutil.copytree(tree / "sub-B2", outside / "ses-1")
    before = contents(outside)
    (tree / "sub-linked").symlink_to(outside)
    (tree / "sub-C" / "ses-linked").symlink_to(outside)
    (tree / "sub-C" / "link.csv").symlink_to(next(outside.rglob("*.csv")))
    info.mkdir()
    (info / "sub-A_1").symlink_to(tree / "sub-A_1")
    (info / "sub-B2").symlink_to(outside)
    kept = {name: data for name, data in identifying(tree).items() if "sub-A_1" in name or "sub-B2" in name}
    account = moving(tree, info)
    assert contents(outside) == before and contents(tree).items() >= kept.items()
    assert dict(account.problems) == dict.fromkeys(kept, dumps._BEHIND_LINK)
    assert {"sub-linked", "sub-C/ses-linked", "sub-C/link.csv"} <= left_of(account).keys()
    assert (info / UNDATED).is_file()


def test_a_file_that_both_folders_contain_is_not_removed(tree: Path, tmp_path: Path) -> None:
    before, place = contents(tree), tmp_path / "info" / "sub-B2"
    place.mkdir(parents=True)
    if subprocess.run(["mount", "--bind", tree / "sub-B2", place], capture_output=True).returncode:
        pytest.skip("only root may mount a folder for the test")
    try:
        account = moving(tree, tmp_path / "info")
        with pytest.raises(InputError, match="overlap"):
            moving(tree / "sub-B2", place / "ses-20180102081500")
    finally:
        unmount(place)
    ((path, reason),) = account.problems
    assert reason == dumps._ONE_FILE and contents(tree)[path] == before[path]


def test_unfit_folders_are_refused_before_any_file_moves(tree: Path, tmp_path: Path) -> None:
    before = contents(tree)

    def refused(data: Path, info: Path, kind: type[PacsifierError], why: str) -> None:
        with pytest.raises(kind, match=why):
            moving(data, info)
        assert contents(tree) == before

    (tmp_path / "alias").symlink_to(tree)
    for info in (tree, tree / "info", tree.parent, tmp_path / "alias" / "info"):
        refused(tree, info, InputError, "overlap")
    refused(tmp_path / "nowhere", tmp_path / "info", InputError, "data_folder is not a folder")
    refused(tree, tree / "mapper.json", InputError, "info_folder is not a folder")
    write_marker(Tree.open(tmp_path / "deid").root, {"state": DEIDENTIFIED})
    refused(tree, tmp_path / "deid" / "info", TreeError, "data that is de-identified")
    with Tree.open(tree).workplace(shared()):
        refused(tree, tmp_path / "info", TreeError, "another run is at work")
        refused(tree / "sub-B2", tmp_path / "info", TreeError, "another run is at work")
    write_marker(tree, {"state": CONVERTING})
    refused(tree, tmp_path / "info", TreeError, "half de-identified")
    assert not (tmp_path / "info").exists()


def test_a_full_disk_loses_nothing_and_a_later_run_moves_the_rest(tree: Path, tmp_path: Path) -> None:
    (tree / "sub-C" / "zz.csv").write_bytes(b"too large for what is left" * 4000)
    wanted = identifying(tree)
    with disk(tmp_path / "small", "size=64k") as small:
        run = Run.fresh()
        units = dumps.prepare(run, dumps.DumpsRequest(tree, small / "info"))
        with pytest.raises(StorageError, match="info_folder: No space left"):
            for unit in units:
                dumps.move(run, unit)
        there, here = contents(small / "info"), contents(tree)
        assert there.items() <= wanted.items() and here.keys() | there.keys() >= wanted.keys()
        assert "sub-C/zz.csv" not in there
        assert dumps.report(run).verdict == INCOMPLETE
        subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
        assert moving(tree, small / "info").verdict == COMPLETE
        assert contents(small / "info") == wanted and len(listed(small / "info")) == len(wanted)


# Killed


def test_killed_at_any_moment_nothing_is_lost_or_half_written(tmp_path: Path, info: Path) -> None:
    tree = Tree.open(tmp_path / "tree").root
    wanted = {f"sub-{n % 40:02d}/ses-20200101/{n:05d}-CT.csv": b"%d;" % n * 2000 for n in range(400)}
    for name, content in wanted.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    command = ["-d", str(tree), "-o", str(info)]
    for after in (4, 90, 211, 350, 77):
        assert killed(lambda: main(command), after)
        here, there = contents(tree), contents(info)
        assert here.items() <= wanted.items() and there.items() <= wanted.items()
        assert here.keys() | there.keys() == wanted.keys()
    assert there
    assert main(command) == 0
    assert contents(info) == wanted and not contents(tree) and not (info / CONTROL).exists()
    assert sorted(line["File"] for line in listed(info)) == sorted(wanted)
