"""Texts beside images, such as runs write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.dicom import scan


def text(path: Path, content: str = "x") -> Path:
    """Write a text, and its folder if necessary."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    return path


@contextmanager
def text_during_scan(root: Path) -> Iterator[None]:
    """In the block, a text comes to the logs of a tree when the tree is scanned."""
    real = scan.scan

    def meanwhile(folder: Path, *given: Any, **named: Any) -> scan.Scan:
        if folder == root:
            text(root / "logs" / "a.csv")
        return real(folder, *given, **named)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scan, "scan", meanwhile)
        yield
