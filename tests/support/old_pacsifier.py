"""The published PACSIFIER that ours is compared with, installed once for all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from bench.timing import installed as installed_package


def installed() -> Path:
    """Folder of its programs, Python among them.

    Where it cannot be installed, the test is skipped; with PACSIFIER_REQUIRE_PEERS=1, it fails, unless this is a Python
    that PACSIFIER does not know, and no other is to be had.
    """
    try:
        return installed_package("pacsifier==1.0.0")
    except (RuntimeError, OSError) as error:
        if os.environ.get("PACSIFIER_REQUIRE_PEERS") == "1" and sys.version_info < (3, 12):
            raise
        pytest.skip(f"PACSIFIER 1.0.0 cannot be installed to compare with: {error}")
