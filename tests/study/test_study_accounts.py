"""The account of a study: every instance of the cohort is in exactly one state, whatever happened to it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import InputError
from pacsifier_ops.base.files import read_json, write_json
from pacsifier_ops.deid.run import EXCLUDED, QUARANTINED
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.pseudonyms.secret import project_folder
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, UNBALANCED
from pacsifier_ops.runs.folder import Run, stage_run
from pacsifier_ops.study import steps
from pacsifier_ops.study.accounts import (
    DELIVERED,
    MISSING,
    STATES,
    UNVERIFIABLE,
    Loss,
    StudyAccount,
)
from pacsifier_ops.study.closing import close
from pacsifier_ops.study.release import may_hand_over, stock_of
from pacsifier_ops.study.report import render
from pacsifier_ops.study.run import ANONYMIZE, DICOMDIR, DUMPS, NOT_ENDED, NOT_RUN, OFF, PSEUDONYMS, UPLOAD
from tests.support.embedded import node_of, series, serving
from tests.support.study import StudyRun
from tests.support.truth import Truth

pytestmark = pytest.mark.archive

SCREEN: dict[str, Any] = {"secondary_capture": True, "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}
HALF = series("ZQX-71830-KW", "Wurzelbacher^Kunigunde", study_date="20200101", n_images=3)
DAMAGED = series("YVJ-55912-ZS", "Prisma^Vida", study_date="20200102", n_images=2, modality="MR")
DAMAGED[1].PixelData += b"\1" * len(DAMAGED[1].PixelData)  # twice as long as its dimensions allow
IMAGES = [
    *HALF,
    *series("ZQX-71830-KW", "Wurzelbacher^Kunigunde", study_date="20200101", series_number=2, n_images=2),
    *series("YVJ-55912-ZS", "Prisma^Vida", study_date="20200102", series_number=9, **SCREEN),
    *DAMAGED,
    *series("UNK-40404-ZZ", "Niemand^Nina", study_date="20200103", n_images=2),
]
WITHHELD, UNFIT = str(HALF[1].SOPInstanceUID), str(DAMAGED[1].SOPInstanceUID)
ROWS = [
    {"PatientID": "ZQX-71830-KW"},
    {"PatientID": "ZQX-71830-KW", "Modality": "CT"},
    {"PatientID": "YVJ-55912-ZS"},
    {"PatientID": "UNK-40404-ZZ"},
    {"PatientID": "NIX-00000-XX"},
]
GOOD = {DELIVERED: 5, EXCLUDED: 1, QUARANTINED: 3, MISSING: 1}


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with serving(IMAGES, tmp_path / "archive") as running:
        running.faults.withhold = {WITHHELD}
        yield running


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(folder))
    (folder / "mapping.csv").write_text("ZQX-71830-KW,P0001\nYVJ-55912-ZS,P0002\n")
    return folder


@contextmanager
def other_node(folder: Path) -> Iterator[tuple[EmbeddedPacs, PacsNode]]:
    with EmbeddedPacs(aet="RESEARCH", folder=folder) as there:
        yield there, PacsNode("research", there.host, there.port, there.aet, retry_wait=0.005)


def night(pacs: EmbeddedPacs, data: Path, rows: list[dict[str, str]] = ROWS, **given: Any) -> StudyRun:
    return StudyRun(node_of(pacs), data, rows, {"source": "custom", "mappingfile": "mapping.csv", **given})


def counted(account: StudyAccount) -> dict[str, int]:
    """The number of instances in each state, without zeros; every instance is in one state."""
    totals = account.totals()
    assert account.balanced and totals["instances"] == sum(totals[state] for state in STATES)
    assert (
        sum(loss.instances for loss in account.losses())
        == totals["instances"] - totals[DELIVERED] - totals[UNVERIFIABLE]
    )
    return {state: totals[state] for state in STATES if totals[state]}


def fates(archive: Path, released: Path, confirmed: set[str] | None) -> dict[str, str]:
    """The state of every instance of the archive by SOP Instance UID, found out from files alone.

    Args:
        confirmed: UIDs that the destination holds; None: there is none.
    """
    (table,) = (project_folder("p") / "data_sets").glob("*/uid_map.csv")
    with table.open(encoding="utf-8", newline="") as stream:
        old = {line["new"]: line["old"] for line in csv.DictReader(stream)}
    there = {str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in released.rglob("*.dcm")}
    good = {old[uid] for uid in there if confirmed is None or uid in confirmed}
    found = {}
    for instance in Truth.of(archive.rglob("*.dcm")).instances:
        if instance.uid in good:
            found[instance.uid] = DELIVERED
        elif "SCREEN SAVE" in instance.values("ImageType"):
            found[instance.uid] = EXCLUDED
        elif instance.uid == UNFIT or instance.patient.startswith("UNK"):
            found[instance.uid] = QUARANTINED
        else:
            found[instance.uid] = MISSING
    return found


def test_every_instance_is_in_exactly_one_state_by_an_independent_count(
    pacs: EmbeddedPacs, data: Path, tmp_path: Path
) -> None:
    study = night(pacs, data, upload="research")
    study.make()
    study.release()
    with other_node(tmp_path / "research") as (research, node):
        research.faults.store_status, research.faults.store_status_from = 0xA900, 4
        study.upload(node)
        account = close(study.run)
        truth = fates(tmp_path / "archive", study.folder("released"), set(research.stored))
    assert counted(account) == Counter(truth.values()) == {**GOOD, DELIVERED: 4, MISSING: 2}
    archive = Truth.of((tmp_path / "archive").rglob("*.dcm"))
    for one in account.series:
        held = archive.of_series([one.series_uid])
        assert one.instances == one.expected == len(held)
        assert {s: getattr(one, s) for s in STATES if getattr(one, s)} == Counter(truth[uid] for uid in held)
    for row, asked in zip(account.rows, ROWS, strict=True):
        held = archive.of_series(archive.series(asked))
        assert {s: n for s in STATES if (n := row.counts.get(s, 0))} == Counter(truth[uid] for uid in held)
    assert account.verdict == INCOMPLETE and account.confirmed() == {"upload": 4}
    assert Loss(QUARANTINED, "anonymize", "its patient has no pseudonym", 2) in account.losses()
    assert Loss(EXCLUDED, "anonymize", "screen-save", 1) in account.losses()
    at = {(loss.at, loss.reason.split(":")[0]): loss.instances for loss in account.losses() if loss.state == MISSING}
    assert at == {("extract", "not received"): 1, ("upload", "not confirmed"): 1}
    assert {s.stage: s.verdict for s in account.stages}["pseudonyms"] == INCOMPLETE
    assert account.source == "custom" and sum(account.sources.values()) == 2
    assert [(one.who, one.word) for one in account.decisions] == [("Dr. Data Manager", "approved")]
    assert account.rules and account.method and account.codes


def test_a_study_with_excluded_and_quarantined_instances_can_be_complete(pacs: EmbeddedPacs, data: Path) -> None:
    pacs.faults.withhold = set()
    study = night(pacs, data)
    study.make()
    study.release()
    account = close(study.run)
    assert counted(account) == {DELIVERED: 6, EXCLUDED: 1, QUARANTINED: 3} and account.verdict == COMPLETE
    summary = account.summary()
    assert (summary["action"], summary["verdict"], summary["rows"]) == ("study", COMPLETE, {"found": 4, "empty": 1})
    assert summary["modalities"] == {"CT": 4, "MR": 1} and summary["stages"]["upload"] == OFF


def test_in_the_next_run_removed_files_count_as_received_and_new_ones_as_new(
    pacs: EmbeddedPacs, data: Path, tmp_path: Path
) -> None:
    with other_node(tmp_path / "research") as (_, node):
        for again in range(2):
            study = night(pacs, data, upload="research", remove_identified="remove")
            study.make()
            study.release()
            study.upload(node)
            study.remove(node)
            account = close(study.run)
            assert counted(account) == (GOOD if not again else {DELIVERED: 8, EXCLUDED: 1, QUARANTINED: 3})
            if not again:
                assert (account.removal.removed, account.totals()["new"]) == (5, 9)
                pacs.faults.withhold = set()
                new = series("ZQX-71830-KW", "Wurzelbacher^Kunigunde", study_date="20210101", n_images=2)
                pacs.add(write(new, tmp_path / "new"))
                pacs.sent.clear()
        assert sorted(pacs.sent) == sorted([WITHHELD, *(str(image.SOPInstanceUID) for image in new)])
        assert account.totals() | {"new": 3, "received": 12, "released": 8} == account.totals()
        assert (account.removal.removed, account.removal.handed_on, account.verdict) == (3, 5, COMPLETE)
        # A table that asks for less: the rest of the data set is of earlier tables.
        study = night(pacs, data, ROWS[2:3], upload="research")
        study.make()
        study.release()
        study.upload(node)
        account = close(study.run)
        assert counted(account) == {DELIVERED: 1, EXCLUDED: 1, QUARANTINED: 1} and account.beyond == 7


def test_instances_that_are_not_released_are_missing_with_a_reason(pacs: EmbeddedPacs, data: Path) -> None:
    study = night(pacs, data)
    study.make()

    def why(verdict: str = INCOMPLETE) -> str:
        account = close(study.run)
        assert counted(account) == {EXCLUDED: 1, QUARANTINED: 3, MISSING: 6} and account.verdict == verdict
        (loss,) = (loss for loss in account.losses() if loss.at == "release")
        assert loss.instances == 5
        return loss.reason

    assert why() == "not released: the run ended before anybody was asked"
    steps.check(study.run)
    digest = stock_of(study.run).digest
    approvals.ask(study.run, approvals.RELEASE, digest)
    assert why() == "not released: nobody has answered" and close(study.run).asked == [approvals.RELEASE]
    approvals.decide(study.run, approvals.RELEASE, digest, approvals.REJECTED, "somebody")
    assert why(approvals.REJECTED) == "not released: it was rejected"
    approvals.decide(study.run, approvals.RELEASE, digest, approvals.APPROVED, "somebody")
    assert why().startswith("not released: the release did not end")
    (leak := study.folder("de-identified") / "notes.txt").write_text("of Wurzelbacher, Kunigunde (ZQX-71830-KW)")
    steps.check(study.run)
    assert why() == "not released: identifiers of the cohort were found in the data set"
    leak.unlink()
    study.release()
    assert counted(close(study.run)) == GOOD
    (gone,) = list(study.folder("released").rglob("*MR/*.dcm"))
    gone.unlink()
    losses = {loss.reason: loss.instances for loss in close(study.run).losses() if loss.at == "release"}
    assert losses == {"released, and not there any more as it was released": 1}


def test_the_account_closes_whatever_the_stages_have_left(pacs: EmbeddedPacs, data: Path) -> None:
    with pytest.raises(InputError):
        close(Run.fresh())
    study = night(pacs, data)
    account = close(study.run)
    assert (account.verdict, counted(account), account.stage("extract").verdict) == (INCOMPLETE, {}, NOT_RUN)
    study.fetch()
    account = close(study.run)
    assert counted(account) == {MISSING: 10}
    assert {(loss.at, loss.instances) for loss in account.losses()} == {("extract", 1), ("anonymize", 9)}
    study.link()
    study.deidentify(units=2)
    account = close(study.run)
    assert counted(account) == {QUARANTINED: 2, MISSING: 8} | {
        state: count for state, count in counted(account).items() if state == EXCLUDED
    }
    # Files that are removed before they are de-identified.
    (lost,) = (one for one in account.series if one.folder.startswith("sub-UNK"))
    for file in (study.folder("identified") / lost.folder).iterdir():
        file.unlink()
    study.deidentify()
    study.release()
    account = close(study.run)
    assert counted(account) == {DELIVERED: 5, EXCLUDED: 1, QUARANTINED: 1, MISSING: 3}
    assert Loss(MISSING, "extract", "received, and gone before it was de-identified", 2) in account.losses()


def test_without_a_list_or_count_of_the_archive_instances_are_unverifiable(pacs: EmbeddedPacs, data: Path) -> None:
    pacs.faults.image_level = False
    pacs.faults.unreturned_keys = {"NumberOfSeriesRelatedInstances"}
    pacs.faults.withhold = set()
    study = night(pacs, data)
    study.make()
    study.release()
    account = close(study.run)
    assert counted(account) == {EXCLUDED: 1, QUARANTINED: 3, UNVERIFIABLE: 6}
    assert account.verdict == INCOMPLETE and all(one.expected is None for one in account.series)


def test_instances_that_were_not_asked_for_count_as_quarantined(pacs: EmbeddedPacs, data: Path, tmp_path: Path) -> None:
    pacs.faults.intruders = write(series("XTR-1", "Other^Person"), tmp_path / "other")
    study = night(pacs, data, ROWS[:1])
    study.fetch()
    account = close(study.run)
    kept_out = account.stage("extract").totals["quarantined"]
    assert kept_out and counted(account) == {MISSING: 5, QUARANTINED: kept_out}


def test_a_study_that_finds_nothing_is_complete(pacs: EmbeddedPacs, data: Path) -> None:
    study = night(pacs, data, ROWS[4:], upload="node", dicomdir=True, karnak="gateway", album_name="A")
    study.make()
    study.release()
    with other_node(data.parent / "other") as (_, node):
        study.upload(node)
        study.tag_and_send(node)
    account = close(study.run)
    assert (account.verdict, account.rows[0].state, account.totals()["series"]) == (COMPLETE, "empty", 0)
    assert account.released and not may_hand_over(study.run, DICOMDIR)  # a manifest makes no file-set


@pytest.mark.parametrize("stage", [PSEUDONYMS, ANONYMIZE, DUMPS, UPLOAD])
def test_a_study_that_finds_nothing_tells_which_stage_failed(stage: str, pacs: EmbeddedPacs, data: Path) -> None:
    """It may fail again when there is data, and a person signs that all was done."""
    study = night(pacs, data, ROWS[4:], upload="node")
    study.make()
    study.release()
    with other_node(data.parent / "other") as (_, node):
        study.upload(node)
    for kept, verdict in (("summary", NOT_ENDED), ("request", NOT_RUN)):
        stage_run(study.run, stage).forget([kept])
        account = close(study.run)
        assert (account.verdict, account.stage(stage).verdict) == (INCOMPLETE, verdict)
        assert [one.stage for one in account.bad_stages] == [stage]
        assert "not complete" in render(account)


def test_without_approval_of_the_cohort_earlier_instances_count_and_the_rest_is_missing(
    pacs: EmbeddedPacs, data: Path
) -> None:
    study = night(pacs, data)
    study.fetch()
    stage = stage_run(study.run, "extract")
    stage.forget(["results"])  # as in a run that ends at the question
    approvals.ask(stage, approvals.COHORT, "d")
    account = close(study.run)
    assert account.totals()["received"] == 9 and account.asked == [approvals.COHORT]
    reason = "not received: the cohort is above the limits, and "
    assert Loss(MISSING, "extract", f"{reason}nobody has answered", 1) in account.losses()
    approvals.decide(stage, approvals.COHORT, "d", approvals.REJECTED, "somebody")
    assert Loss(MISSING, "extract", f"{reason}was rejected", 1) in close(study.run).losses()


def test_without_an_archive_the_files_of_the_folder_are_expected(pacs: EmbeddedPacs, data: Path) -> None:
    night(pacs, data).fetch()
    study = night(pacs, data, without=("extract", "dumps"))
    study.link()
    study.deidentify()
    study.release()
    account = close(study.run)
    assert counted(account) == {DELIVERED: 5, EXCLUDED: 1, QUARANTINED: 3} and not account.rows
    assert account.verdict == COMPLETE and account.totals()["expected"] == 9


def test_without_de_identification_it_ends_at_the_gateway(pacs: EmbeddedPacs, data: Path, tmp_path: Path) -> None:
    rows = ROWS[:3]
    study = night(pacs, data, rows, without=("anonymize", "dumps"), karnak="gateway", album_name="Album")
    study.fetch()
    study.link()
    study.release()
    with other_node(tmp_path / "gateway") as (gateway, node):
        gateway.faults.store_status, gateway.faults.store_status_from = 0xA900, 5
        study.tag_and_send(node)
        account = close(study.run)
        assert counted(account) == {DELIVERED: 5, MISSING: 3} and len(gateway.stored) == 5
        assert account.confirmed() == {"karnak_upload": 5} and account.totals()["released"] == 7
        gateway.faults.store_status = None
        study.upload(node, "karnak_upload")
        assert counted(close(study.run)) == {DELIVERED: 7, MISSING: 1}


def test_an_unbalanced_stage_makes_the_study_unbalanced(pacs: EmbeddedPacs, data: Path) -> None:
    study = night(pacs, data)
    study.fetch()
    path = stage_run(study.run, "extract").folder / "summary.json"
    write_json(path, {**read_json(path), "verdict": UNBALANCED})
    account = close(study.run)
    assert account.verdict == UNBALANCED and "extract" in account.discrepancies[0]
