"""Stores that take files, on loopback: S3, SFTP and FTPS.

S3 is moto's server: an independent implementation, in Python, of Amazon's interface, with ETags, checksums, multipart
uploads and conditional writes. MinIO would be the other choice; Debian has no package of it, and a test should not
load a program from a vendor's page. moto checks no signatures, unless `IAM_AUTH` is set.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import itertools
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from pacsifier_ops.embedded.authority import Certificate
from tests.support.peers import end_with_parent, free_port

#: Where Debian and others keep the part of sshd that speaks SFTP.
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")

_BUCKETS = itertools.count(1)


@dataclass
class S3:
    """An S3 store in this process, below `url`.

    Attributes:
        bucket: a bucket that is there from the start. Each store has a name of its own for it: moto keeps the buckets
            of a whole process in one place, and keeps them when a server ends.
    """

    bucket: str = field(default_factory=lambda: f"handover-{next(_BUCKETS)}")
    key: str = "AKIAEXAMPLE000000000"
    secret: str = "c2VjcmV0LW9mLXRoZS1zdG9yZQ"
    region: str = "eu-central-1"
    url: str = ""
    _server: Any = None

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.url = f"http://{host}:{port}"
        self.client().create_bucket(Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": self.region})

    def client(self) -> Any:
        """boto3's client, to look at the store beside the code under test."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name=self.region,
        )

    def contents(self, bucket: str = "") -> dict[str, bytes]:
        """Key → bytes of all objects."""
        client, name = self.client(), bucket or self.bucket
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=name)
        keys = [one["Key"] for page in pages for one in page.get("Contents", ())]
        return {key: client.get_object(Bucket=name, Key=key)["Body"].read() for key in keys}

    def unfinished(self) -> int:
        """Number of multipart uploads that were begun and never ended: they cost money, and nobody sees them."""
        return len(self.client().list_multipart_uploads(Bucket=self.bucket).get("Uploads", ()))

    def clear(self) -> None:
        """Empty the bucket."""
        client = self.client()
        for key in self.contents():
            client.delete_object(Bucket=self.bucket, Key=key)

    def stop(self) -> None:
        if self._server:
            self._server.stop()
            self._server = None


@dataclass
class Sshd:
    """OpenSSH's sshd with SFTP, for the current user and one key; it needs no rights of root.

    Attributes:
        folder: all it writes lies below it; `root` is where a session starts.
        flags: more options of sftp-server, such as -R (read only) or -P rename (refuses a request).
        options: more lines of sshd_config.
    """

    folder: Path
    flags: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    log: IO[bytes] | None = None

    @property
    def user(self) -> str:
        return getpass.getuser()

    @property
    def root(self) -> Path:
        return self.folder / "incoming"

    @property
    def key(self) -> Path:
        """Private key that opens it, without a passphrase."""
        return self.folder / "id_ed25519"

    @property
    def other_key(self) -> Path:
        """Private key that it does not know."""
        return self.folder / "id_other"

    @property
    def known_hosts(self) -> Path:
        """File with its host key, in the form of OpenSSH."""
        return self.folder / "known_hosts"

    @property
    def host_key(self) -> str:
        """Its public host key: type and base64."""
        return " ".join((self.folder / "host_key.pub").read_text().split()[:2])

    @staticmethod
    def find_program() -> str | None:
        """Path of sshd (it has to be started by its full path), where sftp-server is there as well."""
        if not any(map(os.path.exists, SFTP_SERVERS)):
            return None
        return shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")

    def start(self, seconds: float = 20.0) -> None:
        """Start it and wait until it greets.

        Raises:
            RuntimeError: it ended or did not greet within `seconds`; holds the end of its log.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        for name in ("host_key", self.key.name, self.other_key.name):
            if not (self.folder / name).exists():
                command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name)]
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        shutil.copy(self.key.with_suffix(".pub"), self.folder / "authorized_keys")
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {self.host_key}\n")
        if os.getuid() == 0:
            # Where it runs as root it wants this folder, which the service of the package makes.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        server = next(filter(os.path.exists, SFTP_SERVERS))
        configuration = self.folder / "sshd_config"
        lines = (
            *self.options,  # the first word for a key counts
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder / 'host_key'}",
            f"PidFile {self.folder / 'pid'}",
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}",
            f"AllowUsers {self.user}",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            # A temporary folder lies below one that others may write to.
            "StrictModes no",
            "MaxStartups 100",
            f"Subsystem sftp {server} -d {self.root} {' '.join(self.flags)}",
        )
        configuration.write_text("\n".join(lines) + "\n")
        self.log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            [*end_with_parent(), str(self.find_program()), "-D", "-e", "-f", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            start_new_session=True,
        )
        deadline = time.monotonic() + seconds
        while not self._greets():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"sshd does not greet:\n{(self.folder / 'log').read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)

    def _greets(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as link:
            return link.recv(4) == b"SSH-"
        return False

    def cut(self) -> None:
        """End all sessions, as a network does; it goes on listening."""
        pids = subprocess.run(["pgrep", "-P", str(self._pid())], capture_output=True, text=True, check=False).stdout
        for pid in pids.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)

    def _pid(self) -> int:
        return int((self.folder / "pid").read_text())

    def contents(self) -> dict[str, bytes]:
        """Path below `root` → bytes of all files, temporary ones too."""
        return _contents(self.root)

    def clear(self) -> None:
        shutil.rmtree(self.root)
        self.root.mkdir()

    def stop(self) -> None:
        """End it; what it took stays."""
        if self.process:
            with contextlib.suppress(OSError, ValueError):
                self.cut()
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None
        if self.log:
            self.log.close()
            self.log = None


@dataclass
class Ftps:
    """An FTP server with TLS (explicit, RFC 4217), for one user; it takes nothing without TLS.

    Attributes:
        folder: all it writes lies below it; `root` is the user's folder.
        identity: what it shows; a client has to trust its authority.
        permissions: what the user may do, in pyftpdlib's letters (e CWD, l list, r read, a append, d delete, f rename,
            m make folder, w write, M chmod, T mtime).
        cut_after: bytes after which one upload loses its connection, once; None is never.
    """

    folder: Path
    identity: Certificate
    user: str = "research"
    password: str = "p4ss w0rd/with:signs"
    permissions: str = "elradfmwMT"
    cut_after: int | None = None
    port: int = 0
    stored: list[str] = field(default_factory=list)
    _server: Any = None
    _thread: threading.Thread | None = None

    @property
    def root(self) -> Path:
        return self.folder / "incoming"

    def start(self) -> None:
        from pyftpdlib.authorizers import DummyAuthorizer
        from pyftpdlib.handlers import DTPHandler, TLS_DTPHandler, TLS_FTPHandler
        from pyftpdlib.servers import ThreadedFTPServer

        logging.getLogger("pyftpdlib").addHandler(logging.NullHandler())  # else it makes itself heard on stderr
        logging.getLogger("pyftpdlib").setLevel(logging.CRITICAL)
        self.root.mkdir(parents=True, exist_ok=True)
        authorizer = DummyAuthorizer()
        authorizer.add_user(self.user, self.password, str(self.root), perm=self.permissions)
        peer = self

        class Data(TLS_DTPHandler):
            def recv(self, buffer_size: int) -> bytes:
                data = super().recv(buffer_size)
                if peer.cut_after is not None and self.tot_bytes_received + len(data) > peer.cut_after:
                    peer.cut_after = None
                    self.cmd_channel.close()
                    return b""
                return bytes(data)

        class Handler(TLS_FTPHandler):
            certfile, keyfile = str(self.identity.certificate), str(self.identity.key)
            tls_control_required = tls_data_required = True
            dtp_handler: type[DTPHandler] = Data
            auth_failed_timeout = 0

            def on_file_received(self, file: str) -> None:
                peer.stored.append(file)

        Handler.authorizer = authorizer
        self._server = ThreadedFTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"handle_exit": False}, daemon=True)
        self._thread.start()

    def contents(self) -> dict[str, bytes]:
        """Path below `root` → bytes of all files, temporary ones too."""
        return _contents(self.root)

    def clear(self) -> None:
        shutil.rmtree(self.root)
        self.root.mkdir()
        self.stored.clear()

    def stop(self) -> None:
        if self._server:
            self._server.close_all()
            self._server = None
        if self._thread:
            self._thread.join(20)
            self._thread = None


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def sha256(contents: dict[str, bytes]) -> dict[str, str]:
    """Name → SHA-256."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


@contextlib.contextmanager
def running(peer: Any) -> Iterator[Any]:
    """Start a peer; stop it at the end."""
    peer.start()
    try:
        yield peer
    finally:
        peer.stop()


def missing_sshd() -> str:
    """One line that says what to install, empty where nothing is missing."""
    return (
        ""
        if Sshd.find_program() and shutil.which("ssh-keygen")
        else ("sshd is missing: apt-get install openssh-server")
    )


def need(missing: str) -> None:
    """Skip a test where something is missing; let it fail where PACSIFIER_REQUIRE_PEERS=1 wants all of them."""
    if missing and os.environ.get("PACSIFIER_REQUIRE_PEERS") == "1":
        pytest.fail(missing)
    elif missing:
        pytest.skip(missing)
