"""Only objects of the requested patient, study, series and instance are used, whatever archives and others send."""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage

from pacsifier_ops.base.files import read_json, write_json
from pacsifier_ops.base.identity import SeriesId, two_people
from pacsifier_ops.cli.pacsifier import main
from pacsifier_ops.dimse.receiver import StorageReceiver
from pacsifier_ops.dimse.session import RetrieveResult, Session
from pacsifier_ops.dimse.transport import HANDLERS
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.quarantine import Quarantine
from pacsifier_ops.extract.receiving import announce, announced
from pacsifier_ops.runs.accounts import RunAccount, SeriesAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.leases import Leases, shared
from pacsifier_ops.state.tree import Tree
from tests.support.embedded import extract, log_of, node_of, planned_run, serving
from tests.support.embedded import series as phantom

pytestmark = pytest.mark.archive

METHODS = pytest.mark.parametrize("method", ["get", "move"])


def series(
    study: str, uid: str, instances: list[str], patient: str = "P", description: str = "AX", **attributes: Any
) -> list[Dataset]:
    """Make small images of one series, with given UIDs below one root."""
    images = phantom(patient, n_images=len(instances), SeriesDescription=description, **attributes)
    for image, instance in zip(images, instances, strict=True):
        image.StudyInstanceUID, image.SeriesInstanceUID = f"2.25.1.{study}", f"2.25.2.{uid}"
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"2.25.3.{instance}"
    return images


def copies(images: list[Dataset], folder: Path, **attributes: str) -> list[Path]:
    """Write the same instances with other pixels and attributes to files."""
    changed = copy.deepcopy(images)
    for image in changed:
        image.PixelData = bytes(value ^ 1 for value in image.PixelData)
        for keyword, value in attributes.items():
            setattr(image, keyword, value)
    return write(changed, folder)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[..., EmbeddedPacs]]:
    """Return a function that starts an archive with lists of images, each in its own folder, as UIDs may repeat."""
    with serving([], tmp_path / "empty") as pacs:

        def serve(*lists: list[Dataset]) -> EmbeddedPacs:
            for number, images in enumerate(lists):
                pacs.add(write(images, tmp_path / f"archive-{number}"))
            return pacs

        yield serve


def images_in(out: Path) -> dict[str, Dataset]:
    """Return the images of an output folder, by their paths."""
    return {str(path.relative_to(out)): dcmread(path) for path in sorted(out.rglob("*.dcm"))}


def only(account: RunAccount) -> SeriesAccount:
    (found,) = account.series
    return found


def quarantined(run: Run) -> list[tuple[str, str]]:
    """Return reason and SOP Instance UID of each object in the quarantine of a run."""
    files = [path for path in run.quarantine.rglob("*") if path.is_file()]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    return sorted((path.parent.name, str(dcmread(path).SOPInstanceUID)) for path in files)


def run_of(account: RunAccount) -> Run:
    run = Run.existing(account.run)
    assert run is not None
    return run


def send(port: int, files: list[Path]) -> None:
    """Send objects to our receiver, as any node can that knows its address."""
    ae = AE("STRANGER")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", port, ae_title="PACSIFIER", evt_handlers=HANDLERS)
    assert association.is_established
    for path in files:
        assert association.send_c_store(path).Status == 0
    association.release()


@contextmanager
def standing(pacs: EmbeddedPacs, folder: Path) -> Iterator[StorageReceiver]:
    """Start a standing receiver to which the archive sends."""
    port = pacs.destinations["PACSIFIER"][1]
    with (
        StorageReceiver("PACSIFIER", port, folder / "spool", host="127.0.0.1") as receiver,
        announce(shared(), "PACSIFIER", port, receiver.spool),
    ):
        yield receiver


# Equal UIDs in two places are two things


FIRST = series("1", "7", ["10", "11"], StudyDate="20200101", description="FIRST")
SECOND = series("2", "7", ["20", "21", "22"], StudyDate="20200202", description="SECOND")


@METHODS
@pytest.mark.parametrize(
    "rows", [[{"PatientID": "P"}], [{"PatientID": "P", "StudyDate": date} for date in ("20200101", "20200202")]]
)
def test_two_studies_hold_series_of_one_uid(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, rows: list[dict[str, str]], method: str
) -> None:
    pacs, out = served(FIRST, SECOND), tmp_path / "out"
    account = extract(node_of(pacs, method=method), rows, out, info=True)
    assert account.verdict == "complete" and sorted(one.received for one in account.series) == [2, 3]
    found = images_in(out)
    assert sorted(image.SOPInstanceUID for image in found.values()) == sorted(
        image.SOPInstanceUID for image in FIRST + SECOND
    )
    folders = {str(Path(path).parent): image.SeriesDescription for path, image in found.items()}
    assert sorted(folders.values()) == ["FIRST", "SECOND"]
    assert all(text in (out / f"{folder}.csv").read_text() for folder, text in folders.items())
    assert {row["StudyInstanceUID"] for row in log_of(out)} == {"2.25.1.1", "2.25.1.2"}
    # A second run knows each of them, and fetches nothing.
    again = extract(node_of(pacs, method=method), rows, out)
    assert again.verdict == "complete" and [one.received for one in again.series] == [0, 0]
    assert len(pacs.sent) == 5


@METHODS
def test_two_series_and_two_studies_hold_instances_of_one_uid(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, method: str
) -> None:
    pacs = served(
        series("1", "7", ["10", "11"]),
        series("1", "8", ["10", "11"], description="COR"),
        series("2", "7", ["10", "11"], StudyDate="20200202"),
    )
    account = extract(node_of(pacs, method=method), [{"PatientID": "P"}], tmp_path / "out")
    assert (account.verdict, [one.received for one in account.series]) == ("complete", [2, 2, 2])
    found = images_in(tmp_path / "out").values()
    assert len({(i.StudyInstanceUID, i.SeriesInstanceUID, i.SOPInstanceUID) for i in found}) == 6


def test_what_an_earlier_version_fetched_is_known(served: Callable[..., EmbeddedPacs], tmp_path: Path) -> None:
    """It identified series by their Series Instance UID only."""
    pacs, out = served(FIRST), tmp_path / "out"
    first = extract(node_of(pacs), [{"PatientID": "P"}], out)
    tree = Tree.open(out)
    uids = SeriesId("2.25.1.1", "2.25.2.7")
    names = read_json(tree.state / "names.json")
    names[f"series:{uids.series_uid}"] = names.pop(f"series:{uids}")
    write_json(tree.state / "names.json", names)
    (ledger,) = (tree.state / "ledger").rglob("*.json")
    name = hashlib.sha256(uids.series_uid.encode()).hexdigest()[:32]
    before = tree.state / "ledger" / name[:2] / f"{name[2:]}.json"
    before.parent.mkdir()
    write_json(before, {"series": uids.series_uid, "instances": read_json(ledger)["instances"]})
    ledger.unlink()
    pacs = served(FIRST, SECOND)
    again = extract(node_of(pacs), [{"PatientID": "P"}], out)
    assert again.verdict == "complete"
    assert [(one.folder == only(first).folder, one.present, one.received) for one in again.series] == [
        (True, 2, 0),
        (False, 0, 3),
    ]
    assert len(images_in(out)) == 5


# Objects of other patients


CORRECTED = {"PatientID": {"OLD": "NEW"}}


@METHODS
def test_files_of_another_patient_than_the_archive_names(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, method: str
) -> None:
    pacs, out = served(series("1", "1", ["1", "2"], patient="OLD")), tmp_path / "out"
    pacs.faults.corrected = CORRECTED
    account = extract(node_of(pacs, method=method), [{"PatientID": "NEW"}], out)
    one = only(account)
    assert (account.verdict, one.state, one.missing, one.quarantined) == ("incomplete", "incomplete", 2, 2)
    assert "data base gives one PatientID" in one.reason and "accept_patient_id_of: archive" in one.reason
    assert "OLD" not in one.reason and not images_in(out)
    assert quarantined(run_of(account)) == [("another-patient", f"2.25.3.{n}") for n in (1, 2)]
    assert len(pacs.sent) == 2, "what is in quarantine is not asked for again"


@METHODS
@pytest.mark.parametrize("by", ["row", "connection", "run"])
def test_accepted_objects_are_reported(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, method: str, by: str
) -> None:
    pacs, out = served(series("1", "1", ["1", "2"], patient="OLD")), tmp_path / "out"
    pacs.faults.corrected = CORRECTED
    word = {"accept_patient_id_of": "archive"}
    rows = [{"PatientID": "NEW", **(word if by == "row" else {})}]
    node = node_of(pacs, method=method, **(word if by == "connection" else {}))
    account = extract(node, rows, out, **(word if by == "run" else {}))
    one = only(account)
    assert (account.verdict, one.received, one.quarantined) == ("complete", 2, 0)
    assert "they were accepted" in one.reason and len(images_in(out)) == 2


@METHODS
def test_objects_of_a_second_patient_of_the_study_are_not_accepted(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, method: str
) -> None:
    """The archive has a series under two patients, and returns only the one with the row's PatientID."""
    pacs = served(series("1", "1", ["1", "2"], patient="PA") + series("1", "1", ["3"], patient="PB"))
    rows = [{"PatientID": "PA", "accept_patient_id_of": "archive"}]
    account = extract(node_of(pacs, method=method), rows, tmp_path / "out")
    assert account.verdict == "incomplete"
    assert {str(image.PatientID) for image in images_in(tmp_path / "out").values()} == {"PA"}


def test_other_patients_are_accepted_on_the_command_line(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pacs = served(series("1", "1", ["1", "2"], patient="OLD"))
    pacs.faults.corrected = CORRECTED
    write_json(
        tmp_path / "config.json",
        {"server_address": pacs.host, "port": pacs.port, "server_AET": pacs.aet, "AET": "PACSIFIER", "move_AET": ""}
        | {"move_port": 0, "batch_size": 0, "batch_wait_time": 0},
    )
    (tmp_path / "table.csv").write_text("PatientID\nNEW\n")
    command = ["--save", "-c", str(tmp_path / "config.json"), "-q", str(tmp_path / "table.csv")]
    assert main([*command, "-d", str(tmp_path / "one")]) == 3
    assert main([*command, "-d", str(tmp_path / "two"), "--accept_patient_id_of", "archive"]) == 0
    assert not images_in(tmp_path / "one") and len(images_in(tmp_path / "two")) == 2
    with pytest.raises(SystemExit):
        main(["--info", *command[1:], "--accept_patient_id_of", "archive"])


@pytest.mark.parametrize(("told", "in_files", "good"), [("A", "B", False), ("A", "", True), ("", "B", True)])
def test_issuers_are_compared_if_both_are_given(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, told: str, in_files: str, good: bool
) -> None:
    pacs = served(series("1", "1", ["1"], IssuerOfPatientID=in_files))
    pacs.faults.corrected = {"IssuerOfPatientID": {in_files: told}}
    one = only(extract(node_of(pacs), [{"PatientID": "P"}], tmp_path / "out"))
    assert (one.state, one.received) == (("complete", 1) if good else ("incomplete", 0))
    assert ("IssuerOfPatientID" in one.reason) is not good


def test_blanks_and_normal_forms_do_not_make_another_patient(
    served: Callable[..., EmbeddedPacs], tmp_path: Path
) -> None:
    pacs = served(series("1", "1", ["1"], patient=" Mu\u0308 1 ", SpecificCharacterSet="ISO_IR 192"))
    pacs.faults.corrected = {"PatientID": {"Mu\u0308 1": "M\u00fc 1", " Mu\u0308 1 ": "M\u00fc 1"}}
    one = only(extract(node_of(pacs), [{"StudyInstanceUID": "2.25.1.1"}], tmp_path / "out"))
    assert (one.state, one.received, one.reason) == ("complete", 1, "")


# One instance is one object


@METHODS
@pytest.mark.parametrize("attributes", [{}, {"PatientID": "ELSE"}], ids=["other pixels", "another patient"])
def test_two_versions_of_an_instance(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, method: str, attributes: dict[str, str]
) -> None:
    images = series("1", "1", ["1", "2", "3"])
    pacs = served(images)
    pacs.faults.intruders = copies(images[:2], tmp_path / "versions", **attributes)
    account = extract(node_of(pacs, method=method), [{"PatientID": "P"}], tmp_path / "out")
    one = only(account)
    assert (account.verdict, one.received, one.missing, one.quarantined) == ("incomplete", 1, 2, 4)
    assert one.missing_uids == ["2.25.3.1", "2.25.3.2"] and "none of them is used" in one.reason
    assert [image.SOPInstanceUID for image in images_in(tmp_path / "out").values()] == ["2.25.3.3"]
    assert quarantined(run_of(account)) == [("two-versions", f"2.25.3.{n}") for n in (1, 1, 2, 2)]
    # The archive has been corrected.
    pacs.faults.intruders = []
    assert extract(node_of(pacs, method=method), [{"PatientID": "P"}], tmp_path / "out").verdict == "complete"


@METHODS
def test_an_instance_that_comes_twice_is_one(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pacsifier_ops.extract.retrieve.ARRIVAL_GRACE", 0.1)
    images = series("1", "1", ["1", "2"])
    pacs = served(images)
    pacs.faults.intruders = write(images, tmp_path / "again")
    one = only(extract(node_of(pacs, method=method), [{"PatientID": "P"}], tmp_path / "out"))
    assert (one.state, one.received, one.quarantined, one.reason) == ("complete", 2, 0, "")


def test_a_fetched_object_stays_if_a_different_one_arrives(served: Callable[..., EmbeddedPacs], tmp_path: Path) -> None:
    images = series("1", "1", ["1", "2"])
    pacs, out = served(images), tmp_path / "out"
    extract(node_of(pacs), [{"PatientID": "P"}], out)
    kept, gone = sorted(out.rglob("*.dcm"))
    before = kept.read_bytes()
    gone.unlink()
    pacs.faults.intruders = copies(images[:1], tmp_path / "changed") + write(images[:1], tmp_path / "same")
    account = extract(node_of(pacs), [{"PatientID": "P"}], out)
    one = only(account)
    assert (one.state, one.present, one.received, one.missing) == ("incomplete", 1, 1, 0)
    assert "differ from objects with the same" in one.reason and kept.read_bytes() == before
    assert quarantined(run_of(account)) == [("not-as-before", "2.25.3.1")]


def test_objects_from_another_sender_while_the_pacs_sends(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node sends many versions of the requested UIDs, and other UIDs, to the standing receiver."""
    images = series("1", "1", ["1", "2", "3"])
    pacs, out = served(images), tmp_path / "out"
    files = [path for n in range(4) for path in copies(images[:1], tmp_path / f"v{n}", PatientName=f"Evil^{n}")]
    files += write(images[1:2], tmp_path / "copy")  # the same object, from another sender
    files += copies(series("1", "1", ["9"]), tmp_path / "unlisted")
    files += copies(series("5", "5", ["5"]), tmp_path / "alien")
    with standing(pacs, tmp_path) as receiver:
        send(receiver.port, files)
        account = extract(node_of(pacs, method="move"), [{"PatientID": "P"}], out)
    one = only(account)
    assert (account.verdict, one.received, one.missing) == ("incomplete", 2, 1)
    assert one.quarantined == 6 and "came that were not requested" in one.reason
    found = images_in(out).values()
    assert sorted(image.SOPInstanceUID for image in found) == ["2.25.3.2", "2.25.3.3"]
    assert {str(image.PatientName) for image in found} == {"Phantom^Patient"}
    versions = [("two-versions", "2.25.3.1")] * 5
    assert quarantined(run_of(account)) == [*versions, ("unasked", "2.25.3.9")]
    # An object of another series belongs to no run, and stays with the receiver.
    assert [path.parent.name for path in receiver.spool.glob("[0-9]*/*")] == ["2.25.1.5_2.25.2.5"]


@pytest.mark.parametrize(
    "fault",
    [
        {"withhold": {"2.25.3.1", "2.25.3.2"}},
        {"withhold_silently": {"2.25.3.1", "2.25.3.2"}},
        {"success_without_suboperations": True},
        {"retrieve_status": 0xA702, "retrieve_status_times": 99},
    ],
)
def test_objects_of_another_sender_do_not_replace_missing_ones(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, fault: dict[str, Any]
) -> None:
    images = series("1", "1", ["1", "2"])
    pacs = served(images)
    for name, value in fault.items():
        setattr(pacs.faults, name, value)
    with standing(pacs, tmp_path) as receiver:
        send(receiver.port, copies(images, tmp_path / "planted"))
        account = extract(node_of(pacs, method="move"), [{"PatientID": "P"}], tmp_path / "out")
    one = only(account)
    assert (account.verdict, one.received, one.missing) == ("incomplete", 0, 2)
    assert "came that were not requested" in one.reason and not images_in(tmp_path / "out")
    assert quarantined(run_of(account)) == [("unasked", "2.25.3.1"), ("unasked", "2.25.3.2")]


def test_objects_that_arrive_while_the_archive_sends_nothing_are_not_its_own(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = series("1", "1", ["1", "2"])
    pacs = served(images)
    pacs.faults.withhold = {image.SOPInstanceUID for image in images}
    planted, move = copies(images, tmp_path / "planted"), Session.move
    with standing(pacs, tmp_path) as receiver:

        def moved(*arguments: Any) -> RetrieveResult:
            outcome = move(*arguments)
            send(receiver.port, planted)
            return outcome

        monkeypatch.setattr(Session, "move", moved)
        account = extract(node_of(pacs, method="move"), [{"PatientID": "P"}], tmp_path / "out")
    assert (account.verdict, only(account).missing) == ("incomplete", 2) and not images_in(tmp_path / "out")
    assert quarantined(run_of(account)) == [("unasked", "2.25.3.1"), ("unasked", "2.25.3.2")]


@pytest.mark.parametrize("same", [True, False])
def test_objects_in_the_spool_are_compared_with_those_that_the_archive_sends(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, same: bool
) -> None:
    """Objects in the spool before the request are used only if the archive sends the same ones."""
    images = series("1", "1", ["1", "2"])
    pacs = served(images)
    pacs.faults.abort_after = 0
    with standing(pacs, tmp_path) as receiver:
        send(receiver.port, (write if same else copies)(images, tmp_path / "before"))
        account = extract(node_of(pacs, method="move"), [{"PatientID": "P"}], tmp_path / "out")
    assert (account.verdict, len(images_in(tmp_path / "out"))) == (("complete", 2) if same else ("incomplete", 0))
    assert {reason for reason, _ in quarantined(run_of(account))} == (set() if same else {"two-versions"})


def test_other_files_in_the_spool_are_ignored(served: Callable[..., EmbeddedPacs], tmp_path: Path) -> None:
    pacs = served(series("1", "1", ["1"]))
    with standing(pacs, tmp_path) as receiver:
        folder = receiver.spool / "2.25.1.1_2.25.2.1"
        folder.mkdir(parents=True)
        for digit, content in (("0", b""), ("1", b"junk"), ("2", b"\0" * 128 + b"DICM" + b"\2" * 99)):
            (folder / f"2.25.3.1.{digit * 64}").write_bytes(content)
        account = extract(node_of(pacs, method="move"), [{"PatientID": "P"}], tmp_path / "out")
    assert account.verdict == "complete" and not quarantined(run_of(account))


def test_quarantine_never_overwrites(tmp_path: Path) -> None:
    quarantine, series_id = Quarantine(tmp_path / "quarantine"), SeriesId("1.2", "1.3")
    for content in (b"one", b"two", b"one"):
        path = tmp_path / "file"
        path.write_bytes(content)
        name = f"1.4.{hashlib.sha256(content).hexdigest()}"
        assert quarantine.put(path, name, "unasked", series_id).read_bytes() == content
        assert not path.exists()
    assert quarantine.counts(series_id) == {"unasked": 2}
    assert not quarantine.counts(SeriesId("1.1", "1.3")) and not quarantine.counts()


# Studies under two patients


PA = series("1", "1", ["1", "2"], patient="PA", PatientName="Alpha^Anna", PatientBirthDate="19500101")
PB = series("1", "2", ["3", "4", "5"], patient="PB", PatientName="Beta^Bob", PatientBirthDate="19600101")


@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize(("patient", "count"), [("PA", 2), ("PB", 3)])
def test_a_study_under_two_patients(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, patient: str, count: int, below: bool
) -> None:
    pacs = served(PA, PB, series("9", "9", ["9"], patient="PC"))
    pacs.faults.patient_keys_below_study = below
    account = extract(node_of(pacs), [{"PatientID": patient}, {"PatientID": "PC"}], tmp_path / "out")
    found = [image for image in images_in(tmp_path / "out").values() if image.PatientID != "PC"]
    assert len(images_in(tmp_path / "out")) == len(found) + 1
    assert {image.PatientID for image in found} <= {patient}
    if below:
        assert account.verdict == "complete" and len(found) == count
    else:
        assert [row.state for row in account.rows] == ["undecidable", "found"] and not found
        assert "under several patients" in account.rows[0].reason and "Alpha" not in account.rows[0].reason


def test_a_series_under_two_patients(served: Callable[..., EmbeddedPacs], tmp_path: Path) -> None:
    """A copy of a study for another patient: a retrieval by UIDs cannot distinguish the two."""
    copied = series("1", "1", ["1", "2"], patient="PB", PatientName="Beta^Bob", PatientBirthDate="19600101")
    pacs = served(PA, copied, series("9", "9", ["9"], patient="PA", PatientName="Alpha^Anna"))
    one_row = extract(node_of(pacs), [{"PatientID": "PA"}], tmp_path / "one")
    assert one_row.verdict == "incomplete"
    assert [image.SOPInstanceUID for image in images_in(tmp_path / "one").values()] == ["2.25.3.9"]
    two_rows = extract(node_of(pacs), [{"PatientID": "PA"}, {"PatientID": "PB"}], tmp_path / "two")
    assert [row.state for row in two_rows.rows] == ["conflict", "conflict"]
    assert "under two patients" in two_rows.rows[0].reason and len(images_in(tmp_path / "two")) == 1


@pytest.mark.parametrize(
    ("one", "other_one", "two"),
    [
        ({"IssuerOfPatientID": "A"}, {"IssuerOfPatientID": "B"}, True),
        ({"IssuerOfPatientID": "A"}, {}, False),
        ({"PatientName": "Roe^J"}, {"PatientName": "DOE^J", "PatientBirthDate": "19600101"}, True),
        ({"PatientName": "Roe^J"}, {"PatientName": "Doe^J"}, False),
        ({}, {"PatientName": "doe^jane^", "PatientBirthDate": "19600101"}, False),
        ({"PatientName": ""}, {"PatientBirthDate": "19600101"}, False),
    ],
)
def test_one_patient_id_of_two_people(
    served: Callable[..., EmbeddedPacs], tmp_path: Path, one: dict[str, str], other_one: dict[str, str], two: bool
) -> None:
    usual = {"PatientID": "P", "PatientName": "Doe^Jane", "PatientBirthDate": "19500101"}
    assert two_people(usual | one, usual | other_one) is two
    rest = {"PatientName": "Doe^Jane", "PatientBirthDate": "19500101"}
    pacs = served(series("1", "1", ["1"], **(rest | one)), series("2", "2", ["2"], **(rest | other_one)))
    rows = [{"PatientID": "P", "new_ids": "S001"}, {"PatientID": "Q", "new_ids": "S002"}]
    account = extract(node_of(pacs), rows, tmp_path / "out")
    assert account.rows[0].state == ("conflict" if two else "found")
    assert ("one new_id to several people" in account.rows[0].reason) is two
    assert len(images_in(tmp_path / "out")) == (0 if two else 2)
    assert len(list(tmp_path.rglob("new_id.txt"))) <= (0 if two else 2)


def test_one_new_id_for_several_people_of_a_row(served: Callable[..., EmbeddedPacs], tmp_path: Path) -> None:
    pacs = served(series("1", "1", ["1"], patient="P1"), series("2", "2", ["2"], patient="P2"))
    account = extract(node_of(pacs), [{"PatientID": "P*", "new_ids": "S001"}], tmp_path / "out")
    assert account.rows[0].state == "conflict" and not images_in(tmp_path / "out")


# The race at the start


def _come_and_go(root: Path, port: int, times: int) -> None:
    leases = Leases(root)
    for _ in range(times):
        with announce(leases, "PACSIFIER", port, root):
            pass


def test_a_receiver_that_is_just_starting(tmp_path: Path) -> None:
    (tmp_path / "leases").mkdir()
    leases = Leases(tmp_path / "leases")
    child = multiprocessing.get_context("spawn").Process(target=_come_and_go, args=(tmp_path / "leases", 11113, 2000))
    child.start()
    while child.is_alive():
        assert announced(leases, "PACSIFIER", 11113) in (None, tmp_path / "leases")
    assert child.exitcode == 0


def test_a_slot_without_an_owner_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process has created the file of a slot and not yet written its owner, or died in that moment."""
    leases = Leases(tmp_path / "leases")
    with announce(leases, "PACSIFIER", 11113, tmp_path):
        (slot,) = (tmp_path / "leases").glob("*/slot-0")
        record = slot.read_bytes()
        slot.write_bytes(b"")
        later = threading.Timer(0.1, slot.write_bytes, (record,))
        later.start()
        assert announced(leases, "PACSIFIER", 11113) == tmp_path
        later.join()
        slot.write_bytes(b"")
        monkeypatch.setattr("pacsifier_ops.state.leases._TO_WRITE_OWNER", 0.0)
        assert announced(leases, "PACSIFIER", 11113) is None and leases.holder("receiver:PACSIFIER:11113") == {}
        slot.write_bytes(record)


# Small worlds


@pytest.mark.parametrize("seed", range(16))
def test_in_any_small_world(tmp_path: Path, seed: int) -> None:
    """Every file outside quarantine belongs to the requested patient and study, and every object is reported."""
    chance = random.Random(seed)
    world = _World(chance, tmp_path)
    with serving([], tmp_path / "empty") as pacs:
        for path in world.archived:
            pacs.add([path])
        pacs.faults.intruders = world.intruders
        pacs.faults.corrected = {"PatientID": world.corrected}
        pacs.faults.patient_keys_below_study = chance.random() < 0.7
        pacs.faults.image_level = chance.random() < 0.8
        node = node_of(pacs, method=chance.choice(["get", "move"]))
        out = tmp_path / "out"
        with standing(pacs, tmp_path) as receiver:
            if node.method == "move" and world.planted:
                send(receiver.port, world.planted)
            run, units = planned_run(node, [{"PatientID": world.asked}], out)
            for unit in units:
                steps.retrieve(run, node, unit)
        account = steps.report(run)
        spooled = list(receiver.spool.glob("[0-9]*/*"))
    images = list(images_in(out).values())
    whole = {(i.PatientID, i.StudyInstanceUID, i.SeriesInstanceUID, i.SOPInstanceUID) for i in images}
    assert {patient for patient, *_ in whole} <= {world.asked}
    assert len(whole) == len(images)
    planned = {(series.study_uid, series.series_uid) for series in account.series}
    assert {(study, uid) for _, study, uid, _ in whole} <= planned
    # A file in the output folder is the archive's, and the only object of its instance that arrived.
    digests = {world.digest(dcmread(path)) for path in world.archived + world.intruders}
    assert {world.digest(image) for image in images} <= digests
    apart = [path for path in run.quarantine.rglob("*") if path.is_file()]
    totals = account.totals()
    assert totals["quarantined"] == len(apart) and totals["received"] + totals["unverifiable"] == len(images)
    assert all(series.reason for series in account.series if series.quarantined or series.state != "complete")
    assert account.verdict != "unbalanced"
    # Every object that was sent is in the folder, in quarantine, or with the receiver.
    came = {world.digest(dcmread(path)) for path in [*apart, *spooled]} | {world.digest(image) for image in images}
    sent = (world.intruders if pacs.retrieves else []) + (world.planted if node.method == "move" else [])
    assert {world.digest(dcmread(path)) for path in sent} <= came
    # A used object is the only one of its instance that arrived.
    versions = {world.instance(dcmread(path)) for path in apart if path.parent.name != "not-as-before"}
    assert not versions & {world.instance(image) for image in images}
    shutil.rmtree(out)


class _World:
    """A few patients, studies and series with few UIDs, so that they collide; and the faults of the archive."""

    def __init__(self, chance: random.Random, folder: Path) -> None:
        self.patients = ["P1", "P2", "P3"]
        self.asked = chance.choice(self.patients)
        self.archived: list[Path] = []
        self.intruders: list[Path] = []
        self.planted: list[Path] = []
        self.corrected = {"P3": "P1"} if chance.random() < 0.3 else {}
        images: list[Dataset] = []
        for number in range(chance.randint(3, 6)):
            study, uid, first = chance.randint(1, 3), chance.randint(1, 3), chance.randint(1, 4)
            made = series(
                str(study),
                str(uid),
                [str(first + n) for n in range(chance.randint(1, 3))],
                patient=chance.choice(self.patients),
                IssuerOfPatientID=chance.choice(["", "A"]),
            )
            images += made
            self.archived += write(made, folder / f"archive-{number}")
        for kind in (self.intruders, self.planted):
            if chance.random() < 0.5:
                near = [image for image in images if image.PatientID == self.asked]
                some = chance.sample(near if len(near) > 1 else images, chance.randint(1, 2))
                for number, image in enumerate(some):
                    whose = {"PatientID": chance.choice(self.patients)} if chance.random() < 0.5 else {}
                    kind += copies([image], folder / f"{id(kind)}-{number}", **whose)

    @staticmethod
    def instance(image: Dataset) -> tuple[str, ...]:
        return image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID

    @staticmethod
    def digest(image: Dataset) -> str:
        told = (image.PatientID, image.StudyInstanceUID, image.SeriesInstanceUID, image.SOPInstanceUID)
        return hashlib.sha256(repr((told, bytes(image.PixelData))).encode()).hexdigest()
