"""Writes the report of a de-identification as one self-contained HTML file. It contains file names, which may identify
patients.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pacsifier_ops.base.files import storage_errors, write_atomic, write_json
from pacsifier_ops.base.words import plural
from pacsifier_ops.deid.books import DeidAccount
from pacsifier_ops.deid.identity import FOLDER, STUDY
from pacsifier_ops.deid.run import EXCLUDED, QUARANTINED, Store
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, UNBALANCED, headline
from pacsifier_ops.runs.folder import Run, slices
from pacsifier_ops.runs.pages import Bar, VerdictBox, page

#: Number of series per page of contact sheets.
SHEETS = 50

_KINDS = {COMPLETE: "good", INCOMPLETE: "bad", EXCLUDED: "doubt", QUARANTINED: "apart"}


def write(run: Run, account: DeidAccount, store: Store) -> None:
    """Write the report, and the pages with contact sheets.

    Raises:
        StorageError: one of them cannot be written.
    """
    with storage_errors("the state root"):
        sheets = write_sheets(run, account, store)
        write_atomic(run.report, render(account, sheets))


def write_sheets(run: Run, account: DeidAccount, store: Store) -> dict[int, str]:
    """Write the contact sheets of a run as pages of fifty series. Return the page by number of the series."""
    for old in run.folder.glob("contact-sheets-*.html"):
        old.unlink()
    looked_at = [s for s in account.series if (path := store.sheet(s.number)).exists() and path.stat().st_size]
    pages: dict[int, str] = {}
    listed: list[tuple[int, int, str]] = []
    for place, part in enumerate(slices(len(looked_at), -(-len(looked_at) // SHEETS)) if looked_at else (), 1):
        series = [looked_at[number] for number in part]
        name = f"contact-sheets-{place}.html"
        shown = page(
            "deid/templates/contact_sheets.html",
            run=account.run,
            first=series[0].number,
            last=series[-1].number,
            series=((s, b64encode(store.sheet(s.number).read_bytes()).decode()) for s in series),
        )
        write_atomic(run.folder / name, shown)
        pages |= {s.number: name for s in series}
        listed.append((series[0].number, series[-1].number, name))
    write_json(run.folder / "sheets.json", listed)  # see `outcome.sheets`
    return pages


def render(account: DeidAccount, sheets: Mapping[int, str]) -> str:
    """Return the report of a run as one HTML page (UTF-8).

    Args:
        account: the closed account.
        sheets: page with the contact sheet, by number of the series.
    """
    from pacsifier_ops.deid.exclusion import RULES

    totals = account.totals()
    parts = [
        ("de-identified", totals["deidentified"], "good"),
        ("excluded", totals["excluded"], "doubt"),
        ("quarantined", totals["quarantined"], "apart"),
        ("missing", totals["missing"], "bad"),
    ]
    sum_ = " + ".join(f"{count:,} {name}" for name, count, _ in parts)
    reasons = Counter((outcome, reason) for _, outcome, reason in account.set_apart)
    in_place = account.in_folder == account.out_folder
    folders = [("Source", account.in_folder), ("Destination", account.out_folder)]
    return page(
        "deid/templates/report.html",
        account=account,
        sheets=sheets,
        verdict=_verdict(account),
        in_place=in_place,
        folders=[
            (name, folder, Path(folder).as_uri())
            for name, folder in ([("Folder, in place", account.in_folder)] if in_place else folders)
        ],
        counts=_counts(totals),
        balance=f"{totals['objects']:,} objects = {sum_}",
        bar=Bar.of("Objects", f"{totals['objects']:,}", parts),
        kinds=_KINDS,
        reasons=sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])),
        # Purpose of each rule that keeps objects back, and how to let such objects pass.
        meanings={rule.name: f"{rule.why[:1].upper()}{rule.why[1:]}. {rule.todo}".strip() for rule in RULES},
        sources=_sources(account),
    )


def _verdict(account: DeidAccount) -> VerdictBox:
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
    elif account.verdict != UNBALANCED:
        word, what = (
            headline(account),
            f"{plural(totals['missing'], 'object')} could not be looked at, see below; {apart}.",
        )
        if not totals["missing"]:
            what = "No object is de-identified: all that might have been are in quarantine, see below."
        todo = "The folder counts as half de-identified and must not be handed over. Run it again into the same folder."
    else:
        word, what = "Unbalanced", "; ".join(account.discrepancies).capitalize() + "."
        todo = "Do not hand this data set over. Run it again; if the verdict stays, have it looked into."
    return VerdictBox(account.verdict, word, (what, todo))


def _counts(totals: Mapping[str, int]) -> list[tuple[str, int, str]]:
    """Return the lines of the account: name, count, and what is counted."""
    return [
        ("Patients", totals["patients"], "each under one pseudonym"),
        ("Series", totals["series"], "each counted once"),
        ("Objects", totals["objects"], "each in exactly one of the four states below"),
        ("De-identified", totals["deidentified"], "written, searched for identifiers, and in the data set"),
        ("Excluded", totals["excluded"], "by a named rule"),
        ("Quarantined", totals["quarantined"], "not fit, for a reason"),
        ("Missing", totals["missing"], "not looked at"),
        ("Passed over", totals["passed_over"], "files that are no objects"),
    ]


def _sources(account: DeidAccount) -> list[tuple[str, int]]:
    lines = [(f"Pseudonyms from {name}", count) for name, count in account.sources.items()]
    lines += [(f"Keys of {name} that name nobody of this folder", count) for name, count in account.strangers.items()]
    lines += [
        (f"Patients without PatientID, told by their {name}", account.told_by.get(name, 0)) for name in (FOLDER, STUDY)
    ]
    lines += [("Objects without PatientID, told by their folder or study", account.nameless)]
    lines = [(what, count) for what, count in lines if count]
    lines += [(f"Files passed over: {reason}", count) for reason, count in account.passed_over.items()]
    return lines
