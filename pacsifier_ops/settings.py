"""Where things lie. Every setting has a default that works and an environment variable.

| variable               | default                  | what                                               |
|------------------------|--------------------------|----------------------------------------------------|
| PACSIFIER_HOME         | ~/pacsifier              | parent of the folders below                        |
| PACSIFIER_DATA_ROOT    | $PACSIFIER_HOME/data     | query tables and output folders of DAG runs        |
| PACSIFIER_STATE_ROOT   | $PACSIFIER_HOME/state    | runs, ledger, leases: protected, outside data sets |
| PACSIFIER_SPOOL        | <data root>/.spool       | where the standing receiver puts what arrives      |
"""

from __future__ import annotations

import os
from pathlib import Path

from pacsifier_ops.files import private_folder


def _path(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default).expanduser().absolute()


def home() -> Path:
    """Parent of the default folders."""
    return _path("PACSIFIER_HOME", Path.home() / "pacsifier")


def data_root() -> Path:
    """Paths given to a DAG run are confined to this folder."""
    return _path("PACSIFIER_DATA_ROOT", home() / "data")


def state_root() -> Path:
    """Protected folder (0700) of everything that identifies patients outside the data sets."""
    return private_folder(_path("PACSIFIER_STATE_ROOT", home() / "state"))


def spool() -> Path:
    """Spool of the standing receiver; on the file system of the data sets, so that publishing is a rename."""
    return _path("PACSIFIER_SPOOL", data_root() / ".spool")
