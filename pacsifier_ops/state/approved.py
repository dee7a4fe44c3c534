"""The approved list of a folder: the files that may leave it, by path and SHA-256 of the content.

A released folder has a list of the files that a person approved. A de-identified folder has a list of the files that
the de-identification created. The list is in the protected state of the tree and not in the folder, so a writer of the
folder cannot extend it. A step that releases data from such a folder, or from one in it, sends exactly the files on the
list, with the listed content. Files of an earlier list are known as such: they were released once, and no longer belong
to the data set.

The files of a data set that was released straight to a store lie in the de-identified folder. The list of the released
folder then says so, and whoever reads the released folder reads them there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pacsifier_ops.base.errors import TreeError
from pacsifier_ops.base.files import ascii_json, name_below, private_folder, read_jsonl, readable, write_atomic
from pacsifier_ops.base.places import is_released
from pacsifier_ops.state.facts import settled_before
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.standing import UNKNOWN, Standing, file_stamp, stamp_of
from pacsifier_ops.state.tree import APPROVED, DEIDENTIFIED, marker_of, state_folder

#: Key in the marker of a released tree, which therefore has an approved list.
LISTED = "released"

#: Key of a first line of a list, which says where its files lie.
_LYING_IN = "lying_in"

#: Reasons why files are not released.
NOT_APPROVED = "not among the files that were released, or de-identified, in the folder; it is not handed over"
NOT_THERE = "released, or de-identified, in the folder, and not there any more"
FORMER = "released once, and no part of the data set any more"
#: Why a file is passed over that lies where the files of the data set do.
NOT_YET = "no part of what was released"
#: The same in a folder that was de-identified and not released, where users may remove a patient.
TAKEN_AWAY = "taken away since it was de-identified"
#: The same for a file whose content was read.
DIFFERS = "it differs from what was approved; it is not handed over"


def refuse_changed(path: Path, ctime_ns: int, sha256: str) -> None:
    """Refuse a file that is not the approved one, or was changed since it was read.

    Args:
        ctime_ns: time of its last change when it was read, in ns.
        sha256: of the approved file, hexadecimal.

    Raises:
        ValueError: it is another file.
        OSError: it cannot be read.
    """
    if digest(path) != sha256 or path.stat().st_ctime_ns != ctime_ns:
        raise ValueError(DIFFERS)


@dataclass(frozen=True)
class Approved:
    """An approved list.

    Attributes:
        root: the folder of its paths, resolved.
        files: SHA-256 by path, hexadecimal; paths with forward slashes.
        former: paths of earlier lists.
        released: a person has approved it; otherwise a de-identification has created it.
        elsewhere: it is the list of a released folder, and its files lie in another one, `root`, which may have others.
    """

    root: Path
    files: Mapping[str, str] = field(default_factory=dict)
    former: frozenset[str] = frozenset()
    released: bool = True
    elsewhere: bool = False

    def sha256(self, path: Path) -> str:
        """Return the required digest of a file, hexadecimal; empty where it is not on the list."""
        return self.files.get(self._name(path), "")

    def why_not(self, path: Path) -> str:
        """Return why a file that is not on the list is not released."""
        if self._name(path) in self.former:
            return FORMER
        return NOT_YET if self.elsewhere else NOT_APPROVED

    def listed(self, folder: Path) -> Iterator[str]:
        """Yield the paths of the listed files in a folder."""
        root, above = f"{self.root / 'x'}"[:-1], f"{folder / 'x'}"[:-1]
        return (path for name in self.files if (path := root + name).startswith(above))

    def _name(self, path: Path) -> str:
        return readable(name_below(path, self.root))


def approve(
    root: Path,
    files: Iterable[Mapping[str, Any]],
    keep_former: bool = True,
    lying_in: Path | None = None,
    digest_of_files: str = "",
) -> None:
    """Write the approved list of a folder.

    Args:
        root: the folder.
        files: `path` and `sha256` of each file.
        keep_former: record files that are on the present list and not on the new one.
        lying_in: the folder that the files lie in; None: this one.
        digest_of_files: of the files as they are given, hexadecimal: the list is not made again if it was made of
            exactly these, and is as it was; empty: it is made.

    Raises:
        OSError: the state root cannot be written.
    """
    with Standing(root, "approved") as standing:
        path = state_folder(root.resolve()) / APPROVED
        given = [keep_former, str(lying_in or "")]
        stamp = stamp_of(digest_of_files, given, file_stamp(path, settled_before(root)))
        if standing.get(APPROVED, stamp) is None:
            made = b"".join(ascii_json(line).encode() + b"\n" for line in _made(root, files, keep_former, lying_in))
            if path.exists() and digest(path) == hashlib.sha256(made).hexdigest():
                standing.put(APPROVED, stamp, True)
            else:
                private_folder(path.parent)
                write_atomic(path, made)


def _made(
    root: Path, files: Iterable[Mapping[str, Any]], keep_former: bool, lying_in: Path | None
) -> Iterator[dict[str, Any]]:
    before = _read(root) if keep_former else None
    known = set(before.files) | before.former if before else set()

    if lying_in is not None:
        yield {_LYING_IN: str(lying_in.resolve())}
    for file in files:
        known.discard(file["path"])
        yield {"path": file["path"], "sha256": file["sha256"]}
    yield from ({"path": path, "sha256": ""} for path in sorted(known))


def approved_seen(root: Path) -> str:
    """Return the stamp of the approved list of a folder, see `standing`; UNKNOWN if it has none of its own."""
    path = state_folder(root.resolve()) / APPROVED
    return file_stamp(path, settled_before(root)) if path.exists() else UNKNOWN


def lies_in(folder: Path) -> Path:
    """Return the folder that the files of a released folder lie in; the folder itself unless its list says otherwise.

    Raises:
        OSError: the state root cannot be read.
    """
    folder = folder.resolve()
    with suppress(FileNotFoundError):
        first: Mapping[str, str] = next(iter(read_jsonl(state_folder(folder) / APPROVED)), {})
        return Path(first.get(_LYING_IN, folder))
    return folder


def approved_of(folder: Path) -> Approved | None:
    """Return the approved list for a folder: its own, or that of a folder above; None where there is none.

    Raises:
        TreeError: the list is missing, or an earlier version released the folder without a list.
    """
    folder = folder.resolve()
    for root in (folder, *folder.parents):
        if found := _read(root):
            return found
        if marker_of(root).get(LISTED):
            raise TreeError(
                "the folder was released, and the list of what was approved is not in this state root; set "
                "PACSIFIER_STATE_ROOT to the state root of its study, or, if the folder is a copy or was moved, hand "
                "over the original, or release it again"
            )
    if is_released(folder):
        raise TreeError(
            "an earlier version released the folder, and made no list of what was approved; run the study again, or "
            "clear the step release of its last run"
        )
    return None


def _read(root: Path) -> Approved | None:
    root = root.resolve()
    path = state_folder(root) / APPROVED
    if not path.exists():
        return None
    there = lies_in(root)
    lines = [(line["path"], line["sha256"]) for line in read_jsonl(path) if _LYING_IN not in line]
    files = {name: sha256 for name, sha256 in lines if sha256}
    marker = marker_of(root)
    former = frozenset(name for name, sha256 in lines if not sha256)
    released = marker.get("state") != DEIDENTIFIED or bool(marker.get(LISTED))
    return Approved(there, files, former, released, there != root)


def refuse_released_below(trees: Iterable[Path]) -> None:
    """Check that none of these folders has an approved list: the folder above has none, and must not bypass theirs.

    Raises:
        TreeError: one has a list.
    """
    if any(_read(tree) or marker_of(tree).get(LISTED) for tree in trees):
        raise TreeError("the folder holds another one that was released, or de-identified; hand that over by itself")
