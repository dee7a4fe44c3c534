"""The result files of a run: accounts, report, and PACSIFIER's log with and without a query."""

from __future__ import annotations

import csv
import stat
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pacsifier_ops.base.errors import StorageError
from pacsifier_ops.base.files import read_json
from pacsifier_ops.runs.accounts import MOVE, SAVE, UPLOAD, FileAccount, RowAccount, RunAccount, SeriesAccount
from pacsifier_ops.runs.books import LOG_COLUMNS, write_books
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import write_account
from tests.support.tables import parquet_as_csv


def a_series(number: int, *lines: int, **values: object) -> SeriesAccount:
    given = {"state": "complete", "expected": 2, "received": 2, "folder": f"sub-1/{number}", **values}
    return SeriesAccount(number, [*lines], "1.2", f"1.2.{number}", **given)  # type: ignore[arg-type]


def read_log(folder: Path) -> list[dict[str, str]]:
    with (folder / "pacsifier_log.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def run(state_root: Path) -> Run:
    return Run.named("one")


@pytest.mark.parametrize("action", [SAVE, MOVE])
def test_the_log_has_a_line_per_series_and_per_row_without_series(action: str, run: Run, tmp_path: Path) -> None:
    rows = [
        RowAccount(2, {"PatientID": "P1"}, "found", 2),
        RowAccount(3, {"PatientID": "P2"}, "empty"),
        RowAccount(4, {"PatientID": "P1"}, "found", 1, warnings=["asks the same as line 2"]),
    ]
    half = a_series(2, 2, state="incomplete", expected=3, missing=1, reason="not sent")
    account = RunAccount(run.name, "pacs", action, "", "", rows, [a_series(1, 2, 4), half], destination="third")
    write_books(run, account, tmp_path / "logs", ["PatientID"])
    lines = read_log(tmp_path / "logs")
    assert list(lines[0]) == ["PatientID", *LOG_COLUMNS]
    assert [(line["PatientID"], line["Status"], line["FilesFound"], line["Missing"]) for line in lines] == [
        ("P1", "complete", "2", "0"),
        ("P1", "incomplete", "2", "1"),
        ("P2", "empty", "0", "0"),
    ]
    assert lines[0]["Completed"] == "True" and lines[1]["Reason"] == "not sent"
    assert parquet_as_csv(tmp_path / "logs" / "pacsifier_log.csv") == lines


def test_the_log_of_an_upload_names_folders_and_bad_files(run: Run, tmp_path: Path) -> None:
    bad = [FileAccount("sub-1/cut.dcm", "the file is cut off")]
    account = RunAccount(run.name, "", UPLOAD, "", "", [], [a_series(1)], destination="pacs", bad_files=bad)
    write_books(run, account, tmp_path / "out" / "logs", ("Folder",))
    lines = read_log(tmp_path / "out" / "logs")
    assert list(lines[0]) == ["Folder", *LOG_COLUMNS]
    assert [(line["Folder"], line["SeriesInstanceUID"], line["Status"], line["Reason"]) for line in lines] == [
        ("sub-1/1", "1.2.1", "complete", ""),
        ("sub-1/cut.dcm", "", "bad", "the file is cut off"),
    ]


def test_files_are_whole_and_protected(run: Run, tmp_path: Path) -> None:
    logs, unfinished = tmp_path / "logs", tmp_path / "unfinished"

    @contextmanager
    def scratch() -> Iterator[Path]:
        unfinished.mkdir()
        yield unfinished

    account = RunAccount(run.name, "pacs", SAVE, "", "")
    write_books(run, account, logs, ["PatientID"], scratch)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [*run.folder.iterdir(), *logs.rglob("*.*")]}
    private = dict.fromkeys(("accounts.json", "figures.json", "summary.json", "report.html"), 0o600)
    logs_of_run = [f"{name}.{kind}" for name in ("one", "pacsifier_log") for kind in ("csv", "parquet")]
    assert modes == {**private, **dict.fromkeys(logs_of_run, 0o600)}
    assert not list(unfinished.iterdir())
    for kind in ("csv", "parquet"):
        assert (logs / f"runs/one.{kind}").read_bytes() == (logs / f"pacsifier_log.{kind}").read_bytes()


def test_accounts_are_kept_if_the_log_cannot_be_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="the output folder"):
        write_books(run, RunAccount(run.name, "", UPLOAD, "", ""), tmp_path / "logs", ("Folder",))
    assert read_json(run.folder / "accounts.json")["verdict"] == "complete" and run.report.exists()


def test_the_account_of_a_large_run_is_never_in_memory_as_text(run: Run) -> None:
    account = RunAccount(run.name, "pacs", SAVE, "", "", series=[a_series(n, 2) for n in range(2_000)])
    tracemalloc.start()
    write_account(run, account)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (run.folder / "accounts.json").stat().st_size > 4 * peak
    assert read_json(run.folder / "accounts.json")["series"][-1]["number"] == 1_999
