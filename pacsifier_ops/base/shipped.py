"""Files that come with the package beside its modules: DAG files (`dags`), samples and settings (`include`)."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from pacsifier_ops.base.errors import ConfigError

#: Folders of these files.
DAGS, INCLUDE = "dags", "include"
#: A file that shows where they are.
_MARK = f"{DAGS}/pacsifier_extract.py"


def shipped(folder: str) -> Path:
    """Return the path of one of the folders: of the source tree, or where the wheel has put it.

    Args:
        folder: DAGS or INCLUDE.

    Raises:
        ConfigError: the package was installed without them.
    """
    source = Path(__file__).parents[2]
    if (source / "pyproject.toml").exists() and (source / _MARK).exists():
        return source / folder
    try:
        installed = files("pacsifier-ops") or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if file.as_posix().endswith(f"share/pacsifier/{_MARK}"):
            return Path(str(file.locate())).resolve().parents[1] / folder
    raise ConfigError("the package is installed without its DAG files; install its wheel, or take them from its source")
