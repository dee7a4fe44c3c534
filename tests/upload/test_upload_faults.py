"""Faults during an upload: files that change, a destination that stops answering, a disk that fails."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import RLELossless

from pacsifier_ops.base.errors import Cancelled, PacsTimeout, StorageError
from pacsifier_ops.dicom.files import DicomFile
from pacsifier_ops.dimse.session import Sent, Session
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, SERIES_FAILED
from pacsifier_ops.upload import steps
from tests.support.embedded import node_of, series
from tests.upload.test_upload import only, prepared, upload

pytestmark = pytest.mark.archive


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs(folder=tmp_path / "pacs") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def send(node: Any, run: Any, units: list[int], cancelled: Callable[[], bool] = steps.never) -> None:
    with steps.Sending(run, node, cancelled) as sending:
        sending.units(units)


def test_a_file_that_changes_while_it_is_sent_is_not_delivered(
    pacs: EmbeddedPacs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write(series("A", rows=1500, columns=1500), folder)
    read = Session._read

    def cut_short(self: Session, file: DicomFile, seen: Callable[[bytes], object]) -> Iterator[bytes]:
        pieces = read(self, file, seen)
        first = next(pieces)
        yield first
        os.truncate(path, file.offset + len(first) + 1000)
        yield from pieces

    monkeypatch.setattr(Session, "_read", cut_short)
    account = upload(node_of(pacs), folder)
    assert account.verdict == INCOMPLETE and only(account).missing == 1
    assert "it changed while it was being sent" in only(account).reason
    assert pacs.stored == []


def test_any_name_of_a_file_is_accepted(pacs: EmbeddedPacs, folder: Path) -> None:
    paths = sorted(write(series("A", n_images=4), folder))
    os.rename(paths[0], os.fsencode(folder) + b"/\xff.dcm")
    pacs.faults.store_status, pacs.faults.store_status_from = 0xA900, 3
    account = upload(node_of(pacs), folder)
    assert account.verdict == INCOMPLETE and (only(account).received, only(account).missing) == (3, 1)


def test_a_destination_that_stops_answering_is_reported(pacs: EmbeddedPacs, folder: Path) -> None:
    write(series("A"), folder)
    node = node_of(pacs, dimse_timeout=0.5, retry_wait=0.001)
    run, units = prepared(node, folder)
    pacs.faults.delay = 2
    with pytest.raises(PacsTimeout, match=r"no answer within 0\.5 s"):
        send(node, run, units)
    assert only(steps.report(run)).state == SERIES_FAILED


def test_stopping_does_not_wait_for_a_silent_destination(pacs: EmbeddedPacs, folder: Path) -> None:
    write(series("A"), folder)
    run, units = prepared(node_of(pacs), folder)
    pacs.faults.delay = 4
    until = time.monotonic() + 0.5
    with pytest.raises(Cancelled):
        send(node_of(pacs), run, units, cancelled=lambda: time.monotonic() > until)
    assert not pacs.offered  # the destination still works on it; the upload did not wait


def test_an_object_that_is_refused_again_and_again_does_not_fail_the_series(pacs: EmbeddedPacs, folder: Path) -> None:
    write(series("A", n_images=4), folder)
    pacs.faults.store_status, pacs.faults.store_status_from = 0xA700, 3
    for received in (3, 0):
        account = upload(node_of(pacs), folder)
        assert account.verdict == INCOMPLETE
        assert (only(account).state, only(account).received, only(account).missing) == ("incomplete", received, 1)
    pacs.faults.store_status = None
    assert upload(node_of(pacs), folder).verdict == COMPLETE


def test_a_failing_state_root_is_not_a_fault_of_the_files(
    pacs: EmbeddedPacs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(series("A", n_images=4), folder)
    run, units = prepared(node_of(pacs), folder)
    original, sent = Session.send, []

    def full() -> Any:
        raise StorageError("the leases cannot be kept")

    def reopening(self: Session, file: DicomFile) -> Sent:
        sent.append(file)
        if len(sent) == 2:
            self.close(abort=True)
            self._slot = full
        return original(self, file)

    monkeypatch.setattr(Session, "send", reopening)
    with pytest.raises(StorageError, match="the leases cannot be kept"):
        send(node_of(pacs), run, units)
    account = steps.report(run)
    assert (only(account).state, only(account).received) == (SERIES_FAILED, 1)


def test_the_accepted_transfer_syntaxes_are_named(pacs: EmbeddedPacs, folder: Path) -> None:
    write(series("A"), folder / "plain")
    write(series("A", series_number=2, transfer_syntax=RLELossless), folder / "compressed")
    pacs.faults.refused_syntaxes = {"1.2.840.10008.1.2.1", "1.2.840.10008.1.2"}
    reasons = {one.state: one.reason for one in upload(node_of(pacs, max_associations=1), folder).series}
    assert set(reasons) == {"complete", "incomplete"}
    assert "Explicit VR Little Endian" in reasons["incomplete"]
    assert (
        "it accepts this SOP class in RLE Lossless" in reasons["incomplete"]
        or "does not accept this SOP class" in reasons["incomplete"]
    )
