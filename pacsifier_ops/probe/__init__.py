"""Probe: finds out what an archive supports by querying it: query levels, keys, C-GET, C-MOVE."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.runs import people
from pacsifier_ops.runs.folder import Run, never, noted_warnings
from pacsifier_ops.state import audit
from pacsifier_ops.state.leases import shared

if TYPE_CHECKING:
    from pathlib import Path

    from pacsifier_ops.probe.findings import Findings


def page_of(run: Run) -> Path:
    """Return the path of the page of a probe."""
    return run.folder / "probe.html"


def probe_into(
    run: Run,
    node: PacsNode,
    cancelled: Callable[[], bool] = never,
    progress: Callable[[str], None] = lambda question: None,
) -> Findings:
    """Probe an archive; write `probe.html` and `probe.json` into the run's folder.

    Args:
        run: the run.
        node: the archive.
        cancelled: called regularly; True ends the probe.
        progress: called with the name of each question.

    Raises:
        Cancelled: `cancelled` returned True.
        StorageError: the run's folder cannot be written.
    """
    from pacsifier_ops.base.files import storage_errors, write_atomic, write_json
    from pacsifier_ops.probe.page import to_html
    from pacsifier_ops.probe.probing import probe

    with noted_warnings(run):
        findings = probe(node, run.folder / "workplace", shared(), cancelled, progress)
    with storage_errors("the state root"):
        write_json(run.folder / "probe.json", findings.as_json())
        write_atomic(page_of(run), to_html(findings))
    return findings


def run_probe(node: PacsNode, cancelled: Callable[[], bool] = never) -> int:
    """Probe an archive, and print the findings on the terminal.

    Args:
        node: the archive.
        cancelled: called regularly; True ends the probe.

    Returns:
        The exit code of the command: 0 if studies can be searched for, else 1.

    Raises:
        Cancelled: `cancelled` returned True.
        StorageError: the state root cannot be written.
    """
    from pacsifier_ops.base.terminal import Asking
    from pacsifier_ops.probe.page import to_text

    run = Run.fresh()
    people.started(run, audit.me(), job="pacsifier --probe", connections=[node.name])
    with Asking() as line:
        findings = probe_into(run, node, cancelled, lambda question: line.show(f"asking: {question}"))
    print(to_text(findings))
    print(f"page: {page_of(run)}", flush=True)
    return 0 if findings.usable else 1
