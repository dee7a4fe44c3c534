"""DICOM over TLS: as requestor against DCMTK's and Orthanc's servers, and our receiver against DCMTK's clients."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.config import PacsNode, Tls, node_from_connection
from pacsifier_ops.base.errors import AssociationBusy, ConfigError, PacsError, PacsTimeout, ReceiverError, TlsFailed
from pacsifier_ops.dicom.files import inspect
from pacsifier_ops.dimse import tls
from pacsifier_ops.dimse.receiver import StorageReceiver, spooled
from pacsifier_ops.dimse.session import Session
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.extract import steps
from pacsifier_ops.extract.quarantine import Quarantine
from pacsifier_ops.extract.receiving import Receivers, announce
from pacsifier_ops.extract.run import Request
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import Tree
from tests.support import certificates as made
from tests.support import peers
from tests.support.certificates import PASSPHRASE, Certificates
from tests.support.command import write_table
from tests.support.embedded import series
from tests.support.peers import OUR_AET, Orthanc, Peer, Storescp, contents
from tests.support.processes import until


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return made.make(tmp_path_factory.mktemp("certificates"))


def secure(certificates: Certificates, **fields: Any) -> dict[str, Any]:
    """Fields of a node that shows the client's certificate."""
    shown = {
        "tls": True,
        "tls_ca": str(certificates.ca),
        "tls_certificate": str(certificates.client.certificate),
        "tls_key": str(certificates.client.key),
    }
    return {**shown, **{key: str(value) if isinstance(value, Path) else value for key, value in fields.items()}}


def echo(node: PacsNode) -> None:
    with Session(node, nullcontext) as session:
        session.echo()


@contextmanager
def running(peer: Peer) -> Iterator[Peer]:
    peer.start()
    try:
        yield peer
    finally:
        peer.stop()


@pytest.fixture(scope="module", params=[Orthanc, Storescp])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[Peer]:
    """A peer that takes TLS only, and only from who shows a certificate."""
    shown = peers.Tls(certificates.server, certificates.ca)
    with running(request.param(tmp_path_factory.mktemp("peer"), tls=shown)) as peer:
        yield peer


def node(peer: Peer, **fields: Any) -> PacsNode:
    return PacsNode("pacs", "127.0.0.1", peer.port, peer.aet, retry_wait=0.01, **fields)


@pytest.mark.peers
def test_echo_and_store_over_tls(server: Peer, certificates: Certificates, tmp_path: Path) -> None:
    files = write(series("TLS", n_images=3, rows=300, columns=300), tmp_path / "files")
    with Session(node(server, **secure(certificates)), nullcontext) as session:
        session.echo()
        objects = [item for path in files if (item := inspect(path))]
        session.ready_to_send({item.kind for item in objects})
        assert [session.send(item).status for item in objects] == [0, 0, 0]
    held = contents(server)
    assert {uid: held[uid] for uid in contents(files)} == contents(files)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tls_ca": "other_ca"}, "its certificate is not accepted .*check tls_ca"),
        ({"tls_certificate": "", "tls_key": ""}, "it wants a certificate of ours|it does not accept our certificate"),
        (
            {"tls_certificate": "stranger.certificate", "tls_key": "stranger.key"},
            "it does not accept our certificate|it wants a certificate of ours",
        ),
    ],
    ids=["unknown authority", "no certificate of ours", "a certificate that is not accepted"],
)
def test_what_is_wrong_is_told_in_words(
    server: Peer, certificates: Certificates, wrong: dict[str, str], words: str
) -> None:
    def of(name: str) -> Any:
        value: Any = certificates
        for part in filter(None, name.split(".")):
            value = getattr(value, part)
        return value if name else ""

    with pytest.raises(TlsFailed, match=words):
        echo(node(server, **secure(certificates, **{key: of(name) for key, name in wrong.items()})))


@pytest.mark.peers
def test_a_certificate_for_another_host(tmp_path: Path, certificates: Certificates) -> None:
    shown = peers.Tls(certificates.elsewhere, certificates.ca)
    with running(Storescp(tmp_path, tls=shown)) as peer:
        with pytest.raises(TlsFailed, match=r"its certificate is not accepted .*switch tls_check_host off"):
            echo(node(peer, **secure(certificates)))
        echo(node(peer, **secure(certificates, tls_check_host=False)))


@pytest.mark.peers
def test_a_certificate_that_has_expired(tmp_path: Path, certificates: Certificates) -> None:
    shown = peers.Tls(certificates.expired, certificates.ca)
    with running(Storescp(tmp_path, tls=shown)) as peer, pytest.raises(TlsFailed, match="certificate has expired"):
        echo(node(peer, **secure(certificates)))


@pytest.mark.peers
def test_a_server_without_tls(tmp_path: Path, certificates: Certificates) -> None:
    with (
        running(Storescp(tmp_path)) as peer,
        pytest.raises((TlsFailed, PacsTimeout), match="TLS"),
    ):
        echo(node(peer, acse_timeout=2.0, **secure(certificates)))


@pytest.mark.peers
def test_plain_to_a_server_that_wants_tls(server: Peer) -> None:
    with pytest.raises(PacsError, match="is a DICOM node listening there, and does it want TLS"):
        echo(node(server))


def test_a_port_that_says_nothing(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(TlsFailed, match="does it speak TLS at this port"):
            echo(PacsNode("pacs", "127.0.0.1", port, "PACS", acse_timeout=0.3, **secure(certificates)))


def test_passphrases(certificates: Certificates) -> None:
    with EmbeddedPacs(tls=certificates.server.context(tls.ssl.Purpose.CLIENT_AUTH, certificates.ca)) as pacs:
        extra = {"called_aet": pacs.aet, **secure(certificates, tls_key=certificates.client.locked_key)}
        echo(node_from_connection("pacs", pacs.host, pacs.port, extra, PASSPHRASE))
        for password in ("", "wrong"):
            with pytest.raises(ConfigError, match="the passphrase of the key is wrong"):
                echo(node_from_connection("pacs", pacs.host, pacs.port, extra, password))
    assert PASSPHRASE not in repr(node_from_connection("pacs", pacs.host, pacs.port, extra, PASSPHRASE))


@pytest.mark.parametrize("field", ["tls_ca", "tls_certificate", "tls_key"])
def test_files_that_are_not_there_or_no_certificates(certificates: Certificates, tmp_path: Path, field: str) -> None:
    fields = secure(certificates)
    with pytest.raises(ConfigError, match=f"pacs: {field}: there is no such file"):
        echo(PacsNode("pacs", "127.0.0.1", 1, "PACS", **{**fields, field: str(tmp_path / "nowhere")}))
    (tmp_path / "rubbish").write_text("rubbish")
    with pytest.raises(ConfigError, match=f"pacs: .*{field}"):
        echo(PacsNode("pacs", "127.0.0.1", 1, "PACS", **{**fields, field: str(tmp_path / "rubbish")}))


# The receiver


@contextmanager
def receiving(tmp_path: Path, certificates: Certificates, ca: bool = True) -> Iterator[StorageReceiver]:
    shown = certificates.server
    files = Tls(str(certificates.ca) if ca else "", str(shown.certificate), str(shown.key))
    with StorageReceiver(OUR_AET, 0, tmp_path / "spool", tls=tls.receiver_context("receiver", files)) as receiver:
        yield receiver


def storescu(receiver: StorageReceiver, path: Path, *options: str) -> int:
    command = ["storescu", *options, "-aec", receiver.aet, "127.0.0.1", str(receiver.port), str(path)]
    return subprocess.run(command, capture_output=True).returncode


@pytest.mark.peers
def test_dcmtk_stores_into_our_receiver(certificates: Certificates, tmp_path: Path) -> None:
    (path,) = write(series("TLS", rows=300, columns=300), tmp_path / "files")
    shown = ["+tls", str(certificates.client.key), str(certificates.client.certificate), "+cf", str(certificates.ca)]
    with receiving(tmp_path, certificates) as receiver:
        assert storescu(receiver, path, *shown) == 0
        item = inspect(path)
        assert item is not None
        (got,) = spooled(receiver.spool, item.series)
        assert contents([got.path]) == contents([path])
        # Neither without a certificate, nor with another authority's, nor without TLS.
        stranger = certificates.stranger
        assert storescu(receiver, path, "+tla", "+cf", str(certificates.ca)) != 0
        assert storescu(receiver, path, "+tls", str(stranger.key), str(stranger.certificate), "-ic") != 0
        assert storescu(receiver, path) != 0
        assert storescu(receiver, path, *shown) == 0  # and it still stands


@pytest.mark.peers
def test_without_an_authority_any_sender_is_taken(certificates: Certificates, tmp_path: Path) -> None:
    (path,) = write(series("TLS"), tmp_path / "files")
    with receiving(tmp_path, certificates, ca=False) as receiver:
        assert storescu(receiver, path, "+tla", "+cf", str(certificates.ca)) == 0


def test_who_connects_and_says_nothing_keeps_nobody_else_out(certificates: Certificates, tmp_path: Path) -> None:
    with receiving(tmp_path, certificates) as receiver, socket.create_connection(("127.0.0.1", receiver.port)):
        echo(PacsNode("ours", "127.0.0.1", receiver.port, OUR_AET, **secure(certificates)))


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
def test_connections_that_say_nothing_are_forgotten(certificates: Certificates, tmp_path: Path, secured: bool) -> None:
    """Health checks do so: they must neither use up the associations, nor memory."""
    shown = certificates.server
    files = Tls(certificate=str(shown.certificate), key=str(shown.key))
    context = tls.receiver_context("receiver", files) if secured else None
    fields: dict[str, Any] = secure(certificates) if secured else {}
    with StorageReceiver(OUR_AET, 0, tmp_path / "spool", tls=context) as receiver:
        for _ in range(70):
            socket.create_connection(("127.0.0.1", receiver.port)).close()
        ours = PacsNode("ours", "127.0.0.1", receiver.port, OUR_AET, **fields)

        def answers() -> bool:
            with suppress(AssociationBusy):
                echo(ours)
                return True
            return False

        assert until(answers, pause=0.05), "the receiver still waits for those that have gone"


def test_a_receiver_that_stands_without_tls_is_not_taken_for_one_with(
    certificates: Certificates, tmp_path: Path
) -> None:
    shown = str(certificates.server.certificate)
    pacs = PacsNode("pacs", "127.0.0.1", 104, "PACS", receiver_port=11112, receiver_tls=True, tls_certificate=shown)
    receivers = Receivers(pacs, shared(), Tree.open(tmp_path / "out"), Quarantine(tmp_path / "quarantine"))
    with (
        announce(shared(), "PACSIFIER", 11112, tmp_path / "plain"),
        pytest.raises(ReceiverError, match=r"does not use TLS, and the connection says that it does \(receiver_tls\)"),
    ):
        receivers.spool()
    with announce(shared(), "PACSIFIER", 11112, tmp_path / "over TLS", tls=True):
        assert receivers.spool() == tmp_path / "over TLS"


# All of it


@pytest.mark.peers
@pytest.mark.parametrize("method", ["get", "move"])
def test_an_extraction_over_tls(certificates: Certificates, tmp_path: Path, method: str) -> None:
    """Orthanc talks TLS to us, and to our receiver."""
    files = write(series("TLS", n_images=4, rows=200, columns=200), tmp_path / "files")
    shown = peers.Tls(certificates.server, certificates.ca, destinations=frozenset({OUR_AET}))
    peer = Orthanc(tmp_path / "orthanc", tls=shown)
    peer.load(files)
    try:
        fields = secure(certificates, tls_certificate=certificates.server.certificate, tls_key=certificates.server.key)
        pacs = replace(node(peer, **fields), method=method, receiver_port=peer.receiver_port, receiver_tls=True)
        run = Run.fresh()
        table = write_table(run.folder / "table.csv", [{"PatientID": "TLS"}])
        for batch in steps.prepare(run, Request(table, tmp_path / "out"), pacs):
            steps.find(run, pacs, batch)
        for unit in steps.plan(run, pacs).units:
            steps.retrieve(run, pacs, unit)
        account = steps.report(run)
    finally:
        peer.stop()
    assert account.verdict == COMPLETE and account.series[0].method == method
    assert contents((tmp_path / "out").glob("sub-*/**/*.dcm")) == contents(files)
