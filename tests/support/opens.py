"""The files that Python opens during some work."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_opened: list[Path] | None = None


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str):
        _opened.append(Path(arguments[0]))


sys.addaudithook(_heard)  # hooks stay until the process ends


def opened(work: Callable[[], object]) -> list[Path]:
    """Return the files that are opened during the work, each as often as it is."""
    global _opened
    _opened = []
    try:
        work()
        return _opened
    finally:
        _opened = None
