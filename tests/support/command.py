"""The command line under test as users run it, and what it left on disk."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.tag import Tag

from pacsifier_ops.cli.pacsifier import main
from tests.support.places import REPO
from tests.support.truth import Instance

LOG_COLUMNS = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "FilesFound",
    "Completed",
    "Expected",
    "Missing",
    "Status",
    "Reason",
)
PADDING = Tag(0xFFFC, 0xFFFC)


def write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write a query table with the columns that any of the rows has."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def arguments(config: Path, table: Path, out: Path, *flags: str) -> list[str]:
    """The command line's arguments."""
    return ["-c", str(config), "-q", str(table), "-d", str(out), *flags]


def start(config: Path, table: Path, out: Path, *flags: str) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pacsifier_ops.cli.pacsifier", *arguments(config, table, out, *flags)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )


@dataclass(frozen=True)
class Result:
    """How the command line ended."""

    code: int
    said: str
    out: Path

    @property
    def log(self) -> list[dict[str, str]]:
        """The lines of logs/pacsifier_log.csv."""
        with (self.out / "logs" / "pacsifier_log.csv").open(encoding="utf-8-sig", newline="") as stream:
            return list(csv.DictReader(stream))

    def ended(self, *codes: int) -> Result:
        """Fail with what the command said unless it ended with one of these codes."""
        assert self.code in codes, f"exit {self.code}, not {codes}:\n{self.said}"
        return self


def finish(process: subprocess.Popen[str], out: Path, seconds: float = 300.0) -> Result:
    """Wait for the command line to end."""
    try:
        said = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        said = process.communicate()
        raise AssertionError(f"no end after {seconds} s:\n{said[0]}\n{said[1]}") from None
    return Result(process.returncode, "\n".join(said), out)


def extract(config: Path, table: Path, out: Path, *flags: str) -> Result:
    """Run the command line to its end; `--save --info` unless other flags are given.

    Inside this process: starting Python a hundred times would take longer than all the rest.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(arguments(config, table, out, *(flags or ("--save", "--info"))))
    return Result(code, said.getvalue(), out)


def series_of_lines(state: Path) -> tuple[dict[int, dict[str, Any]], dict[int, set[str]]]:
    """From the accounts of the only run so far: each row's account and the series found for it, by line."""
    (path,) = state.glob("runs/*/accounts.json")
    accounts = json.loads(path.read_text(encoding="utf-8"))
    found: dict[int, set[str]] = {row["line"]: set() for row in accounts["rows"]}
    for series in accounts["series"]:
        for line in series["lines"]:
            found[line].add(series["series_uid"])
    return {row["line"]: row for row in accounts["rows"]}, found


def files(out: Path) -> dict[str, Path]:
    """The DICOM files of the tree by SOP Instance UID, which is their name; no UID twice."""
    found: dict[str, Path] = {}
    for path in sorted(out.glob("sub-*/**/*.dcm")):
        assert path.stem not in found, f"{path.stem} lies in {path.parent} and in {found[path.stem].parent}"
        found[path.stem] = path
    return found


def check_tree(out: Path, expected: Mapping[str, Instance], killed: bool = False) -> None:
    """The tree holds exactly the expected instances, each whole, in folders of their own.

    Args:
        killed: a run was killed; what it had not published may lie in the tree's own folder for a while.
    """
    found = files(out)
    assert found.keys() == expected.keys(), (
        f"{len(found.keys() - expected.keys())} files nobody asked for, {len(expected.keys() - found.keys())} missing"
    )
    strangers = [p for p in out.rglob("*") if p.is_file() and not _belongs(p.relative_to(out), killed)]
    assert not strangers, f"left behind: {strangers}"
    series_of: dict[Path, set[str]] = defaultdict(set)
    folders_of: dict[str, set[Path]] = defaultdict(set)
    patients_of: dict[str, set[str]] = defaultdict(set)
    for uid, path in found.items():
        instance = expected[uid]
        check_same(path, instance.path)
        series_of[path.parent].add(instance.series)
        folders_of[instance.series].add(path.parent)
        patients_of[path.relative_to(out).parts[0]].add(instance.patient)
    assert all(len(series) == 1 for series in series_of.values()), "series share a folder"
    assert all(len(folders) == 1 for folders in folders_of.values()), "a series lies in several folders"
    assert all(len(patients) == 1 for patients in patients_of.values()), "patients share a folder"


def _belongs(path: Path, killed: bool) -> bool:
    """Whether a file may be in an output folder: an object, an info dump, a pseudonym, a log."""
    if path.parts[0] == ".pacsifier":
        return killed or ("incoming" not in path.parts and "spool" not in path.parts)
    if path.parts[0] == "logs":
        return path.suffix in (".csv", ".parquet")
    return path.suffix in (".dcm", ".csv") or path.name == "new_id.txt"


def check_same(path: Path, original: Path) -> None:
    """The data set is the original's: the same bytes, or the same elements where an archive encoded them anew."""
    ours, theirs = dcmread(path), dcmread(original)
    assert ours.file_meta.MediaStorageSOPInstanceUID == ours.SOPInstanceUID == path.stem
    if ours.file_meta.TransferSyntaxUID == theirs.file_meta.TransferSyntaxUID and _body(path) == _body(original):
        return
    for syntax in (ours.file_meta.TransferSyntaxUID, theirs.file_meta.TransferSyntaxUID):
        recoded = ours.file_meta.TransferSyntaxUID != theirs.file_meta.TransferSyntaxUID
        assert not (recoded and syntax.is_compressed), f"{original} was transcoded"
    assert _plain(ours) == _plain(theirs), f"{original} came back changed"


def _body(path: Path) -> bytes:
    raw = path.read_bytes()
    start = 144 + int.from_bytes(raw[140:144], "little") if raw[132:136] == b"\x02\0\0\0" else 0
    return raw[start:]


def _plain(dataset: Dataset) -> list[Any]:
    """The elements of a data set, decoded; group lengths and padding are a matter of encoding."""
    elements: list[Any] = []
    for element in dataset:
        if element.tag.element == 0 or element.tag == PADDING:
            continue
        value: Any = element.value
        if element.VR == "SQ":
            value = [_plain(item) for item in value]
        elif isinstance(value, bytes) and dataset.original_encoding[1] is False and element.tag == 0x7FE00010:
            value = dataset.pixel_array.astype("<u2").tobytes() if dataset.BitsAllocated == 16 else value
        elements.append((element.tag, str(value)))
    return elements
