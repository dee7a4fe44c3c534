"""Retrieval to disk: exactly the instances that the archive lists, whatever fails."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
    RawDataStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom.dsutils import split_dataset

from pacsifier_ops.archive.find import Expectation
from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import (
    AssociationAborted,
    AssociationBusy,
    AssociationRejected,
    MoveDestinationUnknown,
    PacsTimeout,
    PacsUnreachable,
    ReceiverError,
    StorageError,
    TreeError,
    Unsupported,
)
from pacsifier_ops.dimse.session import Cancelled
from pacsifier_ops.embedded.pacs import EmbeddedPacs, Faults
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.extract import retrieve as retrieval
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.quarantine import Quarantine
from pacsifier_ops.extract.receiving import Receivers, announce
from pacsifier_ops.extract.retrieve import REGISTERED, likely_classes
from pacsifier_ops.extract.run import Planned
from pacsifier_ops.runs.accounts import RunAccount, SeriesAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.leases import LeaseBusy, shared
from pacsifier_ops.state.tree import Tree
from tests.support.disks import disk
from tests.support.embedded import as_new, extract, node_of, planned_run, series, serving
from tests.support.peers import free_port
from tests.support.places import REPO
from tests.support.processes import until
from tests.support.work import CountedText, looks_at_text

pytestmark = pytest.mark.archive

PRIVATE_CLASS = "1.2.826.0.1.3680043.10.1234.1"
MANY_CLASSES = (
    CTImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    RawDataStorage,
)
IMAGES = [
    *series("CT", n_images=6),
    *series("MR", modality="MR", n_images=4),
    *series("RLE", transfer_syntax=RLELossless, rows=8, columns=8, n_images=2),
    *series("MIXED", n_images=9, SOPClassUID=lambda number: MANY_CLASSES[number % 6]),
    *series("PRIVATE", n_images=2, SOPClassUID=PRIVATE_CLASS),
    *series("OTHER", n_images=2),
]
METHODS = pytest.mark.parametrize("method", ["get", "move"])
#: Endings of files in an output folder after a run.
KNOWN = {".dcm", ".csv", ".parquet"}


@dataclass
class Archive:
    """The embedded PACS, and the files of each patient."""

    pacs: EmbeddedPacs
    files: dict[str, list[Path]]

    def node(self, **fields: Any) -> PacsNode:
        return node_of(self.pacs, **fields)

    def extract(self, out: Path, patient: str = "CT", method: str = "get", **fields: Any) -> RunAccount:
        return extract(self.node(method=method, **fields), [{"PatientID": patient}], out)

    def uids(self, patient: str) -> list[str]:
        return sorted(path.stem for path in self.files[patient])

    def check(self, out: Path, *patients: str) -> None:
        """Check that the folder contains exactly the objects of these patients, byte for byte."""
        found = {path.stem: path for path in out.rglob("*.dcm")}
        wanted = {path.stem: path for patient in patients for path in self.files[patient]}
        assert found.keys() == wanted.keys()
        assert all(data_set(path) == data_set(wanted[uid]) for uid, path in found.items())
        assert len(list(out.rglob("*.dcm"))) == len(wanted)
        others = {p for p in out.rglob("*") if p.is_file() and p.suffix not in KNOWN} - {out / ".pacsifier/tree.json"}
        assert not others
        assert not any((out / ".pacsifier" / "incoming").iterdir())


def data_set(path: Path) -> bytes:
    """Return the transfer syntax and the encoded data set of a file."""
    meta, offset = split_dataset(path)
    return str(meta.TransferSyntaxUID).encode() + path.read_bytes()[offset:]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("archive")
    with serving(IMAGES, folder) as pacs:
        files: dict[str, list[Path]] = {}
        for image in IMAGES:
            files.setdefault(str(image.PatientID), []).append(folder / f"{image.SOPInstanceUID}.dcm")
        yield Archive(pacs, files)


@pytest.fixture
def archive(running: Archive, monkeypatch: pytest.MonkeyPatch) -> Archive:
    as_new(running.pacs).destinations["PACSIFIER"] = ("127.0.0.1", free_port())
    monkeypatch.setattr(retrieval, "ARRIVAL_GRACE", 0.3)
    return running


def only(account: RunAccount) -> SeriesAccount:
    """Return the account of the only series of a run."""
    assert len(account.series) == 1
    return account.series[0]


def test_the_work_to_choose_a_service_does_not_grow_with_the_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = PacsNode("pacs", "localhost", 104, "PACS", method="move", receiver_port=104)
    tree, quarantine = Tree.open(tmp_path / "out"), Quarantine(tmp_path / "quarantine")
    receivers = Receivers(node, shared(), tree, quarantine)
    asked: list[str] = []
    monkeypatch.setattr(retrieval.Transfer, "_try_move", lambda self, uids, whole: asked.extend(uids))
    instances: dict[str, str] = {CountedText(f"1.2.3.{number:04d}"): CTImageStorage for number in range(1000)}
    with retrieval.Retriever(node, shared(), tree, receivers, tmp_path, quarantine) as retriever:
        transfer = retrieval.Transfer(retriever, Planned(1, [2], "1.2", "1.2.3", {}, "", ""), {}, tmp_path)
        transfer.expectation = Expectation(instances)
        looks = looks_at_text(lambda: transfer._fetch(True, "move"))
    assert asked == [*instances] and looks < 20 * len(instances)


# Complete series


@pytest.mark.parametrize("patient", ["CT", "MR", "RLE", "MIXED"])
@METHODS
def test_a_series_arrives_whole_and_is_not_fetched_twice(
    archive: Archive, tmp_path: Path, method: str, patient: str
) -> None:
    account = archive.extract(tmp_path / "out", patient, method)
    assert account.verdict == "complete"
    one = only(account)
    count = len(archive.files[patient])
    assert (one.expected, one.received, one.present, one.missing, one.method) == (count, count, 0, 0, method)
    archive.check(tmp_path / "out", patient)
    archive.pacs.sent.clear()
    again = only(archive.extract(tmp_path / "out", patient, method))
    assert (again.state, again.received, again.present, again.bytes, again.method) == ("complete", 0, count, 0, "")
    assert not archive.pacs.sent


def test_more_sop_classes_than_an_association_carries(archive: Archive, tmp_path: Path) -> None:
    archive.extract(tmp_path / "out", "MIXED")
    assert len(archive.pacs.retrieves) == 2  # by SOP Instance UID, four classes and two
    archive.check(tmp_path / "out", "MIXED")


def test_a_private_sop_class(archive: Archive, tmp_path: Path) -> None:
    assert only(archive.extract(tmp_path / "auto", "PRIVATE", "auto")).method == "move"
    archive.check(tmp_path / "auto", "PRIVATE")
    # Without a port for C-MOVE, C-GET is tried.
    assert only(archive.extract(tmp_path / "get", "PRIVATE", "auto", receiver_port=0)).method == "get"
    archive.check(tmp_path / "get", "PRIVATE")


def test_an_archive_without_c_get(archive: Archive, tmp_path: Path) -> None:
    archive.pacs.faults.get_supported = False
    assert only(archive.extract(tmp_path / "auto", method="auto")).method == "move"
    archive.check(tmp_path / "auto", "CT")
    with pytest.raises(Unsupported, match="C-GET"):
        archive.extract(tmp_path / "get", method="get")
    with pytest.raises(ReceiverError, match="move_port"):
        archive.extract(tmp_path / "none", method="auto", receiver_port=0)


def test_every_modality_has_classes_that_exist() -> None:
    assert all(set(likely_classes(modality)) <= REGISTERED for modality in [*retrieval._LIKELY, "", "unheard of"])


# What the archive fails to send


@METHODS
def test_withheld_instances_are_missing_to_the_last_one(archive: Archive, tmp_path: Path, method: str) -> None:
    uids = archive.uids("CT")
    archive.pacs.faults.withhold = set(uids[:1])
    archive.pacs.faults.withhold_silently = set(uids[1:3])
    account = archive.extract(tmp_path / "out", method=method)
    one = only(account)
    assert (account.verdict, one.state, one.expected, one.received, one.missing) == (
        "incomplete",
        "incomplete",
        6,
        3,
        3,
    )
    assert "3 of 6" in one.reason and not any(uid in one.reason for uid in uids)
    archive.pacs.faults = Faults()
    archive.pacs.sent.clear()
    healed = only(archive.extract(tmp_path / "out", method=method))
    assert (healed.state, healed.present, healed.received) == ("complete", 3, 3)
    assert sorted(archive.pacs.sent) == uids[:3]
    archive.check(tmp_path / "out", "CT")


@METHODS
def test_success_without_sub_operations_is_no_success(archive: Archive, tmp_path: Path, method: str) -> None:
    archive.pacs.faults.success_without_suboperations = True
    one = only(archive.extract(tmp_path / "out", method=method))
    assert (one.state, one.missing) == ("incomplete", 6) and "without sending anything" in one.reason


@METHODS
def test_an_abort_in_the_middle_is_healed_by_the_retry(archive: Archive, tmp_path: Path, method: str) -> None:
    archive.pacs.faults.abort_after = 3
    assert archive.extract(tmp_path / "out", method=method).verdict == "complete"
    archive.check(tmp_path / "out", "CT")
    if method == "get":
        assert sorted(archive.pacs.sent) == archive.uids("CT"), "what had arrived was fetched again"


@METHODS
def test_out_of_resources_is_asked_again(archive: Archive, tmp_path: Path, method: str) -> None:
    archive.pacs.faults.retrieve_status, archive.pacs.faults.retrieve_status_times = 0xA701, 2
    assert archive.extract(tmp_path / "out", method=method).verdict == "complete"
    archive.pacs.faults.retrieve_status_times = 1000
    run, units = planned_run(archive.node(method=method), [{"PatientID": "MR"}], tmp_path / "out")
    steps.retrieve(run, archive.node(method=method), units[0])
    assert only(steps.report(run)).missing == 4 and "0xA701" in only(steps.report(run)).reason


def test_a_pacs_that_is_busy_is_asked_again(archive: Archive, tmp_path: Path) -> None:
    run, units = planned_run(archive.node(), [{"PatientID": "CT"}], tmp_path / "out")
    archive.pacs.faults.reject = "transient"
    threading.Timer(0.2, setattr, (archive.pacs.faults, "reject", None)).start()
    steps.retrieve(run, archive.node(retry_wait=0.05), units[0])
    assert steps.report(run).verdict == "complete"
    archive.pacs.faults.reject = "transient"
    with pytest.raises(AssociationBusy):
        extract(archive.node(), [{"PatientID": "CT"}], tmp_path / "out")


@METHODS
def test_objects_that_were_not_requested_are_quarantined(archive: Archive, tmp_path: Path, method: str) -> None:
    archive.pacs.faults.intruders = archive.files["OTHER"]
    run, units = planned_run(archive.node(method=method), [{"PatientID": "CT"}], tmp_path / "out")
    steps.retrieve(run, archive.node(method=method), units[0])
    account = steps.report(run)
    assert (account.verdict, only(account).received) == ("complete", 6)
    # By C-MOVE, they are in the spool under a series that was not requested.
    assert (only(account).quarantined, account.unasked) == ((2, 0) if method == "get" else (0, 2))
    assert account.totals()["quarantined"] == 2
    kept = {path.name.removesuffix(".dcm").rpartition(".")[0] for path in run.quarantine.glob("*/unasked/*")}
    assert kept == set(archive.uids("OTHER"))
    archive.check(tmp_path / "out", "CT")


def test_instances_that_are_not_on_the_list_are_quarantined(archive: Archive, tmp_path: Path) -> None:
    """They belong to the series, but the archive does not list them at a second query either."""
    stranger = series("CT", n_images=7)[6]
    path = tmp_path / "stranger.dcm"
    stranger.save_as(path, enforce_file_format=True)
    archive.pacs.faults.intruders = [path]
    one = only(archive.extract(tmp_path / "out"))
    assert (one.state, one.received, one.quarantined, one.unverifiable) == ("complete", 6, 1, 0)
    archive.check(tmp_path / "out", "CT")


def test_instances_that_came_in_since_the_plan(archive: Archive, tmp_path: Path) -> None:
    images = series("GROWS", n_images=5)
    with serving(images[:3], tmp_path / "archive") as pacs:
        run, units = planned_run(node_of(pacs), [{"PatientID": "GROWS"}], tmp_path / "out")
        pacs.add(write(images[3:], tmp_path / "later"))
        steps.retrieve(run, node_of(pacs), units[0])
        one = only(steps.report(run))
        assert (one.state, one.expected, one.received) == ("complete", 5, 5)


def test_an_object_without_readable_uids_does_not_affect_the_others(archive: Archive, tmp_path: Path) -> None:
    broken = series("CT", n_images=8)[7]
    broken.StudyInstanceUID = "not a UID"
    path = tmp_path / "broken.dcm"
    broken.save_as(path, enforce_file_format=True)
    archive.pacs.faults.intruders = [path]
    archive.pacs.faults.withhold = set(archive.uids("CT")[:1])
    one = only(archive.extract(tmp_path / "out"))
    assert (one.state, one.received, one.missing) == ("incomplete", 5, 1)
    assert "1 objects came without their series or SOP Instance UID" in one.reason


# What the archive does not return


@METHODS
def test_an_archive_that_only_counts(archive: Archive, tmp_path: Path, method: str) -> None:
    archive.pacs.faults.image_level = False
    one = only(archive.extract(tmp_path / "out", method=method))
    assert (one.state, one.expected, one.received) == ("complete", 6, 6)
    archive.check(tmp_path / "out", "CT")
    archive.pacs.sent.clear()
    assert only(archive.extract(tmp_path / "out", method=method)).present == 6 and not archive.pacs.sent
    archive.pacs.faults.withhold_silently = set(archive.uids("MR")[:1])
    one = only(archive.extract(tmp_path / "out2", "MR", method))
    assert (one.state, one.expected, one.received, one.missing) == ("incomplete", 4, 3, 1)


def test_an_archive_without_list_and_number_is_unverifiable(archive: Archive, tmp_path: Path) -> None:
    archive.pacs.faults = Faults(image_level=False, unreturned_keys={"NumberOfSeriesRelatedInstances"})
    account = archive.extract(tmp_path / "out")
    one = only(account)
    assert (account.verdict, one.state, one.expected, one.unverifiable) == ("incomplete", "unverifiable", None, 6)
    archive.check(tmp_path / "out", "CT")


def test_a_list_that_is_cut_off_is_not_believed(archive: Archive, tmp_path: Path) -> None:
    archive.pacs.faults.result_limit = 4
    one = only(archive.extract(tmp_path / "out"))
    assert (one.state, one.expected, one.received) == ("complete", 6, 6)
    archive.check(tmp_path / "out", "CT")


def test_what_the_archive_no_longer_lists_is_unverifiable(tmp_path: Path) -> None:
    images = series("P", n_images=4)
    with serving(images, tmp_path / "archive") as pacs:
        extract(node_of(pacs), [{"PatientID": "P"}], tmp_path / "out")
    with serving(images[:3], tmp_path / "archive") as pacs:
        one = only(extract(node_of(pacs), [{"PatientID": "P"}], tmp_path / "out"))
        assert (one.state, one.expected, one.present, one.unverifiable) == ("unverifiable", 3, 3, 1)


# Configuration


def test_the_error_about_an_unknown_destination_says_what_to_declare(archive: Archive, tmp_path: Path) -> None:
    port = archive.node().receiver_port
    with pytest.raises(MoveDestinationUnknown, match=f"AE title NOBODY .* port {port}"):
        archive.extract(tmp_path / "out", method="move", receiver_aet="NOBODY")
    with pytest.raises(ReceiverError, match="move_port"):
        archive.extract(tmp_path / "out", method="move", receiver_port=0)


def test_a_port_in_use_is_reported_before_the_first_query(archive: Archive, tmp_path: Path) -> None:
    with socket.socket() as stranger:
        stranger.bind(("0.0.0.0", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(ReceiverError, match=str(port)):
            archive.extract(tmp_path / "out", method="move", receiver_port=port)
    assert [level for level, _ in archive.pacs.queries] == ["STUDY"]


def test_refusals_are_final(archive: Archive, tmp_path: Path) -> None:
    archive.pacs.faults.reject = "called_aet"
    with pytest.raises(AssociationRejected, match="called AE title"):
        archive.extract(tmp_path / "out")
    archive.pacs.faults = Faults(allowed_calling_aets=set())
    with pytest.raises(AssociationRejected, match="PACSIFIER"):
        archive.extract(tmp_path / "out")
    with pytest.raises(PacsUnreachable, match="cannot connect"):
        archive.extract(tmp_path / "out", port=free_port())


def test_a_pacs_that_never_answers(archive: Archive, tmp_path: Path) -> None:
    archive.pacs.faults.stall = 0.6
    with pytest.raises(PacsTimeout, match=r"0\.2 s"):
        archive.extract(tmp_path / "out", dimse_timeout=0.2)
    archive.pacs.faults.stall = 0
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(PacsTimeout):
            archive.extract(tmp_path / "out", port=silent.getsockname()[1], acse_timeout=0.3)


def test_a_connection_that_is_lost_for_good(archive: Archive, tmp_path: Path) -> None:
    run, units = planned_run(archive.node(), [{"PatientID": "CT"}], tmp_path / "out")
    archive.pacs.faults.delay = 0.02
    threading.Timer(0.15, archive.pacs.stop).start()
    try:
        with pytest.raises((PacsUnreachable, AssociationAborted)):
            steps.retrieve(run, archive.node(), units[0])
    finally:
        archive.pacs.stop()
        archive.pacs.start()
    one = only(steps.report(run))
    assert one.state == "failed" and one.received + one.missing == 6 and one.balanced
    # The same run continues.
    archive.pacs.faults.delay = 0
    steps.retrieve(run, archive.node(), units[0])
    assert steps.report(run).verdict == "complete"
    archive.check(tmp_path / "out", "CT")


# Files that change between two runs


@METHODS
def test_damaged_files_are_fetched_again_and_no_others(archive: Archive, tmp_path: Path, method: str) -> None:
    archive.extract(tmp_path / "out", method=method)
    files = sorted((tmp_path / "out").rglob("*.dcm"))
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-10])
    files[2].write_bytes(b"\0" * files[2].stat().st_size)
    shutil.copyfile(files[4], files[3])
    os.utime(files[5])  # touched, not changed
    archive.pacs.sent.clear()
    one = only(archive.extract(tmp_path / "out", method=method))
    assert (one.state, one.received, one.present) == ("complete", 4, 2)
    assert sorted(archive.pacs.sent) == sorted(path.stem for path in files[:4])
    archive.check(tmp_path / "out", "CT")


@pytest.mark.parametrize("way", ["lost", "damaged"])
def test_a_ledger_that_is_lost_proves_nothing(archive: Archive, tmp_path: Path, state_root: Path, way: str) -> None:
    archive.extract(tmp_path / "out")
    (ledger,) = state_root.rglob("ledger/*/*.json")
    ledger.unlink() if way == "lost" else ledger.write_text('{"instances": {"1.2": {}}}')
    one = only(archive.extract(tmp_path / "out"))
    assert (one.state, one.received, one.present) == ("complete", 6, 0)
    archive.check(tmp_path / "out", "CT")


def test_an_unknown_file_in_the_folder_makes_the_run_unbalanced(archive: Archive, tmp_path: Path) -> None:
    archive.extract(tmp_path / "out")
    folder = next((tmp_path / "out").rglob("*.dcm")).parent
    (folder / "1.2.3.dcm").write_bytes(b"?")
    account = archive.extract(tmp_path / "out")
    assert account.verdict == "unbalanced" and "7 files" in account.discrepancies[0]


# Killed, and several at once

ONE_UNIT = """
import sys
from pathlib import Path
from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.extract import steps
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.leases import LeaseBusy
node = PacsNode(**eval(sys.argv[2]))
steps.retrieve(Run(Path(sys.argv[1])), node, 0)
"""


def process(run: Run, node: PacsNode, *before: str) -> subprocess.Popen[bytes]:
    """Start another process that retrieves the first unit of a run."""
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    fields = repr({name: getattr(node, name) for name in node.__dataclass_fields__})
    command = [sys.executable, "-c", "\n".join(before) + ONE_UNIT, str(run.folder), fields]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


@METHODS
def test_a_kill_at_any_moment_is_healed_by_the_next_run(archive: Archive, tmp_path: Path, method: str) -> None:
    images = series("LONG", n_images=40)
    chance = random.Random(method)
    with serving(images, tmp_path / "archive") as pacs:
        pacs.faults.delay = 0.01
        node = node_of(pacs, method=method)
        for attempt in range(3):
            run, _ = planned_run(node, [{"PatientID": "LONG"}], tmp_path / "out", info=True)
            sent = len(pacs.sent)
            with process(run, node) as child:
                until(lambda: len(pacs.sent) >= sent + 3 or child.poll() is not None)  # noqa: B023 (it ends here)
                time.sleep(chance.uniform(0.0, 0.3))
                child.send_signal(signal.SIGKILL)
                child.wait()
            assert all(dcmread(path) for path in (tmp_path / "out").rglob("sub-*/**/*.dcm")), attempt
        pacs.faults.delay = 0
        account = extract(node, [{"PatientID": "LONG"}], tmp_path / "out", info=True)
        assert account.verdict == "complete"
        files = {str(image.SOPInstanceUID): tmp_path / "archive" / f"{image.SOPInstanceUID}.dcm" for image in images}
        Archive(pacs, {"LONG": list(files.values())}).check(tmp_path / "out", "LONG")


@METHODS
@pytest.mark.parametrize("folders", ["same folder", "two folders"])
def test_two_processes_at_once(archive: Archive, tmp_path: Path, method: str, folders: str) -> None:
    images = series("TWO", n_images=20)
    outs = [tmp_path / "out", tmp_path / ("out" if folders == "same folder" else "out2")]
    with serving(images, tmp_path / "archive") as pacs:
        pacs.faults.delay = 0.005
        node = node_of(pacs, method=method, max_associations=1)
        runs = [planned_run(node, [{"PatientID": "TWO"}], out)[0] for out in outs]
        children = [process(run, node) for run in runs]
        for child in children:
            assert child.communicate(timeout=60)[1] == b"" and child.returncode == 0
        assert [steps.report(run).verdict for run in runs] == ["complete", "complete"]
        held = Archive(pacs, {"TWO": [tmp_path / "archive" / f"{image.SOPInstanceUID}.dcm" for image in images]})
        for out in outs:
            held.check(out, "TWO")
        assert len(pacs.sent) == (20 if folders == "same folder" else 40)
        assert pacs.peak_associations == 1 or method == "move"


def test_a_stopped_run_keeps_the_objects_that_arrived(archive: Archive, tmp_path: Path) -> None:
    archive.pacs.faults.delay = 0.02
    run, units = planned_run(archive.node(), [{"PatientID": "CT"}], tmp_path / "out")
    with pytest.raises(Cancelled):
        steps.retrieve(run, archive.node(), units[0], cancelled=lambda: len(archive.pacs.sent) > 2)
    one = only(steps.report(run))
    assert one.received >= 2 and one.received + one.missing == 6
    assert steps.report(run).verdict == "incomplete"


def test_a_receiver_of_another_run_that_stops_is_replaced(tmp_path: Path) -> None:
    with serving(series("P"), tmp_path / "archive") as pacs:
        node = node_of(pacs, method="move")
        run, units = planned_run(node, [{"PatientID": "P"}], tmp_path / "out")
        theirs = announce(shared(), node.destination, node.receiver_port, tmp_path / "their spool")

        def goes_with_the_first_move() -> bool:
            if pacs.retrieves:
                theirs.release()
            return False

        totals = steps.retrieve(run, node, units[0], goes_with_the_first_move)
    assert (totals["received"], totals["missing"]) == (1, 0)
    assert len(pacs.retrieves) == 2


def test_a_running_receiver_that_the_pacs_does_not_know_is_reported_at_once(tmp_path: Path) -> None:
    with serving(series("P"), tmp_path / "archive") as pacs:
        node = node_of(pacs, method="move")
        del pacs.destinations["PACSIFIER"]
        run, units = planned_run(node, [{"PatientID": "P"}], tmp_path / "out")
        with (
            announce(shared(), node.destination, node.receiver_port, tmp_path / "their spool"),
            pytest.raises(MoveDestinationUnknown),
        ):
            steps.retrieve(run, node, units[0])
    assert len(pacs.retrieves) == 1


# Disks


@METHODS
def test_a_full_disk(archive: Archive, tmp_path: Path, method: str) -> None:
    images = series("BIG", n_images=6, rows=128, columns=128)
    with serving(images, tmp_path / "archive") as pacs, disk(tmp_path / "disk", "size=200k") as small:
        out, node = small / "out", node_of(pacs, method=method)
        ballast = small / "ballast"
        run, units = planned_run(node, [{"PatientID": "BIG"}], out)
        ballast.write_bytes(b"\0" * 60_000)
        with pytest.raises(StorageError, match="No space left"):
            steps.retrieve(run, node, units[0])
        assert all(dcmread(path) for path in out.rglob("sub-*/**/*.dcm"))
        assert not list(out.rglob("*.part"))
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=1000k", str(small)], check=True)
        steps.retrieve(run, node, units[0])
        account = steps.report(run)
        assert account.verdict == "complete", account.series
        Archive(pacs, {"BIG": list((tmp_path / "archive").iterdir())}).check(out, "BIG")


def test_a_limit_on_the_size_of_files(archive: Archive, tmp_path: Path) -> None:
    """With a limit on the size of files, no object is incomplete."""
    images = series("BIG", n_images=3, rows=256, columns=256)
    with serving(images, tmp_path / "archive") as pacs:
        run, units = planned_run(node_of(pacs), [{"PatientID": "BIG"}], tmp_path / "out")
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))"
        child = process(run, node_of(pacs), "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)", limit)
        assert b"StorageError" in child.communicate(timeout=60)[1]
        assert not list((tmp_path / "out").rglob("*.dcm"))
        steps.retrieve(run, node_of(pacs), units[0])
        assert steps.report(run).verdict == "complete"


def test_an_output_folder_that_cannot_be_written(archive: Archive, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TreeError, match="out_directory"):
        archive.extract(tmp_path / "file" / "out")
    with disk(tmp_path / "disk", "size=200k") as small:
        archive.extract(small / "out")
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        with pytest.raises(TreeError, match="Read-only"):
            archive.extract(small / "out")


# Pauses between batches


def test_pacing_counts_the_series_that_are_fetched(archive: Archive, tmp_path: Path, state_root: Path) -> None:
    rows = [{"PatientID": patient} for patient in ("CT", "MR", "RLE")]
    node = archive.node(batch_size=10, batch_wait_time=600)
    assert extract(node, rows, tmp_path / "out").verdict == "complete"
    (turns,) = state_root.rglob("*.turns")
    assert int(turns.read_text()) == 3
    # A series that is already there does not wait for its turn.
    assert extract(node, rows, tmp_path / "out").verdict == "complete"
    assert int(turns.read_text()) == 3
    # The fourth series of a batch of three has to wait, and stops waiting when the run is stopped.
    run, units = planned_run(node, [{"PatientID": "OTHER"}], tmp_path / "out")
    with pytest.raises(LeaseBusy, match="rests"):
        steps.retrieve(run, archive.node(batch_size=3, batch_wait_time=600), units[0], cancelled=Stopped(after=2))
    assert only(steps.report(run)).missing == 2


class Stopped:
    """Asks to stop after some seconds."""

    def __init__(self, after: float) -> None:
        self.until = time.monotonic() + after

    def __call__(self) -> bool:
        return time.monotonic() > self.until


def test_a_de_identified_tree_is_no_output_folder(archive: Archive, tmp_path: Path) -> None:
    archive.extract(tmp_path / "out")
    (tmp_path / "out" / ".pacsifier" / "tree.json").write_text('{"state":"de-identified"}')
    archive.pacs.sent.clear()
    with pytest.raises(TreeError, match="de-identified"):
        archive.extract(tmp_path / "out")
    with pytest.raises(TreeError):
        Tree.open(tmp_path / "out")
    assert not archive.pacs.sent
