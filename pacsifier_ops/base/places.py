"""Reserved folders below the data root: where a job may write results, and from where it may release data.

| folder              | use                                                     |
|---------------------|---------------------------------------------------------|
| the data root       | shared: results go into a folder of their own below it  |
| the spool           | storage receiver                                        |
| requests, queries   | query tables                                            |
| nightly             | nightly runs                                            |
| studies/<project>   | a study; other jobs may read its released folder only   |

The same rule protects the folder of a study elsewhere. The state root records it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import PathRefused

#: Parent of the folders of studies, and the folder in each that other jobs may read.
STUDIES, RELEASED = "studies", "released"

_TABLES = ("requests", "queries")
_SELECTIONS = "selections"


def reserved(path: Path, study: str = "", alone: bool = False) -> str:
    """Return why a folder is reserved and cannot be used for results; empty where it can.

    Args:
        path: the folder.
        study: folder of the study that writes there, below the data root; empty: no study.
        alone: the data root itself is allowed while it has no reserved folder; for commands.
    """
    root, path = settings.data_root().resolve(), path.resolve()
    own = {settings.spool(): "the spool of the receiver", settings.nightly(): "the folder of the nightly runs"}
    own |= {root / table: "a folder of query tables" for table in _TABLES}
    own[root / _SELECTIONS] = "the folder of selections"
    if path == root and not (alone and not any(folder.exists() for folder in (*own, root / STUDIES))):
        return "is the data root, which all runs share; give a folder below it"
    own |= {settings.state_root(): "the state root"}
    for folder, use in own.items():
        if _within(path, folder.resolve()):
            return f"lies in {use}; give another folder"
    if _study_of(path, root) is not None and not _is_own(path, root, study):
        return f"lies in {STUDIES}/, where only the studies themselves write; give another folder"
    return ""


def refuse_reserved(path: Path, name: str, study: str = "", alone: bool = False) -> Path:
    """Check that a folder for results is not reserved, see `reserved`. Return it.

    Args:
        path: the folder.
        name: name of the parameter.
        study, alone: see `reserved`.

    Raises:
        PathRefused: it is reserved; says for what.
    """
    if reason := reserved(path, study, alone):
        raise PathRefused(f"{name} {reason}")
    return path


def refuse_unreleased(path: Path, name: str, study: str = "") -> Path:
    """Check that data may be taken from a folder: it belongs to no study, or the study has released it. Return it.

    The spool and the state root are refused as well: they contain data before de-identification, and quarantined data.

    Args:
        path, name, study: see `refuse_reserved`.

    Raises:
        PathRefused: data may not be taken from it.
    """
    root = settings.data_root().resolve()
    path = path.resolve()
    if path == root or (_unreleased(path, root) and not _is_own(path, root, study)):
        raise PathRefused(f"{name} holds what a study has not released; give the folder {RELEASED} of the study")
    for folder in (settings.spool().resolve(), settings.state_root().resolve()):
        if _within(path, folder) or _within(folder, path):
            raise PathRefused(f"{name} is, holds or lies in the spool or the state root; give another folder")
    return path


def kept_as(folder: Path) -> str:
    """Return the name of the file in which a project records the study in a folder, below its own `studies`."""
    return f"{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.json"


def is_released(path: Path) -> bool:
    """Return whether a folder is, or lies in, the released folder of a study."""
    return (_in_study(path, settings.data_root().resolve()) or ())[:1] == (RELEASED,)


def _unreleased(path: Path, root: Path) -> bool:
    """Return whether a folder is, or lies in, a folder of a study other than the released one."""
    below = _in_study(path, root)
    return below is not None and below[:1] != (RELEASED,)


def _in_study(path: Path, root: Path) -> tuple[str, ...] | None:
    """Return the parts of a path below the folder of a study; None where it lies in none."""
    below = _study_of(path, root)
    if below is not None:
        return below[1:]
    projects = settings.state_root() / "projects"
    for folder in (path, *path.parents):
        if folder == root:
            break
        if any(projects.glob(f"*/{STUDIES}/{kept_as(folder)}")):
            return path.relative_to(folder).parts
    return None


def _within(path: Path, folder: Path) -> bool:
    path, folder = _folded(path), _folded(folder)
    return path == folder or folder in path.parents


def _folded(path: Path) -> Path:
    """Return a path without case: in some file systems, `Studies` and `studies` are the same."""
    return Path(str(path).casefold())


def _study_of(path: Path, root: Path) -> tuple[str, ...] | None:
    """Return the parts of a path below `studies`; None where it lies elsewhere."""
    studies = root / STUDIES
    return path.parts[len(studies.parts) :] if _within(path, studies) else None


def _is_own(path: Path, root: Path, study: str) -> bool:
    return bool(study) and _within(path, (root / study).resolve())
