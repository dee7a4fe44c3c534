"""Files that devices and archives made, through the command: a table by kind of object of what became of them.

`python -m tests.support.realfiles_run [--profile NAME] [-v]` prints the table of docs/deid-scores.md; with `-v`
each object.
Needs DCMTK. The folder is that of the environment variable `PACSIFIER_REAL_FILES`, or `real` beside the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import UID

from tests.support.places import REPO

#: Kinds by the beginning of the SOP class's name, the first that fits. Ordinary is what cohorts of
#: research holds, and whose header tells all that it can. The pixels of the others may show who it is.
KINDS: tuple[tuple[str, bool, tuple[str, ...]], ...] = (
    ("CT", True, ("CT Image", "Enhanced CT", "Legacy Converted Enhanced CT")),
    ("MR", True, ("MR Image", "Enhanced MR", "Legacy Converted Enhanced MR", "MR Spectroscopy")),
    ("PET, nuclear medicine", True, ("Positron", "Enhanced PET", "Legacy Converted Enhanced PET", "Nuclear")),
    ("X-ray", True, ("Computed Radiography", "Digital X-Ray", "Digital Mammo", "X-Ray", "Enhanced X", "Breast")),
    ("radiotherapy", True, ("RT ",)),
    ("segmentation, map", True, ("Segmentation", "Label Map", "Parametric Map", "Real World Value", "Surface")),
    ("microscopy", True, ("VL Whole Slide", "Microscopy")),
    ("waveform", True, ("12-lead", "General ECG", "Ambulatory", "Hemodynamic", "Cardiac", "Basic Voice")),
    (
        "report, presentation",
        True,
        ("Basic Text SR", "Enhanced SR", "Comprehensive", "Key Object", "Grayscale"),
    ),
    ("ultrasound", False, ("Ultrasound",)),
    ("photograph", False, ("VL ", "Ophthalmic", "Video")),
    ("secondary capture", False, ("Secondary Capture", "Multi-frame", "Encapsulated")),
)
#: Newer than pydicom's dictionary.
NEWER = {"1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation"}
REQUIRED = ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
NO_KIND = "of no patient, or of a private class"
#: What DCMTK's dcmdump cannot follow to its end, or has no valid UID of its own, its study or its series.
INVALID = "damaged, or without a valid UID"


@dataclass(frozen=True)
class Seen:
    """One object and what became of it."""

    file: str
    kind: str
    ordinary: bool
    outcome: str
    reason: str


def real_files() -> Path | None:
    """The folder of the real files, where there is one."""
    folder = Path(os.environ.get("PACSIFIER_REAL_FILES") or REPO.parent / "real")
    return folder if folder.is_dir() else None


def kind_of(path: Path) -> tuple[str, bool, str]:
    """The kind of an object, whether it is ordinary, and its SOP Instance UID."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = dcmread(path, force=True, specific_tags=["SOPClassUID", *REQUIRED])
            uids = [UID(str(dataset.get(keyword, ""))) for keyword in REQUIRED]
        except Exception:  # whatever pydicom says: it is not a file that anything reads
            return INVALID, False, ""
    sop_class = str(dataset.get("SOPClassUID", ""))
    name = NEWER.get(sop_class) or UID(sop_class).name
    kind, ordinary = next((kind[:2] for kind in KINDS if name.startswith(kind[2])), (NO_KIND, False))
    whole = subprocess.run(["dcmdump", "-q", path], capture_output=True).returncode == 0
    if not whole or (kind != NO_KIND and not all(uid.is_valid for uid in uids)):
        return INVALID, False, uids[0]
    return kind, ordinary, uids[0]


def rounds(files: Iterable[tuple[Path, str]]) -> list[list[Path]]:
    """Split files so that none holds an object twice: projects publish the same images in many syntaxes."""
    split: dict[int, list[Path]] = defaultdict(list)
    count: Counter[str] = Counter()
    for path, identity in files:
        # What has no UID that can be read goes last, since it may be a copy of anything.
        split[count[identity] if identity else sys.maxsize].append(path)
        count[identity] += 1
    return [split[number] for number in sorted(split)]


def convert(folder: Path, flags: Sequence[str] = ("--profile", "default", "--identity", "study")) -> list[Seen]:
    """De-identify a folder with the command.

    Args:
        folder: real files, in folders of the projects that published them.
        flags: what the command is told besides its folders.

    Raises:
        AssertionError: the command did not end, or its books leave an object out.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in (".csv", ".md")]
    kinds = {path: kind_of(path) for path in files}
    seen: list[Seen] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, chosen in enumerate(rounds((path, found[2]) for path, found in kinds.items())):
            home = Path(scratch) / str(number)
            for path in chosen:
                target = home / "in" / path.relative_to(folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
            apart = _run(home, flags)
            for path in chosen:
                name = str(path.relative_to(folder))
                outcome, reason = apart.pop(name, ("delivered", ""))
                seen.append(Seen(name, kinds[path][0], kinds[path][1], outcome, reason))
            assert not apart, f"set apart, and not given: {sorted(apart)}"
    return seen


def _run(home: Path, flags: Sequence[str]) -> dict[str, tuple[str, str]]:
    """One run of the command: outcome and reason of every file that is not in its data set."""
    command = [sys.executable, "-m", "pacsifier_ops.cli.anonymize", "-d", f"{home}/in", "-o", f"{home}/out"]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "PACSIFIER_STATE_ROOT": str(home / "state")}
    ended = subprocess.run([*command, "--no_contact_sheets", *flags], env=environment, capture_output=True, text=True)
    # 3: nothing could be de-identified, which the last rounds, of a file or two, may well be.
    assert ended.returncode in (0, 3), ended.stdout + ended.stderr
    (path,) = (home / "state").glob("runs/*/accounts.json")
    accounts = json.loads(path.read_text(encoding="utf-8"))
    apart = {file: (outcome, reason) for file, outcome, reason in accounts["set_apart"]}
    delivered = len(list((home / "out").glob("**/*.dcm")))
    given = sum(path.is_file() for path in (home / "in").rglob("*"))
    assert given == delivered + len(apart), f"{given} given, {delivered} delivered, {len(apart)} set apart: {apart}"
    return apart


def short(reason: str) -> str:
    """A reason without what differs from object to object."""
    if reason.startswith("the result still tells"):
        return "the result still tells who it is"
    return reason.split(":")[0] if not reason.startswith("its encoding") else reason


def table(seen: Sequence[Seen]) -> str:
    """The table, in Markdown."""
    lines = ["| kind | objects | delivered | excluded | quarantined | reasons |", "|---|---:|---:|---:|---:|---|"]
    by_kind: dict[str, list[Seen]] = defaultdict(list)
    for one in seen:
        by_kind[one.kind].append(one)
    order = [kind for kind, _, _ in KINDS] + [INVALID, NO_KIND]
    for kind in sorted(by_kind, key=order.index):
        lines.append(_row(kind, by_kind[kind]))
    lines.append(_row("**all ordinary**", [one for one in seen if one.ordinary]))
    lines.append(_row("**all**", seen, reasons=False))
    return "\n".join(lines)


def _row(title: str, seen: Sequence[Seen], reasons: bool = True) -> str:
    outcomes = Counter(one.outcome for one in seen)
    why = Counter(short(one.reason) for one in seen if one.outcome != "delivered").most_common() if reasons else []
    share = f" ({100 * outcomes['delivered'] / max(len(seen), 1):.0f} %)"
    told = "; ".join(f"{count} {reason}" for reason, count in why)
    return (
        f"| {title} | {len(seen)} | {outcomes['delivered']}{share} | {outcomes['excluded']} "
        f"| {len(seen) - outcomes['delivered'] - outcomes['excluded']} | {told} |"
    )


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="default")
    parser.add_argument("--identity", default="study", help="whose an object without PatientID is")
    parser.add_argument("-i", action="store_true", help="leave out what likely shows who it is")
    parser.add_argument("-v", action="store_true", help="a line per object")
    chosen = parser.parse_args()
    if (folder := real_files()) is None:
        print("no real files: PACSIFIER_REAL_FILES names no folder, and there is no `real` beside the repository")
        return 0
    identity = ["--identity", chosen.identity]
    seen = convert(folder, ["--profile", chosen.profile, *identity, *(["-i"] if chosen.i else [])])
    if chosen.v:
        for one in seen:
            print(f"{one.kind} | {one.ordinary} | {one.outcome} | {one.file} | {one.reason}")
    print(table(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
