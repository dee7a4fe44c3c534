"""Orthanc with its DICOMweb plugin: a real archive that speaks QIDO-RS, WADO-RS and STOW-RS on loopback."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread

from tests.support.peers import Orthanc

#: Debian's orthanc-dicomweb; Orthanc's own images keep plugins at the second place.
PLUGINS = tuple(
    Path(folder) / "libOrthancDicomWeb.so"
    for folder in ("/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins", "/usr/lib/orthanc")
)


@dataclass
class OrthancWeb(Orthanc):
    """Orthanc with DICOMweb below `url`, as it comes out of the box; DICOM works as for `Orthanc`.

    Attributes:
        user, password: basic authentication for everything by HTTP; without a user there is none.
        root: path of DICOMweb on the server.
        web: more options of the plugin (its "DicomWeb" section).
    """

    user: str = ""
    password: str = ""
    root: str = "/dicom-web/"
    web: dict[str, object] = field(default_factory=dict)

    package = "orthanc-dicomweb"

    @classmethod
    def find_program(cls) -> str | None:
        """Path of Orthanc, where its plugin is there as well."""
        return super().find_program() if cls.plugin() else None

    @staticmethod
    def plugin() -> Path | None:
        """Path of the plugin."""
        return next((path for path in PLUGINS if path.exists()), None)

    def command(self) -> list[str]:
        self.options = {
            # Debian's plugin is of an age that warns about new databases only; one plugin, no folder of them.
            "Plugins": [str(self.plugin())],
            "DicomWeb": {"Enable": True, "Root": self.root, "StudiesMetadata": "Full", **self.web},
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": bool(self.user),
            "RegisteredUsers": {self.user: self.password} if self.user else {},
            **self.options,
        }
        return super().command()

    @property
    def url(self) -> str:
        """Base of DICOMweb, as a connection names it."""
        return f"http://127.0.0.1:{self.http_port}{self.root.rstrip('/')}"

    @property
    def headers(self) -> dict[str, str]:
        """What every request by HTTP has to carry."""
        if not self.user:
            return {}
        word = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {word}"}

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One request to Orthanc's own REST interface; status and body."""
        with contextlib.closing(HTTPConnection("127.0.0.1", self.http_port, timeout=60)) as connection:
            connection.request(method, path, body, self.headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def put(self, files: Iterable[Path]) -> None:
        """Store files by Orthanc's REST interface, byte by byte as they are: any SOP class and transfer syntax."""
        for path in sorted(files):
            status, body = self.request("POST", "/instances", path.read_bytes())
            if status == 200:
                self.held.append(path)
            else:
                self.refused[path] = f"HTTP {status} {body[:80]!r}"

    def load(self, files: Iterable[Path]) -> None:
        """Start with these files in store, each as it is; fills `held` and `refused`."""
        if not self.process:
            self.start()
        self.put(files)

    def stored(self) -> dict[str, bytes]:
        """SOP Instance UID → file as it lies in the store."""
        numbers = json.loads(self.request("GET", "/instances")[1])
        found: dict[str, bytes] = {}
        for number in numbers:
            data = self.request("GET", f"/instances/{number}/file")[1]
            uid = str(dcmread(BytesIO(data), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
            assert uid not in found
            found[uid] = data
        return found

    def digests(self) -> dict[str, str]:
        """SOP Instance UID → SHA-256 of the file as it lies in the store."""
        return {uid: hashlib.sha256(data).hexdigest() for uid, data in self.stored().items()}

    def clear(self) -> None:
        """Empty the store."""
        for number in json.loads(self.request("GET", "/patients")[1]):
            self.request("DELETE", f"/patients/{number}")
        self.held.clear()
        self.refused.clear()

    def objects(self) -> Iterator[Dataset]:
        for data in self.stored().values():
            yield dcmread(BytesIO(data))


def missing_plugin() -> str:
    """One line that says what to install, empty where nothing is missing."""
    return "" if OrthancWeb.find_program() else "Orthanc with DICOMweb is missing: apt-get install orthanc-dicomweb"
