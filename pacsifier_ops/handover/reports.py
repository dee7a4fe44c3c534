"""The steps that extract reports from their objects: prepare → extract → report.

A structured report becomes a text file (see `sr_text`). An encapsulated document becomes a PDF or XML file. Each step
is one function over the run's folder. The DAG's operators and the command line call the same functions. Each may be
killed and called again. Its files are those of every job (see `runs.job`): the items of a unit are series, with only
their reports.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import Cancelled, InputError
from pacsifier_ops.base.files import (
    data_file,
    data_folder,
    private_file,
    private_folder,
    readable,
    storage_errors,
    unpacked,
    unreadable,
    write_atomic,
)
from pacsifier_ops.base.tables import INTEGER, TEXT, write_table
from pacsifier_ops.handover.account import ToolAccount, write_books
from pacsifier_ops.handover.request import ReportsRequest
from pacsifier_ops.runs.approvals import ended_by
from pacsifier_ops.runs.folder import MOST, Run, in_units, never, now
from pacsifier_ops.runs.job import NOT_ATTEMPTED, Question, Worker, begin, cut, prepared
from pacsifier_ops.state.approved import DIFFERS, approved_of, lies_in
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import (
    IDENTIFIED,
    LOGS,
    Tree,
    marker_of,
    refuse_around,
    refuse_mixed,
    refuse_unfinished,
    state_of,
)
from pacsifier_ops.upload.run import SOP_CLASS, Outgoing

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from pacsifier_ops.dicom.files import DicomFile

#: The result for each report, without identifiers, in logs/ of the output folder.
SUMMARY = "pacsifier_reports.csv"
_COLUMNS = {
    "Number": INTEGER,
    "Kind": TEXT,
    "Outcome": TEXT,
    "Reason": TEXT,
    "Characters": INTEGER,
    "Title": TEXT,
    "Language": TEXT,
}

WRITTEN, THERE, LEFT_ALONE, PROBLEM = "written", "already there", "left alone", "problem"

#: SOP classes of structured reports (PS3.4 B.5), and those of them whose text is not extracted: they are measurements.
_STRUCTURED = "1.2.840.10008.5.1.4.1.1.88."
_MEASUREMENTS = {
    f"{_STRUCTURED}{number}": what
    for number, what in (
        *((67, "dose report"), (68, "dose report"), (73, "dose report"), (76, "dose report")),
        *((50, "CAD result"), (65, "CAD result"), (69, "CAD result")),
        *((70, "implantation plan"), (71, "acquisition context")),
        *((74, "imaging agent record"), (75, "imaging agent record")),
    )
}
_PDF, _CDA = "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.104.2"
_DOCUMENTS = {_PDF: ("PDF", ".pdf"), _CDA: ("CDA", ".xml")}
_TEXT = ("SR", ".txt")
NO_TEXT = "only measurements, codes or references"


@dataclass
class ExtractedReport:
    """The result for a report.

    Attributes:
        path: of the object, below the folder.
        kind: SR, PDF or CDA.
        outcome: WRITTEN, THERE, LEFT_ALONE or PROBLEM.
        reason: why it was left alone, or could not be read or written.
        characters: length of its text, in characters.
        title, language: see `sr_text.Narrative`.
    """

    path: str
    kind: str
    outcome: str = PROBLEM
    reason: str = ""
    characters: int = 0
    title: str = ""
    language: str = ""


@dataclass
class ExtractedReports:
    """The result for a series.

    Attributes:
        number: number of the series.
        reports: results in the order of the files.
    """

    number: int
    reports: list[ExtractedReport]

    def __post_init__(self) -> None:
        self.reports = [ExtractedReport(**one) if isinstance(one, dict) else one for one in self.reports]


def prepare(run: Run, request: ReportsRequest, most: int = MOST, cancelled: Question = never) -> list[int]:
    """Inspect every file of the folder, and divide the series with reports into units.

    Args:
        most: largest number of units.

    Returns:
        Numbers of the units.

    Raises:
        InputError: the folder cannot be read, or holds no DICOM file.
        TreeError: the folder or a part of it is half de-identified, or out_folder belongs to another kind of data set.
        StorageError: the run's folder cannot be written.
    """
    from pacsifier_ops.dicom.scan import scan

    given, out = request.folder.resolve(), request.out_folder.resolve()
    root = lies_in(given)
    request = begin(run, replace(request, folder=root, out_folder=out))
    if not (given.is_dir() and root.is_dir()):
        raise InputError("data_folder is not a folder; give the folder whose reports are wanted")
    refuse_unfinished([root, out])
    try:
        # Identified data is not handed over here, so it needs no approval. Other texts are as public as their objects.
        approved = None if state_of(root) == IDENTIFIED else approved_of(given)
        found = scan(root, cancelled, approved=approved)
    except OSError as error:
        raise InputError(f"data_folder cannot be read: {error.strerror}") from error
    refuse_unfinished(found.trees)
    refuse_mixed(found.trees)
    if out != root:
        refuse_around(out, state_of(root), "out_folder")  # texts identify patients if their objects do
    if not (found.series or found.bad_files):
        raise InputError("data_folder holds no DICOM file")
    reports = [chosen for files in found.series.values() if (chosen := [file for file in files if _is_report(file)])]
    others = sum(map(len, found.series.values())) - sum(map(len, reports))
    passed_over = {**found.passed_over, **({"no report": others} if others else {})}
    bad = [[file.path, file.reason] for file in found.bad_files]
    lines = [(Outgoing.of(i + 1, root, reports[i]) for i in unit) for unit in in_units(len(reports), most)]
    return cut(run, lines, {"passed_over": passed_over, "bad_files": bad})


def _is_report(file: DicomFile) -> bool:
    structured = file.sop_class_uid.startswith(_STRUCTURED) or file.modality == "SR"
    return structured or file.sop_class_uid in _DOCUMENTS


def extract(run: Run, unit: int, cancelled: Question = never) -> dict[str, int | float]:
    """Extract the reports of one unit. A report that cannot be read does not stop the others.

    Returns:
        The number of reports by outcome.

    Raises:
        Cancelled: `cancelled` returned True; the files written so far stay.
        TreeError: the folder is being de-identified.
        StorageError: out_folder or the run's folder cannot be written.
    """
    with ReportsWorker(run, cancelled) as worker:
        return worker.unit(unit)


class ReportsWorker(Worker[Outgoing, ExtractedReports]):
    """Extracts the reports of units of a run."""

    item, result = Outgoing, ExtractedReports

    def open(self, stack: ExitStack) -> None:
        """Create out_folder, and a folder for unfinished files."""
        self._request = request = ReportsRequest.of(self._run)
        self._make, self._mode = _modes(request)
        with storage_errors("out_folder"):
            self._make(request.out_folder)
        self._scratch = stack.enter_context(_tree_of(request.out_folder).workplace(shared()))
        refuse_unfinished([request.folder, request.out_folder])  # no conversion begins in a folder that is in use

    @classmethod
    def account(cls, series: Outgoing) -> ExtractedReports:
        """Return the result before any report is extracted."""
        kinds = [_DOCUMENTS.get(file[SOP_CLASS], _TEXT)[0] for file in series.files]
        names = [readable(Path(unpacked(file[0]))) for file in series.files]
        reports = [ExtractedReport(name, kind, reason=NOT_ATTEMPTED) for name, kind in zip(names, kinds, strict=True)]
        return ExtractedReports(series.number, reports)

    def work(self, series: Outgoing, result: ExtractedReports) -> ExtractedReports:
        """Extract the reports of a series."""
        for index, file in enumerate(series.objects(self._request.folder)):
            if self._cancelled():
                raise Cancelled("stopped on request")
            result.reports[index] = _extract(self._run, self._request, file, self._scratch, self._make, self._mode)
        return result

    def totals(self, results: Sequence[ExtractedReports]) -> dict[str, int | float]:
        """Return the number of reports by outcome."""
        return dict(Counter(one.outcome.replace(" ", "_") for result in results for one in result.reports))


def _tree_of(folder: Path) -> Tree:
    """Return the data set that a folder belongs to. In a folder that belongs to none, it holds unfinished files."""
    return Tree.around(folder) or Tree(folder, folder)


def _modes(request: ReportsRequest) -> tuple[Callable[[Path], Path], int]:
    """Return a function that makes folders, and the mode of files: texts identify patients if their objects do."""
    if state_of(request.folder) == IDENTIFIED:
        return private_folder, private_file()
    return data_folder, data_file()


def _extract(
    run: Run, request: ReportsRequest, file: DicomFile, scratch: Path, make: Callable[[Path], Path], mode: int
) -> ExtractedReport:
    """Extract one report, and return its result.

    Args:
        scratch: folder for unfinished files.
        make: creates the folder of the text, see `_modes`.
        mode: of the text file.
    """
    path = file.path.relative_to(request.folder)
    kind, suffix = _DOCUMENTS.get(file.sop_class_uid, _TEXT)
    result = ExtractedReport(readable(path), kind)
    if file.sop_class_uid in _MEASUREMENTS:
        return replace(result, outcome=LEFT_ALONE, reason=_MEASUREMENTS[file.sop_class_uid])
    try:
        content, summary = _content(run, file)
    except OSError as error:
        return replace(result, reason=unreadable(error))
    except ValueError as error:
        return replace(result, reason=str(error))
    if content is None:
        return replace(result, outcome=LEFT_ALONE, reason=NO_TEXT)
    name = f"Clean_Report_{file.sop_instance_uid.replace('.', '_')}{suffix}"
    with storage_errors("out_folder"):
        target = request.out_folder / path.parent / name
        make(target.parent)
        outcome, reason = _write(content, target, request.overwrite, scratch, mode)
    return replace(result, outcome=outcome, reason=reason, **summary)


def _content(run: Run, file: DicomFile) -> tuple[bytes | None, dict[str, Any]]:
    """Return the content of the report's file, None if it has no text, and fields of ExtractedReport for the summary.

    Raises:
        ValueError: the object is damaged, or is not the approved one; the reason in words.
        OSError: the object cannot be read.
    """
    from pydicom import dcmread

    from pacsifier_ops.dicom.files import check_whole
    from pacsifier_ops.handover.sr_text import narrative_of

    check_whole(file)
    content = file.path.read_bytes()
    if file.sha256 and sha256(content).hexdigest() != file.sha256:
        raise ValueError(DIFFERS)
    try:
        dataset = dcmread(BytesIO(content), force=True)
        if file.sop_class_uid in _DOCUMENTS:
            return _document(dataset, file.sop_class_uid), {}
        narrative = narrative_of(dataset)
    except (OSError, _NoDocument):
        raise
    except Exception as error:  # pydicom raises errors of many types for damaged files
        run.note("".join(traceback.format_exception(error)))
        raise ValueError("its content is damaged, or not encoded as the standard says") from None
    if narrative is None:
        return None, {}
    summary = {"characters": len(narrative.text), "title": narrative.title, "language": narrative.language}
    return narrative.text.encode(), summary


class _NoDocument(ValueError):
    """An object holds no document, or only a part of one."""


def _document(dataset: Dataset, sop_class: str) -> bytes:
    """Return an encapsulated document (PS3.3 C.24.2), without padding to an even length.

    Raises:
        ValueError: there is none, or only a part of one.
    """
    document, length = bytes(dataset.get("EncapsulatedDocument") or b""), dataset.get("EncapsulatedDocumentLength")
    if length is None:
        document = document.removesuffix(b"\0")
    elif length > len(document):
        raise _NoDocument("the document in it is cut off")
    elif not any(document[length:]):
        document = document[:length]
    if not document or (sop_class == _PDF and b"%PDF-" not in document[:1024]):
        raise _NoDocument("it holds no document of the kind that its SOP class names")
    return document


def _write(content: bytes, target: Path, overwrite: bool, scratch: Path, mode: int) -> tuple[str, str]:
    """Write a file unless it has this content already; return outcome and reason (see ExtractedReport).

    Raises:
        OSError: the file cannot be written; an existing one is unchanged.
    """
    with suppress(FileNotFoundError):
        if target.is_symlink() or not target.is_file():
            target.lstat()
            return PROBLEM, "a folder, a link or a device has the name of its text"
        if target.read_bytes() == content:
            return THERE, ""
        if not overwrite:
            return PROBLEM, "another file has the name of its text; move that file away, or use overwrite"
    write_atomic(target, content, mode, scratch)
    return WRITTEN, ""


def report(run: Run) -> ToolAccount:
    """Close the account, and write summary and report. An unfinished run is closed as well.

    Returns:
        The account; its `verdict` is that of the run.

    Raises:
        InputError: the run ended before the step prepare had inspected the folder.
        StorageError: summary or report cannot be written.
    """
    found, request = prepared(run), ReportsRequest.of(run)
    results = [one for _, result in ReportsWorker.outcomes(run) for one in result.reports]
    outcomes = Counter(result.outcome for result in results)
    left_alone = Counter(f"{LEFT_ALONE}: {result.reason}" for result in results if result.outcome == LEFT_ALONE)
    account = ToolAccount(
        run=run.name,
        action="reports",
        started=request.started,
        finished=now(),
        ended=ended_by(run),
        folder=str(request.folder),
        out_folder=str(request.out_folder),
        counts={"reports": len(results), **{outcome: outcomes[outcome] for outcome in (WRITTEN, THERE, LEFT_ALONE)}},
        problems=[*found["bad_files"], *((r.path, r.reason) for r in results if r.outcome == PROBLEM)],
        passed_over={**found["passed_over"], **left_alone},
    )
    tree = _tree_of(request.out_folder)
    make, mode = _modes(request)
    with storage_errors("out_folder"):
        make(request.out_folder / LOGS)
        with tree.workplace(shared()) as scratch:
            write_table(request.out_folder / LOGS / SUMMARY, _COLUMNS, _summary(results), mode, scratch)
    if not marker_of(tree.root):  # a folder that is no data set keeps no control folder
        with suppress(OSError):
            tree.incoming.rmdir()
            tree.incoming.parent.rmdir()
    write_books(run, account, "Reports")
    return account


def _summary(results: Iterable[ExtractedReport]) -> Iterator[tuple[object, ...]]:
    """Yield a row for each report, without identifiers."""
    for number, r in enumerate(results, 1):
        yield number, r.kind, r.outcome, r.reason, r.characters or None, r.title, r.language
