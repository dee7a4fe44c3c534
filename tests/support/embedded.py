"""The extract steps against the embedded PACS, in this process."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.embedded.pacs import EmbeddedPacs, Faults
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.run import Request
from pacsifier_ops.runs.accounts import RunAccount
from pacsifier_ops.runs.folder import Run
from tests.support.command import write_table
from tests.support.peers import free_port

SMALL: dict[str, Any] = {"rows": 4, "columns": 4, "n_images": 1}


def series(patient_id: str, name: str = "Phantom^Patient", **attributes: Any) -> list[Dataset]:
    """One small series."""
    return phantom_series(patient_id=patient_id, patient_name=name, **(SMALL | attributes))


@contextmanager
def serving(images: Iterable[Dataset], folder: Path) -> Iterator[EmbeddedPacs]:
    """An embedded PACS that holds these images, with PACSIFIER declared at a free port."""
    with EmbeddedPacs() as pacs:
        pacs.add(write(images, folder))
        pacs.destinations["PACSIFIER"] = ("127.0.0.1", free_port())
        yield pacs


def as_new(pacs: EmbeddedPacs) -> EmbeddedPacs:
    """An embedded PACS that tests share, without the faults and the records of the last one."""
    pacs.faults = Faults()
    for record in (pacs.queries, pacs.retrieves, pacs.sent):
        record.clear()
    return pacs


def config_of(pacs: EmbeddedPacs, **changed: object) -> dict[str, object]:
    """The content of a config.json for an embedded PACS, in PACSIFIER's keys, without a receiver."""
    config: dict[str, object] = {
        "server_address": pacs.host,
        "port": pacs.port,
        "server_AET": pacs.aet,
        "AET": "PACSIFIER",
        "move_AET": "",
        "move_port": 0,
        "batch_size": 0,
        "batch_wait_time": 0,
    }
    return config | changed


def node_of(pacs: EmbeddedPacs, **fields: Any) -> PacsNode:
    """The node of an embedded PACS; it repeats soon what failed."""
    port = pacs.destinations.get("PACSIFIER", ("", 0))[1]
    node = PacsNode("pacs", pacs.host, pacs.port, pacs.aet, receiver_port=port, retry_wait=0.005)
    return replace(node, **fields)


def planned_run(node: PacsNode, rows: list[dict[str, str]], out: Path, **request: Any) -> tuple[Run, list[int]]:
    """A run up to its plan; returns it with the numbers of its units."""
    run = Run.fresh()
    table = write_table(run.folder / "table.csv", rows)
    for batch in steps.prepare(run, Request(table, out, **request), node):
        steps.find(run, node, batch)
    return run, steps.plan(run, node).units


def extract(node: PacsNode, rows: list[dict[str, str]], out: Path, **request: Any) -> RunAccount:
    """A whole run; returns its accounts."""
    run, units = planned_run(node, rows, out, **request)
    for unit in units:
        steps.retrieve(run, node, unit)
    return steps.report(run)


def log_of(out: Path) -> list[dict[str, str]]:
    """The lines of logs/pacsifier_log.csv."""
    with (out / "logs" / "pacsifier_log.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
