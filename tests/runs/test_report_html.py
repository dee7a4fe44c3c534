"""The HTML report: self-contained, escaped, and equal to the account."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pacsifier_ops.runs.accounts import (
    MOVE,
    NONE,
    ROW_BAD,
    ROW_EMPTY,
    ROW_FOUND,
    ROW_UNDECIDABLE,
    SAVE,
    SERIES_COMPLETE,
    SERIES_INCOMPLETE,
    SERIES_LISTED,
    SERIES_UNVERIFIABLE,
    UPLOAD,
    FileAccount,
    RowAccount,
    RunAccount,
    SeriesAccount,
)
from pacsifier_ops.runs.pages import LONGEST_LIST, environment
from pacsifier_ops.runs.report_html import MOST_UIDS, render

HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(2)>\"'&amp;\x00\ud800"
VOID = {"meta", "br"}
ACTIONS = (SAVE, NONE, MOVE, UPLOAD)


class Page(HTMLParser):
    """Collects elements in order and text, and checks that elements are closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said.append(data)

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    @property
    def text(self) -> str:
        return "".join(self.said)


def a_series(number: int = 1, **values: object) -> SeriesAccount:
    given = {"state": SERIES_COMPLETE, "expected": 20, "received": 20, "bytes": 10_000_000, "modality": "CT"}
    base = SeriesAccount(number=number, lines=[2], study_uid="1.2.3", series_uid=f"1.2.3.{number}")
    for name, value in {**given, **values}.items():
        setattr(base, name, value)
    return base


def a_run(
    rows: list[RowAccount], series: list[SeriesAccount], text: str = "plain", action: str = SAVE, **more: Any
) -> RunAccount:
    begin, end = "2026-03-04T22:00:00+01:00", "2026-03-04T22:00:10+01:00"
    return RunAccount(text, text, action, begin, end, rows, series, **more)


def an_upload(*series: SeriesAccount, **more: Any) -> RunAccount:
    return a_run([], [*series], action=UPLOAD, destination="archive", **{"folder": "/data/in", **more})


def hostile_run(text: str, action: str = SAVE) -> RunAccount:
    rows = [RowAccount(2, {text: text}, ROW_FOUND, 1, text, [text]), RowAccount(3, {}, text, 0, text)]
    words = dict.fromkeys(("modality", "series_number", "description", "folder", "method", "reason"), text)
    series = [
        a_series(1, state=text, warned=1, missing_uids=[text], study_uid=text, series_uid=text, **words),
        a_series(2, lines=[2, 3], missing=1),
    ]
    more: dict[str, Any] = {"destination": text, "folder": text, "discrepancies": [text]}
    run = a_run(rows, series, text, action, **more, passed_over={text: 1}, bad_files=[FileAccount(text, text)])
    run.started = run.finished = text
    return run


FOUND = RowAccount(2, {"PatientID": "123421"}, ROW_FOUND, 1)


def test_stands_alone() -> None:
    page = Page(render(a_run([FOUND], [a_series()])))
    metas = [attrs for tag, attrs in page.elements if tag == "meta"]
    policy = next(m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy") or ""
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    assert page.tags.index("meta") < page.tags.index("style")
    assert not {"script", "link", "img", "iframe", "form", "base"} & set(page.tags)
    source = render(a_run([FOUND], [a_series()]))
    assert "http://" not in source and "https://" not in source and "url(" not in source


@pytest.mark.parametrize("action", ACTIONS)
def test_hostile_text_stays_text(action: str) -> None:
    hostile, plain = Page(render(hostile_run(HOSTILE, action))), Page(render(hostile_run("plain", action)))
    assert hostile.tags == plain.tags
    assert not any(name.startswith("on") for _, attrs in hostile.elements for name in attrs)
    assert "<script>alert(1)</script>" in hostile.text
    assert "&amp;\ufffd\ufffd" in hostile.text


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=()), min_size=1, max_size=40), st.sampled_from(ACTIONS))
def test_no_text_changes_the_page(text: str, action: str) -> None:
    source = render(hostile_run("x" + text, action))  # an empty string or a date may leave an element out
    source.encode("utf-8")
    assert Page(source).tags == Page(render(hostile_run("x", action))).tags


def test_links() -> None:
    page = Page(render(an_upload(a_series(), folder="/data/a b#1")))
    assert [a["href"] for t, a in page.elements if t == "a"] == ["file:///data/a%20b%231"]
    assert "/data/a b#1" in page.text
    link: Any = vars(environment().get_template("runs/templates/parts.html").module)["link"]
    assert link("x", "https://airflow.example/x?a=1&b=2").startswith('<a href="https://airflow.example/x?a=1&amp;b=2"')
    for to in (
        "javascript:alert(1)",
        " javascript:alert(1)",
        "java\nscript:alert(1)",
        "//elsewhere",
        "data:text/html,x",
    ):
        assert link("<x>", to) == "&lt;x&gt;"


@pytest.mark.parametrize(
    ("rows", "series", "discrepancies", "word", "sentence"),
    [
        ([FOUND], [a_series()], [], "Complete", "Nothing is left to do."),
        ([FOUND, RowAccount(3, {}, ROW_EMPTY)], [a_series()], [], "Complete", "the 1 row that found nothing"),
        ([FOUND], [a_series(state=SERIES_LISTED)], [], "Complete", "Nothing is left to do."),
        (
            [FOUND, RowAccount(3, {}, ROW_BAD)],
            [a_series(state=SERIES_INCOMPLETE, received=17, missing=3)],
            [],
            "Incomplete",
            "1 row without a usable answer, 1 of 1 series are not complete and 3 instances missing",
        ),
        (
            [FOUND],
            [a_series(state=SERIES_UNVERIFIABLE, expected=None, received=0, unverifiable=5)],
            [],
            "Incomplete",
            "5 instances without an expectation",
        ),
        ([FOUND], [a_series(received=19)], [], "Unbalanced", "Do not hand this data set over."),
        ([FOUND], [a_series()], ["the ledger holds more"], "Unbalanced", "the ledger holds more"),
    ],
)
def test_verdict_in_words(
    rows: list[RowAccount], series: list[SeriesAccount], discrepancies: list[str], word: str, sentence: str
) -> None:
    run = a_run(rows, series)
    run.discrepancies = discrepancies
    page = Page(render(run))
    assert word.lower() == run.verdict
    assert word in page.said and sentence in page.text


def test_accounts_add_up() -> None:
    series = [
        a_series(1, present=5, received=12, missing=3, state=SERIES_INCOMPLETE, reason="0xA702"),
        a_series(2, modality="MR", received=20, quarantined=2),
    ]
    text = Page(render(a_run([FOUND], series))).text
    assert "40 expected = 5 present + 32 received + 3 missing" in text
    assert "20,000,000 bytes" in text and "2.0 MB/s" in text and "10.0 s" in text
    series[1].received = 19
    assert "40 expected \u2260 5 present + 31 received + 3 missing" in Page(render(a_run([FOUND], series))).text


def test_failed_items_come_first_and_empty_rows_are_shown_separately() -> None:
    rows = [
        RowAccount(2, {"PatientID": "123421"}, ROW_FOUND, 2),
        RowAccount(3, {"AccessionNumber": "A1"}, ROW_EMPTY),
        RowAccount(4, {"ImageType": "X"}, ROW_UNDECIDABLE, reason="ImageType is not matched"),
    ]
    series = [
        a_series(1, description="whole"),
        a_series(2, description="half", received=19, missing=1, state=SERIES_INCOMPLETE, reason="not sent"),
    ]
    text = Page(render(a_run(rows, series))).text
    attention, everything = text.index("Needs attention"), text.index("Rows of the query table")
    part = text[attention:everything]
    assert attention < everything < text.rindex("Series")
    for wanted in ("half", "1.2.3.2", "not sent", "line 2: ", "123421", "ImageType is not matched"):
        assert wanted in part
    assert "whole" not in part and "A1" not in part
    assert "1 row found nothing" in text and "Line 3." in text
    assert "Needs attention" not in Page(render(a_run(rows[:2], series[:1]))).text


def test_accessible() -> None:
    page = Page(render(a_run([FOUND], [a_series()])))
    assert page.elements[0] == ("html", {"lang": "en"})
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.elements if tag == "th")
    assert page.tags.count("table") == page.tags.count("caption")
    pictures = [attrs["aria-label"] for tag, attrs in page.elements if tag == "svg"]
    assert pictures == ["Rows asked: 1 found", "Series found: 1 complete", "Instances: 20 received"]
    names = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(names) == len(set(names))


def test_one_missing_instance_of_a_million_is_visible() -> None:
    series = a_series(expected=1_000_000, received=999_999, missing=1, state=SERIES_INCOMPLETE)
    page = Page(render(a_run([FOUND], [series])))
    widths = [float(a["width"] or 0) for _, a in page.elements if a.get("class") == "fill bad"]
    assert len(widths) == 2 and min(widths) > 2  # the series and the instance


def test_long_lists_are_cut_and_say_so() -> None:
    count = LONGEST_LIST + 500
    rows = [RowAccount(line, {"PatientID": "1"}, ROW_FOUND, 1) for line in range(2, count + 2)]
    account = a_run(rows, [a_series(n) for n in range(1, count + 1)], folder="/data/out")
    page = Page(render(account))
    assert page.text.count(f"The first {LONGEST_LIST:,} of {count:,} are shown; accounts.json beside this page") == 2
    assert page.text.count("has them all, and so have /data/out/logs/pacsifier_log.csv and .parquet.") == 1
    assert page.tags.count("tr") < 2 * LONGEST_LIST + 60
    account.discrepancies = [f"series {number}: 1 instance accounted for" for number in range(count)]
    page = Page(render(account))
    assert page.text.count(f"The first {LONGEST_LIST:,} of {count:,} are shown") == 3
    assert page.tags.count("li") == LONGEST_LIST


@pytest.mark.parametrize("action", ACTIONS)
def test_an_empty_run_renders(action: str) -> None:
    page = Page(render(RunAccount("r", "p", action, "", "")))
    assert "not known" in page.text and "Needs attention" not in page.text
    assert ("holds no instance to send" in page.text) == (action == UPLOAD)


@pytest.mark.parametrize(
    ("action", "heading", "facts", "balance"),
    [
        (SAVE, "Extract from the PACS", ("Source", "plain", "Destination", "/data/out"), "5 received"),
        (NONE, "Extract from the PACS", ("Source", "plain", "Retrieve", "none"), "5 received"),
        (MOVE, "Move to another node", ("Source", "plain", "Destination", "third", "Log", "/data/out"), "5 sent"),
        (UPLOAD, "Upload to a PACS", ("Source", "/data/out", "Destination", "third"), "5 sent"),
    ],
)
def test_each_action_has_its_own_words(action: str, heading: str, facts: tuple[str, ...], balance: str) -> None:
    rows = [] if action == UPLOAD else [FOUND]
    series = a_series(expected=6, present=1, received=5, method="store" if action == UPLOAD else "move")
    page = Page(render(a_run(rows, [series], action=action, destination="third", folder="/data/out")))
    assert heading in page.said and f"6 expected = 1 present + {balance} + 0 missing" in page.said
    first = page.said.index("Run") + 2
    assert tuple(page.said[first : first + len(facts)]) == facts
    text = page.text.casefold()
    assert ("rows of the query table" in text) == (action != UPLOAD) == ("Lines" in page.said)
    assert ("files passed over" in text) == (action == UPLOAD)
    assert ("at the destination" in text) == (action in (MOVE, UPLOAD)) == ("in the output folder" not in text)
    assert ("fetch" in text) == (action == NONE)
    assert ("mb/s" in text) == (action != MOVE)  # a move to another node does not pass here
    assert ("C-STORE" if action == UPLOAD else "C-MOVE") in page.said


def test_files_of_an_upload() -> None:
    passed_over = {"DICOMDIR": 1, "not DICOM": 1204}
    whole = Page(render(an_upload(a_series(), passed_over=passed_over)))
    assert "Needs attention" not in whole.text and "1,205 files were passed over, see below" in whole.text
    assert whole.text.index("not DICOM") < whole.text.index("DICOMDIR")  # the most frequent first
    pictures = [attrs["aria-label"] for tag, attrs in whole.elements if tag == "svg"]
    assert pictures[0] == "Files: 20 to be sent and 1,205 passed over"

    bad = [FileAccount("a/cut.dcm", "the file is cut off")]
    page = Page(render(an_upload(a_series(), bad_files=bad)))
    assert "Incomplete" in page.said and "1 file that could not be sent" in page.text
    assert "upload the same folder again" in page.text
    assert page.text.index("Needs attention") < page.text.index("a/cut.dcm") < page.text.index("the file is cut off")


@pytest.mark.parametrize("action", [MOVE, UPLOAD])
def test_missing_instances_and_warnings_are_named(action: str) -> None:
    uids = [f"1.2.840.{n}" for n in range(100, 100 + MOST_UIDS + 5)]
    half = a_series(
        1, expected=40, received=15, missing=25, missing_uids=uids, state=SERIES_INCOMPLETE, reason="0xA700", lines=[]
    )
    text = Page(render(a_run([], [half], action=action))).text
    assert uids[MOST_UIDS - 1] in text and uids[MOST_UIDS] not in text
    assert "and 5 more, see accounts.json" in text and "0xA700" in text

    half.missing_uids = uids[:MOST_UIDS]
    assert "more, see accounts.json" not in Page(render(a_run([], [half], action=action))).text
    warned = a_series(2, warned=3, reason="taken with a warning (0xB000)", description="coerced")
    page = Page(render(a_run([], [warned], action=action)))
    assert "Complete" in page.said and "accepted 3 instances with a warning" in page.text
    part = page.text[page.text.index("Needs attention") : page.text.index("Per modality")]
    assert "coerced" in part and "0xB000" in part
