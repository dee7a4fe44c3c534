"""The report of a de-identification as one HTML file that stands alone. It names files, and so patients."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pacsifier_ops.base.files import storage_errors, write_atomic
from pacsifier_ops.deid.books import Account, DeidSeries
from pacsifier_ops.deid.run import EXCLUDED, QUARANTINED, Store
from pacsifier_ops.deid.whose import FOLDER, STUDY
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.runs.folder import Run, slices
from pacsifier_ops.runs.html import (
    Html,
    badge,
    bar,
    beside,
    facts,
    link,
    page,
    plural,
    section,
    table,
    tag,
    verdict,
    when,
)

#: Lines shown of a list; accounts.json has them all.
LONGEST_LIST = 2000
#: Series per page of contact sheets.
SHEETS = 50

_KINDS = {COMPLETE: "good", INCOMPLETE: "bad", EXCLUDED: "doubt", QUARANTINED: "apart"}


def write(run: Run, account: Account, store: Store) -> None:
    """Write the report, and pages with the contact sheets.

    Raises:
        StorageError: one of them cannot be written.
    """
    with storage_errors("the state root"):
        sheets = write_sheets(run, account, store)
        write_atomic(run.report, render(account, sheets))


def write_sheets(run: Run, account: Account, store: Store) -> dict[int, str]:
    """Write the contact sheets of a run as pages of fifty series; returns the page by the series' number."""
    for old in run.folder.glob("contact-sheets-*.html"):
        old.unlink()
    shown = [s for s in account.series if (path := store.sheet(s.number)).exists() and path.stat().st_size]
    pages: dict[int, str] = {}
    for place, part in enumerate(slices(len(shown), -(-len(shown) // SHEETS)) if shown else (), 1):
        series = [shown[number] for number in part]
        name = f"contact-sheets-{place}.html"
        sections = (_sheet(s, store.sheet(s.number).read_bytes()) for s in series)
        footer = "Burned-in text may tell who it is: keep this page with the identified data."
        heading = f"Contact sheets, series {series[0].number} to {series[-1].number}"
        write_atomic(run.folder / name, page(f"Contact sheets of run {account.run}", heading, *sections, footer=footer))
        pages |= {s.number: name for s in series}
    return pages


def _sheet(series: DeidSeries, sheet: bytes) -> Html:
    picture = Html(
        f'<img src="data:image/png;base64,{b64encode(sheet).decode()}" alt="Frames of series {series.number}" '
        'style="max-width: 100%">'
    )
    title = f"Series {series.number}{', ' + series.modality if series.modality else ''}"
    return section(title, f"series-{series.number}", tag("p", tag("bdi", series.folder), class_="note"), picture)


def render(account: Account, sheets: Mapping[int, str]) -> str:
    """The report of a run as one HTML page (UTF-8), from its closed accounts.

    Args:
        sheets: page with the contact sheet, by the series' number.
    """
    return page(
        f"De-identification run {account.run}: {account.verdict}",
        "De-identification",
        section("Accounts", "accounts", _accounts(account)),
        _set_apart(account),
        beside(_rules(account), _sources(account)),
        section("Series", "series", _series(account.series, sheets)),
        lead=(_verdict(account), facts(_facts(account))),
        footer="Objects count once. This report names files of the identified data: keep it with them.",
    )


def _verdict(account: Account) -> Html:
    totals = account.totals()
    apart = f"{totals['excluded']:,} excluded by rule, {totals['quarantined']:,} in quarantine"
    if account.verdict == COMPLETE:
        word, what = (
            "Complete",
            f"Of {plural(totals['objects'], 'object')} {totals['deidentified']:,} are de-identified; {apart}.",
        )
        todo = "Look at the contact sheets for burned-in text before the data set is handed over."
        if totals["quarantined"]:
            todo = "Settle the reasons of what is in quarantine, or do without. " + todo
    elif account.verdict == INCOMPLETE:
        word, what = "Incomplete", f"{plural(totals['missing'], 'object')} could not be looked at, see below; {apart}."
        if not totals["missing"]:
            what = "No object is de-identified: all that might have been are in quarantine, see below."
        todo = "The folder counts as half de-identified and must not be handed over. Run it again into the same folder."
    else:
        word, what = "Unbalanced", "; ".join(account.discrepancies).capitalize() + "."
        todo = "Do not hand this data set over. Run it again; if the verdict stays, have it looked into."
    return verdict(account.verdict, word, what, todo)


def _facts(account: Account) -> list[tuple[str, object]]:
    in_place = account.in_folder == account.out_folder
    folders = [("Folder, in place", account.in_folder)] if in_place else []
    folders = folders or [("Source", account.in_folder), ("Destination", account.out_folder)]
    return [
        ("Run", account.run),
        *((name, link(folder, Path(folder).as_uri())) for name, folder in folders),
        ("Profile", account.profile),
        ("Dates", account.dates),
        ("Rules", account.digest[:16]),
        ("Start", when(account.started)),
        ("End", when(account.finished)),
        ("Linkage", account.linkage),
        *([("Put apart", account.apart)] if in_place else []),
    ]


def _accounts(account: Account) -> Html:
    totals = account.totals()
    lines = [
        ("Patients", totals["patients"], "each under one pseudonym"),
        ("Series", totals["series"], "each counted once"),
        ("Objects", totals["objects"], "each in exactly one of the four states below"),
        ("De-identified", totals["deidentified"], "written, searched for identifiers, and in the data set"),
        ("Excluded", totals["excluded"], "by a named rule"),
        ("Quarantined", totals["quarantined"], "not fit, for a reason"),
        ("Missing", totals["missing"], "not looked at"),
        ("Passed over", totals["passed_over"], "files that are no objects"),
    ]
    parts = [
        ("de-identified", totals["deidentified"], "good"),
        ("excluded", totals["excluded"], "doubt"),
        ("quarantined", totals["quarantined"], "apart"),
        ("missing", totals["missing"], "bad"),
    ]
    sum_ = " + ".join(f"{count:,} {name}" for name, count, _ in parts)
    balance = tag("p", f"{totals['objects']:,} objects = {sum_}", class_="balance")
    shown = table("Accounts of the run", ("Account", "Count#", "What it counts"), lines)
    return beside(tag("div", shown, balance), tag("figure", bar("Objects", f"{totals['objects']:,}", parts)))


def _set_apart(account: Account) -> Html:
    if not account.set_apart:
        return Html()
    reasons: dict[tuple[str, str], int] = {}
    for _, outcome, reason in account.set_apart:
        reasons[outcome, reason] = reasons.get((outcome, reason), 0) + 1
    ordered = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    meanings = _meanings()
    counted = _list(
        "By reason",
        ("Reason", "State", "Objects#"),
        ordered,
        lambda item: (_explained(item[0][1], meanings), _badge(item[0][0]), item[1]),
    )
    each = _list(
        "Objects that are not in the data set",
        ("File", "State", "Reason"),
        account.set_apart,
        lambda item: (tag("bdi", item[0]), _badge(item[1]), item[2]),
    )
    return section("Not in the data set", "set-apart", counted, tag("h3", "Each of them"), each)


def _meanings() -> dict[str, str]:
    """What each rule that keeps objects back is for, and what lets such objects pass."""
    from pacsifier_ops.deid.exclusion import RULES

    return {rule.name: f"{rule.why[:1].upper()}{rule.why[1:]}. {rule.todo}".strip() for rule in RULES}


def _explained(reason: str, meanings: Mapping[str, str]) -> Html:
    meaning = meanings.get(reason, "")
    return Html(tag("div", reason) + (tag("div", meaning, class_="below") if meaning else Html()))


def _rules(account: Account) -> Html:
    shown = _list("Rules applied", ("Rule", "Times#"), list(account.rules.items()), lambda item: item)
    return section("Rules applied", "rules", tag("p", account.method, class_="note"), shown)


def _sources(account: Account) -> Html:
    lines = [(f"Pseudonyms from {name}", count) for name, count in account.sources.items()]
    lines += [(f"Keys of {name} that name nobody of this folder", count) for name, count in account.strangers.items()]
    lines += [
        (f"Patients without PatientID, told by their {name}", account.told_by.get(name, 0)) for name in (FOLDER, STUDY)
    ]
    lines += [("Objects without PatientID, told by their folder or study", account.nameless)]
    lines = [(what, count) for what, count in lines if count]
    lines += [(f"Files passed over: {reason}", count) for reason, count in account.passed_over.items()]
    return section("Sources", "sources", table("Sources", ("What", "Count#"), lines))


def _series(series: Sequence[DeidSeries], sheets: Mapping[int, str]) -> Html:
    columns = (
        "Series#",
        "Modality",
        "Folder",
        "State",
        "De-identified#",
        "Excluded#",
        "Quaran\u00adtined#",
        "Missing#",
    )

    def line(s: DeidSeries) -> tuple[object, ...]:
        below = [tag("div", text, class_="below") for text in (f"from {s.source}", s.reason) if text]
        if s.number in sheets:
            below.append(tag("a", "contact sheet", href=f"{sheets[s.number]}#series-{s.number}"))
        name = tag("div", tag("bdi", s.folder), *below, class_="name")
        return s.number, s.modality, name, _badge(s.state), s.deidentified, s.excluded, s.quarantined, s.missing

    return _list("All series", columns, series, line)


def _badge(word: str) -> Html:
    return badge(word, _KINDS.get(word, "bad"))


def _list(caption: str, columns: Sequence[str], items: Sequence[object], line: Callable[..., Iterable[object]]) -> Html:
    """A table with a line for each of `items`, cut where it is long."""
    shown = table(caption, columns, (tuple(line(item)) for item in items[:LONGEST_LIST]))
    if len(items) <= LONGEST_LIST:
        return shown
    cut = f"The first {LONGEST_LIST:,} of {len(items):,} are shown; accounts.json beside this page has them all."
    return Html(shown + tag("p", cut, class_="note"))
