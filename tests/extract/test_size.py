"""Size of a cohort before it is fetched, limits that it exceeds, and the approval that it then needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.config import PacsNode, node_from_connection
from pacsifier_ops.base.errors import ConfigError, NotApproved, TooManySeries
from pacsifier_ops.base.files import read_json, read_jsonl
from pacsifier_ops.base.window import Window
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.size import Size, exceeded_limits, exceeded_space, open_share
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.approvals import APPROVED, COHORT, REJECTED
from pacsifier_ops.runs.folder import Run
from tests.support.embedded import extract, node_of, planned_run, series, serving

pytestmark = pytest.mark.archive

NODE = PacsNode("pacs", "localhost", 104, "PACS", max_associations=2)
IMAGES = [*series("P1", n_images=3), *series("P2", modality="MR"), *series("P3")]
ROWS = [{"PatientID": "P?"}]


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with serving(IMAGES, tmp_path / "archive") as running:
        yield running


# Estimates


def test_a_cohort_in_numbers() -> None:
    cohort = [("CT", 400, 0), ("CT", None, 0), ("MR", 100, 40), ("CT", 300, 300), ("MR", None, 7), ("", 0, 0)]
    size = Size.of(cohort, replace(NODE, archive_images=66_000), free=1.0)
    assert (size.series, size.images, size.guessed) == (4, 660, 1)
    assert size.gigabytes == pytest.approx(600 * 0.53e-3 + 60 * 0.2e-3)
    assert size.hours == pytest.approx((4 * 0.5 + 660 * 0.02 + 330 / 10) / 2 / 3600)
    assert size.share == pytest.approx(1.0) and not exceeded_space([size])
    told = " ".join(size.sentences())
    assert "4 series, about 660 images" in told and "1 % of the archive" in told and "of 1 series" in told
    assert "they take about 330 MB of 1.0 GB free, and 24.1 s" in told


def test_pauses_and_closed_hours_take_their_time() -> None:
    cohort = [("CT", 100, 0)] * 11
    at_once = Size.of(cohort, NODE, 1.0).hours
    paced = Size.of(cohort, replace(NODE, batch_size=5, batch_wait_time=1800), 1.0).hours
    assert paced == pytest.approx(at_once + 1.0)
    assert Size.of(cohort, replace(NODE, window="20:00-02:00"), 1.0).hours == pytest.approx(4 * at_once)
    for nothing in ([], [("CT", 100, 100)]):
        size = Size.of(nothing, replace(NODE, batch_size=5, batch_wait_time=1800), 0.0)
        assert (size.series, size.hours) == (0, 0.0) and not exceeded_space([size])


@pytest.mark.parametrize(
    ("window", "weekends", "hours"),
    [("", True, 168), ("20:00-06:00", False, 70), ("20:00-06:00", True, 98), ("20:00-06:00,05:00-08:00", False, 84)],
)
def test_the_part_of_the_week_that_a_window_is_open(window: str, weekends: bool, hours: int) -> None:
    assert open_share(Window.parse(window, weekends)) * 168 == pytest.approx(hours)


def test_every_limit_that_is_exceeded_is_named() -> None:
    size = Size(series=12, images=4000, guessed=0, gigabytes=12.34, hours=5.25, share=7.5, free=3.0)
    assert exceeded_limits(size, NODE) == []
    limits: dict[str, Any] = {
        "max_series": 11,
        "max_images": 3999,
        "max_gigabytes": 12.0,
        "max_hours": 5.0,
        "max_share": 5.0,
    }
    assert exceeded_limits(size, replace(NODE, **limits, archive_images=1)) == [
        "12 series (about 4000 images), more than the 11 that pacs allows",
        "about 4,000 images, more than the 3,999 that pacs allows",
        "about 12.3 GB, more than the 12 that pacs allows",
        "about 5.25 hours, more than the 5 that pacs allows",
        "about 7.5 % of the archive, more than the 5 that pacs allows",
    ]
    assert exceeded_space([size]) == ["about 12.3 GB, more than the 3 that are free for them"]
    at_the_limits: dict[str, Any] = {
        "max_series": 12,
        "max_images": 4000,
        "max_gigabytes": 12.34,
        "max_hours": 5.25,
        "max_share": 7.5,
    }
    assert exceeded_limits(size, replace(NODE, **at_the_limits, archive_images=1)) == []


def test_limits_are_fields_of_the_connection() -> None:
    extra = {"called_aet": "PACS", "max_images": "500000", "max_gigabytes": 250, "max_share": 10, "archive_images": 5}
    node = node_from_connection("pacs", "localhost", 104, extra)
    assert (node.max_images, node.max_gigabytes, node.max_hours, node.max_share) == (500000, 250.0, 0.0, 10.0)
    refused = {"max_hours is negative": {"max_hours": -1}, "max_share is a percentage": {"archive_images": 0}}
    for words, wrong in {**refused, "max_share is above 100": {"max_share": 101}}.items():
        with pytest.raises(ConfigError, match=words):
            node_from_connection("pacs", "localhost", 104, {**extra, **wrong})


# Ends of the run, and approvals


LIMITS: list[dict[str, Any]] = [
    {"max_series": 2},
    {"max_images": 4},
    {"max_gigabytes": 1e-6},
    {"max_hours": 1e-6},
    {"max_share": 1.0, "archive_images": 100},
]


@pytest.mark.parametrize("limits", LIMITS, ids=lambda limits: next(iter(limits)))
def test_without_approval_a_large_cohort_ends_the_run(
    pacs: EmbeddedPacs, tmp_path: Path, limits: dict[str, Any]
) -> None:
    with pytest.raises(TooManySeries, match="that pacs allows without an approval; nothing was fetched"):
        planned_run(node_of(pacs, **limits), ROWS, tmp_path / "out")
    assert not pacs.retrieves and not list((tmp_path / "out").glob("sub-*"))
    assert extract(node_of(pacs, **limits), ROWS, tmp_path / "out", retrieve="none").verdict == "complete"


@pytest.mark.parametrize("retrieve", ["save", "move"])
def test_nothing_is_fetched_before_the_approval(pacs: EmbeddedPacs, tmp_path: Path, retrieve: str) -> None:
    with EmbeddedPacs(aet="ARCHIVE2", folder=tmp_path / "second") as second:
        pacs.destinations["ARCHIVE2"] = (second.host, second.port)
        node = node_of(pacs, max_series=2, max_images=4, move_aet="ARCHIVE2")
        run, units = planned_run(node, ROWS, tmp_path / "out", approval=True, retrieve=retrieve)
        act = steps.retrieve if retrieve == "save" else steps.move
        asked = steps.question(run)
        assert asked and "3 series (about 5 images), more than the 2" in asked.sentences[0]
        assert "5 images" in asked.sentences[1]
        with pytest.raises(NotApproved, match="nobody has approved the cohort"):
            act(run, node, units[0])
        approvals.ask(run, COHORT, asked.digest)
        approvals.decide(run, COHORT, asked.digest, REJECTED, "somebody")
        with pytest.raises(NotApproved, match="rejected"):
            act(run, node, units[0])
        assert steps.question(run) == asked and not pacs.retrieves
        approvals.decide(run, COHORT, asked.digest, APPROVED, "somebody")
        assert steps.question(run) is None
        for unit in units:
            act(run, node, unit)
    assert steps.report(run).verdict == "complete"


def test_an_approval_is_valid_for_the_same_plan_only(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    node = node_of(pacs, max_series=1)
    run, units = planned_run(node, ROWS, tmp_path / "out", approval=True)
    asked = steps.question(run)
    assert asked
    approvals.ask(run, COHORT, asked.digest)
    approvals.decide(run, COHORT, asked.digest, APPROVED, "somebody")
    steps.retrieve(run, node, units[0])
    _reverse_found(run)
    assert steps.plan(run, node).units == units and steps.question(run) is None
    steps.retrieve(run, node, units[0])
    pacs.add(write(series("P4"), tmp_path / "new"))
    steps.find(run, node, 0)
    steps.plan(run, node)
    again = steps.question(run)
    assert again and again.digest != asked.digest
    with pytest.raises(NotApproved, match="changed since it was approved"):
        steps.retrieve(run, node, units[0])
    (run.folder / "plan.json").unlink()
    with pytest.raises(NotApproved, match="nothing was planned"):
        steps.retrieve(run, node, units[0])


def _reverse_found(run: Run) -> None:
    """Return the responses in reverse order, as an archive may."""
    head, *found = read_jsonl(run.part("found", 0))
    run.write_part("found", 0, [head, *reversed(found)])


def test_a_cohort_larger_than_the_free_space_needs_approval(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    for approval, exceeds in ((True, 1), (False, 0)):  # an estimate does not end a run
        run, _ = planned_run(node_of(pacs), [{"PatientID": "P1"}], tmp_path / "out", approval=approval)
        head, (study_uid, series_uid, attributes, *rest) = read_jsonl(run.part("found", 0))
        attributes |= {"Modality": "SM", "NumberOfSeriesRelatedInstances": str(10**9)}
        run.write_part("found", 0, [head, [study_uid, series_uid, attributes, *rest]])
        steps.plan(run, node_of(pacs))
        sentences = read_json(run.folder / "plan.json")["exceeds"]
        assert len(sentences) == exceeds and all("300,000,000 GB, more than the" in text for text in sentences)


def test_a_cohort_within_the_limits_needs_no_approval(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    run, units = planned_run(node_of(pacs, max_series=3), ROWS, tmp_path / "out", approval=True)
    assert steps.question(run) is None and read_json(run.folder / "plan.json")["exceeds"] == []
    steps.retrieve(run, node_of(pacs), units[0])


def test_fetched_instances_do_not_count(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    extract(node_of(pacs), ROWS, tmp_path / "out")
    pacs.add(write(series("P4", n_images=2), tmp_path / "new"))
    account = extract(node_of(pacs, max_series=1, max_images=2), ROWS, tmp_path / "out")
    assert (account.verdict, account.totals()["received"]) == ("complete", 2)
    for path in (tmp_path / "out").glob("sub-P1/**/*.dcm"):
        path.unlink()
    with pytest.raises(TooManySeries, match="finds about 3 images, more than the 2"):
        planned_run(node_of(pacs, max_images=2), ROWS, tmp_path / "out")


def test_the_window_of_a_run_comes_before_that_of_the_node(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    node = node_of(pacs, window="20:00-06:00")
    run, _ = planned_run(node, ROWS, tmp_path / "out", window="00:00-24:00")
    assert steps.node_with_overrides(node, steps.Request.of(run)).retrieval_window == Window.parse("00:00-24:00")
    with pytest.raises(ConfigError, match="window is not a time of day"):
        planned_run(node, ROWS, tmp_path / "out", window="at night")
