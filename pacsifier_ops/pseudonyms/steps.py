"""The steps of a pseudonymization: prepare → ask → report.

Each is one function over the run's folder; the DAG's operators and the command line call the same ones. Each may be
killed and called again: who is linked once is not asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from pacsifier_ops.base.errors import InputError, PatientsRefused, numbers
from pacsifier_ops.base.files import read_jsonl, storage_errors
from pacsifier_ops.base.tables import INTEGER, TEXT, write_table
from pacsifier_ops.base.words import plural
from pacsifier_ops.pseudonyms.linkage import Linkage, Person
from pacsifier_ops.pseudonyms.local import LocalSource
from pacsifier_ops.pseudonyms.mapping import MappingSource, read_mapping
from pacsifier_ops.pseudonyms.patients import Cohort, Patient, of_folder, of_table
from pacsifier_ops.pseudonyms.run import CUSTOM, DEID, PseudonymRequest
from pacsifier_ops.pseudonyms.secret import project_secret
from pacsifier_ops.query.table import QueryTable, read_query_table
from pacsifier_ops.runs import job
from pacsifier_ops.runs.accounts import COMPLETE, headline, incomplete
from pacsifier_ops.runs.approvals import Decision, ended_by
from pacsifier_ops.runs.figures import Figures
from pacsifier_ops.runs.folder import Run, never, now, slices
from pacsifier_ops.runs.job import Question, Worker, begin, close, cut, prepared
from pacsifier_ops.runs.pages import VerdictBox, page

#: What the steps keep in the run's folder; forgotten when the first one begins anew.
KEPT = (*job.KEPT, "patients")

#: PACSIFIER's log of pseudonyms; its columns after those of the query table, and their types.
LOG = "log_get_pseudonyms.csv"
LOG_COLUMNS = {"NewPseudonym": TEXT, "DayShift": INTEGER}


#: Maximum number of batches. Each reads and writes the whole linkage.
BATCHES = 20


class Source(Protocol):
    """Where pseudonyms and day shifts come from: `batch_size` patients are asked for at once."""

    @property
    def batch_size(self) -> int: ...

    def ask(
        self, project: str, patient_ids: Sequence[str], cancelled: Callable[[], bool] = never
    ) -> Mapping[str, Person]:
        """Who these patients become, by PatientID: every one of them.

        Raises:
            PatientsRefused: what the source says of some of them cannot be used.
        """


def own_source(request: PseudonymRequest, secret: str = "") -> Source:
    """The source of a request that asks no service.

    Args:
        secret: the project's, where somebody else keeps it (see `project_secret`).

    Raises:
        InputError: the mapping file, the style, or the secret cannot be used.
    """
    if request.source == CUSTOM:
        key = project_secret(request.project, secret) if request.shift_days else None
        return MappingSource(read_mapping(Path(request.mappingfile)), key)
    return LocalSource(project_secret(request.project, secret), request.style, request.shift_days)


def prepare(run: Run, request: PseudonymRequest, batch_size: int, cancelled: Callable[[], bool] = never) -> list[int]:
    """Find out whose pseudonyms are wanted, and cut those that are to be asked for into batches.

    Args:
        batch_size: patients in a batch, or more where BATCHES would not do.

    Returns:
        Numbers of the batches; none where everybody is linked already.

    Raises:
        InputError: what was asked for does not go together, or table, folder, mapping or linkage cannot be used.
        StorageError: the run's folder cannot be written.
    """
    request.check()
    request = begin(run, request, KEPT)
    linkage = Linkage(request.project, request.folder)
    known = linkage.people()
    cohort = _cohort(request, cancelled)
    # To ask ourselves costs nothing, and tells of a mapping that was changed.
    linked = {one.patient_id: known.of(one.patient_id) if request.source == DEID else None for one in cohort.patients}
    asked = [one for one in cohort.patients if linked[one.patient_id] is None]
    _same_as_linked(linkage, cohort, linked)
    size = max(batch_size, -(-len(asked) // BATCHES))
    batches = slices(len(asked), max(1, -(-len(asked) // size)))
    with storage_errors("the state root"):
        run.write_part("patients", None, map(asdict, cohort.patients))
    counts = {"patients": len(cohort.patients), "asked": len(asked), "without_id": len(cohort.without_id)}
    left = {"passed_over": cohort.passed_over, "unnamed": len(cohort.unnamed), "place": cohort.place}
    units = cut(
        run,
        [[Batch(number, [asked[place] for place in batch])] for number, batch in enumerate(batches, 1)],
        {**counts, **left},
    )
    for path in cohort.unnamed:
        run.note(f"names no patient: {path}")
    if cohort.without_id:
        run.note(f"no PatientID, passed over: line {numbers(cohort.without_id)} of the query table")
    return units


def _same_as_linked(linkage: Linkage, cohort: Cohort, linked: Mapping[str, Person | None]) -> None:
    """Make sure that patients who are not asked for are those of the linkage: one of another issuer is somebody else.

    Raises:
        InputError: names the rows of those who are not.
    """
    same = [one for one in cohort.patients if linked[one.patient_id] is not None]
    with _told_by_rows(same, cohort.place):
        people = {patient: person for patient, person in linked.items() if person is not None}
        linkage.add(people, {one.patient_id: one.issuer for one in same})


def _cohort(request: PseudonymRequest, cancelled: Callable[[], bool]) -> Cohort:
    if request.in_folder:
        return of_folder(Path(request.in_folder), cancelled, request.allow_empty)
    if request.queryfile:
        return of_table(read_query_table(Path(request.queryfile), request))
    lines = enumerate(read_mapping(Path(request.mappingfile)), 1)
    return Cohort([Patient(patient, places=[number]) for number, patient in lines], "entry")


@dataclass
class Batch:
    """Patients that are asked for at once: the item of a unit.

    Attributes:
        number: from 1.
        patients: each as plain data, or as itself.
    """

    number: int
    patients: list[Patient]

    def __post_init__(self) -> None:
        self.patients = [Patient(**one) if isinstance(one, dict) else one for one in self.patients]

    def account(self) -> AskedPatients:
        """Return the result before anybody is asked for."""
        return AskedPatients(self.number)


@dataclass
class AskedPatients:
    """What became of a batch.

    Attributes:
        asked, new: how many were asked for, and how many of them are new in the linkage.
    """

    number: int
    asked: int = 0
    new: int = 0


def ask(run: Run, source: Source, unit: int, cancelled: Question = never) -> dict[str, int | float]:
    """Have the source say who the patients of a batch become, and keep it in the linkage.

    Returns:
        How many were asked for, and how many of them are new in the linkage.

    Raises:
        InputError: what the source says cannot be used, or contradicts the linkage; names the rows. Nothing of the
            batch was kept.
        PacsifierError: whatever the source raises.
    """
    with PseudonymWorker(run, source, cancelled) as asking:
        return asking.unit(unit)


class PseudonymWorker(Worker[Batch, AskedPatients]):
    """Has a source say who the patients of batches become."""

    item, result = Batch, AskedPatients

    def __init__(self, run: Run, source: Source, cancelled: Question = never) -> None:
        super().__init__(run, cancelled)
        self._source = source

    def open(self, stack: ExitStack) -> None:
        """Look who is linked."""
        self._request, self._place = PseudonymRequest.of(self._run), prepared(self._run)["place"]
        self._linkage = Linkage(self._request.project, self._request.folder)

    def work(self, batch: Batch, result: AskedPatients) -> AskedPatients:
        """Ask for a batch; nothing of it is kept where it cannot be used."""
        patients, known = batch.patients, self._linkage.people()
        if self._request.source == DEID:  # those of an attempt that was killed once it had kept them
            patients = [patient for patient in patients if known.of(patient.patient_id) is None]
        asked = len(patients)
        people: Mapping[str, Person] = {}
        while patients and not people:
            try:
                with _told_by_rows(patients, self._place):
                    ids = [patient.patient_id for patient in patients]
                    people = self._source.ask(self._request.project, ids, self._cancelled)
            except InputError as error:
                refused = error.__cause__
                if not (self._request.leave_out and isinstance(refused, PatientsRefused) and refused.patients):
                    raise
                self._run.note(f"left out: {error}")
                patients = [patient for number, patient in enumerate(patients) if number not in refused.patients]
        if patients:
            with _told_by_rows(patients, self._place):
                issuers = {patient.patient_id: patient.issuer for patient in patients}
                ordered = {patient.patient_id: people[patient.patient_id] for patient in patients}
                result.new = self._linkage.add(ordered, issuers)
        result.asked = asked
        return result

    def totals(self, results: Sequence[AskedPatients]) -> dict[str, int | float]:
        """Return how many patients were asked for, and how many of them are new in the linkage."""
        return {"asked": sum(one.asked for one in results), "new": sum(one.new for one in results)}


@contextmanager
def _told_by_rows(patients: Sequence[Patient], place: str) -> Iterator[None]:
    """Let an error about patients name the rows that they come from."""
    try:
        yield
    except PatientsRefused as error:
        places = sorted(number for position in error.patients for number in patients[position].places[:1])
        raise InputError(f"{place} {numbers(places)}: {error.what}") from error


@dataclass(frozen=True)
class Summary:
    """How a run ended, in counts.

    Attributes:
        verdict: complete; incomplete: not everybody is linked; or how a person ended the run before that.
        patients: patients of the cohort; linked are those who have a pseudonym and a day shift now.
        new: of these, linked in this run.
        unnamed: files of which nobody can say whose they are.
        passed_over: files that are no DICOM objects.
        without_id: rows of the query table that were passed over, since they have no PatientID.
        ended: the decision of a person that ended the run.
    """

    verdict: str
    started: str
    finished: str
    patients: int
    linked: int
    new: int
    unnamed: int
    passed_over: int
    without_id: int = 0
    action: str = "pseudonymize"
    ended: Decision | None = None

    def totals(self) -> dict[str, int]:
        """The counts."""
        names = ("patients", "linked", "new", "unnamed", "passed_over", "without_id")
        return {name: getattr(self, name) for name in names}

    def summary(self) -> dict[str, Any]:
        """All of it."""
        return {**{name: value for name, value in asdict(self).items() if name != "ended"}, "totals": self.totals()}

    def figures(self) -> Figures:
        """Return nothing: its verdict is enough for monitoring."""
        return Figures()


def report(run: Run) -> Summary:
    """Close the books: who is linked now; write `log_get_pseudonyms.csv` beside the linkage, and the report.

    Raises:
        InputError: the run ended before anybody was asked for, or the linkage cannot be used.
        StorageError: log or report cannot be written.
    """
    cohort, request = prepared(run, "it was known whose pseudonyms are wanted"), PseudonymRequest.of(run)
    linkage = Linkage(request.project, request.folder)
    people = linkage.people()
    linked = sum(people.of(item["patient_id"]) is not None for item in read_jsonl(run.part("patients")))
    complete, ended = linked == cohort["patients"] and not cohort["unnamed"], ended_by(run)
    summary = Summary(
        verdict=COMPLETE if complete else incomplete(ended),
        started=request.started,
        finished=now(),
        patients=cohort["patients"],
        linked=linked,
        new=sum(result.new for _, result in PseudonymWorker.outcomes(run)),
        unnamed=cohort["unnamed"],
        passed_over=cohort["passed_over"],
        without_id=cohort["without_id"],
        ended=ended,
    )
    with storage_errors("the folder of the linkage"):
        if request.queryfile:
            write_log(linkage.folder / LOG, read_query_table(Path(request.queryfile), request), people.of, linkage.mode)
    close(run, summary, _page(request, summary))
    return summary


def write_log(
    path: Path, table: QueryTable, person_of: Callable[[str], Person | None], mode: int | None = None
) -> None:
    """Write PACSIFIER's log: the query table, with pseudonym and day shift of each row's patient.

    Args:
        person_of: returns the new identity of a PatientID; None where it has none.
        mode: see `base.tables.write_table`.
    """
    lines: dict[int, list[Any]] = {}
    for row in table.rows:
        person = person_of(row.keys["PatientID"]) if row.keys.get("PatientID") else None
        new = [person.pseudonym, person.shift] if person else [None, None]
        for line in (row.line, *row.duplicates):
            lines[line] = [*row.cells.values(), *new]
    columns = {**dict.fromkeys(table.columns, TEXT), **LOG_COLUMNS}
    write_table(path, columns, (lines[line] for line in sorted(lines)), mode)


def _page(request: PseudonymRequest, summary: Summary) -> str:
    """The report: counts only; who became whom is told by the linkage alone."""
    if summary.verdict == COMPLETE:
        told = ["Every patient has a pseudonym and a day shift."]
    else:
        told = [f"{summary.linked} of {plural(summary.patients, 'patient')} linked."]
        if summary.linked < summary.patients:
            told.append("Run it again: who is linked is not asked for again.")
    if summary.unnamed:
        told.append(f"Nobody can say whose {plural(summary.unnamed, 'file')} are; problems.txt of the run names them.")
    if summary.without_id:
        rows = plural(summary.without_id, "row")
        told.append(f"{rows} of the query table passed over for want of a PatientID; problems.txt has the lines.")
    verdict = VerdictBox(summary.verdict, headline(summary), tuple(told))
    return page("pseudonyms/templates/report.html", request=request, summary=summary, verdict=verdict)
