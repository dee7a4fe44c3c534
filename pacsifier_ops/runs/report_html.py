"""The report of a run as one self-contained HTML file. It names patients and belongs to the identified data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pacsifier_ops.base.words import listed, moment, plural, size
from pacsifier_ops.runs.accounts import (
    COMPLETE,
    MOVE,
    NONE,
    ROW_BAD,
    ROW_CONFLICT,
    ROW_EMPTY,
    ROW_FAILED,
    ROW_FOUND,
    ROW_UNDECIDABLE,
    ROW_UNSELECTED,
    ROWS_ANSWERED,
    SAVE,
    SERIES_COMPLETE,
    SERIES_FAILED,
    SERIES_INCOMPLETE,
    SERIES_LISTED,
    SERIES_RECALLED,
    SERIES_UNVERIFIABLE,
    UNBALANCED,
    UPLOAD,
    RowAccount,
    RunAccount,
    SeriesAccount,
    count_by,
    headline,
)
from pacsifier_ops.runs.flow import drawing
from pacsifier_ops.runs.pages import Bar, VerdictBox, left_to_do, page

#: Maximum number of UIDs shown for a series; accounts.json has all.
MOST_UIDS = 20


class _State(NamedTuple):
    """How the report shows a state: the kind of its badge, which gives the colour, and its meaning."""

    kind: str
    meaning: str


_ROW_STATES = {
    ROW_FOUND: _State("good", "series match the row"),
    ROW_EMPTY: _State("empty", "the archive answered: nothing matches the row"),
    ROW_UNSELECTED: _State("empty", "series match the row, and the selection leaves all of them out"),
    ROW_BAD: _State("bad", "the row cannot be used as it is written"),
    ROW_UNDECIDABLE: _State("bad", "the answers of the archive do not show whether they match the row"),
    ROW_CONFLICT: _State("bad", "the row contradicts another source or row"),
    ROW_FAILED: _State("bad", "asking the archive failed"),
}
_SERIES_STATES = {
    SERIES_COMPLETE: _State("good", "every expected instance is where it should be"),
    SERIES_LISTED: _State("listed", "listed, not to be fetched"),
    SERIES_UNVERIFIABLE: _State("doubt", "the archive gives no expectation to compare with"),
    SERIES_RECALLED: _State("doubt", "the archive recalls it from slow storage, and it is not yet there"),
    SERIES_INCOMPLETE: _State("bad", "expected instances are missing"),
    SERIES_FAILED: _State("bad", "the series could not be transferred"),
}
_UNKNOWN = _State("bad", "")
_SERVICES = {"get": "C-GET", "move": "C-MOVE", "store": "C-STORE"}


@dataclass(frozen=True)
class _Words:
    """The words of the report for an action.

    Attributes:
        name, heading: of the run.
        arrived: what happened to instances in this run.
        place: the target of the instances.
        column: heading of the number of instances at the target.
        expected: meaning of the expected number.
        complete: sentence of the verdict `complete`.
        again: what to do after an incomplete run.
        beware: what not to do after an unbalanced run.
        more: further counts of a series, keys of _MORE.
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
        sizes=False,  # the archive sends the objects to the destination directly
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


class _Count(NamedTuple):
    """A count of a series: its name, its name in a narrow heading, and its meaning."""

    name: str
    column: str
    meaning: str


_MORE = {
    "unverifiable": _Count("Unverifiable", "Unverifi\u00adable#", "instances that no expectation covers"),
    "quarantined": _Count("Quarantined", "Quaran\u00adtined#", "instances kept out of the data set"),
    "warned": _Count("With a warning", "With a warning#", "instances that the destination accepted with a warning"),
}


def render(account: RunAccount) -> str:
    """Return the report of a run as HTML, from its closed account."""
    words, folder = _WORDS[account.action], Path(account.folder)
    return page(
        "runs/templates/report.html",
        account=account,
        words=words,
        arrived=words.arrived.capitalize(),
        asked=account.action != UPLOAD,
        verdict=_verdict(account, words),
        # Only an absolute path becomes a link.
        folder=folder.as_uri() if folder.is_absolute() else "",
        places=_places(account),
        seconds=_seconds(account),
        counts=_counts(account, words),
        balance=_balance(account, words),
        bars=_bars(account, words),
        unfinished=[s for s in account.series if not _series_good(s)],
        missing=[s for s in account.series if s.missing_uids],
        warned=[s for s in account.series if s.warned],
        bad_rows=[row for row in account.rows if not _row_good(row)],
        empty=[row.line for row in account.rows if row.state == ROW_EMPTY],
        modalities=_modalities(account, words),
        row_counts=list(count_by(account.rows, "state").items()),
        flow=drawing(account.flow),
        unselected=[row.line for row in account.rows if row.state == ROW_UNSELECTED],
        passed_over=sorted(account.passed_over.items(), key=lambda pair: (-pair[1], pair[0])),
        more=[_MORE[name].column for name in words.more],
        more_of=lambda series: [getattr(series, name) for name in words.more],
        keys={row.line: row.keys for row in account.rows},
        row_state=_row_state,
        row_empty=ROW_EMPTY,
        series_state=_series_state,
        most_uids=MOST_UIDS,
        services=lambda method: " and ".join(_SERVICES.get(way, way) for way in method.split(" and ")),
    )


def _row_state(name: str) -> _State:
    return _ROW_STATES.get(name, _UNKNOWN)


def _series_state(name: str) -> _State:
    return _SERIES_STATES.get(name, _UNKNOWN)


def _seconds(account: RunAccount) -> float | None:
    """Return the wall time of the run in seconds; None if its two times cannot be compared."""
    start, end = moment(account.started), moment(account.finished)
    if start is None or end is None or (start.tzinfo is None) != (end.tzinfo is None):
        return None
    return max(0.0, (end - start).total_seconds())


def _row_good(row: RowAccount) -> bool:
    return row.state in ROWS_ANSWERED


def _series_good(series: SeriesAccount) -> bool:
    return series.state in (SERIES_COMPLETE, SERIES_LISTED) and series.balanced


def _faults(account: RunAccount) -> str:
    """Return what makes the run incomplete, in words; empty if nothing does."""
    totals = account.totals()
    rows = sum(not _row_good(row) for row in account.rows)
    series = sum(not _series_good(s) for s in account.series)
    recalled = sum(s.state == SERIES_RECALLED for s in account.series)
    missing, unverifiable = int(totals["missing"]), int(totals["unverifiable"])
    faults = {
        f"{plural(rows, 'row')} without a usable answer": rows,
        f"{series:,} of {len(account.series):,} series are not complete": series,
        f"{recalled:,} series recalled by the archive, not yet there": recalled,
        f"{plural(missing, 'instance')} missing": missing,
        f"{plural(unverifiable, 'instance')} without an expectation to compare with": unverifiable,
        f"{plural(len(account.bad_files), 'file')} that could not be sent": len(account.bad_files),
    }
    return listed([words for words, count in faults.items() if count])


def _verdict(account: RunAccount, words: _Words) -> VerdictBox:
    """Return the verdict, its meaning, and what to do."""
    faults, totals = _faults(account), account.totals()
    empty, passed_over = sum(row.state == ROW_EMPTY for row in account.rows), sum(account.passed_over.values())
    if account.verdict == COMPLETE:
        word, what, todo = "Complete", words.complete, left_to_do(empty)
        if account.action == UPLOAD and not account.series:
            what, todo = "The folder holds no instance to send.", "Make sure that it is the right folder."
    elif account.verdict != UNBALANCED:
        word = headline(account)
        what = f"Every instance is in one state, but not all that was asked for is proved to be there: {faults}."
        todo = f"Settle the reasons below and {words.again}."
    else:
        word, what = "Unbalanced", "The account does not balance: some instances are in no state, or in more than one."
        if faults:
            what += f" Also: {faults}."
        todo = f"{words.beware} Run it again; if the verdict stays, keep the run folder and have it looked into."
    if totals["warned"]:
        what += f" The destination accepted {plural(int(totals['warned']), 'instance')} with a warning, see below."
    if passed_over:
        what += f" {plural(passed_over, 'file was', 'files were')} passed over, see below."
    return VerdictBox(account.verdict, word, (what, todo))


def _places(account: RunAccount) -> list[tuple[str, str]]:
    """Return source and destination, as names and values."""
    folder, pacs, destination = account.folder, account.pacs, account.destination
    for name, giver in account.givers.items():
        pacs += f"; images of {name} from {giver}"
    return {
        SAVE: [("Source", pacs), ("Destination", folder)],
        NONE: [("Source", pacs), ("Retrieve", "none"), ("Log and dumps", folder)],
        MOVE: [("Source", pacs), ("Destination", destination), ("Log", folder)],
        UPLOAD: [("Source", folder), ("Destination", destination)],
    }[account.action]


def _counts(account: RunAccount, words: _Words) -> list[tuple[object, object, object]]:
    """Return the lines of the account: name, count, meaning."""
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
        if account.selection:
            lines += _selected(account)
        if several := int(totals["rows_with_several_studies"]):
            more = (
                "of which more than one study was selected" if account.selection else "that found more than one study"
            )
            lines.append(("With several studies", several, f"rows {more}; all of them count"))
    expected = words.expected + (f"; none for {without:,} series" if without else "")
    lines += [
        ("Found", len(account.series), "series, each counted once"),
        ("Expected", int(totals["expected"]), expected),
        ("Already present", int(totals["present"]), f"instances that were {words.place} before"),
        *([("Handed on", handed_on, "instances delivered before, and removed since")] if handed_on else []),
        (words.arrived.capitalize(), int(totals["received"]), f"instances {words.arrived} in this run"),
        ("Missing", int(totals["missing"]), "expected instances that are not there"),
        *((_MORE[name].name, int(totals[name]), _MORE[name].meaning) for name in words.more),
        (words.place.capitalize(), sum(s.delivered for s in account.series), "instances at the end"),
    ]
    if words.sizes:
        seconds = _seconds(account)
        rate = f"{size(totals['bytes'] / seconds)}/s" if seconds else "not known"
        lines += [
            (f"Bytes {words.arrived}", size(totals["bytes"]), f"{int(totals['bytes']):,} bytes"),
            ("Rate", rate, f"bytes {words.arrived} over the duration of the run"),
        ]
    return lines


def _selected(account: RunAccount) -> list[tuple[object, object, object]]:
    """Return the lines of the account about the selection."""
    none, out = count_by(account.rows, "state").get(ROW_UNSELECTED, 0), int(account.totals()["left_out"])
    lines: list[tuple[object, object, object]] = [
        ("Nothing selected", none, "rows that found series, all of which the selection leaves out"),
        ("Left out", out, "series of rows that the selection leaves out, by the rules below"),
    ]
    if undecided := account.selection["undecided"]:
        lines.append(("Undecided", undecided, "series of rows selected although an exclude was undecided"))
    return lines


def _balance(account: RunAccount, words: _Words) -> str:
    # Series without an expectation do not count.
    counted = [s for s in account.series if s.expected is not None]
    expected = sum(s.expected or 0 for s in counted)
    parts = [sum(getattr(s, name) for s in counted) for name in ("present", "received", "missing")]
    sign = "=" if expected == sum(parts) else "\u2260"
    return f"{expected:,} expected {sign} {parts[0]:,} present + {parts[1]:,} {words.arrived} + {parts[2]:,} missing"


def _bars(account: RunAccount, words: _Words) -> list[Bar]:
    """Return the bars: rows by state (or files), series by state, instances by state."""
    totals = {name: int(count) for name, count in account.totals().items()}
    if account.action == UPLOAD:
        passed_over, bad = sum(account.passed_over.values()), len(account.bad_files)
        files = [("to be sent", totals["expected"], "good"), ("passed over", passed_over, "empty"), ("bad", bad, "bad")]
        first = Bar.of("Files", f"{sum(count for _, count, _ in files):,}", files)
    else:
        rows = [(name, count, _row_state(name).kind) for name, count in count_by(account.rows, "state").items()]
        first = Bar.of("Rows asked", f"{len(account.rows):,}", rows)
    series = [(name, count, _series_state(name).kind) for name, count in count_by(account.series, "state").items()]
    instances = [
        ("present", totals["present"], "good"),
        (words.arrived, totals["received"], "fresh"),
        ("missing", totals["missing"], "bad"),
        ("unverifiable", totals["unverifiable"], "doubt"),
        ("quarantined", totals["quarantined"], "apart"),
    ]
    return [
        first,
        Bar.of("Series found", f"{len(account.series):,}", series),
        Bar.of("Instances", f"{totals['expected']:,} expected", instances),
    ]


def _modalities(account: RunAccount, words: _Words) -> list[tuple[Any, ...]]:
    modalities: dict[str, list[SeriesAccount]] = {}
    for series in account.series:
        modalities.setdefault(series.modality or "not given", []).append(series)
    return [
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
