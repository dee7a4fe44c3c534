"""A quick start for processes that are a command, or a part of one."""

from __future__ import annotations

import atexit
import gc
import runpy
import sys

#: Libraries that pydicom and pyarrow import where they are installed, and do without where they are not. They take as
#: long to load as all others together. The first have decoders of pixels, and colours; the last fetches test files.
_ARRAYS, _UNUSED = "numpy", ("gdcm", "PIL", "requests")
#: Objects that are created until the next look for garbage. Libraries create some 100,000 that stay.
_BETWEEN_COLLECTIONS = 50_000


def start_light(arrays: bool = False) -> None:
    """Keep this process from loading what it does not use, and from looking for garbage where there is none.

    Call it first in a process of its own, and only where nothing in it decodes pixels.

    Args:
        arrays: the process computes with pixels that are not compressed.
    """
    for name in (*_UNUSED, *([] if arrays else [_ARRAYS])):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # an import then fails as if it were not installed
    gc.set_threshold(_BETWEEN_COLLECTIONS)
    # Python looks through all objects once more when it ends, though the system takes back all memory.
    atexit.register(gc.freeze)


def load_after_all(name: str) -> None:
    """Let this process import a library that `start_light` keeps out, since it turned out to be used."""
    if sys.modules.get(name, sys) is None:
        del sys.modules[name]


def decoding(module: str) -> list[str]:
    """Return the command that runs a module which decodes pixels as a process of its own."""
    return [sys.executable, "-m", __name__, module]


if __name__ == "__main__":
    sys.modules["requests"] = None  # type: ignore[assignment]  # see _UNUSED
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
