"""The steps of an extract run: prepare → find → plan → retrieve → report.

Each step is one function that works on the run's folder. The operators of the DAG and the command line call the same
functions. Each may be killed and called again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import accumulate, chain, islice
from sys import intern
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.config import ArchiveNode, PacsNode, WebNode, givers_of, node_names
from pacsifier_ops.base.errors import (
    ConfigError,
    QueryTableError,
    StorageError,
    TooManySeries,
    TreeError,
)
from pacsifier_ops.base.files import read_jsonl, storage_errors, write_json
from pacsifier_ops.base.identity import SeriesId, two_people
from pacsifier_ops.extract import choosing, flowing
from pacsifier_ops.extract.fetching import Moving, Retrieval, node_with_overrides, open_receivers, plan_of
from pacsifier_ops.extract.run import (
    RETRIEVE,
    SEARCH,
    SEVERAL_NEW_IDS,
    SEVERAL_PEOPLE,
    Planned,
    Request,
    beside_of,
    instances_of,
)
from pacsifier_ops.extract.size import Size, exceeded_limits, exceeded_space
from pacsifier_ops.extract.standing import Asked, keep_fetched, standing_series
from pacsifier_ops.query.columns import unique
from pacsifier_ops.runs import approvals, job
from pacsifier_ops.runs.accounts import (
    MOVE,
    NONE,
    ROW_BAD,
    ROWS_ANSWERED,
    SAVE,
    RowAccount,
    RunAccount,
)
from pacsifier_ops.runs.flow import write_flow
from pacsifier_ops.runs.folder import MOST, Run, in_units, never
from pacsifier_ops.runs.job import Question, begin, expect, write_standing
from pacsifier_ops.runs.progress import progress_of
from pacsifier_ops.runs.standing import STAMPS
from pacsifier_ops.state import audit
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.ledger import SeriesLedger
from pacsifier_ops.state.selected import RowSelected, remember, remembered
from pacsifier_ops.state.tree import Names, Tree, patient_identity

if TYPE_CHECKING:
    from pacsifier_ops.query.table import QueryRow, QueryTable
    from pacsifier_ops.selection.rules import Selection

#: The archive of a run, or several archives in the order in which they are queried.
Archives = ArchiveNode | Sequence[ArchiveNode]

#: Files and folders of the run that the step prepare removes before it begins.
KEPT = (*job.KEPT, "rows", "table", "found", "left_out", "plan", "thumbnails")

#: Adds to rows what earlier runs have selected for them.
Remember = Callable[[Iterable[dict[str, Any]]], Iterable[dict[str, Any]]]


def run_nodes(archives: Archives, request: Request) -> list[ArchiveNode]:
    """Return the archives with the settings of this run, in the order in which they are queried."""
    nodes = [archives] if isinstance(archives, ArchiveNode) else archives
    return [node_with_overrides(node, request) for node in nodes]


# prepare


def prepare(
    run: Run, request: Request, archives: Archives, most: int = MOST, destination: PacsNode | None = None
) -> list[int]:
    """Read and check the query table, and check that the PACS answers and the output folder can be written.

    Args:
        run: the run.
        request: what the run is asked for.
        archives: the archives.
        most: maximum number of batches of rows; the step find does one batch over one association.
        destination: node that the images are moved to, if it can be queried; None: the archive's move_aet.

    Returns:
        The numbers of the batches.

    Raises:
        InputError: the file of the selection cannot be used.
        TableRefused: the table is refused as a whole, has no usable row, or has a bad row in a strict run. The text has
            the reasons; the run's problems.txt has them with the values.
        PacsError: a node does not answer, or does not accept us.
        ConfigError: the request contradicts itself, or images are to be moved and no destination is given.
        TreeError: the output folder cannot be written.
        ReceiverError: images are to be fetched by C-MOVE, and our receiver cannot be started.
        StorageError: the run's folder cannot be written.
    """
    check_consistent(request, destination)
    nodes = run_nodes(archives, request)
    names = node_names(node.name for node in nodes)
    request = replace(request, pacs=", ".join(names), givers=givers_of(nodes))
    if request.retrieve == MOVE:
        request = _with_destination(request, nodes, destination)
    request = begin(run, request, KEPT)
    with storage_errors("the state root"):
        selection = choosing.read_and_keep(run, request.selection)
    batches = _write_rows(run, _read_table(run, request, selection), most, _remembered_of(run, request, selection))
    tree = Tree.open(request.out_directory, request.names)
    try:
        with tree.workplace(shared()):
            pass
    except StorageError as error:
        raise TreeError(f"{error}; check out_directory") from error
    for node in nodes:
        _check_answers(node)
        if node.source is not node:
            _check_answers(node.source, queried=False)
        if request.retrieve == SAVE and node.source.method == "move":
            with closing(open_receivers(run, node)) as receivers:
                receivers.spool()
    if request.retrieve == MOVE and destination is not None:
        _check_answers(destination)
    return batches


def _remembered_of(run: Run, request: Request, selection: Selection | None) -> Remember:
    """Return what adds to rows what earlier runs have selected for them in the same output folder."""
    if selection is None:
        return lambda rows: rows
    with storage_errors("the state root"):
        known = remembered(Tree.existing(choosing.earlier_of(run, request.out_directory)))
    return lambda rows: choosing.with_earlier(rows, selection, known, request.reselect)


def _read_table(run: Run, request: Request, selection: Selection | None) -> QueryTable:
    """Return the query table of a run, and note its problems.

    Raises:
        QueryTableError: see `prepare`.
    """
    from pacsifier_ops.query.problems import TableRefused
    from pacsifier_ops.query.table import read_query_table

    table = read_query_table(request.queryfile, request)
    choosing.check_rows(table, selection)
    for problem in table.problems:
        run.note(f"query table: {problem.shown()}")
    if table.problems and (request.strict or not table.rows):
        why = "a strict run accepts no bad row" if request.strict and table.rows else "no usable row is left"
        raise TableRefused(table.problems, f"the query table has {len(table.problems)} problem(s), and {why}")
    if not table.rows:
        raise QueryTableError("the query table has no row; add at least one below the header")
    return table


def _write_rows(run: Run, table: QueryTable, most: int, with_earlier: Remember) -> list[int]:
    """Write the rows of a query table in at most `most` batches, and return the numbers of the batches."""
    reasons: dict[int, list[str]] = {}
    for problem in table.problems:
        reasons.setdefault(problem.line, []).append(problem.shown())
    same_as = {again: row.line for row in table.rows for again in row.duplicates}
    batches = in_units(len(table.rows), most)
    with storage_errors("the state root"):
        contents = {"columns": table.columns, "same_as": list(same_as.items()), "notes": table.notes}
        write_json(run.folder / "table.json", contents)
        expect(run, rows=len(table.rows), bad_rows=len(table.bad_rows), repeated_rows=len(same_as))
        for number, batch in enumerate(batches):
            rows = (table.rows[i] for i in batch)
            run.write_part("rows", number, with_earlier(map(_row_of, rows)))
        accounts = [RowAccount(r.line, r.cells, warnings=list(r.warnings)) for r in table.rows]
        accounts += [RowAccount(r.line, r.cells, ROW_BAD, reason="; ".join(reasons[r.line])) for r in table.bad_rows]
        run.write_part("rows", None, map(asdict, accounts))
        _write_beside(run, table)
    return list(range(len(batches)))


def _write_beside(run: Run, table: QueryTable) -> None:
    """Write the cells of the columns that are not ours, which go into the protected linker alone."""
    path = beside_of(run)
    path.unlink(missing_ok=True)
    if table.others:
        from pacsifier_ops.query.typed import BATCH, write_rows

        bad = {row.line for row in table.bad_rows}
        lines = [line for line in sorted(table.beside) if line not in bad]
        rows = [[line, *(text or None for text in table.beside[line])] for line in lines]
        names = unique(["line", *table.others])
        write_rows(path, names, [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)])


def _row_of(row: QueryRow) -> dict[str, Any]:
    """Return a row as the step find reads it."""
    return {
        "line": row.line,
        "keys": row.keys,
        "exact": row.exact,
        "new_id": row.new_id,
        "accept_patient_id_of": row.accept_patient_id_of,
        "anchor": row.anchor,
        "selection": row.selection,
        "row_id": row.row_id,
    }


def check_consistent(request: Request, destination: PacsNode | str | None) -> None:
    """Check that no option would have no effect, so that nobody believes that it had one.

    Args:
        destination: the node that images are moved to, or its name; None: none is given.

    Raises:
        ConfigError: options contradict each other.
    """
    if request.retrieve not in RETRIEVE:
        raise ConfigError(f"retrieve is none of {', '.join(RETRIEVE)}")
    if request.search not in SEARCH:
        raise ConfigError(f"search is none of {', '.join(SEARCH)}")
    if request.reselect and not request.selection:
        raise ConfigError("reselect applies to a selection only; switch it off, or give the option selection")
    wrong = []
    if destination is not None and request.retrieve != MOVE:
        wrong.append("destination applies to move only; leave it empty, or set retrieve to move")
    if request.resend and request.retrieve != MOVE:
        wrong.append("resend applies to move only; switch it off, or set retrieve to move")
    if request.accept_patient_id_of and request.retrieve != SAVE:
        wrong.append("accept_patient_id_of applies to save only; leave it empty, or set retrieve to save")
    if request.refetch and request.retrieve != SAVE:
        wrong.append("refetch applies to save only; switch it off, or set retrieve to save")
    if request.method and request.retrieve != SAVE:
        wrong.append("method applies to save only; leave it empty, or set retrieve to save")
    if wrong:
        raise ConfigError(f"retrieve is {request.retrieve}: {'; '.join(wrong)}")


def _check_answers(node: ArchiveNode, queried: bool = True) -> None:
    """Check that a node answers C-ECHO, and a C-FIND from our AE title.

    Args:
        queried: the run queries it. Else it is enough that it answers.

    Raises:
        PacsError: it does not.
    """
    from pacsifier_ops.archive.attempts import open_archive
    from pacsifier_ops.archive.check import answers, query_without_matches

    with open_archive(node, shared()) as session:
        if queried:
            session.echo()
            session.find(query_without_matches())
        else:
            answers(session)


def _with_destination(request: Request, nodes: Sequence[ArchiveNode], destination: PacsNode | None) -> Request:
    """Return the request with the AE title that images are moved to.

    Raises:
        ConfigError: no AE title is given, or the archives have different ones, or one of them has no C-MOVE.
    """
    nodes = [node.source for node in nodes]
    for node in nodes:
        if isinstance(node, WebNode):
            raise ConfigError(f"{node.name}: speaks DICOMweb and cannot move images to another node; save them")
    if destination is not None:
        aet = destination.called_aet
        return replace(request, move_aet=aet, destination=f"{destination.name} ({aet})")
    for node in nodes:
        if not node.move_aet:
            raise ConfigError(
                f"{node.name}: no destination to move the images to; set move_aet (move_AET in config.json), or give "
                "the destination"
            )
    aet = nodes[0].move_aet
    if any(node.move_aet != aet for node in nodes):
        raise ConfigError("the archives have different move_aet; give the destination, or use one run per archive")
    return replace(request, move_aet=aet, destination=aet)


# find


def find(run: Run, archives: Archives, batch: int, cancelled: Question = never) -> dict[str, int]:
    """Find the series of one batch of rows.

    Args:
        run: the run.
        archives: the archives.
        batch: number of the batch.
        cancelled: called regularly; True ends the work.

    Returns:
        The number of rows in each state, of series found (`series`), and of those that the selection leaves out
        (`left_out`).

    Raises:
        PacsError: an archive could not be queried.
        Cancelled: the run was cancelled. Nothing is kept of the batch.
        StorageError: the run's folder cannot be written.
    """
    from pacsifier_ops.extract.search import search

    request = Request.of(run)
    rows = list(read_jsonl(run.part("rows", batch)))
    go_on = partial(approvals.stop_if_cancelled, run)
    nodes, selection = run_nodes(archives, request), choosing.kept(run)
    also = selection.keywords() if selection else ()
    searches = search(rows, nodes, request.search, cancelled, go_on, request.urgency, also)
    if selection:
        choosing.choose(searches, selection, nodes, cancelled, go_on, request.urgency)
    with storage_errors("the state root"):
        if selection:
            run.write_part("left_out", batch, chain.from_iterable(row.left_out_lines() for row in searches))
        run.write_part("found", batch, chain.from_iterable(row.lines() for row in searches))
    counts = {"series": sum(len(row.found) for row in searches)}
    if selection:
        counts["left_out"] = sum(len(row.left_out) for row in searches)
    return dict(Counter(row.state for row in searches)) | counts


# plan


class _CohortSeries:
    """A series of the cohort during planning. It needs little memory: a cohort may have 100,000 series.

    Attributes:
        attributes: what the archive returned, JSON.
        pacs: name of the archive that it was found in.
        lines: lines of the query table that find it there.
        elsewhere: lines that find it at another archive.
        new_ids: pseudonyms that these lines give.
        present: numbers of instances that are here and that were handed on, if nothing is to be fetched of it.
    """

    __slots__ = (
        "accept_patient_id_of",
        "attributes",
        "elsewhere",
        "folder",
        "instances",
        "lines",
        "modality",
        "new_ids",
        "pacs",
        "patient",
        "present",
        "series_uid",
        "study_uid",
    )

    def __init__(self, study_uid: str, series_uid: str, attributes: dict[str, str], pacs: str) -> None:
        self.study_uid = study_uid
        self.series_uid = series_uid
        self.take(attributes, pacs)
        self.folder = ""
        self.lines: list[int] = []
        self.elsewhere: tuple[int, ...] = ()
        self.new_ids: tuple[str, ...] = ()
        self.accept_patient_id_of = ""
        self.present: tuple[int, int] | None = None

    def take(self, attributes: dict[str, str], pacs: str) -> None:
        """Set the attributes that an archive returned; the series is fetched from there, or from its source."""
        self.patient = patient_identity(attributes, self.study_uid)
        self.attributes = json.dumps(attributes, ensure_ascii=False).encode()
        self.modality = intern(attributes.get("Modality", ""))
        self.instances = instances_of(attributes)
        self.pacs = intern(pacs)

    @property
    def series(self) -> SeriesId:
        """Study and Series Instance UID."""
        return SeriesId(self.study_uid, self.series_uid)

    def has_same_patient(self, other: _CohortSeries) -> bool:
        """Return whether a series with the same UIDs belongs to the same patient."""
        return self.attributes == other.attributes or not two_people(self.values(), other.values())

    def values(self) -> dict[str, str]:
        """Return the attributes that the archive returned, by keyword."""
        values: dict[str, str] = json.loads(self.attributes)
        return values


@dataclass
class Plan:
    """The result of the step plan.

    Attributes:
        units: numbers of the retrieval units.
        series, instances: number of series and of their instances, as far as the archive gives it.
        conflicts: number of patients that are excluded, because rows or responses contradict each other about them.
        units_of: numbers of the units by the name of the archive that their series were found in.
    """

    units: list[int]
    series: int
    instances: int
    conflicts: int = 0
    units_of: dict[str, list[int]] = field(default_factory=dict)


def plan(run: Run, archives: Archives) -> Plan:
    """Merge the series of all rows, assign their folders, and cut them into units.

    Args:
        run: the run.
        archives: the archives.

    Raises:
        TooManySeries: the cohort exceeds a limit, and no approval is requested. Nothing is fetched.
        TreeError: the output folder cannot be written.
        ConfigError: a setting is wrong.
        StorageError: the run's folder cannot be written.
    """
    request = Request.of(run)
    nodes = run_nodes(archives, request)
    run.forget(("plan", "units", "results", STAMPS))
    wanted = list(_merge(run))
    new_ids, conflicts = _new_ids(wanted)
    order = [item for item in wanted if item.patient not in conflicts.patients]
    order = conflicts.without_shared(order)
    conflicts.note_other_archives(order)
    del wanted
    tree = Tree.open(request.out_directory)
    parts = {node.name: [item for item in order if item.pacs == node.name] for node in nodes}
    order = list(chain.from_iterable(parts.values()))
    names = tree.load_names()
    _find_standing(run, request, tree, names, nodes, order, new_ids)
    sources = {node.source.name: node.source for node in nodes if parts[node.name]}
    sizes = {
        name: _size(request, tree, names, [item for item in order if request.source_of(item.pacs) == name], source)
        for name, source in sources.items()
    }
    over, exceeds = _exceeded_limits(request, sizes, list(sources.values()))
    _assign_folders(tree, order)
    with storage_errors("the state root"):
        units_of = _write_units(run, parts, new_ids, request.givers)
        units = list(chain.from_iterable(units_of.values()))
        instances = sum(item.instances or 0 for item in order)
        counts = {"units": len(units), "series": len(order), "instances": instances}
        size_values = {name: asdict(size) for name, size in sizes.items()}
        limits = {"sizes": size_values, "over": over, "exceeds": exceeds, "digest": _digest(request, order)}
        selects = choosing.is_kept(run)
        flow = _write_flow(run) if selects else {}
        write_json(run.folder / "plan.json", {**counts, "conflicts": conflicts.reasons, **limits, **flow})
        expect(run, series=len(order), instances=instances)
        if request.retrieve == SAVE and selects:
            remember(tree, shared(), _selected(run, {item.series for item in order}, remembered(tree)))
    if request.retrieve == NONE and not request.info:
        units, units_of = [], {}
    return Plan(units, len(order), instances, len(conflicts.patients), units_of)


def _find_standing(
    run: Run,
    request: Request,
    tree: Tree,
    names: Names,
    nodes: Sequence[ArchiveNode],
    order: Sequence[_CohortSeries],
    new_ids: Mapping[str, str],
) -> None:
    """Find the series of which nothing is to be fetched."""
    cohort = (
        Asked(item.series, folder, item.pacs, item.attributes.decode(), new_ids.get(item.patient, ""), accepted)
        for item in order
        for folder, accepted in [(names.folder_of(item.series), item.accept_patient_id_of)]
        if folder
    )
    standing = standing_series(run, request, tree, nodes, cohort)
    for item in order:
        item.present = standing.get(item.series)


def _write_flow(run: Run) -> dict[str, Any]:
    """Write the lists of the selection, and return what plan.json has of it: people look at them before they answer."""
    lines = flowing.chosen(run)
    write_flow(run.folder, lines)
    choosing.write_list(run)
    expect(run, **{f"left out {line.left_out}": line.series or 0 for line in lines if line.left_out and line.series})
    return {"flow": list(map(asdict, lines))}


def _selected(
    run: Run, planned: Container[SeriesId], earlier: Mapping[str, RowSelected]
) -> Iterator[tuple[str, RowSelected]]:
    """Yield what was selected for each row that was answered, as far as it is to be fetched.

    What an earlier run has selected stays, also where a conflict with another row keeps it from being fetched again.
    """
    for part in run.parts("found"):
        records = read_jsonl(part)
        for row in records:
            before = earlier.get(row["key"])
            stays = {(study, series) for study, series, _ in before.series} if before else set()
            series = [
                [study, series, role]
                for study, series, _, _, role in islice(records, row["series"])
                if SeriesId(study, series) in planned or (study, series) in stays
            ]
            if row["state"] in ROWS_ANSWERED:
                yield row["key"], RowSelected(row["rules"], series)


def _assign_folders(tree: Tree, items: Iterable[_CohortSeries]) -> None:
    """Assign the folders of series, in the order of the UIDs, so that every run assigns the same ones."""
    with storage_errors("the state root"), shared().acquire(f"names:{tree.key}"):
        names = tree.load_names()
        for item in sorted(items, key=lambda item: (item.study_uid, item.series_uid)):
            item.folder = names.series(item.values(), item.study_uid, item.series_uid)
        tree.save_names(names)


def _write_units(
    run: Run,
    parts: Mapping[str, Sequence[_CohortSeries]],
    new_ids: Mapping[str, str],
    givers: Mapping[str, str],
) -> dict[str, list[int]]:
    """Cut the series that are to be fetched into units, and write them. Units of the others follow, with results.

    Args:
        run: the run.
        parts: the series by the name of the archive that they were found in.
        new_ids: pseudonyms by patient.
        givers: see `Request`.

    Returns:
        The numbers of the units by the name of the archive.
    """
    units_of: dict[str, list[int]] = {}
    first = dict(zip(parts, accumulate(map(len, parts.values()), initial=1), strict=False))
    unit = 0

    def planned(name: str, place: int) -> Planned:
        source = givers.get(name, "")
        pacs = name if source or len(parts) > 1 else ""
        return _to_planned(first[name] + place, parts[name][place], new_ids, pacs, source)

    for name, part in parts.items():
        wanted = [place for place, item in enumerate(part) if item.present is None]
        for share in in_units(len(wanted)):
            run.write_part("units", unit, (asdict(planned(name, wanted[place])) for place in share))
            units_of.setdefault(name, []).append(unit)
            unit += 1
    standing = (
        (planned(name, place), item.present)
        for name, part in parts.items()
        for place, item in enumerate(part)
        if item.present
    )
    write_standing(run, unit, ((one, Retrieval.standing(one, *present)) for one, present in standing))
    return units_of


def _size(request: Request, tree: Tree, names: Names, order: Iterable[_CohortSeries], node: ArchiveNode) -> Size:
    """Return how much is to be fetched or moved. Instances at the destination of a move are not known here."""
    if request.retrieve == MOVE:
        names = Names()
    series = (
        (
            item.modality,
            item.instances,
            item.present[0]
            if item.present
            else _present_instances(request, tree, item.series, names.folder_of(item.series)),
        )
        for item in order
    )
    with storage_errors("the output folder"):
        return Size.of(series, node, shutil.disk_usage(tree.root).free / 1e9)


def _present_instances(request: Request, tree: Tree, series: SeriesId, folder: str | None) -> int:
    """Return the number of instances of a series that need not be fetched; by file names only, to be fast."""
    if folder is None:
        return 0
    entries = SeriesLedger(tree.state, series).entries.values()
    try:
        names = set(os.listdir(tree.root / folder)) if entries else set()
    except FileNotFoundError:
        names = set()
    return sum(entry.file in names or (bool(entry.handed_on) and not request.refetch) for entry in entries)


def _exceeded_limits(
    request: Request, sizes: Mapping[str, Size], nodes: Sequence[ArchiveNode]
) -> tuple[list[str], list[str]]:
    """Return sentences, in counts only, on the limits that a cohort exceeds, and those that a person must approve.

    Nobody must approve that series are only found.

    Raises:
        TooManySeries: a limit is exceeded, and no approval is requested.
    """
    over = [sentence for node in nodes if node.name in sizes for sentence in exceeded_limits(sizes[node.name], node)]
    together = sum(size.series for size in sizes.values())
    if not over and request.max_series and together > request.max_series:
        over = [f"{together} series, more than the {request.max_series} that this run allows"]
    if request.retrieve == NONE:
        return over, []
    if request.approval:
        return over, over + (exceeded_space(sizes.values()) if request.retrieve == SAVE else [])
    if over:
        raise TooManySeries(
            f"the query table finds {'; '.join(over)} without an approval; nothing was fetched. Narrow the table, "
            "raise the limit (max_series for this run), or let a person approve it (approval)"
        )
    return [], []


def _digest(request: Request, order: Iterable[_CohortSeries]) -> str:
    """Return the SHA-256 of the cohort: its series, their numbers of instances, source, and output or destination."""
    whole = hashlib.sha256()
    places = (request.pacs, request.retrieve, request.destination, str(request.out_directory))
    givers = (name for pair in sorted(request.givers.items()) for name in pair)
    whole.update("\0".join((*places, *givers)).encode())
    for item in sorted(order, key=lambda item: (item.study_uid, item.series_uid)):
        whole.update(f"\n{item.study_uid}\0{item.series_uid}\0{item.instances}".encode())
    return whole.hexdigest()


def _to_planned(number: int, item: _CohortSeries, new_ids: Mapping[str, str], pacs: str, source: str) -> Planned:
    return Planned(
        number,
        list(item.lines),
        item.study_uid,
        item.series_uid,
        item.values(),
        item.folder,
        new_ids.get(item.patient, ""),
        item.accept_patient_id_of,
        pacs,
        source,
    )


def _merge(run: Run) -> Iterator[_CohortSeries]:
    """Yield the series of all rows, each once. A series that the archive has under two patients is yielded twice.

    A series that rows found at several archives is fetched from the archive of the first of these rows.
    """
    wanted: dict[SeriesId, list[_CohortSeries]] = {}
    for part in run.parts("found"):
        records = read_jsonl(part)
        for row in records:
            for study_uid, series_uid, attributes, pacs, *_ in islice(records, row["series"]):
                new = _CohortSeries(study_uid, series_uid, attributes, pacs)
                known = wanted.setdefault(new.series, [])
                item = next((item for item in known if item.has_same_patient(new)), None)
                if item is None:
                    known.append(item := new)
                if new.pacs != item.pacs:
                    # The rows found it at different archives: they were not all queried for each row, or differ.
                    item.elsewhere += (row["line"],)
                    continue
                item.lines.append(row["line"])
                item.accept_patient_id_of = item.accept_patient_id_of or row.get("accept_patient_id_of", "")
                if row["new_id"] and row["new_id"] not in item.new_ids:
                    item.new_ids += (row["new_id"],)
    return chain.from_iterable(wanted.values())


@dataclass
class _Conflicts:
    """Contradictions between rows or responses; the patients and series concerned are not fetched.

    Attributes:
        patients: identities of the patients that are excluded.
        reasons: why, by line of the query table.
    """

    patients: set[str] = field(default_factory=set)
    reasons: dict[int, str] = field(default_factory=dict)

    def leave_out(self, items: Iterable[_CohortSeries], reason: str) -> None:
        """Exclude the patients of these series."""
        for item in items:
            self.patients.add(item.patient)
            self._note(item, reason)

    def without_shared(self, items: Sequence[_CohortSeries]) -> list[_CohortSeries]:
        """Return the series without those that the archive has under two patients; a retrieval would bring both."""
        times = Counter(item.series for item in items)
        for item in items:
            if times[item.series] > 1:
                self._note(item, "the archive has one of its series under two patients; that series was left out")
        return [item for item in items if times[item.series] == 1]

    def note_other_archives(self, items: Iterable[_CohortSeries]) -> None:
        """Note the rows that found a series at another archive than the one that it is fetched from."""
        for item in items:
            for line in item.elsewhere:
                self.reasons.setdefault(
                    line,
                    f"one of its series is fetched from {item.pacs} for another row, and this row found it at another "
                    "archive; use this row in a separate run, with another output folder",
                )

    def _note(self, item: _CohortSeries, reason: str) -> None:
        for line in item.lines:
            self.reasons.setdefault(line, reason)


def _new_ids(wanted: Sequence[_CohortSeries]) -> tuple[dict[str, str], _Conflicts]:
    """Return the pseudonyms from the query table by patient, and the contradictions between rows about patients."""
    given: dict[str, set[str]] = {}
    people: dict[str, list[_CohortSeries]] = {}
    for item in wanted:
        for new_id in item.new_ids:
            given.setdefault(item.patient, set()).add(new_id)
            people.setdefault(new_id, []).append(item)
    conflicts = _Conflicts()
    several = {patient for patient, ids in given.items() if len(ids) > 1}
    conflicts.leave_out((item for item in wanted if item.patient in several), SEVERAL_NEW_IDS)
    for items in people.values():
        if _are_several_people(items):
            conflicts.leave_out(items, SEVERAL_PEOPLE)
    return {patient: next(iter(ids)) for patient, ids in given.items()}, conflicts


def _are_several_people(items: Sequence[_CohortSeries]) -> bool:
    """Return whether one of the rows finds several people, or one PatientID stands for several."""
    seen: dict[object, list[dict[str, str]]] = {}
    for item in items:
        values = item.values()
        for key in (*item.lines, values.get("PatientID", "")):
            known = seen.setdefault(key, [])
            if any(two_people(values, other) for other in known):
                return True
            if not any(_patient_values(values) == _patient_values(other) for other in known):
                known.append(values)
    return False


def _patient_values(values: Mapping[str, str]) -> list[str]:
    return [values.get(key, "") for key in ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")]


# approval


@dataclass(frozen=True)
class CohortQuestion:
    """The question whether a cohort that exceeds a limit may be fetched.

    Attributes:
        digest: SHA-256 of the cohort, hexadecimal.
        sentences: the limits and the size of the cohort, in counts only.
    """

    digest: str
    sentences: list[str]


def is_planned(run: Run) -> bool:
    """Return whether the step plan has ended."""
    return (run.folder / "plan.json").exists()


def question(run: Run) -> CohortQuestion | None:
    """Return the question that a person must answer before the cohort is fetched.

    Return None if the cohort exceeds no limit, or was approved.

    Raises:
        NotApproved: the step plan has not ended.
    """
    plan = plan_of(run)
    decision = approvals.decision_on(run, approvals.COHORT)
    granted = decision and (decision.digest, decision.word) == (plan["digest"], approvals.APPROVED)
    if granted or not plan["exceeds"]:
        return None
    return CohortQuestion(
        plan["digest"], [*plan["exceeds"], *flowing.sizes(plan), *flowing.sentences(plan, names=False)]
    )


def told_of_selection(run: Run) -> list[str]:
    """Return what the selection of a run does, in counts; nothing without one, or before its plan."""
    return flowing.sentences(plan_of(run)) if is_planned(run) else []


def counts(run: Run) -> dict[str, Any]:
    """Return how large the cohort of a run is: what is to be fetched, or would be, without what was fetched before.

    Returns:
        `rows` by state; `series`, `images`, `gigabytes` (10^9 bytes) and `hours`, of all archives; `sentences` for
        people; `over`: a sentence for each limit that the cohort exceeds; with a selection `flow`, see `FlowLine`. No
        value of the table is among them.

    Raises:
        NotApproved: the step plan has not ended.
    """
    plan = plan_of(run)
    sizes = plan["sizes"].values()
    sums = {name: sum(size[name] for size in sizes) for name in ("series", "images", "gigabytes", "hours")}
    return {
        "rows": progress_of(run).rows,
        **sums,
        "sentences": [*flowing.sizes(plan), *flowing.sentences(plan)],
        "over": plan.get("over", plan["exceeds"]),
        **({"flow": plan["flow"]} if "flow" in plan else {}),
    }


# retrieve


def retrieve(
    run: Run,
    archives: Archives,
    unit: int,
    cancelled: Question = never,
    resumed: bool = False,
    overtaken: Question = never,
) -> dict[str, int | float]:
    """Retrieve the series of one unit, see `job.Worker.unit`."""
    with Retrieval(run, archive_of(run, archives, unit), cancelled) as retrieval:
        return retrieval.unit(unit, resumed, overtaken)


def archive_of(run: Run, archives: Archives, unit: int) -> ArchiveNode:
    """Return the archive that the series of a unit were found in.

    Raises:
        ConfigError: it is not among `archives`.
    """
    if isinstance(archives, ArchiveNode):
        return archives
    name = next((item.get("pacs", "") for item in read_jsonl(run.part("units", unit))), "")
    node = next((node for node in archives if node.name == name or not name), None)
    if node is None:
        raise ConfigError(f"unit {unit + 1} was planned for another PACS; run it again from the step prepare")
    return node


def move(
    run: Run,
    archives: Archives,
    unit: int,
    destination: PacsNode | None = None,
    cancelled: Question = never,
    resumed: bool = False,
    overtaken: Question = never,
) -> dict[str, int | float]:
    """Have the series of one unit moved to another node, see `job.Worker.unit`."""
    with Moving(run, archive_of(run, archives, unit), destination, cancelled) as moving:
        return moving.unit(unit, resumed, overtaken)


# report


def report(run: Run) -> RunAccount:
    """Close the account of a run, also of one that failed; write `logs/pacsifier_log.csv` and the report.

    Returns:
        The account; its `verdict` is the verdict of the run.

    Raises:
        QueryTableError: the run ended before the query table was read.
        StorageError: log or report cannot be written.
    """
    from pacsifier_ops.extract.closing import close_account

    if not run.part("rows").exists():
        raise QueryTableError("the run ended before the query table was read; see the error of the step prepare")
    account = close_account(run, shared())
    keep_fetched(run, Request.of(run))
    if account.action == MOVE:
        sent = account.totals()["received"]
        audit.record(audit.EXPORTED, run=run.name, to=account.destination, objects=sent, verdict=account.verdict)
    return account
