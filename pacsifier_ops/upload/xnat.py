"""XNAT as a destination: its import service, object by object, confirmed by the catalog of the session.

Subject and session get the names that the released tree has, so nothing is derived from the source. Made from XNAT's
public documents: `POST /data/services/import` with the handler gradual-DICOM, and the lists of files of a session.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pacsifier_ops.base.errors import DestinationRefused
from pacsifier_ops.base.identity import digest_of
from pacsifier_ops.dicom.files import DicomFile
from pacsifier_ops.upload.destination import Answer, Outcome
from pacsifier_ops.upload.filestore import Reading
from pacsifier_ops.upload.nodes import XnatNode
from pacsifier_ops.upload.web import Streamed, WebDestination, file_part

#: Objects of one session after which its catalog is asked for: so many at least, and this part of those before. As the
#: catalog has all files, it would grow with the square of them otherwise.
_LEAST, _PART = 100, 4
NOT_KEPT = "XNAT has taken it, and its catalog does not have it as it was sent"


class Xnat(WebDestination):
    """A project of an XNAT: its archive, or its prearchive, where a person looks first."""

    method = "xnat"

    @property
    def _xnat(self) -> XnatNode:
        assert isinstance(self.node, XnatNode)
        return self.node

    def check(self) -> None:
        """See that the project is there."""
        reply = self.ask("GET", f"/data/projects/{self._xnat.project}", [("format", "json")], accept="*/*")
        if reply.status != 200:
            raise DestinationRefused(f"{self.node.name}: there is no such project for us ({reply.status})")

    def rounds(self, files: Sequence[DicomFile]) -> Iterator[tuple[Sequence[DicomFile], Mapping[str, str]]]:
        """Yield portions, after each of which the catalog is asked."""
        self.open()
        self._before_transfer()
        start = 0
        while start < len(files):
            end = start + max(_LEAST, start // _PART)
            yield files[start:end], {}
            start = end

    def put(self, files: Sequence[DicomFile], again: bool) -> Mapping[str, Answer]:
        """Import objects one by one, then compare size and MD5 of each with the catalog."""
        answers: dict[str, Answer] = {}
        sessions: dict[str, list[tuple[DicomFile, Reading]]] = {}
        for file in files:
            reading = Reading.of(file)
            answer = self._import(file, reading)
            if isinstance(answer, str):
                sessions.setdefault(answer, []).append((file, reading))
            else:
                answers[file.sop_instance_uid] = answer
        for session, imported in sessions.items():
            state = self._state(session)
            kept = self._catalog(session, {reading.size for _, reading in imported}) if not state else set()
            for file, reading in imported:
                if state:
                    answer = Answer(Outcome.REFUSED, text=state)
                elif (reading.size, reading.md5.hexdigest()) in kept:
                    answer = Answer(Outcome.STORED, reading.data_set.hexdigest())
                else:
                    answer = Answer(Outcome.DOUBTFUL, text=NOT_KEPT)
                answers[file.sop_instance_uid] = answer
        return answers

    def _import(self, file: DicomFile, reading: Reading) -> Answer | str:
        """Return the path of the session that has taken an object, or why none has."""
        node = self._xnat
        subject, session = labels(file.path.relative_to(self._root).parts, file.study_uid)
        query = [
            ("inbody", "true"),
            ("import-handler", "gradual-DICOM"),
            ("dest", f"/{node.into}/projects/{node.project}"),
            *(("PROJECT_ID", node.project), ("SUBJECT_ID", subject), ("EXPT_LABEL", session)),
            ("overwrite", "append"),
        ]
        body = Streamed([file_part(reading)])
        reply = self.ask("POST", "/data/services/import", query, body, accept="*/*", Content_Type="application/dicom")
        if reply.status == 404:
            raise DestinationRefused(f"{node.name}: there is no such project for us (404)")
        if reply.status != 200:
            return Answer(Outcome.REFUSED, text=f"XNAT cannot use it ({reply.status})")
        uri = reply.body.decode("utf-8", "replace").strip().splitlines()[:1]
        path = f"/{uri[0].strip().lstrip('/')}" if uri else ""
        if not path.startswith("/data/"):
            path = f"/data{path}"
        if f"/projects/{node.project}/" not in path:
            return Answer(Outcome.REFUSED, text="XNAT has put it into another project")
        return path

    def _state(self, session: str) -> str:
        """Return what is wrong with a session in the prearchive; empty: nothing."""
        if "/prearchive/" not in session:
            return ""
        for row in self._rows(session):
            if (status := str(row.get("status", ""))) in ("CONFLICT", "ERROR", "_CONFLICT"):
                return f"it stands in the prearchive as {status.strip('_')}; a person has to look at it there"
        return ""

    def _catalog(self, session: str, sizes: set[int]) -> set[tuple[int, str]]:
        """Return size and MD5 of the files of a session; those of which XNAT keeps no digest are read back.

        Args:
            sizes: sizes of the files that matter.
        """
        found = set()
        for row in self._rows(f"{session}/scans/ALL/files"):
            try:
                size = int(row.get("Size", -1))
            except ValueError:
                continue
            md5 = str(row.get("digest", "")).lower()
            if not md5 and size in sizes:
                reply = self.ask("GET", str(row.get("URI", "")), accept="*/*")
                md5 = hashlib.md5(reply.body, usedforsecurity=False).hexdigest()
            found.add((size, md5))
        return found

    def _rows(self, path: str) -> list[dict[str, Any]]:
        reply = self.ask("GET", path, [("format", "json")], accept="application/json")
        try:
            rows = json.loads(reply.body)["ResultSet"]["Result"]
            return [row for row in rows if isinstance(row, dict)]
        except (ValueError, LookupError, TypeError):
            return []


def labels(parts: Sequence[str], study_uid: str) -> tuple[str, str]:
    """Return the labels of subject and session of a file.

    Args:
        parts: of its path below the uploaded folder: `sub-…/ses-…/…`; of another tree the first folder is the subject.
        study_uid: its Study Instance UID, which tells two sessions of one name apart.
    """
    above = [re.sub(r"[^0-9A-Za-z_-]", "_", part) for part in parts[:-1]]
    subject = above[0].removeprefix("sub-") if above else "unnamed"
    session = next((part.removeprefix("ses-") for part in above if part.startswith("ses-")), "session")
    return subject, f"{subject}_{session}_{digest_of(study_uid)[:8]}"
