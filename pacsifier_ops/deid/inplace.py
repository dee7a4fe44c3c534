"""In-place conversion of a folder. Outputs stay in the control folder of the tree until no original is left.

1. For each object the output is written and verified, then the original is removed. Excluded and quarantined objects
are moved to a separate folder.
2. When all objects are processed, all other files (tables, logs, copies, files that are no DICOM) are moved there as
well, and the folders, whose names may identify patients, are removed.
3. The outputs are moved to their final place.

An interrupted step continues when it is called again.
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

#: Key in the marker of a tree from step 3 on: no original is left.
CLEARED = "cleared"


def put_apart(path: Path, target: Path) -> None:
    """Move a file to a protected folder, also on another file system. An existing file there stays.

    Raises:
        StorageError: the file cannot be moved; it stays where it was.
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
    """Step 2: move all files of a folder apart from the control folder of its tree.

    Args:
        root: the folder.
        apart: target folder; the files keep their relative paths.

    Returns:
        Number of moved files.

    Raises:
        StorageError: a file cannot be moved, or a folder cannot be removed.
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
                    path.unlink()  # a pipe or the like has no content
    return moved


def take_place(root: Path) -> None:
    """Step 3: move the outputs to their final place.

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
    """Create a folder and its parents with access for the owner alone."""
    if not folder.is_dir():
        _folders(folder.parent)
        private_folder(folder)


def _copy(path: Path, target: Path) -> None:
    """Copy a file or a link, and flush it to disk."""
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
    """Yield a file, or the content of a folder and then the folder. Links are not followed."""
    found = [entry]
    if entry.is_dir() and not entry.is_symlink():
        for one, problem in below(entry):
            if problem is not None:
                raise problem
            found.append(Path(one.path))
    yield from reversed(found)
