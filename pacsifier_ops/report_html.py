"""The report of an extract run as one HTML file that stands alone.

No script, no network, nothing loaded: the Content-Security-Policy in its head forbids all but its own style.
Text from the query table and from the archive is hostile; `_tag` and `_table` escape everything that was not
built here. The report names patients and belongs to the identified data.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from urllib.parse import urlsplit

from pacsifier_ops.accounts import (
    COMPLETE,
    INCOMPLETE,
    ROW_BAD,
    ROW_CONFLICT,
    ROW_EMPTY,
    ROW_FAILED,
    ROW_FOUND,
    ROW_UNDECIDABLE,
    SERIES_COMPLETE,
    SERIES_FAILED,
    SERIES_INCOMPLETE,
    SERIES_LISTED,
    SERIES_UNVERIFIABLE,
    UNBALANCED,
    RowAccount,
    RunAccount,
    SeriesAccount,
    count_by,
)

#: Lines shown of a list; the log has them all.
LONGEST_LIST = 2000

# State: (kind that gives the colour, what it means).
_ROW_STATES = {
    ROW_FOUND: ("good", "series match the row"),
    ROW_EMPTY: ("empty", "the archive answered: nothing matches the row"),
    ROW_BAD: ("bad", "the row cannot be used as it is written"),
    ROW_UNDECIDABLE: ("bad", "the archive neither matches nor returns a key of the row; nothing was fetched"),
    ROW_CONFLICT: ("bad", "the row contradicts another source or row"),
    ROW_FAILED: ("bad", "asking the archive failed"),
}
_SERIES_STATES = {
    SERIES_COMPLETE: ("good", "every expected instance is in the output folder"),
    SERIES_LISTED: ("listed", "described, not to be fetched"),
    SERIES_UNVERIFIABLE: ("doubt", "the archive gives no expectation to compare with"),
    SERIES_INCOMPLETE: ("bad", "expected instances are missing"),
    SERIES_FAILED: ("bad", "the series could not be fetched"),
}
_UNKNOWN = ("bad", "")


class _Html(str):
    """Text that is HTML already."""


def _text(value: object) -> _Html:
    """Escape a value; what HTML or UTF-8 cannot hold becomes U+FFFD."""
    if isinstance(value, _Html):
        return value
    shown = f"{value:,}" if isinstance(value, int) else str(value)
    return _Html(html.escape(re.sub("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", shown)))


def _tag(name: str, *content: object, **attributes: object) -> _Html:
    """An element; everything in it is escaped. `class_` and `aria_label` give `class` and `aria-label`."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{_text(str(value))}"' for key, value in attributes.items())
    return _Html(f"<{name}{given}>{_join(content)}</{name}>")


def _join(parts: Iterable[object], between: str = "") -> _Html:
    return _Html(between.join(_text(part) for part in parts))


def _table(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]], total: int | None = None) -> _Html:
    """A table whose first column names the line. A heading that ends in `#` is a column of numbers.

    With `total`, the list was cut to `LONGEST_LIST` of so many lines, and says so.
    """
    classes = ["number" if name.endswith("#") else "text" for name in columns]
    heads = [
        _tag("th", name.rstrip("#"), scope="col", class_=kind) for name, kind in zip(columns, classes, strict=True)
    ]
    lines = [
        _tag(
            "tr",
            _tag("th", row[0], scope="row", class_=classes[0]),
            *(_tag("td", cell, class_=kind) for cell, kind in zip(row[1:], classes[1:], strict=True)),
        )
        for row in rows
    ]
    table = _tag(
        "table",
        _tag("caption", caption, class_="unseen"),
        _tag("thead", _tag("tr", *heads)),
        _tag("tbody", *lines),
    )
    scroll = _tag("div", table, class_="scroll", role="region", tabindex="0", aria_label=caption)
    if total is None or total <= LONGEST_LIST:
        return scroll
    cut = f"The first {LONGEST_LIST:,} of {total:,} are shown; logs/pacsifier_log.csv lists every series."
    return _join([scroll, _tag("p", cut, class_="note")])


def _section(title: str, identifier: str, *content: object) -> _Html:
    heading = _tag("h2", title, id=identifier)
    return _tag("section", heading, *content, aria_labelledby=identifier)


def _size(count: float) -> str:
    """Bytes in decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _moment(iso: str) -> datetime | None:
    try:
        return datetime.fromisoformat(iso)
    except ValueError:
        return None


def _seconds(account: RunAccount) -> float | None:
    """Wall time of the run in seconds; None if its two times cannot be compared."""
    start, end = _moment(account.started), _moment(account.finished)
    if start is None or end is None or (start.tzinfo is None) != (end.tzinfo is None):
        return None
    return max(0.0, (end - start).total_seconds())


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min {rest:02} s" if hours else f"{minutes} min {rest:02} s"


def _when(iso: str) -> _Html:
    moment = _moment(iso)
    if moment is None:
        return _text(iso or "not known")
    return _tag("time", re.sub(r"(?=[+-]\d\d:\d\d$)", " ", moment.isoformat(" ", "seconds")), datetime=iso)


def _badge(state: str, states: Mapping[str, tuple[str, str]]) -> _Html:
    return _tag("span", state, class_=f"badge {states.get(state, _UNKNOWN)[0]}")


def _keys(keys: Mapping[str, str]) -> _Html:
    """The cells of a row; `bdi` keeps text that runs right to left from turning what is beside it."""
    pairs = (_join([_tag("span", column, class_="key"), " ", _tag("bdi", value)]) for column, value in keys.items())
    return _join(pairs, "<br>")


def _lines(numbers: Sequence[int]) -> str:
    """Line numbers, the first twenty of them."""
    shown = ", ".join(map(str, numbers[:20]))
    return shown + (f" and {len(numbers) - 20:,} more" if len(numbers) > 20 else "")


def _series_name(series: SeriesAccount, *, uids: bool = False) -> _Html:
    """What a series is called: number and description, below it its folder and, if asked, its UIDs."""
    title = _tag("bdi", " ".join(filter(None, (series.series_number, series.description))) or "no description")
    below = [series.folder] if series.folder else []
    if uids:
        below += [f"Study {series.study_uid}", f"Series {series.series_uid}"]
    return _tag("div", title, *(_tag("div", text, class_="below") for text in below), class_="name")


def _row_good(row: RowAccount) -> bool:
    return row.state in (ROW_FOUND, ROW_EMPTY)


def _series_good(series: SeriesAccount) -> bool:
    return series.state in (SERIES_COMPLETE, SERIES_LISTED) and series.balanced


def _verdict(account: RunAccount) -> _Html:
    """The verdict in words: what it means and what to do."""
    totals = account.totals()
    empty = sum(row.state == ROW_EMPTY for row in account.rows)
    series = [s for s in account.series if not _series_good(s)]
    rows = [row for row in account.rows if not _row_good(row)]
    faults = _and(
        [
            *([_plural(len(rows), "row") + " did not end well"] if rows else []),
            *([f"{len(series):,} of {len(account.series):,} series are not complete"] if series else []),
            *([_plural(int(totals["missing"]), "instance") + " missing"] if totals["missing"] else []),
            *(
                [_plural(int(totals["unverifiable"]), "instance") + " without an expectation to compare with"]
                if totals["unverifiable"]
                else []
            ),
        ]
    )
    if account.verdict == COMPLETE:
        title = "Complete"
        what = (
            "Every row was answered, and every instance that the archive lists is in the output folder."
            if account.retrieve != "none"
            else "Every row was answered. The series were listed; fetching them was not asked for."
        )
        todo = "Nothing is left to do."
        if empty:
            todo = f"Make sure that the {_plural(empty, 'row')} that found nothing should be empty."
    elif account.verdict == INCOMPLETE:
        title = "Incomplete"
        what = f"The books balance, but not all that was asked for is proved to be there: {faults}."
        todo = (
            "Settle the reasons below and run the same query table into the same folder again: only what is "
            "missing is fetched."
        )
    else:
        title = "Unbalanced"
        what = "The books do not balance: some instances are in no state, or in more than one."
        if faults:
            what += f" Also: {faults}."
        todo = (
            "Do not hand this data set over. Run it again; if the verdict stays, keep the run folder and "
            "have it looked into."
        )
    sign = {COMPLETE: "\u2713", INCOMPLETE: "!", UNBALANCED: "\u2260"}[account.verdict]
    return _tag(
        "div",
        _tag("div", sign, class_="sign", aria_hidden="true"),
        _tag("div", _tag("p", title, class_="word"), _tag("p", what), _tag("p", todo)),
        class_=f"verdict {account.verdict}",
    )


def _and(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def _facts(account: RunAccount) -> _Html:
    facts = (
        ("Run", account.run),
        ("PACS", account.pacs),
        ("Retrieve", account.retrieve),
        ("Start", _when(account.started)),
        ("End", _when(account.finished)),
        ("Duration", _duration(_seconds(account))),
    )
    return _tag("dl", *(_tag("div", _tag("dt", name), _tag("dd", value)) for name, value in facts))


def _accounts(account: RunAccount) -> _Html:
    totals = account.totals()
    expected, present, received, missing = (
        int(totals[name]) for name in ("expected", "present", "received", "missing")
    )
    without = sum(s.expected is None for s in account.series)
    seconds = _seconds(account)
    rate = f"{totals['bytes'] / 1e6 / seconds:,.1f} MB/s" if seconds else "not known"
    empty = sum(row.state == ROW_EMPTY for row in account.rows)
    rows: list[tuple[object, object, object]] = [
        ("Asked", len(account.rows), f"rows of the query table; {empty:,} found nothing"),
        ("Found", len(account.series), "series, each counted once"),
        (
            "Expected",
            expected,
            "instances that the archive lists" + (f"; none for {without:,} series" if without else ""),
        ),
        ("Already present", present, "instances that were in the output folder before"),
        ("Received", received, "instances fetched in this run"),
        ("Missing", missing, "expected instances that are not there"),
        ("Unverifiable", int(totals["unverifiable"]), "instances that no expectation covers"),
        ("Quarantined", int(totals["quarantined"]), "instances kept out of the data set"),
        ("In the output folder", sum(s.on_disk for s in account.series), "instances at the end"),
        ("Bytes received", _size(totals["bytes"]), f"{int(totals['bytes']):,} bytes"),
        ("Rate", rate, "bytes received over the duration of the run"),
    ]
    # Series for which the archive gives no expectation stand outside the balance.
    counted = [s for s in account.series if s.expected is not None]
    parts = [sum(getattr(s, name) for s in counted) for name in ("present", "received", "missing")]
    sign = "=" if expected == sum(parts) else "\u2260"
    balance = f"{expected:,} expected {sign} {parts[0]:,} present + {parts[1]:,} received + {parts[2]:,} missing"
    table = _table("Accounts of the run", ("Account", "Count#", "What it counts"), rows)
    return _tag(
        "div",
        _tag("div", table, _tag("p", balance, class_="balance")),
        _chart(account),
        class_="columns",
    )


def _chart(account: RunAccount) -> _Html:
    """Three bars that add up: rows by state, series by state, instances by where they ended."""
    totals = account.totals()
    instances = (
        ("present", "good"),
        ("received", "fresh"),
        ("missing", "bad"),
        ("unverifiable", "doubt"),
        ("quarantined", "apart"),
    )
    rows, series = count_by(account.rows, "state"), count_by(account.series, "state")
    return _tag(
        "figure",
        _bar("Rows asked", [(n, count, _ROW_STATES.get(n, _UNKNOWN)[0]) for n, count in rows.items()]),
        _bar("Series found", [(n, count, _SERIES_STATES.get(n, _UNKNOWN)[0]) for n, count in series.items()]),
        _bar("Instances", [(n, int(totals[n]), kind) for n, kind in instances], int(totals["expected"])),
    )


def _bar(label: str, parts: Sequence[tuple[str, int, str]], expected: int | None = None) -> _Html:
    """One bar of parts (name, count, kind) with its legend; the numbers are in its text alternative too."""
    parts = [part for part in parts if part[1] > 0]
    total = sum(count for _, count, _ in parts)
    # One missing image of a million still shows: no part is narrower than 4 of 480.
    widths = [max(4.0, 480 * count / total) for _, count, _ in parts]
    drawn, left = [_tag("rect", width=480, height=16, class_="ground")], 0.0
    for (_, _, kind), width in zip(parts, widths, strict=True):
        width *= 480 / sum(widths)
        drawn.append(_tag("rect", x=f"{left:.1f}", width=f"{max(width - 1, 1):.1f}", height=16, class_=f"fill {kind}"))
        left += width
    said = _and([f"{count:,} {name}" for name, count, _ in parts]) or "none"
    head = f"{total:,}" if expected is None else f"{expected:,} expected"
    picture = _tag(
        "svg",
        *drawn,
        viewBox="0 0 480 16",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{label}: {said}",
    )
    legend = [_tag("span", _tag("i", class_=f"dot {kind}"), f"{count:,} {name}") for name, count, kind in parts]
    return _tag(
        "div",
        _tag("p", label, _tag("b", head)),
        picture,
        _tag("p", *(legend or [_text("none")])),
        class_="bar",
    )


def _breakdown(account: RunAccount) -> _Html:
    modalities: dict[str, list[SeriesAccount]] = {}
    for series in account.series:
        modalities.setdefault(series.modality or "not given", []).append(series)
    per_modality = [
        (
            name,
            len(group),
            sum(s.expected or 0 for s in group),
            sum(s.on_disk for s in group),
            sum(s.missing for s in group),
            _size(sum(s.bytes for s in group)),
        )
        for name, group in sorted(modalities.items())
    ]
    per_state = [
        (_badge(state, _ROW_STATES), count, _ROW_STATES.get(state, _UNKNOWN)[1])
        for state, count in count_by(account.rows, "state").items()
    ]
    columns = ("Modality", "Series#", "Expected#", "In folder#", "Missing#", "Received#")
    return _tag(
        "div",
        _section("Per modality", "modality", _table("Per modality", columns, per_modality)),
        _section("Per row state", "state", _table("Per row state", ("State", "Rows#", "Meaning"), per_state)),
        class_="columns",
    )


def _attention(account: RunAccount) -> _Html:
    """What did not end well, with reasons."""
    series = [s for s in account.series if not _series_good(s)]
    rows = [row for row in account.rows if not _row_good(row)]
    if not (series or rows or account.discrepancies):
        return _Html()
    parts: list[object] = []
    if account.discrepancies:
        parts.append(_tag("h3", "Contradictions in the books"))
        parts.append(_tag("ul", *(_tag("li", words) for words in account.discrepancies)))
    if series:
        keys = {row.line: row.keys for row in account.rows}
        columns = ("Series#", "Modality", "Name", "State", "Expected#", "In folder#", "Missing#", "Reason")
        lines = [
            (
                s.number,
                s.modality,
                _series_name(s, uids=True),
                _badge(s.state, _SERIES_STATES),
                "not listed" if s.expected is None else s.expected,
                s.on_disk,
                s.missing,
                _join(
                    [
                        s.reason or _SERIES_STATES.get(s.state, _UNKNOWN)[1],
                        "" if s.balanced else _tag("div", "its instances do not add up"),
                        *(
                            _tag("div", f"line {line}: ", _keys(keys.get(line, {})), class_="below")
                            for line in s.lines[:3]
                        ),
                        _tag("div", f"asked for by {len(s.lines):,} lines in all", class_="below")
                        if len(s.lines) > 3
                        else "",
                    ]
                ),
            )
            for s in series[:LONGEST_LIST]
        ]
        parts.append(_tag("h3", "Series that are not complete"))
        parts.append(_table("Series that are not complete", columns, lines, len(series)))
    if rows:
        parts.append(_tag("h3", "Rows that did not end well"))
        parts.append(_rows_table("Rows that did not end well", rows))
    return _section("Needs attention", "attention", *parts)


def _rows_table(caption: str, rows: Sequence[RowAccount]) -> _Html:
    lines = [
        (
            row.line,
            _keys(row.keys),
            _badge(row.state, _ROW_STATES),
            row.series or _tag("span", "found nothing" if row.state == ROW_EMPTY else "none", class_="faint"),
            _join(filter(None, [row.reason, *row.warnings]), "<br>"),
        )
        for row in rows[:LONGEST_LIST]
    ]
    return _table(caption, ("Line#", "Asked for", "State", "Series#", "Reason and remarks"), lines, len(rows))


def _rows(account: RunAccount) -> _Html:
    empty = [row for row in account.rows if row.state == ROW_EMPTY]
    parts: list[object] = []
    if empty:
        found = f"{_plural(len(empty), 'row')} found nothing: the archive answered, and holds no such series. "
        where = f"{'Line' if len(empty) == 1 else 'Lines'} {_lines([row.line for row in empty])}."
        parts.append(_tag("p", found, where, class_="note"))
    parts.append(_rows_table("Rows of the query table", account.rows))
    return _section("Rows of the query table", "rows", *parts)


def _all_series(account: RunAccount) -> _Html:
    columns = (
        *("Series#", "Lines", "Modality", "Name", "State", "Expected#", "Present#", "Received#", "Missing#"),
        *("Unverifi\u00adable#", "Quaran\u00adtined#", "Bytes#", "Time#", "By"),
    )
    lines = [
        (
            s.number,
            _lines(s.lines),
            s.modality,
            _series_name(s),
            _badge(s.state, _SERIES_STATES),
            "not listed" if s.expected is None else s.expected,
            s.present,
            s.received,
            s.missing,
            s.unverifiable,
            s.quarantined,
            _size(s.bytes),
            _duration(s.seconds),
            _tag("span", {"get": "C-GET", "move": "C-MOVE"}.get(s.method, s.method), class_="whole"),
        )
        for s in account.series[:LONGEST_LIST]
    ]
    return _section("Series", "series", _table("All series", columns, lines, len(account.series)))


def _links(links: Mapping[str, str]) -> _Html:
    """Links beside the report; only relative ones and http(s)."""
    safe = [(text, to) for text, to in links.items() if urlsplit(to).scheme in ("", "http", "https")]
    return _tag("nav", *(_tag("a", text, href=to) for text, to in safe), aria_label="Files") if safe else _Html()


_STYLE = """
:root { color-scheme: light dark; --page: #f4f6f8; --paper: #fff; --ink: #1b2733; --soft: #566575;
  --line: #d9e0e7; --band: #eef2f6; --good: #1f7a5c; --fresh: #2768b0; --listed: #4d6b8a; --doubt: #96610a;
  --bad: #b3261e; --empty: #5f6b78; --apart: #74528f; }
@media (prefers-color-scheme: dark) { :root { --page: #11171d; --paper: #18212a; --ink: #e4eaf0;
  --soft: #9dabb9; --line: #2f3b47; --band: #202b36; --good: #58c29b; --fresh: #76b0f1; --listed: #a3bdd8;
  --doubt: #e3b055; --bad: #f2877f; --empty: #a9b4bf; --apart: #c3a0df; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 14px/1.45 system-ui, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
main, header, footer { max-width: 1240px; margin: 0 auto; padding: 0 28px; }
header { padding-top: 28px; } footer { padding-bottom: 36px; color: var(--soft); font-size: 12.5px; }
h1 { font-size: 21px; font-weight: 600; margin: 0 0 14px; letter-spacing: -.01em; }
h2 { font-size: 15.5px; font-weight: 600; margin: 0 0 10px; }
h3 { font-size: 13.5px; font-weight: 600; margin: 18px 0 6px; } h2 + h3 { margin-top: 0; }
p { margin: 0 0 4px; } ul { margin: 0; padding-left: 20px; }
section, .panel { background: var(--paper); border: 1px solid var(--line); border-radius: 6px;
  padding: 16px 18px 18px; margin: 16px 0; min-width: 0; }
.verdict { display: flex; gap: 18px; align-items: center; background: var(--paper); border-radius: 6px;
  border: 1px solid var(--line); border-left: 6px solid var(--tone); padding: 16px 20px; }
.verdict.complete { --tone: var(--good); } .verdict.incomplete { --tone: var(--doubt); }
.verdict.unbalanced { --tone: var(--bad); }
.sign { flex: none; width: 42px; height: 42px; border-radius: 50%; background: var(--tone);
  color: var(--paper); font-size: 24px; font-weight: 700; line-height: 42px; text-align: center; }
.word { font-size: 19px; font-weight: 650; color: var(--tone); }
dl { display: flex; flex-wrap: wrap; gap: 6px 30px; margin: 14px 2px; }
dt { color: var(--soft); font-size: 12px; } dd { margin: 0; font-variant-numeric: tabular-nums; }
nav { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0 2px; } a { color: var(--fresh); }
.columns { display: grid; grid-template-columns: minmax(0, 1.15fr) minmax(0, 1fr); gap: 0 28px;
  align-items: start; }
main > .columns { gap: 16px; align-items: stretch; } main > .columns > section { margin: 0; }
@media screen and (max-width: 860px) { .columns { grid-template-columns: minmax(0, 1fr); } }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { padding: 4px 9px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; }
thead th { color: var(--soft); font-weight: 500; font-size: 12px; vertical-align: bottom;
  border-bottom-color: var(--soft); }
tbody th { font-weight: 550; } tbody tr:hover { background: var(--band); }
td.number, tbody th.number { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
th.number:first-child { width: 3.5em; font-weight: 400; color: var(--soft); }
.text { min-width: 4em; } td.text { overflow-wrap: anywhere; }
.name { min-width: 21em; } .whole { white-space: nowrap; }
.badge { display: inline-block; padding: 0 7px; border: 1px solid; border-radius: 9px; font-size: 12px;
  line-height: 17px; white-space: nowrap; overflow-wrap: normal; }
.badge.empty { border-style: dashed; }
.good { color: var(--good); } .fresh { color: var(--fresh); } .listed { color: var(--listed); }
.doubt { color: var(--doubt); } .bad { color: var(--bad); } .empty { color: var(--empty); }
.apart { color: var(--apart); }
.key, .below, .faint, .note { color: var(--soft); } .key, .below { font-size: 12px; }
.note { margin-bottom: 10px; } .scroll + .note { margin: 10px 0 0; }
.balance { margin-top: 10px; font-variant-numeric: tabular-nums; font-weight: 550; }
figure { margin: 4px 0 0; } svg { display: block; width: 100%; height: 18px; }
.bar { margin-bottom: 22px; } .bar p { display: flex; flex-wrap: wrap; gap: 0 16px; font-size: 12.5px; }
.bar p:first-child { justify-content: space-between; font-size: 13px; }
.bar p:last-child { margin-top: 5px; color: var(--soft); }
.fill { fill: currentColor; } .ground { fill: var(--band); }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 2px; background: currentColor;
  margin-right: 5px; }
.signing { display: none; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
:focus-visible { outline: 2px solid var(--fresh); outline-offset: 2px; }
@media print {
  :root { color-scheme: light; --page: #fff; --paper: #fff; --ink: #000; --soft: #444; --line: #bbb;
    --band: #eee; --good: #1f7a5c; --fresh: #2768b0; --listed: #4d6b8a; --doubt: #96610a; --bad: #b3261e;
    --empty: #5f6b78; --apart: #74528f; }
  @page { size: A4 landscape; margin: 12mm; }
  * { print-color-adjust: exact; }
  body { font-size: 9.5pt; } table { font-size: 8.5pt; }
  main, header, footer { max-width: none; padding: 0; }
  section { border: 0; border-top: 1px solid var(--line); border-radius: 0; padding: 10px 0; margin: 8px 0; }
  .scroll { overflow: visible; } tr, figure, .verdict { break-inside: avoid; } h2, h3 { break-after: avoid; }
  thead { display: table-header-group; break-after: avoid; }
  .signing { display: flex; gap: 28px; margin: 26px 0 6px; }
  .signing span { flex: 1; border-top: 1px solid #000; padding-top: 3px; }
}
"""


def render(account: RunAccount, links: Mapping[str, str] | None = None) -> str:
    """The report of a run as one HTML page (UTF-8).

    Args:
        account: the closed accounts of the run.
        links: text to address of files worth a link (relative or http); others are left out.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    head = _join(
        [
            _Html('<meta charset="utf-8">'),
            _Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
            _Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            _Html('<meta name="referrer" content="no-referrer">'),
            _tag("title", f"Extract run {account.run}: {account.verdict}"),
            _tag("style", _Html(_STYLE)),
        ],
        "\n",
    )
    signing = _tag("div", *(_tag("span", label) for label in ("Checked by", "Date", "Signature")), class_="signing")
    body = _join(
        [
            _tag(
                "header",
                _tag("h1", "Extract from the PACS"),
                _verdict(account),
                _facts(account),
                _links(links or {}),
            ),
            _tag(
                "main",
                _section("Accounts", "accounts", _accounts(account), signing),
                _attention(account),
                _breakdown(account),
                _rows(account),
                _all_series(account),
            ),
            _tag(
                "footer",
                "Instances count once, under their series; rows refer to series. This report names patients: "
                "keep it with the identified data.",
            ),
        ],
        "\n",
    )
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'
