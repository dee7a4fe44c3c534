"""Uploads to real PACS, compared with the files instance by instance."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom.data
import pytest
from pydicom import Dataset, dcmread

from pacsifier_ops.base.config import read_config
from pacsifier_ops.dicom import scan
from pacsifier_ops.dicom.files import inspect
from pacsifier_ops.embedded.phantoms import phantom_series, shipped_files, write
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, RunAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.upload import steps
from pacsifier_ops.upload.run import UploadRequest
from tests.support.peers import KINDS, Peer, contents, digest, missing_programs

pytestmark = pytest.mark.peers

UNCOMPRESSED = {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"}
PRIVATE_CLASS = "1.2.826.0.1.3680043.10.543.1"


@pytest.fixture(params=list(KINDS))
def peer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peer]:
    """Start each peer without objects."""
    if line := missing_programs():
        pytest.fail(line)
    started = KINDS[request.param](tmp_path / request.param)
    started.start()
    yield started
    started.stop()


def upload(peer: Peer, folder: Path) -> RunAccount:
    """Run an upload; return its account."""
    node, run = read_config(peer.config(folder.parent)), Run.fresh()
    units = steps.prepare(run, UploadRequest(folder, folder.parent / "log"), node)
    with steps.Sending(run, node) as sending:
        sending.units(units)
    return steps.report(run)


def series(patient: str, **attributes: Any) -> list[Dataset]:
    return phantom_series(patient_id=patient, patient_name=f"Up^{patient}", rows=8, columns=8, **attributes)


def build(folder: Path) -> tuple[list[Path], Path]:
    """Make a typical tree; return its complete files, one per object, and a truncated file."""
    whole = write(series("A", n_images=5), folder / "sub-A" / "ses-20180102101500" / "00001-Phantom_CT")
    (folder / "sub-A" / "ses-20180102101500" / "00001-Phantom_CT.csv").write_text("PatientID\nA\n")
    (folder / "sub-A" / "new_id.txt").write_text("sub-17")
    whole += write(series("B", modality="MR", SOPClassUID=PRIVATE_CLASS), folder / "private")
    for source in shipped_files():
        whole.append(folder / "real" / f"{source.parent.name}-{source.name}")
        whole[-1].parent.mkdir(exist_ok=True)
        shutil.copyfile(source, whole[-1])
    (bare,) = write(series("C", n_images=1), folder / "bare")
    file = inspect(bare)
    assert file
    bare.write_bytes(bare.read_bytes()[file.offset :])  # neither preamble nor File Meta Information
    test_files = Path(pydicom.data.__file__).parent / "test_files"
    shutil.copy(test_files / "dicomdirtests" / "DICOMDIR", folder / "DICOMDIR")
    (cut,) = write(series("D", n_images=1), folder / "cut")
    cut.write_bytes(cut.read_bytes()[:-100])
    shutil.copy(whole[0], folder / "copy of the first.dcm")
    return [*whole, bare], cut


def test_every_instance_of_a_tree_arrives(peer: Peer, tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    whole, cut = build(folder)
    account = upload(peer, folder)

    kinds = {path: file.kind for path in whole if (file := inspect(path))}
    assert kinds.keys() == set(whole)
    compressed = {path for path in whole if peer.name == "dcmqrscp" and kinds[path][1] not in UNCOMPRESSED}
    private = {path for path in whole if kinds[path][0] == PRIVATE_CLASS}
    taken = [path for path in whole if path not in compressed | private]
    assert contents(peer) == {uid_of(path): digest(dcmread(path, force=True)) for path in taken}

    assert account.verdict == INCOMPLETE and not account.bad_files
    assert account.passed_over == {scan.NOT_DICOM: 2, scan.DICOMDIR: 1, scan.SECOND_COPY: 1}
    totals = account.totals()
    assert (totals["expected"], totals["received"]) == (len(whole) + 1, len(taken))
    reasons = {uid: series.reason for series in account.series for uid in series.missing_uids}
    missing = {uid_of(path): path for path in (*compressed, *private, cut)}
    assert reasons.keys() == missing.keys()
    for uid, path in missing.items():
        if path == cut:
            assert "truncated" in reasons[uid]
        elif path in private:
            assert PRIVATE_CLASS in reasons[uid] and "does not accept this SOP class" in reasons[uid]
        else:
            assert (
                kinds[path][1] in reasons[uid]
                and "it accepts this SOP class in Explicit VR Little Endian" in reasons[uid]
            )


def uid_of(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True, force=True).SOPInstanceUID)


def test_a_second_run_sends_only_what_is_missing(peer: Peer, tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    write([image for number in (1, 2) for image in series("A", n_images=4, series_number=number)], folder)
    cut = sorted(folder.iterdir())[0]
    data = cut.read_bytes()
    cut.write_bytes(data[:-2])
    assert upload(peer, folder).totals()["received"] == 7
    cut.write_bytes(data)
    account = upload(peer, folder)
    assert account.verdict == COMPLETE
    assert (account.totals()["present"], account.totals()["received"]) == (7, 1)
    assert contents(peer) == contents(folder.iterdir())


def test_a_peer_that_is_killed_in_the_middle(peer: Peer, tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    write(series("A", n_images=30), folder)
    node, run = read_config(peer.config(tmp_path)), Run.fresh()
    units = steps.prepare(run, UploadRequest(folder, tmp_path / "log"), node)
    sent: list[int] = []

    def progress(size: int) -> None:
        sent.append(size)
        if len(sent) == 10:
            peer.stop(signal.SIGKILL)
            peer.start()

    with steps.Sending(run, node, progress=progress) as sending:
        sending.units(units)
    account = steps.report(run)
    assert account.verdict == COMPLETE and account.totals()["received"] == 30
    assert contents(peer) == contents(folder.iterdir())
