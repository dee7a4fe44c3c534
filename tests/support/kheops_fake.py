"""A fake of Kheops, at the level of the wire: it is no Kheops, and proves nothing that its documents do not say.

Built from what Kheops documents in public:

- https://github.com/OsiriX-Foundation/kheops/wiki (pages *Create an album*, *Get an Album*, *Album List*, *Study List*,
  *Add a study*, *Create a Capability Token*): paths below `/api`, forms, and JSON with names in snake case;
- https://docs.kheops.online/docs/tokens/curl: a token goes as `Authorization: Bearer`, as the password of basic
  authentication, or in the path as `/api/link/{token}/...`; `?album={album_id}` chooses an album.

Beside them, DICOMweb is that of `FaultyWeb`, with all its faults. Searching instances is not in the documents; it is
answered here as by the archive behind Kheops, unless `instances` is off. STOW-RS takes `?album=`; where the token may
not write, single series fail with SERIES_ACCESS_FORBIDDEN, as in
https://github.com/OsiriX-Foundation/kheops/issues/63.
"""

from __future__ import annotations

import base64
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from pydicom import Dataset

from tests.support.faulty_web import FaultyWeb, Handler, Key

#: Failure Reason of an object that the token may not write: "refused: not authorized" (PS3.4 B.2.3).
FORBIDDEN = 0x0124


@dataclass
class KheopsFake(FaultyWeb):
    """Kheops of one user with a token; `token` of the server is it, `url` its DICOMweb.

    Attributes:
        albums: identifier → name, description, and the studies in it.
        tokens: capability tokens of albums: secret → (album, may it write).
        instances: instances can be searched.
    """

    root: str = "/api"
    token: str = "oTK6mCWsN8RKRzlWtnK8pd"
    albums: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: dict[str, tuple[str, bool]] = field(default_factory=dict)
    instances: bool = True

    @property
    def handler(self) -> type[Handler]:
        return _Kheops

    def album(self, name: str, write: bool = True) -> tuple[str, str]:
        """Make an album beside the wire; its identifier, and a capability token for it."""
        number, secret = uuid.uuid4().hex[:10], uuid.uuid4().hex[:22]
        self.albums[number] = {"name": name, "description": "", "studies": set(), "series": set()}
        self.tokens[secret] = (number, write)
        return number, secret

    def in_album(self, number: str) -> set[str]:
        """SOP Instance UIDs of what an album holds."""
        return {key[2] for key in self.held if key[:2] in self.albums[number]["series"]}


class _Kheops(Handler):
    server_web: KheopsFake

    def _kind(self) -> str:
        names = self.below.strip("/").split("/")
        if names[0] == "link":
            self.link, names = names[1], names[2:]
            self.below = "/" + "/".join(names)
        else:
            self.link = ""
        if names[0] in ("albums", "capabilities") or "albums" in names:
            return "album"
        return super()._kind()

    def do_PUT(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _secret(self) -> str:
        kind, _, word = self.headers.get("Authorization", "").partition(" ")
        if self.link:
            return self.link
        if kind.lower() == "basic":
            return base64.b64decode(word).decode().partition(":")[2]
        return word if kind.lower() == "bearer" else ""

    def _admitted(self) -> bool:
        web = self.server_web
        secret = self._secret()
        self.scope: str | None = None
        self.writes = True
        if secret in web.tokens:
            self.scope, self.writes = web.tokens[secret]
            return True
        return secret == web.token or web.admits(self.headers.get("Authorization", ""))

    def _work(self) -> None:
        web = self.server_web
        names = self.below.strip("/").split("/")
        asked = dict(self.query).get("album")
        self.query = tuple(pair for pair in self.query if pair[0] not in ("album", "inbox"))
        self.album = self.scope or asked
        if (self.album is not None and self.album not in web.albums) or (
            self.scope and asked not in (None, self.scope)
        ):
            self._skip_body()
            return self._json(404, {"errors": [{"message": "Album not found"}]})
        if self.service == "album":
            return self._albums(names)
        if self.service == "qido" and names[-1] == "instances" and not web.instances:
            return self._answer(404, b"")
        return super()._work()

    def _heads(self) -> list[tuple[Key, Dataset]]:
        series = self.server_web.albums[self.album]["series"] if self.album else None
        return [one for one in self.server_web.heads() if series is None or one[0][:2] in series]

    def _forbidden(self, key: Key) -> int | None:
        return None if self.writes else FORBIDDEN

    def _kept(self, key: Key) -> None:
        if self.album:
            with self.server_web._lock:
                self.server_web.albums[self.album]["studies"].add(key[0])
                self.server_web.albums[self.album]["series"].add(key[:2])

    def _albums(self, names: list[str]) -> None:
        web = self.server_web
        form: dict[str, str] = {}
        if self.command in ("POST", "PUT"):
            body = self._body()
            form = {name: values[0] for name, values in parse_qs(body.read_text()).items()}
            body.unlink()
        if self.scope:
            return self._json(403, {"errors": [{"message": "Forbidden"}]})
        if names == ["albums"] and self.command == "POST":
            if "application/x-www-form-urlencoded" not in self.headers.get("Content-Type", ""):
                return self._json(415, {})
            if not form.get("name"):
                return self._json(400, {"errors": [{"message": "Bad parameter", "detail": "name"}]})
            number, _ = web.album(form["name"])
            web.albums[number]["description"] = form.get("description", "")
            return self._json(201, self._shown(number))
        if names == ["albums"] and self.command == "GET":
            name = dict(self.query).get("name")
            found = [self._shown(number) for number, one in web.albums.items() if name in (None, one["name"])]
            return self._answer(204, b"") if not found else self._json(200, found)
        if names[0] == "albums" and len(names) == 2 and self.command == "GET":
            if names[1] not in web.albums:
                return self._json(404, {"errors": [{"message": "Album not found"}]})
            return self._json(200, self._shown(names[1]))
        if names == ["capabilities"] and self.command == "POST":
            if form.get("scope_type") == "album" and form.get("album") not in web.albums:
                return self._json(404, {"errors": [{"message": "Album not found"}]})
            secret = uuid.uuid4().hex[:22]
            web.tokens[secret] = (form["album"], form.get("write_permission") == "true")
            shown = {"id": uuid.uuid4().hex[:10], "secret": secret, "title": form.get("title", ""), "revoked": False}
            return self._json(201, {**shown, "scope_type": "album", "album": self._shown(form["album"])})
        if names[0] == "studies" and "albums" in names and self.command == "PUT":
            number, study = names[-1], names[1]
            series = names[3] if names[2] == "series" else None
            keys = [key for key in web.held if key[0] == study and series in (None, key[1])]
            if number not in web.albums or not keys:
                return self._json(404, {"errors": [{"message": "not found"}]})
            for key in keys:
                web.albums[number]["studies"].add(key[0])
                web.albums[number]["series"].add(key[:2])
            return self._answer(201, b"")
        return self._answer(404, b"")

    def _shown(self, number: str) -> dict[str, Any]:
        one = self.server_web.albums[number]
        return {
            "album_id": number,
            "name": one["name"],
            "description": one["description"],
            "number_of_studies": len(one["studies"]),
            "number_of_series": len(one["series"]),
            "number_of_instances": len(self.server_web.in_album(number)),
            "add_series": True,
            "send_series": True,
            "is_admin": True,
        }
