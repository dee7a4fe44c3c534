"""Files of runs that are the same from night to night are stored once: both names lead to one file (hard links).

A night without news writes the same lists as the one before, with a line for each image of the data set. The last
version of each stays with the facts of the tree that it is about, and the next run that writes the same gets a link.
"""

from __future__ import annotations

import filecmp
import os
from contextlib import suppress
from pathlib import Path

from pacsifier_ops.base.files import private_folder
from pacsifier_ops.state.facts import facts_folder
from pacsifier_ops.state.tree import state_folder

#: Minimum size of a file that is worth it, in bytes.
_LEAST = 1 << 16


def store_once(path: Path, root: Path) -> None:
    """Store a file of a run once, if the run before has left the same.

    Where the file system has no hard links, or the folder is no tree of ours, it is stored again.

    Args:
        path: the file. It was written as a whole, and nobody changes it in its place.
        root: the tree that it is about.
    """
    with suppress(OSError):
        if path.stat().st_size < _LEAST or not state_folder(root.resolve()).is_dir():
            return
        name = f"{path.parent.name}-{path.name}" if path.stem.isdigit() else path.name
        kept = private_folder(facts_folder(root)) / f"{name}.same"
        if not kept.exists():
            os.link(path, kept)
        elif not path.samefile(kept):
            taken = _linked(kept, path)  # another run may store its own meanwhile
            if _same(taken, path):
                os.replace(taken, path)
            else:
                taken.unlink()
                os.replace(_linked(path, kept), kept)


def _same(one: Path, other: Path) -> bool:
    """Return whether two files hold the same, and the same users may read them."""
    first, second = one.stat(), other.stat()
    may_read = (first.st_mode, first.st_uid, first.st_gid) == (second.st_mode, second.st_uid, second.st_gid)
    return may_read and filecmp.cmp(one, other, shallow=False)


def _linked(source: Path, target: Path) -> Path:
    """Return a second name of the file `source`, beside `target`."""
    temporary = target.with_name(f".{target.name}.link")
    temporary.unlink(missing_ok=True)  # of a process that was killed
    os.link(source, temporary)
    return temporary
