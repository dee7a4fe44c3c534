"""The selection of a run: its rules, what earlier runs have selected, and the choice among what the rows have found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.config import ArchiveNode
from pacsifier_ops.base.errors import InputError, meant
from pacsifier_ops.base.files import read_jsonl, write_atomic
from pacsifier_ops.base.given import Unusable, read_given
from pacsifier_ops.base.tables import INTEGER, TEXT, Columns, parquet_of, write_table
from pacsifier_ops.base.words import plural
from pacsifier_ops.query.keys import ANCHOR, SELECTION
from pacsifier_ops.query.options import Refused
from pacsifier_ops.query.problems import Problem
from pacsifier_ops.runs import flow
from pacsifier_ops.runs.accounts import ROW_FOUND, ROW_UNSELECTED, SAVE
from pacsifier_ops.runs.folder import Run, kept_request, stage_folder, stages_in, with_stages
from pacsifier_ops.selection.deciding import Candidate, all_uncertain, asked_of_images, decide
from pacsifier_ops.selection.reading import LARGEST, selection_of
from pacsifier_ops.selection.rules import DEFAULT, Rules, Selection
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.selected import RowSelected
from pacsifier_ops.state.tree import patient_identity
from pacsifier_ops.state.turns import NORMAL, Place

if TYPE_CHECKING:
    from pacsifier_ops.archive.find import Finder
    from pacsifier_ops.extract.search import RowSearch
    from pacsifier_ops.query.table import QueryRow, QueryTable

#: The file of the selection in the run's folder, and the list of what was decided on each series.
KEPT_FILE, LIST = "selection.yaml", "selection.csv"
_LISTS = (LIST, parquet_of(Path(LIST)).name, flow.TABLE, flow.PICTURE)
_SHOWN = ("PatientID", "StudyDate", "Modality", "SeriesNumber", "SeriesDescription", "NumberOfSeriesRelatedInstances")
#: Columns of the list: the line of the row, what the series was selected as, or why it was left out.
LIST_COLUMNS: Columns = {
    "line": INTEGER,
    **dict.fromkeys(("selected_as", "left_out", "StudyInstanceUID", "SeriesInstanceUID", *_SHOWN), TEXT),
}


def read_and_keep(run: Run, path: str) -> Selection | None:
    """Read the file of the selection, and keep a copy in the run's folder; None without a path.

    A stage takes the copy that the whole run has kept.

    Raises:
        InputError: it cannot be used; names every reason by file, line and key, without values.
        OSError: the run's folder cannot be written.
    """
    for name in (KEPT_FILE, *_LISTS):
        (run.folder / name).unlink(missing_ok=True)
    if not path:
        return None
    above = run.whole.folder / KEPT_FILE
    source = above if run.whole is not run and above.exists() else Path(path)
    try:
        data = read_given(source, LARGEST)
        selection = selection_of(data, Path(path).name)
    except Unusable as error:
        raise InputError(f"the selection cannot be used: {Path(path).name}: {error}") from None
    except Refused as error:
        raise InputError(f"the selection cannot be used: {'; '.join(error.reasons)}") from None
    write_atomic(run.folder / KEPT_FILE, data)
    return selection


def earlier_of(run: Run, out_directory: Path) -> Path:
    """Return the output folder whose earlier selections stay: of a stage, that of the stage which fetches."""
    if run.whole is not run:
        for stage in stages_in(run.whole):
            request = kept_request(Run(stage_folder(run.whole, stage)))
            if request.get("retrieve") == SAVE:
                return Path(request["out_directory"])
    return out_directory


def kept(run: Run) -> Selection | None:
    """Return the selection of a run; None without one."""
    try:
        return selection_of((run.folder / KEPT_FILE).read_bytes(), KEPT_FILE)
    except FileNotFoundError:
        return None


def is_kept(run: Run) -> bool:
    """Return whether a run has a selection."""
    return (run.folder / KEPT_FILE).exists()


def told(run: Run) -> dict[str, Any]:
    """Return what reports tell of the selection of a run: the SHA-256 of its file, and counts; empty without one."""
    if not is_kept(run):
        return {}
    undecided = 0
    for part in run.parts("found"):
        undecided += sum(row.get("undecided", 0) for row in read_jsonl(part) if isinstance(row, dict))
    digest = hashlib.sha256((run.folder / KEPT_FILE).read_bytes()).hexdigest()
    return {"digest": digest, "undecided": undecided}


def write_list(run: Run) -> None:
    """Write the list of all series that rows have found with what was decided on each.

    Raises:
        OSError: the run's folder cannot be written.
    """
    write_table(run.folder / LIST, LIST_COLUMNS, _listed(run))


def lists_of(run: Run) -> dict[str, Path]:
    """Return the paths, by name, of the lists of a run's selection, or of its stages'; they may identify patients."""
    paths = {name: [one.folder / name for one in with_stages(run)] for name in _LISTS}
    there = {name: next((path for path in each if path.exists()), None) for name, each in paths.items()}
    return {name: path for name, path in there.items() if path}


def _listed(run: Run) -> Iterator[list[object]]:
    """Yield the lines of the list, by batch of rows: those selected, then those left out."""
    for part in run.parts("found"):
        records = read_jsonl(part)
        for row in records:
            for study, series, attributes, _, role in islice(records, row["series"]):
                yield [row["line"], role, "", study, series, *_shown(attributes)]
        with suppress(FileNotFoundError):
            for line, study, series, reason, attributes in read_jsonl(run.part("left_out", int(part.stem))):
                yield [line, "", reason, study, series, *_shown(attributes)]


def _shown(attributes: Mapping[str, str]) -> Iterator[str]:
    return (attributes.get(keyword, "") for keyword in _SHOWN)


def check_rows(table: QueryTable, selection: Selection | None) -> None:
    """Make those rows of a table bad that the selection cannot decide on."""
    from pacsifier_ops.query.table import BadRow

    good = []
    for row in table.rows:
        problem = _problem(row, selection, ANCHOR in table.columns)
        if problem is None:
            good.append(row)
            continue
        column, message, value = problem
        for line in (row.line, *row.duplicates):
            table.problems.append(Problem(line, column, message, value))
            table.bad_rows.append(BadRow(line, row.cells))
    table.rows[:] = good
    table.problems.sort(key=lambda one: one.line)
    table.bad_rows.sort(key=lambda row: row.line)


def _problem(row: QueryRow, selection: Selection | None, anchors: bool) -> tuple[str, str, str] | None:
    """Return column, message and value of what is wrong with a row; None if nothing is.

    Args:
        anchors: whether the table has a column of anchors.
    """
    if selection is None:
        if row.selection:
            return SELECTION, "names a set of rules, and the run has no selection; give the option selection", ""
        return None
    if (rules := selection.of(row.selection)) is None:
        if row.selection:
            known = ", ".join(selection)
            message = f"no set of the selection{meant(row.selection, selection)}; there are {known}"
            return SELECTION, message, row.selection
        return SELECTION, f"names no set, and the selection has none called {DEFAULT}; name one", ""
    if rules.needs_anchor and not anchors:
        message = (
            "the table has no such column, and the selection counts days from it; say with columns which one it is"
        )
        return ANCHOR, message, ""
    if rules.needs_anchor and not row.anchor:
        return ANCHOR, "is empty, and the selection counts days from it; give the date", ""
    return None


# What earlier runs have selected


def row_key(row: Mapping[str, Any]) -> str:
    """Return what a row is known by from run to run: its keys, its anchor, and its set of rules."""
    values = [sorted(row["keys"].items()), row["exact"], row["anchor"], row["selection"] or DEFAULT]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def with_earlier(
    rows: Iterable[dict[str, Any]], selection: Selection, remembered: Mapping[str, RowSelected], reselect: bool
) -> Iterable[dict[str, Any]]:
    """Yield rows with what an earlier run has selected for them, see `choose`.

    Args:
        reselect: it does not stay.
    """
    digests = {name: rules.digest() for name, rules in selection.sets.items()}
    for row in rows:
        before = remembered.get(key := row_key(row))
        row["key"], row["rules"] = key, digests[row["selection"] or DEFAULT]
        if before is not None:
            stays = before.rules == row["rules"] and not reselect
            row["selected_before"] = {"stays": stays, "series": before.series}
        yield row


# The choice


def choose(
    searches: Sequence[RowSearch],
    selection: Selection,
    archives: Sequence[ArchiveNode],
    cancelled: Callable[[], bool],
    before_query: Callable[[], object],
    urgency: str = NORMAL,
) -> None:
    """Leave out the series of rows that their rules do not select; for the arguments see `search.search`.

    Raises:
        PacsError: an archive could not be queried.
    """
    with _Images(selection.keywords(), archives, cancelled, before_query, urgency) as images:
        for row in searches:
            if row.found:
                rules = selection.of(row.row["selection"])
                assert rules is not None
                _choose(row, rules, images)


def _choose(row: RowSearch, rules: Rules, images: _Images) -> None:
    before = row.row.get("selected_before", {})
    earlier = {(study, series): role for study, series, role in before.get("series", ())}
    candidates = [
        Candidate(patient_identity(s.attributes, s.study_uid), s.study_uid, s.series_uid, s.attributes)
        for _, s in row.found
    ]
    if rules.chooses and row.state != ROW_FOUND:
        decision = all_uncertain(len(candidates))
    else:
        decision = decide(
            rules,
            row.row["anchor"],
            candidates,
            lambda place: images.values(row.found[place][0], candidates[place]),
            earlier if before.get("stays") else {},
        )
    row.left_out = [(row.found[place][1], why) for place, why in enumerate(decision.reasons) if why]
    row.warnings += (text for text in decision.remarks if text not in row.warnings)
    row.undecided = decision.undecided
    if row.undecided:
        row.warnings.append(f"{plural(row.undecided, 'series', 'series')} selected although an exclude was undecided")
    chosen = {(candidates[place].study, candidates[place].series) for place in decision.selected}
    gone = {(c.study, c.series) for c in candidates} & earlier.keys() - chosen
    if gone:
        row.warnings.append(
            f"{plural(len(gone), 'series', 'series')} of an earlier run not selected any more; what was fetched stays"
        )
    row.roles = [decision.roles[place] for place in decision.selected]
    row.found = [row.found[place] for place in decision.selected]
    if not row.found and row.state == ROW_FOUND:
        row.state = ROW_UNSELECTED


class _Images:
    """Asks archives for what the images of series tell; one association at a time. A context manager."""

    def __init__(
        self,
        keywords: Sequence[str],
        archives: Sequence[ArchiveNode],
        cancelled: Callable[[], bool],
        before_query: Callable[[], object],
        urgency: str,
    ) -> None:
        self._keywords, self._urgency = tuple(keywords), urgency
        self._archives = {node.name: node for node in archives}
        self._cancelled, self._before = cancelled, before_query
        self._stack, self._name = ExitStack(), ""
        self._finder: Finder | None = None
        self._known: dict[tuple[str, str, str], Mapping[str, Sequence[str]]] = {}

    def __enter__(self) -> _Images:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.close()

    def values(self, name: str, series: Candidate) -> Mapping[str, Sequence[str]]:
        """Return what the images of a series tell at an archive, by keyword: what it does not tell of the series."""
        from pacsifier_ops.archive.attempts import give_way, retrying

        which = (name, series.study, series.series)
        if which not in self._known:
            self._before()
            finder = self._at(name)
            give_way(finder.session, shared(), self._place())
            wanted = asked_of_images(self._keywords, series.attributes)
            ask = partial(finder.image_values, series.study, series.series, wanted)
            self._known[which] = retrying(ask, finder.session, self._cancelled)
        return self._known[which]

    def _place(self) -> Place:
        return Place(self._urgency, len(self._known))

    def _at(self, name: str) -> Finder:
        from pacsifier_ops.archive.attempts import open_archive
        from pacsifier_ops.archive.find import Finder

        if self._finder is None or self._name != name:
            self._stack.close()  # whoever holds one association and waits for another may wait for ever
            session = open_archive(self._archives[name], shared(), cancelled=self._cancelled, place=self._place)
            self._stack.push(session)
            self._finder, self._name = Finder(session), name
        return self._finder
