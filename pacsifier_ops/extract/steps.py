"""The steps of an extract run: prepare → find → plan → retrieve → report.

Each is one function over the run's folder; the DAG's operators and the command line call the same ones. Each may
be killed and called again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from sys import intern
from typing import TYPE_CHECKING

from pacsifier_ops.base.config import PacsNode, node_names
from pacsifier_ops.base.errors import ConfigError, QueryTableError, StorageError, TooManySeries, TreeError
from pacsifier_ops.base.files import read_jsonl, storage_errors, write_json
from pacsifier_ops.base.identity import SeriesId, two_people
from pacsifier_ops.extract.fetching import Moving, Retrieval, node_for, plan_of, receivers_for
from pacsifier_ops.extract.run import RETRIEVE, SEARCH, SEVERAL_NEW_IDS, SEVERAL_PEOPLE, Planned, Request, instances_of
from pacsifier_ops.extract.size import Size, exceeded, without_room
from pacsifier_ops.runs import approvals, job
from pacsifier_ops.runs.accounts import (
    MOVE,
    NONE,
    ROW_BAD,
    SAVE,
    RowAccount,
    RunAccount,
)
from pacsifier_ops.runs.folder import MOST, Run, never, slices
from pacsifier_ops.runs.job import Question, begin, expect
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.ledger import SeriesLedger
from pacsifier_ops.state.tree import Names, Tree, patient_identity

if TYPE_CHECKING:
    from pacsifier_ops.query.table import QueryRow

#: The archive of a run, or several in the order in which they are asked.
Archives = PacsNode | Sequence[PacsNode]

#: What the steps keep in the run's folder; forgotten when the first one begins anew.
KEPT = (*job.KEPT, "rows", "table", "found", "plan", "thumbnails")


def in_order(archives: Archives, request: Request) -> list[PacsNode]:
    """The archives as this run uses them, in the order in which they are asked."""
    return [node_for(node, request) for node in ([archives] if isinstance(archives, PacsNode) else archives)]


# prepare


def prepare(
    run: Run, request: Request, archives: Archives, most: int = MOST, destination: PacsNode | None = None
) -> list[int]:
    """Read and check the whole query table, then make sure that the PACS answers and the output folder can be written.

    Args:
        most: batches to be made at most; each is found over one association.
        destination: where images are moved to, if that node can be asked what it holds; without one they go to the
            archive's move_aet.

    Returns:
        Numbers of the batches of rows to be found.

    Raises:
        TableRefused: the table is refused as a whole, holds no usable row, or (strict) any bad one; the reasons are in
            its text, and with the values in the run's problems.txt.
        PacsError: the PACS does not answer, or not to us.
        ConfigError: what was asked for contradicts itself; or images are to be moved, and nothing says where to.
        TreeError: the output folder cannot be written.
        ReceiverError: all is to be fetched by C-MOVE, and our receiver cannot listen.
        StorageError: the run's folder cannot be written.
    """
    from pacsifier_ops.query.problems import TableRefused
    from pacsifier_ops.query.table import read_query_table

    _refuse_contradictions(request, destination)
    nodes = in_order(archives, request)
    names = node_names(node.name for node in nodes)
    request = replace(request, pacs=", ".join(names))
    if request.retrieve == MOVE:
        request = _with_destination(request, nodes, destination)
    request = begin(run, request, KEPT)
    table = read_query_table(request.queryfile, request)
    reasons: dict[int, list[str]] = {}
    for problem in table.problems:
        reasons.setdefault(problem.line, []).append(problem.shown())
        run.note(f"query table: {problem.shown()}")
    if reasons and (request.strict or not table.rows):
        why = "a strict run wants every row right" if request.strict and table.rows else "no usable row is left"
        raise TableRefused(table.problems, f"the query table has {len(table.problems)} problem(s), and {why}")
    if not table.rows:
        raise QueryTableError("the query table holds no row; give at least one below the header")
    same_as = {again: row.line for row in table.rows for again in row.duplicates}
    batches = slices(len(table.rows), most)
    with storage_errors("the state root"):
        told = {"columns": table.columns, "same_as": list(same_as.items()), "notes": table.notes}
        write_json(run.folder / "table.json", told)
        expect(run, rows=len(table.rows), bad_rows=len(table.bad_rows), repeated_rows=len(same_as))
        for number, batch in enumerate(batches):
            rows = (table.rows[i] for i in batch)
            lines = ({"line": row.line, "keys": row.keys, "exact": row.exact, **_of_patient(row)} for row in rows)
            run.write_part("rows", number, lines)
        accounts = [RowAccount(r.line, r.cells, warnings=list(r.warnings)) for r in table.rows]
        accounts += [RowAccount(r.line, r.cells, ROW_BAD, reason="; ".join(reasons[r.line])) for r in table.bad_rows]
        run.write_part("rows", None, map(asdict, accounts))
    tree = Tree.open(request.out_directory, request.names)
    try:
        with tree.workplace(shared()):
            pass
    except StorageError as error:
        raise TreeError(f"{error}; check out_directory") from error
    for node in nodes:
        _make_sure_of(node)
        if request.retrieve == SAVE and node.method == "move":
            with closing(receivers_for(run, node)) as receivers:
                receivers.spool()
    if request.retrieve == MOVE and destination is not None:
        _make_sure_of(destination)
    return list(range(len(batches)))


def _of_patient(row: QueryRow) -> dict[str, str]:
    """What a row says of its patient beside its keys."""
    return {"new_id": row.new_id, "accept_patient_id_of": row.accept_patient_id_of}


def _refuse_contradictions(request: Request, destination: PacsNode | None) -> None:
    """Nobody is to believe that something was done which was not."""
    if request.retrieve not in RETRIEVE:
        raise ConfigError(f"retrieve is none of {', '.join(RETRIEVE)}")
    if request.search not in SEARCH:
        raise ConfigError(f"search is none of {', '.join(SEARCH)}")
    wrong = []
    if destination is not None and request.retrieve != MOVE:
        wrong.append("a destination is where images are moved to; leave it empty, or set retrieve to move")
    if request.resend and request.retrieve != MOVE:
        wrong.append("to move again is for moving; switch it off, or set retrieve to move")
    if request.accept_patient_id_of and request.retrieve != SAVE:
        wrong.append("whose objects are accepted is for saving; leave it empty, or set retrieve to save")
    if request.refetch and request.retrieve != SAVE:
        wrong.append("to fetch again is for saving; switch it off, or set retrieve to save")
    if request.method and request.retrieve != SAVE:
        wrong.append("the method is how images are fetched; leave it empty, or set retrieve to save")
    if wrong:
        raise ConfigError(f"retrieve is {request.retrieve}: {'; '.join(wrong)}")


def _make_sure_of(node: PacsNode) -> None:
    """See that a node answers, and answers us."""
    from pacsifier_ops.dimse.attempts import open_session
    from pacsifier_ops.dimse.check import nobody

    with open_session(node, shared()) as session:
        session.echo()
        session.find(nobody())


def _with_destination(request: Request, nodes: Sequence[PacsNode], destination: PacsNode | None) -> Request:
    """The request with the AE title that images are moved to."""
    if destination is not None:
        aet = destination.called_aet
        return replace(request, move_aet=aet, destination=f"{destination.name} ({aet})")
    for node in nodes:
        if not node.move_aet:
            raise ConfigError(
                f"{node.name}: nothing says where to move the images; set move_aet (move_AET in config.json), or give "
                "the destination"
            )
    aet = nodes[0].move_aet
    if any(node.move_aet != aet for node in nodes):
        raise ConfigError("the archives have different move_aet; give the destination, or ask each in a run of its own")
    return replace(request, move_aet=aet, destination=aet)


# find


def find(run: Run, archives: Archives, batch: int, cancelled: Question = never) -> dict[str, int]:
    """Find the series of one batch of rows.

    Returns:
        How many rows ended in which state, and how many series they found.

    Raises:
        PacsError: an archive could not be asked at all.
        StorageError: the run's folder cannot be written.
    """
    from pacsifier_ops.extract.search import search

    request = Request.of(run)
    rows = list(read_jsonl(run.part("rows", batch)))
    asked = search(rows, in_order(archives, request), request.search, cancelled)
    with storage_errors("the state root"):
        run.write_part("found", batch, chain.from_iterable(one.lines() for one in asked))
    return dict(Counter(one.state for one in asked)) | {"series": sum(len(one.found) for one in asked)}


# plan


class _Wanted:
    """A series of the cohort while it is being planned; small, for there may be a hundred thousand of them."""

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
        "series_uid",
        "study_uid",
    )

    def __init__(self, study_uid: str, series_uid: str, attributes: dict[str, str], pacs: str) -> None:
        self.study_uid = study_uid
        self.series_uid = series_uid
        self.take(attributes, pacs)
        self.folder = ""
        self.lines: tuple[int, ...] = ()
        self.elsewhere: tuple[int, ...] = ()
        self.new_ids: tuple[str, ...] = ()
        self.accept_patient_id_of = ""

    def take(self, attributes: dict[str, str], pacs: str) -> None:
        """Take over what an archive told of it: it is fetched there."""
        self.patient = patient_identity(attributes, self.study_uid)
        self.attributes = json.dumps(attributes, ensure_ascii=False).encode()
        self.modality = intern(attributes.get("Modality", ""))
        self.instances = instances_of(attributes)
        self.pacs = intern(pacs)

    @property
    def series(self) -> SeriesId:
        return SeriesId(self.study_uid, self.series_uid)

    def is_same(self, other: _Wanted) -> bool:
        """Whether it is the same series, of the same patient."""
        return self.attributes == other.attributes or not two_people(self.told(), other.told())

    def told(self) -> dict[str, str]:
        """What the archive told, by keyword."""
        told: dict[str, str] = json.loads(self.attributes)
        return told


@dataclass
class Plan:
    """What `plan` made.

    Attributes:
        units: numbers of the retrieval units.
        units_of: the same by the name of the archive that their series are fetched from.
        series, instances: size of the cohort; instances as far as the archive told.
        conflicts: patients left out, for rows or answers of the archive contradict each other about them.
    """

    units: list[int]
    series: int
    instances: int
    conflicts: int = 0
    units_of: dict[str, list[int]] = field(default_factory=dict)


def plan(run: Run, archives: Archives) -> Plan:
    """Merge what the rows found into one list without duplicates, give folders, and cut it into units.

    Raises:
        TooManySeries: the cohort is larger than allowed, and nobody is to be asked; nothing is fetched.
        TreeError: the output folder cannot be written.
        ConfigError: a setting is wrong.
        StorageError: the run's folder cannot be written.
    """
    request = Request.of(run)
    nodes = in_order(archives, request)
    run.forget(("plan", "units", "results"))
    wanted = list(_merge(run))
    new_ids, conflicts = _new_ids(wanted)
    order = [item for item in wanted if item.patient not in conflicts.patients]
    order = conflicts.without_shared(order)
    conflicts.tell_elsewhere(order)
    del wanted
    tree = Tree.open(request.out_directory)
    # By archive, as long as nothing else says which.
    parts = {node.name: [item for item in order if item.pacs == node.name] for node in nodes}
    order = list(chain.from_iterable(parts.values()))
    sizes = {node.name: _size(request, tree, parts[node.name], node) for node in nodes if parts[node.name]}
    exceeds = _exceeded(request, sizes, nodes)
    with storage_errors("the state root"), shared().acquire(f"names:{tree.key}"):
        names = tree.load_names()
        for item in sorted(order, key=lambda item: (item.study_uid, item.series_uid)):
            # In UID order, so that every run gives the same ones.
            item.folder = names.series(item.told(), item.study_uid, item.series_uid)
        tree.save_names(names)
    units_of: dict[str, list[int]] = {}
    with storage_errors("the state root"):
        number = first = 0
        for name, part in parts.items():
            for unit in slices(len(part)):
                planned = (_planned(first + i + 1, part[i], new_ids, name if len(nodes) > 1 else "") for i in unit)
                run.write_part("units", number, map(asdict, planned))
                units_of.setdefault(name, []).append(number)
                number += 1
            first += len(part)
        instances = sum(item.instances or 0 for item in order)
        counts = {"units": number, "series": len(order), "instances": instances}
        told = {name: asdict(size) for name, size in sizes.items()}
        decided = {"sizes": told, "exceeds": exceeds, "digest": _digest(request, order)}
        write_json(run.folder / "plan.json", {**counts, "conflicts": conflicts.reasons, **decided})
        expect(run, series=len(order), instances=instances)
    if request.retrieve == NONE and not request.info:
        units_of = {}
    units = list(chain.from_iterable(units_of.values()))
    return Plan(units, len(order), instances, len(conflicts.patients), units_of)


def _size(request: Request, tree: Tree, order: Iterable[_Wanted], node: PacsNode) -> Size:
    """How much is to be fetched; of what is moved, nobody here knows how much is there."""
    names = tree.load_names() if request.retrieve == SAVE else Names()
    series = (
        (item.modality, item.instances, _there(request, tree, item.series, names.folder_of(item.series)))
        for item in order
    )
    with storage_errors("the output folder"):
        return Size.of(series, node, shutil.disk_usage(tree.root).free / 1e9)


def _there(request: Request, tree: Tree, series: SeriesId, folder: str | None) -> int:
    """How many instances of a series need not be fetched any more, by the names of its files: that is to be quick."""
    if folder is None:
        return 0
    entries = SeriesLedger(tree.state, series).entries.values()
    try:
        names = set(os.listdir(tree.root / folder)) if entries else set()
    except FileNotFoundError:
        names = set()
    return sum(entry.file in names or (bool(entry.handed_on) and not request.refetch) for entry in entries)


def _exceeded(request: Request, sizes: Mapping[str, Size], nodes: Sequence[PacsNode]) -> list[str]:
    """What somebody has to approve of before anything is fetched, in words and counts only."""
    if request.retrieve == NONE:
        return []
    over = [sentence for node in nodes if node.name in sizes for sentence in exceeded(sizes[node.name], node)]
    together = sum(size.series for size in sizes.values())
    if not over and request.max_series and together > request.max_series:
        over = [f"{together} series, more than the {request.max_series} that this run allows"]
    if request.approval:
        return over + (without_room(sizes.values()) if request.retrieve == SAVE else [])
    if over:
        raise TooManySeries(
            f"the query table finds {'; '.join(over)} without a person's word; nothing was fetched. Narrow the table, "
            "raise the limit (max_series for this run), or have somebody asked (approval)"
        )
    return []


def _digest(request: Request, order: Iterable[_Wanted]) -> str:
    """SHA-256 of which series go from where to where, with the instances that the archive tells of."""
    whole = hashlib.sha256()
    whole.update("\0".join((request.pacs, request.retrieve, request.destination, str(request.out_directory))).encode())
    for item in sorted(order, key=lambda item: (item.study_uid, item.series_uid)):
        whole.update(f"\n{item.study_uid}\0{item.series_uid}\0{item.instances}".encode())
    return whole.hexdigest()


def _planned(number: int, item: _Wanted, new_ids: Mapping[str, str], pacs: str) -> Planned:
    return Planned(
        number,
        list(item.lines),
        item.study_uid,
        item.series_uid,
        item.told(),
        item.folder,
        new_ids.get(item.patient, ""),
        item.accept_patient_id_of,
        pacs,
    )


def _merge(run: Run) -> Iterator[_Wanted]:
    """What all rows found, each series once; under two patients it is two.

    A series that rows found at different archives is that of the first such row.
    """
    wanted: dict[SeriesId, list[_Wanted]] = {}
    for part in run.parts("found"):
        records = read_jsonl(part)
        for row in records:
            for study_uid, series_uid, attributes, pacs in islice(records, row["series"]):
                new = _Wanted(study_uid, series_uid, attributes, pacs)
                known = wanted.setdefault(new.series, [])
                item = next((item for item in known if item.is_same(new)), None)
                if item is None:
                    known.append(item := new)
                if new.pacs != item.pacs:
                    # Another row has found it at another archive, which tells it otherwise, or this one was not asked.
                    item.elsewhere += (row["line"],)
                    continue
                item.lines += (row["line"],)
                item.accept_patient_id_of = item.accept_patient_id_of or row.get("accept_patient_id_of", "")
                if row["new_id"] and row["new_id"] not in item.new_ids:
                    item.new_ids += (row["new_id"],)
    return chain.from_iterable(wanted.values())


@dataclass
class _Conflicts:
    """What contradicts itself, and is not fetched.

    Attributes:
        patients: those left out.
        reasons: by line of the query table.
    """

    patients: set[str] = field(default_factory=set)
    reasons: dict[int, str] = field(default_factory=dict)

    def leave_out(self, items: Iterable[_Wanted], reason: str) -> None:
        """Leave the patients of these series out."""
        for item in items:
            self.patients.add(item.patient)
            self._note(item, reason)

    def without_shared(self, items: Sequence[_Wanted]) -> list[_Wanted]:
        """The series without those that are held under two patients: no retrieval can tell them apart."""
        times = Counter(item.series for item in items)
        for item in items:
            if times[item.series] > 1:
                self._note(item, "a series of it is held under two patients; that series was left out")
        return [item for item in items if times[item.series] == 1]

    def tell_elsewhere(self, items: Iterable[_Wanted]) -> None:
        """Tell rows that found a series at another archive than the one that it is fetched from."""
        for item in items:
            for line in item.elsewhere:
                self.reasons.setdefault(
                    line,
                    f"another row has a series of it fetched from {item.pacs}, and this row found it elsewhere; ask "
                    "for this row in a run of its own, into another folder",
                )

    def _note(self, item: _Wanted, reason: str) -> None:
        for line in item.lines:
            self.reasons.setdefault(line, reason)


def _new_ids(wanted: Sequence[_Wanted]) -> tuple[dict[str, str], _Conflicts]:
    """The pseudonym of each patient that has one, and what of rows and answers contradicts itself about them."""
    given: dict[str, set[str]] = {}
    people: dict[str, list[_Wanted]] = {}
    for item in wanted:
        for new_id in item.new_ids:
            given.setdefault(item.patient, set()).add(new_id)
            people.setdefault(new_id, []).append(item)
    conflicts = _Conflicts()
    several = {patient for patient, ids in given.items() if len(ids) > 1}
    conflicts.leave_out((item for item in wanted if item.patient in several), SEVERAL_NEW_IDS)
    for items in people.values():
        if _several_people(items):
            conflicts.leave_out(items, SEVERAL_PEOPLE)
    return {patient: next(iter(ids)) for patient, ids in given.items()}, conflicts


def _several_people(items: Sequence[_Wanted]) -> bool:
    """Whether a row finds several people, or a PatientID stands for several."""
    seen: dict[object, list[dict[str, str]]] = {}
    for item in items:
        told = item.told()
        for key in (*item.lines, told.get("PatientID", "")):
            known = seen.setdefault(key, [])
            if any(two_people(told, other) for other in known):
                return True
            if not any(_whose(told) == _whose(other) for other in known):
                known.append(told)
    return False


def _whose(told: Mapping[str, str]) -> list[str]:
    return [told.get(key, "") for key in ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate")]


# approval


@dataclass(frozen=True)
class CohortQuestion:
    """What a person is to decide before a cohort is fetched.

    Attributes:
        digest: of the plan, hexadecimal.
        told: sentences, in counts only.
    """

    digest: str
    told: list[str]


def is_planned(run: Run) -> bool:
    """Whether the step plan has ended."""
    return (run.folder / "plan.json").exists()


def question(run: Run) -> CohortQuestion | None:
    """What a person is to decide before the cohort is fetched; None where nothing is, or that was approved already.

    Raises:
        NotApproved: nothing was planned.
    """
    plan = plan_of(run)
    decision = approvals.decision_on(run, approvals.COHORT)
    granted = decision and (decision.digest, decision.word) == (plan["digest"], approvals.APPROVED)
    if granted or not plan["exceeds"]:
        return None
    sizes = plan["sizes"]
    told = (f"{name}: {text}" if len(sizes) > 1 else text for name in sizes for text in Size(**sizes[name]).told())
    return CohortQuestion(plan["digest"], [*plan["exceeds"], *told])


# retrieve


def retrieve(
    run: Run, archives: Archives, unit: int, cancelled: Question = never, resumed: bool = False
) -> dict[str, int | float]:
    """Retrieve the series of one unit: see `job.Worker.unit`."""
    with Retrieval(run, archive_of(run, archives, unit), cancelled) as retrieval:
        return retrieval.unit(unit, resumed)


def archive_of(run: Run, archives: Archives, unit: int) -> PacsNode:
    """The archive that the series of a unit are fetched from.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(archives, PacsNode):
        return archives
    name = next((item.get("pacs", "") for item in read_jsonl(run.part("units", unit))), "")
    node = next((node for node in archives if node.name == name or not name), None)
    if node is None:
        raise ConfigError(f"unit {unit + 1} was planned for another PACS; begin the run anew from the step prepare")
    return node


def move(
    run: Run,
    archives: Archives,
    unit: int,
    destination: PacsNode | None = None,
    cancelled: Question = never,
    resumed: bool = False,
) -> dict[str, int | float]:
    """Have the series of one unit moved to another node: see `job.Worker.unit`."""
    with Moving(run, archive_of(run, archives, unit), destination, cancelled) as moving:
        return moving.unit(unit, resumed)


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
    return close_books(run, shared())
