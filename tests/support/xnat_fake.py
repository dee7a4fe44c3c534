"""A fake of XNAT, at the level of the wire: it is no XNAT, and proves nothing that its documents do not say.

Built from what XNAT documents in public:

- https://wiki.xnat.org/xnat-api/image-session-import-service-api: `POST /data/services/import` with `import-handler`
  (DICOM-zip, gradual-DICOM, SI), `inbody=true`, `dest`, `overwrite` (none, append, delete); it answers with one URI a
  line. "If your zip includes an unparseable file, DICOM-zip will return a 400 error, but any files uploaded prior to
  the erroneous one will still be sent to the prearchive";
- https://wiki.xnat.org/xnat-api/image-session-archive-service-api: `POST /data/services/archive` with `src`;
- https://wiki.xnat.org/documentation/using-the-prearchive and the prearchive's API: `/data/prearchive/projects/P`, with
  a status for each session (RECEIVING, READY, CONFLICT, ERROR);
- the catalog of files of XNAT's REST API: `/data/projects/P/subjects/S/experiments/E/scans/ID/resources/DICOM/files`,
  as `ResultSet` in JSON, with MD5 digests where the site keeps checksums; `PUT` of a file, which answers 409 to a name
  that is there, unless `overwrite=true`;
- `/data/JSESSION`: a session for basic authentication.

What others met: https://github.com/pyxnat/pyxnat/issues/152 (corrupted scans, sent to the archive at once),
https://github.com/TIGRLab/admin/issues/847 ("Upload included files for multiple imaging sessions").

Faults, beside `any.` and `xnat.` + status, html, drop, cut, trickle of `FaultyWeb`:

    xnat.conflict      a session comes to stand in the prearchive as CONFLICT
    xnat.stuck         a session stays RECEIVING
    xnat.anonymize     the site's script writes into every file: {keyword: value}
    xnat.forget        SOP Instance UID that is taken and not kept
    xnat.split         what comes goes to another session each time
    xnat.lost          all is kept, and the connection ends without an answer
    xnat.no_digest     no digests in catalogs
    xnat.unassigned    what comes goes to the project "Unassigned", as where routing does not find the project
"""

from __future__ import annotations

import hashlib
import io
import re
import uuid
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

from pydicom import dcmread

from tests.support.faulty_web import FaultyWeb, Handler, _Drop, _parts


@dataclass(eq=False)
class Session:
    """A session in the prearchive or the archive.

    Attributes:
        timestamp: its folder in the prearchive; "" where it is in the archive.
        scans: identifier of a scan → name of a file → bytes.
        studies: Study Instance UIDs of what it holds.
        series: Series Instance UID → identifier of its scan.
    """

    project: str
    subject: str
    label: str
    timestamp: str = ""
    status: str = "READY"
    scans: dict[str, dict[str, bytes]] = field(default_factory=dict)
    studies: set[str] = field(default_factory=set)
    series: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        if self.timestamp:
            return f"/data/prearchive/projects/{self.project}/{self.timestamp}/{self.label}"
        return f"/data/archive/projects/{self.project}/subjects/{self.subject}/experiments/{self.label}"


@dataclass
class XnatFake(FaultyWeb):
    """XNAT with projects that one user may write to.

    Attributes:
        projects: that there are; the user may write to them.
        closed: projects that there are and that the user may not write to.
        sessions: all there are.
        auto: projects that archive what comes at once.
    """

    root: str = ""
    user: str = "uploader"
    password: str = "xn4t:p4ss/word"
    projects: set[str] = field(default_factory=lambda: {"STUDY"})
    closed: set[str] = field(default_factory=lambda: {"CLOSED"})
    auto: set[str] = field(default_factory=set)
    sessions: list[Session] = field(default_factory=list)
    subjects: set[tuple[str, str]] = field(default_factory=set)
    cookies: set[str] = field(default_factory=set)

    @property
    def handler(self) -> type[Handler]:
        return _Xnat

    @property
    def url(self) -> str:
        return self.origin

    def clear(self) -> None:
        super().clear()
        self.sessions.clear()
        self.subjects.clear()

    def stored(self, archived: bool | None = None) -> dict[str, bytes]:
        """SOP Instance UID → bytes of all that is in the archive, in the prearchive, or in either."""
        found: dict[str, bytes] = {}
        for session in self.sessions:
            if archived is None or archived == (not session.timestamp):
                for files in session.scans.values():
                    for data in files.values():
                        uid = str(dcmread(BytesIO(data), stop_before_pixels=True, force=True).SOPInstanceUID)
                        assert uid not in found, "an object is there twice"
                        found[uid] = data
        return found


class _Xnat(Handler):
    server_web: XnatFake

    def _kind(self) -> str:
        return "xnat"

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _admitted(self) -> bool:
        cookie = re.search(r"JSESSIONID=([^;]+)", self.headers.get("Cookie", ""))
        return (cookie is not None and cookie[1] in self.server_web.cookies) or super()._admitted()

    def _text(self, status: int, text: str) -> None:
        self._answer(status, text.encode(), {"Content-Type": "text/plain"})

    def _table(self, rows: list[dict[str, Any]]) -> None:
        self._json(200, {"ResultSet": {"Result": rows, "totalRecords": str(len(rows))}})

    def _work(self) -> None:
        web = self.server_web
        path = self.below.removeprefix("/REST").removeprefix("/data").rstrip("/")
        query = dict(self.query)
        if path == "/JSESSION":
            if self.command == "DELETE":
                return self._text(200, "")
            cookie = uuid.uuid4().hex.upper()
            web.cookies.add(cookie)
            return self._answer(200, cookie.encode(), {"Set-Cookie": f"JSESSIONID={cookie}; Path=/; HttpOnly"})
        if path in ("/version", "/xapi/siteConfig/buildInfo"):
            return self._text(200, "1.8.10")
        project = re.search(r"/projects/([^/]+)", path + query.get("dest", ""))
        name = project[1] if project else query.get("PROJECT_ID") or query.get("project")
        if name in web.closed and self.command != "GET":
            self._skip_body()
            return self._text(403, "The current user does not have permission to write to this project")
        if name and name not in web.projects | web.closed | {"Unassigned"}:
            self._skip_body()
            return self._text(404, "Unable to identify project")
        if path == "/services/import" and self.command == "POST":
            return self._import(query)
        if path == "/services/archive" and self.command == "POST":
            return self._archive(query)
        if path.startswith("/prearchive/projects"):
            return self._prearchive(path.split("/")[3:])
        return self._resources(path.removeprefix("/archive").strip("/").split("/"), query)

    def _files(self) -> list[bytes]:
        """Files of a body: itself, the members of an archive, or those of a form."""
        body = self._body()
        data = body.read_bytes()
        kind = self.headers.get("Content-Type", "")
        named = re.search(r'boundary="?([^";,]+)"?', kind)
        found = list(_parts(body, b"--" + named[1].encode())) if "multipart/form-data" in kind and named else [data]
        body.unlink()
        return found

    def _import(self, query: dict[str, str]) -> None:
        web = self.server_web
        handler = query.get("import-handler", "DICOM-zip")
        if handler not in ("DICOM-zip", "gradual-DICOM", "SI"):
            self._skip_body()
            return self._text(400, "Unknown import-handler implementation")
        objects: list[bytes] = []
        for file in self._files():
            if file[:2] == b"PK" and handler != "gradual-DICOM":
                with zipfile.ZipFile(io.BytesIO(file)) as packed:
                    objects += [packed.read(one) for one in packed.namelist() if not one.endswith("/")]
            else:
                objects.append(file)
        dest = [one for one in query.get("dest", "").split("/") if one]
        project = query.get("PROJECT_ID") or query.get("project") or (dest[2] if len(dest) > 2 else "Unassigned")
        if self._own("unassigned"):
            project = "Unassigned"
        direct = dest[:1] == ["archive"] or query.get("Direct-Archive", "").lower() == "true" or project in web.auto
        subject = query.get("SUBJECT_ID") or query.get("subject") or (dest[4] if len(dest) > 4 else "")
        label = query.get("EXPT_LABEL") or query.get("session") or (dest[6] if len(dest) > 6 else "")
        overwrite = query.get("overwrite", "none")
        changes, forget, split = self._own("anonymize"), self._own("forget"), self._own("split")
        touched: list[Session] = []
        made: list[Session] = []
        for data in objects:
            try:
                head = dcmread(BytesIO(data), stop_before_pixels=True)
                study, uid = str(head.StudyInstanceUID), str(head.SOPInstanceUID)
            except Exception:
                return self._text(400, "Unable to read an object of the upload")
            whose = subject or str(head.get("PatientName", "")) or "unknown"
            called = label or str(head.get("PatientID", "")) or study.replace(".", "_")
            if split:
                called += f"_{len(web.sessions)}"
            session = self._session(project, whose, called, direct, overwrite, made)
            if session is None:
                return self._text(409, "Session already exists, retry with overwrite enabled")
            if session.studies - {study}:
                return self._text(409, "Upload included files for multiple imaging sessions")
            session.studies.add(study)
            if session not in touched:
                touched.append(session)
            if changes:
                whole = dcmread(BytesIO(data))
                for keyword, value in changes.items():
                    setattr(whole, keyword, value)
                out = BytesIO()
                whole.save_as(out)
                data = out.getvalue()
            if uid != forget:
                digest = hashlib.sha1(uid.encode()).hexdigest()[:8]
                name = f"{study}-{head.get('SeriesNumber', 0)}-{head.get('InstanceNumber', 0)}-{digest}.dcm"
                session.scans.setdefault(self._scan(session, head), {})[name] = data
        for session in touched:
            if session.timestamp and self._own("conflict"):
                session.status = "CONFLICT"
            if session.timestamp and self._own("stuck"):
                session.status = "RECEIVING"
        if self._own("lost"):
            raise _Drop
        return self._text(200, "".join(f"{one.uri}\r\n" for one in touched))

    def _session(
        self, project: str, subject: str, label: str, direct: bool, overwrite: str, made: list[Session]
    ) -> Session | None:
        """Where an object goes; None where something is in its way."""
        web = self.server_web
        with web._lock:
            for one in web.sessions:
                if (one.project, one.label, not one.timestamp) == (project, label, direct):
                    known = one in made  # by this request: the rest of it goes there too
                    return None if direct and overwrite == "none" and not known else one
            stamp = "" if direct else f"20260101_1200{len(web.sessions):02d}000"
            session = Session(project, subject, label, stamp)
            made.append(session)
            web.sessions.append(session)
            web.subjects.add((project, subject))
            return session

    @staticmethod
    def _scan(session: Session, head: Any) -> str:
        """Identifier of a scan: the series' number, with its modality where another series has it."""
        number, series = str(head.get("SeriesNumber", 0)), str(head.SeriesInstanceUID)
        known = session.series
        if series not in known:
            taken = set(known.values())
            free = (f"{number}-{head.get('Modality', 'OT')}{count}" for count in range(1, 999))
            known[series] = number if number not in taken else next(one for one in free if one not in taken)
        return known[series]

    def _archive(self, query: dict[str, str]) -> None:
        web = self.server_web
        body = self._body()
        form = {name: values[0] for name, values in parse_qs(body.read_text()).items()} | query
        body.unlink()
        src = form.get("src", "").removeprefix("/data")
        session = next((one for one in web.sessions if one.timestamp and one.uri == "/data" + src), None)
        if session is None:
            return self._text(404, "no such session in the prearchive")
        if session.status != "READY":
            return self._text(409, f"session is {session.status}")
        place = (session.project, session.label)
        filed = (one for one in web.sessions if not one.timestamp)
        there = next((one for one in filed if (one.project, one.label) == place), None)
        if there and form.get("overwrite", "none") == "none":
            session.status = "CONFLICT"
            return self._text(409, "Session already exists, retry with overwrite enabled")
        if there:
            for scan, files in session.scans.items():
                there.scans.setdefault(scan, {}).update(files)
            web.sessions.remove(session)
            session = there
        session.timestamp = ""
        return self._text(200, f"{session.uri}\r\n")

    def _prearchive(self, names: list[str]) -> None:
        web = self.server_web
        waiting = [one for one in web.sessions if one.timestamp and (not names or one.project == names[0])]
        if len(names) >= 3:
            waiting = [one for one in waiting if (one.timestamp, one.label) == (names[1], names[2])]
            if not waiting:
                return self._answer(404, b"")
            session = waiting[0]
            if self.command == "DELETE":
                web.sessions.remove(session)
                return self._text(200, "")
            if len(names) > 3:
                return self._listing(session, names[3:])
            if self.command == "POST":  # action=commit, older than services/archive
                self._skip_body()
                session.timestamp = ""
                return self._text(301, session.uri)
        self._table(
            [
                {
                    "project": one.project,
                    "timestamp": one.timestamp,
                    "folderName": one.label,
                    "name": one.label,
                    "subject": one.subject,
                    "status": one.status,
                    "tag": next(iter(one.studies), ""),
                    "url": one.uri.removeprefix("/data"),
                }
                for one in waiting
            ]
        )

    def _resources(self, names: list[str], query: dict[str, str]) -> None:
        """Projects, subjects, experiments, scans and files."""
        web = self.server_web
        if names == ["projects"]:
            return self._table([{"ID": one, "name": one} for one in sorted(web.projects)])
        pairs = dict(zip(names[::2], names[1::2], strict=False))
        project, subject = pairs.get("projects", ""), pairs.get("subjects", "")
        if len(names) == 2 and names[0] == "projects":
            return self._json(200, {"items": [{"data_fields": {"ID": project}}]})
        if names[-1] == "subjects":
            here = sorted(one for place, one in web.subjects if place == project)
            rows = [{"ID": f"XNAT_{one}", "label": one, "project": project} for one in here]
            return self._table(rows)
        if names[0] == "projects" and len(names) == 4 and names[2] == "subjects":
            if self.command == "PUT":
                self._skip_body()
                code = 200 if (project, subject) in web.subjects else 201
                web.subjects.add((project, subject))
                return self._text(code, f"XNAT_{subject}")
            return self._text(200 if (project, subject) in web.subjects else 404, "")
        filed = [one for one in web.sessions if not one.timestamp and one.project == (project or one.project)]
        if subject:
            filed = [one for one in filed if one.subject == subject]
        if names[-1] == "experiments":
            return self._table(
                [
                    {"ID": f"XNAT_{one.label}", "label": one.label, "project": one.project, "URI": one.uri}
                    for one in filed
                ]
            )
        label = pairs.get("experiments", "").removeprefix("XNAT_")
        session = next((one for one in filed if one.label == label), None)
        if session is None and self.command == "PUT" and label and subject:
            session = Session(project, subject, label)
            web.sessions.append(session)
            web.subjects.add((project, subject))
            if names[-2] == "experiments":
                self._skip_body()
                return self._text(201, f"XNAT_{label}")
        if session is None:
            self._skip_body()
            return self._answer(404, b"")
        rest = names[names.index("experiments") + 2 :]
        if self.command == "DELETE" and not rest:
            web.sessions.remove(session)
            return self._text(200, "")
        if self.command == "PUT":
            return self._put(session, rest, query)
        if not rest:
            return self._json(200, {"items": [{"data_fields": {"label": session.label, "project": session.project}}]})
        return self._listing(session, rest)

    def _put(self, session: Session, rest: list[str], query: dict[str, str]) -> None:
        scan = rest[1] if len(rest) > 1 and rest[0] == "scans" else ""
        if "files" not in rest:
            self._skip_body()
            code = 200 if scan in session.scans else 201
            if scan:
                session.scans.setdefault(scan, {})
            return self._text(code, "")
        name = "/".join(rest[rest.index("files") + 1 :])
        (data,) = self._files()
        files = session.scans.setdefault(scan, {})
        if name in files and query.get("overwrite", "").lower() != "true":
            return self._text(409, "File already exists")
        files[name] = data
        if self._own("lost"):
            raise _Drop
        return self._text(200, "")

    def _listing(self, session: Session, rest: list[str]) -> None:
        if rest == ["scans"]:
            return self._table(
                [
                    {"ID": scan, "xsiType": "xnat:mrScanData", "URI": f"{session.uri}/scans/{scan}"}
                    for scan in sorted(session.scans)
                ]
            )
        wanted = rest[1] if rest[0] == "scans" and len(rest) > 1 else "ALL"
        chosen = {
            scan: files for scan, files in session.scans.items() if wanted in ("ALL", "*") or scan in wanted.split(",")
        }
        if rest[-1] == "resources":
            rows = [
                {"label": "DICOM", "file_count": str(len(files)), "format": "DICOM", "cat_id": scan}
                for scan, files in sorted(chosen.items())
            ]
            return self._table(rows)
        if rest[-1] == "files":
            silent = self._own("no_digest")
            return self._table(
                [
                    {
                        "Name": name,
                        "Size": str(len(data)),
                        "URI": f"{session.uri}/scans/{scan}/resources/DICOM/files/{name}",
                        "cat_ID": scan,
                        "collection": "DICOM",
                        "file_format": "DICOM",
                        "digest": "" if silent else hashlib.md5(data).hexdigest(),
                    }
                    for scan, files in sorted(chosen.items())
                    for name, data in sorted(files.items())
                ]
            )
        if "files" in rest:
            name = "/".join(rest[rest.index("files") + 1 :])
            for files in chosen.values():
                if name in files:
                    return self._answer(200, files[name], {"Content-Type": "application/octet-stream"})
        return self._answer(404, b"")
