"""The steps of an upload run: prepare → send → report.

Each step is one function that works on the run's folder. The operators of the DAG and the command line call the same
functions. Each may be killed and called again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import chain

from pacsifier_ops.base.config import Node
from pacsifier_ops.base.errors import InputError, TreeError
from pacsifier_ops.base.files import private_folder, storage_errors, write_jsonl
from pacsifier_ops.runs.accounts import COMPLETE, UPLOAD, FileAccount, RunAccount, SeriesAccount
from pacsifier_ops.runs.approvals import ended_by
from pacsifier_ops.runs.folder import MOST, Run, never, now, slices
from pacsifier_ops.runs.job import Question, begin, cut, prepared
from pacsifier_ops.runs.series import SeriesWorker
from pacsifier_ops.state import audit
from pacsifier_ops.state.approved import approved_of, refuse_released_below
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import LOGS, refuse_around, refuse_mixed, refuse_unfinished, state_of
from pacsifier_ops.upload.run import Outgoing, UploadRequest


def prepare(run: Run, request: UploadRequest, node: Node, most: int = MOST, cancelled: Question = never) -> list[int]:
    """Check that the destination answers, read every file of the folder, and cut its series into units.

    Args:
        run: the run.
        request: what the run is asked for.
        node: the destination.
        most: maximum number of units.
        cancelled: called regularly; True ends the work.

    Returns:
        The numbers of the units.

    Raises:
        InputError: the folder cannot be read, or has no DICOM file that can be sent.
        PacsError: the destination does not answer, or does not accept us.
        TreeError: the folder for the log cannot be written; or the folder or a part of it is half de-identified.
        StorageError: the run's folder cannot be written.
    """
    from pacsifier_ops.dicom.scan import scan
    from pacsifier_ops.upload.kinds import destination_at

    root = request.folder.resolve()
    request = begin(run, replace(request, folder=root, pacs=node.name))
    if not root.is_dir():
        raise InputError("upload_directory is not a folder; give the folder whose DICOM files are to be sent")
    refuse_unfinished([root])
    approved = approved_of(root)
    refuse_around(request.out_directory.resolve(), state_of(root), "out_directory", below=False)
    try:
        private_folder(request.out_directory / LOGS)
    except OSError as error:
        raise TreeError(f"the output folder cannot be written: {error.strerror}; check out_directory") from error
    with destination_at(node, shared(), cancelled) as destination:
        destination.check()
    try:
        found = scan(root, cancelled, approved=approved)
    except OSError as error:
        raise InputError(f"upload_directory cannot be read: {error.strerror}") from error
    refuse_unfinished(found.trees)
    refuse_mixed(found.trees)
    if approved is None:
        refuse_released_below(found.trees)
    if not (found.series or found.bad_files or request.allow_empty):
        raise InputError("upload_directory has no DICOM file that can be sent")
    order = list(found.series.values())
    bad = [asdict(file) for file in found.bad_files]
    counts = {"series": len(order), "instances": sum(map(len, order))}
    lines = [(Outgoing.of(i + 1, root, order[i]) for i in unit) for unit in slices(len(order), most)]
    return cut(run, lines, {"passed_over": found.passed_over, "bad_files": bad, **counts})


def send(
    run: Run,
    node: Node,
    unit: int,
    cancelled: Question = never,
    resumed: bool = False,
    overtaken: Question = never,
) -> dict[str, int | float]:
    """Send the series of one unit, see `job.Worker.unit`."""
    with Sending(run, node, cancelled) as sending:
        return sending.unit(unit, resumed, overtaken)


class Sending(SeriesWorker[Outgoing]):
    """A worker that sends units of a run. It keeps its session from unit to unit.

    Args:
        run: the run.
        node: the destination.
        cancelled: called regularly; True ends the work. Objects that were accepted count as delivered.
        progress: called with the size in bytes of every object that the destination has accepted.
        done: called with the account of every series when it ends.
    """

    item = Outgoing

    def __init__(
        self,
        run: Run,
        node: Node,
        cancelled: Question = never,
        progress: Callable[[int], None] = lambda size: None,
        done: Callable[[SeriesAccount], None] = lambda account: None,
    ) -> None:
        super().__init__(run, cancelled, done)
        self._node, self._progress = node, progress

    def open(self, stack: ExitStack) -> None:
        """Prepare the session."""
        from pacsifier_ops.upload.send import Sender

        run, request = self._run, UploadRequest.of(self._run)
        folder, resend = request.folder, request.resend
        self.urgency = request.urgency
        sender = Sender(self._node, shared(), folder, resend, self._cancelled, self._progress, run.note, self.place)
        self.at_node = self._sender = stack.enter_context(sender)

    def transfer(self, series: Outgoing, account: SeriesAccount) -> None:
        """Send a series."""
        self._sender.send(series, account)


def report(run: Run, node: Callable[[], Node] | None = None, cancelled: Question = never) -> RunAccount:
    """Close the account of a run, also of one that failed; write `logs/pacsifier_log.csv` and the report.

    Args:
        node: returns the destination; a store gets the manifest if the run is complete.
        cancelled: called regularly; True ends the work.

    Returns:
        The account; its `verdict` is the verdict of the run.

    Raises:
        InputError: the run ended before the folder was read.
        StorageError: log or report cannot be written.
        PacsError: the manifest could not be put.
    """
    from pacsifier_ops.runs.books import write_books

    found, request = prepared(run), UploadRequest.of(run)
    account = RunAccount(
        run=run.name,
        pacs="",
        action=UPLOAD,
        started=request.started,
        finished=now(),
        series=[account for _, account in Sending.outcomes(run)],
        destination=request.pacs,
        folder=str(request.folder),
        passed_over=found["passed_over"],
        bad_files=[FileAccount(**item) for item in found["bad_files"]],
        ended=ended_by(run),
    )
    write_books(run, account, request.out_directory / LOGS, ("Folder",))
    if node is not None and account.verdict == COMPLETE:
        _finish(run, request, node(), cancelled)
    sent = account.totals()["received"]
    audit.record(audit.EXPORTED, run=run.name, to=request.pacs, objects=sent, verdict=account.verdict)
    return account


def _finish(run: Run, request: UploadRequest, node: Node, cancelled: Question) -> None:
    """Put the manifest of a complete run, where the destination takes one."""
    from pacsifier_ops.upload.kinds import destination_at

    with destination_at(node, shared(), cancelled, root=request.folder) as destination:
        files = (file for series, _ in Sending.outcomes(run) for file in series.objects(request.folder))
        lines = ({**line} for file in files if (line := destination.listed(file)) is not None)
        if (first := next(lines, None)) is None:
            return
        with storage_errors("the state root"):
            write_jsonl(run.folder / "manifest.jsonl", chain([first], lines))
        destination.finish(run.folder / "manifest.jsonl")
