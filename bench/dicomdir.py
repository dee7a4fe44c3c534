"""A file-set with a DICOMDIR: our command, and DCMTK's dcmmkdir on a copy whose files have fit names already."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydicom import dcmread

from bench.timing import ROOT, Cohort, Work, run

COHORTS = tuple(
    Cohort(f"{series * 50:,} images of 16×16 in {series} series", "INDEX", series, 50, 16) for series in (40, 400)
)


def works(folder: Path, quick: bool) -> Iterator[Work]:
    """Yield the comparisons; if `quick`, only the smaller one."""
    for cohort in COHORTS[:1] if quick else COHORTS:
        files, fit = folder / str(cohort.series), folder / f"{cohort.series}-fit"
        for number, path in enumerate(cohort.write(files)):
            target = fit / f"D{number // 100:07d}" / f"I{number:07d}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(path)

        def ours(place: Path, _: Any, files: Path = files) -> None:
            words = ["-d", str(files), "-o", str(place / "out")]
            command = [sys.executable, "-m", "pacsifier_ops.cli.create_dicomdir", *words]
            run(command, place, PACSIFIER_STATE_ROOT=str(place / "state"), PYTHONPATH=str(ROOT))

        def dcmmkdir(place: Path, _: Any, fit: Path = fit) -> None:
            shutil.copytree(fit, place / "out")
            run(["dcmmkdir", "+r", "+id", str(place / "out"), "+D", str(place / "out" / "DICOMDIR")], place)

        def exact(place: Path, _: Any, size: int = cohort.size) -> bool:
            records = dcmread(place / "out" / "DICOMDIR").DirectoryRecordSequence
            return len({r.ReferencedSOPInstanceUIDInFile for r in records if "ReferencedFileID" in r}) == size

        yield Work(f"DICOMDIR, {cohort.name}", cohort.size, {"ours": ours, "DCMTK dcmmkdir, a copy": dcmmkdir}, exact)
