"""Web archives that fail, one fault a case: what must be so, whatever the client does about it.

The cases come from PS3.18 and from what others reported of servers; they were written without the client. Whatever
happens, all of this holds (`Result.check`): what is published is what the archive holds, of the series asked for, byte
for byte in its data set; a run that calls itself complete is it; no text of an error and no log line has a secret, a
UID or a patient's identifier; the client comes to an end.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from pacsifier_ops.base.config import WebNode
from pacsifier_ops.base.errors import PacsifierError
from pacsifier_ops.dicomweb import transport
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.runs.accounts import ROW_EMPTY
from tests.support.embedded import extract, series
from tests.support.ended import Ended
from tests.support.faulty_web import FaultyWeb
from tests.support.peers import digest
from tests.support.store_peers import need
from tests.support.web_peers import OrthancWeb, missing_plugin

# A client that hangs is to fail, and to show where.
pytestmark = [pytest.mark.archive, pytest.mark.timeout(40)]

PASSWORD = "s3cr3t-of-the-archive"
PATIENT, OTHER = "PATIENT4711", "STRANGER0815"
ROW = {"PatientID": PATIENT}
#: Not a line: no CR LF comes before it.
BOUNDARY = "boundary-that-images-have"


# The adapter: all that the cases know of the code under test.


@dataclass
class Result(Ended):
    """What a run came to.

    Attributes:
        account: of the run; None where it ended with an error.
        error: that it ended with.
        files: SOP Instance UID → what was published.
    """

    files: dict[str, Dataset]
    text: str = ""

    @property
    def reasons(self) -> list[str]:
        assert self.account
        found = [one.reason for one in self.account.series] + [one.reason for one in self.account.rows]
        return [one for one in found if one]


def node_of(web: FaultyWeb, **fields: Any) -> WebNode:
    """The archive; it is silent for a second at most, and repeats soon what failed."""
    settings: dict[str, Any] = {"answer_timeout": 1.0, "connect_timeout": 2.0, "retry_wait": 0.005}
    return replace(WebNode("vna", url=web.url, login=web.user, password=web.password), **{**settings, **fields})


def run(node: Any, out: Path, row: dict[str, str] = ROW, **request: Any) -> Result:
    """Search and fetch what one row asks for."""
    account, error = None, None
    try:
        account = extract(node, [row], out, **request)
    except PacsifierError as found:
        error = found
    files = [dcmread(path) for path in out.rglob("*.dcm")]
    found_uids = [str(one.SOPInstanceUID) for one in files]
    assert len(found_uids) == len(set(found_uids)), "an object was published twice"
    return Result(account, error, dict(zip(found_uids, files, strict=True)))


# The archive, and what must be so.


@dataclass
class World:
    web: FaultyWeb
    wanted: dict[str, Dataset]
    others: dict[str, Dataset]
    log: pytest.LogCaptureFixture
    out: Path
    secrets: list[str] = field(default_factory=lambda: [PASSWORD])

    def check(self, result: Result, changed: bool = False) -> None:
        """What holds whatever happens; `changed`: the archive gives other bytes than it holds."""
        assert not self.web.errors
        strangers = result.files.keys() - self.wanted.keys()
        assert not strangers, "objects were published that nobody asked for"
        for uid, found in result.files.items():
            assert found.PatientID == PATIENT
            if not changed:
                assert digest(found) == digest(self.wanted[uid])
                assert found.file_meta.TransferSyntaxUID == self.wanted[uid].file_meta.TransferSyntaxUID
        if result.complete:
            assert result.files.keys() == self.wanted.keys(), "it says complete, and is not"
        elif result.account:
            assert result.reasons, "no word of why it is incomplete"
        said = "\n".join([str(result.error or ""), repr(result.error or ""), self.log.text])
        for one in (*self.secrets, PATIENT, OTHER, *self.wanted, *self.others):
            assert one not in said, "an error or a log line has a value"
        for held in (*self.wanted.values(), *self.others.values()):
            assert held.SeriesInstanceUID not in said and held.StudyInstanceUID not in said

    @property
    def first(self) -> str:
        return min(self.wanted)

    @property
    def foreign(self) -> str:
        return min(self.others)


def _marked(images: list[Dataset]) -> list[Dataset]:
    """Write the boundary into their pixels."""
    for image in images:
        data = bytearray(image.PixelData)
        text = f"x--{BOUNDARY}\r\n\r\n--{BOUNDARY}--"[: len(data)].encode().replace(b"\r\n--", b"\r\r--")
        data[: len(text)] = text
        image.PixelData = bytes(data)
    return images


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    folder = tmp_path_factory.mktemp("held")
    wanted = [
        *_marked(series(PATIENT, "Müller^Jörg", n_images=3, rows=16, columns=16, SeriesDescription="Schädel")),
        *series(PATIENT, "Müller^Jörg", n_images=2, series_number=2, modality="MR", transfer_syntax=RLELossless),
    ]
    return write(wanted, folder / "a"), write(series(OTHER, n_images=2), folder / "b")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, files: tuple[list[Path], list[Path]]) -> Iterator[FaultyWeb]:
    with FaultyWeb(tmp_path_factory.mktemp("web"), user="reader", password=PASSWORD) as web:
        web.load(files[0] + files[1])
        yield web


@pytest.fixture
def world(
    server: FaultyWeb,
    files: tuple[list[Path], list[Path]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> World:
    server.reset()
    caplog.set_level(logging.INFO)
    # It waits as long as it is asked to, up to two minutes.
    monkeypatch.setattr(transport, "LONGEST_WAIT", 0.02)
    wanted, others = ({str(one.SOPInstanceUID): one for one in map(dcmread, some)} for some in files)
    return World(server, wanted, others, caplog, tmp_path / "out")


#: Faults: name, value, and how often; a value that is a function gets the world.
Faults = list[tuple[Any, ...]]


def apply(world: World, faults: Faults) -> None:
    for name, value, *how in faults:
        world.web.fail(name, value(world) if callable(value) else value, **(how[0] if how else {}))


ONCE = {"times": 1}
TWICE = {"times": 2}
#: Not at the first requests, which look whether the archive is there.
LATER = {"times": 1, "after": 2}
TWICE_LATER = {"times": 2, "after": 2}


def status(code: int, **headers: str) -> dict[str, Any]:
    return {"status": code, "headers": {name.replace("_", "-"): value for name, value in headers.items()}}


#: The client gets over these: all is there, and nothing else.
OVERCOME: dict[str, Faults] = {
    "nothing wrong": [],
    # Searching, PS3.18 10.6 and 8.3.4.
    "pages of one, told by Warning 299": [("qido.page_limit", 1)],
    "pages of two, told, with a total": [("qido.page_limit", 2), ("qido.total", "right")],
    "a total": [("qido.total", "right")],
    # dcmjs-org/dicomweb-server#19: always all, whatever limit and offset say.
    "offset without effect, all at once": [("qido.ignore_offset", True)],
    "nothing is matched": [("qido.ignore_all", True)],
    "PatientID is not matched": [("qido.ignore_key", "PatientID")],
    "another patient's entity in every answer": [("qido.foreign", lambda world: world.foreign)],
    "every result twice": [("qido.duplicate", True)],
    "numbers as strings": [("qido.text_numbers", True)],
    "a number of another VR": [("qido.vr", {"NumberOfSeriesRelatedInstances": "US", "SeriesNumber": "LO"})],
    "a warning of something else": [("qido.warning", "The fuzzymatching parameter is not supported.")],
    "no modality": [("qido.no_key", "Modality")],
    "no number of instances": [("qido.no_value", "NumberOfSeriesRelatedInstances")],
    "search: gzip": [("qido.gzip", True)],
    "search: chunked": [("qido.chunked", True)],
    "search: cut once": [("qido.cut", 0.5, LATER)],
    "search: dropped once": [("qido.drop", True, LATER)],
    "search: 503 once": [("qido.status", status(503), LATER)],
    "search: 429, at once again": [("qido.status", status(429, Retry_After="0"), TWICE_LATER)],
    "search: 429 until a date in the past": [
        ("qido.status", status(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"), LATER)
    ],
    "search: 429 until a date that is none": [("qido.status", status(429, Retry_After="soon"), LATER)],
    "search: in small pieces": [("qido.trickle", (500, 0.005))],
    # Fetching, PS3.18 10.4 and 8.7; RFC 2046 5.1.
    "boundary without quotes": [("wado.boundary", "unquoted")],
    "preamble and epilogue": [("wado.preamble", b"This is a message\r\n"), ("wado.epilogue", b"\r\nbye\r\n")],
    "the boundary's text in images": [("wado.delimiter", BOUNDARY)],
    "parts without headers": [("wado.part_type", "")],
    "parts with a length": [("wado.part_length", "right")],
    "parts of a type with parameters": [("wado.part_type", 'application/dicom; transfer-syntax="1.2.840.10008.1.2.5"')],
    # ImagingDataCommons/dicomweb-client#41.
    "one object without multipart": [("wado.single", True)],
    "the first object twice": [("wado.twice", True)],
    "another patient's object on top": [("wado.foreign", lambda world: world.foreign)],
    "206 with one object": [("wado.partial", 1)],
    "one object is left out of its series": [("wado.leave_out", lambda world: world.first)],
    "fetch: gzip": [("wado.gzip", True)],
    "fetch: chunked": [("wado.chunked", True)],
    "fetch: cut once": [("wado.cut", 0.6, ONCE)],
    "fetch: cut once, chunked": [("wado.cut", 0.6, ONCE), ("wado.chunked", True)],
    "fetch: body too short once": [("wado.short", 90, ONCE)],
    "fetch: no end once": [("wado.no_close", True, ONCE)],
    "fetch: objects cut short, once": [("wado.truncate", 40, ONCE)],
    "fetch: dropped once": [("wado.drop", True, ONCE)],
    "fetch: 503 once": [("wado.status", status(503), ONCE)],
    "fetch: 500 once": [("wado.status", status(500), ONCE)],
    "fetch: 429 twice": [("wado.status", status(429, Retry_After="0"), TWICE)],
    "fetch: in small pieces": [("wado.trickle", (600, 0.005))],
    "fetch: 400 for series, instances are given": [("wado.status", status(400), {"path": "/series/[^/]+$"})],
    "fetch: 404 for series, instances are given": [("wado.status", status(404), {"path": "/series/[^/]+$"})],
}

#: The client cannot get over these; it must say so, and publish nothing wrong.
TOLD: dict[str, Faults] = {
    "406 for any transfer syntax": [("wado.no_star", True)],
    "one of every page of one, and offset without effect": [("qido.page_limit", 1), ("qido.ignore_offset", True)],
    "a series without its UID": [("qido.no_value", "SeriesInstanceUID")],
    "PatientID neither matched nor returned": [("qido.ignore_all", True), ("qido.no_key", "PatientID")],
    "search: a login page": [("qido.html", True)],
    "search: XML": [("qido.xml", True)],
    "search: cut": [("qido.cut", 0.5)],
    "search: cut within the first byte": [("qido.cut", 0.0)],
    "search: dropped": [("qido.drop", True)],
    "search: 503": [("qido.status", status(503))],
    "search: 500": [("qido.status", status(500))],
    "search: 404": [("qido.status", status(404))],
    "search: 401": [("any.status", status(401))],
    "search: 403": [("any.status", status(403))],
    "search: 429 for a day": [("qido.status", status(429, Retry_After="86400"))],
    "search: 503 until a distant date": [("qido.status", status(503, Retry_After="Fri, 31 Dec 2199 23:59:59 GMT"))],
    "search: silence after the first byte": [("qido.trickle", (1, 5.0))],
    "search: redirected in a circle": [("qido.redirect", lambda world: world.web.origin + "{path}")],
    "fetch: silence after some bytes": [("wado.trickle", (300, 3.0))],
    "fetch: cut": [("wado.cut", 0.5)],
    "fetch: dropped": [("wado.drop", True)],
    "fetch: body too short": [("wado.short", 90)],
    "fetch: objects cut short": [("wado.truncate", 40)],
    "fetch: a login page": [("wado.html", True)],
    "fetch: a ZIP": [("wado.zip", True)],
    "fetch: nothing, with 204": [("wado.status", status(204))],
    "fetch: 404": [("wado.status", status(404))],
    "fetch: 410": [("wado.status", status(410))],
    "fetch: 503": [("wado.status", status(503))],
    "fetch: 429 for a day": [("wado.status", status(429, Retry_After="86400"))],
    "fetch: 401 from then on": [("wado.status", status(401))],
    "fetch: another patient's object instead": [("wado.wrong", lambda world: world.foreign)],
    "fetch: the boundary of another letter": [("wado.boundary", "wrong")],
}

#: The client may get over these or not; what it says must be true.
HONEST: dict[str, Faults] = {
    "fetch: a login page once": [("wado.html", True, ONCE)],
    "another patient's object instead, once": [("wado.wrong", lambda world: world.foreign, ONCE)],
    "pages of one, and not told": [("qido.silent_limit", 1)],
    "another order for every page": [("qido.page_limit", 1), ("qido.unstable", True)],
    "a total that is too small": [("qido.total", 0)],
    "a total that is too large": [("qido.total", 1000)],
    "a total that is no number": [("qido.total", "many")],
    "pages, and a total that is too large": [("qido.total", 1000), ("qido.page_limit", 1)],
    "text in Latin-1": [("qido.latin1", True)],
    "a description by reference": [("qido.bulk", "SeriesDescription")],
    "a number of unknown VR": [("qido.vr", {"NumberOfSeriesRelatedInstances": "UN"})],
    "search: 503 at first": [("qido.status", status(503), ONCE)],
    "a UID of another VR": [("qido.vr", {"SeriesInstanceUID": "LO"})],
    "one object instead of a list": [("qido.object", True)],
    "a name of a VR that is none": [("qido.vr", {"PatientName": "ZZ"})],
    "no PatientID in answers": [("qido.no_key", "PatientID")],
    "boundary not named": [("wado.boundary", "missing")],
    "LF instead of CR LF": [("wado.lf", True)],
    "no end": [("wado.no_close", True)],
    "octet-stream": [("wado.part_type", "application/octet-stream")],
    "parts with too small a length": [("wado.part_length", 10)],
    "parts with too great a length": [("wado.part_length", 10_000_000)],
    "a header of 10 MB": [("wado.header", 10_000_000)],
    "LF, and the boundary's text in images": [("wado.lf", True), ("wado.delimiter", BOUNDARY)],
    "401 after the third request": [("any.status", status(401), {"after": 3})],
    "503 after the third request": [("any.status", status(503), {"after": 3})],
    "every third connection is dropped": [("any.drop", True, {"after": n, "times": 1}) for n in (2, 2, 2, 2)],
}


@pytest.mark.parametrize("faults", OVERCOME.values(), ids=OVERCOME)
def test_overcome(world: World, faults: Faults) -> None:
    apply(world, faults)
    result = run(node_of(world.web), world.out)
    world.check(result)
    assert result.error is None and result.complete, result.account and result.reasons
    names = {name for name, *_ in faults}
    assert names <= world.web.happened.keys(), "the case did not happen"


@pytest.mark.parametrize("faults", TOLD.values(), ids=TOLD)
def test_told(world: World, faults: Faults) -> None:
    apply(world, faults)
    result = run(node_of(world.web), world.out)
    world.check(result)
    assert not result.complete
    if result.account:
        assert all(row.state != ROW_EMPTY for row in result.account.rows), "a failure was taken for a no"
    assert world.web.count() < 120, "it asks and asks"


@pytest.mark.parametrize("faults", HONEST.values(), ids=HONEST)
def test_honest(world: World, faults: Faults) -> None:
    apply(world, faults)
    result = run(node_of(world.web), world.out)
    world.check(result)
    if result.account:
        assert all(row.state != ROW_EMPTY for row in result.account.rows), "a failure was taken for a no"
    assert world.web.count() < 120, "it asks and asks"


def test_no_value_in_a_log_of_any_level(world: World) -> None:
    """Airflow's logging level may be DEBUG, and libraries for HTTP write addresses with all keys then."""
    world.log.set_level(logging.DEBUG)
    world.web.fail("wado.drop", True, times=2)
    world.check(run(node_of(world.web), world.out))


@pytest.mark.parametrize("none", ["204", "empty", "list"])
def test_nothing_is_nothing(world: World, none: str) -> None:
    world.web.fail("qido.none", none)
    result = run(node_of(world.web), world.out, {"PatientID": "NOBODY"})
    assert result.account and not result.files
    assert [row.state for row in result.account.rows] == [ROW_EMPTY] and result.complete


@pytest.mark.parametrize("keyword", ["SeriesDescription", "Modality", "StudyDate"])
def test_a_key_that_is_refused_or_ignored(world: World, keyword: str) -> None:
    held = next(one for one in world.wanted.values() if one.Modality == "CT")
    row = {**ROW, keyword: str(held[keyword].value)}
    for fault in ("qido.refuse_key", "qido.ignore_key"):
        world.web.reset()
        world.web.fail(fault, keyword)
        out = world.out / fault
        result = run(node_of(world.web), out, row)
        expected = {uid for uid, one in world.wanted.items() if one[keyword].value == held[keyword].value}
        assert result.files.keys() <= expected
        if result.complete:
            assert result.files.keys() == expected
        else:
            assert fault == "qido.refuse_key", "what is not matched is filtered here"
            rows = result.account.rows if result.account else []
            assert all(row.state != ROW_EMPTY for row in rows)


def test_one_instance_is_unknown(world: World) -> None:
    world.web.fail("wado.missing", world.first)
    result = run(node_of(world.web), world.out)
    world.check(result)
    assert result.missing == 1 and result.files.keys() == world.wanted.keys() - {world.first}
    world.web.reset()
    healed = run(node_of(world.web), world.out)
    world.check(healed)
    assert healed.complete, "run again, it heals"
    fetched = [one for one in world.web.requests if one.service == "wado"]
    assert len(fetched) <= 2, "only what was missing is fetched again"


def test_a_transcoding_archive_is_told(world: World) -> None:
    """dcm4chee-arc-light#1749, cornerstoneWADOImageLoader#356: what comes may be of another transfer syntax."""
    world.web.fail("wado.transcode", True)
    result = run(node_of(world.web), world.out)
    world.check(result, changed=True)
    transcoded = [
        uid for uid, one in result.files.items() if world.wanted[uid].file_meta.TransferSyntaxUID != RLELossless
    ]
    assert len(transcoded) == 3
    for uid, found in result.files.items():
        if world.wanted[uid].file_meta.TransferSyntaxUID == RLELossless:
            assert found.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
            assert (found.pixel_array == world.wanted[uid].pixel_array).all()


def test_any_transfer_syntax_is_asked_for(world: World) -> None:
    run(node_of(world.web), world.out)
    fetches = [one for one in world.web.requests if one.service == "wado" and not one.path.endswith("metadata")]
    assert fetches and all('transfer-syntax="*"' in one.headers["accept"].replace("=*", '="*"') for one in fetches)


@pytest.mark.parametrize("service", ["qido", "wado"])
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_credentials_do_not_follow_a_redirect(world: World, tmp_path: Path, service: str, code: int) -> None:
    """To another host, or to another port of this one: neither the login nor what was asked for."""
    with FaultyWeb(tmp_path / "other", host="localhost") as other:
        other.load(world.web.held.values())
        world.web.fail(f"{service}.redirect", other.origin + "{path}")
        world.web.fail(f"{service}.redirect_code", code)
        result = run(node_of(world.web), world.out)
        world.check(result)
        for request in other.requests:
            assert "authorization" not in request.headers and PASSWORD not in str(request)
            assert PATIENT not in str(request.query) and "studies/" not in request.path
        assert not result.complete, "an archive elsewhere is not the one that was configured"


def test_a_wrong_password(world: World) -> None:
    world.secrets += ["another-secret"]
    result = run(node_of(world.web, password="another-secret"), world.out)
    world.check(result)
    assert not result.complete and "vna" in str(result.error or result.reasons)
    assert world.web.count() <= 4, "a login that is refused is not tried again and again: accounts are locked for it"


def test_a_login_beyond_ascii(world: World, tmp_path: Path) -> None:
    """Servers read UTF-8 (RFC 7617 2.1). Latin-1 has not all letters, and that error would hold the password."""
    with FaultyWeb(tmp_path / "web", user="Jörg", password="geheim-ä€") as web:
        web.load(world.web.held.values())
        result = run(node_of(web), world.out)
    world.secrets += ["geheim"]
    world.check(result)
    assert result.complete


def test_tokens_expire(world: World, tmp_path: Path) -> None:
    """OAuth 2: a token is good for two requests, and a new one is asked for in time."""
    client = ("pacsifier", "client-s3cret")
    world.secrets += [client[1]]
    with FaultyWeb(tmp_path / "web", client=client, uses=2) as web:
        web.load(world.web.held.values())
        login = {"login": client[0], "password": client[1], "token_url": web.token_url}
        result = run(node_of(web, **login), world.out)
        world.check(result)
        assert result.complete and web.count("token") >= 2 and web.count(status=401) > 0
        wrong = run(node_of(web, **{**login, "password": "not-the-secret"}), tmp_path / "wrong")
        world.secrets += ["not-the-secret"]
        world.check(wrong)
        assert not wrong.complete


@pytest.mark.parametrize(
    "answer", [{"status": 200, "body": b"<html>"}, {"status": 200, "body": b"{}"}, {"status": 503}]
)
def test_a_token_service_that_fails(world: World, tmp_path: Path, answer: dict[str, Any]) -> None:
    with FaultyWeb(tmp_path / "web", client=("id", PASSWORD)) as web:
        web.fail("token.status", answer)
        result = run(node_of(web, login="id", password=PASSWORD, token_url=web.token_url), world.out)
        world.check(result)
        assert not result.complete and not web.count("qido", 200)


def test_two_at_once_are_never_more_than_allowed(world: World, tmp_path: Path) -> None:
    world.web.fail("any.trickle", (400, 0.002))
    node = node_of(world.web, max_associations=1)
    results: list[Result] = []
    threads = [threading.Thread(target=lambda out=tmp_path / str(n): results.append(run(node, out))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(80)
    assert len(results) == 3 and all(one.complete for one in results)
    assert world.web.peak == 1


def test_the_command(world: World, tmp_path: Path) -> None:
    """The command as a process of its own, which loads as little as it can: a web archive needs more than a PACS."""
    config, table, out = tmp_path / "vna.json", tmp_path / "queries.csv", tmp_path / "out"
    config.write_text(json.dumps({"url": world.web.url, "login": world.web.user, "password": PASSWORD}))
    table.write_text(f"PatientID\n{PATIENT}\n")
    command = [sys.executable, "-c", "import sys; from pacsifier_ops.cli.pacsifier import main; sys.exit(main())"]
    command += ["--config", str(config), "--queryfile", str(table), "--out_directory", str(out), "--save"]
    environment = os.environ | {"PACSIFIER_STATE_ROOT": str(tmp_path / "state")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(out.glob("sub-*/ses-*/*/*.dcm"))


@pytest.mark.peers
def test_orthanc(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What Orthanc's plugin gives, of the encodings that pydicom brings, is what Orthanc holds."""
    need(missing_plugin())
    orthanc = OrthancWeb(tmp_path / "orthanc", user="reader", password=PASSWORD)
    names = ("CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "JPEG-lossy.dcm", "MR_small_implicit.dcm")
    sources = [Path(get_testdata_file(name)) for name in names]
    try:
        orthanc.load(sources)
        assert not orthanc.refused
        stored = orthanc.stored()
        node = WebNode("vna", url=orthanc.url, login="reader", password=PASSWORD)
        for source in sources:
            held = dcmread(source)
            # MR_small comes twice, in two encodings: Orthanc keeps one of them.
            out = tmp_path / source.stem
            result = run(node, out, {"PatientID": str(held.PatientID), "StudyInstanceUID": str(held.StudyInstanceUID)})
            assert result.complete, result.account and result.reasons
            for uid, found in result.files.items():
                kept = dcmread(BytesIO(stored[uid]))
                assert digest(found) == digest(kept)
                assert found.file_meta.TransferSyntaxUID == kept.file_meta.TransferSyntaxUID
        assert PASSWORD not in caplog.text
    finally:
        orthanc.stop()
