"""The hand-over report: it goes with the data set, and says what is in it, how it was made, what is not in it and why.

| file                       | content                                                                   |
|----------------------------|---------------------------------------------------------------------------|
| report.html                | the report for people                                                     |
| accounts.json              | the same for programs                                                     |
| series.csv, series.parquet | a line per series of the data set: folder, modality, new UIDs, and counts |

The files hold no identifiers. They are written to `handover/` in the run's folder, and searched for identifiers of the
cohort like the data set itself. If none is found, they are copied to `report/` beside the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pacsifier_ops import __version__
from pacsifier_ops.base.files import data_file, data_folder, private_folder, storage_errors, write_atomic
from pacsifier_ops.base.tables import INTEGER, TEXT, write_table
from pacsifier_ops.base.words import listed, plural
from pacsifier_ops.deid.run import EXCLUDED, QUARANTINED
from pacsifier_ops.deid.told import public_reason
from pacsifier_ops.runs.accounts import COMPLETE, UNBALANCED, plain_modality
from pacsifier_ops.runs.approvals import RELEASE, Decision
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.job import write_accounts
from pacsifier_ops.runs.pages import VerdictBox, page
from pacsifier_ops.state.tree import HANDOVER
from pacsifier_ops.study.accounts import (
    MISSING,
    PUBLIC_MISSING,
    STATES,
    UNVERIFIABLE,
    Loss,
    StudyAccount,
    StudySeries,
)
from pacsifier_ops.study.gate import Gate
from pacsifier_ops.study.project import Study
from pacsifier_ops.study.release import DEIDENTIFIED_FOLDER, RELEASED_FOLDER, folder_of
from pacsifier_ops.study.report import (
    KINDS,
    both,
    chain,
    how_lines,
    reasons,
    state_bar,
)
from pacsifier_ops.study.shown import decided, gate_counts

FILES = ("report.html", "accounts.json", "series.csv", "series.parquet")

#: Columns of series.csv and their types.
SERIES_COLUMNS = {
    "number": INTEGER,
    "folder": TEXT,
    "pseudonym": TEXT,
    "modality": TEXT,
    "series_uid": TEXT,
    "instances": INTEGER,
    "released": INTEGER,
    **dict.fromkeys(STATES, INTEGER),
}

_NOT_CONFIRMED = "not confirmed by the node that it was sent to"


def write_report(run: Run, account: StudyAccount) -> None:
    """Write the hand-over report, search it for identifiers, and copy it beside the data set if that was released.

    A report with an identifier of the cohort is held back, and the account says so.

    Raises:
        StorageError: something cannot be read or written.
    """
    with storage_errors("the state root"):
        folder = private_folder(run.folder / "handover")
        write_accounts(folder / "accounts.json", _head(account), series=_lines(account))
        cells = ([line[name] for name in SERIES_COLUMNS] for line in _lines(account))
        write_table(folder / "series.csv", SERIES_COLUMNS, cells)
        write_atomic(folder / "report.html", render(account))
    if not account.deidentifies:
        return
    study = Study.of(run)
    found = Gate.of(run, folder_of(study, DEIDENTIFIED_FOLDER)).search(folder, FILES)
    account.held_back = found.counts["blocking"] > 0
    if account.released and account.released.files and not account.held_back:
        with storage_errors("the folder of the study"):
            target = folder_of(study, RELEASED_FOLDER) / HANDOVER
            data_folder(target)
            for name in FILES:
                write_atomic(target / name, (folder / name).read_bytes(), data_file() & ~0o222)


def reason_of(loss: Loss) -> str:
    """Return the public reason of a loss, from a fixed list: it holds nothing of the source, or of what people said."""
    if loss.state == MISSING:
        return PUBLIC_MISSING.get(loss.at, _NOT_CONFIRMED)
    rule, reason = public_reason(loss.state, loss.reason)
    return f"{reason}: {rule}" if rule else reason


def _releases(account: StudyAccount) -> list[Decision]:
    """Return the decision on what was released, if anything was."""
    released = account.released
    made = [one for one in account.decisions if one.subject == RELEASE and released and one.digest == released.digest]
    return [replace(one, reason="") for one in made[-1:]]  # what a person wrote may be about the source


def _series(account: StudyAccount) -> Iterator[StudySeries]:
    """Yield the series that have objects in the data set."""
    return (series for series in account.series if series.became and series.released)


def _lines(account: StudyAccount) -> Iterator[dict[str, Any]]:
    for series in _series(account):
        yield {
            "number": series.number,
            "folder": " ".join(series.became),
            "pseudonym": " ".join(series.pseudonyms),
            "modality": plain_modality(series.modality),
            "series_uid": " ".join(series.new_uids),
            "instances": series.instances,
            "released": series.released,
            **{state: getattr(series, state) for state in STATES},
        }


def _head(account: StudyAccount) -> dict[str, Any]:
    reasons: dict[tuple[str, str], int] = {}
    for loss in account.losses():
        key = (loss.state, reason_of(loss))
        reasons[key] = reasons.get(key, 0) + loss.instances
    released = account.released
    return {
        "project": account.project,
        "owners": account.owners,
        "approvers": account.approvers,
        "ethics": account.ethics,
        "expires": account.expires,
        "verdict": account.verdict,
        "finished": account.finished,
        "version": __version__,
        "project_file": account.digest,
        "profile": _profile(account),
        "rules": account.rules,
        "method": account.method,
        "codes": account.codes,
        "options": account.options,
        "pseudonyms": account.sources,
        "data_set": {"digest": released.digest, "files": released.files, "bytes": released.bytes} if released else None,
        "released_by": [[one.who, one.when, one.waived] for one in _releases(account)],
        "searched": {name: count for name, count, _ in gate_counts(account.gate)} if account.gate else None,
        "totals": account.totals(),
        "not_delivered": [[state, reason, count] for (state, reason), count in reasons.items()],
    }


def _profile(account: StudyAccount) -> str:
    """Return the name of the profile, without the folder of its file."""
    return Path(account.profile).name


def render(account: StudyAccount) -> str:
    """Return the hand-over report as one HTML page."""
    shown, releases = list(_series(account)), _releases(account)
    return page(
        "study/templates/handover.html",
        **both(account),
        version=__version__,
        verdict=_verdict(account),
        patients=len({name for one in shown for name in one.pseudonyms}),
        chain=chain(account, inside=False),
        state_bars=[state_bar(account)],
        kinds=KINDS,
        reasons=reasons(account, reason_of),
        how=_how(account),
        releases=releases,
        decisions=decided(releases),
        series=shown,
        left=len(account.series) - len(shown),
        reason_of=reason_of,
        plain_modality=plain_modality,
        state_columns=[f"{state.capitalize()}#" for state in STATES],
        counts_of=lambda series: [getattr(series, state) for state in STATES],
    )


def _how(account: StudyAccount) -> list[tuple[str, object]]:
    return [(name, _profile(account) if name == "Profile" else value) for name, value in how_lines(account)]


def _verdict(account: StudyAccount) -> VerdictBox:
    totals = account.totals()
    there = f"{plural(totals['released'], 'instance is', 'instances are')} in the data set"
    excluded, unfit = totals[EXCLUDED], totals[QUARANTINED]
    apart = f"{plural(excluded, 'was', 'were')} excluded by a rule, and {plural(unfit, 'was', 'were')} not fit"
    if account.verdict == COMPLETE:
        what = f"{there}. Of what was asked for and found, {apart}; nothing else is left out."
        return VerdictBox(COMPLETE, "Complete", (what,))
    if account.verdict != UNBALANCED:
        wanting = listed([f"{totals[state]:,} {state}" for state in (MISSING, UNVERIFIABLE) if totals[state]])
        lacks = f"Of what was asked for, {wanting}" if wanting else "Not all was done that was asked for"
        return VerdictBox(account.verdict, account.verdict.capitalize(), (f"{there}. {lacks}; {apart}.",))
    what = "The accounts of this data set contradict each other; do not rely on it."
    return VerdictBox(UNBALANCED, "Unbalanced", (what,))
