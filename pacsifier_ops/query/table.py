"""Reads a query table. All rows are checked, and all problems collected, before any PACS is queried."""

from __future__ import annotations

import functools
import io
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pacsifier_ops.base import settings
from pacsifier_ops.base.cells import plain
from pacsifier_ops.base.config import ACCEPT_ARCHIVE
from pacsifier_ops.base.given import Unusable, open_given
from pacsifier_ops.query.columns import Pair, place_of, unique
from pacsifier_ops.query.keys import (
    ACCEPT,
    ANCHOR,
    COLUMNS,
    DATE_FORM,
    KEYS,
    NEW_IDS,
    NO_KEYS,
    ROW_ID,
    SELECTION,
    check_cell,
    check_day,
    check_text,
    column_of,
    is_weak,
    nearest_column,
)
from pacsifier_ops.query.problems import Problem, TableRefused
from pacsifier_ops.query.pseudonym import check_pseudonym
from pacsifier_ops.query.reading import AS_IT_IS, INCLUDE, SKIP, Reading
from pacsifier_ops.query.records import Record, bytes_of, is_workbook, records_of
from pacsifier_ops.query.spreadsheets import refuse_damaged_id, refuse_lost_value, refuse_rounded, unwrapped
from pacsifier_ops.query.sql import is_database, is_parquet, records_of_query
from pacsifier_ops.query.typed import records_of_parquet

#: Maximum number of wrong columns in an error; the others are counted.
_MOST_COLUMNS = 20
#: Maximum number of columns that are looked at one by one: a file of commas has millions.
_WIDEST = 1000
#: What to do about a column with a name of its own.
_MAP = "delete the column, or say with columns which are ours, as in PatientID = mrn: the others pass"
#: Columns whose cells may be dates, times and numbers in a workbook.
_NUMBERED = {column for column, key in KEYS.items() if key.vr in ("DA", "TM", "IS")} | {ANCHOR}
#: Columns of dates.
_DATES = {column for column, key in KEYS.items() if key.vr == "DA"} | {ANCHOR}
#: Columns that spreadsheets often treat as numbers.
_IDS = ("PatientID", "AccessionNumber", "StudyID", NEW_IDS)
#: Interpretation of a number as a time, by its number of digits.
_CLOCK = {2: "hours (HH)", 4: "hours and minutes (HHMM)"}
#: Maximum number of lines in a note.
_MOST_LINES = 20


@dataclass(frozen=True)
class QueryRow:
    """A valid row.

    Attributes:
        line: first line of the row in the user's file, from 1; in a workbook the row's number.
        keys: values of the keys in DICOM's form, by keyword; never empty.
        cells: original cells of the row, by column.
        new_id: pseudonym of the row's patient; may be empty.
        warnings: remarks, without values.
        duplicates: lines of later rows that are the same in all columns.
        accept_patient_id_of: `archive`, or empty; see `config.PacsNode`.
        exact: `*` and `?` in the keys are ordinary characters.
        anchor: the day that the selection counts from, YYYYMMDD, or empty.
        selection: name of the row's set of rules, or empty.
        row_id: the row's own id, or empty.
    """

    line: int
    keys: dict[str, str]
    cells: dict[str, str]
    new_id: str
    warnings: tuple[str, ...] = ()
    duplicates: tuple[int, ...] = ()
    accept_patient_id_of: str = ""
    exact: bool = False
    anchor: str = ""
    selection: str = ""
    row_id: str = ""


@dataclass(frozen=True)
class BadRow:
    """An invalid row. Its problems are those of the table with the same line."""

    line: int
    cells: dict[str, str]


@dataclass
class QueryTable:
    """A checked query table.

    Attributes:
        columns: known columns, in order.
        rows: valid rows.
        problems: reasons why `bad_rows` are invalid.
        bad_rows: invalid rows.
        notes: how ambiguous parts were read.
        others: names of the columns that are not ours, where a column map lets them through. They may identify.
        beside: cells of these, by line.
    """

    columns: tuple[str, ...]
    rows: list[QueryRow] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    others: tuple[str, ...] = ()
    beside: dict[int, tuple[str, ...]] = field(default_factory=dict)


def read_query_table(path: Path, reading: Reading = AS_IT_IS) -> QueryTable:
    """Read and check the query table in a file: see `parse_query_table`.

    Raises:
        TableRefused: the file cannot be read, or its table cannot be used as a whole.
    """
    return _checked(*_records_of_file(path, reading), reading)


def parse_query_table(data: bytes, reading: Reading = AS_IT_IS) -> QueryTable:
    """Check a query table: text separated by comma, semicolon or tab, a sheet of an .xlsx, a Parquet file, or the
    result of a query over a DuckDB database, a csv or a Parquet file.

    Raises:
        TableRefused: a QueryTableError with all problems of the table as a whole: not text, empty, no header, an
            unknown or repeated column. Problems of rows are in the result.
    """
    if (is_database(data) or reading.sql) and not is_workbook(data):
        with tempfile.NamedTemporaryFile(dir=settings.state_root()) as stream:
            stream.write(data)
            stream.flush()
            return read_query_table(Path(stream.name), reading)
    return _checked(*_records_of_data(data, reading), reading)


def _records_of_file(path: Path, reading: Reading) -> tuple[list[Record], str, dict[int, str]]:
    try:
        with open_given(path) as stream:
            head = stream.read(16)
    except (Unusable, OSError) as error:
        why = str(error) if isinstance(error, Unusable) else "cannot be read"
        raise TableRefused([Problem(0, "", f"{why}; check the path")]) from None
    if reading.sql and not reading.sql_conn:  # what comes of a connection lies in the file already
        if is_workbook(head):
            raise TableRefused([Problem(0, "", "is a workbook, which no SQL query can be asked of; save it as CSV")])
        typed = records_of_query(path, Path(reading.sql))
    elif is_parquet(head):
        _refuse_sheet(reading)
        typed = records_of_parquet(path)
    else:
        return _records_of_data(bytes_of(path) if not is_database(head) else head, reading)
    return typed.records, "", typed.notes


def _records_of_data(data: bytes, reading: Reading) -> tuple[list[Record], str, dict[int, str]]:
    if is_database(data):
        message = "is a DuckDB database; name with the option sql a file with the query to ask of it"
        raise TableRefused([Problem(0, "", message)])
    if is_parquet(data):
        _refuse_sheet(reading)
        typed = records_of_parquet(io.BytesIO(data))
        return typed.records, "", typed.notes
    return *records_of(data, reading), {}


def _refuse_sheet(reading: Reading) -> None:
    if reading.sheet:
        raise TableRefused([Problem(0, "", "is a Parquet file and has no sheets; leave sheet out")])


def _checked(records: list[Record], remark: str, typed: Mapping[int, str], reading: Reading) -> QueryTable:
    """Check the records of a table.

    Args:
        remark: on its encoding.
        typed: notes on how columns with types were read, by index.
    """
    filled = [record for record in records if record.faults or any(map(str.strip, record.cells))]
    if not filled:
        raise TableRefused([Problem(0, "", "is empty; give a header line and at least one row")])
    header, *rows = filled
    if header.hidden:
        raise TableRefused([Problem(header.line, "", "hidden, and it would be the header; show it, or delete it")])
    columns, notes = _mapped(header, reading.map) if reading.map else _columns(header)
    notes += [
        f"column {place + 1} {note}" for place, note in sorted(typed.items()) if "".join(columns[place : place + 1])
    ]
    hidden = [record.line for record in rows if record.hidden]
    if hidden and reading.hidden_rows in (INCLUDE, SKIP):
        notes.append(_of_hidden(hidden, reading))
        rows = [record for record in rows if not record.hidden or reading.hidden_rows == INCLUDE]
    if not rows:
        raise TableRefused([Problem(0, "", "has a header but no rows; give at least one")])

    table = QueryTable(tuple(filter(None, columns)), notes=notes)
    ours = [place for place, column in enumerate(columns) if column]
    others = [place for place, column in enumerate(columns) if not column]
    table.others = tuple(name for name, column in zip(unique(header.cells), columns, strict=False) if not column)
    whole = []
    for record in rows:
        count = len(record.cells)
        last = max([*record.faults, *(place for place, text in enumerate(record.cells) if text.strip())])
        if count < len(columns) or last >= len(columns):
            less = "fewer" if count < len(columns) else "more"
            message = f"has {less} cells than the header; add or remove dividers, or quote a cell"
            table.problems.append(Problem(record.line, "", message))
            cells = {column: text for column, text in zip(columns, record.cells, strict=False) if column}
            table.bad_rows.append(BadRow(record.line, cells))
        elif others:
            table.beside[record.line] = tuple(record.cells[place] for place in others)
            whole.append(record.only(ours))
        else:
            whole.append(record)
    _check(table, whole, remark, reading)
    places = {column: place for place, column in enumerate(table.columns)}
    table.problems.sort(key=lambda problem: (problem.line, places.get(problem.column, -1)))
    table.bad_rows.sort(key=lambda row: row.line)
    return table


def _of_hidden(lines: list[int], reading: Reading) -> str:
    """Return the note on hidden rows."""
    became = "left out" if reading.hidden_rows == SKIP else "taken with the others"
    which = ", ".join(map(str, lines[:_MOST_LINES])) + (
        f" and {len(lines) - _MOST_LINES} more" if len(lines) > _MOST_LINES else ""
    )
    return f"hidden rows were {became}: line {which}"


def _columns(header: Record) -> tuple[tuple[str, ...], list[str]]:
    """Return the names of the columns, without unnamed ones at the end; and notes on columns with another name.

    Raises:
        TableRefused: names every unknown or repeated column.
    """
    names = [name.strip() for name in header.cells]
    while names and not names[-1]:
        names.pop()
    if len(names) > _WIDEST:
        message = f"has {len(names):,} columns; delete those that are not known; known are {', '.join(COLUMNS)}"
        raise TableRefused([Problem(header.line, "", message)])
    columns = list(map(column_of, names))
    if not any(columns) and not any(map(nearest_column, names)):
        message = f"no header: the first line names no column; the columns are {', '.join(COLUMNS)}"
        raise TableRefused([Problem(header.line, "", message)])
    problems, notes = [], []
    for number, (name, column) in enumerate(zip(names, columns, strict=True), 1):
        # Unknown names are not repeated in messages: in a file without a header they may be a patient's.
        if not name:
            problems.append(Problem(header.line, f"column {number}", "has no name; name it or remove it"))
        elif not column:
            near = nearest_column(name)
            advice = f"did you mean {near}? Else {_MAP}" if near else f"{_MAP}; known are {', '.join(COLUMNS)}"
            problems.append(Problem(header.line, f"column {number}", f"not known; {advice}", name))
        elif column in columns[: number - 1]:
            problems.append(Problem(header.line, column, f"there twice (column {number}); remove one", name))
        elif column != name:
            notes.append(f"column {number} was read as {column}")
        if column and number - 1 in header.hidden_columns:
            notes.append(f"column {number} ({column}) is hidden, and counts all the same")
    if len(problems) > _MOST_COLUMNS:
        more = Problem(
            header.line, "", f"and {len(problems) - _MOST_COLUMNS} more columns are not known or there twice"
        )
        problems = [*problems[:_MOST_COLUMNS], more]
    if problems:
        raise TableRefused(problems)
    return tuple(columns), notes


def _mapped(header: Record, pairs: Sequence[Pair]) -> tuple[tuple[str, ...], list[str]]:
    """Return the names of the columns by a column map, empty for those that go beside; and notes.

    Columns that the map does not name are ours if they have a name of ours.

    Raises:
        TableRefused: says which pair of the map, or which column, is wrong.
    """
    names = [unicodedata.normalize("NFC", name.strip()) for name in header.cells]
    while names and not names[-1]:
        names.pop()
    problems, notes = [], []
    mapped: dict[int, str] = {}
    for pair in pairs:
        try:
            place = place_of(pair, names)
            if place in mapped:
                raise ValueError("names the column of another pair; one column of the table is one of ours")
        except ValueError as error:
            problems.append(Problem(0, "columns", f"pair {pair.place} ({pair.ours}) {error}", pair.theirs))
        else:
            mapped[place] = pair.ours
            notes.append(f"column {place + 1} was read as {pair.ours}, as columns says")
    columns = [""] * len(names)
    for place, name in enumerate(names):
        known = mapped.get(place) or column_of(name)
        if place not in mapped and known in mapped.values():
            known = ""
        elif known and known in columns:
            problems.append(
                Problem(header.line, known, f"there twice (column {place + 1}); say with columns which", name)
            )
        elif not known and nearest_column(name).casefold() == name.casefold() != "":
            message = f"spelled almost as {nearest_column(name)}; say with columns what it is, or rename it"
            problems.append(Problem(header.line, f"column {place + 1}", message, name))
        elif known and place not in mapped and known != name:
            notes.append(f"column {place + 1} was read as {known}")
        columns[place] = known
        if known and place in header.hidden_columns:
            notes.append(f"column {place + 1} ({known}) is hidden, and counts all the same")
    if not problems and not any(column in KEYS for column in columns):
        problems = [Problem(0, "", "no column is one to ask by; map one with columns, as in PatientID = mrn")]
    if problems:
        raise TableRefused(problems[:_MOST_COLUMNS])
    if beside := columns.count(""):
        notes.append(f"{beside} further column(s) go into the protected linker only")
    return tuple(columns), notes


def _check(table: QueryTable, records: list[Record], remark: str, reading: Reading) -> None:
    """Sort complete records into good and bad rows."""
    verdict = functools.cache(functools.partial(_verdict, reading))
    lines_by_values: dict[tuple[str, ...], list[int]] = {}
    cells: dict[int, dict[str, str]] = {}
    wanted: dict[int, tuple[str, ...]] = {}
    problems: dict[int, list[Problem]] = {}
    remarks: dict[int, list[str]] = {}
    for record in records:
        line = record.line
        cells[line] = dict(zip(table.columns, map(plain, record.cells), strict=False))
        answers = [verdict(column, _normalised(text)) for column, text in cells[line].items()]
        odd = {
            place: f"{what}, and no text; type what is meant as text"
            for place, what in record.odd.items()
            if table.columns[place] not in _NUMBERED
        }
        wrong = {place: message for place, (_, message) in enumerate(answers) if message} | odd | record.faults
        wanted[line] = tuple("" if place in wrong else value for place, (value, _) in enumerate(answers))
        found = []
        if record.hidden and reading.hidden_rows != INCLUDE:
            message = "hidden, so nobody sees what it asks for; show it, delete it, or give the option hidden_rows"
            found.append(Problem(line, "", message))
        found += [
            Problem(line, table.columns[place], message, record.cells[place])
            for place, message in sorted(wrong.items())
        ]
        if not found and not any(v for column, v in zip(table.columns, wanted[line], strict=True) if column in KEYS):
            beside = ", ".join(column for column in NO_KEYS if column in {NEW_IDS, ACCEPT, *table.columns})
            found = [Problem(line, "", f"asks for nothing; fill at least one column other than {beside}")]
        if found:
            problems[line] = found
        remarks[line] = list(_on_times(table.columns, record))
        if remark and not "".join(record.cells).isascii():
            remarks[line].append(remark)
    for line, problem in _clashes(table.columns, wanted):
        problems.setdefault(line, []).append(problem)

    for line, values in wanted.items():
        if line in problems:
            table.problems += problems[line]
            table.bad_rows.append(BadRow(line, cells[line]))
        else:
            lines_by_values.setdefault(values, []).append(line)
    for values, (line, *others) in lines_by_values.items():
        keys = {column: value for column, value in zip(table.columns, values, strict=True) if value}
        new_id, accept, anchor, selection, row_id = (keys.pop(column, "") for column in NO_KEYS)
        warned = remarks[line]
        if all(is_weak(keyword, value) for keyword, value in keys.items()):
            warned.append(f"asks by {', '.join(keys)} only, which may find a large part of the archive")
        table.rows.append(
            QueryRow(
                line,
                keys,
                cells[line],
                new_id,
                tuple(warned),
                tuple(others),
                accept,
                reading.exact,
                anchor,
                selection,
                row_id,
            )
        )


def _on_times(columns: tuple[str, ...], record: Record) -> Iterator[str]:
    """Yield how numbers of a workbook were read as times: 1500 may originally have been 001500."""
    for place in record.numbers & {place for place, column in enumerate(columns) if column in KEYS}:
        as_what = _CLOCK.get(len(record.cells[place]))
        if as_what and KEYS[columns[place]].vr == "TM":
            yield f"{columns[place]} is a number, and was read as {as_what}; type it as text if it is not"


def _clashes(columns: tuple[str, ...], wanted: dict[int, tuple[str, ...]]) -> Iterator[tuple[int, Problem]]:
    """Yield the lines that give a patient a different pseudonym than another line."""
    if not {"PatientID", NEW_IDS} <= set(columns):
        return
    patient, new_id = columns.index("PatientID"), columns.index(NEW_IDS)
    given: dict[str, dict[str, int]] = {}
    for line, values in wanted.items():
        if values[patient] and values[new_id]:
            given.setdefault(values[patient], {}).setdefault(values[new_id], line)
    for line, values in wanted.items():
        lines = given.get(values[patient], {})
        if values[new_id] and len(lines) > 1:
            other = next(first for text, first in lines.items() if text != values[new_id])
            message = f"line {other} has another one for the same PatientID; give one"
            yield line, Problem(line, NEW_IDS, message)


def _normalised(text: str) -> str:
    """Return a cell without surrounding blanks, in NFC, no-break spaces as plain ones, and without Excel's `="…"`."""
    return unwrapped(unicodedata.normalize("NFC", text.replace("\xa0", " ").strip()))


def _verdict(reading: Reading, column: str, text: str) -> tuple[str, str]:
    """Return the value of a cell and its error; one of them is empty."""
    if not text:
        return "", ""
    try:
        refuse_lost_value(text)
        if column in _IDS:
            refuse_damaged_id(text)
        if column == NEW_IDS:
            return check_pseudonym(text), ""
        if column == ACCEPT:
            return _check_accept(text), ""
        if column == ROW_ID:
            refuse_rounded(text)
        if column in (ROW_ID, SELECTION):
            return check_text(text), ""
        text = reading.dicom_dates(text) if column in _DATES else text
        return check_day(text) if column == ANCHOR else check_cell(column, text), ""
    except ValueError as error:
        if column in _DATES and reading.date_format:
            as_given = (
                f"write the date as {reading.date_format}, as date_format says, or as YYYYMMDD, without a time of day"
            )
            return "", str(error).replace(DATE_FORM, as_given)
        return "", str(error)


def _check_accept(text: str) -> str:
    if text != ACCEPT_ARCHIVE:
        raise ValueError(f"write {ACCEPT_ARCHIVE}, or leave the cell empty")
    return text
