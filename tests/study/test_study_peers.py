"""A study from one Orthanc to another, with a De-ID service and every destination at once; then the night after."""

from __future__ import annotations

import json
import ssl
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread

from pacsifier_ops.base.files import read_json
from pacsifier_ops.embedded.authority import Authority
from pacsifier_ops.embedded.deid_server import DeidServer, ServiceFaults
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.handover.karnak import CREATOR, GROUP
from pacsifier_ops.pseudonyms.linkage import Linkage
from tests.support import airflow_home, deid_corpus
from tests.support.airflow_home import KUNIGUNDE, THEOBALD, ZEBEDAEUS, Airflow, DagRun
from tests.support.peers import Orthanc, missing_programs

pytestmark = [pytest.mark.peers, pytest.mark.airflow, pytest.mark.slow]

STUDY, TOKEN = "pacsifier_study", "kX9-token-of-the-De-ID-service-q2Mw"
SMALL: dict[str, Any] = {"rows": 8, "columns": 8, "n_images": 2}
KINDS = ("CT", "RTSTRUCT", "SR", "US multi-frame", "SC")


@dataclass
class Site:
    """A hospital: its archive, the node of a research group, two gateways, a De-ID service, Airflow.

    Attributes:
        files: what the archive held on the first night.
    """

    airflow: Airflow
    archive: Orthanc
    research: Orthanc
    gateway: EmbeddedPacs
    other: EmbeddedPacs
    service: DeidServer
    files: list[Path] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.airflow.data / "studies" / "knee"

    def night(self, **conf: Any) -> DagRun:
        """Run the study of the project file."""
        return self.airflow.run_dag(STUDY, project_file="knee.yaml", **conf)

    def summary(self) -> dict[str, Any]:
        """The account of the last run."""
        runs = self.airflow.data.parent.glob(f"state/runs/{STUDY}-*/summary.json")
        last: dict[str, Any] = read_json(max(runs, key=lambda path: path.stat().st_mtime))
        return last


PROJECT = """\
project: knee
queryfile: knee.csv
pacs: archive
release: limit
most_missing: 0
most_quarantined: 10
profile: default
dicomdir: true
zip: true
upload: research
karnak: gateway
album_name: Knee
move: other
remove_identified: remove
"""


def objects() -> list[Dataset]:
    """A CT with its structure set, a report, an ultrasound loop, a screen save, and plain images."""
    builder = deid_corpus.Builder()
    with deid_corpus._no_validation():
        patient = builder.patient("latin")
        made = [d for kind in KINDS for d in deid_corpus.KINDS[kind](builder, patient, patient.studies[0])]
    kunigunde, zebedaeus, theobald = ({**person, **SMALL} for person in (KUNIGUNDE, ZEBEDAEUS, THEOBALD))
    damaged = phantom_series(**zebedaeus, study_date="19940331", series_number=9)
    for image in damaged:
        image.PixelData = image.PixelData[:32]
    return [
        *made,
        *phantom_series(**kunigunde, study_date="19931224", AccessionNumber="QACC990171"),
        *phantom_series(**zebedaeus, study_date="19940331", AccessionNumber="QACC990288"),
        *phantom_series(**theobald, study_date="19950606", AccessionNumber="QACC990399"),
        *damaged,
    ]


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    if line := missing_programs([Orthanc]):
        pytest.fail(line)
    airflow = airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    authority = Authority(tmp_path_factory.mktemp("authority"), "ca")
    tls = authority.issue("server", "127.0.0.1").context(ssl.Purpose.CLIENT_AUTH)
    nobody = ServiceFaults(missing=frozenset({THEOBALD["patient_id"]}))
    with (
        EmbeddedPacs(aet="GATEWAY", folder=tmp_path / "gateway") as gateway,
        EmbeddedPacs(aet="OTHER", folder=tmp_path / "other") as other,
        DeidServer(tls, TOKEN, faults=nobody) as service,
    ):
        archive = Orthanc(tmp_path / "archive", destinations={"OTHER": (other.host, other.port)})
        research = Orthanc(tmp_path / "research", aet="RESEARCH")
        files = write(objects(), tmp_path / "files")
        archive.load(files)
        research.start()
        assert not archive.refused
        for name, peer in (("archive", archive), ("research", research)):
            described = {"called_aet": peer.aet, "calling_aet": "PACSIFIER", "receiver_port": peer.receiver_port}
            connection = {"conn_type": "dicom", "host": "127.0.0.1", "port": peer.port, "extra": described}
            monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
        airflow.connect(gateway, "gateway")
        airflow.connect(other, "other")
        extra = {"ca": str(authority.path), "retry_wait": 0.01}
        asked = {"conn_type": "deid_api", "host": service.url, "password": TOKEN, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_DEID_DEFAULT", json.dumps(asked))
        airflow.table("Modality\nCT\nRTSTRUCT\nSR\nUS\nOT\n", "knee.csv")
        (airflow.data / "knee.yaml").write_text(PROJECT)
        yield Site(airflow, archive, research, gateway, other, service, files)
        archive.stop()
        research.stop()


def identifying(files: Iterable[Path]) -> set[str]:
    """Identifiers of the patients, and their original UIDs."""
    names = ("PatientID", "PatientName", "PatientBirthDate", "AccessionNumber")
    heads = [dcmread(path, stop_before_pixels=True) for path in files]
    words = {str(head.get(name) or "") for head in heads for name in names}
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    return {str(head[name].value) for head in heads for name in uids} | {
        word for value in words for word in airflow_home.words_of(value)
    }


def released(site: Site) -> dict[str, Dataset]:
    return {path.stem: dcmread(path) for path in (site.folder / "released").rglob("*.dcm")}


def test_a_study_reaches_every_destination_and_the_next_night_brings_what_is_new(site: Site, tmp_path: Path) -> None:
    first = site.night()
    summary = site.summary()
    print(summary, first.states)
    # An object of a patient whom the De-ID service does not know, and damaged ones, are in quarantine.
    totals = summary["totals"]
    states = {name: totals[name] for name in ("delivered", "excluded", "quarantined", "missing", "unverifiable")}
    assert sum(states.values()) == totals["instances"] == len(site.files)
    assert (first.state, summary["verdict"]) == ("success", "complete")
    assert states["excluded"] >= 1 and states["quarantined"] >= 2 and states["missing"] == 0

    data = released(site)
    assert len(data) == states["delivered"]
    assert {str(held.SOPInstanceUID) for held in site.research.objects()} == set(data)
    (directory,) = (site.folder / "dicomdir").glob("*/DICOMDIR")
    listed = {
        r.ReferencedSOPInstanceUIDInFile for r in dcmread(directory).DirectoryRecordSequence if "ReferencedFileID" in r
    }
    assert listed == set(data)
    tagged = [dcmread(path) for path in (tmp_path / "gateway").rglob("*") if path.is_file()]
    linked = {key: person.pseudonym for key, person in Linkage("knee").people().given.items()}
    assert {image.private_block(GROUP, CREATOR)[1].value for image in tagged} <= set(linked.values())
    assert THEOBALD["patient_id"] not in {str(image.PatientID) for image in tagged} and tagged
    assert len([path for path in (tmp_path / "other").rglob("*") if path.is_file()]) == len(site.files)

    # References between released objects still hold.
    (structures,) = (image for image in data.values() if image.Modality == "RTSTRUCT")
    (frame,) = structures.ReferencedFrameOfReferenceSequence
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert {i.ReferencedSOPInstanceUID for i in series.ContourImageSequence} <= set(data)
    assert series.SeriesInstanceUID in {image.SeriesInstanceUID for image in data.values()}

    # No identifier of the cohort is in the data that was handed over, nor in Airflow's home.
    words = identifying(site.files)
    for handed_over in (site.folder / "released", site.folder / "dicomdir"):
        assert airflow_home.traces(handed_over, words) == []
    assert airflow_home.traces(site.airflow.home, words | {TOKEN, *linked.values()}) == []

    # Delivered files are removed from the identified copy; the others stay.
    left = {path.stem for path in (site.folder / "identified").rglob("*.dcm")}
    assert len(left) == totals["instances"] - states["delivered"]

    # The next night finds one more study.
    study: dict[str, Any] = {**KUNIGUNDE, **SMALL, "n_images": 3, "study_date": "19960101", "series_number": 3}
    new = write(phantom_series(**study), tmp_path / "new")
    site.archive.store(new)
    before, asked = set(data), len(site.service.calls)
    second = site.night()
    again = site.summary()
    assert (second.state, again["totals"]["new"], again["totals"]["delivered"]) == (
        "success",
        len(new),
        states["delivered"] + len(new),
    )
    after = released(site)
    assert before < set(after) and len(after) == len(before) + len(new)
    pseudonyms = Counter(str(after[uid].PatientID) for uid in set(after) - before)
    assert pseudonyms == {linked[KUNIGUNDE["patient_id"]]: len(new)}
    assert {str(held.SOPInstanceUID) for held in site.research.objects()} == set(after)
    told = [call for call in site.service.calls[asked:] if call.patients]
    assert {patient for call in told for patient in call.patients} <= {THEOBALD["patient_id"]}
