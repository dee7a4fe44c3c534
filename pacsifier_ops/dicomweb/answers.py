"""Queries to DICOMweb and their answers: parameters of QIDO-RS (PS3.18 10.6), and DICOM in JSON (PS3.18 F)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydicom.dataset import Dataset

from pacsifier_ops.dicom.heads import UIDS
from pacsifier_ops.dimse.session import values_of

_STUDY, _SERIES = "StudyInstanceUID", "SeriesInstanceUID"
#: What the resources of the levels are called, and the unique keys of those above.
_RESOURCES = {"STUDY": ("studies", ()), "SERIES": ("series", (_STUDY,)), "IMAGE": ("instances", (_STUDY, _SERIES))}
_NAMES = {_STUDY: "studies", _SERIES: "series"}


def target(identifier: Dataset) -> tuple[str, list[tuple[str, str]]]:
    """Return the path of a query and its parameters, from an identifier of C-FIND (PS3.4 C.4.1.1.3).

    The unique keys of the levels above stand in the path where they have one value each.
    """
    resource, above = _RESOURCES[str(identifier.QueryRetrieveLevel)]
    path, in_path = "", set()
    for keyword in above:
        values = values_of(identifier, keyword)
        if len(values) != 1 or any(letter in values[0] for letter in "*?\\,/"):
            break
        path += f"/{_NAMES[keyword]}/{values[0]}"
        in_path.add(keyword)
    params = []
    for element in identifier:
        keyword = element.keyword
        if keyword in ("QueryRetrieveLevel", "SpecificCharacterSet") or keyword in in_path:
            continue
        if values := values_of(identifier, keyword):
            params.append((keyword, ",".join(values) if element.VR == "UI" else "\\".join(values)))
        params.append(("includefield", keyword))
    return f"{path}/{resource}", params


def matches_of(body: bytes) -> list[Any]:
    """Return the matches of an answer.

    Raises:
        ValueError: it is no list in JSON, or its letters are not UTF-8.
    """
    if not body.strip():
        return []
    found = json.loads(body.decode("utf-8-sig"))
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list):
        raise ValueError("the answer is no list of matches")
    return found


def decoded(match: Any) -> Dataset:
    """Return a match as a data set. Its letters are whole, whatever character set the objects are in.

    Raises:
        Exception: it cannot be decoded; pydicom raises many types.
    """
    if not isinstance(match, Mapping):
        raise ValueError("a match is no object")
    found = Dataset.from_json({tag: element for tag, element in match.items() if not _is_bulk(element)})
    found.SpecificCharacterSet = "ISO_IR 192"
    return found


def uids_of(match: Any) -> dict[str, str]:
    """Return the UIDs of a match by keyword, as text, empty where not returned."""
    found = {}
    for keyword, tag in UIDS.items():
        values = match.get(f"{tag:08X}", {}).get("Value") or [""]
        found[keyword] = values[0].strip(" \0") if isinstance(values[0], str) else ""
    return found


def _is_bulk(element: Any) -> bool:
    """Return whether the value is elsewhere (PS3.18 F.2.6); no key of ours is so long."""
    return isinstance(element, Mapping) and "BulkDataURI" in element
