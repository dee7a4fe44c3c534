"""Findings of a probe about Orthanc and dcmqrscp, whose behaviour is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.probe import page_of, probe_into
from pacsifier_ops.probe.findings import FILTERED, MATCHED, NO, NOT_TESTED, UNDECIDABLE, YES, Findings
from pacsifier_ops.probe.page import to_text
from pacsifier_ops.query.keys import KEYS, MODALITIES
from pacsifier_ops.runs.folder import Run
from tests.conftest import Pacs
from tests.support.airflow_home import identifiers, traces

pytestmark = pytest.mark.peers

#: Differences from an archive without faults.
FACTS = {
    "orthanc": {"characters": NO, "availability": NO},
    "dcmqrscp": {"relational": NO, "count": NO, "sop_classes": NO, "availability": NO},
}
KEY_VERDICTS = {
    # Matches on ImageType with wildcards only, and neither returns nor matches keys that are not in its tables.
    "orthanc": {"ImageType": FILTERED},
    "dcmqrscp": dict.fromkeys(
        (
            "SeriesDescription",
            "ProtocolName",
            "DeviceSerialNumber",
            "ImageType",
            "SequenceName",
            "AcquisitionDate",
            "BodyPartExamined",
            "InstitutionName",
            "StationName",
        ),
        UNDECIDABLE,
    )
    | {MODALITIES: FILTERED},
}


def probe(archive: Pacs, run: Run, **fields: int | str) -> Findings:
    peer = archive.peer
    node = PacsNode(peer.name, "127.0.0.1", peer.port, peer.aet, receiver_port=peer.receiver_port, retry_wait=0.01)
    return probe_into(run, PacsNode(**(vars(node) | fields)))


def test_what_the_peers_do(archive: Pacs, state_root: Path, tmp_path: Path) -> None:
    run = Run.fresh()
    findings = probe(archive, run)
    states = {question: fact.state for question, fact in findings.facts.items()}
    assert states == dict.fromkeys(states, YES) | {"kept": NOT_TESTED} | FACTS[archive.peer.name], to_text(findings)
    verdicts = {key.keyword: key.verdict for key in findings.keys}
    # A series with a SequenceName is in the sample by chance only.
    expected = dict.fromkeys(KEYS, MATCHED) | KEY_VERDICTS[archive.peer.name]
    assert verdicts in (expected, expected | {"SequenceName": NOT_TESTED})
    studies = {str(dcmread(path, stop_before_pixels=True).StudyInstanceUID) for path in archive.peer.held}
    assert findings.of("study").value == findings.of("result_limit").value == len(studies)
    assert findings.of("peer").value == "OFFIS_DCMTK_367"
    assert findings.settings["method"] == "auto"
    assert findings.queries < 200
    # Some names of the cohort are words that are on any page.
    words = {word for word in identifiers(archive.peer.held) if len(word) > 12 and word.isascii()}
    assert not traces(state_root, words)
    assert page_of(run).exists() and not (run.folder / "workplace").exists()


def test_a_receiver_that_is_not_declared(archive: Pacs) -> None:
    findings = probe(archive, Run.fresh(), receiver_aet="STRANGER")
    assert findings.of("move").state == NO and "STRANGER" in findings.of("move").text
    assert findings.settings["method"] == "get"
    assert any("STRANGER" in text for text in findings.ask_for)


def test_an_unknown_calling_ae_title(archive: Pacs) -> None:
    """dcmqrscp rejects the association; Orthanc accepts it, and aborts at the first query."""
    findings = probe(archive, Run.fresh(), calling_aet="STRANGER")
    assert not findings.usable
    assert findings.reachable == (archive.peer.name == "orthanc")
    assert "STRANGER" in to_text(findings)
