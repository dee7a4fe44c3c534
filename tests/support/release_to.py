"""What the tests of a release straight to a store share: the cohort, and how to look at files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.support.embedded import series

DAY = "20200301"
FIRST = series("80082", "Wurzelbacher^Kunigunde", n_images=3, study_date=DAY)
SECOND = series("12012", "Schnuerpel^Zebedaeus", n_images=2, series_number=2, study_date=DAY)
ROWS = [{"PatientID": "80082"}, {"PatientID": "12012"}]
GIVEN = {"release_to": "store", "source": "local"}


def files_in(root: Path) -> dict[str, bytes]:
    """Return all files below a folder, by their path."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def images(names: Iterable[str]) -> list[str]:
    """Return the names of DICOM files among these."""
    return [name for name in names if name.endswith(".dcm")]
