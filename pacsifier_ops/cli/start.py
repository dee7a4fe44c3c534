"""A quick start for commands that show and decode no pixels."""

from __future__ import annotations

import atexit
import gc
import sys

#: Libraries that pydicom and pyarrow import where they are installed, and do without where they are not. They take as
#: long to load as all others together.
_UNUSED = ("numpy", "gdcm", "PIL", "requests")
#: Objects that are created until the next look for garbage. Libraries create some 100,000 that stay.
_BETWEEN_COLLECTIONS = 50_000


def start_light() -> None:
    """Keep this process from loading what decodes pixels, and from looking for garbage where there is none.

    Call it first in a process that is a command, and only where nothing in it needs these libraries.
    """
    for name in _UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # an import then fails as if it were not installed
    gc.set_threshold(_BETWEEN_COLLECTIONS)
    # Python looks through all objects once more when it ends, though the system takes back all memory.
    atexit.register(gc.freeze)
