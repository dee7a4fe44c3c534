"""Real files of public projects, where somebody has put them; they are nobody's to copy into this repository."""

from __future__ import annotations

import os
from pathlib import Path

#: A folder for each project, with its files.
REAL = Path(os.environ.get("PACSIFIER_REAL_FILES", Path(__file__).parents[2] / "shared" / "real"))
