"""Equal UIDs of different objects in real archives: the requested objects arrive, or the run reports the difference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.runs.accounts import RunAccount
from tests.extract.test_arrivals import images_in, series
from tests.support.embedded import extract
from tests.support.peers import OUR_AET, Dcmqrscp, Orthanc, Peer

pytestmark = pytest.mark.peers

METHODS = pytest.mark.parametrize("method", ["get", "move"])
ANNA = {"patient": "PA", "PatientName": "Alpha^Anna", "PatientBirthDate": "19500101"}
BOB = {"patient": "PB", "PatientName": "Beta^Bob", "PatientBirthDate": "19600101"}
#: Two studies of P1 with series of one UID; a study of Anna and Bob; a series of Anna copied for Bob.
HELD = [
    series("1", "7", ["10", "11"], patient="P1", StudyDate="20200101"),
    series("2", "7", ["20", "21", "22"], patient="P1", StudyDate="20200202"),
    series("3", "31", ["30", "31"], **ANNA),
    series("3", "32", ["32", "33", "34"], **BOB),
    series("4", "41", ["40"], **(ANNA | {"patient": "QA"})),
    series("4", "41", ["40"], **(BOB | {"patient": "QB"})),
]


@pytest.fixture(scope="module", params=[Orthanc, Dcmqrscp], ids=lambda kind: kind.name)
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    folder = tmp_path_factory.mktemp("equal")
    peer: Peer = request.param(folder / "peer", environment={"TCP_NODELAY": "1"})
    peer.load([path for number, images in enumerate(HELD) for path in write(images, folder / str(number))])
    try:
        yield peer
    finally:
        peer.stop()


def fetched(peer: Peer, method: str, out: Path, *patients: str) -> RunAccount:
    node = PacsNode(peer.name, "127.0.0.1", peer.port, peer.aet, OUR_AET, receiver_port=peer.receiver_port)
    rows = [{"PatientID": patient} for patient in patients]
    return extract(node, rows, out, method=method)


@METHODS
def test_two_studies_hold_series_of_one_uid(peer: Peer, tmp_path: Path, method: str) -> None:
    account = fetched(peer, method, tmp_path / "out", "P1")
    assert account.verdict == "complete" and sorted(one.received for one in account.series) == [2, 3]
    assert len(images_in(tmp_path / "out")) == 5
    again = fetched(peer, method, tmp_path / "out", "P1")
    assert again.verdict == "complete" and sum(one.received for one in again.series) == 0


@METHODS
@pytest.mark.parametrize(("patient", "count"), [("PA", 2), ("PB", 3)])
def test_a_study_under_two_patients(peer: Peer, tmp_path: Path, method: str, patient: str, count: int) -> None:
    account = fetched(peer, method, tmp_path / "out", patient)
    images = images_in(tmp_path / "out").values()
    assert {image.PatientID for image in images} <= {patient}
    assert len(images) == count if account.verdict == "complete" else account.verdict == "incomplete"
    if isinstance(peer, Orthanc):
        assert account.verdict == "complete"


@METHODS
def test_a_copy_for_another_patient(peer: Peer, tmp_path: Path, method: str) -> None:
    """Two patients have objects with equal UIDs: only PatientID in the object distinguishes them."""
    for rows in (["QA"], ["QB"], ["QA", "QB"]):
        out = tmp_path / "-".join(rows)
        account = fetched(peer, method, out, *rows)
        folders = {path.split("/")[0].split("_")[0]: image.PatientID for path, image in images_in(out).items()}
        assert all(folder == f"sub-{patient}" for folder, patient in folders.items())
        # dcmqrscp keeps one object of a SOP Instance UID, and knows nothing of the other patient.
        held = [row for row in account.rows if row.state != "empty"]
        assert folders or not held or account.verdict == "incomplete"
