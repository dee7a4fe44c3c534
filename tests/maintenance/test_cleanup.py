"""The clean-up removes old leftovers that are not in use, only on request, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import InputError
from pacsifier_ops.base.telling import FAILED, QUESTION
from pacsifier_ops.cli.clean import main
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.extract import requests, steps
from pacsifier_ops.extract.receiving import series_lease
from pacsifier_ops.extract.run import Request
from pacsifier_ops.maintenance import cleanup, deletion
from pacsifier_ops.messages import Message, outbox
from pacsifier_ops.runs import approvals, figures
from pacsifier_ops.runs.folder import Run, stage_folder
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import CONTROL, Tree
from pacsifier_ops.state.turns import Entry, Line
from tests.support.embedded import node_of, series, serving

UID = "1.2.840.99999.1"


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with serving(series("P"), tmp_path / "archive") as running:
        yield running


@pytest.fixture(autouse=True)
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))


def put(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def aged(days: float, *paths: Path) -> None:
    """Set the times of all files in a folder to so many days ago."""
    then = time.time() - days * 86400
    for path in paths:
        for item in [*path.rglob("*"), path]:
            os.utime(item, (then, then), follow_symlinks=False)


def run_of(pacs: EmbeddedPacs, out: Path, report: bool = True) -> tuple[Run, str]:
    """Run an extraction of a request; return the run and the id of the request."""
    request = requests.take_in(b"PatientID\nP\n")
    run, node = Run.fresh(), node_of(pacs)
    for batch in steps.prepare(run, Request(requests.table_path(request), out), node):
        steps.find(run, node, batch)
    for unit in steps.plan(run, node).units:
        steps.retrieve(run, node, unit)
    if report:
        steps.report(run)
    return run, request


def everything(*roots: Path) -> set[Path]:
    """Return all files of some folders, without the clock of the leases."""
    return {path for root in roots for path in root.rglob("*") if path.name != "clock"}


def kinds(days: float = 90, quarantine: bool = False) -> dict[str, int]:
    """Return the number of leftovers by kind."""
    found = [leftover.kind for leftover in cleanup.find(days, quarantine).leftovers]
    return {kind: found.count(kind) for kind in found}


def test_old_runs_and_their_requests_are_removed_and_data_stays(
    pacs: EmbeddedPacs, tmp_path: Path, state_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (old, old_request), (young, young_request) = run_of(pacs, out), run_of(pacs, out)
    aged(100, state_root, out)
    aged(10, young.folder)
    lost = requests.take_in(b"PatientID\nQ\n")
    aged(100, state_root / "requests" / lost)
    before = everything(tmp_path)
    assert main([]) == 0
    said = capsys.readouterr().out
    assert everything(tmp_path) == before
    assert str(old.folder) in said and old_request in said and lost in said
    assert young.name not in said and young_request not in said
    assert "\n4 older than 90 days, " in said and "would be removed; give --remove" in said
    assert main(["--remove"]) == 0
    gone = before - everything(tmp_path)
    (listed,) = (path for path in before if "listed" in path.parts and path.suffix)  # what the archive listed
    places = (old.folder, listed, *(state_root / "requests" / name for name in (old_request, lost)))
    assert gone == {path for path in before if any(path == place or place in path.parents for place in places)}
    assert main(["--days", "5", "--remove"]) == 0
    assert not everything(state_root / "runs", state_root / "requests")
    # The ledger of the data set is still there: nothing is fetched again.
    sent = len(pacs.sent)
    assert steps.report(run_of(pacs, out)[0]).totals()["present"] == 1 and len(pacs.sent) == sent


def test_a_request_that_a_sensor_waits_for_stays(state_root: Path) -> None:
    awaited, other = (requests.take_in(b"PatientID\nQ\n") for _ in range(2))
    run = Run.fresh()
    put(run.folder / "awaited.json", json.dumps({"request": awaited}))
    aged(100, state_root / "requests")
    assert [leftover.path.name for leftover in cleanup.find(90).leftovers] == [other]
    aged(100, run.folder)
    assert kinds() == {"run": 1, "request": 2}


def test_runs_that_may_go_on_stay(pacs: EmbeddedPacs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = run_of(pacs, tmp_path / "out", report=False)
    aged(29, run.folder, settings.state_root() / "requests")
    assert "run" not in kinds(7) and "request" not in kinds(7)
    assert main(["--days", "7"]) == 0 and "kept: 1 run(s) that may go on" in capsys.readouterr().out
    aged(31, run.folder)
    assert kinds(7) == {"run": 1, "request": 1}
    assert kinds(32) == {}
    # The run goes on just now.
    found = {leftover.kind: leftover for leftover in cleanup.find(7).leftovers}
    put(run.folder / "results" / "00009.jsonl", "")
    assert not cleanup.remove(found["run"]) and run.folder.is_dir()


def test_a_run_of_a_users_dag_stays_while_one_of_its_jobs_may_go_on(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    (job, _), whole = run_of(pacs, tmp_path / "out", report=False), Run.fresh()
    stage = stage_folder(whole, "extract")
    stage.parent.mkdir()
    job.folder.rename(stage)
    aged(10, settings.state_root())
    assert kinds(7) == {"facts": 1}
    put(stage / "accounts.json", "{}")
    aged(10, settings.state_root())
    assert kinds(7) == {"run": 1, "request": 1, "facts": 1}


def test_quarantine_is_removed_only_on_request(
    pacs: EmbeddedPacs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = run_of(pacs, tmp_path / "out")
    put(run.folder / "quarantine" / "1.2.3.dcm")
    unasked = put(settings.spool() / ".quarantine" / f"{UID}.ab12" / "1.2.3").parent
    aged(100, run.folder, settings.state_root() / "requests", settings.spool())
    assert kinds() == {}
    assert main([]) == 0 and "kept: 1 run(s) with objects in quarantine" in capsys.readouterr().out
    assert kinds(quarantine=True) == {"run": 1, "request": 1, "quarantine": 1}
    assert main(["--quarantine", "--remove"]) == 0
    assert not run.folder.exists() and not unasked.exists()
    assert UID not in capsys.readouterr().out  # a series identifies a patient


def test_spool_and_workplaces_are_removed_unless_they_are_in_use(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_of(pacs, out)
    spooled = put(settings.spool() / UID / "1.2.3.ab").parent
    torn = put(settings.spool() / ".incoming" / "11113" / "ab.part")
    fresh = put(settings.spool() / f"{UID}.2" / "1.2.4.ab")
    tree = Tree.open(out)
    left = put(out / CONTROL / "incoming" / "0123" / "ab.part").parent
    unfinished = put(tree.state / "ledger" / "ab" / ".cd.json.0123abcd.part")
    with tree.workplace(shared()) as busy:
        left = put(out / CONTROL / "incoming" / "0123" / "ab.part").parent
        put(busy / "ab.part")
        aged(100, spooled, torn, out, unfinished)
        with shared().acquire(series_lease(UID)):
            assert kinds() == {"spool": 1, "workplace": 1, "unfinished file": 1}
            found = cleanup.find(90).leftovers
        with shared().acquire(tree.workplace_lease(left)):  # taken since
            assert [cleanup.remove(leftover) for leftover in found] == [True, False, True]
        assert kinds() == {"spool": 1, "workplace": 1}
        assert main(["--remove"]) == 0
        assert (busy / "ab.part").exists()
    assert not any(path.exists() for path in (spooled, torn, left, unfinished))
    assert fresh.exists() and len(list(out.glob("sub-*/**/*.dcm"))) == 1


def test_facts_of_a_tree_that_nobody_uses_are_removed(tmp_path: Path) -> None:
    """They have names of patients, also when somebody has removed the folder itself."""
    state = Tree.open(tmp_path / "out").state
    old, of_a_place = put(state / "facts" / "heads-files.jsonl"), put(state / "facts" / "kinds" / "0123.jsonl")
    fresh, ledger = put(state / "facts" / "digests.jsonl"), put(state / "approved.jsonl")
    aged(100, old, of_a_place, ledger)
    assert kinds() == {"facts": 2}
    assert main(["--remove"]) == 0
    assert [path.exists() for path in (old, of_a_place, fresh, ledger)] == [False, False, True, True]


def test_submissions_of_past_nights_are_removed(tmp_path: Path) -> None:
    nightly = settings.nightly()
    places = [
        put(nightly / name / f"2024-01-01-req-{n}" / "t.csv").parent for n, name in enumerate(("done", "rejected"))
    ]
    waiting = [put(nightly / name / "t.csv") for name in ("inbox", "projects/one", "claimed/req-9")]
    claimed = put(settings.state_root() / "requests" / "req-9" / "table.csv")  # its run has not begun
    link = nightly / "done" / "link"
    link.symlink_to(tmp_path)
    aged(100, nightly, claimed.parent)
    assert kinds() == {"submission": 2}
    assert main(["--remove"]) == 0
    assert not any(place.exists() for place in places) and claimed.exists() and link.exists()
    assert all(path.exists() for path in waiting)


def test_leases_without_a_holder_are_removed(state_root: Path) -> None:
    code = "import os; from pacsifier_ops.state.leases import shared; shared().acquire('x'); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    aged(100, *(path for path in (state_root / "leases").iterdir() if path.is_dir()))
    with shared().acquire("y"):
        assert kinds() == {"lease": 1}
        assert main(["--remove"]) == 0
        assert shared().holder("y") is not None and shared().holder("x") is None and kinds() == {}


def test_a_run_that_is_gone_leaves_the_line_of_its_pacs(state_root: Path) -> None:
    line, gone, there = Line("pacs:104:HERE"), state_root / "runs" / "gone", Run.named("there").folder
    for folder in (gone, there):
        line.enter(folder.name, Entry(str(folder), "pacs", "normal", "a_dag", "a_run", []))
    aged(100, *(state_root / "turns").glob("*/*.json"))
    assert kinds() == {"turn": 1}
    assert main(["--remove"]) == 0
    assert set(line.entries()) == {"there"} and kinds() == {}


def test_a_killed_removal_is_finished_by_the_next(pacs: EmbeddedPacs, tmp_path: Path) -> None:
    run, _ = run_of(pacs, tmp_path / "out")
    before = figures.Sum().look().counts
    assert before["pacsifier_runs", "save", "complete"] == 1
    figures.outlive(run)  # as the removal does before it renames the folder
    half = run.folder.rename(run.folder.with_name(f".gone-{run.name}"))
    (half / "accounts.json").unlink()
    assert kinds() == {"run": 1}  # although it changed just now
    assert main(["--remove"]) == 0
    assert not everything(settings.state_root() / "runs")
    assert figures.Sum().look().counts == before, "metrics do not fall"


def test_leftovers_that_cannot_be_removed_are_reported_and_the_rest_is_removed(
    pacs: EmbeddedPacs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run_of(pacs, tmp_path / "out")[0] for _ in range(2)]
    aged(100, settings.state_root() / "runs")
    with pytest.raises(SystemExit) as raised:
        main(["--days", "0"])
    assert raised.value.code == 2
    stuck = runs[0].folder
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path == stuck:
            raise PermissionError(13, "Permission denied")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    assert main(["--remove"]) == 1
    assert "Permission denied" in capsys.readouterr().err
    assert stuck.exists() and not runs[1].folder.exists()


def test_old_messages_are_removed_and_open_questions_stay(state_root: Path) -> None:
    for about in (FAILED, QUESTION):
        outbox.keep(Message(about, "dag", "run"))
    outbox.put_away(Message(FAILED, "dag", "run"))
    outbox.note_night("2024-01-01", "2024-01-02T07:00:00+00:00", [])
    aged(100, state_root / "messages")
    assert kinds() == {"message": 3}
    assert main(["--remove"]) == 0 and len(outbox.questions()) == 1 and not [*outbox.waiting()]


def test_a_cancellation_goes_after_its_run(state_root: Path) -> None:
    run = Run.named("run")
    approvals.cancel(run, 0, "somebody")
    aged(100, state_root)
    assert kinds() == {"run": 1}
    for leftover in cleanup.find(90, False).leftovers:
        assert cleanup.remove(leftover)
    assert approvals.cancellation(run) and kinds() == {"cancellation": 1}


def test_the_deletion_of_a_run_says_what_goes_and_removes_just_that(
    pacs: EmbeddedPacs, tmp_path: Path, state_root: Path
) -> None:
    out = tmp_path / "out"
    run, request = run_of(pacs, out)
    again = Run.fresh()
    Request(requests.table_path(request), out).keep(again)  # another run of the same table
    put(run.quarantine / "1.dcm")
    before = everything(tmp_path)
    plan = deletion.deletion_of(run)
    assert plan.request is None and "1 object in quarantine" in plan.goes
    assert any("images" in line for line in plan.stays) and everything(tmp_path) == before
    plan.do("anna")
    assert before - everything(tmp_path) == {path for path in before if run.folder in (path, *path.parents)}
    last = deletion.deletion_of(again)
    assert last.request == state_root / "requests" / request and any("query table" in line for line in last.goes)
    last.do("anna")
    last.do("anna")  # once more does no harm
    assert not again.folder.exists() and not last.request.exists() and list(out.glob("sub-*/**/*.dcm"))


def test_a_run_that_released_a_data_set_is_not_deleted(state_root: Path) -> None:
    run = Run.fresh()
    approvals.decide(run, approvals.RELEASE, "0" * 64, approvals.APPROVED, "anna", beforehand=True)
    with pytest.raises(InputError, match="its record says who did"):
        deletion.deletion_of(run)
    assert run.folder.is_dir()


def test_a_run_that_released_and_was_asked_again_is_not_deleted(state_root: Path) -> None:
    run = Run.fresh()
    approvals.decide(run, approvals.RELEASE, "0" * 64, approvals.APPROVED, "anna", beforehand=True)
    approvals.ask(run, approvals.RELEASE, "1" * 64)
    with pytest.raises(InputError, match="its record says who did"):
        deletion.deletion_of(run)
    approvals.decide(run, approvals.RELEASE, "1" * 64, approvals.REJECTED, "anna")
    with pytest.raises(InputError, match="its record says who did"):
        deletion.deletion_of(run)


def test_a_deleted_run_that_was_cancelled_does_not_cancel_a_later_one_of_its_id(state_root: Path) -> None:
    run = Run.named("run")
    approvals.cancel(run, 0, "anna")
    deletion.deletion_of(run).do("anna")
    assert approvals.cancellation(Run.named("run")) is None
