"""The approved list of a folder: what of it may be handed over, each file by its path and the SHA-256 of its content.

A folder that was released has one, of what somebody has approved; one that was de-identified, of what was made there.
It lies in the protected state of the tree, not in the folder, so whoever can write there cannot add to it. Whatever
hands data over from such a folder, or from a folder in it, sends what is on the list and as it is there, and nothing
else. What was on an earlier list is known as such: it was released once, and is no part of the data set any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pacsifier_ops.base.errors import TreeError
from pacsifier_ops.base.files import private_folder, read_jsonl, readable, write_jsonl
from pacsifier_ops.base.places import is_released
from pacsifier_ops.state.tree import APPROVED, DEIDENTIFIED, marker_of, state_folder

#: Of a tree that was released, so that it has an approved list: in what it says of itself.
LISTED = "released"

#: Why files are not handed over.
NOT_APPROVED = "not among the files that were released, or de-identified, in the folder; it is not handed over"
NOT_THERE = "released, or de-identified, in the folder, and not there any more"
FORMER = "released once, and no part of the data set any more"
#: Of a folder that was de-identified and not released, where people may well take a patient out.
TAKEN_AWAY = "taken away since it was de-identified"
#: And this, once it was read.
DIFFERS = "it differs from what was approved; it is not handed over"


@dataclass(frozen=True)
class Approved:
    """An approved list.

    Attributes:
        root: the folder that its paths are below, resolved.
        files: SHA-256 by path, hexadecimal; paths with forward slashes.
        former: paths that were on an earlier list.
        released: somebody has decided on it; else it is what a de-identification has made.
    """

    root: Path
    files: Mapping[str, str] = field(default_factory=dict)
    former: frozenset[str] = frozenset()
    released: bool = True

    def sha256(self, path: Path) -> str:
        """What a file must be like, hexadecimal; empty where it is not on the list."""
        return self.files.get(readable(path.relative_to(self.root)), "")

    def why_not(self, path: Path) -> str:
        """Why a file that is not on the list is not handed over."""
        return FORMER if readable(path.relative_to(self.root)) in self.former else NOT_APPROVED

    def listed(self, folder: Path) -> list[Path]:
        """Files on the list, in a folder."""
        return [path for name in self.files if folder in (path := self.root / name).parents]


def approve(root: Path, files: Iterable[Mapping[str, Any]], keep_former: bool = True) -> None:
    """Let this be the approved list of a folder.

    Args:
        files: `path` and `sha256` of each.
        keep_former: what was on the list before, and is not now, is known as such.

    Raises:
        OSError: the state root cannot be written.
    """
    before = _read(root) if keep_former else None
    known = set(before.files) | before.former if before else set()

    def lines() -> Iterable[dict[str, Any]]:
        for file in files:
            known.discard(file["path"])
            yield {"path": file["path"], "sha256": file["sha256"]}
        yield from ({"path": path, "sha256": ""} for path in sorted(known))

    write_jsonl(private_folder(state_folder(root.resolve())) / APPROVED, lines())


def approved_of(folder: Path) -> Approved | None:
    """The approved list that holds for a folder: its own, or that of a folder above. None where there is none.

    Raises:
        TreeError: there was one, and it is gone; or the folder is what a study released before there were such lists.
    """
    folder = folder.resolve()
    for root in (folder, *folder.parents):
        if found := _read(root):
            return found
        if marker_of(root).get(LISTED):
            raise TreeError(
                "the folder was released, and the list of what was approved is not in this state root: it is a copy, "
                "or was moved; hand over the original, or release it again"
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
    lines = [(line["path"], line["sha256"]) for line in read_jsonl(path)]
    files = {name: sha256 for name, sha256 in lines if sha256}
    marker = marker_of(root)
    former = frozenset(name for name, sha256 in lines if not sha256)
    return Approved(root, files, former, marker.get("state") != DEIDENTIFIED or bool(marker.get(LISTED)))


def refuse_released_below(trees: Iterable[Path]) -> None:
    """Make sure that none of these folders has an approved list: what is above has none, and is no way around it.

    Raises:
        TreeError: one has.
    """
    if any(_read(tree) or marker_of(tree).get(LISTED) for tree in trees):
        raise TreeError("the folder holds another one that was released, or de-identified; hand that over by itself")
