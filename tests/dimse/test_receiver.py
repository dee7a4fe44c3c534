"""The storage receiver, and how objects that arrive get to disk."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    generate_uid,
)
from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode, split_dataset
from pynetdicom.sop_class import Verification

from pacsifier_ops.base.errors import ConfigError, ReceiverError
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.cli import receiver as command
from pacsifier_ops.dicom.heads import file_head
from pacsifier_ops.dimse.receiver import StorageReceiver, last_arrival, quarantine_unasked, spooled
from pacsifier_ops.dimse.transport import HANDLERS
from pacsifier_ops.extract.receiving import announced
from pacsifier_ops.state.leases import Leases
from tests.support.disks import mount, unmount
from tests.support.peers import free_port
from tests.support.processes import PATIENCE, until

STUDY = "1.2.2"
PRIVATE_CLASS = "1.3.12.2.1107.5.9.1"
RETIRED_ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6"


def shipped() -> list[Path]:
    """The sound objects inside the pydicom package: 14 transfer syntaxes, several objects under one UID."""
    found = []
    for path in sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm")):
        with contextlib.suppress(Exception):
            ds = dcmread(path, stop_before_pixels=True)
            if ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID and ds.SeriesInstanceUID:
                found.append(path)
    return found


def of(series_uid: str) -> SeriesId:
    """A series of the study that `make` writes objects of."""
    return SeriesId(STUDY, series_uid)


def make(folder: Path, series: str = "", sop_class: str = CTImageStorage, pixels: int = 1000) -> Path:
    """Write one small object; returns its path."""
    folder.mkdir(exist_ok=True)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, generate_uid()
    ds.PatientID, ds.PatientName = "Pätient 1", "Müller^Jörg"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, series or generate_uid()
    ds.add_new(0x7FE00010, "OW", bytes(pixels))
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path


def body(path: Path) -> bytes:
    """The encoded data set of a file."""
    return path.read_bytes()[split_dataset(path)[1] :]


def files(folder: Path) -> list[Path]:
    """Every file below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(autouse=True)
def send_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our test peer sends the bytes of its files."""
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """An empty spool."""
    return tmp_path / "spool"


@pytest.fixture
def receiver(spool: Path) -> Iterator[StorageReceiver]:
    """A running receiver."""
    with StorageReceiver("RX", 0, spool, host="127.0.0.1") as started:
        yield started


def connect(
    port: int, *contexts: tuple[str, str | list[str]], called: str = "RX", calling: str = "PEER"
) -> Association:
    """Ask for an association as a peer would."""
    ae = AE(calling)
    ae.acse_timeout = ae.dimse_timeout = 20
    ae.add_requested_context(Verification)
    for sop_class, syntaxes in contexts:
        ae.add_requested_context(sop_class, syntaxes)
    # Ours too: an untuned association of pynetdicom loses a response now and then (see Dimse.get_msg).
    return ae.associate("127.0.0.1", port, ae_title=called, evt_handlers=HANDLERS)


def send(port: int, *paths: Path) -> list[int]:
    """C-STORE files; returns the statuses."""
    metas = [split_dataset(path)[0] for path in paths]
    kinds = {(str(m.MediaStorageSOPClassUID), str(m.TransferSyntaxUID)) for m in metas}
    association = connect(port, *sorted(kinds))
    assert association.is_established
    statuses = [association.send_c_store(path).Status for path in paths]
    association.release()
    return statuses


def store(association: Association, instance: str, data: bytes, last: bool = True) -> None:
    """Send a C-STORE request with `data` for a data set; without its end where `last` is false."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CTImageStorage, instance
    request.DataSet = BytesIO(data)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    context = next(c for c in association.accepted_contexts if c.abstract_syntax == CTImageStorage)
    fragments = list(message.encode_msg(context.context_id, 16382))
    for fragment in fragments if last else fragments[:-1]:
        association.dul.send_pdu(fragment)


def test_objects_are_spooled_as_they_came(receiver: StorageReceiver, spool: Path) -> None:
    sources = shipped()
    assert len(sources) > 40
    assert send(receiver.port, *sources) == [0] * len(sources)
    by_body = {body(path): path for path in sources}
    arrived = [
        item for folder in spool.iterdir() for item in spooled(spool, SeriesId(*folder.name.partition("_")[::2]))
    ]
    assert {body(item.path) for item in arrived} == set(by_body)
    for item in arrived:
        meta, offset = split_dataset(item.path)
        original = split_dataset(by_body[body(item.path)])[0]
        assert meta.MediaStorageSOPInstanceUID == original.MediaStorageSOPInstanceUID == item.sop_instance_uid
        assert meta.TransferSyntaxUID == original.TransferSyntaxUID == item.transfer_syntax_uid
        assert meta.MediaStorageSOPClassUID == original.MediaStorageSOPClassUID == item.sop_class_uid
        assert meta.SourceApplicationEntityTitle == "PEER"
        raw = item.path.read_bytes()
        head = file_head(item.sop_class_uid, item.sop_instance_uid, item.transfer_syntax_uid, "PEER")
        assert raw[:offset] == head and meta.FileMetaInformationGroupLength == offset - 144
        assert (item.size, item.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
        assert item.path.stat().st_mode & 0o777 == 0o600
        assert item.path.parent.stat().st_mode & 0o777 == 0o700
    assert receiver.error is None and not files(spool / ".incoming")


def test_a_look_for_arrivals_lists_no_folder(
    receiver: StorageReceiver, spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = [last_arrival(spool, of("1.2.3"))]
    listed: list[object] = []
    for name in ("first", "second"):
        assert send(receiver.port, make(tmp_path / name, "1.2.3")) == [0]
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", listed.append)
            looks.append(last_arrival(spool, of("1.2.3")))
    assert looks[0] == 0 and len(set(looks)) == 3 and not listed


@pytest.mark.parametrize("sop_class", [PRIVATE_CLASS, RETIRED_ULTRASOUND])
def test_unknown_sop_classes_are_accepted(
    receiver: StorageReceiver, spool: Path, tmp_path: Path, sop_class: str
) -> None:
    source = make(tmp_path / "in", "1.2.3", sop_class)
    assert send(receiver.port, source, source) == [0, 0]
    (item,) = spooled(spool, of("1.2.3"))  # sent twice, one file
    assert (item.sop_class_uid, item.patient_id) == (sop_class, "Pätient 1")
    assert body(item.path) == body(source)
    assert not list(spooled(spool, of("1.2.3"), known={item.path}))
    assert not list(spooled(spool, of("1.2.4"))) and not list(spooled(spool, of("../spool")))


@pytest.mark.parametrize(
    ("proposed", "accepted"),
    [
        ([ExplicitVRLittleEndian, JPEG2000Lossless], JPEG2000Lossless),
        ([ImplicitVRLittleEndian, ExplicitVRLittleEndian], ExplicitVRLittleEndian),
        ([JPEGBaseline8Bit, JPEGLosslessSV1, ExplicitVRLittleEndian], JPEGLosslessSV1),
        ([ExplicitVRLittleEndian, JPEGBaseline8Bit], JPEGBaseline8Bit),
        (["1.2.840.113619.5.2"], "1.2.840.113619.5.2"),
    ],
)
def test_of_several_transfer_syntaxes_the_stored_one_is_accepted(
    receiver: StorageReceiver, proposed: list[str], accepted: str
) -> None:
    association = connect(receiver.port, (CTImageStorage, proposed))
    (context,) = (c for c in association.accepted_contexts if c.abstract_syntax == CTImageStorage)
    assert context.transfer_syntax == [accepted]
    assert association.send_c_echo().Status == 0
    association.release()


def test_only_those_allowed_get_in(spool: Path) -> None:
    with StorageReceiver(
        "RX", 0, spool, host="127.0.0.1", allowed_calling={"PACS"}, allowed_addresses={"127.0.0.0/8"}
    ) as receiver:
        assert connect(receiver.port, calling="OTHER").is_rejected
        assert connect(receiver.port, calling="PACS", called="OTHER").is_rejected
        association = connect(receiver.port, calling="PACS")
        assert association.is_established
        association.release()
    with StorageReceiver("RX", 0, spool, host="127.0.0.1", allowed_addresses={"10.0.0.1"}) as receiver:
        assert not connect(receiver.port).is_established
    with pytest.raises(ConfigError, match="no IP address"):
        StorageReceiver("RX", 0, spool, allowed_addresses={"pacs.example"})


def test_an_object_that_is_not_what_the_command_says_is_dropped(receiver: StorageReceiver, spool: Path) -> None:
    ds = Dataset()
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.1", STUDY, "1.2.3"
    association = connect(receiver.port, (CTImageStorage, ExplicitVRLittleEndian))

    def answer(instance: str, data: bytes) -> int:
        store(association, instance, data)
        _, response = association.dimse.get_msg(block=True)
        return int(response.Status)

    good = encode(ds, False, True) or b""
    assert answer("1.2.9", good) == 0xA900
    ds.SeriesInstanceUID = "../../1"
    assert answer("1.2.1", encode(ds, False, True) or b"") == 0xC000
    assert answer("1.2.1", b"no data set at all") == 0xC000
    assert answer("1.2/1", good) == 0xC000
    assert not files(spool)
    assert answer("1.2.1", good) == 0
    assert len(list(spooled(spool, of("1.2.3")))) == 1
    association.abort()


def test_an_aborted_transfer_leaves_nothing(receiver: StorageReceiver, spool: Path, tmp_path: Path) -> None:
    incoming = spool / ".incoming"
    data = body(make(tmp_path / "in", pixels=1 << 20))
    for end in (Association.abort, lambda association: association.dul.socket.close(), None):
        association = connect(receiver.port, (CTImageStorage, ExplicitVRLittleEndian))
        store(association, "1.2.3", data, last=False)
        assert until(lambda: any(path.stat().st_size > 1 << 19 for path in files(incoming)))
        if end is None:
            receiver.stop()
        else:
            end(association)
        assert until(lambda: not files(incoming))
        association.join(PATIENCE)
    receiver.start()
    assert send(receiver.port, make(tmp_path / "in", "1.2.3")) == [0]
    assert len(files(spool)) == 1


def test_many_peers_at_once(receiver: StorageReceiver, spool: Path, tmp_path: Path) -> None:
    batches = [[make(tmp_path / str(n), f"1.2.{n}") for _ in range(20)] for n in range(6)]
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda batch=batch: statuses.extend(send(receiver.port, *batch))) for batch in batches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0] * 120
    for number, batch in enumerate(batches):
        items = list(spooled(spool, of(f"1.2.{number}")))
        assert {item.sop_instance_uid for item in items} == {path.stem for path in batch}


def test_quota_and_floor_refuse_and_recover(spool: Path, tmp_path: Path) -> None:
    source, other = make(tmp_path / "in", "1.2.3"), make(tmp_path / "in", "1.2.4")
    with StorageReceiver("RX", 0, spool, host="127.0.0.1", quota_bytes=3000) as receiver:
        assert send(receiver.port, source, other) == [0, 0xA700]
        assert isinstance(receiver.error, OSError)
        assert [path.parent.name for path in files(spool)] == [str(of("1.2.3"))]
        shutil.rmtree(spool / str(of("1.2.3")))  # collected
        assert until(lambda: send(receiver.port, other) == [0])
    with StorageReceiver("RX", 0, spool, host="127.0.0.1", free_floor_bytes=1 << 60) as receiver:
        assert send(receiver.port, source) == [0xA700]
        assert isinstance(receiver.error, OSError)
    assert [path.parent.name for path in files(spool)] == [str(of("1.2.4"))]


def test_a_start_heals_what_a_crash_left(receiver: StorageReceiver, spool: Path, tmp_path: Path) -> None:
    assert send(receiver.port, make(tmp_path / "in", "1.2.3"), make(tmp_path / "in", "1.2.3")) == [0, 0]
    torn, whole = (item.path for item in spooled(spool, of("1.2.3")))
    os.truncate(torn, 700)
    part = spool / ".incoming" / str(receiver.port) / "0123.part"
    part.touch()
    other = spool / ".incoming" / "1" / "of another receiver.part"
    other.parent.mkdir()
    other.touch()
    receiver.stop()
    receiver.stop()
    receiver.start()
    assert sorted(files(spool)) == sorted([whole, other])


def test_a_taken_port_is_named(spool: Path) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(ReceiverError, match=f"RX cannot listen at port {port}.*declare it on the PACS"):
            StorageReceiver("RX", port, spool, host="127.0.0.1").start()
    with StorageReceiver("RX", port, spool, host="127.0.0.1") as receiver:
        assert receiver.port == port


def test_what_nobody_takes_goes_into_quarantine(receiver: StorageReceiver, spool: Path, tmp_path: Path) -> None:
    old, new = make(tmp_path / "in", "1.2.3"), make(tmp_path / "in", "1.2.4")
    assert send(receiver.port, old, new) == [0, 0]
    (spool / str(of("1.2.5"))).mkdir()  # all collected
    for name in ("1.2.3", "1.2.5"):
        os.utime(spool / str(of(name)), (0, 0))
    assert quarantine_unasked(spool, spool / ".quarantine", 3600) == 1
    assert {path.name for path in spool.iterdir()} == {".incoming", ".quarantine", str(of("1.2.4"))}
    assert [body(path) for path in files(spool / ".quarantine")] == [body(old)]
    assert quarantine_unasked(spool, spool / ".quarantine", 3600) == 0
    assert send(receiver.port, old) == [0]


def test_dcmtk_sends_to_it(receiver: StorageReceiver, spool: Path, tmp_path: Path) -> None:
    program = shutil.which("storescu")
    if program is None:
        pytest.skip("DCMTK is missing; install it: apt-get install dcmtk")
    sources = [make(tmp_path / "in", "1.2.3") for _ in range(5)]
    jpeg2000 = dcmread(str(get_testdata_file("MR_small_jp2klossless.dcm")))
    for flags in ([*map(str, sources)], ["--propose-j2k-lossless", str(jpeg2000.filename)]):
        call = [program, "-aec", "RX", "127.0.0.1", str(receiver.port), *flags]
        subprocess.run(call, check=True, timeout=60)
    assert {item.sop_instance_uid for item in spooled(spool, of("1.2.3"))} == {path.stem for path in sources}
    (item,) = spooled(spool, SeriesId(jpeg2000.StudyInstanceUID, jpeg2000.SeriesInstanceUID))
    assert item.transfer_syntax_uid == JPEG2000Lossless
    assert dcmread(item.path).PixelData == jpeg2000.PixelData


@pytest.fixture
def standing(
    tmp_path: Path, spool: Path, state_root: Path
) -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """Start `pacsifier-receiver` in processes of their own."""
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str, file_limit: int | None = None) -> tuple[subprocess.Popen[str], int]:
        port = free_port()
        own = ("--aet", "RX", "--port", str(port), "--host", "127.0.0.1", "--spool", str(spool))
        process = subprocess.Popen(
            [sys.executable, "-m", command.__name__, *own, "--min-free-gb", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=None
            if file_limit is None
            else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit)),
        )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"pacsifier-receiver ready: RX at 127.0.0.1:{port}"), line
        return process, port

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_command_runs_until_it_is_told_to_stop(
    standing: Callable[..., tuple[subprocess.Popen[str], int]],
    spool: Path,
    tmp_path: Path,
    state_root: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    process, port = standing()
    leases = Leases(state_root / "leases")
    assert announced(leases, "RX", port) == spool
    assert send(port, make(tmp_path / "in", "1.2.3")) == [0]
    assert len(list(spooled(spool, of("1.2.3")))) == 1
    config = tmp_path / "config.json"
    config.write_text(
        f'{{"server_address": "127.0.0.1", "port": 1, "server_AET": "PACS", "AET": "RX", "move_AET": "",'
        f'"move_port": {port}, "batch_size": 0, "batch_wait_time": 0}}'
    )
    second = [sys.executable, "-m", command.__name__, "-c", str(config), "--spool", str(spool)]
    assert subprocess.run(second, timeout=60).returncode == 1
    assert f"a receiver RX at port {port} runs already" in capfd.readouterr().err
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert announced(leases, "RX", port) is None


def test_a_full_disk_refuses_the_object_and_keeps_the_association(
    standing: Callable[..., tuple[subprocess.Popen[str], int]], spool: Path, tmp_path: Path
) -> None:
    small, big = make(tmp_path / "in", "1.2.3"), make(tmp_path / "in", "1.2.3", pixels=3 << 20)
    spool.mkdir()
    # A real small disk where we may mount one, else a limit on the size of files.
    mounted = mount(spool, "size=1m")
    try:
        process, port = standing(file_limit=None if mounted else 1 << 20)
        assert send(port, big, small, big) == [0xA700, 0, 0xA700]
        assert [item.sop_instance_uid for item in spooled(spool, of("1.2.3"))] == [small.stem]
        assert not files(spool / ".incoming")
        process.terminate()
        process.wait(PATIENCE)
    finally:
        if mounted:
            unmount(spool)


def test_a_big_object_streams_to_disk(
    standing: Callable[..., tuple[subprocess.Popen[str], int]], spool: Path, tmp_path: Path
) -> None:
    process, port = standing()

    def peak() -> int:
        """KiB."""
        status = Path(f"/proc/{process.pid}/status")
        if not status.exists():
            pytest.skip("no /proc to read the peak of memory from")
        return int(next(line for line in status.read_text().splitlines() if "VmHWM" in line).split()[1])

    assert send(port, make(tmp_path / "in")) == [0]
    before, size = peak(), 200 << 20
    big = make(tmp_path / "in", "1.2.3", pixels=0)
    with big.open("r+b") as stream:  # grow the last element, as a hole
        stream.seek(-4, os.SEEK_END)
        stream.write(size.to_bytes(4, "little"))
        stream.truncate(stream.tell() + size)
    tool = [
        sys.executable,
        "-c",
        "import sys; from tests.dimse.test_receiver import *; print(*send_big(*sys.argv[1:]))",
    ]
    done = subprocess.run([*tool, str(port), str(big)], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "0", done.stderr
    (item,) = spooled(spool, of("1.2.3"))
    assert item.size > size
    with item.path.open("rb") as whole:
        assert hashlib.file_digest(whole, "sha256").hexdigest() == item.sha256
    assert peak() - before < 20 * 1024


def send_big(port: str, path: str) -> list[int]:
    """C-STORE one large file, in a process of its own."""
    _config.STORE_SEND_CHUNKED_DATASET = True
    return send(int(port), Path(path))
