"""What a destination has confirmed, kept through whatever happens to the process."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pacsifier_ops.base.errors import StorageError
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.state.deliveries import Deliveries, Delivery

SERIES = SeriesId("1.1", "1.2")
ONE, TWO = Delivery("1.2.1", "aa", 100, 5), Delivery("1.2.2", "bb", 200, 6)


def files(state_root: Path) -> list[Path]:
    return [path for path in (state_root / "delivered").rglob("*") if path.is_file()]


def test_what_was_added_is_there_again() -> None:
    with Deliveries("host:104:PACS", SERIES) as deliveries:
        assert not deliveries.confirmed
        deliveries.add(ONE)
        deliveries.add(TWO)
        assert deliveries.confirmed == {"1.2.1": ONE, "1.2.2": TWO}
    assert Deliveries("host:104:PACS", SERIES).confirmed == {"1.2.1": ONE, "1.2.2": TWO}
    assert not Deliveries("host:104:OTHER", SERIES).confirmed
    assert not Deliveries("host:104:PACS", SeriesId("1.1", "1.3")).confirmed


def test_equal_uids_in_two_studies_are_two_series() -> None:
    with Deliveries("d", SERIES) as deliveries:
        deliveries.add(ONE)
    assert not Deliveries("d", SeriesId("1.9", "1.2")).confirmed


def test_what_was_confirmed_of_a_series_by_its_uid_alone_counts() -> None:
    """So earlier versions kept it."""
    with Deliveries("d", SERIES.before) as deliveries:
        deliveries.add(ONE)
    with Deliveries("d", SERIES) as deliveries:
        deliveries.add(TWO)
        assert deliveries.confirmed == {"1.2.1": ONE, "1.2.2": TWO}
    assert Deliveries("d", SERIES.before).confirmed == {"1.2.1": ONE}


def test_it_is_on_the_disk_before_anything_is_closed() -> None:
    deliveries = Deliveries("d", SERIES)
    deliveries.add(ONE)
    assert Deliveries("d", SERIES).confirmed == {"1.2.1": ONE}
    deliveries.close()


def test_the_last_word_counts() -> None:
    with Deliveries("d", SERIES) as deliveries:
        deliveries.add(ONE)
        deliveries.add(Delivery("1.2.1", "cc", 101, 7))
    assert Deliveries("d", SERIES).confirmed["1.2.1"].sha256 == "cc"


def test_reading_makes_no_file(state_root: Path) -> None:
    with Deliveries("d", SERIES):
        pass
    assert not (state_root / "delivered").exists()


def test_nobody_else_may_read_it_and_names_tell_nothing(state_root: Path) -> None:
    with Deliveries("host:104:PACS", SeriesId("1.2.840.76", "1.2.840.77")) as deliveries:
        deliveries.add(ONE)
    (path,) = files(state_root)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE(state_root.stat().st_mode) == 0o700
    assert "840" not in str(path.relative_to(state_root)) and "PACS" not in str(path.relative_to(state_root))


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_last_line_is_forgotten_and_hurts_no_other(state_root: Path, cut: int) -> None:
    with Deliveries("d", SERIES) as deliveries:
        deliveries.add(ONE)
        deliveries.add(TWO)
    (path,) = files(state_root)
    os.truncate(path, path.stat().st_size - cut * 5)
    with Deliveries("d", SERIES) as deliveries:
        assert deliveries.confirmed == {"1.2.1": ONE}
        deliveries.add(TWO)
    assert Deliveries("d", SERIES).confirmed == {"1.2.1": ONE, "1.2.2": TWO}


def test_a_delivery_keeps_when_the_inode_changed() -> None:
    with Deliveries("d", SERIES) as deliveries:
        deliveries.add(Delivery("1.2.1", "aa", 100, ctime_ns=1_700_000_000_123_456_789))
    assert Deliveries("d", SERIES).confirmed["1.2.1"].ctime_ns == 1_700_000_000_123_456_789


def test_a_disk_that_cannot_be_written_is_named(state_root: Path) -> None:
    state_root.mkdir()
    (state_root / "delivered").touch()
    with pytest.raises(StorageError, match="the state root"):
        Deliveries("d", SERIES).add(ONE)
