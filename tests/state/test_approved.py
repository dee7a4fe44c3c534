"""What leaves is the approved list: nothing else, nothing that differs, and the verdict says so."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from pacsifier_ops.base import tables
from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import NotApproved, TreeError
from pacsifier_ops.base.files import read_json
from pacsifier_ops.deid.books import BOOKS
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.extract import steps as extraction
from pacsifier_ops.extract.run import Request
from pacsifier_ops.handover import dicomdir, reports
from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.handover.dicomdir import DicomdirRequest
from pacsifier_ops.handover.reports import ReportsRequest
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, RunAccount
from pacsifier_ops.runs.folder import Run, stage_run
from pacsifier_ops.state.approved import DIFFERS, FORMER, NOT_APPROVED, NOT_THERE, TAKEN_AWAY, approved_of
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.tree import Tree, marker_of, state_folder, write_marker
from pacsifier_ops.study import release, steps
from pacsifier_ops.study.release import originals_of
from pacsifier_ops.study.run import UPLOAD
from pacsifier_ops.upload import steps as upload
from pacsifier_ops.upload.run import UploadRequest
from tests.support.command import write_table
from tests.support.embedded import node_of, series, serving
from tests.support.study import StudyRun

pytestmark = pytest.mark.archive

PATIENT, NAME = "ZQX-71830-KW", "Wurzelbacher^Kunigunde"


@dataclass
class World:
    """An archive with two series of two images, and a study of its patient."""

    pacs: EmbeddedPacs
    data: Path

    def study(self, **given: object) -> StudyRun:
        given = {"source": "local", "upload": "research", **given}
        return StudyRun(node_of(self.pacs), self.data, [{"PatientID": PATIENT}], given)

    def released(self, **given: object) -> StudyRun:
        study = self.study(**given)
        study.make()
        study.release()
        return study


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    images = [i for n in (1, 2) for i in series(PATIENT, NAME, study_date="20200101", series_number=n, n_images=2)]
    with serving(images, tmp_path / "archive") as pacs:
        yield World(pacs, tmp_path / "data")


@contextmanager
def node(folder: Path) -> Iterator[tuple[PacsNode, list[Dataset]]]:
    """A destination, and what it has at the end."""
    got: list[Dataset] = []
    with EmbeddedPacs(aet="RESEARCH", folder=folder) as there:
        yield PacsNode(folder.name, there.host, there.port, there.aet, retry_wait=0.005), got
    got += [dcmread(path) for path in folder.rglob("*.dcm")]


def tells(images: list[Dataset]) -> list[Dataset]:
    return [d for d in images if any("Wurzelbacher" in str(e.value) for e in d.iterall())]


def images(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.dcm"))


def spoil(path: Path) -> None:
    """Write a patient's name into a file, in its place."""
    d = dcmread(path)
    d.PatientName = NAME
    path.chmod(0o600)
    d.save_as(path)


def sent(folder: Path, to: PacsNode, logs: Path) -> RunAccount:
    """Upload a folder, outside of any study."""
    run = Run.fresh()
    for unit in upload.prepare(run, UploadRequest(folder, logs), to):
        upload.send(run, to, unit)
    return upload.report(run)


def file_set(folder: Path, out: Path, **request: Any) -> tuple[Run, ToolAccount]:
    run = Run.fresh()
    for unit in dicomdir.prepare(run, DicomdirRequest(folder, out, **request)):
        dicomdir.copy(run, unit)
    dicomdir.assemble(run)
    return run, dicomdir.report(run)


def reasons(study: StudyRun) -> set[str]:
    return {file.reason for file in upload.report(stage_run(study.run, UPLOAD)).bad_files}


def test_what_was_put_there_or_changed_since_is_not_sent_and_the_verdict_says_so(world: World, tmp_path: Path) -> None:
    study = world.released()
    released, good = study.folder("released"), images(study.folder("released"))
    shutil.copy(images(study.folder("identified"))[0], released / "extra.dcm")
    shutil.copy(images(study.folder("identified"))[1], good[0].parent / "more.dcm")
    (released / "link.dcm").symlink_to(released / "extra.dcm")
    spoil(good[0])
    good[1].unlink()
    with node(tmp_path / "research") as (there, got):
        study.upload(there)
    assert len(got) == 2 and not tells(got)
    account = upload.report(stage_run(study.run, UPLOAD))
    assert account.verdict == INCOMPLETE and reasons(study) == {NOT_APPROVED, NOT_THERE}
    assert any(DIFFERS in one.reason for one in account.series)
    assert steps.report(study.run).verdict == INCOMPLETE


def test_a_file_that_changes_while_the_others_are_sent_is_not(world: World, tmp_path: Path) -> None:
    study = world.released()
    stage, there = stage_run(study.run, UPLOAD), images(study.folder("released"))[-1]
    with node(tmp_path / "research") as (to, got):
        request = UploadRequest(study.folder("released"), tmp_path / "logs")
        units, before = upload.prepare(stage, request, to), there.stat()
        content = there.read_bytes()
        there.chmod(0o600)
        there.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # as long as before, and with its times
        os.utime(there, ns=(before.st_atime_ns, before.st_mtime_ns))
        for unit in units:
            upload.send(stage, to, unit)
    assert len(got) == 3 and upload.report(stage).verdict == INCOMPLETE


def test_what_was_withdrawn_is_not_sent_anew_and_is_no_fault(world: World, tmp_path: Path) -> None:
    world.released()
    second = world.study()
    gone = [path.name for path in images(second.folder("de-identified"))[:2]]
    for path in images(second.folder("de-identified"))[:2]:
        path.unlink()
    second.release()
    with node(tmp_path / "research") as (there, got):
        second.upload(there)
    assert len(got) == 2 and not {f"{d.SOPInstanceUID}.dcm" for d in got} & set(gone)
    account = upload.report(stage_run(second.run, UPLOAD))
    assert account.verdict == COMPLETE and account.passed_over[FORMER] == 2
    for path in images(second.folder("de-identified")):
        path.unlink()
    third = world.study()
    third.release()
    listed = approved_of(third.folder("released"))
    assert listed is not None and not [name for name in listed.files if name.endswith(".dcm")]


def test_released_files_are_copies_that_nobody_writes_to(world: World) -> None:
    study = world.study()
    study.make()
    study.release()
    working, released = (images(study.folder(name)) for name in ("de-identified", "released"))
    assert all(path.stat().st_nlink == 1 and not path.stat().st_mode & 0o222 for path in released)
    before = [path.read_bytes() for path in released]
    spoil(working[0])
    assert [path.read_bytes() for path in released] == before


def test_hard_links_of_an_earlier_version_are_replaced(world: World) -> None:
    study = world.study()
    study.make()
    target = study.folder("released")
    (target / ".pacsifier").mkdir(parents=True)
    write_marker(target, {"state": "de-identified"})
    for path in images(study.folder("de-identified")):
        place = target / path.relative_to(study.folder("de-identified"))
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, place)
    study.release()
    assert len(images(target)) == 4 and all(path.stat().st_nlink == 1 for path in images(target))
    assert marker_of(target)["released"]


def test_a_file_that_changes_after_the_stock_was_taken_is_not_released(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, take_stock = world.study(), release.take_stock
    study.make()

    def then_change(*arguments: Any) -> release.Stock:
        stock = take_stock(*arguments)
        spoil(images(study.folder("de-identified"))[0])
        return stock

    monkeypatch.setattr(release, "take_stock", then_change)
    with pytest.raises(NotApproved, match="changed since"):
        study.release()
    assert not tells([dcmread(path) for path in images(study.folder("released"))])
    listed = approved_of(study.folder("released"))
    assert listed is not None and not listed.files


def test_the_list_holds_for_every_way_out(world: World, tmp_path: Path) -> None:
    study = world.released()
    released = study.folder("released")
    shutil.copy(images(study.folder("identified"))[0], images(released)[0].parent / "extra.dcm")
    with node(tmp_path / "research") as (there, got):
        account = sent(images(released)[0].parent, there, tmp_path / "logs")
        assert account.verdict == INCOMPLETE and [file.reason for file in account.bad_files] == [NOT_APPROVED]
        with pytest.raises(TreeError, match="both identified and de-identified"):
            sent(released.parent, there, tmp_path / "logs")
        (tmp_path / "above").mkdir()
        shutil.move(released, tmp_path / "above" / "released")
        with pytest.raises(TreeError, match="was released"):
            sent(tmp_path / "above", there, tmp_path / "logs")
        with pytest.raises(TreeError, match="state root of its study, or, if the folder is a copy"):
            sent(tmp_path / "above" / "released", there, tmp_path / "logs")
    assert len(got) == 2 and not tells(got)


def test_of_a_folder_that_no_study_has_released_goes_what_was_de_identified_there(world: World, tmp_path: Path) -> None:
    study = world.study(upload="")
    study.make()
    made = study.folder("de-identified")
    there = images(made)
    shutil.copy(images(study.folder("identified"))[0], there[0].parent / "extra.dcm")
    spoil(there[1])
    with node(tmp_path / "research") as (research, got):
        account = sent(made, research, tmp_path / "logs")
    assert {file.reason for file in account.bad_files} == {NOT_APPROVED} and account.verdict == INCOMPLETE
    assert len(got) == len(there) - 1 and not tells(got)
    _, written = file_set(made, tmp_path / "set")
    assert {why for _, why in written.problems} == {NOT_APPROVED, DIFFERS}
    assert not tells([dcmread(path) for path in (tmp_path / "set").rglob("I*") if path.is_file()])
    study.folder("identified").rename(tmp_path / "away")
    with node(tmp_path / "around") as (around, got), pytest.raises(TreeError, match="released, or de-identified"):
        sent(made.parent, around, tmp_path / "logs")
    assert not got


@pytest.mark.parametrize("which", [(0, 1), (1, 0)], ids=["the second by the first", "the first by the second"])
def test_a_listed_file_that_holds_another_one_hides_neither(
    world: World, tmp_path: Path, which: tuple[int, int]
) -> None:
    """It was passed over as a second copy, or took the good one with it."""
    study = world.released()
    there = images(study.folder("released"))
    taken, source = there[which[0]], there[which[1]]
    taken.chmod(0o600)
    taken.write_bytes(source.read_bytes())
    with node(tmp_path / "research") as (research, got):
        account = sent(study.folder("released"), research, tmp_path / "logs")
    assert account.verdict == INCOMPLETE and [file.reason for file in account.bad_files] == [DIFFERS]
    assert len(got) == len(there) - 1


def test_what_the_destination_has_already_is_not_present_once_it_differs(world: World, tmp_path: Path) -> None:
    study = world.study(upload="")
    study.make()
    made = study.folder("de-identified")
    with node(tmp_path / "research") as (research, _):
        assert sent(made, research, tmp_path / "logs").verdict == COMPLETE
        again = sent(made, research, tmp_path / "logs")
        assert again.verdict == COMPLETE and again.totals()["present"] == 4
        with images(made)[0].open("r+b") as stream:
            stream.write(b"Wurzelbacher")  # the preamble: the data set is as it was sent
        last = sent(made, research, tmp_path / "logs")
    assert last.verdict == INCOMPLETE and last.totals()["present"] == 3


def test_who_is_taken_out_of_a_de_identified_folder_is_no_fault_and_is_made_again(world: World, tmp_path: Path) -> None:
    study = world.study(upload="")
    study.make()
    made = study.folder("de-identified")
    first, second, *_ = images(made)
    content = second.read_bytes()
    first.unlink()
    with node(tmp_path / "research") as (research, got):
        account = sent(made, research, tmp_path / "logs")
    assert account.verdict == COMPLETE and account.passed_over[TAKEN_AWAY] == 1 and len(got) == 3
    second.write_bytes(content[:-1] + b"!")  # of the same size
    study.deidentify()
    assert first.exists() and second.read_bytes() == content


def test_a_list_goes_with_the_data_set_that_it_is_of(world: World, tmp_path: Path) -> None:
    """Somebody removes it, and fetches into a folder of that name."""
    study = world.study(upload="")
    study.make()
    made = study.folder("de-identified")
    assert approved_of(made)
    shutil.rmtree(made)
    Tree.open(made)
    assert approved_of(made) is None


def test_what_is_put_into_the_manifest_is_not_released(world: World) -> None:
    study = world.study()
    study.make()
    with (study.folder("de-identified") / "manifest.csv").open("a") as stream:
        stream.write("Fremdermann^Otto,ALIEN-99,19551212\n")
    assert steps.check(study.run)["blocking"] == 1
    tables.write_table(study.folder("de-identified") / "manifest.csv", {"Name": tables.TEXT}, [("Fremdermann^Otto",)])
    assert steps.check(study.run)["blocking"] == 2  # and the Parquet file beside it


def test_texts_of_reports_that_were_put_there_are_not_taken_out(world: World, tmp_path: Path) -> None:
    study = world.study(upload="")
    study.make()
    made = study.folder("de-identified")
    shutil.copy(images(study.folder("identified"))[0], made / "sr.dcm")
    run = Run.fresh()
    reports.prepare(run, ReportsRequest(made, tmp_path / "texts"))
    account = reports.report(run)
    assert account.verdict == INCOMPLETE and [why for _, why in account.problems] == [NOT_APPROVED]


def test_a_folder_of_an_earlier_version_gets_its_list_from_the_next_run(world: World) -> None:
    study = world.study(upload="")
    study.make()
    made = study.folder("de-identified")
    before = approved_of(made)
    assert before and set(before.files) == {
        *BOOKS,
        *(path.relative_to(made).as_posix() for path in images(made)),
    }
    (state_folder(made.resolve()) / "approved.jsonl").unlink()
    for book in (state_folder(made.resolve()) / "deid").glob("*/settled/*.jsonl"):
        lines = [json.loads(line) for line in book.read_text().splitlines() if line]
        book.write_text("".join(f"\n{json.dumps({k: v for k, v in line.items() if k != 'sha256'})}" for line in lines))
    assert approved_of(made) is None
    study.deidentify()
    assert approved_of(made) == before


def test_a_file_set_holds_what_was_approved_and_no_name_of_anything_else(world: World, tmp_path: Path) -> None:
    study = world.released()
    released = study.folder("released")
    first = images(released)[0]
    shutil.copy(images(study.folder("identified"))[0], released / "extra.dcm")
    spoil(first)
    run, account = file_set(released, tmp_path / "disc", zip=True)
    assert account.verdict == INCOMPLETE and {why for _, why in account.problems} == {NOT_APPROVED, DIFFERS}
    assert b"Wurzelbacher" not in (tmp_path / "disc" / "DICOMDIR").read_bytes()
    with zipfile.ZipFile(tmp_path / "disc.zip") as packed:
        assert len(packed.namelist()) == 4
    victim = next(path for path in (tmp_path / "disc").rglob("*") if path.is_file() and path.name != "DICOMDIR")
    before = victim.stat()
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "disc.zip").unlink()
    with pytest.raises(TreeError, match="was changed during the run"):
        dicomdir.assemble(run)
    assert not (tmp_path / "disc.zip").exists()


def test_a_gateway_gets_the_identified_files_that_were_there_when_somebody_was_asked(
    world: World, tmp_path: Path
) -> None:
    study = world.released(karnak="gateway", album_name="Album")
    identified = images(study.folder("identified"))
    shutil.copy(identified[0], identified[0].with_name("later.dcm"))
    d = dcmread(identified[1])
    d.ImageComments = "changed"
    d.save_as(identified[1])
    with node(tmp_path / "gateway") as (there, got):
        study.tag_and_send(there)
        assert len(images(study.folder("karnak"))) == 3
        shutil.copy(identified[1], study.folder("karnak") / "foreign.dcm")
        spoil(images(study.folder("karnak"))[0])
        study.upload(there, "karnak_upload")
    assert len(got) == 3 and not any("ImageComments" in d for d in got)
    assert upload.report(stage_run(study.run, "karnak_upload")).verdict == INCOMPLETE


def test_a_series_is_moved_without_what_has_come_to_it_since(world: World, tmp_path: Path) -> None:
    study = world.released(move="research")
    known = images(tmp_path / "archive")
    late = dcmread(known[0])
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = f"{late.SOPInstanceUID}.9"
    stranger = series(PATIENT, NAME, study_date="20200105", series_number=7, n_images=1)
    world.pacs.add(write([late, *stranger], tmp_path / "late"))
    archive, run = node_of(world.pacs), Run.fresh()
    with node(tmp_path / "research") as (there, got):
        world.pacs.destinations[there.called_aet] = (there.host, there.port)
        table = write_table(run.folder / "table.csv", [{"PatientID": PATIENT}])
        request = Request(table, tmp_path / "moved", retrieve="move", only=str(originals_of(study.run)))
        for batch in extraction.prepare(run, request, archive, destination=there):
            extraction.find(run, archive, batch)
        for unit in extraction.plan(run, archive).units:
            extraction.move(run, archive, unit, there)
        account = extraction.report(run)
    assert len(got) == 4 and str(late.SOPInstanceUID) not in {str(d.SOPInstanceUID) for d in got}
    assert account.verdict == INCOMPLETE and account.totals()["missing"] == 2
    assert sum("not approved" in one.reason for one in account.series) == 2


@pytest.mark.parametrize("kind", ["empty", "text", "link", "file-set"])
def test_what_was_approved_and_is_no_object_any_more_is_told(world: World, tmp_path: Path, kind: str) -> None:
    study = world.released()
    path = images(study.folder("released"))[0]
    path.chmod(0o644)
    if kind == "link":
        path.rename(tmp_path / "elsewhere.dcm")
        path.symlink_to(tmp_path / "elsewhere.dcm")
    elif kind == "file-set":
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.1.3.10\0\0\0\0\0\0"))
    else:
        path.write_bytes(b"" if kind == "empty" else b"no object")
    with node(tmp_path / "node") as (there, got):
        account = sent(study.folder("released"), there, tmp_path / "logs")
    assert account.verdict == INCOMPLETE and len(got) == len(images(study.folder("released"))) - 1
    _, told = file_set(study.folder("released"), tmp_path / "disc")
    assert told.verdict == INCOMPLETE


def test_a_release_of_an_earlier_version_is_refused_in_words(world: World, tmp_path: Path) -> None:
    study = world.released()
    (state_folder(study.folder("released")) / "approved.jsonl").unlink()
    write_marker(study.folder("released"), {"state": "de-identified"})
    with pytest.raises(TreeError, match="earlier version"):
        release.may_hand_over(study.run, UPLOAD)
    with node(tmp_path / "node") as (there, got), pytest.raises(TreeError, match="earlier version"):
        sent(study.folder("released"), there, tmp_path / "logs")
    assert not got
    digests = {path: digest(path) for path in images(study.folder("released"))}
    stock = release.stock_of(study.run).digest
    approvals.ask(study.run, approvals.RELEASE, stock)
    approvals.decide(study.run, approvals.RELEASE, stock, approvals.APPROVED, "Dr. Data Manager")
    release.release(study.run)
    assert release.may_hand_over(study.run, UPLOAD)
    assert {path: digest(path) for path in images(study.folder("released"))} == digests


def test_what_the_deidentification_has_not_made_is_not_released(world: World, tmp_path: Path) -> None:
    """Of somebody whom nobody asked for, so no search finds him; or in letters that none reads."""
    study = world.study()
    study.make()
    (alien,) = write(series("ALIEN-99", "Fremdermann^Otto"), tmp_path / "alien")
    good = images(study.folder("de-identified"))
    shutil.copy(alien, good[0].parent / "more.dcm")
    (study.folder("de-identified") / "names.txt").write_text(NAME, encoding="utf-16")
    good[1].write_bytes(alien.read_bytes())
    assert steps.check(study.run)["blocking"] == 3
    told = {text for _, text in read_json(study.run.folder / "gate.json")["blocking"]}
    assert told == {"it is no file that the de-identification has made"}
    assert steps.findings(study.run).blocking


def test_originals_that_are_handed_over_are_part_of_what_is_decided_on(world: World, tmp_path: Path) -> None:
    study = world.study(upload="", karnak="gateway", album_name="Album")
    study.make()
    study.release()
    steps.release(study.run)  # and remember it
    before = release.stock_of(study.run)
    again = StudyRun(study.node, study.data, study.rows, study.given)
    again.make()  # nothing is new but the logs of the run
    steps.check(again.run)
    assert release.stock_of(again.run) == before and steps.released_before(again.run, steps.findings(again.run))
    (alien,) = write(series("ALIEN-99", "Fremdermann^Otto"), tmp_path / "alien")
    shutil.copy(alien, study.folder("identified") / "more.dcm")
    steps.check(study.run)  # as where the task is cleared
    with pytest.raises(NotApproved, match="has changed since"):
        release.release(study.run)
    assert not steps.released_before(study.run, steps.findings(study.run))
