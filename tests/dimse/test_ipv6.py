"""Over IPv6: the archive, what it sends to us, and a receiver that listens on both."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacsifier_ops.archive.attempts import retrying
from pacsifier_ops.archive.check import check
from pacsifier_ops.base.config import PacsNode, node_from_connection
from pacsifier_ops.base.errors import ConfigError, PacsError, PacsUnreachable
from pacsifier_ops.cli.pacsifier import main
from pacsifier_ops.dimse.receiver import StorageReceiver
from pacsifier_ops.dimse.session import Session
from pacsifier_ops.embedded.authority import Authority
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from tests.support.command import arguments, write_table
from tests.support.embedded import series
from tests.support.peers import free_port
from tests.support.places import REPO
from tests.support.processes import started


def _without() -> str:
    """Why nothing can be tried over IPv6 here; empty where it can."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return f"this machine has no IPv6: {error.strerror}"
    return ""


pytestmark = [pytest.mark.archive, pytest.mark.skipif(bool(_without()), reason=_without() or "it has")]

IMAGES = [*series("P1", n_images=2), *series("P2")]


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs(host="::1") as running:
        running.add(write(IMAGES, tmp_path / "images"))
        running.destinations["PACSIFIER"] = ("::1", free_port())
        yield running


def config_of(pacs: EmbeddedPacs, folder: Path, host: str) -> Path:
    path = folder / "config.json"
    names = {"server_address": host, "port": pacs.port, "server_AET": pacs.aet, "AET": "PACSIFIER", "move_AET": ""}
    port = pacs.destinations["PACSIFIER"][1]
    path.write_text(json.dumps({**names, "move_port": port, "batch_size": 0, "batch_wait_time": 0}))
    return path


def echo(host: str, port: int, aet: str = "RECEIVER") -> None:
    with Session(PacsNode("pacs", host, port, aet, retry_wait=0), contextlib.nullcontext) as session:
        session.echo()


@pytest.mark.parametrize("method", ["get", "move"])
@pytest.mark.parametrize("host", ["::1", "[::1]", "[0:0::1]"])
def test_an_archive_is_asked_and_sends(pacs: EmbeddedPacs, tmp_path: Path, host: str, method: str) -> None:
    config, table = config_of(pacs, tmp_path, host), write_table(tmp_path / "table.csv", [{"PatientID": "P?"}])
    assert main(arguments(config, table, tmp_path / "out", "--save", "--method", method)) == 0
    assert sum(1 for _ in (tmp_path / "out").glob("sub-*/**/*.dcm")) == 3
    assert len(pacs.retrieves) == 2


def test_the_probe_and_the_test_of_a_connection(
    pacs: EmbeddedPacs, tmp_path: Path, state_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-c", str(config_of(pacs, tmp_path, "[::1]")), "--probe"]) == 0
    (page,) = state_root.glob("runs/*/probe.html")
    assert f"[::1]:{pacs.port}" in page.read_text()
    node = node_from_connection("pacs", "[::1]", pacs.port, {"called_aet": pacs.aet})
    assert "offers C-FIND, C-GET, C-MOVE" in check(node)
    pacs.stop()
    with pytest.raises(PacsUnreachable, match=f"cannot connect to ::1 port {pacs.port}: nothing listens there"):
        check(node)


def test_a_name_of_both_is_tried_at_both(pacs: EmbeddedPacs, monkeypatch: pytest.MonkeyPatch) -> None:
    known = socket.getaddrinfo
    both = [*known("127.0.0.1", 0, type=socket.SOCK_STREAM), *known("::1", 0, type=socket.SOCK_STREAM)]

    def resolve(host: str | None, *args: object, **more: object) -> object:
        return both if host == "pacs.example" else known(host, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    echo("pacs.example", pacs.port, pacs.aet)


def test_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    context = authority.issue("server", "::1").context(ssl.Purpose.CLIENT_AUTH)
    with StorageReceiver("RECEIVER", 0, tmp_path / "spool", tls=context) as receiver:
        node = PacsNode("pacs", "::1", receiver.port, "RECEIVER", tls=True, tls_ca=str(authority.path))
        with Session(node, contextlib.nullcontext) as session:
            session.echo()


def test_one_host_in_two_spellings_is_one_archive(tmp_path: Path) -> None:
    keys = {PacsNode("pacs", host, 104, "PACS").key for host in ("::1", "[::1]", "0:0:0:0:0:0:0:1")}
    assert len(keys) == 1
    assert PacsNode("pacs", "FE80::1%eth0", 104, "PACS").host == "fe80::1%eth0"


@pytest.mark.parametrize("host", ["pacs:104", "[pacs]", "[::1", "::1:x", "[::1]:104"])
def test_a_colon_in_what_is_no_address_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="and is no IPv6 address"):
        PacsNode("pacs", host, 104, "PACS")


# The receiver


def test_it_listens_on_both_and_tells_peers_by_their_own_address(tmp_path: Path) -> None:
    with StorageReceiver("RECEIVER", 0, tmp_path / "spool") as receiver:
        for host in ("127.0.0.1", "::1"):
            echo(host, receiver.port)
    for allowed, other in (("127.0.0.1", "::1"), ("::1", "127.0.0.1"), ("::/127", "127.0.0.1")):
        with StorageReceiver("RECEIVER", 0, tmp_path / "spool", allowed_addresses=[allowed]) as receiver:
            echo(allowed.replace("/127", "1"), receiver.port)
            with pytest.raises(PacsError):
                echo(other, receiver.port)


def test_without_ipv6_it_listens_on_ipv4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with StorageReceiver("RECEIVER", 0, tmp_path / "spool") as receiver:
        echo("127.0.0.1", receiver.port)
        with pytest.raises(PacsError):
            echo("::1", receiver.port)


@pytest.mark.parametrize(
    ("flags", "where", "hosts"),
    [
        ([], "port {} of all addresses", ("127.0.0.1", "::1")),
        (["--host", "[::1]"], "[::1]:{}", ("::1",)),
        (["--host", "::"], "[::]:{}", ("127.0.0.1", "::1")),
    ],
)
def test_the_command(tmp_path: Path, flags: list[str], where: str, hosts: tuple[str, ...]) -> None:
    port = free_port()
    command = [sys.executable, "-m", "pacsifier_ops.cli.receiver", "--aet", "RECEIVER", "--port", str(port), *flags]
    command += ["--spool", str(tmp_path / "spool"), "--min-free-gb", "0"]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    with started(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout and where.format(port) in process.stdout.readline()
        for host in hosts:
            echo(host, port)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["get", "move"])
def test_an_archive_that_is_not_ours(tmp_path: Path, method: str) -> None:
    """pynetdicom's own; DCMTK 3.6.7, and so Orthanc, takes no address of IPv6."""
    port, ours = free_port(), free_port()
    settings = {"ae_title": "QRSCP", "port": port, "bind_address": "::1", "max_pdu": 16382, "log_identifier": False}
    settings |= {f"{name}_timeout": 30 for name in ("acse", "dimse", "network")}
    settings |= {"instance_location": tmp_path / "held", "database_location": tmp_path / "held.sqlite"}
    lines = ["[DEFAULT]", *(f"{key}: {value}" for key, value in settings.items())]
    (tmp_path / "qrscp.ini").write_text("\n".join([*lines, "[PACSIFIER]", "address: ::1", f"port: {ours}", ""]))
    program = [sys.executable, "-m", "pynetdicom"]
    with started([*program, "qrscp", "-c", tmp_path / "qrscp.ini"], stderr=subprocess.DEVNULL):
        node = PacsNode("pacs", "::1", port, "QRSCP")
        retrying(lambda: echo(node.host, port, "QRSCP"), Session(node, contextlib.nullcontext), lambda: False)
        images = map(str, write(IMAGES, tmp_path / "images"))
        subprocess.run([*program, "storescu", "-aec", "QRSCP", "::1", str(port), *images], check=True, timeout=60)
        names = {"server_address": "::1", "port": port, "server_AET": "QRSCP", "AET": "PACSIFIER", "move_AET": ""}
        config, table = tmp_path / "config.json", write_table(tmp_path / "table.csv", [{"PatientID": "P?"}])
        config.write_text(json.dumps({**names, "move_port": ours, "batch_size": 0, "batch_wait_time": 0}))
        assert main(arguments(config, table, tmp_path / "out", "--save", "--method", method)) == 0
    assert sum(1 for _ in (tmp_path / "out").glob("sub-*/**/*.dcm")) == 3
