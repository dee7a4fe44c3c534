"""The files of a BIDS data set that describe it: who is in it, which sessions there are, and how it was made."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pacsifier_ops import __version__

#: Version of the specification that the names follow.
BIDS_VERSION = "1.10.0"

_README = """\
# Images in BIDS

These images were converted from de-identified DICOM objects. No file holds a date, and no name one of the source.

- `participants.tsv`: the label of each patient here, and the pseudonym in the DICOM objects.
- `sub-*/sub-*_sessions.tsv`: the sessions of a patient. Numbers are given once, in the order of the examinations that
  were there then; an earlier examination that came later has a later number. `days_from_first` tells the true order.
- Images that no rule fitted are not in this data set.
{ignored}"""
_IGNORED = """\
- BIDS has no place yet for the files that `.bidsignore` names.
"""


@dataclass(frozen=True)
class Session:
    """A session of a patient.

    Attributes:
        patient: label of the patient; pseudonym: that in the objects.
        number: number of the session.
        date: date of the study as the objects have it, `YYYYMMDD`; anything else: unknown.
    """

    patient: str
    pseudonym: str
    number: int
    date: str


def described(sessions: Iterable[Session], ignored: Sequence[str], converters: Iterable[str]) -> dict[str, str]:
    """Return the texts of the files, by path below the data set.

    Args:
        sessions: those that have images in the data set.
        ignored: lines of `.bidsignore`.
        converters: versions of the converter that made images in it.
    """
    by_patient: dict[str, list[Session]] = {}
    for one in sorted(set(sessions), key=lambda one: (one.patient, one.number)):
        by_patient.setdefault(one.patient, []).append(one)
    generated = [
        {"Name": "pacsifier-ops", "Version": __version__},
        *({"Name": "dcm2niix", "Version": version} for version in sorted(set(converters))),
    ]
    files = {
        "dataset_description.json": as_json(
            {
                "Name": "Images converted from de-identified DICOM objects",
                "BIDSVersion": BIDS_VERSION,
                "DatasetType": "raw",
                "GeneratedBy": generated,
            }
        ),
        "README.md": _README.format(ignored=_IGNORED if ignored else ""),
        "participants.tsv": _table(
            ("participant_id", "pseudonym", "sessions"),
            ((f"sub-{name}", group[0].pseudonym, str(len(group))) for name, group in by_patient.items()),
        ),
        "participants.json": as_json(
            {
                "pseudonym": {"Description": "pseudonym of the patient in the de-identified DICOM objects"},
                "sessions": {"Description": "number of sessions of the patient in this data set"},
            }
        ),
    }
    for name, group in by_patient.items():
        days = _days(group)
        files[f"sub-{name}/sub-{name}_sessions.tsv"] = _table(
            ("session_id", "days_from_first"),
            ((f"ses-{one.number}", days[one.number]) for one in group),
        )
    if by_patient:
        files["sessions.json"] = as_json(
            {
                "days_from_first": {
                    "Description": "days from the patient's first session in this data set; n/a if dates were removed",
                    "Units": "day",
                }
            }
        )
    if ignored:
        files[".bidsignore"] = "".join(f"{line}\n" for line in ignored)
    return files


def _days(sessions: Sequence[Session]) -> Mapping[int, str]:
    dates = {one.number: _date(one.date) for one in sessions}
    first = min((date for date in dates.values() if date), default=None)
    return {n: str((date - first).days) if date and first else "n/a" for n, date in dates.items()}


def _date(text: str) -> dt.date | None:
    try:
        return dt.datetime.strptime(text, "%Y%m%d").date() if len(text) == 8 else None
    except ValueError:
        return None


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as BIDS wants it: tab-separated, `n/a` for what is not there."""
    lines = [columns, *([" ".join(cell.split()) or "n/a" for cell in row] for row in rows)]
    return "".join("\t".join(line) + "\n" for line in lines)


def as_json(value: Any) -> str:
    """Return a value as JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
