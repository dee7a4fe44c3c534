"""Labels of mapped tasks in Airflow: numbers of rows, series and patients, and modalities, nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pacsifier_ops.base.files import read_jsonl
from pacsifier_ops.runs.accounts import plain_modality
from pacsifier_ops.runs.folder import Run


def of_rows(run: Run, batch: int) -> str:
    """Return the label of a batch of rows, with their lines in the query table: "row 2", "rows 2–21"."""
    return _numbered("row", "rows", (row["line"] for row in read_jsonl(run.part("rows", batch))))


def of_series(run: Run, unit: int) -> str:
    """Return the label of a unit, with rows, ordinals of series, and modalities: "row 2: series 1, CT"."""
    items = list(read_jsonl(run.part("units", unit)))
    rows = _numbered("row", "rows", (line for item in items for line in item.get("lines", ())))
    series = _numbered("series", "series", (item["number"] for item in items))
    modalities = sorted({_modality(item) for item in items} - {""})
    several = "several modalities" if len(modalities) > 4 else " ".join(modalities)
    return ": ".join(filter(None, (rows, ", ".join(filter(None, (series, several))))))


def of_patients(run: Run, unit: int) -> str:
    """Return the label of a unit, with ordinals of patients: "patient 1", "patients 2–21"."""
    return _numbered(
        "patient", "patients", (item["number"] for item in read_jsonl(run.part("units", unit)) if item["number"])
    )


def _numbered(one: str, several: str, numbers: Iterable[int]) -> str:
    """Return up to three numbers with gaps one by one, any others as a range; empty without numbers."""
    known = sorted(set(numbers))
    if len(known) < 2:
        return f"{one} {known[0]}" if known else ""
    sparse = len(known) <= 3 and known[-1] - known[0] >= len(known)
    return f"{several} {', '.join(map(str, known)) if sparse else f'{known[0]}–{known[-1]}'}"


def _modality(item: dict[str, Any]) -> str:
    return plain_modality(str(item.get("modality") or item.get("attributes", {}).get("Modality") or ""))
