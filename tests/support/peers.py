"""Real PACS on loopback for tests and benchmarks: Orthanc, DCMTK's dcmqrscp and storescp, as they come out of the box.

Each peer has its own temporary folder and free ports, knows our AE title with one receiver port, and is stopped
with everything it started.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement
from pydicom.encaps import generate_fragments
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from tests.support.certificates import Identity

#: Our AE title, declared on every peer at Peer.receiver_port.
OUR_AET = "PACSIFIER"
VERIFICATION = "1.2.840.10008.1.1"
#: Success, and the warnings with which the object is stored nevertheless (PS3.4 B.2.3).
STORED = (0x0000, 0xB000, 0xB006, 0xB007)


#: Ports that no system hands to outgoing connections (Linux begins at 32768, others at 49152): what is free
#: stays free until its peer listens.
_PORTS = iter(random.SystemRandom().sample(range(15000, 32000), 17000))


def free_port() -> int:
    """A TCP port that nobody listens on at the moment, never the same twice."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return port
    raise OSError("no port is free")


@dataclass(frozen=True)
class Tls:
    """DICOM over TLS of a peer.

    Attributes:
        identity: what it shows.
        ca: authority that others' certificates must come from.
        required: others must show a certificate.
        serves: its own port speaks TLS; where False it only uses TLS to send.
        destinations: AE titles that it sends to over TLS.
    """

    identity: Identity
    ca: Path
    required: bool = True
    serves: bool = True
    destinations: frozenset[str] = frozenset()


@dataclass
class Peer:
    """One PACS process.

    Attributes:
        folder: all the peer writes lies below it.
        aet, port: its AE title and DICOM port on 127.0.0.1.
        receiver_port: port at which OUR_AET is declared as a destination of C-MOVE.
        destinations: other AE titles that it knows, with host and port, as they are when it starts: it sends to
            them, and takes from them.
        tls: DICOM over TLS; None is none.
        environment: variables set for the process on top of ours.
        held: files that the peer stored, as `load` sent them.
        refused: files that the peer did not store, with the reason.
    """

    folder: Path
    aet: str = ""
    port: int = field(default_factory=free_port)
    receiver_port: int = field(default_factory=free_port)
    destinations: dict[str, tuple[str, int]] = field(default_factory=dict)
    tls: Tls | None = None
    environment: dict[str, str] = field(default_factory=dict)
    held: list[Path] = field(default_factory=list)
    refused: dict[Path, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = None

    name = ""
    program = ""
    package = ""

    def command(self) -> list[str]:
        """Write the configuration; return what to start."""
        raise NotImplementedError

    @classmethod
    def find_program(cls) -> str | None:
        """Path of the program, also where a normal user's PATH leaves /usr/sbin out."""
        return shutil.which(cls.program, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")

    def start(self, seconds: float = 30.0) -> None:
        """Start the process and wait until it answers C-ECHO.

        Raises:
            RuntimeError: it ended or did not answer within `seconds`; holds the end of its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            [*end_with_parent(), *self.command()],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env={**os.environ, **self.environment},
            start_new_session=True,
        )
        deadline = time.monotonic() + seconds
        while not self.echo():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} does not answer C-ECHO:\n{tail}")
            time.sleep(0.05)

    def echo(self) -> bool:
        """Whether the peer answers C-ECHO; where it serves TLS, whether it listens, as it may not like any of us."""
        if self.tls and self.tls.serves:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
                return True
            return False
        association = AE(OUR_AET).associate("127.0.0.1", self.port, [build_context(VERIFICATION)], ae_title=self.aet)
        if not association.is_established:
            return False
        status = association.send_c_echo()
        association.release()
        return "Status" in status and status.Status == 0

    def send_signal(self, number: int) -> None:
        """Send a signal to the peer and to the processes that it started."""
        if self.process:
            os.killpg(self.process.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the peer and whatever it started; what it stored stays."""
        if self.process:
            try:
                self.send_signal(number)
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                pass
            except ProcessLookupError:
                self.process.wait()
            with contextlib.suppress(ProcessLookupError):
                self.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None
        if self.log:
            self.log.close()
            self.log = None

    def load(self, files: Iterable[Path]) -> None:
        """Start with these files in store, each in the transfer syntax that it has; fills `held` and `refused`.

        They are sent without TLS. While loading, Nagle's algorithm is off on both sides; it would cost 45 ms or more
        per object.
        """
        shipped = self.environment, self.tls
        self.environment, self.tls = {**self.environment, "TCP_NODELAY": "1"}, None
        self.start()
        self.store(files)
        self.stop()
        self.environment, self.tls = shipped
        self.start()

    def store(self, files: Iterable[Path]) -> None:
        """C-STORE files over one association, for at most 127 pairs of SOP class and transfer syntax."""
        heads = {path: dcmread(path, stop_before_pixels=True) for path in sorted(files)}
        kinds = {path: (head.SOPClassUID, head.file_meta.TransferSyntaxUID) for path, head in heads.items()}
        # With Verification there is always a context to accept; an association without any would be aborted.
        contexts = [
            build_context(VERIFICATION),
            *(build_context(*kind) for kind in sorted(set(kinds.values()))),
        ]
        association = AE(OUR_AET).associate(
            "127.0.0.1", self.port, contexts, ae_title=self.aet, evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay)]
        )
        if not association.is_established:
            raise RuntimeError(f"{self.name} rejects an association for C-STORE")
        # pynetdicom's own thread may take an answer off the queue before send_c_store() does, which then waits in vain.
        get_msg = association.dimse.get_msg
        association.dimse.get_msg = lambda block=False: get_msg(True) if block else (None, None)
        accepted = {(c.abstract_syntax, c.transfer_syntax[0]) for c in association.accepted_contexts}
        for path, (sop_class, syntax) in kinds.items():
            if (sop_class, syntax) not in accepted:
                self.refused[path] = f"no presentation context for {sop_class.name} in {syntax.name}"
            elif (status := association.send_c_store(path).get("Status")) in STORED:
                self.held.append(path)
            else:
                self.refused[path] = f"status {status}"
        association.release()

    def objects(self) -> Iterator[Dataset]:
        """What the peer holds, as it holds it: the objects in its folder."""
        for path in (self.folder / "storage").iterdir():
            if path.name not in ("index.dat", "lockfile"):
                yield dcmread(path)

    def config(self, folder: Path, **changes: object) -> Path:
        """Write a PACSIFIER config.json for this peer; `changes` replace some of its values."""
        values = {
            "server_address": "127.0.0.1",
            "port": self.port,
            "server_AET": self.aet,
            "AET": OUR_AET,
            "move_AET": OUR_AET,
            "move_port": self.receiver_port,
            "batch_size": 0,
            "batch_wait_time": 0,
        }
        path = folder / "config.json"
        path.write_text(json.dumps(values | changes))
        return path


@dataclass
class Orthanc(Peer):
    """Orthanc; everything that the configuration leaves out takes its default (Debian changes none that matters)."""

    aet: str = "ORTHANC"
    options: dict[str, object] = field(default_factory=dict)
    http_port: int = field(default_factory=free_port)

    name = "orthanc"
    program = "Orthanc"
    package = "orthanc"

    def command(self) -> list[str]:
        path = self.folder / "orthanc.json"
        known = {OUR_AET: ("127.0.0.1", self.receiver_port), **self.destinations}
        secure = self.tls.destinations if self.tls else ()
        configuration: dict[str, object] = {
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "HttpPort": self.http_port,
            "DicomAet": self.aet,
            "DicomPort": self.port,
            "DicomModalities": {
                aet: {"AET": aet, "Host": host, "Port": port, "UseDicomTls": aet in secure}
                for aet, (host, port) in known.items()
            },
        }
        if self.tls:
            configuration |= {
                "DicomTlsEnabled": self.tls.serves,
                "DicomTlsCertificate": str(self.tls.identity.certificate),
                "DicomTlsPrivateKey": str(self.tls.identity.key),
                "DicomTlsTrustedCertificates": str(self.tls.ca),
                "DicomTlsRemoteCertificateRequired": self.tls.required,
            }
        path.write_text(json.dumps(configuration | self.options))
        return [str(self.find_program()), str(path)]

    def objects(self) -> Iterator[Dataset]:
        """What it holds, by its REST interface (from this machine it asks for no password)."""
        with contextlib.closing(HTTPConnection("127.0.0.1", self.http_port, timeout=30)) as connection:

            def get(path: str) -> bytes:
                connection.request("GET", path)
                return connection.getresponse().read()

            for number in json.loads(get("/instances")):
                yield dcmread(BytesIO(get(f"/instances/{number}/file")))


@dataclass
class Dcmqrscp(Peer):
    """DCMTK's dcmqrscp; it rejects AE titles that it does not know, called or calling."""

    aet: str = "DCMQRSCP"

    name = "dcmqrscp"
    program = "dcmqrscp"
    package = "dcmtk"

    def command(self) -> list[str]:
        storage = self.folder / "storage"
        storage.mkdir(exist_ok=True)
        path = self.folder / "dcmqrscp.cfg"
        known = {OUR_AET: ("127.0.0.1", self.receiver_port), **self.destinations}
        # It wants names of hosts, and takes no address.
        hosts = {aet: ("localhost" if host == "127.0.0.1" else host, port) for aet, (host, port) in known.items()}
        table = "".join(f"{aet} = ({aet}, {host}, {port})\n" for aet, (host, port) in hosts.items())
        path.write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
            f"HostTable BEGIN\n{table}everybody = {', '.join(known)}\nHostTable END\n"
            "VendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\n{self.aet} {storage} RW (500, 1024mb) everybody\nAETable END\n"
        )
        return [str(self.find_program()), "-c", str(path)]


@dataclass
class Qrscp(Peer):
    """pynetdicom's qrscp."""

    aet: str = "QRSCP"

    name = "qrscp"

    @classmethod
    def find_program(cls) -> str | None:
        return sys.executable

    def command(self) -> list[str]:
        (self.folder / "storage").mkdir(exist_ok=True)
        known = {OUR_AET: ("127.0.0.1", self.receiver_port), **self.destinations}
        nodes = "".join(
            f"[{aet}]\nae_title: {aet}\naddress: {host}\nport: {port}\n" for aet, (host, port) in known.items()
        )
        path = self.folder / "qrscp.cfg"
        path.write_text(
            f"[DEFAULT]\nae_title: {self.aet}\nport: {self.port}\nbind_address: 127.0.0.1\nmax_pdu: 16382\n"
            "acse_timeout: 30\ndimse_timeout: 30\nnetwork_timeout: 30\n"
            f"instance_location: {self.folder / 'storage'}\ndatabase_location: {self.folder / 'index.db'}\n{nodes}"
        )
        return [sys.executable, "-W", "ignore", "-m", "pynetdicom", "qrscp", "-c", str(path), "-q"]


@dataclass
class Storescp(Peer):
    """DCMTK's storescp: only stores, whatever the transfer syntax; with `tls` over TLS, which dcmqrscp cannot.

    Attributes:
        flags: more of its options, such as --abort-after or --sleep-during 5.
    """

    aet: str = "STORESCP"
    flags: tuple[str, ...] = ()

    name = "storescp"
    program = "storescp"
    package = "dcmtk"

    def command(self) -> list[str]:
        storage = self.folder / "storage"
        storage.mkdir(exist_ok=True)
        command = [str(self.find_program()), "--fork", "-aet", self.aet, "-od", str(storage), "+xa", "+B", *self.flags]
        if self.tls:
            shown = [str(self.tls.identity.key), str(self.tls.identity.certificate)]
            command += ["+tls", *shown, "+cf", str(self.tls.ca), "-rc" if self.tls.required else "-vc"]
        return [*command, str(self.port)]


#: Those that hold a PACS's part in full: query and retrieve, and take what is stored.
KINDS: dict[str, type[Peer]] = {kind.name: kind for kind in (Orthanc, Dcmqrscp)}


def missing_programs(kinds: Iterable[type[Peer]] = tuple(KINDS.values())) -> str:
    """One line that says what to install, empty where nothing is missing."""
    packages = [kind.package for kind in kinds if not kind.find_program()]
    return (
        f"programs that tests need are missing; install them: apt-get install {' '.join(packages)}" if packages else ""
    )


def contents(source: Peer | Iterable[Path]) -> dict[str, str]:
    """SOP Instance UID and digest of every object that a peer or a number of files hold, to compare them.

    Raises:
        AssertionError: an object is there twice.
    """
    found: dict[str, str] = {}
    for instance in source.objects() if isinstance(source, Peer) else map(dcmread, source):
        uid = str(instance.SOPInstanceUID)
        assert uid not in found
        found[uid] = digest(instance)
    return found


def digest(instance: Dataset) -> str:
    """SHA-256 of what a change between uncompressed transfer syntaxes leaves as it is.

    That is all elements but private ones and those of unknown VR, which Implicit VR tells nothing of, group lengths
    and padding. Compressed pixel data count as they are encoded.
    """
    result = hashlib.sha256()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that break the standard's rules are meant to be there
        _add(instance, result.update)
    return result.hexdigest()


def _add(dataset: Dataset, update: Any) -> None:
    for element in dataset:
        padding = element.keyword == "DataSetTrailingPadding"
        if element.tag.is_private or element.tag.element == 0 or element.VR == "UN" or padding:
            continue
        update(str(element.tag).encode())
        if element.VR == "SQ":
            for item in element.value:
                update(b"item")
                _add(item, update)
        elif element.keyword == "PixelData":
            update(_pixels(dataset, element))
        else:
            update(repr("" if element.is_empty else element.value).encode())


def _pixels(dataset: Dataset, element: DataElement) -> bytes:
    """Pixel data as in Explicit VR Little Endian; compressed ones as they are encoded, without their table."""
    if element.is_undefined_length:
        return b"".join(list(generate_fragments(element.value))[1:])
    data = bytes(element.value)
    if not dataset.original_encoding[1] and element.VR == "OW":
        swapped = bytearray(data)
        swapped[::2], swapped[1::2] = data[1::2], data[::2]
        data = bytes(swapped)
    return data


def _no_delay(event: evt.Event) -> None:
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def end_with_parent() -> list[str]:
    """What goes before a command, to have the kernel end it when the tests are killed; Linux' setpriv asks for it."""
    return ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
