"""The card of a data set: `dataset.json` says what it is, what it holds, how it was made, and what its tables mean.

It is Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html): JSON-LD with the words of
schema.org, files with their digests, and the columns of tables, which libraries read. Three keys are ours, with JSON as
their value: `counts`, `deidentification`, and `software`.

Its date is that of the last change of its content, and its software is that of then. So the card of a data set that has
not changed stays as it is, byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops import __version__
from pacsifier_ops.base.files import read_json, write_atomic, write_json
from pacsifier_ops.base.tables import BOOLEAN, INTEGER, NUMBER, TEXT
from pacsifier_ops.base.words import plural
from pacsifier_ops.deid import inventory, technique
from pacsifier_ops.deid.rules import ProfileOption
from pacsifier_ops.deid.run import DeidRequest, Store
from pacsifier_ops.runs.folder import now

if TYPE_CHECKING:
    from pacsifier_ops.deid.rules import Rules

CARD = "dataset.json"

_FORMAT = "http://mlcommons.org/croissant/1.0"
#: The context that the specification gives, and our keys.
_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
    "counts": {"@id": "urn:pacsifier:counts", "@type": "@json"},
    "deidentification": {"@id": "urn:pacsifier:deidentification", "@type": "@json"},
    "software": {"@id": "urn:pacsifier:software", "@type": "@json"},
    "ethics": {"@id": "urn:pacsifier:ethics"},
}
_FORMATS = {".parquet": "application/x-parquet", ".csv": "text/csv"}
_TYPES = {TEXT: "sc:Text", INTEGER: "sc:Integer", NUMBER: "sc:Float", BOOLEAN: "sc:Boolean"}

#: Treatment of dates, in words.
KEPT, MOVED, REMOVED = "as they were", "moved by the days of each patient", "removed"


@dataclass(frozen=True)
class About:
    """What a card says of the project and the profile.

    Attributes:
        project, description, license, ethics: see `run.DeidRequest`.
        profile: its name, without the folder of its file; options: in effect; rules: digest of its rules, hexadecimal.
        dates: KEPT, MOVED or REMOVED.
    """

    project: str
    description: str
    license: str
    ethics: str
    profile: str
    options: tuple[str, ...]
    rules: str
    dates: str

    @classmethod
    def of(cls, request: DeidRequest, rules: Rules) -> About:
        """Return what the card of a run says.

        Args:
            request: its request.
            rules: the compiled profile.
        """
        return cls(
            request.project,
            request.description,
            request.license,
            request.ethics,
            Path(request.profile).name,
            tuple(sorted(option.value for option in rules.options)),
            rules.digest,
            dates_of(rules),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, hexadecimal."""
        return _digest(asdict(self))


def dates_of(rules: Rules) -> str:
    """Return what a profile does with dates: KEPT, MOVED or REMOVED."""
    if ProfileOption.FULL_DATES in rules.options:
        return KEPT
    return MOVED if ProfileOption.MODIFIED_DATES in rules.options else REMOVED


def write(
    store: Store,
    about: About,
    counts: inventory.Counts,
    digests: Mapping[str, str],
    root: Path,
    mode: int,
    scratch: Path,
) -> None:
    """Write the card of a data set.

    Args:
        store: what is known of the data set.
        about: what is to be said of the project and the profile.
        counts: what the data set holds.
        digests: SHA-256 of its tables, hexadecimal, by name.
        root: its folder.
        mode, scratch: see `base.files.atomic_stream`.

    Raises:
        OSError: card or state root cannot be written.
    """
    content = _content(about, counts, digests, root)
    last = {"of": _digest(content), "day": now()[:10], "software": _software()}
    with suppress(OSError, ValueError, TypeError, KeyError):
        before = read_json(store.card)
        if before["of"] == last["of"]:
            last = before
    write_json(store.card, last)
    day = {"dateModified": last["day"], "datePublished": last["day"], "software": last["software"]}
    card = {**content, **day}
    write_atomic(root / CARD, json.dumps(card, indent=2, ensure_ascii=False) + "\n", mode, scratch)


def day_of(store: Store) -> str:
    """Return the date on the card of a data set, YYYY-MM-DD; empty where there is none."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return str(read_json(store.card)["day"])
    return ""


def _software() -> dict[str, str]:
    return {"pacsifier-ops": __version__, **{name: version(name) for name in ("pydicom", "pyarrow")}}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _content(about: About, counts: inventory.Counts, digests: Mapping[str, str], root: Path) -> dict[str, Any]:
    """Return the card without date and software."""
    series = _record_set("series", "A series of the data set.", "series.parquet", inventory.series_columns(), "Folder")
    objects = "An object of the data set."
    instances = _record_set("instances", objects, inventory.INSTANCES, inventory.instance_columns(), "Path")
    for one in instances["field"]:
        if one["name"] == "Folder":
            one["references"] = {"field": {"@id": "series/Folder"}}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _FORMAT,
        "name": about.project,
        "description": about.description or _described(about, counts),
        **({"license": about.license} if about.license else {}),
        **({"ethics": about.ethics} if about.ethics else {}),
        "measurementTechnique": sorted(filter(None, counts.modalities)),
        "counts": _counts(counts, about.dates),
        "deidentification": {
            "profile": about.profile,
            "options": list(about.options),
            "rules": about.rules,
            "dates": about.dates,
        },
        "distribution": [
            *(_file(root / name, sha256) for name, sha256 in digests.items()),
            {
                "@type": "cr:FileSet",
                "@id": "objects",
                "name": "objects",
                "description": "DICOM objects; instances.parquet has path and digest of each.",
                "encodingFormat": "application/dicom",
                "includes": "**/*.dcm",
            },
        ],
        "recordSet": [series, instances],
    }


def _described(about: About, counts: inventory.Counts) -> str:
    modalities = ", ".join(sorted(filter(None, counts.modalities)))
    what = f"{plural(len(counts.patients), 'patient')}, {plural(counts.series, 'series', 'series')}"
    return f"De-identified DICOM objects of the project {about.project}: {what}{modalities and f' ({modalities})'}."


def _counts(counts: inventory.Counts, dates: str) -> dict[str, Any]:
    """Return the counts. All of them are numbers, also years: the gate takes no number of a card for a short id."""
    return {
        "patients": len(counts.patients),
        "studies": len(counts.studies),
        "series": counts.series,
        "instances": counts.instances,
        "images": counts.images,
        "megabytes": round(counts.megabytes, 1),
        "modalities": [{"modality": name, **count} for name, count in _sorted(counts.modalities)],
        "devices": [
            {"manufacturer": maker, "model": model, **count} for (maker, model), count in _sorted(counts.devices)
        ],
        "years": [
            {"year": int(year), **count} for year, count in _sorted(counts.years) if re.fullmatch(r"\d{4}", year)
        ],
        "years_are": f"those of StudyDate; dates are {dates}",
    }


def _sorted(counts: Mapping[Any, Counter[str]]) -> Iterable[tuple[Any, dict[str, int]]]:
    return ((name, dict(count)) for name, count in sorted(counts.items()))


def _file(path: Path, sha256: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "contentUrl": path.name,
        "encodingFormat": _FORMATS[path.suffix],
        "sha256": sha256,
    }


def _record_set(
    name: str, description: str, file: str, columns: Mapping[str, tuple[str, str]], key: str
) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "key": {"@id": f"{name}/{key}"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{column}",
                "name": column,
                "description": meaning_of(column, meaning),
                "dataType": _TYPES[kind],
                "source": {"fileObject": {"@id": file}, "extract": {"column": column}},
            }
            for column, (kind, meaning) in columns.items()
        ],
    }


def meaning_of(column: str, meaning: str) -> str:
    """Return what a column means: its attributes, if it has any, and a text."""
    tags = next((one.tags for one in technique.columns() if one.name == column), ())
    shown = ", ".join(f"({tag >> 16:04X},{tag & 0xFFFF:04X})" for tag in tags)
    return f"{shown}: {meaning}" if shown and meaning else shown or meaning


# The card as reports show it


@dataclass(frozen=True)
class Shown:
    """What a report shows of a card.

    Attributes:
        day: date of the last change, YYYY-MM-DD.
        description, license, ethics: texts; empty where there is none.
        dates: treatment of dates, in words.
        totals: name and number of what is counted.
        tables: title, and name of a group with its series and objects, of each of the counts by group.
    """

    day: str
    description: str
    license: str
    ethics: str
    dates: str
    totals: list[tuple[str, int]] = field(default_factory=list)
    tables: list[tuple[str, list[tuple[str, int, int]]]] = field(default_factory=list)


def shown(root: Path) -> Shown | None:
    """Return the card of a data set for a report; None where there is none, or it cannot be read."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        card = read_json(root / CARD)
        counts = card["counts"]
        names = ("patients", "studies", "series", "instances", "images")
        return Shown(
            card["dateModified"],
            card["description"],
            card.get("license", ""),
            card.get("ethics", ""),
            card["deidentification"]["dates"],
            [(name, counts[name]) for name in names],
            [(title, list(_groups(counts[title.casefold()]))) for title in ("Modalities", "Devices", "Years")],
        )
    return None


def _groups(groups: list[dict[str, Any]]) -> Iterator[tuple[str, int, int]]:
    for one in groups:
        names = [str(value) for name, value in one.items() if name not in ("series", "instances")]
        yield " ".join(filter(None, names)) or "not said", one["series"], one["instances"]
