"""Make the tables of what the standard's IODs require, for the de-identification.

    pip download --no-deps highdicom && python tools/iod_types.py highdicom-*.whl

highdicom (MIT) brings PS3.3's modules and PS3.4's SOP classes as JSON, made from the standard's text by Innolitics'
dicom-standard; its `_standard/README.md` tells the edition. What it leaves out are the macros of functional groups:
those that matter here are named below. Run it again when `ps3_15_e1_1.csv` or `unlisted.csv` removes or empties
something that it did not.
"""

from __future__ import annotations

import csv
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from pydicom.datadict import dictionary_VR, keyword_dict
from pydicom.uid import UID_dictionary

from pacsifier_ops.deid import tables

FOLDER = Path(__file__).resolve().parents[1] / "pacsifier_ops" / "deid" / "tables"
SOP_CLASSES, TYPES = FOLDER / "iods.csv", FOLDER / "module_types.csv"

#: From the one that asks most to the one that asks least.
_ORDER = ("1", "1C", "2", "2C")
#: VRs that the rules take out unless something else is said (see docs/profiles.md).
_REMOVED = frozenset(("AE", "AS", "DA", "DT", "LO", "LT", "OB", "PN", "SH", "ST", "TM", "UC", "UN", "UR", "UT"))
#: TimezoneOffsetFromUTC: empty it is not allowed, and any dummy is a false one.
_NEITHER = frozenset({0x00080201})
#: Attributes of functional group macros (PS3.3 C.7.6.16.2, C.8), by keyword: type.
_FUNCTIONAL_GROUPS = {
    "FrameReferenceDateTime": "1C",
    "FrameAcquisitionDateTime": "1C",
    "ReferencedImageSequence": "2",
    "SourceImageSequence": "2",
    "LUTLabel": "1",
    "LUTExplanation": "1",
    "MetaboliteMapDescription": "1",
    "IrradiationEventUID": "1C",
    "OpticalPathIdentifier": "1",
}


def read(source: Path, name: str) -> Any:
    """One of highdicom's tables, from its wheel or from the folder that it is installed in."""
    if source.is_dir():
        return json.loads((source / "_standard" / name).read_text("utf-8"))
    with zipfile.ZipFile(source) as wheel:
        return json.loads(wheel.read(f"highdicom/_standard/{name}"))


def sop_classes(source: Path) -> Iterator[tuple[str, str, str]]:
    """UID, name and modules of every storage SOP class; only modules that `types` tells of."""
    told = {module for module, *_ in types(source)}
    modules = read(source, "iod_module_map.json")
    for uid, iod in sorted(read(source, "sop_class_iod_map.json").items()):
        name = UID_dictionary[uid][0] if uid in UID_dictionary else ""
        yield uid, name, " ".join(sorted({use["key"] for use in modules[iod]} & told))


def types(source: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Module, tag, keyword, level (top or nested) and type of what it requires and the rules might take out.

    Of several places at one level, the type that asks most.
    """
    for module, attributes in sorted(read(source, "module_attribute_map.json").items()):
        found: dict[tuple[int, str], str] = {}
        for attribute in attributes:
            if not any(map(_always_goes, attribute["path"])):
                _note(found, attribute["keyword"], "nested" if attribute["path"] else "top", attribute["type"])
        if "functional-groups" in module:
            for keyword, kind in _FUNCTIONAL_GROUPS.items():
                _note(found, keyword, "nested", kind)
        for (tag, level), kind in sorted(found.items()):
            yield module, f"({tag >> 16:04X},{tag & 0xFFFF:04X})", _KEYWORDS[tag], level, kind


_KEYWORDS = {tag: keyword for keyword, tag in keyword_dict.items()}


def _note(found: dict[tuple[int, str], str], keyword: str, level: str, kind: str) -> None:
    tag = keyword_dict.get(keyword)
    if tag is None or tag in _NEITHER or kind not in _ORDER or not _might_go(tag):
        return
    before = found.get((tag, level), kind)
    found[tag, level] = min(before, kind, key=_ORDER.index)


def _row(tag: int) -> tables.Row | None:
    return tables.attributes()[0].get(tag) or tables.unlisted().get(tag)


def _might_go(tag: int) -> bool:
    row = _row(tag)
    if row is not None:
        return "/" in row.basic or row.basic in "XZ"
    return tag not in tables.uids() and dictionary_VR(tag).split(" or ")[0] in _REMOVED


def _always_goes(keyword: str) -> bool:
    """Whether a sequence goes with all that is in it, whatever the options."""
    row = _row(keyword_dict.get(keyword, 0))
    return row is not None and row.basic == "X" and not row.options


def write(source: Path, classes: TextIO, kinds: TextIO) -> None:
    """Write both tables."""
    for stream, header, rows in (
        (classes, "sop_class_uid,sop_name,modules", sop_classes(source)),
        (kinds, "module,tag,keyword,level,type", types(source)),
    ):
        stream.write(f"{header}\n")
        csv.writer(stream, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    with (
        SOP_CLASSES.open("w", encoding="utf-8", newline="") as one,
        TYPES.open("w", encoding="utf-8", newline="") as other,
    ):
        write(Path(sys.argv[1]), one, other)
