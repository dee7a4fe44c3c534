"""The report of a study for the person who is responsible for the data, and its account as files. They name patients.

| file in the run's folder | content                                          |
|--------------------------|--------------------------------------------------|
| accounts.json            | the account of the whole study                   |
| rows.csv                 | a line per row of the query table                |
| series.csv               | a line per series                                |
| report.html              | the account for people                           |
| summary.json             | the result, in counts only                       |

Beside each CSV file lies the same table as Parquet (see `base.tables`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from pacsifier_ops import __version__
from pacsifier_ops.base.files import storage_errors, write_atomic
from pacsifier_ops.base.tables import INTEGER, TEXT, write_table
from pacsifier_ops.base.words import listed, plural, size
from pacsifier_ops.deid import card
from pacsifier_ops.deid.outcome import sheets as sheets_of
from pacsifier_ops.deid.run import EXCLUDED, QUARANTINED
from pacsifier_ops.pseudonyms.run import CUSTOM, DEID, LOCAL
from pacsifier_ops.runs.accounts import (
    COMPLETE,
    INCOMPLETE,
    ROW_EMPTY,
    ROW_FOUND,
    ROW_UNSELECTED,
    SERIES_UNVERIFIABLE,
    UNBALANCED,
    headline,
    plain_modality,
)
from pacsifier_ops.runs.flow import drawing, write_flow
from pacsifier_ops.runs.folder import Run, stage_folder
from pacsifier_ops.runs.job import write_accounts, write_summary
from pacsifier_ops.runs.pages import Bar, VerdictBox, left_to_do, page
from pacsifier_ops.study import run as stages
from pacsifier_ops.study.accounts import (
    DELIVERED,
    MISSING,
    RELEASED,
    SENDING,
    STATES,
    UNVERIFIABLE,
    StageAccount,
    StudyAccount,
    StudyRow,
    StudySeries,
)
from pacsifier_ops.study.chart import Dropout, Flow, Station, flow
from pacsifier_ops.study.project import KEEP, LIST
from pacsifier_ops.study.release import DEIDENTIFIED_FOLDER, RELEASED_FOLDER
from pacsifier_ops.study.run import NOT_ENDED, NOT_RUN, NOTHING_NEW, OFF
from pacsifier_ops.study.shown import decided, gate_counts, gate_findings, governed

#: Colour and meaning of each state of an instance.
KINDS = {
    DELIVERED: ("good", "released, and confirmed by every node that the study sends to"),
    EXCLUDED: ("listed", "left out by a named rule"),
    QUARANTINED: ("apart", "not fit to be handed over, for a reason"),
    MISSING: ("bad", "lost on the way, for a reason"),
    UNVERIFIABLE: ("doubt", "delivered, and no expectation of the archive covers it"),
}
_SERIES_KINDS = {COMPLETE: "good", INCOMPLETE: "bad", SERIES_UNVERIFIABLE: "doubt"}
_STAGE_KINDS = {COMPLETE: "good", INCOMPLETE: "doubt", OFF: "empty", NOTHING_NEW: "empty"}
_ROW_KINDS = {ROW_FOUND: "good", ROW_EMPTY: "empty", ROW_UNSELECTED: "empty"}

#: Names of the stages, for people.
STAGES = {RELEASED: "Release", **{name: stage.title for name, stage in stages.TABLE.items()}}

_SOURCES = {DEID: "of the De-ID service", CUSTOM: "of a mapping file", LOCAL: "of the project's secret"}


class State(NamedTuple):
    """The number of instances in a state. The kind gives the colour."""

    name: str
    kind: str
    instances: int
    meaning: str


class Reason(NamedTuple):
    """The number of instances that a stage lost for one reason, and their state. The kind gives the colour."""

    why: str
    state: str
    kind: str
    at: str
    instances: int


#: Columns of rows.csv after those of the query, and of series.csv, with their types.
ROW_COLUMNS = {
    "line": INTEGER,
    "state": TEXT,
    "series": INTEGER,
    "studies": INTEGER,
    "reason": TEXT,
    "expected": INTEGER,
    "received": INTEGER,
    "deidentified": INTEGER,
    "released": INTEGER,
    **dict.fromkeys(STATES, INTEGER),
}
SERIES_COLUMNS = {
    "number": INTEGER,
    "lines": TEXT,
    "patient": TEXT,
    "study_uid": TEXT,
    "series_uid": TEXT,
    "modality": TEXT,
    "series_number": TEXT,
    "description": TEXT,
    "folder": TEXT,
    "state": TEXT,
    "instances": INTEGER,
    "expected": INTEGER,
    "received": INTEGER,
    "new": INTEGER,
    "deidentified": INTEGER,
    "released": INTEGER,
    **dict.fromkeys(STATES, INTEGER),
    "reasons": TEXT,
    "became": TEXT,
    "new_uids": TEXT,
    "pseudonyms": TEXT,
}


def write_report(run: Run, account: StudyAccount) -> None:
    """Write account, tables, report and summary into the run's folder.

    Raises:
        StorageError: one of them cannot be written.
    """
    with storage_errors("the state root"):
        write_accounts(run.folder / "accounts.json", _head(account), rows=account.rows, series=account.series)
        names = list(dict.fromkeys(name for row in account.rows for name in row.keys))
        rows = ([*map(row.keys.get, names), *map(_cells_of_row(row).get, ROW_COLUMNS)] for row in account.rows)
        write_table(run.folder / "rows.csv", {**dict.fromkeys(names, TEXT), **ROW_COLUMNS}, rows)
        lines = (_cells_of_series(series) for series in account.series)
        write_table(run.folder / "series.csv", SERIES_COLUMNS, lines)
        write_flow(run.folder, account.flow)
        write_atomic(run.report, render(account, contact_sheets(run)))
    write_summary(run, account)


def _head(account: StudyAccount) -> dict[str, Any]:
    """Return the account without its lists of rows and series."""
    whole = {name: value for name, value in vars(account).items() if name not in ("rows", "series")}
    plain = {
        **whole,
        "stages": [asdict(stage) for stage in account.stages],
        "decisions": [asdict(decision) for decision in account.decisions],
        "released": asdict(account.released) if account.released else None,
        "removal": asdict(account.removal),
        "ended": asdict(account.ended) if account.ended else None,
        "flow": [asdict(line) for line in account.flow],
    }
    return {
        **plain,
        "verdict": account.verdict,
        "totals": account.totals(),
        "confirmed": account.confirmed(),
        "lost": [asdict(loss) for loss in account.losses()],
    }


def _cells_of_row(row: StudyRow) -> dict[str, Any]:
    left_out = (f"{count} left out: {why}" for why, count in row.left_out.items())
    remarks = "; ".join(filter(None, [row.reason, *row.warnings, *left_out]))
    own = {"line": row.line, "state": row.state, "series": row.series, "studies": row.studies, "reason": remarks}
    return {**own, **row.counts}


def _cells_of_series(series: StudySeries) -> list[Any]:
    cells: dict[str, Any] = {
        "lines": " ".join(map(str, series.lines)),
        "expected": "" if series.expected is None else series.expected,
        "reasons": "; ".join(f"{loss.instances} {loss.state}: {loss.reason}" for loss in series.lost),
        **{name: " ".join(getattr(series, name)) for name in ("became", "new_uids", "pseudonyms")},
    }
    return [cells[name] if name in cells else getattr(series, name) for name in SERIES_COLUMNS]


def contact_sheets(run: Run) -> list[tuple[int, int, str]]:
    """Return the pages with contact sheets of the de-identification.

    Returns:
        For each page, the first and the last series on it, as the de-identification numbers them, and its path below
        the run's folder.
    """
    folder = stage_folder(run, stages.ANONYMIZE)
    place = folder.relative_to(run.folder).as_posix()
    return [(one.first, one.last, f"{place}/{one.page}") for one in sheets_of(Run(folder))]


def render(account: StudyAccount, sheets: Sequence[tuple[int, int, str]] = ()) -> str:
    """Return the report of a study as one HTML page.

    Args:
        account: the closed account.
        sheets: see `contact_sheets`.
    """
    extract, nodes = account.stage(stages.EXTRACT), list(account.confirmed())
    several = nodes if len(nodes) > 1 else []
    folder = Path(account.folder)
    return page(
        "study/templates/report.html",
        **both(account),
        version=__version__,
        verdict=_verdict(account),
        archive=extract.connection or account.stage(stages.MOVE).connection,
        nodes=[account.stage(stage).connection for stage in SENDING if account.stage(stage).verdict != OFF],
        # Only an absolute path becomes a link.
        folder=folder.as_uri() if folder.is_absolute() else "",
        linker=_linker(account),
        chain=chain(account),
        flow=drawing(account.flow),
        state_bars=[state_bar(account), *_node_bars(account)],
        reasons=reasons(account),
        stage_names=STAGES,
        stage_kind=lambda stage: _STAGE_KINDS.get(stage.verdict, "bad"),
        what_now=_what_now,
        counts_of_stage=lambda stage: _counts(stage.totals),
        sheets=sheets,
        sheets_of=lambda series: _sheets_of(series, sheets),
        decisions=decided(account.decisions, account.asked),
        found=gate_findings(account.gate),
        removal=_removal(account),
        how=how_lines(account),
        row_kinds=_ROW_KINDS,
        series_kinds=_SERIES_KINDS,
        state_columns=[_head_of(state) for state in STATES],
        confirmed_columns=[f"{STAGES[stage]}#" for stage in several],
        counts_of_row=lambda row: [row.counts.get(name, 0) for name in ("expected", "received", "released", *STATES)],
        counts_of_series=lambda series: [
            *(series.confirmed.get(stage, 0) for stage in several),
            *(getattr(series, state) for state in STATES),
        ],
    )


def _linker(account: StudyAccount) -> str:
    """Return where the linker is, and how many rows it links."""
    rows, linked = account.linked
    there = "; without row ids and columns of others, beside the data" if account.released else ""
    return f"{linked:,} of {plural(rows, 'row')} linked to series of the data set, in {account.linker}{there}"


def _sheets_of(series: StudySeries, sheets: Sequence[tuple[int, int, str]]) -> list[str]:
    """Return the addresses of the contact sheets of a series."""
    return [
        f"{path}#series-{number}"
        for number in series.sources
        for first, last, path in sheets
        if series.deidentified and first <= number <= last
    ]


# Parts of both reports


def both(account: StudyAccount) -> dict[str, Any]:
    """Return the values that the templates of both reports need."""
    totals = account.totals()
    return {
        "account": account,
        "balance": balance(account),
        "states": [State(state, KINDS[state][0], totals[state], KINDS[state][1]) for state in STATES],
        "modality_bars": _modality_bars(account),
        "search": gate_counts(account.gate),
        "governed": governed(vars(account)),
        "card": card.shown(Path(account.folder) / data_set_of(account)) if account.deidentifies else None,
    }


def data_set_of(account: StudyAccount) -> str:
    """Return the name of the folder of the data set: what is released, or else what may be."""
    return RELEASED_FOLDER if account.released else DEIDENTIFIED_FOLDER


def chain(account: StudyAccount, *, inside: bool = True) -> Flow:
    """Return the drawing of the chain.

    Args:
        account: the closed account.
        inside: the drawing also says why instances were lost, and who approved the release. The hand-over report does
            not.
    """
    totals, lost = account.totals(), account.losses()
    count = totals["instances"]

    def between(*places: str) -> list[Dropout]:
        found = []
        for state in (MISSING, QUARANTINED, EXCLUDED):
            those = [loss for loss in lost if loss.at in places and loss.state == state]
            if count := sum(loss.instances for loss in those):
                why = [loss.reason if len(those) == 1 else f"{loss.instances:,}: {loss.reason}" for loss in those[:3]]
                if len(those) > 3:
                    why.append(f"and {plural(len(those) - 3, 'other reason')}")
                found.append(Dropout(KINDS[state][0], state, count, why if inside else ()))
        return found

    def station(name: str, before: Sequence[str], said: str = "", doubt: int = 0) -> Station:
        nonlocal count
        losses = between(*before)
        count -= sum(one.count for one in losses)
        return Station(name, count, said, losses, doubt)

    rows = []
    if account.queried:
        empty = sum(row.state == ROW_EMPTY for row in account.rows)
        bad = len(account.bad_rows)
        several = totals["rows_with_several_studies"]
        unselected = sum(row.state == ROW_UNSELECTED for row in account.rows)
        remarks = [f"{empty:,} found nothing" if empty else "", f"{bad:,} not answered" if bad else ""]
        remarks.append(f"{unselected:,} selected nothing" if unselected else "")
        remarks.append(f"{several:,} found several studies" if several else "")
        rows.append(Station("Asked", None, ", ".join(filter(None, remarks)), head=plural(len(account.rows), "row")))
    found = Station("Found", None, f"of {plural(totals['patients'], 'patient')}", head=f"{totals['series']:,} series")
    beside_ = totals["instances"] - totals["expected"]
    expected = Station("Expected", count, f"{beside_:,} of them beyond what is listed" if beside_ else "instances")
    through = [*rows, found, expected]
    straight = account.stage(stages.EXTRACT).verdict == OFF and not account.deidentifies
    if account.stage(stages.EXTRACT).verdict != OFF:
        before = totals["received"] - totals["new"]
        new = f"{totals['new']:,} new, {before:,} from before" if before else "all of them new"
        through.append(station("Received", [stages.EXTRACT], new if totals["received"] else ""))
    if account.deidentifies:
        people = len({name for one in account.series for name in one.pseudonyms})
        through.append(
            station("De-identified", [stages.ANONYMIZE], f"of {plural(people, 'patient')}" if people else "")
        )
    if not straight:
        by = f"by {account.released.by}" if account.released and inside else ""
        through.append(station("Released" if account.deidentifies else "Approved", [stages.RELEASE_TO, RELEASED], by))
    doubt = totals[UNVERIFIABLE]
    nodes = [account.stage(stage).connection for stage in account.confirmed()]
    node = f"confirmed by {listed(nodes) if inside else plural(len(nodes), 'node')}" if nodes else "to the folder"
    node = f"{doubt:,} of them unverifiable" if doubt else node
    through.append(station("Delivered", SENDING[1:], node if count else "", doubt))
    return flow(through)


def balance(account: StudyAccount) -> str:
    """Return the sum of the states as a sentence."""
    totals = account.totals()
    parts = [f"{totals[state]:,} {state}" for state in STATES if totals[state] or state != UNVERIFIABLE]
    sign = "=" if totals["instances"] == sum(totals[state] for state in STATES) else "\u2260"
    text = f"{plural(totals['instances'], 'instance')} {sign} {' + '.join(parts)}"
    if account.beyond:
        text += f"; besides, the data set holds {account.beyond:,} that this query does not ask for"
    return text


def state_bar(account: StudyAccount) -> Bar:
    """Return a bar of the instances by state."""
    totals = account.totals()
    parts = [(state, totals[state], KINDS[state][0]) for state in STATES]
    return Bar.of("Instances", f"{totals['instances']:,}", parts)


def _node_bars(account: StudyAccount) -> Iterator[Bar]:
    """Yield a bar of confirmed instances for each node."""
    totals = account.totals()
    for stage, count in account.confirmed().items():
        open_ = totals["released"] - count if account.deidentifies else totals["instances"] - count
        parts = [("confirmed", count, "good"), ("not confirmed", max(0, open_), "bad")]
        yield Bar.of(f"{STAGES[stage]}, {account.stage(stage).connection}", f"{count:,}", parts)


def _modality_bars(account: StudyAccount) -> list[Bar]:
    """Return a bar of the instances by state for each modality, that with most series first."""
    groups: dict[str, list[StudySeries]] = {}
    for series in account.series:
        groups.setdefault(plain_modality(series.modality) or "not given", []).append(series)
    bars = []
    for name, group in sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        parts = [(state, sum(getattr(series, state) for series in group), KINDS[state][0]) for state in STATES]
        head = f"{len(group):,} series, {plural(sum(series.instances for series in group), 'instance')}"
        bars.append(Bar.of(name, head, parts))
    return bars


def reasons(account: StudyAccount, say: Callable[[Any], str] = lambda loss: str(loss.reason)) -> list[Reason]:
    """Return the instances that are not delivered, by reason.

    Args:
        say: returns the reason of a loss in the words of this report.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    for loss in account.losses():
        counts[say(loss), loss.state, STAGES[loss.at]] += loss.instances
    ordered = sorted(counts.items(), key=lambda item: (STATES.index(item[0][1]), -item[1], item[0]))
    return [Reason(why, state, KINDS[state][0], at, count) for (why, state, at), count in ordered]


# Parts of this report


def _verdict(account: StudyAccount) -> VerdictBox:
    totals = account.totals()
    apart = listed([f"{totals[state]:,} {state}" for state in (EXCLUDED, QUARANTINED) if totals[state]])
    if account.verdict == COMPLETE:
        word = "Complete"
        what = f"Every row was answered, and {plural(totals['delivered'], 'instance is', 'instances are')} delivered"
        what += f"; {apart}, each for a reason." if apart else ", all that the archive lists."
        todo = left_to_do(sum(row.state == ROW_EMPTY for row in account.rows))
        if totals["quarantined"]:
            todo = "Find out why objects are in quarantine, or do without them."
        if not account.series:
            what, todo = "The archive was asked, and holds nothing of what was asked for.", "Check that this is right."
    elif account.verdict != UNBALANCED:
        word = headline(account)
        what = f"The accounts balance, but not all that was asked for is delivered: {_faults(account)}."
        todo = "Mend what the reasons below name, and run the study again: only what is missing is done."
    else:
        word, what = (
            "Unbalanced",
            "The accounts do not balance: instances are in no state, or records contradict each other.",
        )
        todo = "Do not rely on this data set. Run the study again; if the verdict stays, ask for help."
    return VerdictBox(account.verdict, word, (what, todo))


def _faults(account: StudyAccount) -> str:
    totals = account.totals()
    # What these stages did not do is said by the missing instances.
    said = (stages.EXTRACT, *SENDING) if totals["missing"] else ()
    bad = [STAGES[stage.stage].lower() for stage in account.bad_stages if stage.stage not in said]
    unlisted = sum(series.expected is None for series in account.series)
    faults = {
        f"{plural(len(account.bad_rows), 'row')} could not be answered": len(account.bad_rows),
        f"{plural(totals['missing'], 'instance')} missing": totals["missing"],
        f"{plural(totals['unverifiable'], 'instance')} unverifiable": totals["unverifiable"],
        f"{unlisted:,} series without an expectation": unlisted,
        f"nothing delivered, {totals['quarantined']:,} in quarantine": totals["quarantined"] > totals["delivered"] == 0,
        f"not complete: {', '.join(bad)}": len(bad),
        "the report for whoever gets the data held back": account.held_back,
    }
    return listed([words for words, count in faults.items() if count])


def _what_now(stage: StageAccount) -> str:
    if stage.verdict in (NOT_RUN, NOT_ENDED):
        return "see the log of its tasks in Airflow, or what it waits for"
    return "see its report"


_NAMES = {"deidentified": "de-identified"}


def _counts(totals: Mapping[str, float]) -> str:
    """Return the counts of a stage that are not zero, without bytes."""
    shown = {name: count for name, count in totals.items() if count and name not in ("bytes", "verdict")}
    return ", ".join(f"{int(count):,} {_NAMES.get(name, name.replace('_', ' '))}" for name, count in shown.items())


def _removal(account: StudyAccount) -> list[tuple[str, int, str]]:
    """Return lines on the removal of the identified copy: words, number of files, size; none if it is kept."""
    removal = account.removal
    if removal.asked == KEEP:
        return []
    may = "would go" if removal.asked == LIST else "may go"
    lines: list[tuple[str, int, str]] = [
        (f"Verified as delivered: {may}", removal.listed, size(removal.bytes)),
        *((f"Stay: {reason}", count, "") for reason, count in removal.stay.items()),
        ("Went in earlier runs", removal.handed_on, ""),
    ]
    if removal.asked != LIST:
        lines += [
            ("Removed in this run", removal.removed, size(removal.removed_bytes)),
            ("Kept, for they changed", removal.kept, ""),
        ]
    if removal.lost:
        lines.append(("Went, and are not in the data set any more", removal.lost, "fetch them again"))
    return lines


def how_lines(account: StudyAccount) -> list[tuple[str, object]]:
    """Return lines on the rules of the de-identification: name and value."""
    return [
        ("Profile", account.profile),
        ("Digest of its rules", account.rules or "not known"),
        ("Method", account.method or "not known: the profile has changed since"),
        *((f"{value}, {scheme}", meaning) for value, scheme, meaning in account.codes),
        ("Options", ", ".join(account.options) or "none"),
        *([("Pseudonyms", _SOURCES[account.source])] if account.source else []),
        *((f"Patients known by {name}", f"{count:,}") for name, count in account.sources.items()),
    ]


def _head_of(state: str) -> str:
    """Return the head of a narrow column of numbers for a state."""
    return {QUARANTINED: "Quaran\u00adtined", UNVERIFIABLE: "Unveri\u00adfiable"}.get(state, state.capitalize()) + "#"
