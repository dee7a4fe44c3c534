"""Make the table of attributes that are newer than pydicom's dictionary.

    python tools/newer_attributes.py dicom.dic

`dicom.dic` is DCMTK's dictionary (dcmdata/data), whose head tells the edition of PS3.6. Run it again when pydicom is
upgraded. What is retired, for industry (DICONDE), or in groups that no object has, is left out.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from pydicom.datadict import DicomDictionary

TABLE = Path(__file__).resolve().parents[1] / "pacsifier_ops" / "deid" / "tables" / "newer_attributes.csv"

_LINE = re.compile(r"\(([0-9A-F]{4}),([0-9A-F]{4})\)\t([A-Z]{2})\t(\w+)\t([\dn-]+)\tDICOM")


def newer(source: Path) -> Iterator[tuple[str, str, str, str]]:
    """Tag, keyword, VR and VM."""
    for line in source.read_text("utf-8").splitlines():
        found = _LINE.fullmatch(line)
        if found and int(found[1] + found[2], 16) not in DicomDictionary and found[1] >= "0008":
            yield f"({found[1]},{found[2]})", found[4], found[3], found[5]


def write(source: Path, stream: TextIO) -> None:
    """Write the table."""
    stream.write("tag,keyword,vr,vm\n")
    csv.writer(stream, lineterminator="\n").writerows(newer(source))


if __name__ == "__main__":
    with TABLE.open("w", encoding="utf-8", newline="") as table:
        write(Path(sys.argv[1]), table)
