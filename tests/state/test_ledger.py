"""What the ledger takes for a proof that a file is there."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from pacsifier_ops.base.files import write_json
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.state.ledger import Entry, SeriesLedger, digest

ONE, OTHER = SeriesId("1.2", "1.2.3"), SeriesId("1.2", "1.2.4")


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
    ledger = SeriesLedger(tmp_path, ONE)
    assert ledger.entries == {}
    ledger.entries["1.2"] = entry
    ledger.save()
    assert SeriesLedger(tmp_path, ONE).entries == {"1.2": entry}
    assert SeriesLedger(tmp_path, OTHER).entries == {}
    (path,) = tmp_path.rglob("*.json")
    assert path.stat().st_mode & 0o777 == 0o600 and "1.2.3" not in str(path.relative_to(tmp_path))


def test_what_was_handed_on_is_told_from_what_is_missing(entry: Entry, tmp_path: Path) -> None:
    path = tmp_path / entry.file
    assert not entry.is_removed(tmp_path)
    entry.handed_on = "2026-01-01T00:00:00+01:00"
    assert not entry.is_removed(tmp_path) and entry.proven_by(tmp_path)  # marked, and killed before it was removed
    path.unlink()
    assert entry.is_removed(tmp_path) and not entry.proven_by(tmp_path)
    entry.handed_on = ""
    assert not entry.is_removed(tmp_path)


def test_equal_uids_in_two_studies_are_two_series(entry: Entry, tmp_path: Path) -> None:
    ledger = SeriesLedger(tmp_path, ONE)
    ledger.entries["1.2"] = entry
    ledger.save()
    assert SeriesLedger(tmp_path, SeriesId("1.9", "1.2.3")).entries == {}


def test_ledgers_of_before_are_read(entry: Entry, tmp_path: Path) -> None:
    """They knew a series by its own UID alone, and nothing of handing on."""
    name = hashlib.sha256(b"1.2.3").hexdigest()[:32]
    before = tmp_path / "ledger" / name[:2] / f"{name[2:]}.json"
    before.parent.mkdir(parents=True)
    kept = {key: value for key, value in asdict(entry).items() if key != "handed_on"}
    write_json(before, {"series": "1.2.3", "instances": {"1.2": kept}})
    ledger = SeriesLedger(tmp_path, ONE)
    assert ledger.entries == {"1.2": entry} == SeriesLedger(tmp_path, ONE.before).entries
    ledger.entries["1.3"] = entry
    ledger.save()
    assert set(SeriesLedger(tmp_path, ONE).entries) == {"1.2", "1.3"}
    assert set(SeriesLedger(tmp_path, ONE.before).entries) == {"1.2"}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"instances": {"1.2": {"file": "x"}}}', '{"instances": {"1": 5}}']
)
def test_a_ledger_that_cannot_be_read_proves_nothing(entry: Entry, tmp_path: Path, content: str) -> None:
    ledger = SeriesLedger(tmp_path, ONE)
    ledger.entries["1.2"] = entry
    ledger.save()
    (path,) = tmp_path.rglob("*.json")
    path.write_text(content)
    assert SeriesLedger(tmp_path, ONE).entries == {}
