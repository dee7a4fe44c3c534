"""Destinations that fail, one fault a case: what must be so, whatever the sender does about it.

The cases come from PS3.18, from the documents of stores, and from what others reported; they were written without the
sender. Whatever happens, all of this holds (`Place.check`): the destination has, under the name of an object, that
object, data set for data set, or nothing; a run that calls itself complete has all there; no text of an error and no
log line has a secret, a UID or a patient's identifier; the sender comes to an end, and run again, without the fault,
it heals.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import RLELossless

from pacsifier_ops.base.config import Node, WebNode
from pacsifier_ops.base.errors import PacsifierError
from pacsifier_ops.dicomweb import transport
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.runs.accounts import RunAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.upload import steps
from pacsifier_ops.upload.nodes import FtpsNode, KheopsNode, SftpNode, XnatNode
from pacsifier_ops.upload.run import UploadRequest
from tests.support.certificates import Certificates, make
from tests.support.embedded import series
from tests.support.ended import Ended
from tests.support.faulty_web import FaultyWeb
from tests.support.kheops_fake import KheopsFake
from tests.support.peers import digest
from tests.support.store_peers import S3, Ftps, Sshd, missing_sshd, need
from tests.support.stores import s3_node
from tests.support.web_peers import OrthancWeb, missing_plugin
from tests.support.xnat_fake import XnatFake

# A sender that hangs is to fail, and to show where.
pytestmark = [pytest.mark.archive, pytest.mark.timeout(60)]

PASSWORD = "s3cr3t-of-the-store"
PATIENTS = ("PSEUDO4711", "PSEUDO0815")
PATIENCE: dict[str, Any] = {"answer_timeout": 1.0, "connect_timeout": 2.0, "retry_wait": 0.005}


# The adapter: all that the cases know of the code under test.


def upload(node: Node, folder: Path, **request: Any) -> RunAccount:
    """Send a folder."""
    run = Run.fresh()
    units = steps.prepare(run, UploadRequest(folder, folder.parent / "log", **request), node)
    with steps.Sending(run, node) as sending:
        sending.units(units)
    return steps.report(run, lambda: node)


@dataclass
class Sent(Ended):
    """What a run came to."""

    @property
    def reasons(self) -> list[str]:
        return [one.reason for one in self.account.series if one.reason] if self.account else []


@dataclass
class Place:
    """A destination.

    Attributes:
        node: how we get there.
        contents: bytes of what it holds as DICOM, in any order.
        log: of this test.
        folder: what is sent.
        secrets: what no text may have.
    """

    node: Any
    contents: Callable[[], list[bytes]]
    log: pytest.LogCaptureFixture
    folder: Path
    secrets: list[str] = field(default_factory=list)

    @property
    def ours(self) -> dict[str, Dataset]:
        return {str(one.SOPInstanceUID): one for one in map(dcmread, self.folder.rglob("*.dcm"))}

    @property
    def held(self) -> dict[str, Dataset]:
        found: dict[str, Dataset] = {}
        for data in self.contents():
            one = dcmread(BytesIO(data))
            assert one.SOPInstanceUID not in found, "an object is there twice"
            found[str(one.SOPInstanceUID)] = one
        return found

    @property
    def first(self) -> str:
        return min(self.ours)

    def send(self, changed: bool = False, **fields: Any) -> Sent:
        """Send it, and check what holds whatever happens; `changed`: the destination writes into objects."""
        account, error = None, None
        try:
            account = upload(replace(self.node, **fields), self.folder)
        except PacsifierError as found:
            error = found
        sent = Sent(account, error)
        ours, held = self.ours, self.held
        assert held.keys() <= ours.keys()
        if not changed:
            for uid, one in held.items():
                assert digest(one) == digest(ours[uid]), "what is there is not what was sent"
                assert one.file_meta.TransferSyntaxUID == ours[uid].file_meta.TransferSyntaxUID
        if sent.complete:
            assert held.keys() == ours.keys(), "it says complete, and is not"
        elif account:
            assert sent.reasons, "no word of why it is incomplete"
        said = "\n".join([str(error or ""), repr(error or ""), self.log.text])
        for one in (*filter(None, self.secrets), *PATIENTS, *ours):
            assert one not in said, "an error or a log line has a value"
        for held_here in ours.values():
            assert held_here.SeriesInstanceUID not in said and held_here.StudyInstanceUID not in said
        return sent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "released"
    first, second = PATIENTS
    write(series(first, n_images=3), root / "sub-1" / "ses-20200101" / "00001-Head")
    write(series(second, n_images=2, transfer_syntax=RLELossless), root / "sub-2" / "ses-20200102" / "00001-Thorax")
    return root


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO)
    # It waits as long as it is asked to, up to two minutes.
    monkeypatch.setattr(transport, "LONGEST_WAIT", 0.02)


# DICOMweb, PS3.18 10.5.


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyWeb]:
    with FaultyWeb(tmp_path_factory.mktemp("web"), user="writer", password=PASSWORD) as web:
        yield web


@pytest.fixture
def web(server: FaultyWeb, caplog: pytest.LogCaptureFixture, folder: Path) -> Iterator[Place]:
    server.clear()
    node = WebNode("vna", url=server.url, login=server.user, password=server.password, **PATIENCE)
    yield Place(node, lambda: [path.read_bytes() for path in server.held.values()], caplog, folder, [PASSWORD])
    assert not server.errors


Faults = list[tuple[Any, ...]]
ONCE = {"times": 1}


def status(code: int, **headers: str) -> dict[str, Any]:
    return {"status": code, "headers": {name.replace("_", "-"): value for name, value in headers.items()}}


def apply(server: FaultyWeb, place: Place, faults: Faults) -> None:
    for name, value, *how in faults:
        server.fail(name, value(place) if callable(value) else value, **(how[0] if how else {}))


#: All is there in the end, and the sender knows.
STOW_OVERCOME: dict[str, Faults] = {
    "nothing wrong": [],
    "answers in XML": [("stow.xml", True)],
    "warnings": [("stow.warn", 0xB000)],
    "no body": [("stow.no_body", True)],
    "the answer is lost": [("stow.lost", True, ONCE)],
    "cut before anything is stored": [("stow.drop_before", 1, ONCE)],
    "cut after one was stored": [("stow.drop_after", 1, ONCE)],
    "dropped at once": [("stow.drop", True, ONCE)],
    "busy once": [("stow.status", status(503), ONCE)],
    "too many requests, again at once": [("stow.status", status(429, Retry_After="0"), {"times": 2})],
    "out of resources once": [("stow.refuse", {"*": 0xA700}, ONCE)],
    "the answer in pieces": [("stow.chunked", True)],
    "the answer packed": [("stow.gzip", True)],
    "the answer cut once": [("stow.cut", 0.5, ONCE)],
    "searching gives pages of one": [("qido.page_limit", 1)],
    "searching gives everything": [("qido.ignore_all", True)],
    "no more than 8 kB": [("stow.limit", 8000)],
}

#: Something is not there, or nobody knows.
STOW_TOLD: dict[str, Faults] = {
    "200 with a failure inside": [("stow.refuse", lambda place: {place.first: 0x0110}), ("stow.code", 200)],
    "202 with a failure inside": [("stow.refuse", lambda place: {place.first: 0xC000})],
    "409, all fail": [("stow.refuse", {"*": 0xA900})],
    "409 without a body": [("stow.refuse", {"*": 0xA900}), ("stow.no_body", True)],
    # ImagingDataCommons/dicomweb-client#42: 200, and nothing is there.
    "200 and nothing is stored": [("stow.nothing", True)],
    "it says stored, and forgets": [("stow.forget", lambda place: place.first)],
    "a login page": [("stow.html", True)],
    "dropped": [("stow.drop", True)],
    "cut before anything is stored, always": [("stow.drop_before", 0)],
    "busy": [("stow.status", status(503))],
    "busy for a day": [("stow.status", status(429, Retry_After="86400"))],
    "full": [("stow.status", status(507))],
    "failing": [("stow.status", status(500))],
    "no such place": [("stow.status", status(404))],
    "not acceptable": [("stow.status", status(415))],
    "too large, whatever the size": [("stow.limit", 100)],
    "login refused": [("any.status", status(401))],
    "not allowed": [("any.status", status(403))],
    "stored elsewhere": [("stow.status", status(302, Location="/elsewhere"))],
}

#: Either; what it says must be true.
STOW_HONEST: dict[str, Faults] = {
    "chunks are refused": [("stow.no_chunks", True)],
    "seen after two searches": [("stow.late", 2)],
    "never seen": [("stow.late", 10_000)],
    "searching fails": [("qido.status", status(500))],
    "searching gives a login page": [("qido.html", True)],
    "searching gives every result twice": [("qido.duplicate", True)],
    "searching gives nothing, in an empty answer": [("qido.none", "empty")],
    "answers are lost, always": [("stow.lost", True)],
    "answers are cut, always": [("stow.cut", 0.5)],
    "only one of each request comes": [("stow.drop_after", 1)],
    "another code": [("stow.code", 206)],
    "409 although all is stored": [("stow.code", 409)],
    "500 although all is stored": [("stow.code", 500)],
    "silence within the answer": [("stow.trickle", (10, 3.0), ONCE)],
}


@pytest.mark.parametrize("faults", STOW_OVERCOME.values(), ids=STOW_OVERCOME)
def test_stow_overcome(server: FaultyWeb, web: Place, faults: Faults) -> None:
    apply(server, web, faults)
    sent = web.send()
    assert sent.complete, (sent.error, sent.reasons)


@pytest.mark.parametrize("faults", STOW_TOLD.values(), ids=STOW_TOLD)
def test_stow_told(server: FaultyWeb, web: Place, faults: Faults) -> None:
    apply(server, web, faults)
    sent = web.send()
    assert not sent.complete
    assert server.count() < 120, "it sends and sends"
    server.reset()
    healed = web.send()
    assert healed.complete, (healed.error, healed.reasons)


@pytest.mark.parametrize("faults", STOW_HONEST.values(), ids=STOW_HONEST)
def test_stow_honest(server: FaultyWeb, web: Place, faults: Faults) -> None:
    apply(server, web, faults)
    web.send()
    assert server.count() < 120, "it sends and sends"
    server.reset()
    healed = web.send()
    assert healed.complete, (healed.error, healed.reasons)


@pytest.mark.parametrize("reason", [0x0111, 45070, 272])
def test_stow_there_already(server: FaultyWeb, web: Place, reason: int, tmp_path: Path) -> None:
    """Google answers 409 and 272, Azure 409 and 45070, to what it has; both compare nothing."""
    server.load(web.folder.rglob("*.dcm"))
    server.fail("stow.exists", reason)
    assert web.send().complete, "what it has needs no sending"


@pytest.mark.parametrize("reason", [0x0111, 45070, 272])
def test_stow_another_object_is_there(server: FaultyWeb, web: Place, reason: int, tmp_path: Path) -> None:
    """An older version of our objects, under the same UIDs: listed, and not what we send."""
    others = tmp_path / "others"
    shutil.copytree(web.folder, others)
    for path in others.rglob("*.dcm"):
        changed = dcmread(path)
        changed.SeriesDescription = "of last year"
        changed.save_as(path)
    server.load(others.rglob("*.dcm"))
    server.fail("stow.exists", reason)
    assert not web.send(changed=True).complete


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_stow_is_not_sent_elsewhere(server: FaultyWeb, web: Place, code: int, tmp_path: Path) -> None:
    with FaultyWeb(tmp_path / "other", host="localhost") as other:
        server.fail("stow.status", status(code, Location=other.url + "/studies"))
        assert not web.send().complete
        assert not other.held, "it was sent to a place that nobody named"
        assert all("authorization" not in one.headers for one in other.requests)


def test_stow_tokens_expire(web: Place, tmp_path: Path) -> None:
    with FaultyWeb(tmp_path / "web", client=("id", PASSWORD), uses=2) as other:
        place = replace(web, contents=lambda: [path.read_bytes() for path in other.held.values()])
        sent = place.send(url=other.url, login="id", password=PASSWORD, token_url=other.token_url)
        assert sent.complete, (sent.error, sent.reasons)


@pytest.mark.peers
def test_stow_to_orthanc(web: Place, tmp_path: Path) -> None:
    need(missing_plugin())
    orthanc = OrthancWeb(tmp_path / "orthanc", user="writer", password=PASSWORD)
    try:
        orthanc.start()
        place = replace(web, contents=lambda: list(orthanc.stored().values()))
        assert place.send(url=orthanc.url).complete
        assert place.send(url=orthanc.url).complete
    finally:
        orthanc.stop()


# Files: SFTP, FTPS, S3.


@pytest.fixture(scope="module")
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("certificates"))


def _dicom(contents: dict[str, bytes]) -> list[bytes]:
    """Those that bear a final name; what is not whole has another."""
    return [data for name, data in contents.items() if name.endswith(".dcm") and not Path(name).name.startswith(".")]


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    need(missing_sshd())
    with ExitStack() as stack:

        def start(**more: Any) -> Sshd:
            server = Sshd(tmp_path / "sshd", **more)
            server.start()
            stack.callback(server.stop)
            return server

        yield start


def sftp(server: Sshd, log: pytest.LogCaptureFixture, folder: Path) -> Place:
    node = SftpNode(
        "trusted",
        host="127.0.0.1",
        port=server.port,
        login=server.user,
        key_file=str(server.key),
        host_key=server.host_key,
        root=str(server.root),
        **PATIENCE,
    )
    return Place(node, lambda: _dicom(server.contents()), log, folder, [server.key.read_text().splitlines()[1]])


def test_sftp(sshd: Callable[..., Sshd], caplog: pytest.LogCaptureFixture, folder: Path) -> None:
    server = sshd()
    place = sftp(server, caplog, folder)
    assert place.send().complete and place.send().complete
    names = [name for name in server.contents() if name.endswith(".dcm")]
    assert sorted(names) == sorted(str(path.relative_to(folder)) for path in folder.rglob("*.dcm"))


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (("-R",), ()),  # read only
        (("-P", "rename,posix-rename"), ()),
        (("-P", "write"), ()),
        ((), ("MaxSessions 0",)),
        ((), ("ForceCommand /bin/false",)),
        ((), ("ForceCommand /bin/echo Welcome",)),  # a banner where SFTP should be
    ],
    ids=["read only", "no renaming", "no writing", "no sessions", "no SFTP", "a banner"],
)
def test_sftp_told(
    sshd: Callable[..., Sshd],
    caplog: pytest.LogCaptureFixture,
    folder: Path,
    flags: tuple[str, ...],
    options: tuple[str, ...],
) -> None:
    server = sshd(flags=flags, options=options)
    assert not sftp(server, caplog, folder).send().complete


def test_sftp_without_posix_rename(sshd: Callable[..., Sshd], caplog: pytest.LogCaptureFixture, folder: Path) -> None:
    """Servers other than OpenSSH have no such extension; the plain rename is that of version 3."""
    sent = sftp(sshd(flags=("-P", "posix-rename")), caplog, folder).send()
    assert sent.complete or sent.error or sent.reasons


def test_sftp_refuses(sshd: Callable[..., Sshd], caplog: pytest.LogCaptureFixture, folder: Path) -> None:
    server = sshd()
    place = sftp(server, caplog, folder)
    other = " ".join((server.folder / "id_other.pub").read_text().split()[:2])
    cases: list[dict[str, Any]] = [
        {"key_file": str(server.other_key)},
        {"host_key": other},
        {"host_key": ""},
        {"login": "nobody-known"},
        {"root": "/proc/1/nowhere"},
        {"port": 1},
    ]
    for fields in cases:
        sent = place.send(**fields)
        assert not sent.complete, fields
    assert not place.held


def test_sftp_goes_on_after_a_cut(sshd: Callable[..., Sshd], caplog: pytest.LogCaptureFixture, folder: Path) -> None:
    server = sshd()
    place = sftp(server, caplog, folder)
    write(series(PATIENTS[0], n_images=1, series_number=9, rows=3000, columns=3000), folder / "sub-1" / "large")
    place.send()
    server.clear()

    def cut() -> None:
        for _ in range(3):
            time.sleep(0.3)
            server.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    place.send()
    thread.join(30)
    healed = place.send()
    assert healed.complete, (healed.error, healed.reasons)
    assert all(not Path(name).name.endswith((".part", ".tmp")) for name in server.contents()), "a part is left over"


@pytest.fixture
def ftps(tmp_path: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture, folder: Path) -> Iterator[Any]:
    server = Ftps(tmp_path / "ftp", certificates.server)
    server.start()
    node = FtpsNode(
        "ftp",
        host="localhost",
        port=server.port,
        login=server.user,
        password=server.password,
        ca=str(certificates.ca),
        **PATIENCE,
    )
    yield server, Place(node, lambda: _dicom(server.contents()), caplog, folder, [server.password])
    server.stop()


def test_ftps(ftps: tuple[Ftps, Place]) -> None:
    server, place = ftps
    server.cut_after = 600  # not what it puts there to see whether it may
    sent = place.send()
    assert sent.complete, (sent.error, sent.reasons)
    assert server.cut_after is None, "the case did not happen"
    assert all(name.endswith((".dcm", ".json", ".jsonl")) for name in server.contents()), "a part is left over"


def test_ftps_refuses(ftps: tuple[Ftps, Place], certificates: Certificates) -> None:
    _, place = ftps
    cases: list[dict[str, Any]] = [
        {"password": "wrong"},
        {"login": "nobody"},
        {"ca": str(certificates.other_ca)},
        {"ca": ""},
    ]
    for fields in cases:
        sent = place.send(**fields)
        assert not sent.complete, fields
    assert not place.held


@pytest.mark.parametrize("permissions", ["elr", "elradfmMT", "elrw"])
def test_ftps_without_rights(ftps: tuple[Ftps, Place], permissions: str) -> None:
    server, place = ftps
    server.stop()
    server.permissions = permissions
    server.start()
    sent = place.send(port=server.port)
    assert not sent.complete
    server.stop()


@pytest.fixture(scope="module")
def store(stack: ExitStack) -> S3:
    found = S3()
    found.start()
    stack.callback(found.stop)
    return found


@pytest.fixture
def s3(store: S3, caplog: pytest.LogCaptureFixture, folder: Path) -> Place:
    store.clear()
    node = s3_node(store, "bucket", "study one/ü", retry_wait=0.005)
    return Place(node, lambda: _dicom(store.contents()), caplog, folder, [store.secret])


def test_s3(store: S3, s3: Place) -> None:
    assert s3.send().complete and s3.send().complete
    assert store.unfinished() == 0
    names = [name for name in store.contents() if name.endswith(".dcm")]
    assert all(name.startswith("study one/ü/sub-") for name in names)


def test_s3_refuses(store: S3, s3: Place) -> None:
    cases: list[dict[str, Any]] = [{"root": "s3://no-such-bucket/x"}, {"endpoint_url": "http://127.0.0.1:1"}]
    for fields in cases:
        assert not s3.send(**fields).complete, fields


@pytest.mark.parametrize("kind", ["web", "sftp", "ftps", "s3"])
def test_no_value_in_a_log_of_any_level(
    kind: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, folder: Path
) -> None:
    """Airflow's logging level may be DEBUG, and libraries write names of files and addresses then."""
    if kind == "sftp":
        place = sftp(request.getfixturevalue("sshd")(), caplog, folder)
    else:
        found = request.getfixturevalue(kind)
        place = found[1] if kind == "ftps" else found
    caplog.set_level(logging.DEBUG)
    assert place.send().complete


# Research archives, as fakes.


@pytest.fixture
def xnat(tmp_path: Path, caplog: pytest.LogCaptureFixture, folder: Path) -> Iterator[tuple[XnatFake, Place]]:
    server = XnatFake(tmp_path / "xnat", password=PASSWORD)
    with server:
        node = XnatNode("xnat", url=server.url, login=server.user, password=PASSWORD, project="STUDY", **PATIENCE)
        yield server, Place(node, lambda: list(server.stored().values()), caplog, folder, [PASSWORD])
        assert not server.errors


XNAT_TOLD: dict[str, Faults] = {
    "it takes and forgets": [("xnat.forget", lambda place: place.first)],
    "a script of the site writes into objects": [("xnat.anonymize", {"PatientID": "SITE"})],
    "busy": [("xnat.status", status(503))],
    "failing": [("xnat.status", status(500))],
    "a login page": [("xnat.html", True)],
    "dropped": [("xnat.drop", True)],
    "login refused": [("any.status", status(401))],
    "what comes goes to no project": [("xnat.unassigned", True)],
}


@pytest.mark.parametrize("into", ["archive", "prearchive"])
def test_xnat(xnat: tuple[XnatFake, Place], into: str) -> None:
    server, place = xnat
    sent = place.send(into=into)
    assert sent.complete, (sent.error, sent.reasons)
    assert len(server.stored(archived=into == "archive")) == len(place.ours)
    assert place.send(into=into).complete
    assert {one.project for one in server.sessions} == {"STUDY"}


@pytest.mark.parametrize("faults", XNAT_TOLD.values(), ids=XNAT_TOLD)
def test_xnat_told(xnat: tuple[XnatFake, Place], faults: Faults) -> None:
    server, place = xnat
    apply(server, place, faults)
    assert not place.send(changed=True).complete
    assert server.count() < 200


@pytest.mark.parametrize(
    "faults",
    [
        [("xnat.drop", True, {"times": 1, "after": 3})],
        [("xnat.lost", True, ONCE)],
        [("xnat.status", status(503), {"times": 1, "after": 2})],
        [("xnat.no_digest", True)],
        [("xnat.chunked", True)],
        [("xnat.conflict", True)],
        [("xnat.stuck", True)],
        [("xnat.cut", 0.5, {"times": 1, "after": 3})],
    ],
    ids=lambda faults: faults[0][0],
)
@pytest.mark.parametrize("into", ["archive", "prearchive"])
def test_xnat_honest(xnat: tuple[XnatFake, Place], faults: Faults, into: str) -> None:
    server, place = xnat
    apply(server, place, faults)
    place.send(into=into)
    assert server.count() < 200


def test_xnat_refuses(xnat: tuple[XnatFake, Place]) -> None:
    _, place = xnat
    cases: list[dict[str, Any]] = [{"project": "NO"}, {"project": "CLOSED"}, {"password": "wrong"}]
    for fields in cases:
        sent = place.send(**fields)
        assert not sent.complete and (sent.error or sent.reasons), fields
    assert not place.held


@pytest.fixture
def kheops(tmp_path: Path, caplog: pytest.LogCaptureFixture, folder: Path) -> Iterator[tuple[KheopsFake, Place]]:
    server = KheopsFake(tmp_path / "kheops")
    with server:
        node = KheopsNode("kheops", url=server.url, password=server.token, album="Study & one", **PATIENCE)
        held = lambda: [path.read_bytes() for path in server.held.values()]  # noqa: E731
        yield server, Place(node, held, caplog, folder, [server.token])
        assert not server.errors


def test_kheops(kheops: tuple[KheopsFake, Place]) -> None:
    server, place = kheops
    assert place.send().complete and place.send().complete
    ((number, album),) = server.albums.items()
    assert album["name"] == "Study & one" and server.in_album(number) == place.ours.keys()


def test_kheops_with_the_token_of_an_album(kheops: tuple[KheopsFake, Place]) -> None:
    server, place = kheops
    number, secret = server.album("given")
    place.secrets.append(secret)
    assert place.send(album="", password=secret).complete
    assert server.in_album(number) == place.ours.keys() and len(server.albums) == 1


def test_kheops_told(kheops: tuple[KheopsFake, Place]) -> None:
    server, place = kheops
    _, secret = server.album("read only", write=False)
    place.secrets.append(secret)
    assert not place.send(album="", password=secret).complete
    assert not place.send(password="not-a-token").complete
    for name in ("album.status", "stow.status"):
        server.fail(name, status(500))
        assert not place.send().complete
        server.reset()
    assert not place.held
    faults: Faults = [("stow.lost", True, ONCE), ("stow.forget", place.first), ("stow.refuse", {"*": 0x0124})]
    for one in faults:
        apply(server, place, [one])
        place.send()
        server.reset()
    assert place.send().complete
    assert len([one for one in server.albums.values() if one["name"] == "Study & one"]) == 1, "one album, not one a try"
