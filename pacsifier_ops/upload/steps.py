"""The steps of an upload run: prepare → send → report.

Each step is one function that works on the run's folder. The operators of the DAG and the command line call the same
functions. Each may be killed and called again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.config import Node
from pacsifier_ops.base.errors import DestinationRefused, InputError, TreeError
from pacsifier_ops.base.files import private_folder, read_jsonl, storage_errors, write_jsonl
from pacsifier_ops.base.identity import SeriesId, digest_of
from pacsifier_ops.runs import job
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, UPLOAD, FileAccount, RunAccount, SeriesAccount
from pacsifier_ops.runs.approvals import ended_by
from pacsifier_ops.runs.folder import MOST, Run, in_units, never, now
from pacsifier_ops.runs.job import Question, begin, cut, prepared
from pacsifier_ops.runs.series import SeriesWorker
from pacsifier_ops.runs.standing import note_plan
from pacsifier_ops.state import audit
from pacsifier_ops.state.approved import Approved, approved_of, lies_in, refuse_released_below
from pacsifier_ops.state.deliveries import Deliveries, data_set_name
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.standing import UNKNOWN
from pacsifier_ops.state.tree import LOGS, refuse_around, refuse_mixed, refuse_unfinished, state_folder, state_of
from pacsifier_ops.upload.nodes import FolderNode, StoreNode, refuse_no_store
from pacsifier_ops.upload.run import IN_STORE, Outgoing, UploadRequest
from pacsifier_ops.upload.standing import (
    CONFIRMED,
    confirmed,
    keep_sent,
    may_stand,
    plan_before,
    seen_before,
    standing_series,
)

if TYPE_CHECKING:
    from pacsifier_ops.dicom.files import DicomFile
    from pacsifier_ops.dicom.scan import Scan
    from pacsifier_ops.upload.send import Sender

#: Files and folders in the run's folder that the first step removes before it begins.
KEPT = (*job.KEPT, IN_STORE)

#: A release that has lasted so long asks the store once more for all, before the manifest says that it is there.
LONG = dt.timedelta(hours=1)

#: Key in scan.json: digest of the `key` of the destination that the first step has looked at.
PLACE = "place"


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
    from pacsifier_ops.dicom.scan import scan, texts_of_runs, with_texts

    given = request.folder.resolve()
    root = lies_in(given)
    name = _name_of(given, request.release)
    request = begin(run, replace(request, folder=root, pacs=node.name, data_set=name), KEPT)
    if not (given.is_dir() and root.is_dir()):
        raise InputError("upload_directory is not a folder; give the folder whose DICOM files are to be sent")
    refuse_unfinished([root])
    place, seen = digest_of(node.key), UNKNOWN
    if given == root and may_stand(request, node):
        seen = seen_before(request, place)
    refuse_around(request.out_directory.resolve(), state_of(root), "out_directory", below=False)
    try:
        private_folder(request.out_directory / LOGS)
    except OSError as error:
        raise TreeError(f"the output folder cannot be written: {error.strerror}; check out_directory") from error
    check_place(node, given, bool(request.release), cancelled)
    texts = texts_of_runs(root, cancelled)
    if texts is not None and (before := plan_before(request, place, seen)):
        note_plan(run, seen, True)
        told, series = before
        return cut(run, [], with_texts(told, texts), map(_standing, series), root)
    approved = _of_release(root, Path(request.release)) if request.release else approved_of(given)
    try:
        found = scan(root, cancelled, approved=approved)
        if texts is None or texts_of_runs(root, cancelled) != texts:
            seen = UNKNOWN  # a run has added one meanwhile
    except OSError as error:
        raise InputError(f"upload_directory cannot be read: {error.strerror}") from error
    refuse_unfinished(found.trees)
    refuse_mixed(found.trees)
    if approved is None:
        refuse_released_below(found.trees)
    if not (found.series or found.bad_files or request.allow_empty):
        raise InputError("upload_directory has no DICOM file that can be sent")
    beside = _beside(approved) if request.release and approved else []
    _refuse_among_others(run, request, node, list(found.series.values()), beside, cancelled)
    return _planned(run, request, node, found, beside, texts, seen, most)


def _planned(
    run: Run,
    request: UploadRequest,
    node: Node,
    found: Scan,
    beside: Sequence[Outgoing],
    texts: int | None,
    seen: str,
    most: int,
) -> list[int]:
    """Cut the series of a folder into units, but those that stand.

    Args:
        found, beside: the files that are to be sent, and those that go with them.
        texts: number of texts of runs; None: not known.
        seen: stamp of the folder; UNKNOWN: the next night has to look anew.
        most: maximum number of units.

    Returns:
        The numbers of the units.
    """
    place, root = digest_of(node.key), request.folder
    series = [Outgoing.of(number, root, files) for number, files in enumerate(found.series.values(), start=1)]
    told = {
        "passed_over": found.passed_over,
        "bad_files": [asdict(file) for file in found.bad_files],
        "beside": [asdict(file) for file in beside],
        "series": len(series),
        "instances": sum(map(len, found.series.values())),
        PLACE: place,
        "texts": texts,
    }
    if seen != UNKNOWN:
        told[CONFIRMED] = confirmed(place, series)
    standing = standing_series(run, request, node, series)
    work = [one for one in series if one.series not in standing]
    lines = [(work[place] for place in unit) for unit in in_units(len(work), most)]
    note_plan(run, seen, since=found.since)
    return cut(run, lines, told, (_standing(one) for one in series if one.series in standing), root)


def _standing(series: Outgoing) -> tuple[Outgoing, dict[str, Any]]:
    """Return a series that there is nothing to do for, and the line of its result."""
    return series, Sending.standing(series, len(series.files))


def check_place(node: Node, folder: Path, release: bool, cancelled: Question = never) -> None:
    """Check that a folder can be sent to a destination: it is there, we may write, and no other data set is there.

    Args:
        node: the destination.
        folder: the folder; it need not be there yet.
        release: it is a data set that is released straight to there.
        cancelled: called regularly; True ends the work.

    Raises:
        ConfigError: a data set cannot be released to such a destination.
        PacsError: it does not answer, or does not accept us.
    """
    from pacsifier_ops.upload.kinds import destination_at

    root, name = lies_in(folder), _name_of(folder, release)
    if release:
        refuse_no_store(node)
        _refuse_own(node, root)
    with destination_at(node, shared(), cancelled, root=root, data_set=name) as destination:
        destination.check()


def _of_release(root: Path, path: Path) -> Approved:
    """Return the list of a data set that is being released."""
    return Approved(root, {file["path"]: file["sha256"] for file in read_jsonl(path)})


def _beside(approved: Approved) -> list[Outgoing]:
    """Return the files of a data set beside its objects, if any: tables and the card.

    Their names stand for UIDs, and the folder of the data set for the series. So the files of that name of another data
    set, sent to the same place by a slip, are files of others.

    Raises:
        InputError: one is gone.
    """
    from pacsifier_ops.dicom.files import DicomFile

    files, series = [], state_folder(approved.root).name
    for name, sha256 in approved.files.items():
        if not name.endswith(".dcm"):
            try:
                status = (approved.root / name).stat()
            except OSError as error:
                raise InputError(f"a file of the data set cannot be read: {error.strerror}") from error
            at = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            files.append(DicomFile(approved.root / name, 0, *at, "", name, "", "", series, sha256=sha256))
    return [Outgoing.of(0, approved.root, files)] if files else []


def _refuse_own(node: Node, root: Path) -> None:
    """Check that a folder as store is none of the study that the data set is in: a file would confirm itself.

    Raises:
        DestinationRefused: it is.
    """
    if isinstance(node, FolderNode):
        place = Path(node.path).resolve()
        if root.parent in (place, *place.parents):
            raise DestinationRefused(f"{node.name}: path is in the folder of the study itself; give one elsewhere")


def _name_of(folder: Path, release: object) -> str:
    """Return the name by which stores know what is uploaded; a release has tables, so it is not what lies there else.

    Raises:
        StorageError: the state root cannot be written.
    """
    return data_set_name(f"{'release' if release else 'upload'}:{folder}")


def _refuse_among_others(
    run: Run,
    request: UploadRequest,
    node: Node,
    series: Sequence[Sequence[DicomFile]],
    beside: Sequence[Outgoing],
    cancelled: Question,
) -> None:
    """Check that no other data set lies at the destination, before an image comes to lie among its images.

    A manifest of an earlier version names no data set. It is that of this one where it lists something that was sent
    from here.

    Raises:
        DestinationRefused: its tables are there, or its manifest.
        PacsError: the destination does not answer.
    """
    from pacsifier_ops.upload.filestore import ANOTHERS, OCCUPIED
    from pacsifier_ops.upload.send import Sender

    root = request.folder
    with Sender(node, shared(), root, cancelled=cancelled, note=run.note, ends=True) as sender:
        listed = sender.again(sender.destination.unnamed)
        if listed and not any(_were_sent(node, root, files, listed) for files in series):
            raise DestinationRefused(f"{node.name}: {ANOTHERS}")
        for outgoing in beside:
            known = Deliveries(node.key, outgoing.series).confirmed
            files = [file for file in outgoing.objects(root) if file.sop_instance_uid not in known]
            if sender.again(partial(sender.destination.occupied, files)):
                raise DestinationRefused(f"{node.name}: {OCCUPIED}")


def _were_sent(node: Node, root: Path, files: Sequence[DicomFile], listed: Container[str]) -> bool:
    """Return whether one of the files of a series was sent under a path that is listed."""
    ours = [file for file in files if file.path.relative_to(root).as_posix() in listed]
    known = Deliveries(node.key, SeriesId(ours[0].study_uid, ours[0].series_uid)).confirmed if ours else ()
    return any(file.sop_instance_uid in known for file in ours)


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
        _refuse_another(prepared(run), self._node)
        folder, resend = request.folder, request.resend
        self.urgency = request.urgency
        more: dict[str, Any] = {"place": self.place, "data_set": request.data_set}
        sender = Sender(self._node, shared(), folder, resend, self._cancelled, self._progress, run.note, **more)
        self.at_node = self._sender = stack.enter_context(sender)

    def transfer(self, series: Outgoing, account: SeriesAccount) -> None:
        """Send a series."""
        self._sender.send(series, account)


def report(run: Run, node: Callable[[], Node] | None = None, cancelled: Question = never) -> RunAccount:
    """Close the account of a run, also of one that failed; write `logs/pacsifier_log.csv` and the report.

    Args:
        node: returns the destination. If the run is complete, a store gets the files beside the objects (of a release)
            and the manifest.
        cancelled: called regularly; True ends the work.

    Returns:
        The account; its `verdict` is the verdict of the run.

    Raises:
        InputError: the run ended before the folder was read.
        StorageError: log or report cannot be written.
        PacsError: these could not be put.
    """
    from pacsifier_ops.runs.books import write_books

    found, request = prepared(run), UploadRequest.of(run)
    account = RunAccount(
        run=run.name,
        pacs="",
        action=UPLOAD,
        started=request.started,
        finished=now(),
        series=sorted((account for _, account in Sending.outcomes(run)), key=attrgetter("number")),
        destination=request.pacs,
        folder=str(request.folder),
        passed_over=found["passed_over"],
        bad_files=[FileAccount(**item) for item in found["bad_files"]],
        ended=ended_by(run),
    )
    write_books(run, account, request.out_directory / LOGS, ("Folder",))
    keep_sent(run, request, str(found.get(PLACE, "")), partial(Sending.outcomes, run))
    verdict = INCOMPLETE  # until the store has the rest as well
    try:
        if node is not None and account.verdict == COMPLETE:
            _finish(run, request, node(), [Outgoing(**item) for item in found.get("beside", ())], cancelled)
        verdict = account.verdict
    finally:
        sent = account.totals()["received"]
        audit.record(audit.EXPORTED, run=run.name, to=request.pacs, objects=sent, verdict=verdict)
    return account


def _finish(run: Run, request: UploadRequest, node: Node, beside: Sequence[Outgoing], cancelled: Question) -> None:
    """Put what lies beside the objects of a complete run, and then the manifest, where the destination takes one.

    A reader of the store who finds the manifest finds all that it lists. The run keeps it, see IN_STORE.
    """
    from pacsifier_ops.upload.filestore import DATA_SET
    from pacsifier_ops.upload.send import Sender

    _refuse_another(prepared(run), node)
    more: dict[str, Any] = {"note": run.note, "ends": True, "data_set": request.data_set}
    with Sender(node, shared(), request.folder, request.resend, cancelled, **more) as sender:
        if request.release and _has_lasted(request.started):
            _refuse_lost(run, sender)
        for outgoing in beside:
            account = outgoing.account()
            sender.send(outgoing, account)
            if account.missing:
                raise DestinationRefused(f"{node.name}: has not taken the files beside the images: {account.reason}")
        whole = chain((series for series, _ in Sending.outcomes(run)), beside)
        files = (file for series in whole for file in series.objects(request.folder))
        lines = map(sender.destination.listed, files)
        if (first := next(lines, None)) is None:
            return
        first = {**first, DATA_SET: request.data_set}
        manifest = run.folder / "manifest.jsonl"
        with storage_errors("the state root"):
            write_jsonl(manifest, ({**line} for line in chain([first], lines) if line is not None))
        sender.again(lambda: sender.destination.finish(manifest))
        with storage_errors("the state root"):
            manifest.replace(in_store(run))


def _has_lasted(started: str) -> bool:
    return dt.datetime.now().astimezone() - dt.datetime.fromisoformat(started) >= LONG


def _refuse_lost(run: Run, sender: Sender) -> None:
    """Ask the store once more for the images: it may have lost what it confirmed long ago, when the run began.

    Raises:
        DestinationRefused: some are gone.
    """
    lost = 0
    for series, _ in Sending.outcomes(run):
        files = series.objects(sender.root)
        there = sender.again(partial(sender.destination.there, files))
        lost += 0 if there is None else len(files) - len(there)
    if lost:
        raise DestinationRefused(
            f"{sender.node.name}: {lost} of the images that it has confirmed in this run are not there any more, so "
            "there is no manifest; look at who removes them, and clear the step prepare, or start the study again"
        )


def _refuse_another(found: Mapping[str, Any], node: Node) -> None:
    """Check that the connection of a store still names the place that the run began with: its manifest tells of one.

    Raises:
        InputError: it names another.
    """
    if isinstance(node, StoreNode) and found.get(PLACE, here := digest_of(node.key)) != here:
        raise InputError(
            f"connection {node.name} names another place than when the run began; clear the step prepare, which "
            "begins anew, or set the connection back"
        )


def in_store(run: Run) -> Path:
    """Return the path of the list of what the store has whole: path, size and SHA-256 of each file.

    It is there once the manifest is put.
    """
    return run.part(IN_STORE)
