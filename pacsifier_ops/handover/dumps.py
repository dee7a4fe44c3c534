"""Moves what is written beside the images, and tells who they are of, out of a data folder: prepare → move → report.

| what moves                                     | where                                     |
|------------------------------------------------|-------------------------------------------|
| `sub-*/**/*.csv`, at any depth                 | the same path below the info folder       |
| `mapper.json`, `date_offsets.csv`, at the top  | likewise                                  |

Each step is one function over the run's folder; the DAG's operators and the command line call the same ones. A file is
at its new place, whole and on the disk, before the old one goes, so a kill loses nothing: run it again.

What the steps keep in the run's folder (see `run.Run`):

| file                 | written by | what                                                  |
|----------------------|------------|-------------------------------------------------------|
| scan.json            | prepare    | how many folders there are                            |
| units/<unit>.jsonl   | prepare    | folders of patients; the first unit has the top, too  |
| results/<unit>.jsonl | move       | what was moved, what could not be, and what is left   |
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pacsifier_ops.errors import Cancelled, InputError, TreeError
from pacsifier_ops.files import (
    PRIVATE_FILE,
    fsync_folder,
    private_folder,
    read_json,
    read_jsonl,
    storage_errors,
    write_atomic,
    write_json,
    write_jsonl,
)
from pacsifier_ops.handover.account import ToolAccount, write_books
from pacsifier_ops.html import plural
from pacsifier_ops.leases import shared
from pacsifier_ops.ledger import digest
from pacsifier_ops.run import MOST, Kept, Run, never, now, slices
from pacsifier_ops.tree import CONTROL, marker_of, refuse_unfinished

#: What moves from the top of the folder; and which folders are of patients.
_TOP, _PATIENT = ("mapper.json", "date_offsets.csv"), "sub-"
#: The list of all that was ever moved there, in the info folder.
LISTING = "moved.csv"

#: What the steps keep in the run's folder; forgotten when the first one begins anew.
KEPT = ("scan", "units", "results", "accounts", "summary")

MOVED, THERE, LEFT = "moved", "already there", "left"
_DIFFERS = "another file lies at its new place already; both were kept, compare them and remove one"


@dataclass(frozen=True)
class DumpsRequest(Kept):
    """What a run was asked for.

    Attributes:
        data_folder: where the dumps are.
        info_folder: where they go.
        accept_incomplete: an incomplete run counts as a success for whoever waits for it.
        started: ISO 8601.
    """

    data_folder: Path
    info_folder: Path
    accept_incomplete: bool = False
    started: str = ""


def prepare(run: Run, request: DumpsRequest, most: int = MOST, cancelled: Callable[[], bool] = never) -> list[int]:
    """Look at the folders, and cut those of patients into units.

    Args:
        most: units to be made at most.

    Returns:
        Numbers of the units.

    Raises:
        InputError: there is no such folder, or one lies within the other.
        TreeError: the data folder is half de-identified, or info_folder is part of a data set.
        StorageError: info_folder or the run's folder cannot be written.
    """
    from pacsifier_ops.upload.run import packed

    run.forget(KEPT)
    data, info = request.data_folder.resolve(), request.info_folder.resolve()
    replace(request, data_folder=data, info_folder=info, started=now()).keep(run)
    if not data.is_dir():
        raise InputError("data_folder is not a folder; give the one whose dumps are to be moved")
    if data == info or data in info.parents or info in data.parents:
        raise InputError("data_folder and info_folder lie one within the other; give folders apart")
    refuse_unfinished([data])
    if any(marker_of(folder) for folder in (info, *info.parents)):
        raise TreeError("info_folder is part of a data set, and the dumps tell who is who; give a folder elsewhere")
    with storage_errors("info_folder"):
        private_folder(info)
    with storage_errors("the data folder"):
        patients = sorted(entry.name for entry in os.scandir(data) if _is_patient(entry))
    units = slices(len(patients), most) or [range(0)]
    with storage_errors("the state root"):
        for number, unit in enumerate(units):
            write_jsonl(run.part("units", number), (packed(Path(patients[place])) for place in unit))
        write_json(run.folder / "scan.json", {"folders": len(patients)})
    return list(range(len(units)))


def _is_patient(entry: os.DirEntry[str]) -> bool:
    return entry.name.startswith(_PATIENT) and entry.is_dir(follow_symlinks=False)


def move(run: Run, unit: int, cancelled: Callable[[], bool] = never) -> dict[str, int]:
    """Move the dumps of one unit of patients, and look at what else is there.

    Returns:
        How many files were moved, were there already, could not be moved, or are left and no DICOM.

    Raises:
        StorageError: a folder cannot be read or written; what was moved stays so.
        Cancelled: `cancelled` said so; likewise.
    """
    from pacsifier_ops.upload.run import unpacked

    request = DumpsRequest.of(run)
    data = request.data_folder
    folders = [data / unpacked(name) for name in read_jsonl(run.part("units", unit))]
    before = run.part("results", unit)
    results = [(p, done) for p, done in (read_jsonl(before) if before.exists() else ()) if done in (MOVED, THERE)]
    tree = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    # One at a time in a unit's folders, whoever it is.
    with shared().acquire(f"dumps:{tree}:{unit}", cancelled=cancelled):
        try:
            for path in _files(folders, data if unit == 0 else None):
                if cancelled():
                    raise Cancelled("stopped on request")
                if outcome := _settle(path, request):
                    results.append((_readable(path, data), outcome))
        finally:
            with storage_errors("the state root"):
                write_jsonl(before, results)
    counts = Counter(outcome if outcome in (MOVED, THERE, LEFT) else "problems" for _, outcome in results)
    return dict(counts)


def _files(folders: list[Path], top: Path | None) -> Iterator[Path]:
    """The files, and links, below some folders; of `top` what does not belong to a patient."""
    if top is not None:
        with storage_errors("the data folder"):
            beside = sorted(entry.name for entry in os.scandir(top) if not _is_patient(entry) and entry.name != CONTROL)
        folders = [*(top / name for name in beside), *folders]
    for folder in folders:
        if folder.is_symlink() or not folder.is_dir():
            yield folder
            continue
        with storage_errors("the data folder"):
            below = sorted(os.scandir(folder), key=lambda entry: entry.name)
        yield from _files([folder / entry.name for entry in below], None)


def _settle(path: Path, request: DumpsRequest) -> str:
    """Move a file if it is to be moved; returns what became of it, empty for what belongs there."""
    name = path.relative_to(request.data_folder)
    moves = path.suffix.lower() == ".csv" and name.parts[0].startswith(_PATIENT) and len(name.parts) > 1
    if path.is_symlink() or not path.is_file() or not (moves or str(name) in _TOP):
        return "" if _is_dicom(path) else LEFT
    with storage_errors("info_folder or the data folder"):
        target = request.info_folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        moved = False
        if not target.exists():
            with suppress(FileExistsError):  # another run was there first
                _give_place(path, target)
                moved = True
        if not (os.path.samefile(path, target) or digest(path) == digest(target)):
            return _DIFFERS
        fsync_folder(target.parent)
        path.unlink()
        return MOVED if moved else THERE


def _give_place(source: Path, target: Path) -> None:
    """Let a file be at its new place as well; never in the place of another.

    Raises:
        FileExistsError: something is there.
    """
    try:
        os.link(source, target)
        return
    except FileExistsError:
        raise
    except OSError:
        pass  # another file system, or one without links
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        shutil.copy2(source, temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:
            if target.exists():
                raise FileExistsError from None
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: an object, a DICOMDIR, or one of them that is broken."""
    from pacsifier_ops.dimse.objects import inspect

    try:
        return path.is_file() and not path.is_symlink() and inspect(path) is not None
    except ValueError:
        return True
    except OSError:
        return False


def _readable(path: Path, root: Path) -> str:
    from pacsifier_ops.upload.scan import readable

    return readable(path.relative_to(root))


def report(run: Run) -> ToolAccount:
    """Close the books: what was moved, what could not be, and what is left that is no DICOM; write the list.

    Raises:
        InputError: the run ended before the folder was looked at.
        StorageError: list or report cannot be written.
    """
    if not (run.folder / "scan.json").exists():
        raise InputError("the run ended before the folder was looked at; see the error of the step prepare")
    request, folders = DumpsRequest.of(run), read_json(run.folder / "scan.json")["folders"]
    results = [tuple(item) for part in run.parts("results") for item in read_jsonl(part)]
    outcomes = Counter(outcome for _, outcome in results)
    not_done = len(run.parts("units")) - len(run.parts("results"))
    problems = [(path, outcome) for path, outcome in results if outcome not in (MOVED, THERE, LEFT)]
    problems += [("folders of patients", "not attempted: the run ended before")] * not_done
    left = outcomes[LEFT]
    account = ToolAccount(
        run=run.name,
        action="move dumps",
        started=request.started,
        finished=now(),
        folder=str(request.data_folder),
        out_folder=str(request.info_folder),
        counts={"folders of patients": folders, **{name: outcomes[name] for name in (MOVED, THERE, LEFT)}},
        done=[(path, _REMARKS[outcome]) for path, outcome in results if outcome in _REMARKS],
        problems=problems,
    )
    with storage_errors("info_folder"):
        _list(request.info_folder)
    check = (
        f"{plural(left, 'file')} left in the data folder that {'is' if left == 1 else 'are'} no DICOM: see the list."
    )
    told = [check if left else "Nothing but DICOM is left in the data folder."]
    if problems:
        told.insert(0, f"{plural(len(problems), 'file')} could not be moved.")
    write_books(run, account, "Relocation of the info dumps", *told)
    return account


_REMARKS = {MOVED: "moved", THERE: "removed: it was at its new place already", LEFT: "left, no DICOM"}


def _list(info: Path) -> None:
    """Write the list of all that lies in the info folder, with its digests."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("File", "Size", "SHA256"))
    for path in _files([info], None):
        if path.is_file() and path != info / LISTING:
            writer.writerow((_readable(path, info), path.stat().st_size, digest(path)))
    write_atomic(info / LISTING, text.getvalue(), PRIVATE_FILE)
