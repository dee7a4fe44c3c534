"""Findings of a probe about the embedded PACS, with each of its faults."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from pydicom.dataset import Dataset

from pacsifier_ops.base.config import EXTRA_FIELDS, PacsNode, node_from_connection
from pacsifier_ops.base.errors import Cancelled
from pacsifier_ops.dimse.receiver import StorageReceiver
from pacsifier_ops.embedded.pacs import EmbeddedPacs, Faults
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.extract.receiving import announce
from pacsifier_ops.probe import asking as probe_asking
from pacsifier_ops.probe import probe_into, run_probe
from pacsifier_ops.probe.findings import (
    FILTERED,
    MATCHED,
    MISSES,
    NO,
    NOT_TESTED,
    PARTLY,
    QUESTIONS,
    UNDECIDABLE,
    YES,
    Findings,
    KeyFinding,
)
from pacsifier_ops.probe.page import to_html, to_text
from pacsifier_ops.query.keys import KEYS, MODALITIES, Level
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.leases import shared
from tests.support import airflow_home
from tests.support.embedded import as_new, node_of, series, serving
from tests.support.peers import free_port

pytestmark = pytest.mark.archive

TODAY = dt.date.today()
RICH: dict[str, Any] = {
    "AccessionNumber": "ACC1",
    "StudyDescription": "Head",
    "SeriesDescription": "Native",
    "ProtocolName": "Head",
    "DeviceSerialNumber": "SN1",
    "SequenceName": "tfl3d",
    "AcquisitionDate": "20200301",
    "ImageType": ["ORIGINAL", "PRIMARY"],
    "PatientBirthDate": "19660401",
    "InstitutionName": "Hospital",
    "StationName": "CT1",
    "ReferringPhysicianName": "House^Gregory",
}


def studies_on(*dates: str, **attributes: Any) -> list[Dataset]:
    """Make a study for each of these dates, each of another patient."""
    many = (series(f"P{i}", f"Doe^J{i}", study_date=date, **(RICH | attributes)) for i, date in enumerate(dates))
    return [image for images in many for image in images]


def days_ago(*days: int) -> list[str]:
    return [(TODAY - dt.timedelta(days=n)).strftime("%Y%m%d") for n in days]


COHORT = studies_on(*days_ago(0, 1, 3, 9, 40, 400), "19930207", charset="ISO_IR 100")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPacs]:
    with serving(COHORT, tmp_path_factory.mktemp("cohort")) as pacs:
        yield pacs


@pytest.fixture
def pacs(running: EmbeddedPacs) -> EmbeddedPacs:
    running.peak_associations = 0
    return as_new(running)


@pytest.fixture
def archive_with(tmp_path: Path) -> Iterator[Callable[..., EmbeddedPacs]]:
    """Return a function that starts an archive with other images."""
    started: list[EmbeddedPacs] = []

    def start(images: list[Dataset], kind: type[EmbeddedPacs] = EmbeddedPacs, **faults: Any) -> EmbeddedPacs:
        pacs = kind(faults=Faults(**faults)).start()
        started.append(pacs)
        pacs.add(write(images, tmp_path / "held"))
        pacs.destinations["PACSIFIER"] = ("127.0.0.1", free_port())
        return pacs

    yield start
    for pacs in started:
        pacs.stop()


def probe(pacs: EmbeddedPacs | PacsNode, **fields: Any) -> Findings:
    node = node_of(pacs, **fields) if isinstance(pacs, EmbeddedPacs) else pacs
    run = Run.fresh()
    findings = probe_into(run, node)
    assert json.loads((run.folder / "probe.json").read_text()) == json.loads(json.dumps(findings.as_json()))
    assert not (run.folder / "workplace").exists()
    return findings


def key(findings: Findings, keyword: str) -> KeyFinding:
    (found,) = (key for key in findings.keys if key.keyword == keyword)
    return found


def states(findings: Findings) -> dict[str, str]:
    return {question: fact.state for question, fact in findings.facts.items()}


def test_an_archive_without_faults(pacs: EmbeddedPacs) -> None:
    findings = probe(pacs)
    asked = [name for questions in QUESTIONS.values() for name in questions]
    assert states(findings) == dict.fromkeys(asked, YES) | {"kept": NOT_TESTED, "characters": PARTLY}
    assert {key.keyword: (key.verdict, key.returned) for key in findings.keys} == {
        key.keyword: (MATCHED, key.level.value) for key in KEYS.values()
    }
    assert findings.reachable and findings.usable
    assert findings.of("result_limit").value == 7
    assert findings.settings["method"] == "auto" and "result_limit" not in findings.settings
    assert len(findings.ask_for) == 1  # for UTF-8


def test_the_settings_are_those_of_a_connection(pacs: EmbeddedPacs) -> None:
    node = node_of(pacs, batch_size=50, batch_wait_time=2.5, max_associations=2, tls_password="secret")
    settings = probe(node).settings
    assert set(settings) <= set(EXTRA_FIELDS)
    again = node_from_connection(node.name, node.host, node.port, settings, "secret")
    assert again == node


def test_a_probe_puts_little_load_on_the_archive(pacs: EmbeddedPacs) -> None:
    findings = probe(pacs)
    assert findings.queries == len(pacs.queries) < 150
    assert pacs.peak_associations == 1
    # Midnight may have passed since this file was read.
    assert str(pacs.queries[0][1].StudyDate) in {f"{today}-{today}" for today in days_ago(0, -1)}
    boundless = [level for level, identifier in pacs.queries if not any(map(identifier.get, (*KEYS, "SOPInstanceUID")))]
    assert boundless == ["STUDY"]  # all studies, after the ranges had shown that there are few
    assert [(service, level) for service, level, _ in pacs.retrieves] == [("C-GET", "IMAGE"), ("C-MOVE", "IMAGE")]
    assert len(pacs.sent) == 2 and len(set(pacs.sent)) == 1


def test_the_ranges_end_after_enough_studies(pacs: EmbeddedPacs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacsifier_ops.probe.sample.ENOUGH", 3)
    findings = probe(pacs)
    assert findings.of("study").value == 3
    assert findings.sample.startswith("3 studies of the last 7 days")
    assert all(str(identifier.get("StudyDate")) for level, identifier in pacs.queries[:4])


def test_a_too_long_answer_is_aborted(archive_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_asking, "LONGEST_ANSWER", 5)
    findings = probe(archive_with(studies_on(*["19990101"] * 4, *["20000101"] * 4)))
    assert findings.of("result_limit").state == YES
    assert findings.of("study").value == 4
    assert findings.of("get").state == YES


@pytest.mark.parametrize("dates", [days_ago(0, 1, 2, 3, 4, 20), ["20190101"] * 6, ["19930101", "19930104"] * 3])
def test_a_silent_limit(archive_with: Any, dates: list[str]) -> None:
    images = [
        image for i, date in enumerate(dates) for image in series(f"P{i}", study_date=date, study_time=f"10150{i}")
    ]
    findings = probe(archive_with(images, result_limit=3))
    limit = findings.of("result_limit")
    assert (limit.state, limit.value) == (NO, 3)
    assert findings.settings["result_limit"] == 3
    assert any("limit" in text for text in findings.ask_for)


def test_a_limit_with_a_status(archive_with: Any) -> None:
    findings = probe(archive_with(studies_on(*days_ago(0, 1, 2, 3, 20)), result_limit=3, result_limit_status=0xA700))
    limit = findings.of("result_limit")
    assert (limit.state, limit.value) == (PARTLY, 3)
    assert "result_limit" not in findings.settings
    assert findings.usable and findings.of("get").state == YES


def test_a_limit_that_has_been_removed(pacs: EmbeddedPacs) -> None:
    assert "result_limit" not in probe(pacs, result_limit=500).settings


def test_an_archive_that_is_strictly_hierarchical(pacs: EmbeddedPacs) -> None:
    pacs.faults.relational = False
    findings = probe(pacs)
    assert {name for name, state in states(findings).items() if state == NO} == {
        "series_alone",
        "image_alone",
        "relational",
    }
    assert not findings.keys_with(UNDECIDABLE, MISSES, NOT_TESTED)


def test_an_archive_that_ignores_the_patient_below_a_study(pacs: EmbeddedPacs) -> None:
    pacs.faults.ignored_keys = {"PatientID"}
    findings = probe(pacs)
    assert findings.of("relational").state == NO
    assert key(findings, "PatientID").verdict == FILTERED


def test_an_archive_without_image_level(pacs: EmbeddedPacs) -> None:
    pacs.faults.image_level = False
    findings = probe(pacs)
    assert findings.of("image").state == NO
    assert findings.of("sop_classes").state == NOT_TESTED
    assert {k.keyword for k in findings.keys if k.verdict == NOT_TESTED} == {
        k.keyword for k in KEYS.values() if k.level == "IMAGE"
    }
    assert findings.of("get").state == findings.of("move").state == YES
    assert any("IMAGE level" in text for text in findings.ask_for)


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize(
    ("faults", "verdict", "matched"),
    [
        (("ignored_keys",), FILTERED, False),
        (("unreturned_keys",), MATCHED, True),
        (("emptied_keys",), MATCHED, True),
        (("unindexed_keys",), UNDECIDABLE, None),
        (("ignored_keys", "unreturned_keys"), UNDECIDABLE, False),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else "",
)
def test_verdicts_on_keys(
    pacs: EmbeddedPacs, level: Level, faults: tuple[str, ...], verdict: str, matched: bool | None
) -> None:
    keywords = {key.keyword for key in KEYS.values() if key.level is level and key.vr != "UI"}
    for fault in faults:
        getattr(pacs.faults, fault).update(keywords)
    found = {key.keyword: (key.verdict, key.matched) for key in probe(pacs).keys}
    expected = dict.fromkeys(KEYS, (MATCHED, True)) | dict.fromkeys(keywords, (verdict, matched))
    if level is Level.STUDY and verdict == UNDECIDABLE:
        expected[MODALITIES] = (FILTERED, matched)  # determined from its series
    if level is Level.SERIES and matched:
        # No pattern matches every number, so the key cannot be tried without a value.
        expected["SeriesNumber"] = (NOT_TESTED if faults == ("emptied_keys",) else UNDECIDABLE, None)
    assert found == expected


def test_a_key_that_only_images_show(pacs: EmbeddedPacs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddedPacs, "_answer", _empty_above_images(EmbeddedPacs._answer))
    found = key(probe(pacs), "ProtocolName")
    assert (found.verdict, found.returned) == (MATCHED, "IMAGE")
    pacs.faults.ignored_keys = {"ProtocolName"}
    found = key(probe(pacs), "ProtocolName")
    assert (found.verdict, found.returned) == (FILTERED, "IMAGE")


def _empty_above_images(answer: Any) -> Any:
    def answered(self: EmbeddedPacs, level: str, *rest: Any) -> Dataset:
        made = answer(self, level, *rest)
        if level == "SERIES" and "ProtocolName" in made:
            del made.ProtocolName  # the element belongs to the archive
            made.ProtocolName = ""
        return cast(Dataset, made)

    return answered


class _FindsNothing(EmbeddedPacs):
    """Finds nothing for a ProtocolName, although it returns it."""

    def _answers(self, level: str, identifier: Dataset) -> Iterator[Dataset]:
        return iter(()) if identifier.get("ProtocolName") else super()._answers(level, identifier)


def test_a_key_whose_own_value_finds_nothing(archive_with: Any) -> None:
    findings = probe(archive_with(studies_on("20200101"), kind=_FindsNothing))
    assert key(findings, "ProtocolName").verdict == MISSES
    assert any("ProtocolName" in text for text in findings.ask_for)


class _FailsQuery(EmbeddedPacs):
    """Fails for a query by ProtocolName (0xC311, unable to process)."""

    def _answers(self, level: str, identifier: Dataset) -> Iterator[Dataset]:
        if identifier.get("ProtocolName"):
            raise ValueError("no such column")
        return super()._answers(level, identifier)


def test_a_key_whose_query_fails(archive_with: Any) -> None:
    findings = probe(archive_with(studies_on("20200101"), kind=_FailsQuery))
    assert findings.keys_with(NOT_TESTED) == ["ProtocolName"]
    assert "failed" in key(findings, "ProtocolName").text
    assert findings.of("get").state == YES


@pytest.mark.parametrize("fault", ["ignored_keys", "unindexed_keys"])
def test_ranges_of_dates_that_are_of_no_use(pacs: EmbeddedPacs, fault: str) -> None:
    getattr(pacs.faults, fault).add("StudyDate")
    findings = probe(pacs)
    assert findings.usable and findings.of("study").value == 7
    assert "ranges of StudyDate" in findings.of("study").text
    assert findings.of("get").state == YES


def test_an_archive_without_numbers_of_instances(pacs: EmbeddedPacs) -> None:
    pacs.faults.unindexed_keys = {"NumberOfSeriesRelatedInstances", "SOPClassUID"}
    findings = probe(pacs)
    assert findings.of("count").state == findings.of("sop_classes").state == NO
    assert findings.of("get").state == YES  # by what the modality suggests


def test_an_archive_with_slow_storage(pacs: EmbeddedPacs) -> None:
    assert not any("recall" in text for text in probe(pacs).ask_for)
    pacs.faults.nearline = set(pacs._index["SERIES"])
    pacs.faults.recall = 3600
    pacs.faults.recalling = "nothing"
    findings = probe(pacs)
    assert findings.of("availability").state == YES and findings.of("availability").value
    assert "how long a recall from slow storage takes" in " ".join(findings.ask_for)
    pacs.faults = Faults(unreturned_keys={"InstanceAvailability"})
    assert probe(pacs).of("availability").state == NO


def test_an_archive_without_c_get(pacs: EmbeddedPacs) -> None:
    pacs.faults.get_supported = False
    findings = probe(pacs)
    assert findings.of("services").state == PARTLY and "C-GET" in findings.of("services").text
    assert (findings.of("get").state, findings.of("move").state) == (NO, YES)
    assert findings.settings["method"] == "move"


def test_an_archive_that_does_not_know_our_receiver(pacs: EmbeddedPacs, monkeypatch: pytest.MonkeyPatch) -> None:
    node = node_of(pacs)
    monkeypatch.delitem(pacs.destinations, "PACSIFIER")
    findings = probe(node)
    assert (findings.of("get").state, findings.of("move").state) == (YES, NO)
    assert findings.settings["method"] == "get"
    assert any("PACSIFIER" in text and str(node.receiver_port) in text for text in findings.ask_for)


def test_no_receiver_port(pacs: EmbeddedPacs) -> None:
    findings = probe(pacs, receiver_port=0)
    assert findings.of("move").state == NOT_TESTED and "receiver_port" in findings.of("move").text
    assert findings.settings["method"] == "get"


def test_a_port_that_another_program_has(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    port = pacs.destinations["PACSIFIER"][1]
    with StorageReceiver("OTHER", port, tmp_path / "spool"):
        findings = probe(pacs)
    assert findings.of("move").state == NOT_TESTED and str(port) in findings.of("move").text


def test_the_standing_receiver(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    spool, port = tmp_path / "spool", pacs.destinations["PACSIFIER"][1]
    with StorageReceiver("PACSIFIER", port, spool), closing(_Held(announce(shared(), "PACSIFIER", port, spool))):
        assert probe(pacs).of("move").state == YES
        assert not [path for path in spool.glob("[0-9]*/*") if path.is_file()]


class _Held:
    def __init__(self, lease: Any) -> None:
        self.close = lease.release


@pytest.mark.parametrize("fault", ["withhold", "withhold_silently", "success_without_suboperations"])
def test_an_archive_that_sends_nothing(pacs: EmbeddedPacs, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pacsifier_ops.probe.probing._ARRIVAL_GRACE", 0.05)
    every = {str(image.SOPInstanceUID) for image in COHORT}
    setattr(pacs.faults, fault, every if fault.startswith("withhold") else True)
    findings = probe(pacs)
    assert findings.of("get").state == findings.of("move").state == NO
    assert findings.of("kept").state == NOT_TESTED
    assert "method" not in findings.settings
    assert any("retrieve" in text for text in findings.ask_for)


def test_one_image_that_cannot_be_sent_is_replaced_by_another(pacs: EmbeddedPacs) -> None:
    probe(pacs)
    pacs.faults.withhold = {pacs.sent[0]}
    findings = probe(pacs)
    assert findings.of("get").state == findings.of("move").state == YES


def test_an_abort_may_be_temporary(pacs: EmbeddedPacs) -> None:
    pacs.faults.abort_after = 0
    assert probe(pacs).of("get").state == YES


def test_an_archive_that_holds_nothing(archive_with: Any) -> None:
    findings = probe(archive_with([]))
    assert findings.usable and "no study was found" in findings.of("study").text
    assert {k.verdict for k in findings.keys} == {NOT_TESTED}
    assert findings.of("get").state == findings.of("move").state == findings.of("result_limit").state == NOT_TESTED
    assert "may not see" in to_text(findings)


def test_an_archive_of_old_studies(archive_with: Any) -> None:
    findings = probe(archive_with(studies_on(*["19930207"] * 3)))
    assert findings.of("study").value == 3 and findings.of("get").state == YES
    assert not findings.keys_with(NOT_TESTED, UNDECIDABLE)


@pytest.mark.parametrize(("charset", "state"), [(None, PARTLY), ("ISO_IR 100", NO)])
def test_letters_that_are_lost(archive_with: Any, charset: str | None, state: str) -> None:
    images = series("B200", "Люксембург^Роза", charset="ISO_IR 144", study_date="20200301")
    findings = probe(archive_with(images, answer_charset=charset))
    assert findings.of("characters").state == state
    assert findings.settings.get("letters") == ("lost" if state == NO else None)
    assert any("UTF-8" in text for text in findings.ask_for)


def test_utf_8(archive_with: Any) -> None:
    findings = probe(archive_with(series("B200", "Люксембург^Роза", charset="ISO_IR 192", study_date="20200301")))
    assert findings.of("characters").state == YES and "came whole" in findings.of("characters").text
    assert findings.settings["letters"] == "kept"
    assert not findings.ask_for


@pytest.mark.parametrize("reject", ["called_aet", "transient"])
def test_an_archive_that_rejects_us(pacs: EmbeddedPacs, reject: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pacs.faults.reject = reject
    assert run_probe(node_of(pacs)) == 1
    assert "Not reachable".lower() in capsys.readouterr().out


def test_an_address_without_a_listener(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_probe(PacsNode("pacs", "127.0.0.1", free_port(), "PACS", retry_wait=0.01)) == 1
    assert "cannot connect" in capsys.readouterr().out


def test_an_archive_that_hangs_is_left_alone(pacs: EmbeddedPacs) -> None:
    pacs.faults.stall = 0.4
    findings = probe(pacs, dimse_timeout=0.1)
    assert findings.reachable and not findings.usable
    assert len(pacs.queries) <= probe_asking.FAILURES_IN_A_ROW


def test_it_can_be_stopped(pacs: EmbeddedPacs) -> None:
    asked: list[str] = []
    run = Run.fresh()
    with pytest.raises(Cancelled):
        probe_into(run, node_of(pacs), lambda: len(asked) > 5, asked.append)
    assert not (run.folder / "workplace").exists()


def test_at_a_terminal(pacs: EmbeddedPacs, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_probe(node_of(pacs)) == 0
    said = capsys.readouterr().out
    page = Path(said.rsplit("page: ", 1)[1].strip())
    assert page.stat().st_mode & 0o777 == 0o600
    assert "C-MOVE to us" in said and "C-MOVE to us" in page.read_text()


@pytest.mark.parametrize(
    "faults",
    [
        {},
        {"ignored_keys": {"PatientID", "StudyDate"}},
        {"result_limit": 1},
        {"relational": False},
        {"image_level": False},
    ],
    ids=", ".join,  # names of faults; the order of a set differs in each process
)
def test_no_value_of_a_patient_is_in_it(archive_with: Any, faults: Any, tmp_path: Path, state_root: Path) -> None:
    pacs = archive_with(airflow_home.cohort(), **faults)
    asked: list[str] = []
    run = Run.fresh()
    findings = probe_into(run, node_of(pacs), progress=asked.append)
    assert findings.of("study").value
    words = airflow_home.identifiers((tmp_path / "held").rglob("*.dcm"))
    assert words
    (tmp_path / "said").mkdir()
    (tmp_path / "said" / "text").write_text("\n".join([*asked, to_text(findings), to_html(findings)]))
    assert not airflow_home.traces(tmp_path / "said", words)
    assert not airflow_home.traces(state_root, words)
