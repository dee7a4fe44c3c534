"""One series: exactly its listed files go to the converter, and what comes out is checked, cleaned and kept apart.

What is kept is complete or absent. It is not published here: it waits for its name and for the search for identifiers.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import Cancelled
from pacsifier_ops.base.files import fsync_files, fsync_folder, private_folder, storage_errors, unpacked, unreadable
from pacsifier_ops.base.words import plural
from pacsifier_ops.convert import converter, nifti, sidecar
from pacsifier_ops.convert.converter import ConverterFailed
from pacsifier_ops.convert.store import ENDINGS, ImageRecord, SeriesRecord, Store, write_record
from pacsifier_ops.state.approved import DIFFERS
from pacsifier_ops.state.ledger import digest

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: Version of what we make of what the converter has made. With another one, series are converted anew.
EDITION = "1"

_STORAGE = "1.2.840.10008.5.1.4.1.1."
#: SOP classes of objects that are no images, or none that NIfTI could hold as they are meant (PS3.4 B.5).
_NO_IMAGES: Sequence[tuple[str, str]] = (
    ("88.59", "key objects"),
    ("88.", "structured report"),
    ("11.", "presentation state"),
    ("104.", "document"),
    ("9.", "waveform"),
    ("66.4", "segmentation"),
    ("66.7", "segmentation"),
    ("66.", "registration, surface or tracts"),
    ("66", "raw data"),
    ("67", "value mapping"),
    ("481.3", "structures of a treatment plan"),
    ("481.1", "image of a treatment"),
    ("481.2", "dose"),
    ("481.", "treatment plan or record"),
    ("4.2", "spectroscopy"),
    ("78.", "measurements of an eye"),
)
#: Modalities whose objects are none either, whatever their class.
_NO_MODALITY = {"SR": "structured report", "KO": "key objects", "PR": "presentation state", "DOC": "document"}

#: Name of an image of the converter: printable, and short enough for a file system, with more before and after it.
_NAME = re.compile(r"[!-~]{1,80}")

_PIECE = 1 << 20
#: Maximum length of an axis of NIfTI-1. With more slices the converter writes their number modulo 65,536, as many of
#: them, and reports success.
_LONGEST = 2**15 - 1
_TOO_MANY = (
    "{} images are more than the converter can put together: an image of NIfTI has 32,767 slices at most; divide the "
    "series where it is made, or use its DICOM"
)


@dataclass
class ToConvert:
    """A series to be converted: a line of a unit.

    Attributes:
        number: number of the series in the run, from 1.
        key: opaque name of the series of one patient.
        digest: of its objects and the converter.
        study_uid, series_uid, modality, series_number, folder: what its objects have in common.
        files: for each object, path below in_folder (see `packed`), SOP Class UID, and the SHA-256 that it has to have.
        lacking: number of further objects that were approved in its folder, and are gone or not what they were.
    """

    number: int
    key: str
    digest: str
    study_uid: str
    series_uid: str
    modality: str
    series_number: str
    folder: str
    files: list[list[Any]]
    lacking: int = 0

    def account(self) -> Outcome:
        """Return the result before it is tried."""
        return Outcome(self.number, objects=len(self.files))


#: Outcomes of a series.
CONVERTED, NO_IMAGE, FAILED, UNTRIED = "converted", "not an image", "failed", "not attempted"


@dataclass
class Outcome:
    """The result for a series.

    Attributes:
        number: number of the series.
        outcome: CONVERTED, NO_IMAGE, FAILED or UNTRIED.
        reason: why it was not converted; the kind of its objects if they are no images.
        objects: number of its objects; others: of these, how many are no images; unused: images that the converter has
            not used.
        images, volumes: number of files and of volumes that it became.
        warnings: remarks of the converter by kind.
    """

    number: int
    outcome: str = UNTRIED
    reason: str = "the run ended before"
    objects: int = 0
    others: int = 0
    unused: int = 0
    images: int = 0
    volumes: int = 0
    warnings: dict[str, int] = field(default_factory=dict)


def kind_of_no_image(sop_class: str, modality: str) -> str:
    """Return what an object is that is no image; empty for one that may be."""
    if modality in _NO_MODALITY:
        return _NO_MODALITY[modality]
    name = sop_class.removeprefix(_STORAGE)
    if name == sop_class:
        return ""
    return next(
        (kind for start, kind in _NO_IMAGES if name == start or (start[-1] == "." and name.startswith(start))), ""
    )


def digest_of_series(files: Sequence[Sequence[str]], version: str) -> str:
    """Return what a converted series is known by: its objects, and the converter.

    Args:
        files: SOP Instance UID and SHA-256 of each object.
        version: of the converter.
    """
    whole = hashlib.sha256(f"{EDITION} {version}".encode())
    for uid, sha256 in sorted((uid, sha256) for uid, sha256 in files):
        whole.update(f"\n{uid} {sha256}".encode())
    return whole.hexdigest()[:32]


def convert_series(
    item: ToConvert,
    root: Path,
    scratch: Path,
    store: Store,
    seconds: float,
    cancelled: Callable[[], bool],
    note: Callable[[str], object],
    program: str = "",
) -> Outcome:
    """Convert a series, and let it wait in the store for its publication.

    Args:
        item: the series.
        root: the folder of the objects.
        scratch: folder for unfinished files, on the file system of the store. It is removed by the caller in the end.
        seconds: time limit of the converter.
        cancelled: called regularly; True ends the work.
        note: called with what the converter said, which may hold values.
        program: see `converter.convert`.

    Raises:
        StorageError: the folder of the images cannot be written.
        Cancelled: `cancelled` said so.
    """
    outcome = item.account()
    kinds = [kind_of_no_image(sop_class, item.modality) for _, sop_class, _ in item.files]
    images = [file for file, kind in zip(item.files, kinds, strict=True) if not kind]
    outcome.others = len(item.files) - len(images)
    if not images:
        outcome.outcome, outcome.reason = NO_IMAGE, " and ".join(sorted(set(kinds)))
        return outcome
    if item.lacking:
        several = plural(item.lacking, "object")
        outcome.outcome, outcome.reason = FAILED, f"{several} of its folder: gone, or differing from what was approved"
        return outcome
    place = scratch / "series"
    with storage_errors("out_folder"):
        shutil.rmtree(place, ignore_errors=True)
        inbox, outbox = (private_folder(place / name) for name in ("in", "out"))
    try:
        with storage_errors("out_folder"):
            header = _gather(images, root, inbox, cancelled)
        said = converter.convert(inbox, outbox, place / "home", seconds, cancelled, program)
        if said.warnings:
            note(f"series {item.number}: {said.text[:100_000]}")
        with storage_errors("out_folder"):
            kept = place / "kept"
            shutil.rmtree(kept, ignore_errors=True)  # what the converter may have put there
            made = _collect(outbox, private_folder(kept), header, said.used)
    except ConverterFailed as error:
        outcome.outcome, outcome.reason = FAILED, str(error)
        _note_failure(note, item.number, place)
        return outcome
    finally:
        shutil.rmtree(place / "in", ignore_errors=True)
    unused = max(0, len(images) - said.used)
    version = converter.version(program or converter.program())
    record = SeriesRecord(item.key, item.digest, len(images), unused, outcome.others, said.warnings, made, version)
    with storage_errors("out_folder"):
        _keep(record, kept, store)
        shutil.rmtree(place, ignore_errors=True)
    return outcome_of(item.number, record)


def outcome_of(number: int, record: SeriesRecord) -> Outcome:
    """Return the result of a series that was converted."""
    return Outcome(
        number,
        CONVERTED,
        "",
        record.objects + record.others,
        record.others,
        record.unused,
        len(record.images),
        sum(image.volumes for image in record.images),
        record.warnings,
    )


def _gather(files: Sequence[Sequence[Any]], root: Path, inbox: Path, cancelled: Callable[[], bool]) -> Dataset | None:
    """Copy the files of a series, checked while they are read. Return the header of the first.

    Raises:
        ConverterFailed: one cannot be read, or is not what was approved: a part of a series is another series.
    """
    bad: dict[str, int] = {}
    for number, (name, _, sha256) in enumerate(files):
        if cancelled():
            raise Cancelled("stopped on request")
        try:
            source = (root / unpacked(name)).open("rb")
        except OSError as error:
            bad[unreadable(error)] = bad.get(unreadable(error), 0) + 1
            continue
        # Numbers in the order of the instances: the converter's own order depends on names where instances are equal.
        with source, (inbox / f"{number:08d}.dcm").open("xb") as copy:
            whole = hashlib.sha256()
            while piece := source.read(_PIECE):
                whole.update(piece)
                copy.write(piece)
        if whole.hexdigest() != sha256:
            bad[DIFFERS] = bad.get(DIFFERS, 0) + 1
    if bad:
        raise ConverterFailed("; ".join(f"{count} of {len(files)} objects: {why}" for why, count in bad.items()))
    return _header(inbox / f"{0:08d}.dcm")


def _header(path: Path) -> Dataset | None:
    from pydicom import dcmread

    try:
        return dcmread(path, stop_before_pixels=True, specific_tags=sorted({*sidecar.TEXTS.values(), *_NUMBERS}))
    except Exception:  # pydicom raises errors of many types for damaged files
        return None


_NUMBERS = ("SpecificCharacterSet", "KVP", "SliceThickness", "GantryDetectorTilt")


def _collect(outbox: Path, kept: Path, header: Dataset | None, used: int) -> list[ImageRecord]:
    """Check what the converter has written, clean it, and move it to `kept`.

    Args:
        used: number of files that it has put into images.

    Raises:
        ConverterFailed: there is nothing, or something that is not whole.
    """
    names = sorted(path.name.removesuffix(".nii") for path in outbox.glob("*.nii"))
    if not names:
        raise ConverterFailed("the converter wrote no image")
    made = []
    for name in names:
        source = outbox / f"{name}.nii"
        if not _NAME.fullmatch(name):
            raise ConverterFailed("the converter wrote an image with a name that cannot be used")
        if source.is_symlink() or not source.is_file():
            raise ConverterFailed("the converter wrote something else than an image")
        try:
            image = nifti.clean(source)
        except ValueError as error:
            raise ConverterFailed(_TOO_MANY.format(f"{used:,}") if used > _LONGEST else f"{error}") from None
        nifti.pack(source, kept / f"{name}.nii.gz")
        source.unlink()
        for ending in (".bval", ".bvec"):
            if (vector := outbox / f"{name}{ending}").is_file() and not vector.is_symlink():
                (kept / vector.name).write_text(_numbers_of(vector), encoding="ascii")
        files = {
            ending: [path.stat().st_size, digest(path)]
            for ending in ENDINGS
            if (path := kept / f"{name}{ending}").exists()
        }
        made.append(
            ImageRecord(
                name, list(image.dims), image.volumes, files, sidecar.filtered(_said(outbox / f"{name}.json"), header)
            )
        )
    if _LONGEST < used > sum(prod(image.dims[2:]) for image in made):
        raise ConverterFailed(_TOO_MANY.format(f"{used:,}"))
    return made


def _numbers_of(path: Path) -> str:
    """Return the text of a file of numbers.

    Raises:
        ConverterFailed: it holds something else.
    """
    try:
        lines = [line.split() for line in path.read_text("ascii").splitlines()]
        for words in lines:
            for word in words:
                float(word.replace("_", "no number"))  # float takes 1_0 for 10
    except ValueError:
        raise ConverterFailed("the converter wrote diffusion values that are no numbers") from None
    return "".join(" ".join(words) + "\n" for words in lines)


def _said(path: Path) -> dict[str, Any]:
    """Return the sidecar of the converter; empty where there is none: of some images it writes none."""
    with suppress(OSError, ValueError, RecursionError):
        if path.is_file() and not path.is_symlink():
            found = json.loads(path.read_text(encoding="utf-8", errors="replace"))
            return found if isinstance(found, dict) else {}
    return {}


def _keep(record: SeriesRecord, kept: Path, store: Store) -> None:
    write_record(kept, record)
    fsync_files(sorted(kept.iterdir()))
    target = store.place(record.key, record.digest)
    private_folder(target.parent)
    try:
        os.replace(kept, target)
    except OSError:
        if store.converted(record.key, record.digest):
            return  # another run was faster
        shutil.rmtree(target, ignore_errors=True)
        os.replace(kept, target)
    fsync_folder(target.parent)


def _note_failure(note: Callable[[str], object], number: int, place: Path) -> None:
    with suppress(OSError):
        note(f"series {number}: {(place / 'home' / 'said.txt').read_text('utf-8', errors='replace')[:100_000]}")
