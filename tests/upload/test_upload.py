"""The upload steps against the embedded PACS as the destination, in this process."""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import Cancelled, InputError, OutOfResources, PacsUnreachable, TreeError
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.dicom import scan
from pacsifier_ops.dicom.files import DicomFile, inspect
from pacsifier_ops.embedded.pacs import STORAGE, EmbeddedPacs, Faults
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, RunAccount, SeriesAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.deliveries import Deliveries, delivery_lease
from pacsifier_ops.state.leases import shared
from pacsifier_ops.upload import steps
from pacsifier_ops.upload.run import UploadRequest
from tests.support.embedded import node_of, series
from tests.support.processes import PATIENCE, eventually

pytestmark = pytest.mark.archive


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs(folder=tmp_path / "pacs") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def prepared(node: PacsNode, folder: Path, **request: Any) -> tuple[Run, list[int]]:
    run = Run.fresh()
    return run, steps.prepare(run, UploadRequest(folder, folder.parent / "log", **request), node)


def upload(node: PacsNode, folder: Path, **request: Any) -> RunAccount:
    """Run an upload; return its account."""
    run, units = prepared(node, folder, **request)
    _send(run, node, units)
    return steps.report(run)


def _send(run: Run, node: PacsNode, units: list[int]) -> None:
    with steps.Sending(run, node) as sending:
        sending.units(units)


def only(account: RunAccount) -> SeriesAccount:
    (found,) = account.series
    return found


def delivered(pacs: EmbeddedPacs) -> dict[str, str]:
    """Return the digests of the data sets that the PACS stored, by SOP Instance UID."""
    return digests(pacs.folder) if pacs.folder and pacs.folder.exists() else {}


def digests(folder: Path) -> dict[str, str]:
    found = [inspect(path) for path in folder.rglob("*") if path.is_file()]
    return {file.sop_instance_uid: file.digest() for file in found if file}


def three_series() -> list[Dataset]:
    return [
        *series("A", n_images=3),
        *series("B", n_images=2, modality="MR", SeriesDescription="Schädel"),
        *series("B", n_images=2, series_number=2, transfer_syntax=RLELossless),
    ]


def test_a_folder_is_sent_as_it_is(pacs: EmbeddedPacs, folder: Path) -> None:
    images = three_series()
    write(images[:3], folder / "sub-A" / "ses-1" / "00001-x")
    write(images[3:5], folder / "any" / "where")
    write(images[5:], folder)
    account = upload(node_of(pacs), folder)
    assert (account.verdict, account.action, account.destination) == (COMPLETE, "upload", "pacs")
    assert delivered(pacs) == digests(folder)
    assert [(s.folder, s.expected, s.received, s.present, s.method) for s in account.series] == [
        (".", 2, 2, 0, "store"),
        ("any/where", 2, 2, 0, "store"),
        ("sub-A/ses-1/00001-x", 3, 3, 0, "store"),
    ]
    assert account.series[1].description == "Schädel" and account.series[1].modality == "MR"
    assert account.totals()["bytes"] == sum(f.size - f.offset for f in map(inspect, folder.rglob("*.dcm")) if f)


def test_log_and_report(pacs: EmbeddedPacs, folder: Path) -> None:
    write(series("A"), folder / "x")
    (folder / "cut.dcm").write_bytes(next((folder / "x").iterdir()).read_bytes()[:300])
    run, units = prepared(node_of(pacs), folder)
    _send(run, node_of(pacs), units)
    assert steps.report(run).verdict == INCOMPLETE  # because of the bad file only
    with (folder.parent / "log" / "logs" / "pacsifier_log.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["Folder"], line["Status"], line["FilesFound"]) for line in lines] == [
        ("x", "complete", "1"),
        ("cut.dcm", "bad", "0"),
    ]
    assert run.report.read_text(encoding="utf-8").count("<html")


def test_a_second_run_sends_nothing(pacs: EmbeddedPacs, folder: Path) -> None:
    write(three_series(), folder)
    upload(node_of(pacs), folder)
    account = upload(node_of(pacs), folder)
    assert account.verdict == COMPLETE and len(pacs.offered) == 7
    totals = account.totals()
    assert (totals["present"], totals["received"], totals["bytes"]) == (7, 0, 0)


def test_a_touched_file_is_not_sent_again_and_a_changed_one_is(pacs: EmbeddedPacs, folder: Path) -> None:
    touched, changed = write(series("A", n_images=2), folder)
    upload(node_of(pacs), folder)
    os.utime(touched)
    image = dcmread(changed)
    image.PatientComments = "changed"
    image.save_as(changed)
    pacs.offered.clear()
    account = only(upload(node_of(pacs), folder))
    assert (account.present, account.received) == (1, 1)
    assert pacs.offered == [changed.stem]
    assert only(upload(node_of(pacs), folder)).present == 2


def test_a_change_that_keeps_size_and_time_is_sent(pacs: EmbeddedPacs, folder: Path) -> None:
    (image,) = series("A")
    (path,) = write([image], folder)
    os.utime(path, ns=(10**18, 10**18))
    before = path.stat()
    upload(node_of(pacs), folder)
    image.PatientName = str(image.PatientName)[::-1]
    write([image], folder)
    os.utime(path, ns=(10**18, 10**18))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    account = only(upload(node_of(pacs), folder))
    assert (account.present, account.received) == (0, 1)
    (known,) = Deliveries(node_of(pacs).key, SeriesId(account.study_uid, account.series_uid)).confirmed.values()
    assert {known.uid: known.sha256} == digests(folder)


def test_a_confirmed_file_is_read_again_only_when_its_inode_changed(
    pacs: EmbeddedPacs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same, moved = write(series("A", n_images=2), folder)
    node, read = node_of(pacs), []
    sent = only(upload(node, folder))
    of_file = DicomFile.digest

    def digest(file: DicomFile) -> str:
        read.append(file.path.name)
        return of_file(file)

    monkeypatch.setattr(DicomFile, "digest", digest)
    assert only(upload(node, folder)).present == 2 and not read
    moved = moved.rename(folder / "moved.dcm")
    moved.chmod(0o600)
    assert only(upload(node, folder)).present == 2 and read == [moved.name]
    assert only(upload(node, folder)).present == 2 and read == [moved.name]
    confirmed = Deliveries(node.key, SeriesId(sent.study_uid, sent.series_uid)).confirmed
    assert {known.ctime_ns for known in confirmed.values()} == {p.stat().st_ctime_ns for p in (same, moved)}


def test_resend_sends_all(pacs: EmbeddedPacs, folder: Path) -> None:
    write(series("A", n_images=2), folder)
    upload(node_of(pacs), folder)
    account = only(upload(node_of(pacs), folder, resend=True))
    assert (account.present, account.received, len(pacs.offered)) == (0, 2, 4)


def test_another_destination_has_confirmed_nothing(pacs: EmbeddedPacs, folder: Path, tmp_path: Path) -> None:
    write(series("A"), folder)
    upload(node_of(pacs), folder)
    with EmbeddedPacs(aet="OTHER", folder=tmp_path / "other") as other:
        assert only(upload(node_of(other), folder)).received == 1


def test_what_is_passed_over_is_counted(pacs: EmbeddedPacs, folder: Path, tmp_path: Path) -> None:
    images = write(series("A", n_images=2), folder / "images")
    elsewhere = write(series("SECRET"), tmp_path / "elsewhere")
    shutil.copy(images[0], folder / "copy.dcm")
    (folder / "images.csv").write_text("PatientID\nA\n")
    (folder / "empty").touch()
    (folder / ".pacsifier").mkdir()
    shutil.copy(images[0], folder / ".pacsifier" / "incoming.dcm")
    (folder / "out.dcm").symlink_to(elsewhere[0])
    (folder / "outside").symlink_to(tmp_path / "elsewhere")
    (folder / "in.dcm").symlink_to(images[1])
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    account = upload(node_of(pacs), folder)
    assert account.passed_over == {scan.SECOND_COPY: 2, scan.NOT_DICOM: 3, scan.LEADS_OUTSIDE: 2}
    assert not account.bad_files and account.verdict == COMPLETE
    assert sorted(pacs.offered) == sorted(path.stem for path in images)


def test_links_that_lead_nowhere_are_bad_and_those_to_no_file_are_passed_over(pacs: EmbeddedPacs, folder: Path) -> None:
    (image,) = write(series("A"), folder / "images")
    (folder / "itself").symlink_to("itself")
    (folder / "there").symlink_to("back")
    (folder / "back").symlink_to("there")
    (folder / "dangling").symlink_to("none")
    os.mkfifo(folder / "pipe")
    (folder / "to-pipe").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        home = os.getcwd()
        os.chdir(folder)  # the path of a socket may not be long
        try:
            listener.bind("socket")
        finally:
            os.chdir(home)
        (folder / "to-socket").symlink_to("socket")
        account = upload(node_of(pacs), folder)
    assert pacs.offered == [image.stem]
    assert account.passed_over == {scan.NOT_DICOM: 4}
    reasons = {file.path: file.reason for file in account.bad_files}
    assert sorted(reasons) == ["back", "dangling", "itself", "there"] and all(reasons.values())
    assert reasons["dangling"] == "it cannot be read: No such file or directory"


def test_control_folders_of_trees_are_left_out_at_any_depth(pacs: EmbeddedPacs, folder: Path) -> None:
    (image,) = write(series("A"), folder / "project" / "sub-A")
    write(series("B"), folder / "project" / ".pacsifier" / "incoming" / "half")
    account = upload(node_of(pacs), folder)
    assert only(account).folder == "project/sub-A" and pacs.offered == [image.stem]
    assert not account.passed_over and not account.bad_files


def test_many_contradictions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file of a series except one exists twice, with different contents."""
    count = 2_000
    one, two = folder / "one", folder / "two"
    paths = [*(one / str(n) for n in range(count + 1)), *(two / str(n) for n in range(count))]

    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def seen(path: Path) -> DicomFile:
        size = 100 if path.parent == one else 102
        return DicomFile(path, 0, size, 0, 0, "1.2.840.10008.5.1.4.1.1.2", f"1.2.{path.name}", "1.2", "1.2.3", "1.2.4")

    monkeypatch.setattr(scan, "_files", lambda *arguments: iter(paths))
    found = scan.scan(folder, look=seen)
    assert len(found.bad_files) == 2 * count
    assert [file.path.name for file in found.series[SeriesId("1.2.3", "1.2.4")]] == [str(count)]


def test_two_contents_under_one_uid_are_not_sent(pacs: EmbeddedPacs, folder: Path) -> None:
    good, twin = series("A", n_images=2)
    write([good, twin], folder / "one")
    twin.PatientComments = "another"
    write([twin], folder / "two")
    twin.PatientComments = "a third"
    write([twin], folder / "three")
    account = upload(node_of(pacs), folder)
    assert sorted(file.path.split("/")[0] for file in account.bad_files) == ["one", "three", "two"]
    assert all("same SOP Instance UID" in file.reason for file in account.bad_files)
    assert pacs.offered == [good.SOPInstanceUID] and account.verdict == INCOMPLETE


def test_one_bad_file_does_not_stop_the_rest(pacs: EmbeddedPacs, folder: Path) -> None:
    first, cut, last = sorted(write(series("A", n_images=3), folder))
    cut.write_bytes(cut.read_bytes()[:-5])
    account = only(upload(node_of(pacs), folder))
    assert (account.expected, account.received, account.missing) == (3, 2, 1)
    assert account.missing_uids == [cut.stem]
    assert account.reason == "1 of 3 instances missing: the file is truncated"
    assert pacs.offered == [first.stem, last.stem]


def test_a_file_that_vanished_or_changed_after_the_scan(pacs: EmbeddedPacs, folder: Path) -> None:
    gone, changed, last = sorted(write(series("A", n_images=3), folder))
    run, units = prepared(node_of(pacs), folder)
    gone.unlink()
    changed.write_bytes(changed.read_bytes() + b"\0\0")
    _send(run, node_of(pacs), units)
    account = only(steps.report(run))
    assert pacs.offered == [last.stem] and account.missing_uids == [gone.stem, changed.stem]
    assert "cannot be read" in account.reason and "changed while the upload was running" in account.reason


def test_file_names_that_are_not_text(pacs: EmbeddedPacs, folder: Path) -> None:
    (image,) = write(series("A"), folder)
    odd = os.fsencode(folder) + b"/caf\xe9"
    os.mkdir(odd)
    os.rename(image, odd + b"/\xff.dcm")
    with open(odd + b"/bad\xff", "wb") as stream:
        stream.write(b"\0" * 128 + b"DICM")
    account = upload(node_of(pacs), folder)
    assert only(account).folder == "caf\ufffd" and only(account).received == 1
    assert account.bad_files[0].path == "caf\ufffd/bad\ufffd"


def test_refused_classes_and_syntaxes_are_named(pacs: EmbeddedPacs, folder: Path) -> None:
    pacs.faults.refused_syntaxes = {RLELossless}
    pacs.faults.refused_classes = {"1.2.840.10008.5.1.4.1.1.4"}
    write(three_series(), folder)
    account = upload(node_of(pacs), folder)
    assert [s.state for s in account.series].count("complete") == 1 and len(pacs.offered) == 3
    reasons = {s.modality + s.series_number: s.reason for s in account.series}
    assert reasons["MR1"] == (
        "2 of 2 instances missing: refused by the destination: MR Image Storage (1.2.840.10008.5.1.4.1.1.4) in "
        "Explicit VR Little Endian (1.2.840.10008.1.2.1); it does not accept this SOP class"
    )
    assert "CT Image Storage" in reasons["CT2"] and "in RLE Lossless" in reasons["CT2"]
    assert "it accepts this SOP class in Explicit VR Little Endian" in reasons["CT2"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0xA900, "0xA900, the data set does not match its SOP class"),
        (0x0122, "0x0122, SOP class not supported"),
        (0x0124, "0x0124, not authorised"),
        (0xFE00, "0xFE00, not a status of C-STORE"),
    ],
)
def test_a_permanent_refusal_is_not_repeated(pacs: EmbeddedPacs, folder: Path, status: int, words: str) -> None:
    pacs.faults = Faults(store_status=status, store_status_from=1, store_status_times=1)
    files = sorted(write(series("A", n_images=3), folder))
    account = only(upload(node_of(pacs), folder))
    assert account.reason == f"1 of 3 instances missing: refused by the destination ({words})"
    assert (account.received, account.missing_uids, len(pacs.offered)) == (2, [files[1].stem], 3)
    assert only(upload(node_of(pacs), folder)).received == 1


def test_an_object_that_is_refused_once_is_tried_again(pacs: EmbeddedPacs, folder: Path) -> None:
    """dcmqrscp refuses single objects when it serves several associations."""
    pacs.faults = Faults(store_status=0xC000, store_status_from=1, store_status_times=1)
    write(series("A", n_images=3), folder)
    assert only(upload(node_of(pacs), folder)).received == 3 == len(pacs.offered) - 1


def test_refused_objects_are_not_all_tried_twice(pacs: EmbeddedPacs, folder: Path) -> None:
    pacs.faults = Faults(store_status=0xC001)
    write(series("A", n_images=50), folder)
    account = only(upload(node_of(pacs), folder))
    assert account.missing == 50 and len(pacs.offered) == 52
    assert "(0xC001, cannot understand the object)" in account.reason


def test_a_warning_counts_as_stored(pacs: EmbeddedPacs, folder: Path) -> None:
    pacs.faults = Faults(store_status=0xB000, store_status_times=2)
    write(series("A", n_images=3), folder)
    account = only(upload(node_of(pacs), folder))
    assert (account.state, account.received, account.warned) == ("complete", 3, 2)
    assert account.reason == "2 taken with a warning (0xB000, some elements were coerced)"


def test_out_of_resources_for_a_while(pacs: EmbeddedPacs, folder: Path) -> None:
    pacs.faults = Faults(store_status=0xA700, store_status_from=3, store_status_times=4)
    files = sorted(write(series("A", n_images=8), folder))
    assert only(upload(node_of(pacs), folder)).received == 8
    assert len(pacs.offered) == 12 and set(pacs.stored) == {path.stem for path in files}


def test_out_of_resources_in_the_middle(pacs: EmbeddedPacs, folder: Path) -> None:
    """The destination is full: stored objects count, the run ends early, and a later one completes it."""
    pacs.faults = Faults(store_status=0xA700, store_status_from=5)
    write([image for number in range(8) for image in series("A", n_images=10, series_number=number)], folder)
    run, units = prepared(node_of(pacs), folder)
    with pytest.raises(OutOfResources, match="0xA700, out of resources"):
        _send(run, node_of(pacs), units)
    account = steps.report(run)
    assert account.totals()["received"] == 5 and account.verdict == INCOMPLETE
    assert [s.state for s in account.series] == ["incomplete", *["failed"] * 7]
    assert "not attempted" in account.series[-1].reason
    pacs.faults = Faults()
    totals = upload(node_of(pacs), folder).totals()
    assert (totals["present"], totals["received"]) == (5, 75)


def test_no_resources_for_one_object_only(pacs: EmbeddedPacs, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(write(series("A", n_images=4), folder))
    store = pacs._keep
    monkeypatch.setattr(pacs, "_keep", lambda uid, data: 0xA701 if uid == files[0].stem else store(uid, data))
    account = only(upload(node_of(pacs), folder))
    assert (account.received, account.missing_uids) == (3, [files[0].stem])
    assert "3 times (0xA701, out of resources)" in account.reason


def test_an_association_that_breaks_is_made_anew(pacs: EmbeddedPacs, folder: Path) -> None:
    pacs.faults.store_abort_after = 3
    write(series("A", n_images=6), folder)
    assert only(upload(node_of(pacs), folder)).received == 6
    assert len(pacs.offered) == 7


def test_an_object_that_breaks_every_association(
    pacs: EmbeddedPacs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(write(series("A", n_images=4), folder))
    store = pacs._on_store

    def on_store(event: Any) -> int:
        if event.request.AffectedSOPInstanceUID == files[0].stem:
            event.assoc.abort()
        return store(event)

    pacs.stop()
    monkeypatch.setattr(pacs, "_on_store", on_store)
    pacs.start()
    account = only(upload(node_of(pacs), folder))
    assert (account.received, account.missing_uids) == (3, [files[0].stem])
    assert account.reason.endswith("the association broke with it, 3 times")


def test_a_destination_that_is_down(pacs: EmbeddedPacs, folder: Path) -> None:
    write(three_series(), folder)
    run, units = prepared(node_of(pacs), folder)
    pacs.stop()
    with pytest.raises(PacsUnreachable):
        _send(run, node_of(pacs), units)
    assert [s.missing for s in steps.report(run).series] == [2, 2, 3]
    with pytest.raises(PacsUnreachable):
        prepared(node_of(pacs), folder)
    pacs.start()
    _send(run, node_of(pacs), units)
    assert steps.report(run).verdict == COMPLETE


def test_more_kinds_than_an_association_can_carry(pacs: EmbeddedPacs, folder: Path) -> None:
    """A hundred SOP classes in two transfer syntaxes each, and unknown private SOP classes."""
    classes = sorted(STORAGE)[:100]
    for n, syntax in enumerate((ExplicitVRLittleEndian, ImplicitVRLittleEndian)):
        images = series("A", n_images=103, transfer_syntax=syntax)
        for number, image in enumerate(images):
            image.SOPClassUID = (*classes, "1.2.3.1", "1.2.3.2", "1.2.3.3")[number]
            image.SOPInstanceUID = f"2.25.{n + 1}{number}1"
        write(images, folder)
    account = only(upload(node_of(pacs), folder))
    assert (account.received, account.missing) == (200, 6)
    assert account.reason.count("it does not accept this SOP class") == 6


def test_batches_and_pauses(pacs: EmbeddedPacs, folder: Path, state_root: Path) -> None:
    write(three_series(), folder)
    node = node_of(pacs, batch_size=3, batch_wait_time=600)
    assert upload(node, folder).verdict == COMPLETE
    (turns,) = state_root.rglob("*.turns")
    assert int(turns.read_text()) == 3  # each series took a turn; the fourth would wait


def test_two_runs_do_not_send_a_series_twice(pacs: EmbeddedPacs, folder: Path) -> None:
    write(series("A", n_images=20), folder)
    pacs.faults.delay = 0.01
    ready = [prepared(node_of(pacs), folder) for _ in range(2)]
    accounts: list[RunAccount] = []

    def work(run: Run, units: list[int]) -> None:
        _send(run, node_of(pacs), units)
        accounts.append(steps.report(run))

    threads = [threading.Thread(target=work, args=args) for args in ready]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pacs.offered) == 20
    assert sorted(only(account).received for account in accounts) == [0, 20]


def test_a_worker_that_waits_for_a_series_holds_no_slot(pacs: EmbeddedPacs, folder: Path) -> None:
    write([*series("A"), *series("B")], folder)
    node = node_of(pacs, max_associations=1)
    run, units = prepared(node, folder)
    account = steps.report(run).series[1]
    second = SeriesId(account.study_uid, account.series_uid)
    thread = threading.Thread(target=_send, args=(run, node, units))
    with shared().acquire(delivery_lease(node.key, second)):
        thread.start()
        eventually(lambda: pacs.stored)
        with shared().acquire(f"pacs:{node.key}", limit=1, wait=PATIENCE):
            pass
        assert len(pacs.stored) == 1
    thread.join()
    assert steps.report(run).verdict == COMPLETE


def test_stopping(pacs: EmbeddedPacs, folder: Path) -> None:
    write(series("A", n_images=20), folder)
    run, units = prepared(node_of(pacs), folder)
    stop = threading.Event()

    def sent(size: int) -> None:
        if len(pacs.stored) == 5:
            stop.set()

    with pytest.raises(Cancelled), steps.Sending(run, node_of(pacs), stop.is_set, sent) as sending:
        sending.units(units)
    account = only(steps.report(run))
    assert (account.received, account.missing, account.balanced) == (5, 15, True)


def test_killed_in_the_middle_and_run_again(pacs: EmbeddedPacs, folder: Path) -> None:
    write([image for number in (1, 2) for image in series("A", n_images=20, series_number=number)], folder)
    pacs.faults.delay = 0.02
    run, units = prepared(node_of(pacs), folder)
    process = multiprocessing.get_context("spawn").Process(target=_send, args=(run, node_of(pacs), units))
    process.start()
    eventually(lambda: len(pacs.stored) >= 25, pause=0.005)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    pacs.faults.delay = 0
    account = upload(node_of(pacs), folder)
    assert account.verdict == COMPLETE
    assert len(pacs.offered) <= 42  # the one that was being sent, and none of the others
    assert delivered(pacs) == digests(folder)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda folder: None, InputError),
        (lambda folder: folder.mkdir(), InputError),
        (lambda folder: (folder.mkdir(), (folder / "a.txt").write_text("text")), InputError),
        (lambda folder: (write(series("A"), folder), (folder.parent / "log").touch()), TreeError),
    ],
)
def test_a_folder_that_cannot_be_uploaded_is_refused_at_once(
    pacs: EmbeddedPacs, folder: Path, make: Callable[[Path], object], kind: type[Exception]
) -> None:
    make(folder)
    with pytest.raises(kind, match="directory"):
        prepared(node_of(pacs), folder)


def test_units_of_several_series(pacs: EmbeddedPacs, folder: Path) -> None:
    write([image for number in range(7) for image in series("A", series_number=number)], folder)
    run = Run.fresh()
    units = steps.prepare(run, UploadRequest(folder, folder.parent / "log"), node_of(pacs), most=3)
    assert units == [0, 1, 2]
    assert [steps.send(run, node_of(pacs), unit)["received"] for unit in units] == [3, 3, 1]
    assert [steps.send(run, node_of(pacs), unit)["received"] for unit in units] == [3, 3, 1]  # none is sent again
    assert len(pacs.offered) == 7
