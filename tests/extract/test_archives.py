"""Runs with several archives: which archive is queried for which row, and where each series is fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.config import PacsNode, node_names
from pacsifier_ops.base.errors import ConfigError, PacsUnreachable, TooManySeries
from pacsifier_ops.cli.pacsifier import main
from pacsifier_ops.embedded.pacs import EmbeddedPacs, Faults
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.run import Request
from pacsifier_ops.runs.accounts import RunAccount
from pacsifier_ops.runs.folder import Run
from tests.support.command import write_table
from tests.support.embedded import log_of, node_of, series, serving

pytestmark = pytest.mark.archive

OLD = series("P1", study_date="20100101", study_uid="2.25.10", series_uid="2.25.101", n_images=2)
NEW = series("P2", study_date="20200101", study_uid="2.25.20", series_uid="2.25.201", n_images=3)
LATER = series("P1", study_date="20210101", study_uid="2.25.11", series_uid="2.25.111", n_images=1)
#: A study in both: the VNA has all of it, the PACS a part.
BOTH = series("P3", study_date="20150101", study_uid="2.25.30", series_uid="2.25.301", n_images=4)

ROWS = [{"PatientID": name} for name in ("P1", "P2", "P3", "NOBODY")]


@pytest.fixture
def archives(tmp_path: Path) -> Iterator[tuple[EmbeddedPacs, EmbeddedPacs]]:
    """Start a PACS with recent studies, and a VNA with old ones."""
    with (
        serving([*NEW, *LATER, *BOTH[:2]], tmp_path / "pacs") as pacs,
        serving([*OLD, *BOTH], tmp_path / "vna") as vna,
    ):
        yield pacs, vna


def nodes(archives: tuple[EmbeddedPacs, EmbeddedPacs], **fields: Any) -> list[PacsNode]:
    return [node_of(archive, name=name, **fields) for name, archive in zip(("pacs", "vna"), archives, strict=True)]


def extract(asked: list[PacsNode], out: Path, rows: list[dict[str, str]] = ROWS, **request: Any) -> RunAccount:
    run = Run.fresh()
    table = write_table(run.folder / "table.csv", rows)
    for batch in steps.prepare(run, Request(table, out, **request), asked):
        steps.find(run, asked, batch)
    for unit in steps.plan(run, asked).units:
        steps.retrieve(run, asked, unit)
    return steps.report(run)


def fetched(account: RunAccount) -> dict[str, tuple[str, int]]:
    return {one.series_uid: (one.pacs, one.received + one.present) for one in account.series}


def test_archives_are_queried_one_after_the_other_until_a_row_has_series(archives: Any, tmp_path: Path) -> None:
    account = extract(nodes(archives), tmp_path / "out")
    assert [row.state for row in account.rows] == ["found", "found", "found", "empty"]
    # The PACS has a study of P1 and a part of a study of P3, so the VNA is not queried for these.
    assert fetched(account) == {"2.25.201": ("pacs", 3), "2.25.111": ("pacs", 1), "2.25.301": ("pacs", 2)}
    _, vna = archives
    asked = {str(query.PatientID) for _, query in vna.queries if query.get("PatientID")}
    assert "NOBODY" in asked and not asked & {"P1", "P2", "P3"}
    assert account.pacs == "pacs, vna" and account.verdict == "complete"


def test_archives_are_queried_in_the_order_of_the_run(archives: Any, tmp_path: Path) -> None:
    account = extract(nodes(archives)[::-1], tmp_path / "out")
    assert fetched(account) == {"2.25.101": ("vna", 2), "2.25.301": ("vna", 4), "2.25.201": ("pacs", 3)}


def test_all_archives_are_queried_and_a_series_in_two_is_fetched_once(archives: Any, tmp_path: Path) -> None:
    account = extract(nodes(archives), tmp_path / "out", search="all")
    assert fetched(account) == {
        "2.25.201": ("pacs", 3),
        "2.25.111": ("pacs", 1),
        "2.25.101": ("vna", 2),
        "2.25.301": ("vna", 4),  # the archive with more images
    }
    assert [row.series for row in account.rows] == [2, 1, 1, 0]
    sent = [str(identifier.SeriesInstanceUID) for archive in archives for _, _, identifier in archive.retrieves]
    assert len(sent) == len(set(sent)) == 4
    assert {line["SeriesInstanceUID"]: line["PACS"] for line in log_of(tmp_path / "out") if line["PACS"]} == {
        uid: name for uid, (name, _) in fetched(account).items()
    }
    again = extract(nodes(archives), tmp_path / "out", search="all")
    assert sum(one.received for one in again.series) == 0 and again.verdict == "complete"


def test_an_archive_without_numbers_of_instances_is_queried_for_its_list(archives: Any, tmp_path: Path) -> None:
    archives[1].faults = Faults(unreturned_keys={"NumberOfSeriesRelatedInstances"})
    account = extract(nodes(archives), tmp_path / "out", [{"PatientID": "P3"}], search="all")
    assert fetched(account) == {"2.25.301": ("vna", 4)} and account.verdict == "complete"


def test_parts_of_a_series_in_two_archives_are_reported(tmp_path: Path) -> None:
    with serving(BOTH[:2], tmp_path / "pacs") as pacs, serving(BOTH[1:], tmp_path / "vna") as vna:
        account = extract(nodes((pacs, vna)), tmp_path / "out", [{"PatientID": "P3"}], search="all")
    (row,) = account.rows
    assert row.state == "undecidable" and "fetched from vna, and pacs has other images of it" in row.reason
    assert fetched(account) == {"2.25.301": ("vna", 3)}


def test_a_row_gets_no_series_that_only_another_row_found_at_an_archive(tmp_path: Path) -> None:
    here = series("P4", series_uid="2.25.401", study_uid="2.25.40", SeriesDescription="V1", n_images=1)
    there = series("P4", series_uid="2.25.401", study_uid="2.25.40", SeriesDescription="V2", n_images=2)
    rows = [{"PatientID": "P4", "SeriesDescription": text} for text in ("V1", "V2")]
    with serving(here, tmp_path / "pacs") as pacs, serving(there, tmp_path / "vna") as vna:
        account = extract(nodes((pacs, vna)), tmp_path / "out", rows, search="all")
    assert [row.state for row in account.rows] == ["found", "conflict"]
    assert "fetched from pacs for another row, and this row found it at another archive" in account.rows[1].reason
    assert fetched(account) == {"2.25.401": ("pacs", 1)}


def test_one_archive_that_cannot_decide_makes_the_row_undecidable(archives: Any, tmp_path: Path) -> None:
    archives[0].faults = Faults(ignored_keys={"StudyDescription"}, unreturned_keys={"StudyDescription"})
    rows = [{"StudyDescription": str(OLD[0].StudyDescription), "PatientID": "P1"}]
    account = extract(nodes(archives), tmp_path / "out", rows)
    (row,) = account.rows
    assert row.state == "undecidable" and "pacs neither matches nor returns StudyDescription" in row.reason
    assert fetched(account) == {"2.25.101": ("vna", 2)} and account.verdict == "incomplete"


def test_each_archive_has_limits_of_its_own(archives: Any, tmp_path: Path) -> None:
    pacs, vna = nodes(archives)
    with pytest.raises(TooManySeries, match=r"2 series .* more than the 1 that vna allows"):
        extract([pacs, node_of(archives[1], name="vna", max_series=1)], tmp_path / "out", search="all")
    with pytest.raises(TooManySeries, match="4 series, more than the 3 that this run allows"):
        extract([pacs, vna], tmp_path / "out", search="all", max_series=3)
    run = Run.fresh()
    table = write_table(run.folder / "table.csv", ROWS)
    for batch in steps.prepare(run, Request(table, tmp_path / "out", search="all"), [pacs, vna]):
        steps.find(run, [pacs, vna], batch)
    plan = steps.plan(run, [pacs, vna])
    assert plan.units == [unit for name in ("pacs", "vna") for unit in plan.units_of[name]]
    assert [steps.archive_of(run, [pacs, vna], unit).name for unit in plan.units] == ["pacs", "pacs", "vna", "vna"]


def test_an_archive_that_does_not_answer_ends_the_run_before_it_begins(archives: Any, tmp_path: Path) -> None:
    pacs, vna = nodes(archives)
    archives[1].stop()
    with pytest.raises(PacsUnreachable, match="vna"):
        extract([pacs, vna], tmp_path / "out")


def test_the_command_line(archives: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs = []
    for node in nodes(archives):
        config = {
            "server_address": node.host,
            "port": node.port,
            "server_AET": node.called_aet,
            "AET": node.calling_aet,
            "move_AET": node.calling_aet,
            "move_port": node.receiver_port,
            "batch_size": 0,
            "batch_wait_time": 0,
        }
        path = tmp_path / f"{node.name}.json"
        path.write_text(json.dumps(config))
        configs += ["-c", str(path)]
    table = write_table(tmp_path / "table.csv", ROWS)
    rest = ["-q", str(table), "-d", str(tmp_path / "out"), "--save"]
    assert main([*configs, *rest, "--search", "all"]) == 0
    assert "complete: 4 rows, 4 series; of 10 images" in capsys.readouterr().out
    assert main([*configs[:2], *configs[:2], *rest]) == 2
    assert "pacs names pacs twice" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*configs, "--probe"])
    assert "--probe work with one PACS" in capsys.readouterr().err


def test_node_names_of_several_archives() -> None:
    assert node_names("vna, pacs ,") == node_names(["vna", "pacs"]) == ["vna", "pacs"]
    for wrong in ("", " , ", [], ["a", "a"], "a, a"):
        with pytest.raises(ConfigError):
            node_names(wrong)
