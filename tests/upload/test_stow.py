"""Uploads by STOW-RS, to Orthanc's DICOMweb plugin and to a server that fails as it is told to."""

from __future__ import annotations

import hashlib
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import RLELossless

from pacsifier_ops.base.config import WebNode
from pacsifier_ops.base.errors import (
    AssociationRejected,
    DestinationRefused,
    OutOfResources,
    PacsError,
    PacsUnreachable,
)
from pacsifier_ops.dicom.files import inspect
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, RunAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.upload import steps, stow
from pacsifier_ops.upload.run import UploadRequest
from pacsifier_ops.upload.stow import NOT_LISTED, OTHER_THERE
from tests.support.embedded import series
from tests.support.faulty_web import FaultyWeb
from tests.support.web_peers import OrthancWeb, missing_plugin


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyWeb]:
    with FaultyWeb(tmp_path_factory.mktemp("web")) as server:
        yield server


@pytest.fixture
def server(shared_server: FaultyWeb) -> Iterator[FaultyWeb]:
    shared_server.reset()
    shared_server.clear()
    yield shared_server
    assert not shared_server.errors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "upload"
    write(series("A", n_images=4), root / "a")
    write(series("B", n_images=1, transfer_syntax=RLELossless), root / "b")
    return root


def node_of(server: FaultyWeb, **more: Any) -> WebNode:
    return WebNode("web", server.url, **{"retry_wait": 0.01, "answer_timeout": 20.0, **more})


def upload(node: WebNode, folder: Path, **request: Any) -> RunAccount:
    run = Run.fresh()
    units = steps.prepare(run, UploadRequest(folder, folder.parent / "log", **request), node)
    with steps.Sending(run, node) as sending:
        sending.units(units)
    return steps.report(run, lambda: node)


def sums(folder: Path) -> dict[str, str]:
    """Return the digests of the data sets in a folder, by SOP Instance UID."""
    found = [inspect(path) for path in folder.rglob("*.dcm")]
    return {file.sop_instance_uid: file.digest() for file in found if file}


def held(server: FaultyWeb) -> dict[str, str]:
    return {key[2]: file.digest() for key, path in server.held.items() if (file := inspect(path))}


def reasons(account: RunAccount) -> str:
    return " | ".join(one.reason for one in account.series)


def test_objects_arrive_in_portions_and_are_listed(
    server: FaultyWeb, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow, "MOST_OBJECTS", 3)
    account = upload(node_of(server), folder)
    assert account.verdict == COMPLETE, reasons(account)
    assert held(server) == sums(folder)
    assert server.count("stow") == 3 and {one.method for one in account.series} == {"stow"}
    totals = upload(node_of(server), folder).totals()
    assert (totals["present"], totals["received"], server.count("stow")) == (5, 0, 3)


def _rows_listed(server: FaultyWeb) -> int:
    """Return how many instances the server was asked to list, where it answers with what was asked for."""
    asked = [dict(request.query) for request in server.requests if request.service == "qido"]
    return sum(len(query.get("SOPInstanceUID", "").split(",")) for query in asked if "SOPInstanceUID" in query)


def test_a_large_series_is_not_listed_whole_after_each_portion(
    server: FaultyWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow, "MOST_OBJECTS", 2)
    write(series("A", n_images=12), tmp_path / "upload")
    assert upload(node_of(server), tmp_path / "upload").verdict == COMPLETE
    of_instances = [request for request in server.requests if request.path.endswith("/instances")]
    assert server.count("stow") == 6 and len(of_instances) == 6 and _rows_listed(server) == 12


@pytest.mark.parametrize(
    "fault", [("qido.ignore_key", "SOPInstanceUID"), ("qido.refuse_key", "SOPInstanceUID"), ("qido.page_limit", 1)]
)
def test_a_server_that_knows_no_lists_of_uids_lists_the_series(
    server: FaultyWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: tuple[str, Any]
) -> None:
    monkeypatch.setattr(stow, "MOST_OBJECTS", 2)
    write(series("A", n_images=6), tmp_path / "upload")
    server.fail(*fault)
    account = upload(node_of(server), tmp_path / "upload")
    assert account.verdict == COMPLETE, reasons(account)
    assert held(server) == sums(tmp_path / "upload")


def test_what_is_not_listed_any_more_is_sent_again(server: FaultyWeb, folder: Path) -> None:
    upload(node_of(server), folder)
    server.clear()
    account = upload(node_of(server), folder)
    assert account.totals()["received"] == 5 and held(server) == sums(folder)


#: Faults that pass or that can be worked around: all is there in the end.
_HEALED: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "busy": ("stow.status", {"status": 503, "headers": {"Retry-After": "0"}}, {"times": 2}),
    "too many requests": ("stow.status", {"status": 429, "headers": {"Retry-After": "0"}}, {"times": 1}),
    "cut while sending": ("stow.drop_before", 1, {"times": 1}),
    "cut, and a part was stored": ("stow.drop_after", 1, {"times": 1}),
    "the answer is lost": ("stow.lost", True, {"times": 1}),
    "no body": ("stow.no_body", True, {}),
    "answers in XML": ("stow.xml", True, {}),
    "409 although stored": ("stow.code", 409, {}),
    "206": ("stow.code", 206, {}),
    "busy with an object": ("stow.refuse", {"*": 0xA700}, {"times": 1}),
    "lists late": ("stow.late", 1, {}),
    "small requests only": ("stow.limit", 20_000, {}),
    "one small page of QIDO": ("qido.page_limit", 2, {}),
}


@pytest.mark.parametrize("fault", _HEALED)
def test_faults_that_pass(server: FaultyWeb, folder: Path, fault: str) -> None:
    name, value, how = _HEALED[fault]
    server.fail(name, value, **how)
    account = upload(node_of(server), folder)
    assert account.verdict == COMPLETE, reasons(account)
    assert held(server) == sums(folder)
    assert server.happened[name]


#: Faults of one object, or of all, that stay: nothing counts as delivered that is not there.
_STAYING: dict[str, tuple[str, Any, str]] = {
    "refused within 200": ("stow.refuse", 0x0122, "0x0122, SOP class not supported"),
    "cannot be understood": ("stow.refuse", 0xC000, "0xC000, cannot understand the object"),
    "not authorised": ("stow.refuse", 0x0124, "0x0124, not authorised"),
    "reported and not stored": ("stow.forget", None, NOT_LISTED),
}


@pytest.mark.parametrize("fault", _STAYING)
def test_a_good_answer_with_failures_inside_is_not_delivered(server: FaultyWeb, folder: Path, fault: str) -> None:
    name, value, told = _STAYING[fault]
    bad = sorted(sums(folder))[0]
    server.fail(name, bad if value is None else {bad: value})
    server.fail("stow.code", 200)
    account = upload(node_of(server), folder)
    assert account.verdict == INCOMPLETE and told in reasons(account)
    assert [uid for one in account.series for uid in one.missing_uids] == [bad]
    assert held(server) == {uid: sha256 for uid, sha256 in sums(folder).items() if uid != bad}


def test_a_server_that_says_200_and_stores_nothing(server: FaultyWeb, folder: Path) -> None:
    server.fail("stow.nothing")
    account = upload(node_of(server), folder)
    assert account.verdict == INCOMPLETE and account.totals()["received"] == 0
    assert "says nothing of it" in reasons(account)


def test_what_is_there_already_counts_if_it_is_the_same(server: FaultyWeb, folder: Path, tmp_path: Path) -> None:
    paths = sorted((folder / "a").glob("*.dcm"))
    other = tmp_path / "other.dcm"
    data = bytearray(paths[1].read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    server.load([paths[0], other])
    server.fail("stow.exists", 0x0111)
    account = upload(node_of(server), folder)
    assert account.verdict == INCOMPLETE and OTHER_THERE in reasons(account)
    file = inspect(paths[1])
    assert file and [uid for one in account.series for uid in one.missing_uids] == [file.sop_instance_uid]


def test_an_answer_that_names_only_some_failures(
    server: FaultyWeb, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that lists one of several failures (DICOMcloud issue 15): the others are no less missing."""
    bad = sorted(sums(folder / "a"))[:3]
    server.fail("stow.refuse", dict.fromkeys(bad, 0x0122))
    real = stow._answers
    monkeypatch.setattr(stow, "_answers", lambda reply: {u: a for u, a in real(reply).items() if u not in bad[1:]})
    account = upload(node_of(server), folder)
    assert account.verdict == INCOMPLETE
    assert sorted(uid for one in account.series for uid in one.missing_uids) == bad


def test_warnings_are_told(server: FaultyWeb, folder: Path) -> None:
    server.fail("stow.warn", 0xB000)
    account = upload(node_of(server), folder)
    assert account.verdict == COMPLETE and account.totals()["warned"] == 5
    assert "0xB000, some elements were coerced" in reasons(account)


def test_a_login_page_is_no_answer(server: FaultyWeb, folder: Path) -> None:
    server.fail("stow.html")
    account = upload(node_of(server), folder)
    assert account.verdict == INCOMPLETE and account.totals()["received"] == 0


def test_refusals_of_the_whole_server_are_named(server: FaultyWeb, folder: Path) -> None:
    server.user, server.password = "research", "a-secret"
    try:
        with pytest.raises(AssociationRejected, match="refuses us") as error:
            upload(node_of(server, login="research", password="not-the-secret"), folder)
        assert "secret" not in str(error.value)
        assert upload(node_of(server, login="research", password="a-secret"), folder).verdict == COMPLETE
    finally:
        server.user = server.password = ""
    with pytest.raises(PacsUnreachable, match="cannot be reached"):
        upload(replace(node_of(server), url="http://127.0.0.1:1/x"), folder)
    server.fail("any.redirect", "http://127.0.0.1:1/elsewhere")
    with pytest.raises(PacsError, match="redirects to another place"):
        upload(node_of(server), folder)


def test_a_server_that_stays_busy_ends_the_upload(server: FaultyWeb, folder: Path) -> None:
    run = Run.fresh()
    units = steps.prepare(run, UploadRequest(folder, folder.parent / "log"), node_of(server))
    server.fail("stow.status", {"status": 503})
    with pytest.raises(OutOfResources, match="503"), steps.Sending(run, node_of(server)) as sending:
        sending.units(units)


def test_a_file_that_changes_while_it_is_sent_is_not_stored(server: FaultyWeb, folder: Path) -> None:
    """Its size and time are kept; only the approved digest shows it."""
    import os

    from pacsifier_ops.state.approved import DIFFERS, approve
    from pacsifier_ops.state.tree import DEIDENTIFIED, begin

    begin(folder, {"state": DEIDENTIFIED, "released": True}, "the folder")
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.dcm")}
    approve(
        folder,
        [{"path": name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for name, path in files.items()],
    )
    run = Run.fresh()
    units = steps.prepare(run, UploadRequest(folder, folder.parent / "log"), node_of(server))
    before, path = sums(folder), files[sorted(files)[1]]
    status, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with steps.Sending(run, node_of(server)) as sending:
        sending.units(units)
    account = steps.report(run)
    assert account.verdict == INCOMPLETE and DIFFERS in reasons(account)
    file = inspect(path)
    assert file and held(server) == {uid: sha256 for uid, sha256 in before.items() if uid != file.sop_instance_uid}


_SENDING = """
import os, pickle, resource, signal, sys
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.upload import filestore, steps
node, name, units, readings = pickle.loads(bytes.fromhex(sys.argv[1]))
pieces = filestore.Reading.__iter__
def counted(self):
    global readings
    readings -= 1
    for piece in pieces(self):
        if readings < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        yield piece
filestore.Reading.__iter__ = counted
with steps.Sending(Run.named(name), node) as sending:
    for unit in units:
        sending.unit(unit)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, end=" ")
"""


def sent_apart(node: WebNode, folder: Path, readings: int) -> subprocess.CompletedProcess[str]:
    """Send in a process of its own, which is killed while it reads the file after so many."""
    run = Run.fresh()
    units = steps.prepare(run, UploadRequest(folder, folder.parent / "log"), node)
    given = pickle.dumps((node, run.name, units, readings)).hex()
    command = [sys.executable, "-c", _SENDING, given]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_killed_in_the_middle_it_goes_on_where_it_was(server: FaultyWeb, folder: Path) -> None:
    ended = sent_apart(node_of(server), folder, 4)  # the first series is whole, then comes the other
    assert ended.returncode == -signal.SIGKILL
    totals = upload(node_of(server), folder).totals()
    assert (totals["present"], totals["received"]) == (4, 1)
    assert held(server) == sums(folder)


def test_memory_stays_flat_with_a_large_object(server: FaultyWeb, tmp_path: Path) -> None:
    root = tmp_path / "large"
    write(series("A"), root / "a")
    (image,) = series("B")
    image.PixelData = bytes(200 << 20)
    write([image], root / "b")
    ended = sent_apart(node_of(server), root, 100)
    small, large = sorted(map(int, ended.stdout.split()))
    assert ended.returncode == 0 and large - small < 64, "MiB more than for a small one"
    assert held(server) == sums(root)
    server.clear()


@pytest.mark.peers
def test_orthanc_takes_everything_as_it_is(tmp_path: Path, folder: Path) -> None:
    if missing := missing_plugin():
        pytest.skip(missing)
    peer = OrthancWeb(tmp_path / "orthanc", user="research", password="p4ss")
    peer.start()
    try:
        node = WebNode("orthanc", peer.url, "research", "p4ss", retry_wait=0.1)
        account = upload(node, folder)
        assert account.verdict == COMPLETE, reasons(account)
        stored = tmp_path / "stored"
        stored.mkdir()
        for uid, data in peer.stored().items():
            (stored / f"{uid}.dcm").write_bytes(data)
        assert sums(stored) == sums(folder)
        # What is there already, but is not in our records, counts as it is the same.
        assert upload(replace(node, name="again", login="research"), folder, resend=True).verdict == COMPLETE
        with pytest.raises(DestinationRefused, match="check host"):
            upload(replace(node, url=peer.url.replace("dicom-web", "instances")), folder)
    finally:
        peer.stop()
