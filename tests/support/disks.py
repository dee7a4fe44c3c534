"""File systems of a test's own: small, or read-only. Only root may mount them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(folder: Path, options: str) -> bool:
    """Mount a tmpfs on a folder that is there; whether that was possible."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return os.geteuid() == 0 and not subprocess.run(command, capture_output=True).returncode


def unmount(folder: Path) -> None:
    """Take it away again, as soon as nobody uses it."""
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def disk(folder: Path, options: str) -> Iterator[Path]:
    """A new folder that is a file system of its own; skips the test where none may be mounted."""
    folder.mkdir()
    if not mount(folder, options):
        pytest.skip("only root may mount a file system for the test")
    try:
        yield folder
    finally:
        unmount(folder)
