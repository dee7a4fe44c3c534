"""Uploads to destinations that keep files: a folder, sshd's SFTP, an FTP server with TLS, an S3 store."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import ConfigError, DestinationRefused, PacsError
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, RunAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.approved import DIFFERS, NOT_APPROVED, approve
from pacsifier_ops.state.tree import DEIDENTIFIED, begin
from pacsifier_ops.upload import filestore, steps
from pacsifier_ops.upload.filestore import (
    ANOTHERS,
    CHANGED_THERE,
    DATA_SET,
    MANIFEST,
    NOT_ITS_PATH,
    OCCUPIED,
    UNFINISHED,
    FileStore,
)
from pacsifier_ops.upload.nodes import FtpsNode, ObjectStoreNode, SftpNode, StoreNode
from pacsifier_ops.upload.run import UploadRequest
from tests.support.embedded import series
from tests.support.stores import KINDS, Elsewhere, on_demand


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Elsewhere]]:
    with on_demand(tmp_path_factory) as of:
        yield of


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, peers: Callable[[str], Elsewhere]) -> Elsewhere:
    return peers(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "released"
    write(series("A", n_images=2), root / "sub-PSEUDO1" / "ses-20200101" / "00001-Head")
    write(series("B", n_images=1), root / "sub-PSEUDO2" / "ses-20200202" / "00001-Chest")
    return root


def approved(root: Path) -> None:
    """Make the folder one that was released: with marker and approved list."""
    begin(root, {"state": DEIDENTIFIED, "released": True}, "the folder")
    approve(root, [{"path": name, "sha256": sha256} for name, sha256 in sums(files_in(root)).items()])


def files_in(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.dcm")}


def sums(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


def upload(node: StoreNode, folder: Path, **request: Any) -> RunAccount:
    run = Run.fresh()
    units = steps.prepare(run, UploadRequest(folder, folder.parent / "log", **request), node)
    with steps.Sending(run, node) as sending:
        sending.units(units)
    return steps.report(run, lambda: node)


def reasons(account: RunAccount) -> str:
    return " | ".join([*(one.reason for one in account.series), *(one.reason for one in account.bad_files)])


def objects(place: Elsewhere) -> dict[str, bytes]:
    return {name: data for name, data in place.contents().items() if name != MANIFEST}


def test_a_released_folder_arrives_as_it_is_and_its_manifest_last(place: Elsewhere, folder: Path) -> None:
    approved(folder)
    account = upload(place.node, folder)
    assert account.verdict == COMPLETE, reasons(account)
    there = place.contents()
    manifest = [json.loads(line) for line in there.pop(MANIFEST).splitlines()]
    assert there == files_in(folder)
    assert {line["path"]: line["sha256"] for line in manifest} == sums(there)
    assert {line["path"]: line["size"] for line in manifest} == {name: len(data) for name, data in there.items()}

    again = upload(place.node, folder)
    totals = again.totals()
    assert (totals["present"], totals["received"], totals["bytes"]) == (3, 0, 0)


def test_what_was_lost_there_is_sent_again(place: Elsewhere, folder: Path) -> None:
    upload(place.node, folder)
    lost = next(name for name in files_in(folder))
    place.drop(lost)
    account = upload(place.node, folder)
    assert account.totals()["received"] == 1 and account.verdict == COMPLETE
    assert objects(place) == files_in(folder)


def changed_there(place: Elsewhere, name: str, data: bytes) -> None:
    """Put an object anew, so that it has another mark: on S3 in parts, whose ETag is another one for the same bytes."""
    if not isinstance(place.node, ObjectStoreNode):
        place.put(name, data)
        return
    with destination(place.node) as store:
        store.open()
        bucket, _, key = store._path(name).partition("/")
        of = {"Bucket": bucket, "Key": key}
        begun = store._fs.call_s3("create_multipart_upload", **of)["UploadId"]
        put = store._fs.call_s3("upload_part", **of, UploadId=begun, PartNumber=1, Body=data)
        parts = {"Parts": [{"PartNumber": 1, "ETag": put["ETag"]}]}
        store._fs.call_s3("complete_multipart_upload", **of, UploadId=begun, MultipartUpload=parts)


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_content_that_somebody_changes_there_is_sent_again(
    kind: str, peers: Callable[[str], Elsewhere], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is the same. A mark that changes and nothing else costs one look, and sends nothing."""
    place, read = peers(kind), []
    upload(place.node, folder)
    first, second, *_ = sorted(good := files_in(folder))
    changed_there(place, first, good[first][:-1] + bytes([good[first][-1] ^ 1]))
    changed_there(place, second, good[second])
    digest_there = FileStore._digest

    def seen(self: FileStore, name: str) -> str:
        read.append(name)
        return digest_there(self, name)

    monkeypatch.setattr(FileStore, "_digest", seen)
    account = upload(place.node, folder)
    totals = account.totals()
    assert (totals["present"], totals["received"], account.verdict) == (2, 1, COMPLETE), reasons(account)
    assert "1 had another content at the destination than what was sent" in reasons(account)
    assert objects(place) == good and {line["path"] for line in manifest_of(place)} == set(good)
    assert {first, second} <= set(read)
    read.clear()
    assert upload(place.node, folder).totals()["present"] == 3
    assert not {first, second} & {*read}


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_what_an_earlier_version_has_sent_gets_its_mark(
    kind: str, peers: Callable[[str], Elsewhere], folder: Path, state_root: Path
) -> None:
    place = peers(kind)
    upload(place.node, folder)
    records = [*(state_root / "delivered").rglob("*.jsonl")]
    kept = {path: [json.loads(line) for line in path.read_text().splitlines()] for path in records}
    assert all(line.pop("mark") for lines in kept.values() for line in lines)
    for path, lines in kept.items():
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert upload(place.node, folder).totals()["present"] == 3
    assert all(json.loads(path.read_text().splitlines()[-1])["mark"] for path in records)


def test_an_inbox_that_is_emptied_is_not_filled_again(peers: Callable[[str], Elsewhere], folder: Path) -> None:
    place = peers("sftp")
    node = replace(place.node, takes_away=True)
    upload(node, folder)
    place.clear()
    assert upload(node, folder).totals()["present"] == 3
    assert list(place.contents()) == [MANIFEST]


def test_nothing_outside_the_list_leaves_and_nothing_that_differs(place: Elsewhere, folder: Path) -> None:
    approved(folder)
    good = files_in(folder)
    write(series("C"), folder / "sub-STRANGER")
    changed = sorted(good)[0]
    data = bytearray((folder / changed).read_bytes())
    data[-1] ^= 1
    (folder / changed).write_bytes(data)
    account = upload(place.node, folder)
    assert account.verdict == INCOMPLETE
    assert DIFFERS in reasons(account) and NOT_APPROVED in reasons(account)
    assert place.contents() == {name: good[name] for name in good if name != changed}  # and no manifest


def test_a_file_that_changes_while_it_is_read_leaves_nothing(place: Elsewhere, folder: Path) -> None:
    """The scan checks digests already; here the file changes between scan and sending, with size and time kept."""
    approved(folder)
    run = Run.fresh()
    units = steps.prepare(run, UploadRequest(folder, folder.parent / "log"), place.node)
    changed = sorted(files_in(folder))[0]
    status = (folder / changed).stat()
    data = bytearray((folder / changed).read_bytes())
    data[-1] ^= 1
    (folder / changed).write_bytes(data)
    os.utime(folder / changed, ns=(status.st_atime_ns, status.st_mtime_ns))
    with steps.Sending(run, place.node) as sending:
        sending.units(units)
    account = steps.report(run, lambda: place.node)
    assert account.verdict == INCOMPLETE and DIFFERS in reasons(account)
    assert sorted(place.contents()) == sorted(set(files_in(folder)) - {changed})


def test_a_file_of_others_is_not_overwritten(place: Elsewhere, folder: Path) -> None:
    same, other, *_ = sorted(files_in(folder))
    place.put(same, files_in(folder)[same])
    place.put(other, b"of somebody else")
    account = upload(place.node, folder)
    assert account.verdict == INCOMPLETE and OCCUPIED in reasons(account)
    assert objects(place) == {**files_in(folder), other: b"of somebody else"}
    assert account.totals()["received"] == 2  # one of which was there already, exactly


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another data set, with other patients and series."""
    root = tmp_path / "other"
    write(series("C", n_images=1), root / "sub-PSEUDO3" / "ses-20200303" / "00001-Knee")
    return root


def manifest_of(place: Elsewhere) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.contents()[MANIFEST].splitlines()]


def test_the_manifest_of_another_data_set_is_not_replaced(place: Elsewhere, folder: Path, other: Path) -> None:
    """No name of a file is the same, so that nothing else would tell."""
    upload(place.node, folder)
    before = place.contents()
    first, *rest = manifest_of(place)
    assert len(first[DATA_SET]) == 32 and not any(DATA_SET in line for line in rest)
    with pytest.raises(DestinationRefused) as error:
        upload(place.node, other, resend=True)
    assert str(error.value) == f"{place.node.name}: {ANOTHERS}" and place.contents() == before
    assert upload(place.node, folder).verdict == COMPLETE and place.contents() == before
    place.drop(MANIFEST)  # as one does who gives the first up
    assert upload(place.node, other).verdict == COMPLETE
    assert {line["path"] for line in manifest_of(place)} == set(files_in(other))


def test_of_two_that_begin_together_the_second_does_not_replace_the_manifest_of_the_first(
    peers: Callable[[str], Elsewhere], folder: Path, other: Path
) -> None:
    place, runs = peers("sftp"), list[Run]()
    for root in (folder, other):
        run = Run.fresh()
        units = steps.prepare(run, UploadRequest(root, root.parent / "log"), place.node)
        with steps.Sending(run, place.node) as sending:
            sending.units(units)
        runs.append(run)
    assert steps.report(runs[0], lambda: place.node).verdict == COMPLETE
    with pytest.raises(DestinationRefused, match="another data set"):
        steps.report(runs[1], lambda: place.node)
    assert {line["path"] for line in manifest_of(place)} == set(files_in(folder))


@pytest.mark.parametrize("kind", ["folder", "ftps"])
def test_a_manifest_of_an_earlier_version_is_that_of_who_has_sent_what_it_lists(
    kind: str, peers: Callable[[str], Elsewhere], folder: Path, other: Path
) -> None:
    """It names no data set. Earlier, whoever came last replaced it."""
    place = peers(kind)
    upload(place.node, folder)
    place.drop(MANIFEST)
    upload(place.node, other)
    lines = manifest_of(place)
    del lines[0][DATA_SET]
    place.put(MANIFEST, "".join(f"{json.dumps(line)}\n" for line in lines).encode())
    before = place.contents()
    with pytest.raises(DestinationRefused, match="another data set"):
        upload(place.node, folder)
    assert place.contents() == before
    assert upload(place.node, other).verdict == COMPLETE
    assert DATA_SET in manifest_of(place)[0]


@pytest.mark.parametrize("kind", ["sftp", "ftps"])
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_of_a_long_manifest_only_the_beginning_is_read(
    kind: str, peers: Callable[[str], Elsewhere], folder: Path
) -> None:
    """What is read ahead of it, or still to come, would be taken for the answer to what is asked next."""
    place = peers(kind)
    upload(place.node, folder)
    lines = [*manifest_of(place), *({"path": f"x/{n}", "size": 1, "sha256": "0" * 64} for n in range(60_000))]
    place.put(MANIFEST, "".join(f"{json.dumps(line)}\n" for line in lines).encode())
    assert upload(place.node, folder).verdict == COMPLETE
    assert len(manifest_of(place)) == 3


@pytest.mark.parametrize("content", [b"", b"\xff" * 3_000_000, b'{"path": "x"}\n{"name": 1}\n', b"[1]\n", b"{}"])
def test_a_file_of_its_name_that_we_have_not_made_is_not_replaced(
    content: bytes, peers: Callable[[str], Elsewhere], folder: Path
) -> None:
    place = peers("s3")
    place.put(MANIFEST, content)
    with pytest.raises(DestinationRefused, match="another data set"):
        upload(place.node, folder)
    assert place.contents() == {MANIFEST: content}


def test_a_folder_whose_name_begins_alike_is_another_one(
    peers: Callable[[str], Elsewhere], folder: Path, other: Path
) -> None:
    """Where `trial/one` is listed without a slash at its end, `trial/one2` is in the answer."""
    place = peers("s3")
    node = place.node
    assert isinstance(node, ObjectStoreNode)
    assert upload(replace(node, root=f"{node.root}2"), other).verdict == COMPLETE
    assert upload(node, folder).verdict == COMPLETE


def test_a_run_without_news_leaves_the_manifest_as_it_is(
    place: Elsewhere, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a new one would load the whole data set again, and a bucket with versions would keep each."""
    upload(place.node, folder)
    of, written = type(destination(place.node)), []
    write_there = of.write

    def seen(self: FileStore, name: str, content: filestore.Reading) -> None:
        written.append(name)
        write_there(self, name, content)

    monkeypatch.setattr(of, "write", seen)
    assert upload(place.node, folder).verdict == COMPLETE
    assert [name for name in written if not name.startswith(UNFINISHED)] == []
    spoilt = place.contents()[MANIFEST].replace(b"PSEUDO1", b"PSEUDO9")
    place.put(MANIFEST, spoilt)  # of the same size
    assert upload(place.node, folder).verdict == COMPLETE
    assert written[-1] == MANIFEST and place.contents()[MANIFEST] != spoilt


def test_a_changed_release_replaces_what_was_sent_from_here(
    place: Elsewhere, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(place.node, folder)
    name = sorted(files_in(folder))[0]
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    of, there = type(destination(place.node)), []
    write = of.write

    def seen(self: FileStore, name: str, content: filestore.Reading) -> None:
        there.append((name, MANIFEST in place.contents()))
        write(self, name, content)

    monkeypatch.setattr(of, "write", seen)
    account = upload(place.node, folder)
    assert account.verdict == COMPLETE and account.totals()["received"] == 1, reasons(account)
    assert there[1:] == [(name, False), (MANIFEST, False)], "a manifest that is not true any more was there"
    assert objects(place) == files_in(folder)


def test_what_arrives_otherwise_is_not_confirmed(
    place: Elsewhere, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A destination that keeps other bytes than it got, as a faulty disk or a proxy would."""
    of = type(destination(place.node))
    real = of.verify

    def verify(self: FileStore, name: str, content: filestore.Reading) -> None:
        if content.path.parent.name != "upload":  # not the probe
            spoil(content)
        real(self, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(of, "verify", verify)
        account = upload(place.node, folder)
    assert account.verdict == INCOMPLETE and CHANGED_THERE in reasons(account)
    assert place.contents() == {}


def spoil(content: filestore.Reading) -> None:
    content.whole.update(b"x")
    content.md5.update(b"x")
    content.blocks.clear()


def destination(node: StoreNode) -> FileStore:
    from pacsifier_ops.state.leases import shared
    from pacsifier_ops.upload.kinds import destination_at

    found = destination_at(node, shared())
    assert isinstance(found, FileStore)
    return found


_KILLED = """
import os, signal, sys, pickle
from pacsifier_ops.upload import filestore, steps
from pacsifier_ops.runs.folder import Run
node, name, units = pickle.loads(bytes.fromhex(sys.argv[1]))
pieces, left = filestore.Reading.__iter__, 2
def counted(self):
    global left
    left -= 1
    for piece in pieces(self):
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        yield piece
filestore.Reading.__iter__ = counted
with steps.Sending(Run.named(name), node) as sending:
    sending.units(units)
"""


def test_killed_in_the_middle_it_goes_on_where_it_was(place: Elsewhere, folder: Path) -> None:
    import pickle

    run = Run.fresh()
    units = steps.prepare(run, UploadRequest(folder, folder.parent / "log"), place.node)
    given = pickle.dumps((place.node, run.name, units)).hex()
    ended = subprocess.run([sys.executable, "-c", _KILLED, given], timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60
    account = upload(place.node, folder)
    assert time.monotonic() < deadline and account.verdict == COMPLETE
    assert account.totals()["present"] == 2 and account.totals()["received"] == 1
    assert objects(place) == files_in(folder)  # and nothing unfinished


_LARGE = """
import pickle, resource, sys
from pathlib import Path
from pacsifier_ops.upload.filestore import Reading
from pacsifier_ops.upload.kinds import destination_at
from pacsifier_ops.state.leases import shared
node, small, large = pickle.loads(bytes.fromhex(sys.argv[1]))
with destination_at(node, shared()) as place:
    def put(path, name):
        place.open()
        place.write(name, Reading(Path(path), Path(path).stat().st_size, block=place.block))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = put(small, "small")
    print((put(large, "large") - before) // 1024)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_memory_stays_flat_with_a_large_object(kind: str, peers: Callable[[str], Elsewhere], tmp_path: Path) -> None:
    import pickle

    place = peers(kind)
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(os.urandom(1 << 20))
    piece = os.urandom(1 << 20)
    with large.open("wb") as stream:
        for _ in range(120):
            stream.write(piece)
    given = pickle.dumps((place.node, small, large)).hex()
    told = subprocess.run(
        [sys.executable, "-c", _LARGE, given], capture_output=True, text=True, timeout=300, check=True
    )
    assert int(told.stdout) < 70, "MiB more than for a small one"
    assert len(place.contents()["large"]) == 120 << 20
    place.clear()


def test_paths_that_could_lead_elsewhere_are_refused(place: Elsewhere, tmp_path: Path) -> None:
    root = tmp_path / "odd"
    write(series("A"), root / "back\\slash")
    write(series("B"), root / "plain")
    account = upload(place.node, root)
    assert account.verdict == INCOMPLETE and NOT_ITS_PATH in reasons(account)
    assert list(place.contents()) == [name for name in files_in(root) if name.startswith("plain/")]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"host_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHVZzKRoVZVq0JkUrYb5rpWBNkjNRjJdVyDBdY0nDmEW"}, "host key"),
        ({"host_key": "", "known_hosts": "/dev/null"}, "host key is not known"),
        ({"root": "/nowhere/at/all"}, "root is not there"),
        ({"port": 1}, "does not answer"),
    ],
)
def test_faults_of_sftp_are_named(
    peers: Callable[[str], Elsewhere], folder: Path, change: dict[str, Any], told: str
) -> None:
    node = replace(peers("sftp").node, **change)
    with pytest.raises(PacsError, match=told) as error:
        upload(node, folder)
    assert str(error.value).startswith(f"{node.name}: ")


def test_a_wrong_key_is_named(peers: Callable[[str], Elsewhere], folder: Path) -> None:
    node = peers("sftp").node
    assert isinstance(node, SftpNode)
    wrong = replace(node, key_file=str(Path(node.key_file).with_name("id_other")))
    with pytest.raises(PacsError, match="refuses the login"):
        upload(wrong, folder)


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("ftps", {"password": "wrong-secret"}, "refuses the login"),
        ("ftps", {"ca": ""}, "certificate"),
        ("ftps", {"root": "nowhere"}, "root is not there"),
        ("s3", {"root": "s3://no-such-bucket/x"}, "bucket is not there"),
        ("s3", {"endpoint_url": "http://127.0.0.1:1"}, "does not answer|failed|lost"),
        ("folder", {"path": "/nowhere/at/all"}, "path is no folder"),
    ],
)
def test_faults_are_named_without_secrets(
    peers: Callable[[str], Elsewhere], folder: Path, kind: str, change: dict[str, Any], told: str
) -> None:
    node = replace(peers(kind).node, **change)
    with pytest.raises(PacsError, match=told) as error:
        upload(node, folder)
    assert "secret" not in str(error.value) and str(folder) not in str(error.value)


def test_a_package_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="gcsfs, which is not installed"):
        upload(ObjectStoreNode("cloud", root="gs://bucket/x"), folder)


def test_any_file_system_of_fsspec(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "other"
    account = upload(ObjectStoreNode("other", root=f"file://{root}"), folder)
    assert account.verdict == COMPLETE, reasons(account)
    there = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert there == {*files_in(folder), MANIFEST}


def test_an_ftp_server_without_mlsd(
    peers: Callable[[str], Elsewhere], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As vsftpd has none."""
    import ftplib

    def mlsd(*_: object) -> None:
        raise ftplib.error_perm("500 Unknown command.")

    monkeypatch.setattr(ftplib.FTP, "mlsd", mlsd)
    place = peers("ftps")
    assert upload(place.node, folder).verdict == COMPLETE
    lost = sorted(files_in(folder))[0]
    place.drop(lost)
    totals = upload(place.node, folder).totals()
    assert (totals["present"], totals["received"]) == (2, 1) and objects(place) == files_in(folder)


def test_no_parts_of_a_broken_upload_stay_in_the_store(peers: Callable[[str], Elsewhere], tmp_path: Path) -> None:
    place = peers("s3")
    large = tmp_path / "large"
    large.write_bytes(os.urandom(40 << 20))
    with destination(place.node) as store:
        store.open()
        reading = filestore.Reading(large, 40 << 20, required="0" * 64, block=store.block)
        with pytest.raises(Exception, match="differs"):
            store.write("large", reading)
        assert isinstance(place.node, ObjectStoreNode)
        bucket = place.node.root.split("/")[2]
        found = store._fs.call_s3("list_multipart_uploads", Bucket=bucket)
    assert not found.get("Uploads") and place.contents() == {}


def test_nodes_show_no_secrets() -> None:
    nodes = [
        ObjectStoreNode("s", root="s3://b/x", login="me", password="SECRET", session_token="SECRET", options="{}"),
        SftpNode("s", host="h", port=22, login="me", password="SECRET", private_key="SECRET"),
        FtpsNode("s", host="h", port=21, login="me", password="SECRET"),
    ]
    for node in nodes:
        assert "SECRET" not in f"{node!r} {node.key} {node.slots}"


@pytest.mark.parametrize("kind", ["sftp", "s3"])
def test_libraries_log_no_names(
    kind: str, peers: Callable[[str], Elsewhere], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = peers(kind)
    for name in ("", "paramiko", "s3fs", "botocore", "aiobotocore"):
        caplog.set_level("DEBUG", name or None)
    assert upload(place.node, folder).verdict == COMPLETE
    ours = [one for one in caplog.records if not one.name.startswith(("werkzeug", "moto"))]
    assert "PSEUDO" not in " ".join(one.getMessage() for one in ours)
