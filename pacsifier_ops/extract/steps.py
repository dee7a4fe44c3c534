"""The steps of an extract run: prepare → find → plan → retrieve → report.

Each is one function over the run's folder; the DAG's operators and the command line call the same ones. Each may
be killed and called again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pacsifier_ops import settings
from pacsifier_ops.accounts import (
    ROW_BAD,
    ROW_EMPTY,
    ROW_FAILED,
    ROW_FOUND,
    ROW_UNDECIDABLE,
    SERIES_COMPLETE,
    SERIES_LISTED,
    RowAccount,
    RunAccount,
    SeriesAccount,
)
from pacsifier_ops.config import PacsNode, with_overrides
from pacsifier_ops.errors import (
    PacsifierError,
    QueryTableError,
    ResultLimit,
    TooManySeries,
    Undecidable,
    Unsupported,
)
from pacsifier_ops.extract.run import RETRIEVE, Request, Run, now, slices
from pacsifier_ops.files import read_jsonl, write_json, write_jsonl
from pacsifier_ops.leases import Leases
from pacsifier_ops.tree import Names, Tree, patient_identity

if TYPE_CHECKING:
    from pacsifier_ops.extract.receiving import Receivers

Cancelled = Callable[[], bool]


def never() -> bool:
    """Nobody asks to stop."""
    return False


def leases() -> Leases:
    """The leases that everybody under this state root shares."""
    return Leases(settings.state_root() / "leases")


def node_for(node: PacsNode, request: Request) -> PacsNode:
    """The node as this run uses it."""
    return with_overrides(node, method=request.method, max_series=request.max_series)


# prepare


def prepare(run: Run, request: Request, node: PacsNode) -> list[int]:
    """Read and check the whole query table, then make sure the PACS answers and the output folder can be written.

    Returns:
        Numbers of the batches of rows to be found.

    Raises:
        QueryTableError: the table is refused as a whole, holds no usable row, or (strict) any bad one; the reasons
            are in its text and in the run's problems.txt.
        PacsError: the PACS does not answer, or not to us.
        TreeError: the output folder cannot be written.
    """
    from pacsifier_ops.extract.retrieve import open_session
    from pacsifier_ops.query.table import read_query_table

    if request.retrieve not in RETRIEVE:
        raise QueryTableError(f"retrieve is none of {', '.join(RETRIEVE)}")
    request = replace(request, pacs=node.name, started=request.started or now())
    run.save_request(request)
    run.forget(("rows", "found", "units", "results"))
    table = read_query_table(request.queryfile)
    reasons: dict[int, list[str]] = {}
    for problem in table.problems:
        reasons.setdefault(problem.line, []).append(str(problem))
        run.note(f"query table: {problem}")
    if reasons and (request.strict or not table.rows):
        raise QueryTableError(_refusal(table.problems, len(table.rows), request.strict))
    if not table.rows:
        raise QueryTableError("the query table holds no row; give at least one below the header")
    accounts = [RowAccount(r.line, r.cells, warnings=list(r.warnings)) for r in table.rows]
    accounts += [RowAccount(r.line, r.cells, ROW_BAD, reason="; ".join(reasons[r.line])) for r in table.bad_rows]
    write_jsonl(run.part("rows"), map(asdict, accounts))
    same_as = {again: row.line for row in table.rows for again in row.duplicates}
    write_json(run.folder / "table.json", {"columns": table.columns, "same_as": list(same_as.items())})
    batches = slices(len(table.rows))
    for number, batch in enumerate(batches):
        rows = ({"line": table.rows[i].line, "keys": table.rows[i].keys, "new_id": table.rows[i].new_id} for i in batch)
        write_jsonl(run.part("rows", number), rows)
    Tree.open(request.out_directory).clear_incoming(run.name)
    with open_session(node, leases()) as session:
        session.echo()
        session.find(_nobody())
    return list(range(len(batches)))


def _nobody() -> Any:
    """A query that no study matches: whether we may ask at all, some archives tell only when asked."""
    from pacsifier_ops.dimse.session import query

    return query("STUDY", StudyInstanceUID="2.25.1", PatientID="")


def _refusal(problems: Iterable[Any], good: int, strict: bool) -> str:
    problems = list(problems)
    lines = "\n  ".join(str(p) for p in problems)
    why = "a strict run wants every row right" if strict and good else "no usable row is left"
    return f"the query table has {len(problems)} problem(s), and {why}:\n  {lines}"


# find


def find(run: Run, node: PacsNode, batch: int, cancelled: Cancelled = never) -> dict[str, int]:
    """Find the series of one batch of rows.

    Returns:
        How many rows ended in which state, and how many series they found.

    Raises:
        PacsError: the archive could not be asked at all.
    """
    from pacsifier_ops.dimse.find import Finder
    from pacsifier_ops.extract.retrieve import BACK_OFF, open_session, retrying

    counts: dict[str, int] = {}
    lines: list[dict[str, Any]] = []
    with open_session(node_for(node, run.request), leases(), cancelled=cancelled) as session:
        finder = Finder(session)
        for row in read_jsonl(run.part("rows", batch)):
            state, reason, found = ROW_FOUND, "", []
            try:
                found = retrying(partial(finder.series, row["keys"]), session, BACK_OFF, cancelled)
            except Undecidable as error:
                state, reason = ROW_UNDECIDABLE, str(error)
            except (ResultLimit, Unsupported) as error:
                state, reason = ROW_FAILED, str(error)
            if state == ROW_FOUND and not found:
                state = ROW_EMPTY
            counts[state] = counts.get(state, 0) + 1
            counts["series"] = counts.get("series", 0) + len(found)
            lines.append(
                {
                    "line": row["line"],
                    "state": state,
                    "reason": reason,
                    "new_id": row["new_id"],
                    "warnings": finder.warnings,
                    "series": [[s.study_uid, s.series_uid, s.attributes] for s in found],
                }
            )
    write_jsonl(run.part("found", batch), lines)
    return counts


# plan


@dataclass
class _Wanted:
    """A series of the cohort while it is being planned; its attributes stay encoded to save memory."""

    study_uid: str
    series_uid: str
    patient: str
    attributes: bytes
    lines: list[int] = field(default_factory=list)
    new_ids: set[str] = field(default_factory=set)


@dataclass
class Plan:
    """What `plan` made.

    Attributes:
        units: numbers of the retrieval units.
        series, instances: size of the cohort; instances as far as the archive told.
        conflicts: patients left out because rows gave them different pseudonyms.
    """

    units: list[int]
    series: int
    instances: int
    conflicts: int = 0


def plan(run: Run, node: PacsNode) -> Plan:
    """Merge what the rows found into one list without duplicates, give folders, and cut it into units.

    Raises:
        TooManySeries: the cohort is larger than allowed; nothing is fetched.
    """
    from pacsifier_ops.extract.retrieve import Planned

    request = run.request
    node = node_for(node, request)
    run.forget(("units", "results"))
    wanted = _merge(run)
    if len(wanted) > node.max_series and request.retrieve == "save":
        images = sum(_instances(json.loads(w.attributes)) for w in wanted.values())
        raise TooManySeries(
            f"the query table finds {len(wanted)} series (about {images} images), more than the {node.max_series} that "
            f"{node.name} allows without a person's word; nothing was fetched. Narrow the table, or raise max_series "
            "for this run"
        )
    new_ids, conflicts = _new_ids(wanted)
    for series_uid in [uid for uid, item in wanted.items() if item.patient in conflicts]:
        del wanted[series_uid]
    tree = Tree.open(request.out_directory)
    with leases().acquire(f"names:{tree.key}"):
        names = tree.load_names()
        folders = _folders(names, wanted)
        tree.save_names(names)
    order, instances = list(wanted.values()), 0
    units = slices(len(order))
    for number, unit in enumerate(units):
        planned = []
        for i in unit:
            item = order[i]
            attributes = json.loads(item.attributes)
            instances += _instances(attributes)
            folder, new_id = folders[item.series_uid], new_ids.get(item.patient, "")
            planned.append(Planned(i + 1, item.lines, item.study_uid, item.series_uid, attributes, folder, new_id))
        write_jsonl(run.part("units", number), map(asdict, planned))
    conflicting = sorted({line for lines in conflicts.values() for line in lines})
    write_json(run.folder / "plan.json", {"units": len(units), "conflicting_lines": conflicting})
    nothing_to_do = request.retrieve == "none" and not request.info
    return Plan([] if nothing_to_do else list(range(len(units))), len(order), instances, len(conflicts))


def _merge(run: Run) -> dict[str, _Wanted]:
    wanted: dict[str, _Wanted] = {}
    for part in run.parts("found"):
        for row in read_jsonl(part):
            for study_uid, series_uid, attributes in row["series"]:
                item = wanted.get(series_uid)
                if item is None:
                    text = json.dumps(attributes, ensure_ascii=False).encode()
                    patient = patient_identity(attributes, study_uid)
                    item = wanted[series_uid] = _Wanted(study_uid, series_uid, patient, text)
                item.lines.append(row["line"])
                if row["new_id"]:
                    item.new_ids.add(row["new_id"])
    return wanted


def _new_ids(wanted: Mapping[str, _Wanted]) -> tuple[dict[str, str], dict[str, set[int]]]:
    """The pseudonym of each patient that has one, and the lines of those whom rows gave different ones."""
    given: dict[str, set[str]] = {}
    for item in wanted.values():
        if item.new_ids:
            given.setdefault(item.patient, set()).update(item.new_ids)
    conflicts: dict[str, set[int]] = {patient: set() for patient, ids in given.items() if len(ids) > 1}
    for item in wanted.values():
        if item.patient in conflicts:
            conflicts[item.patient].update(item.lines)
    return {patient: next(iter(ids)) for patient, ids in given.items()}, conflicts


def _folders(names: Names, wanted: Mapping[str, _Wanted]) -> dict[str, str]:
    """Folders of all series, given in UID order, so that every run gives the same ones."""
    order = sorted(wanted.values(), key=lambda item: (item.study_uid, item.series_uid))
    return {i.series_uid: names.series(json.loads(i.attributes), i.study_uid, i.series_uid) for i in order}


def _instances(attributes: Mapping[str, str]) -> int:
    text = attributes.get("NumberOfSeriesRelatedInstances", "")
    return int(text) if text.isdigit() else 0


# retrieve


def retrieve(
    run: Run,
    node: PacsNode,
    unit: int,
    cancelled: Cancelled = never,
    progress: Callable[[int], None] = lambda size: None,
    done: Callable[[SeriesAccount], None] = lambda account: None,
    receivers: Receivers | None = None,
) -> dict[str, int | float]:
    """Retrieve the series of one unit; what an earlier attempt completed is kept.

    Args:
        progress: told the bytes of every object that arrives.
        done: told the account of every series as it ends.
        receivers: where C-MOVE delivers, for callers that retrieve several units at once.

    Returns:
        Sums over the unit's series, without identifiers.

    Raises:
        PacsifierError: the PACS, the receiver or the disk, after the retries that make sense here. The accounts
            of the series done so far are kept.
    """
    from pacsifier_ops.extract.retrieve import Planned, Retriever, write_dump, write_new_id

    request = run.request
    node = node_for(node, request)
    tree = Tree.open(request.out_directory)
    planned = [Planned(**item) for item in read_jsonl(run.part("units", unit))]
    results = run.part("results", unit)
    earlier = (SeriesAccount(**item) for item in read_jsonl(results)) if results.exists() else iter(())
    accounts = {a.number: a for a in earlier if a.state in (SERIES_COMPLETE, SERIES_LISTED)}
    with ExitStack() as stack:
        if receivers is None:
            receivers = stack.enter_context(closing(receivers_for(run, node)))
        incoming, quarantine = tree.incoming(run.name), run.folder / "quarantine"
        retriever = Retriever(node, leases(), tree, receivers, incoming, quarantine, cancelled, progress)
        stack.enter_context(retriever)
        for item in planned:
            if item.number in accounts:
                continue
            accounts[item.number] = account = item.account()
            try:
                if request.info:
                    write_dump(tree, item)
                if item.new_id:
                    write_new_id(tree, item)
                if request.retrieve == "save":
                    retriever.retrieve(item, account)
                else:
                    account.state, account.expected = SERIES_LISTED, None
            except PacsifierError as error:
                account.reason = account.reason or str(error)
                raise
            finally:
                write_jsonl(results, (asdict(a) for _, a in sorted(accounts.items())))
                done(account)
    return RunAccount(run.name, "", "", "", "", series=list(accounts.values())).totals()


def receivers_for(run: Run, node: PacsNode) -> Receivers:
    """Where C-MOVE delivers in this process; close it at the end."""
    from pacsifier_ops.extract.receiving import Receivers

    tree = Tree.open(run.request.out_directory)
    return Receivers(node, leases(), tree.spool(run.name), run.folder / "quarantine")


# report


def report(run: Run) -> RunAccount:
    """Close the books: accounts, `logs/pacsifier_log.csv`, the report. Works on whatever the run left.

    Returns:
        The accounts; their `verdict` is the run's.

    Raises:
        QueryTableError: the run ended before it had rows to account for.
    """
    from pacsifier_ops.extract.closing import close_books

    if not run.part("rows").exists():
        raise QueryTableError("the run ended before the query table was taken in; see the error of the step prepare")
    return close_books(run)
