"""Reads records from the bytes of a file: text separated by commas, semicolons or tabs, or a sheet of a workbook."""

from __future__ import annotations

import csv
import datetime
import functools
import io
import re
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pacsifier_ops.base.given import Unusable, read_given
from pacsifier_ops.query.problems import Problem, TableRefused
from pacsifier_ops.query.reading import AS_IT_IS, Reading
from pacsifier_ops.query.spreadsheets import shown

#: Maximum size of a table in bytes. Each cell takes eight times its size, and more, in memory.
LARGEST_FILE = 64 * 2**20
#: Maximum size of an unpacked workbook in bytes. Reading it takes ten times as much memory.
LARGEST_UNPACKED = 64 * 2**20
#: Maximum number of merged cells.
_MOST_MERGED = 1_000_000
#: Maximum number of cells of a sheet, including empty ones before the last one.
_MOST_CELLS = 2_000_000
_MERGED = re.compile(
    rb"""<(?:\w+:)?mergeCell\b[^>]*?\bref\s*=\s*["']\s*\$?([A-Za-z]+)\$?(\d+)\s*:\s*\$?([A-Za-z]+)\$?(\d+)"""
)
#: Files that are often mistaken for a table, by their first bytes.
_FOREIGN = {
    "HTML, whatever its name says": (
        b"<html",
        b"<!doctype",
        b"<table",
        b"<head",
        b"<body",
        b"<meta",
        b"<style",
        b"<div",
    ),
    "a web page in one file (MHTML)": (b"mime-version",),
    "a PDF": (b"%pdf",),
    "rich text (RTF)": (b"{\\rtf",),
}
_XML_SHEET = "an XML spreadsheet of Excel 2003, whatever its name says"
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ZIPPED = {
    "a workbook of OpenOffice or LibreOffice (.ods)": b"application/vnd.oasis.opendocument",
    "a binary workbook (.xlsb)": b"xl/workbook.bin",
    "a workbook of Apple Numbers": b"Index/Document.iwa",
}
_UNREADABLE = "cannot be read as an .xlsx workbook; save it as .xlsx or as CSV UTF-8"


@dataclass(slots=True)
class Record:
    """A record of the file.

    Attributes:
        line: its first line, from 1.
        cells: the texts.
        faults: errors of cells found here, by index.
        odd: descriptions of cells of a workbook that are no text, such as a date, by index; some columns allow them.
        numbers: indices of cells that are plain numbers in the workbook.
        hidden: the row is hidden.
        unseen: indices of hidden columns.
    """

    line: int
    cells: list[str]
    faults: dict[int, str] = field(default_factory=dict)
    odd: dict[int, str] = field(default_factory=dict)
    numbers: set[int] = field(default_factory=set)
    hidden: bool = False
    hidden_columns: frozenset[int] = frozenset()

    def only(self, places: Sequence[int]) -> Record:
        """Return the record with these cells alone."""
        new = {old: place for place, old in enumerate(places)}
        return Record(
            self.line,
            [self.cells[place] for place in places],
            {new[place]: fault for place, fault in self.faults.items() if place in new} if self.faults else self.faults,
            {new[place]: odd for place, odd in self.odd.items() if place in new} if self.odd else self.odd,
            {new[place] for place in self.numbers if place in new} if self.numbers else self.numbers,
            self.hidden,
            self.hidden_columns,
        )


def bytes_of(path: Path) -> bytes:
    """Return the content of a file with a table.

    Raises:
        TableRefused: it cannot be read.
    """
    try:
        return read_given(path, LARGEST_FILE)
    except Unusable as error:
        raise TableRefused([Problem(0, "", f"{error}; check the path")]) from None


def read_records(path: Path) -> list[Record]:
    """Return the records of a table with any columns, as text or workbook; see `records_of` for the formats.

    Raises:
        TableRefused: the file cannot be read.
    """
    return records_of(bytes_of(path), AS_IT_IS)[0]


def records_of(data: bytes, reading: Reading) -> tuple[list[Record], str]:
    """Return the records of a text or a workbook, and a remark where its encoding was guessed.

    Text is UTF-8, UTF-16, or else Windows-1252. Of a workbook the records come from the visible sheet with known
    columns, or from the one that `reading` names, in their displayed form.

    Raises:
        TableRefused: the file is no known form of table; names its form.
    """
    if kind := _foreign(data):
        raise TableRefused([Problem(0, "", f"is {kind}; save it as .xlsx or as CSV UTF-8")])
    if is_workbook(data):
        return _records_of_workbook(data, reading), ""
    if reading.sheet:
        raise TableRefused([Problem(0, "", "is text and has no sheets; leave sheet out")])
    text, remark = _decode(data)
    return _records_of_text(text, reading), remark


def _foreign(data: bytes) -> str:
    """Return the kind of a file that is often mistaken for a table; empty for other files."""
    begin = data[:4096].removeprefix(b"\xef\xbb\xbf").replace(b"\0", b"").lstrip(b"\xff\xfe \t\r\n").lower()
    begin = re.sub(rb"^<\s+", b"<", begin)
    for kind, signs in _FOREIGN.items():
        if begin.startswith(signs):
            return kind
    if begin.startswith(b"<?xml"):
        return _XML_SHEET if b"excel.sheet" in begin or b"office:spreadsheet" in begin else "xml"
    if data.startswith(_OLE):
        encrypted = "EncryptedPackage".encode("utf-16-le") in data
        return "a workbook with a password" if encrypted else "an .xls workbook of Excel before 2007"
    if is_workbook(data):
        return next((kind for kind, sign in _ZIPPED.items() if sign in data), "")
    return ""


def is_workbook(data: bytes) -> bool:
    """Return whether this is a zip archive, as .xlsx files are."""
    return data.startswith(b"PK\x03\x04")


def _decode(data: bytes) -> tuple[str, str]:
    """Return the text of a file, and a remark where its encoding was guessed."""
    remark = ""
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            text = data.decode("utf-16")
        elif 0 in data[:2]:  # the first letter of a header is ASCII
            text = data.decode("utf-16-be" if data[0] == 0 else "utf-16-le")
        else:
            try:
                text = data.decode("utf-8-sig")
            except UnicodeDecodeError:
                if b"\0" not in data and _may_be_mac(data):
                    message = (
                        "is not UTF-8, and its accented letters look like MacRoman, the encoding of older Macs; save "
                        "it as CSV UTF-8"
                    )
                    raise TableRefused([Problem(0, "", message)]) from None
                text = data.decode("cp1252")
                remark = "the file is not UTF-8 and was read as Windows-1252; check its accented letters"
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        message = "is neither text nor an .xlsx workbook; save it as CSV UTF-8 or as .xlsx"
        raise TableRefused([Problem(0, "", message)])
    return text, remark


def _may_be_mac(data: bytes) -> bool:
    """Return whether text beyond ASCII may be MacRoman.

    Then its bytes are letters in MacRoman, and other characters in Windows-1252. Windows-1252 has its letters from C0
    on, MacRoman most of its letters from 80 to 9F. Quotes, dashes, dots and the euro of Windows-1252 (80, 85, 91 to 97)
    are ambiguous. A byte from C0 on means Windows-1252.
    """
    if re.search(rb"[\x81\x8d\x8f\x90\x9d]", data):
        return True
    return not re.search(rb"[\xc0-\xff]", data) and bool(
        re.search(rb"[A-Za-z][\x82-\x84\x86-\x8e\x98\x9a-\x9f\xa7]|[\x82-\x84\x86-\x8e\x98\x9a-\x9f\xa7][A-Za-z]", data)
    )


def _records_of_text(text: str, reading: Reading) -> list[Record]:
    """Return the records of a text, each with its first physical line."""
    lines = io.StringIO(text, newline="")
    skipped, first = next(((n, line) for n, line in enumerate(lines, 1) if line.strip()), (0, ""))
    hint = re.fullmatch(r'"?sep=([,;\t])"?\s*', first)  # Excel's hint for the separator
    if hint:
        divider = hint[1]
    else:
        divider = max(",;\t", key=lambda char: _header_score(first, char, reading))
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


def _header_score(line: str, divider: str, reading: Reading) -> tuple[int, int]:
    names = [name.strip(' "\r\n') for name in line.split(divider)]
    return sum(map(reading.knows, names)), len(names)


def _records_of_workbook(data: bytes, reading: Reading) -> list[Record]:
    """Return the rows of the visible sheet of an .xlsx workbook that has a table, or of the wanted one.

    Raises:
        TableRefused: no sheet can be read, or several sheets are possible.
    """
    import openpyxl

    _check_workbook(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl's warnings quote cells
            book = openpyxl.load_workbook(io.BytesIO(data))
            number = _named(book, reading.sheet) if reading.sheet else _sheet_of(book, reading)
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
    except Exception:  # openpyxl raises many types of exception on damaged archives
        raise TableRefused([Problem(0, "", _UNREADABLE)]) from None
    columns = (column for column in cells.column_dimensions.values() if column.hidden)
    hidden_columns = frozenset(place for column in columns for place in range(column.min - 1, column.max))
    records = []
    for line, row in enumerate(rows, 1):
        hidden = line in cells.row_dimensions and bool(cells.row_dimensions[line].hidden)
        record = Record(line, [], hidden=hidden, hidden_columns=hidden_columns)
        for place, cell in enumerate(row):
            result = results.cell(line, place + 1)
            try:
                if (line, place + 1) in covered:
                    raise ValueError("part of merged cells; unmerge them and fill each one")
                text, odd = _shown(cell, result)
                record.cells.append(text)
                if odd:
                    record.odd[place] = odd
                elif result.data_type == "n":
                    record.numbers.add(place)
            except ValueError as error:
                value = cell.value if result.value is None else result.value
                record.cells.append("" if value is None else str(getattr(value, "text", value)))
                record.faults[place] = str(error)
        records.append(record)
    return records


def _check_workbook(data: bytes) -> None:
    """Refuse a workbook that becomes too large when it is unpacked: openpyxl would exhaust the memory.

    Raises:
        TableRefused: says what to do.
    """
    message = _UNREADABLE
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
    except Exception:  # zipfile raises many types of exception on damaged archives
        raise TableRefused([Problem(0, "", message)]) from None


def _extent(area: tuple[bytes, bytes, bytes, bytes]) -> int:
    """Return the number of cells of an area such as A1:C5."""
    first_column, first_row, last_column, last_row = area
    columns, rows = _column(last_column) - _column(first_column), int(last_row[:12]) - int(first_row[:12])
    return (abs(columns) + 1) * (abs(rows) + 1)


def _column(letters: bytes) -> int:
    """Return the number of a column by its letters, from 1."""
    return functools.reduce(lambda number, letter: number * 26 + (letter | 32) - 96, letters[:12], 0)


def _named(book: Any, wanted: str) -> int:
    """Return the index of the sheet with this name, or with this number among the visible ones.

    Raises:
        TableRefused: there is none, or it is too large.
    """
    titles = [sheet.title for sheet in book.worksheets]
    seen = [number for number, sheet in enumerate(book.worksheets) if sheet.sheet_state == "visible"]
    if wanted in titles:
        number = titles.index(wanted)
    elif wanted.isascii() and wanted.isdigit() and 0 < int(wanted) <= len(seen):
        number = seen[int(wanted) - 1]
    else:
        message = f"has no such sheet as the option sheet says; give a name, or a number from 1 to {len(seen)}"
        raise TableRefused([Problem(0, "", message, ", ".join(titles))])
    _refuse_huge(book.worksheets[number])
    return number


def _is_huge(sheet: Any) -> bool:
    """Return whether a sheet is too large: one formatted cell far away creates millions of empty ones."""
    return bool(sheet.max_row * sheet.max_column > _MOST_CELLS)


def _refuse_huge(sheet: Any) -> None:
    if _is_huge(sheet):
        message = "has a sheet that is too large; delete the empty rows and columns around the table"
        raise TableRefused([Problem(0, "", message)])


def _sheet_of(book: Any, reading: Reading) -> int:
    """Return the index of the sheet with the table: the visible one with a known column; else the first visible one.

    Raises:
        TableRefused: several are possible, or one is too large.
    """
    seen = [number for number, sheet in enumerate(book.worksheets) if sheet.sheet_state == "visible"]
    fitting = []
    for number in seen:
        sheet = book.worksheets[number]
        if number != seen[0] and _is_huge(sheet):
            continue
        _refuse_huge(sheet)
        header = next((row for row in sheet.iter_rows(values_only=True) if any(c is not None for c in row)), ())
        if any(reading.knows(str(cell).strip()) for cell in header if cell is not None):
            fitting.append(number)
    if len(fitting) > 1:
        which = " and ".join(str(seen.index(number) + 1) for number in fitting)
        message = f"has such a table in the sheets {which}; say which with the option sheet, or hide the others"
        raise TableRefused([Problem(0, "", message, ", ".join(book.worksheets[number].title for number in fitting))])
    return (fitting or seen or [0])[0]


def _shown(cell: Any, result: Any) -> tuple[str, str]:
    """Return a cell of a workbook as text, with dates as YYYYMMDD and times as HHMMSS; and its type, if it is no text.

    Raises:
        ValueError: its displayed value is ambiguous.
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
