"""Files that devices and archives made: what becomes of them."""

from __future__ import annotations

import pytest

from tests.support.realfiles_run import convert, real_files, table

pytestmark = [pytest.mark.slow, pytest.mark.peers]


def test_ordinary_objects_are_delivered() -> None:
    """At least 95 of 100 objects of the kinds that a header tells all of; every other one with a reason."""
    if (folder := real_files()) is None:
        pytest.skip("no real files: PACSIFIER_REAL_FILES names no folder")
    seen = convert(folder)
    assert all(one.reason for one in seen if one.outcome != "delivered")
    ordinary = [one for one in seen if one.ordinary]
    delivered = sum(one.outcome == "delivered" for one in ordinary)
    assert delivered >= 0.95 * len(ordinary), table(seen)
