"""A folder that is converted in place: outputs lie in the tree's own folder until no original is left.

1. Of each object the output is written and verified, then the original removed; what is excluded or quarantined is put
   apart.
2. When all objects are settled, what else lies in the folder (tables, logs, copies, what is no DICOM) is put apart too,
   and its folders, whose names may tell who it is, are removed.
3. The outputs take their place.

Whichever of them is interrupted goes on when it is called again.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from pacsifier_ops.base.files import below, fsync_folder, private_file, private_folder, storage_errors
from pacsifier_ops.deid.run import STAGED
from pacsifier_ops.state.tree import CONTROL, marker_of, write_marker

#: What the marker of a tree says from step 3 on: no original is left.
CLEARED = "cleared"


def put_apart(path: Path, target: Path) -> None:
    """Move a file to a protected folder, also on another file system; what lies there already stays.

    Raises:
        StorageError: it cannot be moved; it is where it was.
    """
    with storage_errors("the project's folder, or the folder that is converted"):
        _folders(target.parent)
        if os.path.lexists(target):
            target = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
        try:
            os.replace(path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy(path, target)
            path.unlink()
        if not target.is_symlink():
            target.chmod(private_file())
        fsync_folder(target.parent)


def clear(root: Path, apart: Path) -> int:
    """Step 2: leave nothing in a folder but what its tree keeps for itself.

    Args:
        apart: folder for the files, with their paths.

    Returns:
        How many files there were.

    Raises:
        StorageError: a file cannot be moved, or a folder not removed.
    """
    moved = 0
    with storage_errors("the folder that is converted"):
        for entry in sorted(root.iterdir()):
            if entry.name == CONTROL:
                continue
            for path in _bottom_up(entry):
                mode = path.lstat().st_mode
                if stat.S_ISDIR(mode):
                    path.rmdir()
                elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
                    put_apart(path, apart / path.relative_to(root))
                    moved += 1
                else:
                    path.unlink()  # a pipe or the like holds nothing
    return moved


def take_place(root: Path) -> None:
    """Step 3: give the outputs their place, once nothing else is left.

    Raises:
        StorageError: they cannot be moved.
    """
    with storage_errors("the folder that is converted"):
        write_marker(root, {**marker_of(root), CLEARED: True})
        staged = root / STAGED
        if staged.is_dir():
            for entry in sorted(staged.iterdir()):
                os.replace(entry, root / entry.name)
            fsync_folder(root)
            staged.rmdir()


def _folders(folder: Path) -> None:
    """Make a folder and all that lead to it, each for us alone."""
    if not folder.is_dir():
        _folders(folder.parent)
        private_folder(folder)


def _copy(path: Path, target: Path) -> None:
    """Copy a file or a link, and have it on the disk."""
    if path.is_symlink():
        target.unlink(missing_ok=True)
        target.symlink_to(os.readlink(path))
        return
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        shutil.copy2(path, temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, target)
        fsync_folder(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _bottom_up(entry: Path) -> Iterator[Path]:
    """A file, or what is in a folder and then the folder itself; links are not followed."""
    found = [entry]
    if entry.is_dir() and not entry.is_symlink():
        for one, problem in below(entry):
            if problem is not None:
                raise problem
            found.append(Path(one.path))
    yield from reversed(found)
