"""Query tables as people write them: what is read, what is refused, and where each problem is."""

from __future__ import annotations

import csv
import datetime
import io
import pickle
import tempfile
import unicodedata
from pathlib import Path

import openpyxl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pacsifier_ops.base.errors import ConfigError, QueryTableError
from pacsifier_ops.query.keys import COLUMNS, DUMP_COLUMNS, FURTHER, KEYS, Level
from pacsifier_ops.query.problems import TableRefused
from pacsifier_ops.query.reading import Reading
from pacsifier_ops.query.table import QueryTable, read_query_table
from tests.support.places import REPO

EXAMPLES = REPO / "include" / "queries"


def read(data: str | bytes, **options: str) -> QueryTable:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table"
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return read_query_table(path, Reading(**options))


def refused(data: str | bytes, **options: str) -> list[tuple[int, str, str]]:
    with pytest.raises(QueryTableError) as caught:
        read(data, **options)
    assert isinstance(caught.value, TableRefused)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert all(str(problem) in str(caught.value) for problem in caught.value.problems)
    return [(problem.line, problem.column, problem.message) for problem in caught.value.problems]


def keys(table: QueryTable) -> list[dict[str, str]]:
    assert not table.problems
    return [row.keys for row in table.rows]


def workbook(*rows: list[object]) -> openpyxl.Workbook:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    return book


def saved(book: openpyxl.Workbook) -> bytes:
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


# PACSIFIER's documented examples


def test_examples_that_can_be_asked() -> None:
    assert keys(read_query_table(EXAMPLES / "example1.csv")) == [
        {"StudyDate": "20150512", "PatientID": "123421"},
        {"PatientID": "45322"},
        {"StudyDate": "20180102"},
    ]
    assert keys(read_query_table(EXAMPLES / "example4.csv")) == [
        {"StudyDate": "20150512-20150612", "PatientID": "124588"}
    ]
    assert keys(read_query_table(EXAMPLES / "example5.csv")) == [
        {"ProtocolName": "BEAT_SelfNav*", "Modality": "CT", "PatientBirthDate": "19920611"}
    ]


def test_example_with_an_unknown_column() -> None:
    with pytest.raises(TableRefused, match=r"line 1, column 2: not known; did you mean PatientID\?"):
        read_query_table(EXAMPLES / "example2.csv")


def test_example_with_a_wildcard_alone() -> None:
    table = read_query_table(EXAMPLES / "example3.csv")
    assert not table.rows
    assert [(row.line, row.cells) for row in table.bad_rows] == [(2, {"StudyDate": "20150512", "PatientID": "*"})]
    assert [(p.line, p.column, p.message[:14]) for p in table.problems] == [(2, "PatientID", "only wildcards")]


# The columns


def test_columns_are_those_of_pacsifier() -> None:
    assert len(KEYS) == 17 + len(FURTHER)
    assert len(DUMP_COLUMNS) == 17 and not set(DUMP_COLUMNS) & set(FURTHER)
    assert DUMP_COLUMNS[0] == "StudyDate" and DUMP_COLUMNS[-1] == "AcquisitionDate"
    assert [word for word in KEYS if KEYS[word].level is Level.IMAGE] == [
        "ImageType",
        "SequenceName",
        "AcquisitionDate",
    ]
    assert [word for word in KEYS if KEYS[word].weak] == [
        "StudyTime",
        "Modality",
        "ImageType",
        "SeriesNumber",
        *FURTHER,
    ]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("patientID", "PatientID"),
        ("PatientId", "PatientID"),
        ("patientname", "PatientName"),
        ("ACCESSIONNUMBER", "AccessionNumber"),
        ("new_id", "new_ids"),
        ("SeriesNr", "SeriesNumber"),
        ("Accession", "AccessionNumber"),
    ],
)
def test_unknown_column_gets_the_nearest_known(name: str, near: str) -> None:
    [(line, column, message)] = refused(f"StudyDate,{name}\n20150512,1\n")
    assert (line, column) == (1, "column 2") and message.startswith(f"not known; did you mean {near}? Else delete")


def test_columns_of_ones_own_lead_to_the_column_map() -> None:
    for _, _, message in refused("hospital number,ward\n1,2\n"):
        assert "say with columns which are ours, as in PatientID = mrn" in message


def test_a_date_in_another_form_than_was_said_names_that_form() -> None:
    bad = read("StudyDate\n20.05.2015\n05/20/2015 08:00\n01/02/2015\n", date_format="MM/DD/YYYY")
    assert [(one.line, "write the date as MM/DD/YYYY, as date_format says" in one.message) for one in bad.problems] == [
        (2, True),
        (3, True),
    ]
    [problem] = read("StudyDate,PatientID\n20.05.2015,1\n20150520,1\n").problems
    assert "or say with date_format" in problem.message


def test_columns_as_people_write_them() -> None:
    """Words count in any case, and so do the other names; a keyword counts as DICOM spells it."""
    names = [
        "Accession Number",
        "patient id",
        "Study Date",
        "PATIENT_NAME",
        "Patient's Sex",
        "Date of Birth",
        "New IDs",
    ]
    table = read(",".join(names) + "\nA1,7,20200101,Doe,F,19660401,P1\n")
    [row] = table.rows
    columns = ["AccessionNumber", "PatientID", "StudyDate", "PatientName", "PatientSex", "PatientBirthDate"]
    assert list(row.keys) == columns and list(row.cells) == [*columns, "new_ids"] and row.new_id == "P1"
    assert table.notes[:2] == ["column 1 was read as AccessionNumber", "column 2 was read as PatientID"]
    assert len(table.notes) == 7 and not read("PatientID\n1\n").notes
    assert keys(read("MRN;Study Date\n7;20200101\n")) == [{"PatientID": "7", "StudyDate": "20200101"}]
    assert keys(read(saved(workbook(["MRN"], ["7"])))) == [{"PatientID": "7"}]
    # Two columns that could be meant
    assert refused("PatientID,MRN\n1,2\n") == [(1, "PatientID", "there twice (column 2); remove one")]


def test_all_problems_of_the_header_come_at_once() -> None:
    found = refused("\n PatientID ;patientid;;Zebra;PatientID;;\n1;1;1;1;1\n")
    assert [(line, column, message.split(";")[0]) for line, column, message in found] == [
        (2, "column 2", "not known"),
        (2, "column 3", "has no name"),
        (2, "column 4", "not known"),
        (2, "PatientID", "there twice (column 5)"),
    ]


@pytest.mark.parametrize("name", ["PatientID", "Zebra"])
def test_a_header_of_a_million_columns_is_refused_as_a_whole(name: str) -> None:
    ((line, column, message),) = refused(f"PatientID{f',{name}' * 1_000_000}\n1\n")
    assert (line, column) == (1, "") and message.startswith("has 1,000,001 columns; delete those that are not known")


def test_a_file_without_header_does_not_show_its_patients() -> None:
    [(line, _, message)] = refused("20150512,Muster^Anna\n20150513,Muster^Beat\n")
    assert line == 1 and message.startswith("no header") and "Muster" not in message
    assert "Muster" not in str(refused("PatientID,Muster^Anna\n1,2\n"))


@pytest.mark.parametrize("data", ["", "\n \n;;;\n", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_empty_files(data: str | bytes) -> None:
    assert "empty" in refused(data)[0][2]


def test_header_without_rows() -> None:
    assert "no rows" in refused("PatientID,StudyDate\n\n,\n")[0][2]


@pytest.mark.parametrize(
    "data",
    [
        b"PatientID\0\n1\n",
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100),  # .xls
        b"\xff\xfePa\x00",
        b"PatientID\n\x81\n",
        b"PK\x03\x04 neither",
    ],
)
def test_files_that_are_no_table(data: bytes) -> None:
    assert "save it as" in refused(data)[0][2]


ODS = b"PK\x03\x04" + bytes(26) + b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet"
HTML = b"\r\n<html xmlns:x='urn:schemas-microsoft-com:office:excel'><table><tr><td>PatientID"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (HTML, "is HTML"),
        (HTML.decode().encode("utf-16"), "is HTML"),
        (b"\xef\xbb\xbf<table><tr>", "is HTML"),
        (b"<!DOCTYPE html>\n<title>Login</title>", "is HTML"),
        (b"< div >\r\n\t<table>", "is HTML"),
        (b'<?xml version="1.0"?><?mso-application progid="Excel.Sheet"?><Workbook xmlns="urn:', "XML spreadsheet"),
        (b'<?xml version="1.0"?><rows/>', "is xml"),
        (b"MIME-Version: 1.0\nX-Document-Type: Workbook", "MHTML"),
        (b"%PDF-1.7", "is a PDF"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "an .xls workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"), "with a password"),
        (ODS, "(.ods)"),
        ("PatientName,PatientID\nMüller,1\n".encode("mac_roman"), "MacRoman"),
        ("PatientName;PatientID\rGenève;1\r".encode("mac_roman"), "MacRoman"),
        (b"Produtor;PRODUTO\rS\xeaTIO UWADA;ALMEIR\xccCO ma\x8do\r", "MacRoman"),
    ],
)
def test_files_that_pass_for_a_table_are_named_for_what_they_are(data: bytes, kind: str) -> None:
    [(_, _, message)] = refused(data)
    assert kind in message and "save it as" in message


def test_quotes_of_windows_1252_are_not_taken_for_letters_of_a_mac() -> None:
    table = read("PatientName\nO’Neil\n".encode("cp1252"))
    assert keys(table) == [{"PatientName": "O’Neil"}] and "Windows-1252" in table.rows[0].warnings[0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(TableRefused, match=r"cannot be read .*; check the path"):
            read_query_table(path)


def test_an_open_quote_refuses_the_table_with_its_line() -> None:
    assert refused('PatientID,StudyDate\n1,\n"2,\n3,\n')[0][:2] == (3, "")
    assert refused('PatientID,StudyDate\n1,\n\n"2"x,\n')[0][:2] == (4, "")


# Reading


@pytest.mark.parametrize("divider", list(",;\t"))
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_dividers_encodings_and_line_ends(divider: str, encoding: str, end: str) -> None:
    lines = [
        "PatientID,StudyDate,PatientName ",
        "007 ,20150512,Müller",
        "",
        ',, "Doe; John,\tJr"',
        ",,",
        "null,,",
    ]
    lines = [
        line.replace('Doe; John,\tJr"', "\0").replace(",", divider).replace("\0", 'Doe; John, Jr"') for line in lines
    ]
    table = read((end.join(lines) + end).encode(encoding))
    assert keys(table) == [
        {"PatientID": "007", "StudyDate": "20150512", "PatientName": "Müller"},
        {"PatientName": "Doe; John, Jr"},
        {"PatientID": "null"},
    ]
    assert [row.line for row in table.rows] == [2, 4, 6]
    assert table.rows[0].cells == {"PatientID": "007 ", "StudyDate": "20150512", "PatientName": "Müller"}
    assert not any(row.warnings for row in table.rows)


def test_windows_1252_is_read_with_a_warning_where_it_matters() -> None:
    table = read("PatientName;PatientID\nMüller;\nDoe;\n".encode("cp1252"))
    assert keys(table) == [{"PatientName": "Müller"}, {"PatientName": "Doe"}]
    assert ["Windows-1252" in " ".join(row.warnings) for row in table.rows] == [True, False]


def test_excels_hint_of_the_divider() -> None:
    table = read("\nsep=;\r\nPatientID;StudyDate\r\n1;\r\n")
    assert keys(table) == [{"PatientID": "1"}]
    assert table.rows[0].line == 4


def test_text_that_looks_missing_stays() -> None:
    words = ["NA", "null", "NaN", "None", "0012", "1e5", "4E12", "True", "12.5"]
    assert keys(read("PatientID\n" + "\n".join(words))) == [{"PatientID": word} for word in words]


def test_a_line_break_in_quotes_does_not_shift_lines() -> None:
    table = read('PatientID,StudyDescription\n1,"A\nB"\n2,\n3,"\nC\n"\n4,\n')
    assert [(row.line, row.keys) for row in table.rows] == [
        (4, {"PatientID": "2"}),
        (5, {"PatientID": "3", "StudyDescription": "C"}),
        (8, {"PatientID": "4"}),
    ]
    assert [(p.line, p.column) for p in table.problems] == [(2, "StudyDescription")]


def test_ragged_rows_are_bad_and_the_others_go_on() -> None:
    table = read("PatientID,StudyDate,,\n1,20150512,\n2\n3,,x\n4,,,\n5,,,,\n")
    assert [row.keys["PatientID"] for row in table.rows] == ["1", "4", "5"]
    assert [(p.line, p.message.split()[1]) for p in table.problems] == [(3, "fewer"), (4, "more")]
    assert [row.line for row in table.bad_rows] == [3, 4]


def test_a_table_of_ragged_rows_only() -> None:
    table = read("PatientID,new_ids\n1\n2\n")
    assert not table.rows and len(table.bad_rows) == 2


def test_all_problems_come_at_once_in_order() -> None:
    table = read("StudyDate,PatientID,SeriesNumber\n20150231,*,x\n,,\n20150512,1,3\n20150613-20150612,A\\B,1.5\n")
    assert [(p.line, p.column) for p in table.problems] == [
        (2, "StudyDate"),
        (2, "PatientID"),
        (2, "SeriesNumber"),
        (5, "StudyDate"),
        (5, "PatientID"),
        (5, "SeriesNumber"),
    ]
    assert [row.line for row in table.rows] == [4]


# Cells

GOOD = [
    ("StudyDate", "20150201-", "20150201-"),
    ("StudyDate", "-20150201", "-20150201"),
    ("StudyDate", "20150201 - 20150201", "20150201-20150201"),
    ("AcquisitionDate", "20150512-20150612", "20150512-20150612"),
    ("StudyDate", "20160229", "20160229"),
    ("StudyTime", "10", "10"),
    ("StudyTime", "1015", "1015"),
    ("StudyTime", "101500.5", "101500.5"),
    ("StudyTime", "08 - 1015", "08-1015"),
    ("StudyTime", "1015-", "1015-"),
    ("StudyTime", "12-12", "12-12"),
    ("StudyTime", "2200 - 0200", "2200-0200"),
    ("SeriesNumber", "007", "7"),
    ("SeriesNumber", "-1", "-1"),
    ("StudyInstanceUID", "1.2.840.10008", "1.2.840.10008"),
    ("Modality", "M?", "M?"),
    ("Modality", "CT \\ MR\\CT", "CT\\MR"),
    ("ModalitiesInStudy", "PT\\CT", "PT\\CT"),
    ("StudyInstanceUID", "1.2\\1.3", "1.2\\1.3"),
    ("PatientSex", "F", "F"),
    ("ImageType", "DERIVED\\ SECONDARY\\SCREEN SAVE", "DERIVED\\SECONDARY\\SCREEN SAVE"),
    ("ImageType", "\\\\MPR", "\\\\MPR"),
    ("AccessionNumber", "*1234567890123456*", "*1234567890123456*"),
    ("PatientName", "Yamada^Tarou=山田^太郎", "Yamada^Tarou=山田^太郎"),
    ("PatientName", "O'Neil", "O'Neil"),
    ("PatientName", "Mu\u0308ller", "Müller"),
    ("StudyDescription", "\u3000頭部\xa0CT", "頭部 CT"),
    ("DeviceSerialNumber", "a" * 64, "a" * 64),
]
BAD = [
    ("StudyDate", "20150231", "no such day"),
    ("StudyDate", "2015-05-12", "not a date"),
    ("StudyDate", "201505", "not a date"),
    ("StudyDate", "２０１５0512", "not a date"),
    ("StudyDate", "2015*", "not a date"),
    ("StudyDate", "20150512-20150511", "ends before it begins"),
    ("StudyDate", "-", "neither a beginning nor an end"),
    ("AcquisitionDate", "20150512-20150631", "no such day"),
    ("PatientBirthDate", "19920611-19920612", "a range is not allowed"),
    ("PatientBirthDate", "19920611-", "a range is not allowed"),
    ("StudyTime", "24", "not a time"),
    ("StudyTime", "91500", "not a time"),
    ("StudyTime", "10:15", "not a time"),
    ("StudyTime", "10*", "not a time"),
    ("SeriesNumber", "3.0", "not an integer"),
    ("SeriesNumber", "1*", "not an integer"),
    ("SeriesNumber", "99999999999", "not an integer"),
    ("StudyInstanceUID", "1.2.", "not a UID"),
    ("StudyInstanceUID", "1.2.*", "not a UID"),
    ("SeriesInstanceUID", "1." + "2" * 63, "not a UID"),
    ("Modality", "ct", "not a code"),
    ("Modality", "CT/MR", "not a code"),
    ("Modality", "CT\\", "only wildcards"),
    ("SeriesInstanceUID", "1.2\\1.2.", "not a UID"),
    ("PatientSex", "female", "not a code"),
    ("StudyID", "45322.0", "a whole number with decimals"),
    ("Modality", "ABCDEFGHIJKLMNOPQ", "longer than the 16"),
    ("ImageType", "DERIVED\\ABCDEFGHIJKLMNOPQ", "longer than the 16"),
    ("ImageType", "\\*", "only wildcards"),
    ("AccessionNumber", "12345678901234567", "longer than the 16"),
    ("PatientID", "a" * 65, "longer than the 64"),
    ("PatientID", "**", "only wildcards"),
    ("PatientID", "?", "only wildcards"),
    ("PatientID", "A\\B", "a backslash"),
    ("PatientID", "A\u200bB", "invisible"),
    ("PatientID", "A\x07B", "invisible"),
    ("PatientName", "*^*", "only wildcards"),
    ("PatientName", "a" * 65 + "=b", "longer than the 64"),
    ("PatientName", "a=b=c=d", "not a person's name"),
    ("PatientName", "a^b^c^d^e^f", "not a person's name"),
    ("new_ids", "a/b", "not fit to name"),
    ("new_ids", "..", "not fit to name"),
    ("new_ids", "a" * 65, "not fit to name"),
    ("new_ids", "P\t1", "invisible"),
]


def one_cell(column: str, text: str) -> bytes:
    other = "StudyDescription" if column != "StudyDescription" else "PatientID"
    stream = io.StringIO()
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([[other, column], ["x", text]])
    return stream.getvalue().encode()


@pytest.mark.parametrize(("column", "text", "value"), GOOD)
def test_good_cells(column: str, text: str, value: str) -> None:
    table = read(one_cell(column, text))
    assert keys(table)[0][column] == value
    assert table.rows[0].cells[column] == text


@pytest.mark.parametrize(("column", "text", "words"), BAD)
def test_bad_cells(column: str, text: str, words: str) -> None:
    table = read(one_cell(column, text))
    assert [(p.line, p.column) for p in table.problems] == [(2, column)]
    message = table.problems[0].message
    assert words in message and ";" in message  # what is wrong, and what to do
    assert len(text) < 3 or text not in message
    # Whoever handed it in sees the cell; a log never does.
    [problem] = table.problems
    assert problem.value == text and (text not in str(problem) + repr(problem) or len(text) < 3)
    assert "[" in problem.shown() and problem.shown().isprintable() and len(problem.shown()) < len(str(problem)) + 300


def test_rows_without_a_key() -> None:
    table = read("new_ids,PatientID\nP1,\nP2,7\n")
    assert [(p.line, p.column, p.message.split(";")[0]) for p in table.problems] == [(2, "", "asks for nothing")]
    assert [(row.keys, row.new_id) for row in table.rows] == [({"PatientID": "7"}, "P2")]


def test_weak_keys_alone_are_allowed_with_a_warning() -> None:
    table = read(
        "StudyDate,StudyTime,Modality,SeriesNumber,ImageType,PatientID\n"
        "20150201-,,CT,,,\n,10,,1,ORIGINAL,\n20150201,,CT,,,\n20150201-20150301,,,,,\n,,MR,,,7\n"
    )
    assert len(keys(table)) == 5
    assert [bool(row.warnings) for row in table.rows] == [True, True, False, False, False]
    assert "StudyDate, Modality" in table.rows[0].warnings[0]


def test_equal_rows_are_asked_once() -> None:
    table = read("PatientID,SeriesNumber,new_ids\n1,1,P1\n2,,\n 1,001,P1\n1,1,\n1,1 ,P1\n")
    assert [(row.line, row.duplicates) for row in table.rows] == [(2, (4, 6)), (3, ()), (5, ())]


def test_one_patient_with_two_pseudonyms() -> None:
    table = read("PatientID,StudyDate,new_ids\n1,,P1\n2,,P2\n1,20150512,P3\n1,20150513,P1\n1,20150514,\n,20150512,P4\n")
    assert [row.line for row in table.rows] == [3, 6, 7]
    assert [(p.line, p.column, p.message.split()[1]) for p in table.problems] == [
        (2, "new_ids", "4"),
        (4, "new_ids", "2"),
        (5, "new_ids", "4"),
    ]


# Workbooks


def test_workbook_cells_are_what_a_person_sees() -> None:
    book = workbook(
        ["PatientID", "StudyDate", "StudyTime", "SeriesNumber", "PatientName"],
        [123421.0, datetime.date(2015, 5, 12), datetime.time(10, 15), 3, "Müller "],
        [],
        ["007", "20150512-", datetime.timedelta(hours=9), "4", None],
        [45322, datetime.datetime(2015, 5, 12), 101500, None, None],
        ["NA", 20150512, datetime.time(0, 0, 1, 500000), 0, "NA"],
    )
    book.active["A5"].number_format = "00000000"
    book.active["F9"].number_format = "@"
    book.create_sheet("second").append(["anything"])
    table = read(saved(book))
    assert [(row.line, *row.keys.values()) for row in table.rows] == [
        (2, "123421", "20150512", "101500", "3", "Müller"),
        (4, "007", "20150512-", "090000", "4"),
        (5, "00045322", "20150512", "101500"),
        (6, "NA", "20150512", "000001.500000", "0", "NA"),
    ]
    assert not table.problems


def test_workbook_cells_that_cannot_be_relied_on() -> None:
    book = workbook(
        ["PatientID", "StudyDate"],
        ['="1"&"2"', "20150512"],
        ["#N/A", "20150512"],
        ["A", "20150512"],
        [None, "20150513"],
        [1234567890123456789, "20150512"],
        ["B", datetime.datetime(2015, 5, 12, 10, 15)],
        ["C", "20150512", "beyond"],
        ["D", "20150512"],
    )
    book.active["A3"].data_type = "e"
    book.active.merge_cells("A4:A5")
    table = read(saved(book))
    assert [(p.line, p.column, p.message.split(";")[0]) for p in table.problems] == [
        (2, "PatientID", "a formula whose result is not saved"),
        (3, "PatientID", "an error of the spreadsheet"),
        (5, "PatientID", "part of merged cells"),
        (6, "PatientID", "a number of more than 15 digits, which spreadsheets round"),
        (7, "StudyDate", "not a date"),
        (8, "", "has more cells than the header"),
    ]
    assert [row.line for row in table.rows] == [4, 9]


def test_workbook_header_is_checked_and_sizes_are_bounded() -> None:
    assert refused(saved(workbook(["patientID"], [1])))[0][1] == "column 1"
    assert "empty" in refused(saved(workbook()))[0][2]
    book = workbook(["PatientID"], [1])
    book.active.cell(1_000_000, 100).number_format = "0"
    assert "too large" in refused(saved(book))[0][2]


@pytest.mark.parametrize(
    ("number_format", "seen"),
    [
        ("00000000", "00045322"),
        ("00000000;@", "00045322"),
        ("[$-407]00000000", "00045322"),
        ("[Red]00000000;[Blue]-0", "00045322"),
        ("000-000-00", "000-453-22"),
        ("0000 0000", "0004 5322"),
        ('"P"000000', "P045322"),
        ("\\P#", "P45322"),
        ("000", "45322"),
        ("0-0", "4532-2"),
        ("General", "45322"),
        ("@", "45322"),
        ("0_)", "45322"),
        ("0.00", None),
        ("0E+00", None),
        ("#,##0", None),
        ("0%", None),
        ("# ?/?", None),
        ("[$€-407]0", None),
        ('"hidden"', None),
        ("[>9]0;0", None),
        (";;;", None),
    ],
)
def test_a_number_is_what_its_format_shows(number_format: str, seen: str | None) -> None:
    book = workbook(["PatientID"], [45322])
    book.active["A2"].number_format = number_format
    table = read(saved(book))
    if seen is None:
        assert [(p.line, p.column) for p in table.problems] == [(2, "PatientID")]
    else:
        assert keys(table) == [{"PatientID": seen}]


def test_what_is_no_text_is_no_id() -> None:
    values = [datetime.date(2024, 10, 12), datetime.time(10, 15), True, 0.5, -45322, 45322]
    table = read(saved(workbook(["PatientID", "StudyDate"], *([value, "20200101"] for value in values))))
    assert [row.line for row in table.rows] == [7]
    assert [(p.line, p.message.split(";")[0]) for p in table.problems] == [
        (2, "a date, and no text"),
        (3, "a time, and no text"),
        (4, "true or false"),
        (5, "a number with a fraction, and no text"),
        (6, "a negative number, and no text"),
    ]


def test_the_sheet_that_is_seen_counts_and_a_row_that_is_not_is_refused() -> None:
    book = workbook(["PatientID"], ["seen"], ["filtered"])
    hidden = book.create_sheet("old", 0)
    hidden.append(["PatientID"])
    hidden.append(["hidden"])
    hidden.sheet_state = "hidden"
    book.create_sheet("notes", 1).append(["for whoever reads this"])
    book["Sheet"].row_dimensions[3].hidden = True
    table = read(saved(book))
    assert [(row.line, row.keys["PatientID"]) for row in table.rows] == [(2, "seen")]
    assert [(p.line, p.message.split(",")[0]) for p in table.problems] == [(3, "hidden")]
    book.create_sheet("more").append(["StudyDate"])
    assert "has such a table in the sheets 2 and 3" in refused(saved(book))[0][2]


@pytest.mark.parametrize(
    "cell",
    [
        "1.23457E+11",
        '"1,23457E+11"',
        "#N/A",
        "########",
        "45322.0",
        "'00045322",
        "nan",
        "０００４５３２２",
        "00045322;45322",
    ],
)
def test_what_a_spreadsheet_made_of_an_id_is_told_not_asked_for(cell: str) -> None:
    table = read(f"PatientID,StudyDate\n{cell},20200101\n")
    assert not table.rows and [(p.line, p.column) for p in table.problems] == [(2, "PatientID")]


def test_excels_way_of_exporting_text_is_the_text() -> None:
    assert keys(read('PatientID,StudyDate\n="00045322",20200101\n')) == [
        {"PatientID": "00045322", "StudyDate": "20200101"}
    ]


@pytest.mark.parametrize(
    ("date_format", "cell", "value"),
    [
        ("DD.MM.YYYY", "12.05.2015", "20150512"),
        ("DD.MM.YYYY", "1.5.2015", "20150501"),
        ("DD.MM.YYYY", "20150512", "20150512"),
        ("YYYY-MM-DD", "2015-05-12", "20150512"),
        ("YYYY-MM-DD", "2015-05-12-2015-06-12", "20150512-20150612"),
        ("YYYY-MM-DD", "-2015-05-12", "-20150512"),
        ("MM/DD/YYYY", "05/12/2015", "20150512"),
        ("MM/DD/YYYY", "05/12/2015 - 06/12/2015", "20150512-20150612"),
        ("DD/MM/YYYY", "05/12/2015", "20151205"),
        ("DD-MM-YYYY", "12-05-2015-", "20150512-"),
    ],
)
def test_dates_in_the_format_that_was_said(date_format: str, cell: str, value: str) -> None:
    assert keys(read(f"StudyDate\n{cell}\n", date_format=date_format)) == [{"StudyDate": value}]
    if cell != value and cell != "20150512":
        [problem] = read(f"StudyDate\n{cell}\n").problems  # nothing is guessed
        assert problem.column == "StudyDate"


@pytest.mark.parametrize("cell", ["12/05/2015", "12.05.15", "2015.05.12", "12.13.2015", "12.05.2015 10:15"])
def test_dates_in_another_format_than_was_said(cell: str) -> None:
    [problem] = read(f"StudyDate\n{cell}\n", date_format="DD.MM.YYYY").problems
    assert (problem.line, problem.column) == (2, "StudyDate")


def test_only_cells_of_dates_are_read_as_dates() -> None:
    assert keys(read("PatientID\n12.05.2015\n", date_format="DD.MM.YYYY")) == [{"PatientID": "12.05.2015"}]


def test_options_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match=r"date_format is none of DD\.MM\.YYYY, "):
        Reading(date_format="DDMMYY")
    with pytest.raises(ConfigError, match="hidden_rows is none of refuse, include, skip"):
        Reading(hidden_rows="yes")


def several_sheets() -> bytes:
    book = workbook(["PatientID"], ["1"])
    book.active.title = "Müller"
    for title, patient in (("2020", "2"), ("old", "3")):
        sheet = book.create_sheet(title)
        sheet.append(["PatientID"])
        sheet.append([patient])
    book["old"].sheet_state = "hidden"
    book.move_sheet("old", -2)
    return saved(book)


@pytest.mark.parametrize(("sheet", "patient"), [("Müller", "1"), ("1", "1"), ("2020", "2"), ("2", "2"), ("old", "3")])
def test_the_sheet_that_is_named_counts(sheet: str, patient: str) -> None:
    assert keys(read(several_sheets(), sheet=sheet)) == [{"PatientID": patient}]


def test_sheets_that_could_be_meant_are_named_to_whoever_handed_them_in() -> None:
    for options, words, titles in (
        ({}, "has such a table in the sheets 1 and 2", "Müller, 2020"),
        ({"sheet": "Muller"}, "a number from 1 to 2", "old, Müller, 2020"),
        ({"sheet": "3"}, "a number from 1 to 2", "old, Müller, 2020"),
    ):
        with pytest.raises(TableRefused) as caught:
            read(several_sheets(), **options)
        assert words in str(caught.value) and "Müller" not in str(caught.value) + repr(caught.value)
        assert f"[{titles}]" in caught.value.shown()
    assert "has no sheets" in refused("PatientID\n1\n", sheet="1")[0][2]


@pytest.mark.parametrize(
    ("hidden_rows", "lines", "bad"),
    [("", [2], [3, 4]), ("refuse", [2], [3, 4]), ("include", [2, 3, 4], []), ("skip", [2], [])],
)
def test_hidden_rows(hidden_rows: str, lines: list[int], bad: list[int]) -> None:
    book = workbook(["PatientID"], ["1"], ["2"], ["3"])
    for line in (3, 4):
        book.active.row_dimensions[line].hidden = True
    book.active.auto_filter.ref = "A1:A4"
    table = read(saved(book), hidden_rows=hidden_rows)
    assert [row.line for row in table.rows] == lines and [problem.line for problem in table.problems] == bad
    assert [note.split(": ")[1] for note in table.notes] == ([] if bad else ["line 3, 4"])
    assert not bad or "hidden_rows" in table.problems[0].message


def test_a_header_that_is_hidden_is_refused() -> None:
    book = workbook(["PatientID"], ["MRN"], ["1"])
    book.active.row_dimensions[1].hidden = True
    for hidden_rows in ("", "skip", "include"):
        with pytest.raises(TableRefused, match="line 1: hidden, and it would be the header"):
            read(saved(book), hidden_rows=hidden_rows)


def test_columns_that_are_hidden_count_with_a_note() -> None:
    book = workbook(["PatientID", "StudyDate", "Modality", "MRN"], ["1", "20200101", "CT"])
    book.active["D1"] = None
    for letter in "BD":
        book.active.column_dimensions[letter].hidden = True
    table = read(saved(book))
    assert table.notes == ["column 2 (StudyDate) is hidden, and counts all the same"]
    assert [row.keys for row in table.rows] == [{"PatientID": "1", "StudyDate": "20200101", "Modality": "CT"}]


def test_hidden_rows_alone_are_no_table() -> None:
    book = workbook(["PatientID"], ["1"])
    book.active.row_dimensions[2].hidden = True
    assert "has a header but no rows" in refused(saved(book), hidden_rows="skip")[0][2]


def test_a_number_for_a_time_says_what_it_was_read_as() -> None:
    book = workbook(["PatientID", "StudyTime"], ["1", 1500], ["2", 15], ["3", 150000], ["4", "1500"], ["5", 500])
    table = read(saved(book))
    remarks = [row.warnings for row in table.rows]
    assert "hours and minutes (HHMM)" in remarks[0][0] and "hours (HH)" in remarks[1][0] and remarks[2:] == [(), ()]
    assert [(p.line, p.value) for p in table.problems] == [(6, "500")]


def test_what_a_workbook_holds_is_shown_where_it_cannot_be_asked() -> None:
    book = workbook(["PatientID", "StudyDate"], [True, None], ['=A9&"x"', None], [1234567890123456789, None])
    book.active.append([datetime.date(2024, 10, 12), None])
    book.active["A2"].number_format = "0"
    shown = [problem.value for problem in read(saved(book)).problems]
    assert shown == ["True", '=A9&"x"', "1.234567890123457e+18", "20241012"]


# Properties

letters = st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="\\*?^=")
cells = st.text(letters | st.sampled_from(" ,;\"'*?") | st.sampled_from("äéñß"), min_size=1, max_size=40).filter(
    lambda text: text.strip(" *?,") != ""
)
rows = st.lists(st.tuples(cells, cells, st.sampled_from(["", "\n", "\n\n"])), min_size=1, max_size=8)


@given(
    rows,
    st.sampled_from(",;\t"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_good_cells_come_through_whole(
    table: list[tuple[str, str, str]], divider: str, encoding: str, end: str, quoted: bool
) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(
        stream, delimiter=divider, lineterminator=end, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    )
    writer.writerow(["PatientID", "StudyDescription"])
    expected = []
    for number, (patient, study, breaks) in enumerate(table):
        patient = f"{number}{patient}"
        line = stream.getvalue().count("\n") + 1
        writer.writerow([patient, breaks + study])
        values = (unicodedata.normalize("NFC", text.strip()) for text in (patient, study))
        expected.append((line, *values))
        stream.write(breaks)
    text = stream.getvalue()
    data = text.encode(encoding, errors="replace")
    if encoding == "cp1252" and (data.decode(encoding) != text or _is_utf8(data)):
        data = text.encode()
    found = read(data)
    assert not found.problems
    assert [(row.line, row.keys["PatientID"], row.keys["StudyDescription"]) for row in found.rows] == expected


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


anything = st.text("\n\r\t,;\"'*-^=\\ 0123A\x00\xa0\u2028ä", max_size=60)


@given(
    st.binary(max_size=60)
    | anything.map(str.encode)
    | st.tuples(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4, unique=True), anything).map(
        lambda both: (",".join(both[0]) + "\n" + both[1]).encode()
    )
    | st.binary(max_size=40).map(lambda data: b"PK\x03\x04" + data)
)
@example(b"sep=;")
@example(b"PatientID\n\n\n")
@example(("PatientID\n" + "x" * 200_000).encode())
def test_nothing_but_a_query_table_error_is_raised(data: bytes) -> None:
    try:
        table = read(data)
    except QueryTableError as error:
        assert isinstance(error, TableRefused) and error.problems
        return
    lines = [row.line for row in table.rows] + [line for row in table.rows for line in row.duplicates]
    bad = [row.line for row in table.bad_rows]
    assert len({*lines, *bad}) == len(lines) + len(bad) > 0
    assert {problem.line for problem in table.problems} == set(bad)
    assert all(row.keys and all(row.keys.values()) for row in table.rows)


COHORT = "PatientID,anchor_date,selection,row_id\n"


def test_the_columns_of_a_selection_are_no_keys_and_make_rows_of_their_own() -> None:
    lines = ("P1,20200229,,a", "P1,20200301,,a", "P1,20200301,priors,a", "P1,20200301,priors,b", "P1,20200229,,a")
    table = read(COHORT + "\n".join(lines))
    assert keys(table) == [{"PatientID": "P1"}] * 4
    assert [(row.anchor, row.selection, row.row_id) for row in table.rows] == [
        ("20200229", "", "a"),
        ("20200301", "", "a"),
        ("20200301", "priors", "a"),
        ("20200301", "priors", "b"),
    ]
    assert [row.duplicates for row in table.rows] == [(6,), (), (), ()]


def test_an_anchor_is_one_day_in_the_format_that_was_said() -> None:
    assert [row.anchor for row in read(COHORT + "P1,1.5.2020,,", date_format="DD.MM.YYYY").rows] == ["20200501"]
    book = workbook(["PatientID", "Anchor Date", "row id"], ["P1", datetime.date(2020, 5, 1), 7])
    assert [(row.anchor, row.row_id) for row in read(saved(book)).rows] == [("20200501", "7")]
    wrong = read(COHORT + "P1,20200101-20200201,,\nP1,20210229,,\nP1,1.5.2020,,").problems
    assert [(problem.line, problem.column) for problem in wrong] == [(line, "anchor_date") for line in (2, 3, 4)]


def test_a_rows_own_id_is_any_text_that_can_be_told_from_others() -> None:
    assert [row.row_id for row in read(COHORT + "P1,,,Müller; 12/3 'x'").rows] == ["Müller; 12/3 'x'"]
    wrong = read(COHORT + f"P1,,,1.23457E+11\nP1,,,{'x' * 65}\nP1,,{'s' * 65},\n,20200101,s,1").problems
    assert [(problem.line, problem.column) for problem in wrong] == [
        (2, "row_id"),
        (3, "row_id"),
        (4, "selection"),
        (5, ""),
    ]
