"""What the ledger takes for a proof that a file is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pacsifier_ops.files import read_json, write_json
from pacsifier_ops.ledger import Entry, SeriesLedger, digest, series_known


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    path = tmp_path / "1.2.dcm"
    path.write_bytes(b"object")
    return Entry("1.2.dcm", 6, path.stat().st_mtime_ns, digest(path), "1.2.840", "1.2.840.10008.1.2", "pacs")


def test_a_file_as_it_was_published(entry: Entry, tmp_path: Path) -> None:
    assert entry.proven_by(tmp_path)
    os.utime(tmp_path / entry.file, ns=(1, 1))
    assert entry.proven_by(tmp_path)  # touched: the digest tells


@pytest.mark.parametrize("content", [None, b"", b"objec", b"OBJECT", b"objects"])
def test_a_file_that_is_not(entry: Entry, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / entry.file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
        os.utime(path, ns=(2, 2))
    assert not entry.proven_by(tmp_path)
    assert not entry.proven_by(tmp_path / "elsewhere")


def test_entries_are_kept_by_series(entry: Entry, tmp_path: Path) -> None:
    ledger = SeriesLedger(tmp_path, "1.2.3")
    assert ledger.entries == {}
    ledger.entries["1.2"] = entry
    ledger.save()
    assert SeriesLedger(tmp_path, "1.2.3").entries == {"1.2": entry}
    assert SeriesLedger(tmp_path, "1.2.4").entries == {}
    (path,) = tmp_path.rglob("*.json")
    assert path.stat().st_mode & 0o777 == 0o600 and "1.2.3" not in str(path.relative_to(tmp_path))


def test_what_was_handed_on_is_told_from_what_is_missing(entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / entry.file
    assert not entry.gone_on(tmp_path)
    entry.handed_on = "2026-01-01T00:00:00+01:00"
    assert not entry.gone_on(tmp_path) and entry.proven_by(tmp_path)  # marked, and killed before it was removed
    path.unlink()
    assert entry.gone_on(tmp_path) and not entry.proven_by(tmp_path)
    entry.handed_on = ""
    assert not entry.gone_on(tmp_path)


def test_ledgers_of_before_are_read_and_all_series_are_known(entry: Entry, tmp_path: Path) -> None:
    for series_uid in ("1.2.3", "1.2.4"):
        ledger = SeriesLedger(tmp_path, series_uid)
        ledger.entries["1.2"] = entry
        ledger.save()
        assert not entry.handed_on
    for path in tmp_path.rglob("*.json"):
        kept = read_json(path)
        del kept["instances"]["1.2"]["handed_on"]
        write_json(path, kept)
    assert SeriesLedger(tmp_path, "1.2.3").entries == {"1.2": entry}
    assert set(series_known(tmp_path)) == {"1.2.3", "1.2.4"}
    path.write_text("{")
    assert len(list(series_known(tmp_path))) == 1 and list(series_known(tmp_path / "nowhere")) == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"instances": {"1.2": {"file": "x"}}}', '{"instances": {"1": 5}}']
)
def test_a_ledger_that_cannot_be_read_proves_nothing(entry: Entry, tmp_path: Path, content: str) -> None:
    ledger = SeriesLedger(tmp_path, "1.2.3")
    ledger.entries["1.2"] = entry
    ledger.save()
    (path,) = tmp_path.rglob("*.json")
    path.write_text(content)
    assert SeriesLedger(tmp_path, "1.2.3").entries == {}
