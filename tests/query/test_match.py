"""What is sent for a key, and which answers of an archive hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsifier_ops.query.keys import KEYS, check_cell
from pacsifier_ops.query.match import matches, value_to_send


@pytest.mark.parametrize(
    ("keyword", "wanted", "sent"),
    [
        ("PatientID", "0012", "0012"),
        ("PatientID", "O'N 01", "O'N 01"),
        ("StudyDescription", "Schädel*", "Sch*del*"),
        ("StudyDescription", "Scha\u0308del", "Sch*del"),
        ("StudyDescription", "Sch?del", "Sch*del"),
        ("StudyDescription", "頭部", ""),
        ("SeriesDescription", "T1[ax]", "T1*ax*"),
        ("StudyDate", "20150201-", "20150201-"),
        ("StudyTime", "10", "10-110000"),
        ("StudyTime", "1015", "10-110000"),
        ("StudyTime", "101530.25", "10-110000"),
        ("StudyTime", "08-1015", "08-110000"),
        ("StudyTime", "1015-", "10-"),
        ("StudyTime", "-10", "-110000"),
        ("StudyTime", "2359", "23-"),
        ("StudyTime", "0001", "-010000"),
        ("StudyTime", "00-2359", ""),
        ("StudyTime", "2200-0200", ""),
        ("SeriesNumber", "007", "7"),
        ("StudyInstanceUID", "1.2.3", "1.2.3"),
        ("PatientName", "Doe", ""),
        ("ImageType", "MPR", ""),
    ],
)
def test_value_to_send(keyword: str, wanted: str, sent: str) -> None:
    assert value_to_send(keyword, wanted) == sent


MATCH = [
    ("PatientID", "0012", ["0012 "]),
    ("PatientID", "A*2", ["AB12"]),
    ("PatientID", "A?2", ["AB2"]),
    ("SeriesDescription", "T1[ax]*", ["T1[ax] 3mm"]),
    ("StudyDescription", "Schädel", ["Scha\u0308del"]),
    ("ProtocolName", "b", ["a", "b"]),
    ("Modality", "M?", ["MR"]),
    ("PatientName", "john doe", ["Doe^John"]),
    ("StudyDate", "20150512", ["20150512"]),
    ("StudyDate", "20150512", ["2015.05.12"]),
    ("StudyDate", "20150512-20150612", ["20150612"]),
    ("StudyDate", "20150512-", ["20150512"]),
    ("StudyDate", "-20150512", ["19000101"]),
    ("AcquisitionDate", "20150512", ["20140101", "20150512"]),
    ("StudyTime", "1015", ["101559.9"]),
    ("StudyTime", "1015", ["10:15:00"]),
    ("StudyTime", "10", ["1059"]),
    ("StudyTime", "101500", ["1015"]),
    ("StudyTime", "101530.25", ["101530.250001"]),
    ("StudyTime", "22-", ["235960"]),
    ("StudyTime", "101530", ["1015"]),
    ("StudyTime", "2359", ["23"]),
    ("StudyTime", "2359", ["23:59:30"]),
    ("StudyTime", "2359", ["23:59"]),
    ("StudyTime", "2359", ["235930.123456"]),
    ("StudyTime", "2200-0200", ["2230"]),
    ("StudyTime", "2200-0200", ["0200"]),
    ("StudyTime", "2230-0200", ["22"]),
    ("StudyDate", "20150512", ["2015-05-12"]),
    ("SeriesNumber", "7", ["007 "]),
    ("SeriesNumber", "7", ["+7"]),
    ("StudyInstanceUID", "1.2.3", ["1.2.3\0"]),
    ("ImageType", "SCREEN SAVE", ["DERIVED", "SECONDARY", "SCREEN SAVE"]),
    ("ImageType", "DERIVED\\SECONDARY\\SCREEN SAVE", ["DERIVED", "SECONDARY", "SCREEN SAVE", "X"]),
    ("ImageType", "DERIVED\\\\SCREEN*", ["DERIVED", "PRIMARY", "SCREEN SAVE"]),
    ("ImageType", "DERIVED\\", ["DERIVED"]),
]
NO_MATCH = [
    ("PatientID", "0012", ["12"]),
    ("PatientID", "a1", ["A1"]),
    ("PatientID", "12", ["123"]),
    ("PatientID", "12", []),
    ("PatientID", "12", [""]),
    ("StudyDate", "20150512", ["", "x", "20150512-"]),
    ("StudyDate", "20150512-20150612", ["20150613"]),
    ("StudyDate", "20150512-", ["20150511"]),
    ("StudyTime", "1015", ["101600"]),
    ("StudyTime", "1015", ["", "25", "1000-1030"]),
    ("StudyTime", "101530", ["1016"]),
    ("StudyTime", "2200-0200", ["2159"]),
    ("StudyTime", "2200-0200", ["0201"]),
    ("StudyTime", "2359", ["23:58:30"]),
    ("StudyDate", "20150512", ["2015-05-13", "12.05.2015"]),
    ("SeriesNumber", "7", ["70", "", "7.0"]),
    ("StudyInstanceUID", "1.2.3", ["1.2.30"]),
    ("StudyInstanceUID", "1.2.3", ["1.2.03"]),
    ("ImageType", "SCREEN", ["DERIVED", "SECONDARY", "SCREEN SAVE"]),
    ("ImageType", "DERIVED\\SCREEN SAVE", ["DERIVED", "SECONDARY", "SCREEN SAVE"]),
    ("ImageType", "DERIVED\\SECONDARY\\MPR", ["DERIVED", "SECONDARY"]),
    ("Modality", "CT", ["MR"]),
]


@pytest.mark.parametrize(("keyword", "wanted", "values"), MATCH)
def test_values_that_match(keyword: str, wanted: str, values: list[str]) -> None:
    assert matches(keyword, wanted, values)


@pytest.mark.parametrize(("keyword", "wanted", "values"), NO_MATCH)
def test_values_that_do_not_match(keyword: str, wanted: str, values: list[str]) -> None:
    assert not matches(keyword, wanted, values)


text = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), max_size=20)


@given(st.sampled_from(list(KEYS)), text | st.text("0123456789-.*?\\ ", max_size=20), st.lists(text, max_size=3))
def test_every_cell_that_is_taken_can_be_sent_and_matched(keyword: str, cell: str, values: list[str]) -> None:
    try:
        wanted = check_cell(keyword, cell.strip())
    except ValueError:
        return
    assert check_cell(keyword, wanted) == wanted
    assert value_to_send(keyword, wanted).isascii()
    assert matches(keyword, wanted, values) in (True, False)
    if "-" not in wanted and keyword != "PatientName":
        assert matches(keyword, wanted, wanted.split("\\"))
