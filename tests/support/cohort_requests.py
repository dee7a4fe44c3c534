"""Requests drawn at random over a listing: query tables and selections that use all that docs/selection.md has."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import pandas as pd

from tests.support.cohort_world import text_of

#: Rules of a selection: of every attribute, with every way to compare.
RULES: tuple[dict[str, Any], ...] = (
    {"name": "thin CT", "Modality": "CT", "SliceThickness": "<=1.5"},
    {"name": "chest", "BodyPartExamined": ["CHEST", "THORAX"]},
    {"name": "scouts", "SeriesDescription": ["*scout*", "*topogram*"]},
    {"name": "localizers", "ImageType": "LOCALIZER"},
    {"name": "topograms", "ImageType": "ct_som5 *"},
    {"name": "derived", "ImageType": ["DERIVED", "SECONDARY"]},
    {"name": "several images", "NumberOfSeriesRelatedInstances": ">1"},
    {"name": "thick", "SliceThickness": [">=3"]},
    {"name": "medium", "SliceThickness": "1..1.5"},
    {"name": "exactly 1.5", "SliceThickness": 1.5},
    {"name": "sharp", "ConvolutionKernel": ["b70*", "LUNG"]},
    {"name": "iterative", "ConvolutionKernel": "3"},
    {"name": "contrast", "ContrastBolusAgent": "*"},
    {"name": "omnipaque", "ContrastBolusAgent": "omnipaque*"},
    {"name": "Siemens", "Manufacturer": "siemens", "ManufacturerModelName": ["*64", "somatom*"]},
    {"name": "not of Siemens", "Manufacturer": "GE*"},
    {"name": "stations", "StationName": "CT??"},
    {"name": "Schädel", "StudyDescription": "*schädel"},
    {"name": "thorax", "StudyDescription": "ct thorax"},
    {"name": "überall", "SeriesDescription": "übersicht*"},
    {"name": "кириллица", "SeriesDescription": "локалайзер*"},
    {"name": "brackets", "SeriesDescription": "thorax [thin]"},
    {"name": "blanks", "SeriesDescription": "ax t1 flair"},
    {"name": "stars", "SeriesDescription": "a*b"},
    {"name": "protocols", "ProtocolName": ["thorax_*", "lungscreening (adult)"]},
    {"SeriesNumber": "1..2"},
    {"SeriesNumber": ">=2", "Modality": ["CT", "MR"]},
    {"SeriesNumber": 10},
    {"Modality": "SR"},
    {"Modality": ["CT", "MR"]},
    {"SeriesNumber": "<2", "NumberOfSeriesRelatedInstances": "<2", "ImageType": "PRIMARY"},
)
Ends = Sequence[int | None]
DAYS: tuple[Ends, ...] = (
    *([-30, 30], [-30, 30], [-365, 365], [-4000, 4000], [0, 30], [-3, 3], [1, 30], [0, 0], [-31, -1]),
    *([None, 0], [-365, None], [None, None]),
)
AGES: tuple[Ends, ...] = ([18, None], [18, 65], [None, 17], [65, None], [0, 18], [18, 18])
SAME = (["Modality"], ["Modality", "BodyPartExamined"], ["StudyDescription"], ["ImageType"], ["SliceThickness"])
WORDS = ("thinnest", "most images", "latest")


@dataclass(frozen=True)
class Row:
    """One row of a query table: its keys, its anchor_date, and the name of its selection ("" is the default)."""

    keys: dict[str, str]
    anchor: date | None
    name: str

    def cells(self) -> dict[str, str]:
        """The row as the table has it."""
        return self.keys | {"anchor_date": text_of(self.anchor) if self.anchor else "", "selection": self.name}


@dataclass
class Table:
    """A query table and the file with its selections."""

    rows: list[Row] = field(default_factory=list)
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """What the file says; a single set stands alone."""
        return {"sets": self.sets} if len(self.sets) > 1 else self.sets["default"]

    def selection_of(self, row: Row) -> dict[str, Any]:
        return self.sets[row.name or "default"]


def draw(listing: pd.DataFrame, seed: int = 7, tables: int = 6, rows: int = 50) -> list[Table]:
    """Tables of different rows; the last one has a file of one selection, and no row names it."""
    chance = random.Random(seed)
    drawn = []
    for number in range(tables):
        last = number == tables - 1
        names = ["default", *(f"set {place}" for place in range(0 if last else 24))]
        table = Table(sets={name: _selection(chance) for name in names})
        seen = set()
        while len(table.rows) < rows:
            row = _row(chance, listing, table, last)
            if (cells := tuple(sorted(row.cells().items()))) not in seen:
                seen.add(cells)
                table.rows.append(row)
        drawn.append(table)
    return drawn


def _row(chance: random.Random, listing: pd.DataFrame, table: Table, plain: bool) -> Row:
    # Of three patients the one with most studies: with one study there is little to choose.
    lines = [listing.iloc[chance.randrange(len(listing))] for _ in range(3)]
    counts = [listing[listing.PatientID == one.PatientID].StudyInstanceUID.nunique() for one in lines]
    line = lines[counts.index(max(counts))]
    name = "" if plain or chance.random() < 0.1 else chance.choice(list(table.sets))
    selection = table.sets[name or "default"]
    needed = bool(selection.get("days")) or selection.get("anchor", "all") != "all"
    days = [_day(line.StudyDate), *map(_day, listing[listing.PatientID == line.PatientID].StudyDate)]
    if chance.random() < 0.4:
        # In the middle of two studies: equally far from both.
        one, other = chance.choice(days), chance.choice(days)
        anchor = one + (other - one) // 2
    else:
        anchor = (max(days) if selection.get("priors") else days[0]) + timedelta(
            chance.choice((0, 0, 0, -1, 1, -3, 3, -30, 30, 31, -31, 100, -400))
        )
    return Row(_keys(chance, listing, line), anchor if chance.random() > (0.03 if needed else 0.5) else None, name)


def _day(written: str) -> date:
    written = written.replace(".", "").replace("-", "")
    return date(2016, 2, 29) if written in ("", "20150230") else date.fromisoformat(written)


def _keys(chance: random.Random, listing: pd.DataFrame, line: Any) -> dict[str, str]:
    patient, kind = str(line.PatientID), chance.random()
    if not patient or kind < 0.05:
        return {"StudyInstanceUID": str(line.StudyInstanceUID)}
    if kind < 0.17 and line.AccessionNumber:
        return {"AccessionNumber": str(line.AccessionNumber)}
    if kind < 0.21:
        return {"PatientID": f"{patient[:-2]}?{patient[-1]}"}
    if kind < 0.35:
        return {"PatientID": patient, "Modality": chance.choice(("CT", "CT\\MR", "C*"))}
    dates = listing[listing.PatientID == patient].StudyDate
    if kind < 0.43 and dates.str.fullmatch(r"\d{8}").all() and not (dates == "20150230").any():
        return {"PatientID": patient, "StudyDate": f"{dates.min()}-{line.StudyDate}"}
    return {"PatientID": patient}


def _selection(chance: random.Random) -> dict[str, Any]:
    """A selection of some of everything; what is drawn as None is not written."""

    def maybe(likely: float, choices: Any) -> Any:
        return chance.choice(choices) if chance.random() < likely else None

    drawn: dict[str, Any] = {
        "anchor": maybe(0.8, ("closest", "closest", "first after", "last before", "all")),
        "days": maybe(0.4, DAYS),
        "studies": maybe(0.7, (1, 1, 1, 2, 3)),
        "priors": None,
        "age": maybe(0.3, AGES),
        "unknown_age": maybe(0.4, ("keep", "leave out")),
        "series": None,
        "undecided": maybe(0.6, ("shown", "leave out")),
        "prefer": maybe(0.5, (["thinnest", "most images"], ["latest"], ["most images"], ["thinnest"], list(WORDS))),
    }
    if chance.random() < 0.5:
        priors = {"studies": maybe(0.8, (1, 1, 2)), "days": maybe(0.5, (30, 365, 3650)), "same": maybe(0.3, SAME)}
        drawn["priors"] = _written(priors) or {"studies": 1}
        # Mostly so that there are studies before the one that is taken.
        drawn |= {"studies": maybe(0.9, (1, 1, 2)), "anchor": maybe(0.9, ("closest", "last before"))}
    if chance.random() < 0.65:
        include = chance.sample(RULES, k=chance.choice((0, 0, 1, 3, 4)))
        exclude = chance.sample([rule for rule in RULES if rule not in include], k=chance.choice((0, 1, 1, 2)))
        drawn["series"] = _written({"include": include or None, "exclude": exclude or None}) or None
    return _written(drawn)


def _written(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
