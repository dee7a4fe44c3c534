"""Moves between real archives, compared instance by instance with the source."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from pydicom import dcmread

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import MoveDestinationUnknown, PacsError, PacsifierError
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.run import Request
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, RunAccount
from pacsifier_ops.runs.folder import Run
from tests.support import cohort
from tests.support.command import write_table
from tests.support.peers import OUR_AET, Dcmqrscp, Orthanc, Peer, contents, free_port

pytestmark = pytest.mark.peers

#: Source and destination.
PAIRS = [(Orthanc, Orthanc), (Orthanc, Dcmqrscp), (Dcmqrscp, Orthanc)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Make three series of two patients."""
    folder = tmp_path_factory.mktemp("files")
    images = [
        *phantom_series(patient_id="MOVE1", patient_name="Move^One", n_images=5),
        *phantom_series(patient_id="MOVE1", patient_name="Move^One", n_images=3, series_number=2, modality="MR"),
        *phantom_series(patient_id="MOVE2", patient_name="Move^Two", n_images=4),
    ]
    return write(images, folder)


class Pair:
    """A source with images, an empty destination, and our nodes for both."""

    def __init__(self, source: Peer, second: Peer) -> None:
        self.source, self.second = source, second

    def node(self, peer: Peer, move_aet: str) -> PacsNode:
        return PacsNode(peer.name, "127.0.0.1", peer.port, peer.aet, OUR_AET, move_aet=move_aet, retry_wait=0.05)

    def move(
        self, patient: str, out: Path, asked: bool, tolerant: bool = False, move_aet: str = "SECOND"
    ) -> RunAccount:
        """Run a move of a patient.

        Args:
            asked: the destination is queried.
            tolerant: series may fail.
        """
        node = self.node(self.source, move_aet)
        destination = self.node(self.second, "") if asked else None
        run = Run.fresh()
        table = write_table(run.folder / "table.csv", [{"PatientID": patient}])
        for batch in steps.prepare(run, Request(table, out, retrieve="move"), node, destination=destination):
            steps.find(run, node, batch)
        units = steps.plan(run, node).units
        with suppress(*([PacsError] if tolerant else [])), steps.Moving(run, node, destination) as moving:
            moving.units(units)
        return steps.report(run)


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: "-".join(kind.name for kind in pair))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, files: list[Path]) -> Iterator[Pair]:
    """Start a source with the files, and make a destination that is not started yet."""
    first, second = request.param
    with opened(tmp_path_factory.mktemp("pair"), first, second, files) as found:
        yield found


@contextmanager
def opened(folder: Path, first: type[Peer], second: type[Peer], files: list[Path]) -> Iterator[Pair]:
    # Nagle's algorithm slows the transfer between two archives down.
    quick, port = {"TCP_NODELAY": "1"}, free_port()
    source = first(folder / "source", aet="FIRST", destinations={"SECOND": ("127.0.0.1", port)}, environment=quick)
    destination = second(
        folder / "second", aet="SECOND", port=port, destinations={"FIRST": ("127.0.0.1", 1)}, environment=quick
    )
    source.load(files)
    try:
        yield Pair(source, destination)
    finally:
        source.stop()
        destination.stop()


def of(files: list[Path], patient: str) -> list[Path]:
    return [path for path in files if dcmread(path, specific_tags=["PatientID"]).PatientID == patient]


def empty(peer: Peer) -> None:
    """Restart the destination without objects."""
    peer.stop()
    shutil.rmtree(peer.folder, ignore_errors=True)
    peer.start()


def test_moved_whole_and_nothing_else(pair: Pair, files: list[Path], tmp_path: Path) -> None:
    empty(pair.second)
    for asked in (True, False):
        account = pair.move("MOVE1", tmp_path / "out", asked)
        assert account.verdict == COMPLETE
        assert sorted(s.received for s in account.series) == [3, 5]
        assert contents(pair.second) == contents(of(files, "MOVE1"))
        # A second run moves nothing.
        account = pair.move("MOVE1", tmp_path / "out", asked)
        assert account.verdict == COMPLETE and sorted(s.present for s in account.series) == [3, 5]
        # Instances that the destination lost are moved again; earlier counts would not show the loss.
        empty(pair.second)
    account = pair.move("MOVE1", tmp_path / "out", asked=True)
    assert account.verdict == COMPLETE and sorted(s.received for s in account.series) == [3, 5]
    assert contents(pair.second) == contents(of(files, "MOVE1"))


def test_a_destination_that_is_down_or_unknown(pair: Pair, tmp_path: Path) -> None:
    pair.second.stop()
    try:
        account = pair.move("MOVE2", tmp_path / "out", asked=False)
    except MoveDestinationUnknown as error:  # Orthanc has no other status for it
        assert "could not send anything to SECOND" in str(error) and "see that it listens there" in str(error)
    else:
        assert account.verdict == INCOMPLETE
        assert "could not send them to SECOND (last status 0xA702" in account.series[0].reason
    with pytest.raises(PacsifierError, match="nothing listens there"):
        pair.move("MOVE2", tmp_path / "out", asked=True)
    with pytest.raises(MoveDestinationUnknown, match="NOWHERE"):
        pair.move("MOVE2", tmp_path / "out", asked=False, move_aet="NOWHERE")


def test_objects_that_the_destination_does_not_take(tmp_path: Path) -> None:
    """dcmqrscp accepts no compressed objects: Orthanc decompresses what it can, and stops at what it cannot."""
    files = cohort.build(tmp_path / "cohort")
    with opened(tmp_path, Orthanc, Dcmqrscp, files) as pair:
        pair.second.start()
        compressed = [path for path in pair.source.held if dcmread(path).file_meta.TransferSyntaxUID.is_compressed]
        patients = {str(dcmread(path, specific_tags=["PatientID"]).PatientID) for path in compressed}
        complete = 0
        for patient in sorted(patients):
            account = pair.move(patient, tmp_path / "out", asked=True, tolerant=True)
            there, held = contents(pair.second), contents(of(pair.source.held, patient))
            assert all(series.balanced for series in account.series)
            lost = {uid for series in account.series for uid in series.missing_uids}
            assert lost == held.keys() - there.keys()
            assert (account.verdict == COMPLETE) == (not lost)
            complete += not lost
        assert 0 < complete < len(patients)
