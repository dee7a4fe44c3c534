"""Print those entries of a lock file that are of distributions which are not installed here, with their hashes.

What only `make up` has is left out.
"""

import re
import sys
from importlib.metadata import distributions
from pathlib import Path


def plain(name: str) -> str:
    """A distribution's name as all spellings of it have it in common."""
    return re.sub(r"[-_.]+", "-", name).lower()


installed = {plain(distribution.name) for distribution in distributions()}
for entry in re.split(r"\n(?=[A-Za-z0-9])", Path(sys.argv[1]).read_text(encoding="utf-8")):
    name = re.match(r"[A-Za-z0-9._-]+(?===)", entry)
    if name and plain(name[0]) not in installed and "# via -r requirements-up.txt" not in entry:
        print(entry)
