"""The linker: which series of the data set, or why none, belongs to each row of the query table.

A line per row and series; a line without UIDs for a series that is not in the data set, and for a row without any. The
day offset is StudyDate less the row's anchor date, in days. It does not depend on the day shift of the patient.

| file                     | where                                    | for whom                                      |
|--------------------------|------------------------------------------|-----------------------------------------------|
| linker.csv, .parquet     | `data_sets/<id>` of the project's folder | the data manager: with line, row_id, anchor   |
|                          |                                          | date, and all columns that are not ours       |
| linker.csv, .parquet     | the data set                             | whoever gets the data: the row is known by a  |
|                          |                                          | token, the lines are in the order of tokens   |
| linker.json              | the first of these                       | digests of the second                         |
| rows.json                | the first of these                       | line of each row, by what it asks             |

It tells what is in the data set, not what a run has done, so it is the same after a night without news.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pacsifier_ops.base.errors import InputError
from pacsifier_ops.base.files import data_file, private_folder, read_json, storage_errors, write_atomic, write_json
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.base.tables import INTEGER, TEXT, parquet_of, write_table
from pacsifier_ops.deid.run import (
    DEIDENTIFIED,
    EXCLUDED,
    QUARANTINED,
    WITHDRAWN,
    SourceSeries,
    Store,
    series_of,
    store_of,
)
from pacsifier_ops.deid.told import public_reason
from pacsifier_ops.extract import outcome as extracted
from pacsifier_ops.extract.run import beside_of
from pacsifier_ops.pseudonyms.secret import Secret, project_folder, project_secret
from pacsifier_ops.query.columns import unique
from pacsifier_ops.runs.accounts import ROW_BAD, ROW_CONFLICT, ROW_EMPTY, ROW_FAILED, ROW_UNDECIDABLE
from pacsifier_ops.runs.folder import Run, stage_folder
from pacsifier_ops.selection.deciding import date_of
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.standing import Standing, stamp_of
from pacsifier_ops.state.tree import Tree
from pacsifier_ops.study import run as stages
from pacsifier_ops.study.accounts import MISSING, PUBLIC_MISSING
from pacsifier_ops.study.project import Study
from pacsifier_ops.study.release import DEIDENTIFIED_FOLDER, folder_of

NAME, _ROWS_FILE = "linker.csv", "rows.json"
FILES = (NAME, str(parquet_of(Path(NAME))))

#: State of a series with at least one image in the data set, and of a row or a series that the selection leaves out.
IN_DATA_SET, LEFT_OUT = "in the data set", "left out"
#: State and public reason of a row without any series, by its state in the extraction.
_ROWS = {
    ROW_EMPTY: ("empty", "the archive has nothing for it"),
    ROW_UNDECIDABLE: ("undecidable", "the archive cannot tell"),
    ROW_FAILED: ("failed", "the archive was not asked, or did not answer"),
    ROW_CONFLICT: ("conflict", "it contradicts another row"),
}
_LEFT_OUT = (LEFT_OUT, "left out by the selection")

#: Columns of both linkers, and those that the protected one has before them.
COLUMNS = {
    "row_token": TEXT,
    "patient": TEXT,
    "study_uid": TEXT,
    "series_uid": TEXT,
    "days": INTEGER,
    "images": INTEGER,
    "state": TEXT,
    "reason": TEXT,
}
_OWN = {"line": INTEGER, "row_id": TEXT, "anchor_date": TEXT, "left_out": TEXT}

#: Letters of a token. Without vowels and digits it is no name, no id and no date, which the gate would find.
_LETTERS, _LENGTH = "bcdfghjklmnpqrstvwxz", 20


@dataclass(frozen=True)
class Line:
    """A line of both linkers; see COLUMNS. What is not known, or not there, is empty or None."""

    row_token: str
    patient: str = ""
    study_uid: str = ""
    series_uid: str = ""
    days: int | None = None
    images: int | None = None
    state: str = ""
    reason: str = ""

    def cells(self) -> tuple[object, ...]:
        """Return the cells of the columns."""
        return tuple(getattr(self, name) for name in COLUMNS)


@dataclass(frozen=True)
class Linked:
    """What was linked.

    Attributes:
        folder: folder of the protected linker.
        rows, with_series: number of rows, and of those with a series in the data set.
        digests: SHA-256 of each file in the data set, hexadecimal.
    """

    folder: str
    rows: int = 0
    with_series: int = 0
    digests: dict[str, str] = field(default_factory=dict)


def write(run: Run, secret: str = "") -> Linked | None:
    """Write both linkers of a study.

    Args:
        secret: secret of the project, where it is stored elsewhere (see `project_secret`).

    Returns:
        What was linked, in an earlier run if this one asks no archive; None if there is no de-identified data set, or
        nothing was ever linked.

    Raises:
        InputError: two rows have the same token.
        StorageError: the data set, or the state root, cannot be read or written.
    """
    study = Study.of(run)
    root, part = folder_of(study, DEIDENTIFIED_FOLDER), Run(stage_folder(run, stages.EXTRACT))
    store, table = store_of(root), extracted.table(part)
    tree = Tree.existing(root)
    if store is None or tree is None:
        return None
    home = project_folder(study.project) / "data_sets" / store.id
    if not study.has(stages.EXTRACT) or table is None:
        return _earlier(home)
    rows = {row.line: row for row in extracted.identities(part, table)}
    tokens = Tokens(project_secret(study.project, secret))
    by_line: dict[int, list[Line]] = {}
    left_out: dict[int, str] = {}
    earlier = _Earlier(home, store)
    series = _series_of_lines(part, store, root)
    for account in extracted.rows(part, table.same_as):
        if account.state == ROW_BAD:
            continue
        row = rows[account.line]
        left_out[row.line] = "; ".join(f"{reason}: {count}" for reason, count in sorted(account.left_out.items()))
        token = tokens.of(row.row_id, row.line)
        found = series.get(table.same_as.get(row.line, row.line), ())
        lines = [line for one in found for line in one.lines(token, date_of(row.anchor))]
        if not lines and account.state == ROW_FAILED and row.row_id:
            lines = earlier.lines(row)
        if not lines:
            state, reason = _ROWS.get(account.state, _LEFT_OUT)
            lines = [Line(token, state=state, reason=reason)]
        by_line[row.line] = lines
    with ExitStack() as stack:
        stack.enter_context(storage_errors("the state root, or the folder of the study"))
        (private_folder(home) / _ROWS_FILE).unlink(missing_ok=True)  # it and the linker belong together
        _write_own(home, rows, by_line, left_out, part)
        write_json(home / _ROWS_FILE, {_known(rows[line]): line for line in sorted(by_line, reverse=True)})
        scratch = stack.enter_context(tree.workplace(shared()))
        _write_public(root, by_line, study.linker_days, scratch)
        linked = sum(any(line.series_uid for line in lines) for lines in by_line.values())
        result = Linked(str(home), len(by_line), linked, {name: digest(root / name) for name in FILES})
        write_json(home / "linker.json", vars(result))
        write_json(run.folder / "linker.json", vars(result))
    return result


def linked(run: Run) -> Linked | None:
    """Return what a run has linked; None if it has not got to it, or links nothing."""
    return _earlier(run.folder)


def _earlier(folder: Path) -> Linked | None:
    with suppress(FileNotFoundError):
        return Linked(**read_json(folder / "linker.json"))
    return None


class Tokens:
    """Gives rows tokens that reveal nothing of them.

    Args:
        secret: of the project.
    """

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self._given: dict[str, tuple[str, str]] = {}

    def of(self, row_id: str, line: int) -> str:
        """Return the token of a row: of its own id, or else of its line. Rows with the same id have the same token.

        Raises:
            InputError: another row has the same token by chance, which happens to nobody.
        """
        kind, value = ("row_id", row_id) if row_id else ("line", str(line))
        number = self._secret.number(f"linker {kind}", value)
        token = ""
        for _ in range(_LENGTH):
            number, letter = divmod(number, len(_LETTERS))
            token += _LETTERS[letter]
        if self._given.setdefault(token, (kind, value)) != (kind, value):
            raise InputError(f"the row of line {line} and another one have the same token; give it another row_id")
        return token


@dataclass
class _Part:
    """What became of a series, or of the part of one patient."""

    patient: str = ""
    study_uid: str = ""
    series_uid: str = ""
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def images(self) -> int:
        return sum(count for (outcome, _), count in self.outcomes.items() if outcome == DEIDENTIFIED)


@dataclass
class _Series:
    """A series that rows ask for.

    Attributes:
        day: its StudyDate in the archive; None if it is not known.
        parts: what became of it in the de-identification.
        missing: public reason why images are not there, or empty.
    """

    day: dt.date | None
    parts: Sequence[_Part]
    missing: str

    def lines(self, token: str, anchor: dt.date | None) -> Iterator[Line]:
        """Yield the lines of a row: one for each part in the data set, or one if there is none."""
        days = (self.day - anchor).days if self.day and anchor else None
        there = [part for part in self.parts if part.images]
        for part in there:
            reason = self._reason([part])
            yield Line(token, part.patient, part.study_uid, part.series_uid, days, part.images, IN_DATA_SET, reason)
        if not there:
            every = {outcome for part in self.parts for outcome, _ in part.outcomes}
            state = next((state for state in (QUARANTINED, EXCLUDED) if state in every), MISSING)
            reason = self._reason(self.parts) or PUBLIC_MISSING[stages.ANONYMIZE]
            yield Line(token, days=days, images=0, state=state, reason=reason)

    def _reason(self, parts: Iterable[_Part]) -> str:
        told = {public_reason(*outcome) for part in parts for outcome in part.outcomes if outcome[0] != DEIDENTIFIED}
        reasons = {f"{reason}: {rule}" if rule else reason for rule, reason in told} | {self.missing}
        return "; ".join(sorted(reasons - {""}))


def _part(store: Store, source: SourceSeries, standing: Standing) -> _Part:
    stamp = stamp_of(source.study_uid, source.series_uid, store.seen(source.key))  # lines are only added to the file
    kept = standing.get(source.key, stamp)
    if kept is None:
        uids, outcomes = dict(store.uids(source.key)), Counter[tuple[str, str]]()
        settled = (item for item in store.settled(source.key).values() if item.reason != WITHDRAWN)
        outcomes.update((item.outcome, item.reason) for item in settled)
        new = [uids.get(uid, uid) for uid in (source.study_uid, source.series_uid)]
        kept = [*new, [[*outcome, count] for outcome, count in outcomes.items()]]
        standing.put(source.key, stamp, kept)
    study_uid, series_uid, counts = kept
    outcomes = Counter({(outcome, reason): count for outcome, reason, count in counts})
    return _Part(source.pseudonym, study_uid, series_uid, outcomes)


def _series_of_lines(part: Run, store: Store, root: Path) -> dict[int, list[_Series]]:
    """Return the series of each line of the query table, in their order."""
    planned = sorted(extracted.series(part), key=lambda pair: pair[0].number)  # those that stood come last
    wanted = {item.series for item, _ in planned}
    parts: dict[SeriesId, list[_Part]] = {}
    with Standing(root, "linked") as standing:
        for source in series_of(store):
            if source.series in wanted:
                parts.setdefault(source.series, []).append(_part(store, source, standing))
    found: dict[int, list[_Series]] = {}
    for item, account in planned:
        missing = PUBLIC_MISSING[stages.EXTRACT] if account.missing else ""
        series = _Series(date_of(item.attributes.get("StudyDate", "")), parts.get(item.series, ()), missing)
        for line in item.lines:
            found.setdefault(line, []).append(series)
    return found


class _Earlier:
    """The lines of the earlier linker of the data set. A row that cannot be asked tonight keeps its lines.

    A row is the same if its id, what it asks, and its anchor are: rows may share an id, and a table may be another one.
    """

    def __init__(self, home: Path, store: Store) -> None:
        self._home, self._store = home, store
        self._places: dict[str, int] = {}
        self._lines: dict[int, list[Line]] | None = None

    def lines(self, row: extracted.Identity) -> list[Line]:
        """Return the lines of a row with a series that is in the data set."""
        if self._lines is None:
            self._lines = {}
            with suppress(Exception):  # whatever is damaged, or not there, is not known
                self._read(self._lines)
        return self._lines.get(self._places.get(_known(row), 0), [])

    def _read(self, lines: dict[int, list[Line]]) -> None:
        from pyarrow.parquet import read_table

        self._places, there = read_json(self._home / _ROWS_FILE), _series_in(self._store)
        for values in read_table(self._home / FILES[1], columns=["line", *COLUMNS]).to_pylist():
            place = values.pop("line")
            line = Line(**{name: value for name, value in values.items() if value is not None})
            if line.series_uid in there:
                lines.setdefault(place, []).append(line)


def _known(row: extracted.Identity) -> str:
    """Return what a row is known by from run to run."""
    return f"{row.asked} {row.row_id}"


def _series_in(store: Store) -> set[str]:
    """Return the Series Instance UIDs of a data set."""
    found = set()
    for source in series_of(store):
        if any(item.outcome == DEIDENTIFIED for item in store.settled(source.key).values()):
            found.add(dict(store.uids(source.key)).get(source.series_uid, source.series_uid))
    return found


def _write_own(
    home: Path,
    rows: Mapping[int, extracted.Identity],
    by_line: Mapping[int, Sequence[Line]],
    left_out: Mapping[int, str],
    part: Run,
) -> None:
    """Write the protected linker."""
    others, beside = _beside(part)
    names = unique([*_OWN, *COLUMNS, *others])
    columns = {**_OWN, **COLUMNS, **dict.fromkeys(names[len(_OWN) + len(COLUMNS) :], TEXT)}

    def cells() -> Iterator[Sequence[object]]:
        for number in sorted(by_line):
            row, more = rows[number], beside.get(number, [None] * len(others))
            for line in by_line[number]:
                yield number, row.row_id, row.anchor, left_out[number], *line.cells(), *more

    write_table(home / NAME, columns, cells())


def _beside(part: Run) -> tuple[list[str], dict[int, list[Any]]]:
    """Return names of the columns that are not ours, and their cells by line."""
    if not (path := beside_of(part)).exists():
        return [], {}
    from pyarrow.parquet import read_table

    table = read_table(path)
    first, *others = (column.to_pylist() for column in table.columns)
    return table.column_names[1:], {line: list(cells) for line, *cells in zip(first, *others, strict=True)}


def _write_public(root: Path, by_line: Mapping[int, Sequence[Line]], with_days: bool, scratch: Path) -> None:
    """Write the linker of the data set, if it is another one than before."""
    every = {line if with_days else replace(line, days=None) for lines in by_line.values() for line in lines}
    cells = sorted(every, key=lambda line: ["" if cell is None else str(cell) for cell in line.cells()])
    made = scratch / NAME
    write_table(made, COLUMNS, (line.cells() for line in cells), data_file())
    for name in FILES:
        new, old = (scratch / name).read_bytes(), root / name
        if not old.exists() or old.read_bytes() != new:
            write_atomic(old, new, data_file(), scratch)
