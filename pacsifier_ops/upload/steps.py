"""The steps of an upload run: prepare → send → report.

Each is one function over the run's folder; the DAG's operators and the command line call the same ones. Each may
be killed and called again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace

from pacsifier_ops.base.config import PacsNode
from pacsifier_ops.base.errors import InputError, TreeError
from pacsifier_ops.base.files import private_folder
from pacsifier_ops.runs.accounts import UPLOAD, FileAccount, RunAccount, SeriesAccount
from pacsifier_ops.runs.folder import MOST, Run, never, now, slices
from pacsifier_ops.runs.job import Question, begin, cut, prepared
from pacsifier_ops.runs.series import SeriesWorker
from pacsifier_ops.state.approved import approved_of, refuse_released_below
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import LOGS, refuse_around, refuse_mixed, refuse_unfinished, state_of
from pacsifier_ops.upload.run import Outgoing, UploadRequest


def prepare(
    run: Run, request: UploadRequest, node: PacsNode, most: int = MOST, cancelled: Question = never
) -> list[int]:
    """Make sure that the destination answers, look at every file of the folder, and cut its series into units.

    Args:
        most: units to be made at most.

    Returns:
        Numbers of the units to be sent.

    Raises:
        InputError: the folder cannot be read, or holds nothing to be sent.
        PacsError: the destination does not answer, or not to us.
        TreeError: the folder for the log cannot be written; or the folder is half de-identified, or part of it is.
        StorageError: the run's folder cannot be written.
    """
    from pacsifier_ops.dicom.scan import scan
    from pacsifier_ops.dimse.attempts import open_session

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
    with open_session(node, shared(), cancelled=cancelled) as session:
        session.echo()
    try:
        found = scan(root, cancelled, approved=approved)
    except OSError as error:
        raise InputError(f"upload_directory cannot be read: {error.strerror}") from error
    refuse_unfinished(found.trees)
    refuse_mixed(found.trees)
    if approved is None:
        refuse_released_below(found.trees)
    if not (found.series or found.bad_files or request.allow_empty):
        raise InputError("upload_directory holds no DICOM file that could be sent")
    order = list(found.series.values())
    bad = [asdict(file) for file in found.bad_files]
    counts = {"series": len(order), "instances": sum(map(len, order))}
    lines = [(Outgoing.of(i + 1, root, order[i]) for i in unit) for unit in slices(len(order), most)]
    return cut(run, lines, {"passed_over": found.passed_over, "bad_files": bad, **counts})


def send(run: Run, node: PacsNode, unit: int, cancelled: Question = never) -> dict[str, int | float]:
    """Send the series of one unit: see `Sending.unit`."""
    with Sending(run, node, cancelled) as sending:
        return sending.unit(unit)


class Sending(SeriesWorker[Outgoing]):
    """Sends units of a run, over one session that it keeps from unit to unit.

    Args:
        run, node: what is sent, and where to.
        cancelled: asked now and then; True ends the work, what the destination has confirmed stays so.
        progress: told the bytes of every object that the destination has taken.
        done: told the account of every series as it ends.
    """

    item = Outgoing

    def __init__(
        self,
        run: Run,
        node: PacsNode,
        cancelled: Question = never,
        progress: Callable[[int], None] = lambda size: None,
        done: Callable[[SeriesAccount], None] = lambda account: None,
    ) -> None:
        super().__init__(run, cancelled, done)
        self._node, self._progress = node, progress

    def open(self, stack: ExitStack) -> None:
        """Get ready to send."""
        from pacsifier_ops.upload.send import Sender

        run, request = self._run, UploadRequest.of(self._run)
        folder, resend = request.folder, request.resend
        sender = Sender(self._node, shared(), folder, resend, self._cancelled, self._progress, run.note)
        self._sender = stack.enter_context(sender)

    def transfer(self, series: Outgoing, account: SeriesAccount) -> None:
        """Send a series."""
        self._sender.send(series, account)


def report(run: Run) -> RunAccount:
    """Close the books: accounts, `logs/pacsifier_log.csv`, the report. Works on whatever the run left.

    Returns:
        The accounts; their `verdict` is the run's.

    Raises:
        InputError: the run ended before the folder was looked at.
        StorageError: log or report cannot be written.
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
    )
    write_books(run, account, request.out_directory / LOGS, ("Folder",))
    return account
