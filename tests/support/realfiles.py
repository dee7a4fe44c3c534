"""Real files of public projects, where somebody has put them; they are nobody's to copy into this repository."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.places import REPO

#: A folder for each project, with its files: the one of the environment variable, or the one beside the repository.
REAL = Path(os.environ.get("PACSIFIER_REAL_FILES") or REPO.parent / "real")
