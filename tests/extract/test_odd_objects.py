"""Objects that C-GET cannot transfer, and objects with invalid UIDs: they are fetched one by one, or reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage

from pacsifier_ops.base import settings
from pacsifier_ops.dicom.uids import fault_of, is_storable_uid
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.extract import retrieve as retrieval
from pacsifier_ops.runs.accounts import SeriesAccount
from tests.support.embedded import extract, node_of, series, serving
from tests.support.peers import free_port

pytestmark = pytest.mark.archive

PRIVATE_CLASS = "1.2.826.0.1.3680043.10.1234.1"
JPIP = "1.2.840.10008.1.2.4.94"
ODD = ["1.2.826.0.1.3680043.10.1234.ABC", "1.2.826.0.1.3680043.10.1234.5.", "1.2.826.0.1." + "7" * 58]
ROWS = [{"PatientID": "ODD"}]
METHODS = pytest.mark.parametrize("method", ["get", "move"])


def referenced(image: Dataset) -> Dataset:
    """Return the image with a reference to pixels on a JPIP server."""
    del image.PixelData
    image.PixelDataProviderURL = "jpip://archive.example/1"
    image.file_meta.TransferSyntaxUID = JPIP
    return image


def odd_series(uids: list[str], **attributes: Any) -> list[Dataset]:
    """Make a series of instances with these SOP Instance UIDs."""
    images = series("ODD", n_images=len(uids), **attributes)
    for image, uid in zip(images, uids, strict=True):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid
    return images


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[Dataset]], EmbeddedPacs]]:
    monkeypatch.setattr(retrieval, "ARRIVAL_GRACE", 0.3)
    with serving([], tmp_path / "none") as pacs:

        def of(images: list[Dataset]) -> EmbeddedPacs:
            folder = tmp_path / "archive"
            folder.mkdir()
            for number, image in enumerate(images):
                image.save_as(folder / f"{number}.dcm", enforce_file_format=True)
            assert pacs.add(sorted(folder.iterdir())) == len(images)
            return pacs

        yield of


def fetched(pacs: EmbeddedPacs, out: Path, method: str = "auto", **fields: Any) -> SeriesAccount:
    account = extract(node_of(pacs, method=method, **fields), ROWS, out)
    (one,) = account.series
    assert one.delivered == len(list(out.rglob("*.dcm")))
    return one


def mixed() -> list[Dataset]:
    """Make a series of which C-GET can transfer two instances."""
    classes = [CTImageStorage, CTImageStorage, PRIVATE_CLASS, CTImageStorage]
    images = series("ODD", n_images=4, SOPClassUID=lambda number: classes[number])
    return [*images[:3], referenced(images[3])]


def test_objects_that_c_get_cannot_transfer_come_by_c_move(
    archive: Callable[[list[Dataset]], EmbeddedPacs], tmp_path: Path
) -> None:
    pacs = archive(mixed())
    one = fetched(pacs, tmp_path / "out")
    assert (one.state, one.received, one.method) == ("complete", 4, "get and move")
    assert len(pacs.sent) == 4 and pacs.retrieves[0][0] == "C-GET" and pacs.retrieves[-1][0] == "C-MOVE"
    assert "C-GET and C-MOVE" in next(settings.state_root().glob("runs/*/report.html")).read_text()


def test_where_c_move_does_not_work_the_others_are_there(
    archive: Callable[[list[Dataset]], EmbeddedPacs], tmp_path: Path
) -> None:
    pacs = archive(mixed())
    pacs.destinations.clear()
    one = fetched(pacs, tmp_path / "out", receiver_port=free_port())
    assert (one.state, one.received, one.missing) == ("incomplete", 2, 2)
    assert "C-GET did not bring them, nor did C-MOVE: pacs: does not know the move destination" in one.reason


def test_an_sop_class_that_is_refused_for_c_get_does_not_affect_the_others(
    archive: Callable[[list[Dataset]], EmbeddedPacs], tmp_path: Path
) -> None:
    classes = [CTImageStorage, MRImageStorage]
    pacs = archive(series("ODD", n_images=2, SOPClassUID=lambda number: classes[number]))
    pacs.faults.refused_classes = {MRImageStorage}
    one = fetched(pacs, tmp_path / "alone", receiver_port=0)
    assert (one.state, one.received, one.missing, one.method) == ("incomplete", 1, 1, "get")
    assert "refuses to send 1 SOP class(es) by C-GET" in one.reason
    assert fetched(pacs, tmp_path / "out").method == "get and move"


@METHODS
def test_uids_that_the_standard_forbids_are_fetched(
    archive: Callable[[list[Dataset]], EmbeddedPacs], tmp_path: Path, method: str
) -> None:
    uids = [*ODD, "1.2.826.0.1.3680043.10.1234.6"]
    pacs = archive(odd_series(uids, study_uid=ODD[2], series_uid=ODD[0]))
    assert fetched(pacs, tmp_path / "out", method).state == "complete"
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.dcm")) == sorted(f"{uid}.dcm" for uid in uids)
    assert fetched(pacs, tmp_path / "out", method).present == 4 and len(pacs.sent) == 4
    pacs.faults.withhold = set(uids)
    one = fetched(pacs, tmp_path / "again", method)
    assert "4 of 4 instances missing: 3 with a SOP Instance UID that the standard forbids" in one.reason
    assert "longer than 64 characters or with an empty component or with other characters than digits" in one.reason
    assert "of the others: " in one.reason


def test_invalid_uids_are_the_reason_and_not_our_port(
    archive: Callable[[list[Dataset]], EmbeddedPacs], tmp_path: Path
) -> None:
    pacs = archive(odd_series(ODD))
    for faults in ({"retrieve_status": 0xC000, "retrieve_status_times": 99, "counts": False}, {"withhold": {*ODD}}):
        vars(pacs.faults).update(faults)
        one = fetched(pacs, tmp_path / "out", "move")
        assert one.state == "incomplete" and "3 with a SOP Instance UID that the standard forbids" in one.reason
        assert "port" not in one.reason and "AE title" not in one.reason


@pytest.mark.parametrize(
    ("uid", "fault", "kept"),
    [
        ("1.2.840.10008", "", True),
        ("1.02.3", "", True),
        ("1.2.3.", "with an empty component", True),
        ("1..2", "with an empty component", True),
        ("1.2.A", "with other characters than digits and dots", True),
        ("1.2.3-4", "with other characters than digits and dots", True),
        ("1." + "2" * 68, "longer than 64 characters", True),
        ("1." + "2" * 99, "longer than 64 characters", False),
        ("../1.2", "with other characters than digits and dots", False),
        (".1.2", "with an empty component", False),
        ("1.2 3", "with other characters than digits and dots", False),
        ("1_2", "with other characters than digits and dots", False),
        ("", "with an empty component", False),
    ],
)
def test_faults_of_uids(uid: str, fault: str, kept: bool) -> None:
    assert (fault_of(uid), is_storable_uid(uid)) == (fault, kept)


@METHODS
def test_objects_with_new_instance_uids_are_reported(
    archive: Callable[[list[Dataset]], EmbeddedPacs], tmp_path: Path, method: str
) -> None:
    pacs = archive(series("ODD", n_images=3))
    pacs.faults.coerced = {"SOPInstanceUID"}
    account = extract(node_of(pacs, method=method), ROWS, tmp_path / "out")
    (one,), (row,) = account.series, account.rows
    assert len(pacs.retrieves) == 1  # another request would bring new UIDs again
    assert (one.state, one.missing, one.quarantined) == ("incomplete", 3, 3)
    place = settings.state_root() / "runs" / account.run / "quarantine"
    assert "3 of 3 instances missing: as many came under UIDs that the archive does not list" in one.reason
    assert f"in quarantine ({place}): 3 object(s) came that were not requested" in one.reason
    assert (row.state, row.reason) == (
        "found",
        f"3 object(s) that came for its series are in quarantine, in {place}",
    )
    assert len(list(place.glob("*/unasked/*.dcm"))) == 3
    report = (place.parent / "report.html").read_text()
    assert report.count(str(place)) > 1


@pytest.mark.parametrize("keyword", ["SeriesInstanceUID", "StudyInstanceUID"])
def test_objects_with_new_series_and_study_uids_are_reported(
    archive: Callable[[list[Dataset]], EmbeddedPacs], tmp_path: Path, keyword: str
) -> None:
    pacs = archive(series("ODD", n_images=2))
    pacs.faults.coerced = {keyword}
    one = fetched(pacs, tmp_path / "get", "get")
    assert (one.missing, one.quarantined) == (2, 2) and "as many came under UIDs" in one.reason
    account = extract(node_of(pacs, method="move"), ROWS, tmp_path / "move")
    strays = settings.state_root() / "runs" / account.run / "quarantine" / "nobodys"
    assert "the archive counts 2 as sent that did not come for this series" in account.series[0].reason
    assert str(strays) in account.series[0].reason
    assert account.unasked == len(list(strays.glob("unasked/*.dcm"))) > 0


def test_objects_with_another_uid_than_their_request_are_reported(
    archive: Callable[[list[Dataset]], EmbeddedPacs], tmp_path: Path
) -> None:
    pacs = archive(series("ODD", n_images=2))
    pacs.faults.coerced = {"AffectedSOPInstanceUID"}
    one = fetched(pacs, tmp_path / "out", "get")
    assert one.missing == 2 and "2 objects came without their series or SOP Instance UID" in one.reason
    assert "or with another SOP Instance UID than their C-STORE request" in one.reason
