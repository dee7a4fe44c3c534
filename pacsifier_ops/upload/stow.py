"""DICOMweb as a destination: STOW-RS (PS3.18 10.5), confirmed by QIDO-RS (10.6).

Objects go in requests of several, bounded by count and bytes. A request that ends well may hold failures: the answer is
read object by object, and then the server is asked what it lists.
"""

from __future__ import annotations

import json
import os
import secrets
import xml.etree.ElementTree as xml
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import AssociationAborted, DestinationRefused, PacsError, PacsTimeout
from pacsifier_ops.base.files import storage_errors
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.base.waiting import pause
from pacsifier_ops.dicom.files import DicomFile, inspect
from pacsifier_ops.upload.cstore import answer_of
from pacsifier_ops.upload.destination import Answer, Outcome
from pacsifier_ops.upload.filestore import PIECE, Reading
from pacsifier_ops.upload.web import Reply, Streamed, WebDestination, file_part

#: Bounds of one request: number of objects, and their size in bytes. One object may be larger.
MOST_OBJECTS, MOST_BYTES = 50, 100 << 20
#: Statuses by which a server says that it has no such service.
_NONE = (404, 405, 501)
#: Attributes of the answer (PS3.18 Table 10.5.3-2), and of a listed instance.
_FAILED, _REFERENCED, _UID = "00081198", "00081199", "00081155"
_WARNING, _FAILURE, _OTHER_FAILURES, _INSTANCE = "00081196", "00081197", "0008119A", "00080018"
#: Number of instances that are asked for at once.
_PAGE = 1000
#: Number of bytes in which the heads of a part, and the end of the last one, have room.
_HEAD = 8192
#: Seconds, in multiples of the node's retry_wait, that a server gets to list what it has stored.
_PATIENCE = (0, 1, 2, 4)

NOT_LISTED = "the destination says that it has stored it, and does not list it"
NO_FILE_META = "it has no File Meta Information, which STOW-RS needs"
OTHER_THERE = "the destination holds another object of its SOP Instance UID"


class Stow(WebDestination):
    """A server of DICOMweb.

    Attributes:
        scope: parameters of every request to store, to search, and to fetch.
    """

    method = "stow"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._alone: set[str] = set()
        self._knows_lists = True
        self.scope: list[tuple[str, str]] = []

    def check(self) -> None:
        """Ask for a study that is nowhere."""
        self.open()
        reply = self.ask("GET", "/studies", [("StudyInstanceUID", "2.25.0"), ("limit", "1"), *self.scope])
        if reply.status not in (200, 204, 404):
            raise DestinationRefused(f"{self.node.name}: no DICOMweb at this URL ({reply.status}); check host")

    def rounds(self, files: Sequence[DicomFile]) -> Iterator[tuple[Sequence[DicomFile], Mapping[str, str]]]:
        """Yield portions bounded by count and bytes. What broke a request before goes alone."""
        self.open()
        self._before_transfer()
        portion, size = list[DicomFile](), 0
        for file in files:
            alone = file.sop_instance_uid in self._alone
            full = len(portion) >= MOST_OBJECTS or size + file.size > MOST_BYTES
            if portion and (full or alone):
                yield portion, {}
                portion, size = [], 0
            portion.append(file)
            size += file.size
            if alone:
                yield portion, {}
                portion, size = [], 0
        if portion:
            yield portion, {}

    def put(self, files: Sequence[DicomFile], again: bool) -> Mapping[str, Answer]:
        """Send some objects in one request, and confirm each."""
        answers = {file.sop_instance_uid: Answer(Outcome.UNFIT, text=NO_FILE_META) for file in files}
        fit = [file for file in files if _has_file_meta(file)]
        if not fit:
            return answers
        readings = {file.sop_instance_uid: Reading.of(file) for file in fit}
        try:
            reply = self._store(list(readings.values()))
        except (AssociationAborted, PacsTimeout):
            self._alone.update(readings)
            raise
        if reply.status >= 400 and reply.status not in _NONE and len(fit) > 1 and not _answers(reply):
            for file in fit:  # it does not say which
                answers |= self.put([file], again)
            return answers
        told = self._told(reply, list(readings))
        return answers | self._confirmed(fit, told, readings)

    def _store(self, readings: Sequence[Reading]) -> Reply:
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        parts: list[Any] = []
        for reading in readings:
            parts += [head, file_part(reading), b"\r\n"]
        parts.append(f"--{boundary}--\r\n".encode())
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        return self.ask("POST", "/studies", self.scope, Streamed(parts), Content_Type=kind)

    def _told(self, reply: Reply, uids: Sequence[str]) -> dict[str, Answer]:
        """Return what an answer says of each object (PS3.18 10.5.3)."""
        name = self.node.name
        if reply.status in _NONE:
            raise DestinationRefused(f"{name}: no STOW-RS at this URL ({reply.status}); check host")
        found = _answers(reply)
        if reply.status == 413:
            rest = Answer(Outcome.REFUSED, text="413, too large for the destination")
        elif reply.status >= 400:
            rest = Answer(Outcome.REFUSED, text=f"{reply.status}, the destination cannot use it")
        else:  # an answer that says nothing of an object is no failure, and no word that it is there
            rest = Answer(Outcome.DOUBTFUL, text="the destination says nothing of it")
        return {uid: found.get(uid, rest) for uid in uids}

    def _confirmed(
        self, files: Sequence[DicomFile], told: Mapping[str, Answer], readings: Mapping[str, Reading]
    ) -> dict[str, Answer]:
        """Return what became of each object, by the answer and by what the server lists then."""
        stored = {uid for uid, answer in told.items() if answer.outcome is Outcome.STORED}
        listed: set[str] | None = set()
        for factor in _PATIENCE:
            pause(factor * self.web.retry_wait, self._cancelled)
            listed = self.there(files)
            if listed is None or stored <= listed:
                break
        answers = {}
        for file in files:
            uid, answer = file.sop_instance_uid, told[file.sop_instance_uid]
            sha256 = readings[uid].data_set.hexdigest()
            if answer.outcome is Outcome.STORED:
                if listed is not None and uid not in listed:
                    answer = Answer(Outcome.DOUBTFUL, text=NOT_LISTED)
                else:
                    answer = Answer(Outcome.STORED, sha256, answer.text)
            elif listed and uid in listed:
                # It was there already, or an answer was lost. It counts if it is this one.
                same = self._same(file, sha256)
                answer = Answer(Outcome.STORED, sha256) if same else Answer(Outcome.REFUSED, text=OTHER_THERE)
            answers[uid] = answer
        return answers

    def there(self, files: Iterable[DicomFile]) -> set[str] | None:
        """Return those that the server lists; None where it has no QIDO-RS."""
        wanted: dict[SeriesId, set[str]] = {}
        for file in files:
            wanted.setdefault(file.series, set()).add(file.sop_instance_uid)
        found = set()
        for series, uids in wanted.items():
            listed = self._instances_of(series, uids) if len(uids) <= MOST_OBJECTS else None
            if listed is None:
                listed = self._instances(series)
            if listed is None:
                return None
            found |= uids & listed
        return found

    def _instances_of(self, series: SeriesId, uids: set[str]) -> set[str] | None:
        """Return instances if the server lists them all when it is asked for these; None: their series has to tell.

        Else a large series would be listed whole after each of its portions. Not every server knows lists of UIDs, so
        its "no" proves nothing.
        """
        if not self._knows_lists:
            return None
        try:
            listed = self._instances(series, sorted(uids))
        except PacsError:
            listed = None
        if listed is None or listed - uids:
            self._knows_lists = False
        return listed if listed is not None and uids <= listed else None

    def _instances(self, series: SeriesId, uids: Sequence[str] = ()) -> set[str] | None:
        """Return what the server lists of a series (PS3.18 10.6); None where it has no QIDO-RS.

        Args:
            uids: SOP Instance UIDs to ask for (8.3.4.1); a server may list others as well.
        """
        found: set[str] = set()
        of = [("SOPInstanceUID", ",".join(uids))] if uids else []
        while True:
            path = f"/studies/{series.study_uid}/series/{series.series_uid}/instances"
            reply = self.ask("GET", path, [*of, ("limit", str(_PAGE)), ("offset", str(len(found))), *self.scope])
            if reply.status in (204, 404):
                return found
            if reply.status != 200:
                return None
            try:
                page = {uid for item in json.loads(reply.body or b"[]") if (uid := _text_of(item, _INSTANCE))}
            except (ValueError, TypeError, AttributeError):
                return None
            if page <= found:
                return found
            found |= page
            if uids and (found.issuperset(uids) or not page.issubset(uids)):
                return found  # all of them, or the server knows no lists of UIDs
            if len(page) < _PAGE:
                # A server may have a smaller limit of its own.
                continue

    def _same(self, file: DicomFile, sha256: str) -> bool:
        """Return whether the object that the server holds has this data set, see PS3.18 10.4."""
        series = file.series
        path = f"/studies/{series.study_uid}/series/{series.series_uid}/instances/{file.sop_instance_uid}"
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with storage_errors("the state root"), TemporaryDirectory(dir=settings.state_root()) as folder:
            target = Path(folder) / "object"
            reply = self.ask("GET", path, self.scope, accept=accept, target=target)
            if reply.status != 200:
                return False
            try:
                _cut_out_part(target)
                held = inspect(target)
                return held is not None and held.digest() == sha256
            except ValueError:
                return False


def _cut_out_part(path: Path) -> None:
    """Leave of a file with a multipart answer (RFC 2046 5.1) its only part; of another nothing changes.

    Raises:
        ValueError: it has no end.
    """
    with path.open("rb+") as stream:
        head = stream.read(_HEAD)
        if not head.lstrip(b"\r\n").startswith(b"--"):
            return
        boundary, begin = head.lstrip(b"\r\n").split(b"\r\n", 1)[0], head.index(b"\r\n\r\n") + 4
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(begin, size - _HEAD))
        at, tail = stream.tell(), stream.read()
        end = at + tail.rindex(b"\r\n" + boundary)
        reading, writing = begin, 0
        while reading < end:
            stream.seek(reading)
            piece = stream.read(min(PIECE, end - reading))
            stream.seek(writing)
            writing += stream.write(piece)
            reading += len(piece)
        stream.truncate(writing)


def _has_file_meta(file: DicomFile) -> bool:
    with file.path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _answers(reply: Reply) -> dict[str, Answer]:
    """Return what the body of an answer says, by SOP Instance UID; empty where it cannot be read."""
    kind = reply.headers.get("content-type", "")
    try:
        if "xml" in kind:
            data = _from_xml(reply.body)
        else:
            data = json.loads(reply.body)
            data = data[0] if isinstance(data, list) else data
        found = {}
        for item in _items(data, _REFERENCED):
            warning = _number_of(item, _WARNING)
            known = answer_of(warning, "") if warning else Answer(Outcome.STORED)
            text = known.text or (f"0x{warning:04X}" if warning else "")
            found[_text_of(item, _UID)] = Answer(Outcome.STORED, text=text)
        for item in (*_items(data, _FAILED), *_items(data, _OTHER_FAILURES)):
            reason = _number_of(item, _FAILURE)
            answer = answer_of(reason, "") if reason else Answer(Outcome.REFUSED, text="it gives no reason")
            if answer.outcome is Outcome.STORED:  # a warning, given as a failure
                answer = Answer(Outcome.REFUSED, text=answer.text)
            found[_text_of(item, _UID)] = answer
    except (ValueError, TypeError, AttributeError, LookupError, xml.ParseError):
        return {}
    found.pop("", None)
    return found


def _items(data: Any, tag: str) -> list[Any]:
    return list(data.get(tag, {}).get("Value") or [])


def _text_of(item: Any, tag: str) -> str:
    values = item.get(tag, {}).get("Value") or [""]
    return str(values[0]).strip(" \0")


def _number_of(item: Any, tag: str) -> int:
    return int(_text_of(item, tag) or 0)


def _from_xml(body: bytes) -> dict[str, Any]:
    """Return an answer in the Native DICOM Model (PS3.19 A.1) in the form of JSON. Entities are refused."""
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise ValueError
    return _attributes(xml.fromstring(body))


def _attributes(element: Any) -> dict[str, Any]:
    found = {}
    for one in element:
        if one.tag.rpartition("}")[2] != "DicomAttribute":
            continue
        items = [_attributes(child) for child in one if child.tag.rpartition("}")[2] == "Item"]
        values = [child.text or "" for child in one if child.tag.rpartition("}")[2] == "Value"]
        found[one.get("tag", "")] = {"Value": items or values}
    return found
