"""A quick start for processes that are a command, or a part of one."""

from __future__ import annotations

import atexit
import gc
import importlib
import runpy
import sys

#: Libraries that pydicom and pyarrow import where they are installed, and do without where they are not. They take as
#: long to load as all others together. Some have decoders of pixels, and colours; the others fetch test files.
_ARRAYS, _DECODERS, _FETCHERS = "numpy", ("gdcm", "PIL"), ("requests", "tqdm")
#: Objects that are created until the next look for garbage. Libraries create some 100,000 that stay.
_BETWEEN_COLLECTIONS = 50_000


def start_light() -> None:
    """Keep this process from loading what it does not use, and from looking for garbage where there is none.

    Call it first in a process of its own, and only where nothing in it decodes pixels.
    """
    _keep_out(*_DECODERS, *_FETCHERS, _ARRAYS)
    gc.set_threshold(_BETWEEN_COLLECTIONS)
    # Python looks through all objects once more when it ends, though the system takes back all memory.
    atexit.register(gc.freeze)


def _keep_out(*names: str) -> None:
    for name in names:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # an import then fails as if it were not installed


def allow(name: str) -> None:
    """Let a library be imported after all that `start_light` keeps out."""
    if sys.modules.get(name, sys) is None:
        del sys.modules[name]
        # What pydicom makes colours with looks for numpy once, when it is loaded; pydicom loads it with all else.
        if name == _ARRAYS and (processing := sys.modules.get("pydicom.pixels.processing")):
            importlib.reload(processing)


def decoding(module: str) -> list[str]:
    """Return the command that runs a module which decodes pixels as a process of its own."""
    return [sys.executable, "-m", __name__, module]


if __name__ == "__main__":
    _keep_out(*_FETCHERS)
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
