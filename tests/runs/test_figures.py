"""Figures of runs: they never fall, outlive their run, and a look at many runs reads what has changed only."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.files import private_folder
from pacsifier_ops.maintenance.cleanup import remove_run
from pacsifier_ops.runs import figures
from pacsifier_ops.runs.accounts import SAVE, RowAccount, RunAccount, SeriesAccount
from pacsifier_ops.runs.figures import Figures, Key, Sum, keep, outlive, status_of
from pacsifier_ops.runs.folder import Run, stage_run
from pacsifier_ops.runs.job import write_summary

IMAGES = ("pacsifier_images", "vna", SAVE, "received")


def account(received: int = 2, **more: object) -> RunAccount:
    rows = [RowAccount(2, {"PatientID": "ZQX"}, "found"), RowAccount(3, {}, "failed", reason="refused (0xA900)")]
    series = SeriesAccount(1, [2], "1.2", "1.3", state="failed", received=received, bytes=512, seconds=1.5, missing=1)
    series.reason = "the archive did not send them (last status 0xA702)"
    return RunAccount("run", "vna", SAVE, "", "", rows, [series], quarantine={"unasked": 3}, **more)  # type: ignore[arg-type]


def run(name: str, **more: object) -> Run:
    made = Run.named(name)
    write_summary(made, account(**more))  # type: ignore[arg-type]
    return made


def test_a_closed_account_leaves_figures_without_identifiers() -> None:
    made = run("pacsifier_extract-1")
    total = Sum().look()
    assert total.counts == Counter(
        {
            ("pacsifier_runs", SAVE, "incomplete"): 1,
            ("pacsifier_rows", "vna", "found"): 1,
            ("pacsifier_rows", "vna", "failed"): 1,
            ("pacsifier_series", "vna", SAVE, "failed"): 1,
            IMAGES: 2,
            ("pacsifier_images", "vna", SAVE, "missing"): 1,
            ("pacsifier_transferred_bytes", "vna", SAVE): 512,
            ("pacsifier_transfer_seconds", "vna", SAVE): 1.5,
            ("pacsifier_failures", "vna", SAVE, "A900"): 1,
            ("pacsifier_failures", "vna", SAVE, "A702"): 1,
        }
    )
    assert total.standing == {("pacsifier_quarantined_objects", "extract", "unasked"): 3}
    text = (made.folder / "figures.json").read_text()
    assert not [word for word in ("ZQX", "1.2", "1.3") if f'"{word}"' in text]
    assert status_of("no route to the host") == "none"


def test_counts_do_not_fall_when_a_run_is_closed_again() -> None:
    made = run("pacsifier_extract-1")
    write_summary(made, account(received=0))
    assert Sum().look().counts[IMAGES] == 2
    write_summary(made, account(received=5))
    assert Sum().look().counts[IMAGES] == 5


def test_only_the_last_run_of_a_data_set_says_what_stands() -> None:
    for number, count in enumerate((4, 7)):
        stage = stage_run(Run.named(f"pacsifier_study-{number}"), "anonymize")
        standing: Counter[Key] = Counter({("pacsifier_dataset_objects", "deidentified"): count})
        keep(stage, Figures(standing=standing, data_set="one"))
    keep(Run.named("pacsifier_anonymize-1"), Figures(standing=standing, data_set="two"))
    assert Sum().look().standing == {("pacsifier_dataset_objects", "deidentified"): 14}


def test_figures_outlive_their_run_and_count_once_wherever_the_removal_is_killed() -> None:
    first, second = run("pacsifier_extract-1"), run("pacsifier_extract-2")
    stage = stage_run(first, "extract")
    write_summary(stage, account())
    look = Sum()
    before = look.look().counts
    assert before[IMAGES] == 6
    for _ in range(2):  # the second time after a kill
        outlive(first)
        assert look.look().counts == before
    shutil.rmtree(first.folder)
    assert look.look().counts == before
    outlive(second)
    shutil.rmtree(second.folder)
    assert look.look().counts == before == Sum().look().counts


def test_a_run_that_begins_anew_under_a_name_of_before_counts_as_another() -> None:
    look = Sum()
    for number in (1, 2):
        made = run("pacsifier_study-1")
        write_summary(stage_run(made, "extract"), account())
        assert look.look().counts[IMAGES] == 4 * number
        remove_run(made, "runs")
        assert look.look().counts[IMAGES] == 4 * number


def test_counts_do_not_fall_while_a_run_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    made, look = run("pacsifier_extract-1"), Sum()
    before = look.look()
    real = figures._states

    def removing(names: Collection[str]) -> Iterator[tuple[str, tuple[int, int]]]:
        remove_run(made, "runs")  # after the counts of removed runs were read
        yield from real(names)

    with monkeypatch.context() as patched:
        patched.setattr(figures, "_states", removing)
        assert look.look() == before
    assert look.look().counts == before.counts


def test_what_is_damaged_or_of_another_version_counts_nothing() -> None:
    made = run("pacsifier_extract-1")
    for text in ("{", '{"counts": [[7], [*KEY, "x"]], "standing": [], "data_set": ""}'):
        (made.folder / "figures.json").write_text(text.replace("*KEY", ", ".join(f'"{part}"' for part in IMAGES)))
        assert Sum().look().counts == {}
    keep(made, Figures(Counter({("pacsifier_unheard_of", "x"): 3, ("pacsifier_rows", "vna"): 1, IMAGES: 1})))
    assert Sum().look().counts == {IMAGES: 1}


def test_a_look_reads_changed_files_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in range(5):
        run(f"pacsifier_extract-{number}")
    private_folder(Run.named("pacsifier_probe-1").folder)
    read: list[Path] = []
    real = figures.read_json

    def counting(path: Path) -> Any:
        read.append(path)
        return real(path)

    monkeypatch.setattr(figures, "read_json", counting)
    look = Sum()
    look.look()
    first = len(read)
    look.look()
    assert (first, len(read)) == (5 + 2, 5 + 4)  # the sum of removed runs is read each time, before and after
