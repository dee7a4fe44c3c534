"""The files that pydicom ships for tests of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pydicom.data

from pacsifier_ops.dicom.files import DicomFile, inspect

SHIPPED = sorted(path for path in Path(pydicom.data.__file__).parent.rglob("*") if path.is_file())


def inspected() -> Iterator[DicomFile]:
    """Yield those among them that are DICOM objects of ours."""
    for path in SHIPPED:
        try:
            file = inspect(path)
        except ValueError:
            continue
        if file is not None:
            yield file
