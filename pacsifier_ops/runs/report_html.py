"""The report of a run as one HTML file that stands alone. It names patients and belongs to the identified data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pacsifier_ops.runs.accounts import (
    COMPLETE,
    INCOMPLETE,
    MOVE,
    NONE,
    ROW_BAD,
    ROW_CONFLICT,
    ROW_EMPTY,
    ROW_FAILED,
    ROW_FOUND,
    ROW_UNDECIDABLE,
    ROWS_ANSWERED,
    SAVE,
    SERIES_COMPLETE,
    SERIES_FAILED,
    SERIES_INCOMPLETE,
    SERIES_LISTED,
    SERIES_RECALLED,
    SERIES_UNVERIFIABLE,
    UPLOAD,
    RowAccount,
    RunAccount,
    SeriesAccount,
    count_by,
)
from pacsifier_ops.runs.html import (
    Html,
    badge,
    bar,
    beside,
    facts,
    join,
    link,
    listed,
    moment,
    page,
    plural,
    section,
    table,
    tag,
    verdict,
    when,
)

#: Lines shown of a list, and UIDs of a series; accounts.json has them all.
LONGEST_LIST, MOST_UIDS = 2000, 20

# State: (kind that gives the colour, what it means).
_ROW_STATES = {
    ROW_FOUND: ("good", "series match the row"),
    ROW_EMPTY: ("empty", "the archive answered: nothing matches the row"),
    ROW_BAD: ("bad", "the row cannot be used as it is written"),
    ROW_UNDECIDABLE: ("bad", "what the archive answers does not tell all that the row asks for"),
    ROW_CONFLICT: ("bad", "the row contradicts another source or row"),
    ROW_FAILED: ("bad", "asking the archive failed"),
}
_SERIES_STATES = {
    SERIES_COMPLETE: ("good", "every expected instance is where it should be"),
    SERIES_LISTED: ("listed", "described, not to be fetched"),
    SERIES_UNVERIFIABLE: ("doubt", "the archive gives no expectation to compare with"),
    SERIES_RECALLED: ("doubt", "the archive recalls it from slow storage, and it is not yet there"),
    SERIES_INCOMPLETE: ("bad", "expected instances are missing"),
    SERIES_FAILED: ("bad", "the series could not be transferred"),
}
_UNKNOWN = ("bad", "")
_SERVICES = {"get": "C-GET", "move": "C-MOVE", "store": "C-STORE"}


@dataclass(frozen=True)
class _Words:
    """How the report of an action speaks.

    Attributes:
        name, heading: what the run is.
        arrived: what happened to instances in this run.
        place: where they belong; `column` heads their number there.
        expected: what the expectation is.
        complete: what that verdict says.
        again: what to do about an incomplete run.
        beware: what not to do after an unbalanced one.
        more: counts of a series beyond those of the balance.
        sizes: whether bytes are known.
    """

    name: str = "Extract"
    heading: str = "Extract from the PACS"
    arrived: str = "received"
    place: str = "in the output folder"
    column: str = "In folder#"
    expected: str = "instances that the archive lists"
    complete: str = "Every row was answered, and every instance that the archive lists is in the output folder."
    again: str = "run the same query table into the same folder again: only what is missing is fetched"
    beware: str = "Do not hand this data set over."
    more: tuple[str, ...] = ("unverifiable", "quarantined")
    sizes: bool = True


_WORDS = {
    SAVE: _Words(),
    NONE: _Words(
        complete="Every row was answered. The series were listed; fetching them was not asked for.",
        again="run the same query table again",
    ),
    MOVE: _Words(
        name="Move",
        heading="Move to another node",
        arrived="sent",
        place="at the destination",
        column="At destination#",
        complete="Every row was answered, and every instance that the archive lists is confirmed at the destination.",
        again="run the same query table again: only what is not confirmed at the destination is sent",
        beware="Do not rely on what is at the destination.",
        more=("unverifiable", "warned"),
        sizes=False,  # what goes from node to node does not pass here
    ),
    UPLOAD: _Words(
        name="Upload",
        heading="Upload to a PACS",
        arrived="sent",
        place="at the destination",
        column="At destination#",
        expected="instances that the uploaded folder holds",
        complete="The destination has confirmed every instance that the folder holds.",
        again="upload the same folder again: only what the destination has not confirmed is sent",
        beware="Do not rely on what is at the destination.",
        more=("warned",),
    ),
}
# Count of a series: (name, in the narrow head of a column, what it counts).
_MORE = {
    "unverifiable": ("Unverifiable", "Unverifi\u00adable#", "instances that no expectation covers"),
    "quarantined": ("Quarantined", "Quaran\u00adtined#", "instances kept out of the data set"),
    "warned": ("With a warning", "With a warning#", "instances that the destination took with a warning"),
}


def render(account: RunAccount) -> str:
    """The report of a run as one HTML page (UTF-8), from its closed accounts."""
    words = _WORDS[account.action]
    asked = account.action != UPLOAD
    signing = tag("div", *(tag("span", label) for label in ("Checked by", "Date", "Signature")), class_="signing")
    refer = "Instances count once, under their series; rows refer to series. " if asked else ""
    return page(
        f"{words.name} run {account.run}: {account.verdict}",
        words.heading,
        section("Accounts", "accounts", _accounts(account, words), signing),
        _attention(account, words),
        beside(_modalities(account, words), _row_states(account) if asked else _passed_over(account)),
        _rows(account) if asked else "",
        _all_series(account, words),
        lead=(_verdict(account, words), facts(_facts(account))),
        footer=f"{refer}This report names patients: keep it with the identified data.",
    )


def size(count: float) -> str:
    """Bytes in decimal units, three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _seconds(account: RunAccount) -> float | None:
    """Wall time of the run in seconds; None if its two times cannot be compared."""
    start, end = moment(account.started), moment(account.finished)
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


def _list(caption: str, columns: Sequence[str], items: Sequence[object], line: Callable[..., Sequence[object]]) -> Html:
    """A table with a line for each of `items`, cut where it is long."""
    shown = table(caption, columns, map(line, items[:LONGEST_LIST]))
    if len(items) <= LONGEST_LIST:
        return shown
    cut = f"The first {LONGEST_LIST:,} of {len(items):,} are shown; accounts.json beside this page has them all."
    return join([shown, tag("p", cut, class_="note")])


def _row_badge(state: str) -> Html:
    return badge(state, _ROW_STATES.get(state, _UNKNOWN)[0])


def _series_badge(state: str) -> Html:
    return badge(state, _SERIES_STATES.get(state, _UNKNOWN)[0])


def _keys(keys: Mapping[str, str]) -> Html:
    """The cells of a row; `bdi` keeps text that runs right to left from turning what is beside it."""
    pairs = (join([tag("span", column, class_="key"), " ", tag("bdi", value)]) for column, value in keys.items())
    return join(pairs, "<br>")


def _lines(numbers: Sequence[int]) -> str:
    """Line numbers, the first twenty of them."""
    shown = ", ".join(map(str, numbers[:20]))
    return shown + (f" and {len(numbers) - 20:,} more" if len(numbers) > 20 else "")


def _below(texts: Iterable[object]) -> list[Html]:
    """Small print, a line each."""
    return [tag("div", text, class_="below") for text in texts]


def _series_name(series: SeriesAccount, *, uids: bool = False) -> Html:
    """What a series is called: number and description, below it its folder and, if asked, its UIDs."""
    title = tag("bdi", " ".join(filter(None, (series.series_number, series.description))) or "no description")
    texts = [series.folder] if series.folder else []
    texts += [f"from {series.pacs}"] if series.pacs else []
    if uids:
        texts += [f"Study {series.study_uid}", f"Series {series.series_uid}"]
    return tag("div", title, *_below(texts), class_="name")


def _expected(series: SeriesAccount) -> object:
    return "not listed" if series.expected is None else series.expected


def _row_good(row: RowAccount) -> bool:
    return row.state in ROWS_ANSWERED


def _series_good(series: SeriesAccount) -> bool:
    return series.state in (SERIES_COMPLETE, SERIES_LISTED) and series.balanced


def _faults(account: RunAccount) -> str:
    """What keeps the run from being complete."""
    totals = account.totals()
    rows = sum(not _row_good(row) for row in account.rows)
    series = sum(not _series_good(s) for s in account.series)
    recalled = sum(s.state == SERIES_RECALLED for s in account.series)
    missing, unverifiable = int(totals["missing"]), int(totals["unverifiable"])
    faults = {
        f"{plural(rows, 'row')} did not end well": rows,
        f"{series:,} of {len(account.series):,} series are not complete": series,
        f"{recalled:,} series recalled by the archive, not yet there": recalled,
        f"{plural(missing, 'instance')} missing": missing,
        f"{plural(unverifiable, 'instance')} without an expectation to compare with": unverifiable,
        f"{plural(len(account.bad_files), 'file')} that could not be sent": len(account.bad_files),
    }
    return listed([words for words, count in faults.items() if count])


def _verdict(account: RunAccount, words: _Words) -> Html:
    """The verdict in words: what it means and what to do."""
    faults, totals = _faults(account), account.totals()
    empty, passed_over = sum(row.state == ROW_EMPTY for row in account.rows), sum(account.passed_over.values())
    if account.verdict == COMPLETE:
        word, what, todo = "Complete", words.complete, "Nothing is left to do."
        if empty:
            todo = f"Make sure that the {plural(empty, 'row')} that found nothing should be empty."
        if account.action == UPLOAD and not account.series:
            what, todo = "The folder holds no instance to send.", "Make sure that it is the right folder."
    elif account.verdict == INCOMPLETE:
        word = "Incomplete"
        what = f"The books balance, but not all that was asked for is proved to be there: {faults}."
        todo = f"Settle the reasons below and {words.again}."
    else:
        word, what = "Unbalanced", "The books do not balance: some instances are in no state, or in more than one."
        if faults:
            what += f" Also: {faults}."
        todo = f"{words.beware} Run it again; if the verdict stays, keep the run folder and have it looked into."
    if totals["warned"]:
        what += f" The destination took {plural(int(totals['warned']), 'instance')} with a warning, see below."
    if passed_over:
        what += f" {plural(passed_over, 'file was', 'files were')} passed over, see below."
    return verdict(account.verdict, word, what, todo)


def _facts(account: RunAccount) -> list[tuple[str, object]]:
    folder = Path(account.folder)
    # A folder is an absolute path; nothing else becomes a link.
    shown = link(account.folder, folder.as_uri()) if folder.is_absolute() else account.folder
    here = {
        SAVE: [("Source", account.pacs), ("Destination", shown)],
        NONE: [("Source", account.pacs), ("Retrieve", "none"), ("Log and dumps", shown)],
        MOVE: [("Source", account.pacs), ("Destination", account.destination), ("Log", shown)],
        UPLOAD: [("Source", shown), ("Destination", account.destination)],
    }
    return [
        ("Run", account.run),
        *here[account.action],
        ("Start", when(account.started)),
        ("End", when(account.finished)),
        ("Duration", _duration(_seconds(account))),
    ]


def _accounts(account: RunAccount, words: _Words) -> Html:
    totals = account.totals()
    without = sum(s.expected is None for s in account.series)
    handed_on = int(totals["handed_on"])
    empty = sum(row.state == ROW_EMPTY for row in account.rows)
    lines: list[tuple[object, object, object]] = []
    if account.action == UPLOAD:
        lines += [
            ("Passed over", sum(account.passed_over.values()), "files that are not to be sent"),
            ("Bad", len(account.bad_files), "files that could not be sent"),
        ]
    else:
        lines.append(("Asked", len(account.rows), f"rows of the query table; {empty:,} found nothing"))
        if several := int(totals["rows_with_several_studies"]):
            lines.append(("With several studies", several, "rows that found more than one study; all of them count"))
    expected = words.expected + (f"; none for {without:,} series" if without else "")
    lines += [
        ("Found", len(account.series), "series, each counted once"),
        ("Expected", int(totals["expected"]), expected),
        ("Already present", int(totals["present"]), f"instances that were {words.place} before"),
        *([("Handed on", handed_on, "instances delivered before, and removed since")] if handed_on else []),
        (words.arrived.capitalize(), int(totals["received"]), f"instances {words.arrived} in this run"),
        ("Missing", int(totals["missing"]), "expected instances that are not there"),
        *((_MORE[name][0], int(totals[name]), _MORE[name][2]) for name in words.more),
        (words.place.capitalize(), sum(s.delivered for s in account.series), "instances at the end"),
    ]
    if words.sizes:
        seconds = _seconds(account)
        rate = f"{totals['bytes'] / 1e6 / seconds:,.1f} MB/s" if seconds else "not known"
        lines += [
            (f"Bytes {words.arrived}", size(totals["bytes"]), f"{int(totals['bytes']):,} bytes"),
            ("Rate", rate, f"bytes {words.arrived} over the duration of the run"),
        ]
    shown = table("Accounts of the run", ("Account", "Count#", "What it counts"), lines)
    balance = tag("p", _balance(account, words), class_="balance")
    return beside(tag("div", shown, balance), _chart(account, words))


def _balance(account: RunAccount, words: _Words) -> str:
    # Series for which there is no expectation stand outside the balance.
    counted = [s for s in account.series if s.expected is not None]
    expected = sum(s.expected or 0 for s in counted)
    parts = [sum(getattr(s, name) for s in counted) for name in ("present", "received", "missing")]
    sign = "=" if expected == sum(parts) else "\u2260"
    return f"{expected:,} expected {sign} {parts[0]:,} present + {parts[1]:,} {words.arrived} + {parts[2]:,} missing"


def _chart(account: RunAccount, words: _Words) -> Html:
    """Bars that add up: rows (or files), series by state, instances by where they ended."""
    totals = {name: int(count) for name, count in account.totals().items()}
    if account.action == UPLOAD:
        passed_over, bad = sum(account.passed_over.values()), len(account.bad_files)
        files = [("to be sent", totals["expected"], "good"), ("passed over", passed_over, "empty"), ("bad", bad, "bad")]
        first = bar("Files", f"{sum(count for _, count, _ in files):,}", files)
    else:
        rows = [(n, count, _ROW_STATES.get(n, _UNKNOWN)[0]) for n, count in count_by(account.rows, "state").items()]
        first = bar("Rows asked", f"{len(account.rows):,}", rows)
    series = [(n, count, _SERIES_STATES.get(n, _UNKNOWN)[0]) for n, count in count_by(account.series, "state").items()]
    instances = [
        ("present", totals["present"], "good"),
        (words.arrived, totals["received"], "fresh"),
        ("missing", totals["missing"], "bad"),
        ("unverifiable", totals["unverifiable"], "doubt"),
        ("quarantined", totals["quarantined"], "apart"),
    ]
    return tag(
        "figure",
        first,
        bar("Series found", f"{len(account.series):,}", series),
        bar("Instances", f"{totals['expected']:,} expected", instances),
    )


def _modalities(account: RunAccount, words: _Words) -> Html:
    modalities: dict[str, list[SeriesAccount]] = {}
    for series in account.series:
        modalities.setdefault(series.modality or "not given", []).append(series)
    lines = [
        (
            name,
            len(group),
            sum(s.expected or 0 for s in group),
            sum(s.delivered for s in group),
            sum(s.missing for s in group),
            *([size(sum(s.bytes for s in group))] if words.sizes else []),
        )
        for name, group in sorted(modalities.items())
    ]
    sizes = [f"{words.arrived.capitalize()}#"] if words.sizes else []
    columns = ("Modality", "Series#", "Expected#", words.column, "Missing#", *sizes)
    return section("Per modality", "modality", table("Per modality", columns, lines))


def _row_states(account: RunAccount) -> Html:
    lines = [
        (_row_badge(state), count, _ROW_STATES.get(state, _UNKNOWN)[1])
        for state, count in count_by(account.rows, "state").items()
    ]
    return section("Per row state", "state", table("Per row state", ("State", "Rows#", "Meaning"), lines))


def _passed_over(account: RunAccount) -> Html:
    lines = sorted(account.passed_over.items(), key=lambda pair: (-pair[1], pair[0]))
    return section("Files passed over", "passed-over", table("Files passed over", ("Reason", "Files#"), lines))


def _attention(account: RunAccount, words: _Words) -> Html:
    """What did not end well, with reasons."""
    bad_rows = [row for row in account.rows if not _row_good(row)]
    contradictions = [tag("ul", *(tag("li", text) for text in account.discrepancies))] if account.discrepancies else []
    notes = [tag("ul", *(tag("li", text) for text in account.notes))] if account.notes else []
    parts = {
        "Contradictions in the books": contradictions,
        "How the query table was read": notes,
        "Series that are not complete": _unfinished(account, words),
        "Instances known to be missing": _missing(account),
        "Files that could not be sent": _bad_files(account),
        "Series that the destination took with a warning": _warned(account),
        "Rows that did not end well": [_rows_table("Rows that did not end well", bad_rows)] if bad_rows else [],
    }
    shown = [join([tag("h3", title), *content]) for title, content in parts.items() if content]
    return section("Needs attention", "attention", *shown) if shown else Html()


def _unfinished(account: RunAccount, words: _Words) -> list[Html]:
    series = [s for s in account.series if not _series_good(s)]
    keys = {row.line: row.keys for row in account.rows}
    columns = ("Series#", "Modality", "Name", "State", "Expected#", words.column, "Missing#", "Reason")

    def line(s: SeriesAccount) -> tuple[object, ...]:
        name = _series_name(s, uids=True)
        return s.number, s.modality, name, _series_badge(s.state), _expected(s), s.delivered, s.missing, _why(s, keys)

    return [_list("Series that are not complete", columns, series, line)] if series else []


def _warned(account: RunAccount) -> list[Html]:
    series = [s for s in account.series if s.warned]
    columns = ("Series#", "Modality", "Name", "With a warning#", "Reason")

    def line(s: SeriesAccount) -> tuple[object, ...]:
        return s.number, s.modality, _series_name(s, uids=True), s.warned, s.reason

    return [_list("Series that the destination took with a warning", columns, series, line)] if series else []


def _bad_files(account: RunAccount) -> list[Html]:
    files, columns = account.bad_files, ("File", "Reason")
    caption = "Files that could not be sent"
    return [_list(caption, columns, files, lambda file: (tag("bdi", file.path), file.reason))] if files else []


def _why(series: SeriesAccount, keys: Mapping[int, Mapping[str, str]]) -> Html:
    """Why a series is not complete, and who asked for it."""
    lines = [join([f"line {line}: ", _keys(keys.get(line, {}))]) for line in series.lines[:3]]
    asked = f"asked for by {len(series.lines):,} lines in all"
    return join(
        [
            series.reason or _SERIES_STATES.get(series.state, _UNKNOWN)[1],
            "" if series.balanced else tag("div", "its instances do not add up"),
            *_below([*lines, asked] if len(series.lines) > 3 else lines),
        ]
    )


def _missing(account: RunAccount) -> list[Html]:
    series = [s for s in account.series if s.missing_uids]
    columns = ("Series#", "Modality", "Name", "SOP Instance UIDs")

    def line(s: SeriesAccount) -> tuple[object, ...]:
        uids, more = s.missing_uids[:MOST_UIDS], len(s.missing_uids) - MOST_UIDS
        rest = [f"and {more:,} more, see accounts.json"] if more > 0 else []
        return s.number, s.modality, _series_name(s), join(_below([*uids, *rest]))

    return [_list("Instances known to be missing", columns, series, line)] if series else []


def _rows_table(caption: str, rows: Sequence[RowAccount]) -> Html:
    return _list(
        caption,
        ("Line#", "Asked for", "State", "Series#", "Reason and remarks"),
        rows,
        lambda row: (
            row.line,
            _keys(row.keys),
            _row_badge(row.state),
            _found(row),
            join(filter(None, [row.reason, *row.warnings]), "<br>"),
        ),
    )


def _found(row: RowAccount) -> object:
    if not row.series:
        return tag("span", "found nothing" if row.state == ROW_EMPTY else "none", class_="faint")
    return join([row.series, *_below([f"of {row.studies:,} studies"])]) if row.studies > 1 else row.series


def _rows(account: RunAccount) -> Html:
    empty = [row for row in account.rows if row.state == ROW_EMPTY]
    parts = [_rows_table("Rows of the query table", account.rows)]
    if empty:
        found = f"{plural(len(empty), 'row')} found nothing: the archive answered, and holds no such series. "
        where = f"{'Line' if len(empty) == 1 else 'Lines'} {_lines([row.line for row in empty])}."
        parts.insert(0, tag("p", found, where, class_="note"))
    return section("Rows of the query table", "rows", *parts)


def _all_series(account: RunAccount, words: _Words) -> Html:
    asked = account.action != UPLOAD
    columns = (
        "Series#",
        *(["Lines"] if asked else []),
        *("Modality", "Name", "State", "Expected#", "Present#", f"{words.arrived.capitalize()}#", "Missing#"),
        *(_MORE[name][1] for name in words.more),
        *(["Bytes#"] if words.sizes else []),
        *("Time#", "By"),
    )

    def line(s: SeriesAccount) -> tuple[object, ...]:
        return (
            s.number,
            *([_lines(s.lines)] if asked else []),
            s.modality,
            _series_name(s),
            _series_badge(s.state),
            _expected(s),
            s.present,
            s.received,
            s.missing,
            *(getattr(s, name) for name in words.more),
            *([size(s.bytes)] if words.sizes else []),
            _duration(s.seconds),
            tag("span", " and ".join(_SERVICES.get(way, way) for way in s.method.split(" and ")), class_="whole"),
        )

    return section("Series", "series", _list("All series", columns, account.series, line))
