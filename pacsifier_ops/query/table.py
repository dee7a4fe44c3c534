"""Reading a query table: every row checked, every problem found at once, before any PACS is asked."""

from __future__ import annotations

import csv
import datetime
import functools
import io
import re
import unicodedata
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pacsifier_ops.cells import plain
from pacsifier_ops.config import ACCEPT_ARCHIVE
from pacsifier_ops.errors import QueryTableError
from pacsifier_ops.given import Unusable, read_given
from pacsifier_ops.pseudonyms.values import check_pseudonym
from pacsifier_ops.query.keys import (
    ACCEPT,
    COLUMNS,
    KEYS,
    NEW_IDS,
    check_cell,
    is_weak,
    nearest_column,
)
from pacsifier_ops.query.spreadsheets import refuse_lost, refuse_wrecked, shown, unwrapped

#: Bytes of a table at most, whatever way it comes: each cell of it takes eight and more in memory.
LARGEST_FILE = 64 * 2**20
#: Bytes of a workbook at most, once it is unpacked; it takes ten times as much memory to read.
LARGEST_UNPACKED = 64 * 2**20
#: Columns that are told to be wrong, at most; the others are counted.
_TOLD = 20
#: Cells that are merged with others, at most.
_MOST_MERGED = 1_000_000
#: Cells of a sheet at most, the empty ones before the last one counted.
_MOST_CELLS = 2_000_000
#: VRs whose cells may be dates, times and numbers in a workbook.
_NUMBERED = ("DA", "TM", "IS")
#: Columns that spreadsheets like to take for numbers.
_IDS = ("PatientID", "AccessionNumber", NEW_IDS)
_MERGED = re.compile(
    rb"""<(?:\w+:)?mergeCell\b[^>]*?\bref\s*=\s*["']\s*\$?([A-Za-z]+)\$?(\d+)\s*:\s*\$?([A-Za-z]+)\$?(\d+)"""
)


@dataclass(frozen=True)
class QueryRow:
    """A row that can be asked.

    Attributes:
        line: line in the user's file where the row begins, from 1; in a workbook the row's number.
        keys: what the row asks for, as DICOM writes it, by keyword; never empty.
        cells: the row's cells as written, by column.
        new_id: pseudonym for the row's patient; may be empty.
        warnings: remarks, without values.
        duplicates: lines of later rows that ask for the same.
        accept_patient_id_of: `archive`, or empty; see `config.PacsNode`.
    """

    line: int
    keys: dict[str, str]
    cells: dict[str, str]
    new_id: str
    warnings: tuple[str, ...] = ()
    duplicates: tuple[int, ...] = ()
    accept_patient_id_of: str = ""


@dataclass(frozen=True)
class Problem:
    """What is wrong where, and what to do; without values.

    Attributes:
        line: line in the user's file, from 1; 0 for the file as a whole.
        column: name of the column, `column N` where it has no known name, empty for the row as a whole.
    """

    line: int
    column: str
    message: str

    def __str__(self) -> str:
        where = ", ".join(filter(None, (f"line {self.line}" if self.line else "", self.column)))
        return f"{where}: {self.message}" if where else self.message


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be asked; its problems are the table's with the same line."""

    line: int
    cells: dict[str, str]


@dataclass
class QueryTable:
    """A query table as read; `problems` tell why each of `bad_rows` is bad."""

    columns: tuple[str, ...]
    rows: list[QueryRow] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)


class TableRefused(QueryTableError):
    """The table cannot be used as a whole; `problems` holds every reason."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "the query table cannot be used: " + "; ".join(map(str, self.problems))


@dataclass
class Record:
    """A record of the file.

    Attributes:
        line: where it begins, from 1.
        cells: as written.
        faults: what is wrong with some cells already, by place.
        odd: by place, what makes a cell of a workbook no text, such as that it is a date; in some columns that is fine.
        hidden: nobody sees the row.
    """

    line: int
    cells: list[str]
    faults: dict[int, str] = field(default_factory=dict)
    odd: dict[int, str] = field(default_factory=dict)
    hidden: bool = False


def read_query_table(path: Path) -> QueryTable:
    """Read and check the query table in a file: see `parse_query_table`.

    Raises:
        TableRefused: the file cannot be read, or its table cannot be used as a whole.
    """
    return parse_query_table(_bytes_of(path))


def read_records(path: Path) -> list[Record]:
    """The records of a table of any columns, as text or workbook; see `parse_query_table` for what is understood.

    Raises:
        TableRefused: the file cannot be read.
    """
    return _records(_bytes_of(path))[0]


def _bytes_of(path: Path) -> bytes:
    try:
        return read_given(path, LARGEST_FILE)
    except Unusable as error:
        raise TableRefused([Problem(0, "", f"{error}; check the path")]) from None


def parse_query_table(data: bytes) -> QueryTable:
    """Check a query table: text divided by comma, semicolon or tab, or a sheet of an .xlsx.

    Text is UTF-8, UTF-16 with its mark, or else Windows-1252, with a warning for rows beyond ASCII. Of a workbook it is
    the sheet that can be seen and names columns of ours, as it is shown.

    Raises:
        TableRefused: a QueryTableError with all problems of the table as a whole: not text, empty, no header,
            an unknown column or one named twice. Problems of rows are in the result.
    """
    records, remark = _records(data)
    filled = [record for record in records if record.faults or any(map(str.strip, record.cells))]
    if not filled:
        raise TableRefused([Problem(0, "", "is empty; give a header line and at least one row")])
    columns = _columns(filled[0])
    if not filled[1:]:
        raise TableRefused([Problem(0, "", "has a header but no rows; give at least one")])

    table = QueryTable(columns)
    whole = []
    for record in filled[1:]:
        count = len(record.cells)
        last = max([*record.faults, *(place for place, text in enumerate(record.cells) if text.strip())])
        if count < len(columns) or last >= len(columns):
            less = "fewer" if count < len(columns) else "more"
            message = f"has {less} cells than the header; add or remove dividers, or quote a cell"
            table.problems.append(Problem(record.line, "", message))
            table.bad_rows.append(BadRow(record.line, dict(zip(columns, record.cells, strict=False))))
        else:
            whole.append(record)
    _check(table, whole, remark)
    places = {column: place for place, column in enumerate(columns)}
    table.problems.sort(key=lambda problem: (problem.line, places.get(problem.column, -1)))
    table.bad_rows.sort(key=lambda row: row.line)
    return table


def _records(data: bytes) -> tuple[list[Record], str]:
    """The records of a file, and a remark where its encoding was a guess."""
    if is_workbook(data):
        return _records_of_workbook(data), ""
    text, remark = _decode(data)
    return _records_of_text(text), remark


def is_workbook(data: bytes) -> bool:
    """Whether this is a zip archive, as an .xlsx is, and no text."""
    return data.startswith(b"PK\x03\x04")


def _decode(data: bytes) -> tuple[str, str]:
    """The text of a file, and a remark where its encoding was a guess."""
    remark = ""
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            text = data.decode("utf-16")
        else:
            try:
                text = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                text = data.decode("cp1252")
                remark = "the file is not UTF-8 and was read as Windows-1252; check its accented letters"
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        message = "is neither text nor an .xlsx workbook; save it as CSV UTF-8 or as .xlsx"
        raise TableRefused([Problem(0, "", message)])
    return text, remark


def _records_of_text(text: str) -> list[Record]:
    """The records of a text, each with the physical line it begins on."""
    lines = io.StringIO(text, newline="")
    skipped, first = next(((n, line) for n, line in enumerate(lines, 1) if line.strip()), (0, ""))
    hint = re.fullmatch(r'"?sep=([,;\t])"?\s*', first)  # how Excel is told the divider
    if hint:
        divider = hint[1]
    else:
        divider = max(",;\t", key=lambda char: _header_score(first, char))
        lines.seek(0)
        skipped = 0
    reader = csv.reader(lines, delimiter=divider, strict=True, skipinitialspace=True)
    records = []
    line = 1
    try:
        for cells in reader:
            records.append(Record(line + skipped, cells))
            line = reader.line_num + 1
    except csv.Error:
        message = "a quoted cell is not closed, or has text after its closing quote; double quotes inside cells"
        raise TableRefused([Problem(line + skipped, "", message)]) from None
    return records


def _header_score(line: str, divider: str) -> tuple[int, int]:
    names = [name.strip(' "\r\n') for name in line.split(divider)]
    return sum(name in COLUMNS for name in names), len(names)


def _records_of_workbook(data: bytes) -> list[Record]:
    """The rows of the sheet of an .xlsx workbook that is seen and holds a table.

    Raises:
        TableRefused: none can be read, or several sheets may be meant.
    """
    import openpyxl

    _check_workbook(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl's warnings quote cells
            book = openpyxl.load_workbook(io.BytesIO(data))
            number = _sheet_of(book)
            cells = book.worksheets[number]
            rows = list(cells.iter_rows())
            formulas = any(cell.data_type == "f" for row in rows for cell in row)
            results = cells
            if formulas:
                results = openpyxl.load_workbook(io.BytesIO(data), data_only=True).worksheets[number]
            covered = {
                place
                for area in cells.merged_cells.ranges
                if cells.cell(area.min_row, area.min_col).value is not None
                for place in list(area.cells)[1:]
            }
    except TableRefused:
        raise
    except Exception:  # whatever a damaged or foreign zip archive makes openpyxl raise
        message = "cannot be read as an .xlsx workbook; save it as .xlsx or as CSV UTF-8"
        raise TableRefused([Problem(0, "", message)]) from None
    records = []
    for line, row in enumerate(rows, 1):
        record = Record(line, [], hidden=line in cells.row_dimensions and bool(cells.row_dimensions[line].hidden))
        for place, cell in enumerate(row):
            try:
                if (line, place + 1) in covered:
                    raise ValueError("part of merged cells; unmerge them and fill each one")
                text, odd = _shown(cell, results.cell(line, place + 1))
                record.cells.append(text)
                if odd:
                    record.odd[place] = odd
            except ValueError as error:
                record.cells.append("")
                record.faults[place] = str(error)
        records.append(record)
    return records


def _check_workbook(data: bytes) -> None:
    """Refuse a workbook that is small only as long as nobody unpacks it: openpyxl would fill the memory.

    Raises:
        TableRefused: says what to do.
    """
    message = "cannot be read as an .xlsx workbook; save it as .xlsx or as CSV UTF-8"
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > LARGEST_UNPACKED:
                message = "is too large once unpacked; cut it into several tables, or save it as CSV UTF-8"
                raise TableRefused([Problem(0, "", message)])
            for entry in entries:
                if not entry.filename.endswith((".xml", ".rels")):
                    continue
                content = archive.read(entry)
                if b"<!DOCTYPE" in content or b"<!ENTITY" in content:  # never in a workbook (ECMA-376-2)
                    raise TableRefused([Problem(0, "", message)])
                if sum(map(_extent, _MERGED.findall(content))) > _MOST_MERGED:
                    message = "has merged cells of a huge extent; unmerge them"
                    raise TableRefused([Problem(0, "", message)])
    except TableRefused:
        raise
    except Exception:  # whatever a damaged, encrypted or foreign zip archive makes zipfile raise
        raise TableRefused([Problem(0, "", message)]) from None


def _extent(area: tuple[bytes, bytes, bytes, bytes]) -> int:
    """Cells of an area such as A1:C5."""
    first_column, first_row, last_column, last_row = area
    columns, rows = _column(last_column) - _column(first_column), int(last_row[:12]) - int(first_row[:12])
    return (abs(columns) + 1) * (abs(rows) + 1)


def _column(letters: bytes) -> int:
    """Number of a column that letters name, from 1."""
    return functools.reduce(lambda number, letter: number * 26 + (letter | 32) - 96, letters[:12], 0)


def _sheet_of(book: Any) -> int:
    """Which sheet holds the table: the one that is seen and names a column of ours; else the first that is seen.

    Raises:
        TableRefused: several may be meant, or one is too large to be looked at.
    """
    seen = [number for number, sheet in enumerate(book.worksheets) if sheet.sheet_state == "visible"]
    fitting = []
    for number in seen:
        sheet = book.worksheets[number]
        # A cell that was only formatted, far away, would make millions of empty ones.
        if sheet.max_row * sheet.max_column > _MOST_CELLS:
            if number != seen[0]:
                continue
            message = "the first sheet is too large; delete the empty rows and columns around the table"
            raise TableRefused([Problem(0, "", message)])
        header = next((row for row in sheet.iter_rows(values_only=True) if any(c is not None for c in row)), ())
        if any(str(cell).strip() in COLUMNS for cell in header):
            fitting.append(number)
    if len(fitting) > 1:
        which = " and ".join(str(number + 1) for number in fitting)
        message = f"sheets {which} of the workbook both hold such a table; leave one, or hide the others"
        raise TableRefused([Problem(0, "", message)])
    return (fitting or seen or [0])[0]


def _shown(cell: Any, result: Any) -> tuple[str, str]:
    """A cell of a workbook as text, dates as YYYYMMDD, times as HHMMSS; and what it is, where that is no text.

    Raises:
        ValueError: it shows no value that can be relied on.
    """
    value = result.value
    if value is None and cell.data_type == "f":
        raise ValueError("a formula whose result is not saved; put the value in its place")
    if value is None:
        return "", ""
    if isinstance(value, bool):
        raise ValueError("true or false; type the value as text")
    if result.data_type == "e":
        raise ValueError("an error of the spreadsheet; correct the cell")
    if isinstance(value, datetime.timedelta):
        day = datetime.timedelta(0) <= value < datetime.timedelta(days=1)
        value = (datetime.datetime.min + value).time() if day else str(value)
    if isinstance(value, datetime.datetime):
        return value.strftime("%Y%m%d" if value.time() == datetime.time.min else "%Y%m%d%H%M%S"), "a date"
    if isinstance(value, datetime.time):
        return value.strftime("%H%M%S.%f").removesuffix(".000000"), "a time"
    if isinstance(value, int | float):
        if abs(value) >= 1e15:
            raise ValueError("a number of more than 15 digits, which spreadsheets round; type it as text")
        if value != int(value):
            return str(value), "a number with a fraction"
        if value < 0:
            return str(int(value)), "a negative number"
        return shown(int(value), result.number_format), ""
    return str(value), ""


def _columns(header: Record) -> tuple[str, ...]:
    """The names of the columns; those without a name at the end do not count.

    Raises:
        TableRefused: names every column that is unknown or there twice.
    """
    names = [name.strip() for name in header.cells]
    while names and not names[-1]:
        names.pop()
    if not any(name in COLUMNS or nearest_column(name) for name in names):
        message = f"no header: the first line names no column; the columns are {', '.join(COLUMNS)}"
        raise TableRefused([Problem(header.line, "", message)])
    problems = []
    for number, name in enumerate(names, 1):
        # Unknown names are not repeated: in a file without a header they are a patient's.
        if not name:
            problems.append(Problem(header.line, f"column {number}", "has no name; name it or remove it"))
        elif name not in COLUMNS:
            near = nearest_column(name)
            advice = f"did you mean {near}?" if near else f"the columns are {', '.join(COLUMNS)}"
            problems.append(Problem(header.line, f"column {number}", f"not known; {advice}"))
        elif name in names[: number - 1]:
            problems.append(Problem(header.line, name, f"there twice (column {number}); remove one"))
    if len(problems) > _TOLD:
        more = Problem(header.line, "", f"and {len(problems) - _TOLD} more columns are not known or there twice")
        problems = [*problems[:_TOLD], more]
    if problems:
        raise TableRefused(problems)
    return tuple(names)


def _check(table: QueryTable, records: list[Record], remark: str) -> None:
    """Sort whole records into good and bad rows."""
    verdict = functools.cache(_verdict)
    asked: dict[tuple[str, ...], list[int]] = {}
    cells: dict[int, dict[str, str]] = {}
    wanted: dict[int, tuple[str, ...]] = {}
    problems: dict[int, list[Problem]] = {}
    for record in records:
        line = record.line
        cells[line] = dict(zip(table.columns, map(plain, record.cells), strict=False))
        answers = [verdict(column, _tidy(text)) for column, text in cells[line].items()]
        wanted[line] = tuple(value for value, _ in answers)
        odd = {
            place: f"{what}, and no text; type what is meant as text"
            for place, what in record.odd.items()
            if table.columns[place] not in KEYS or KEYS[table.columns[place]].vr not in _NUMBERED
        }
        wrong = {place: message for place, (_, message) in enumerate(answers) if message} | odd | record.faults
        found = (
            [Problem(line, "", "hidden, so nobody sees what it asks for; show it, or delete it")]
            if record.hidden
            else []
        )
        found += [Problem(line, table.columns[place], message) for place, message in sorted(wrong.items())]
        if not found and not any(v for column, v in zip(table.columns, wanted[line], strict=True) if column in KEYS):
            found = [Problem(line, "", f"asks for nothing; fill at least one column other than {NEW_IDS} and {ACCEPT}")]
        if found:
            problems[line] = found
    for line, problem in _clashes(table.columns, wanted):
        problems.setdefault(line, []).append(problem)

    for line, values in wanted.items():
        if line in problems:
            table.problems += problems[line]
            table.bad_rows.append(BadRow(line, cells[line]))
        else:
            asked.setdefault(values, []).append(line)
    for values, (line, *others) in asked.items():
        keys = {column: value for column, value in zip(table.columns, values, strict=True) if value}
        new_id, accept = keys.pop(NEW_IDS, ""), keys.pop(ACCEPT, "")
        remarks = []
        if remark and not "".join(cells[line].values()).isascii():
            remarks.append(remark)
        if all(is_weak(keyword, value) for keyword, value in keys.items()):
            remarks.append(f"asks by {', '.join(keys)} only, which may find a large part of the archive")
        table.rows.append(QueryRow(line, keys, cells[line], new_id, tuple(remarks), tuple(others), accept))


def _clashes(columns: tuple[str, ...], wanted: dict[int, tuple[str, ...]]) -> Iterator[tuple[int, Problem]]:
    """The lines that give a patient another pseudonym than another line does."""
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


def _tidy(text: str) -> str:
    """A cell without blanks around it, its letters composed, no-break spaces as plain ones, out of Excel's `="…"`."""
    return unwrapped(unicodedata.normalize("NFC", text.replace("\xa0", " ").strip()))


def _verdict(column: str, text: str) -> tuple[str, str]:
    """What a cell asks for, and what is wrong with it; one of both is empty."""
    if not text:
        return "", ""
    try:
        refuse_lost(text)
        if column in _IDS:
            refuse_wrecked(text)
        if column == NEW_IDS:
            return check_pseudonym(text), ""
        return (_check_accept(text) if column == ACCEPT else check_cell(column, text)), ""
    except ValueError as error:
        return "", str(error)


def _check_accept(text: str) -> str:
    if text != ACCEPT_ARCHIVE:
        raise ValueError(f"write {ACCEPT_ARCHIVE}, or leave the cell empty")
    return text
