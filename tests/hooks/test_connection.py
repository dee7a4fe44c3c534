"""Connections of type dicom: their form, their test, and the command that makes one from a config.json."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRootFind
from pynetdicom.sop_class import Verification

from pacsifier_ops.archive.check import check
from pacsifier_ops.base.config import (
    EXTRA_FIELDS,
    METHODS,
    PacsNode,
    WebNode,
    node_from_connection,
    read_archive,
    read_config,
    web_from_connection,
    with_overrides,
)
from pacsifier_ops.base.errors import (
    AssociationAborted,
    AssociationBusy,
    AssociationRejected,
    ConfigError,
    PacsError,
    PacsTimeout,
    PacsUnreachable,
    Unsupported,
)
from pacsifier_ops.cli import connection
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.plugins.provider import get_provider_info
from pacsifier_ops.state.leases import shared
from tests.support import airflow_home
from tests.support.airflow_home import Airflow
from tests.support.certificates import PASSPHRASE, make
from tests.support.peers import OUR_AET, Dcmqrscp, Orthanc, Peer, Storescp, free_port
from tests.support.places import REPO

DEFAULTS = {field.name: field.default for field in fields(PacsNode)}
FORM: dict[str, Any] = get_provider_info()["connection-types"][0]["conn-fields"]


def node_at(port: int, called: str = "PACS", **more: Any) -> PacsNode:
    return PacsNode(called, "127.0.0.1", port, called, **more)


# The form


def test_the_form_fits_airflows_schema() -> None:
    (folder,) = find_spec("airflow").submodule_search_locations  # type: ignore[union-attr,misc]
    schema = json.loads((Path(folder) / "provider.yaml.schema.json").read_text())
    jsonschema.validate(get_provider_info()["connection-types"], schema["properties"]["connection-types"])


def test_the_form_has_every_field_with_its_default() -> None:
    assert sorted(FORM) == sorted(EXTRA_FIELDS)
    for name, described in FORM.items():
        default, schema = DEFAULTS[name], described["schema"]
        if name == "called_aet":
            assert schema["type"] == "string" and "Required" in described["description"]
        elif default == "":
            assert schema["type"] == ["string", "null"] and "default" not in schema
        else:
            assert "null" in schema["type"] and schema["default"] == default
            shown = {True: "on", False: "off"}[default] if isinstance(default, bool) else f"{default}"
            assert described["description"].endswith(f" Default: {shown.removesuffix('.0')}.")
    assert FORM["method"]["schema"]["enum"] == [*METHODS] == [*FORM["method"]["schema"]["values_display"]]


def test_the_form_left_as_it_is_means_the_defaults() -> None:
    stored = {name: described["schema"].get("default") for name, described in FORM.items()} | {"called_aet": "PACS"}
    assert node_from_connection("PACS", "pacs", None, stored) == PacsNode("PACS", "pacs", 104, "PACS")


def test_the_form_refuses_what_a_node_would_refuse() -> None:
    node = with_overrides(node_at(104), archive_images=1)  # the share needs the number of images
    for name, described in FORM.items():
        low, high = (described["schema"].get(key) for key in ("minimum", "maximum"))
        if low is not None:
            with_overrides(node, **{name: low})
            with pytest.raises(ConfigError, match=name):
                with_overrides(node, **{name: 0 if 0 < low < 1 else low - 1})
        if high is not None:
            with_overrides(node, **{name: high})
            with pytest.raises(ConfigError, match=name):
                with_overrides(node, **{name: high + 1})
        if length := described["schema"].get("maxLength"):
            with_overrides(node, **{name: "A" * length})
            with pytest.raises(ConfigError, match=name):
                with_overrides(node, **{name: "A" * (length + 1)})


# The check


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Callable[[type[Peer]], Peer]]:
    started: list[Peer] = []

    def start(kind: type[Peer]) -> Peer:
        started.append(kind(tmp_path / kind.name))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.mark.peers
@pytest.mark.parametrize("kind", [Orthanc, Dcmqrscp])
def test_a_real_pacs(kind: type[Peer], peer: Callable[[type[Peer]], Peer]) -> None:
    there = peer(kind)
    said = check(node_at(there.port, there.aet))
    assert said.startswith(f"{there.aet} at 127.0.0.1 port {there.port} (OFFIS_DCMTK_")
    assert said.endswith(") answers C-ECHO and offers C-FIND, C-GET, C-MOVE.")


@pytest.mark.peers
def test_a_real_pacs_that_does_not_know_us(peer: Callable[[type[Peer]], Peer]) -> None:
    there = peer(Dcmqrscp)
    # It gives the same reason for both titles, so the message names both. It often closes before we read.
    for called, calling in [("WRONG", OUR_AET), (there.aet, "STRANGER")] * 10:
        with pytest.raises(AssociationRejected, match=f"called AE title {called}.*calling AE title {calling}"):
            check(node_at(there.port, called, calling_aet=calling))
    # It answers a C-ECHO of any node under any title, and closes the connection at a query of an unknown node.
    there = peer(Orthanc)
    assert "offers C-FIND" in check(node_at(there.port, "WRONG"))
    with pytest.raises(AssociationAborted, match="calling AE title STRANGER is probably not declared on the PACS"):
        check(node_at(there.port, there.aet, calling_aet="STRANGER"))


@pytest.fixture
def pacs() -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs() as running:
        yield running


def test_rejections_come_with_the_reason_of_the_standard(pacs: EmbeddedPacs) -> None:
    node = node_at(pacs.port, pacs.aet)
    check(node)
    pacs.faults.reject = "transient"
    with pytest.raises(AssociationBusy, match="rejected the association: its limit of associations is reached"):
        check(node)
    pacs.faults.reject = "called_aet"
    with pytest.raises(AssociationRejected, match=f"does not answer to the called AE title {pacs.aet}: check called_"):
        check(node)
    pacs.faults.reject = None
    pacs.faults.allowed_calling_aets = {"SOMEBODY"}
    with pytest.raises(AssociationRejected, match="does not know our calling AE title: have PACSIFIER declared on"):
        check(node)


def test_the_method_must_be_one_that_is_offered(pacs: EmbeddedPacs) -> None:
    pacs.faults.get_supported = False
    node = node_at(pacs.port, pacs.aet)
    assert check(node).endswith("offers C-FIND, C-MOVE.")
    with pytest.raises(Unsupported, match="does not offer C-GET, which the retrieve method get needs"):
        check(replace(node, method="get"))


@pytest.mark.peers
def test_a_mere_destination_passes(peer: Callable[[type[Peer]], Peer]) -> None:
    there = peer(Storescp)
    said = check(node_at(there.port, there.aet))
    assert said.endswith(
        "answers C-ECHO. It offers no C-FIND: it may be a destination, but nothing can be found there."
    )


def test_a_pacs_that_refuses_to_be_queried() -> None:
    ae = AE("PACS")
    ae.add_supported_context(Verification)
    ae.add_supported_context(StudyRootFind)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, lambda e: [(0xA900, None)])])
    try:
        with pytest.raises(PacsError, match=r"refuses to be queried \(C-FIND status 0xA900\)"):
            check(node_at(server.server_address[1]))
    finally:
        server.shutdown()


def test_runs_may_hold_all_associations(pacs: EmbeddedPacs) -> None:
    node = node_at(pacs.port, pacs.aet, max_associations=1)
    with (
        shared().acquire(f"pacs:{node.key}"),
        pytest.raises(AssociationBusy, match="runs hold all 1 associations that we may have there"),
    ):
        check(node)
    assert pacs.peak_associations == 0
    check(node)


def test_a_port_without_a_listener() -> None:
    node = node_at(free_port())
    with pytest.raises(PacsUnreachable, match=f"cannot connect to 127.0.0.1 port {node.port}: nothing listens there"):
        check(node)
    with pytest.raises(PacsUnreachable, match=r"cannot connect to nowhere\.invalid port \d+: the name is not known"):
        check(replace(node, host="nowhere.invalid"))


@contextmanager
def listener(answer: bytes) -> Iterator[int]:
    """Listen as a program that is no DICOM node: it sends an answer and closes; without an answer, it waits."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                held.append(client)
                if answer:
                    client.recv(4096)
                    client.sendall(answer)
                    client.close()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        for client in held:
            client.close()
        server.shutdown(socket.SHUT_RDWR)


def test_a_listener_that_is_no_dicom_node() -> None:
    with (
        listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port,
        pytest.raises(AssociationAborted, match="no association came about; is a DICOM node listening there"),
    ):
        check(node_at(port))
    with listener(b"") as port, pytest.raises(PacsTimeout, match=r"no answer to the association request within 0\.3 s"):
        check(node_at(port, acse_timeout=0.3))


# Within Airflow


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    monkeypatch.delenv("AIRFLOW_CONN_PACS_DEFAULT", raising=False)
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


@pytest.mark.airflow
def test_the_hook_returns_the_result_of_the_test_as_a_sentence(
    airflow: Airflow, pacs: EmbeddedPacs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pacsifier_ops.hooks.dicom import DicomHook

    # Airflow tests a connection under an id that it makes up, so this id must not be in the message.
    hook = DicomHook("qXzWv")

    def said(**extra: Any) -> tuple[bool, str]:
        described = {"conn_type": "dicom", "host": pacs.host, "port": pacs.port, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_QXZWV", json.dumps(described))
        return hook.test_connection()

    well, words = said(called_aet=pacs.aet)
    assert well and words.startswith(f"{pacs.aet} at 127.0.0.1 port {pacs.port}")
    assert said() == (False, "called_aet, the AE title of the PACS, is missing")
    well, words = said(called_aet=pacs.aet, port=4)
    assert not well and words.startswith("unknown field in extra: port")
    well, words = said(called_aet=pacs.aet, acse_timeout=0)
    assert not well and words == "acse_timeout is not a number of seconds above 0"
    well, words = said(called_aet="WRONG")
    assert not well and words.startswith("WRONG: rejected the association: it does not answer to the called AE title")
    (tmp_path / "file").touch()
    monkeypatch.setenv("PACSIFIER_STATE_ROOT", str(tmp_path / "file" / "state"))
    well, words = said(called_aet=pacs.aet)
    assert not well and words.startswith(f"PACSIFIER_STATE_ROOT: {tmp_path / 'file' / 'state'} cannot be made: ")

    def broken(node: object) -> str:
        raise RuntimeError(node)

    monkeypatch.setattr("pacsifier_ops.archive.check.check", broken)
    assert said(called_aet=pacs.aet) == (False, "unexpected RuntimeError; the log of the API server tells more")


@pytest.mark.airflow
def test_the_hook_over_tls(airflow: Airflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pacsifier_ops.hooks.dicom import DicomHook

    certificates = make(tmp_path / "certificates")
    client = certificates.client
    with EmbeddedPacs(tls=certificates.server.context(ssl.Purpose.CLIENT_AUTH, certificates.ca)) as pacs:

        def said(password: str | None, **extra: Any) -> tuple[bool, str]:
            described = {"conn_type": "dicom", "host": pacs.host, "port": pacs.port, "password": password}
            described["extra"] = {"called_aet": pacs.aet, **{name: str(value) for name, value in extra.items()}}
            monkeypatch.setenv("AIRFLOW_CONN_PACS_TLS", json.dumps(described))
            return DicomHook("pacs_tls").test_connection()

        shown = {"tls_certificate": client.certificate, "tls_key": client.locked_key}
        secure = {"tls": True, "tls_ca": certificates.ca, **shown}
        assert said(PASSPHRASE, **secure)[0]
        well, words = said(None, **secure)
        assert not well and "the passphrase of the key is wrong" in words
        well, words = said(PASSPHRASE, **{**secure, "tls_ca": certificates.other_ca})
        assert not well and "its certificate is not accepted" in words
        assert not said(None)[0]  # plain text


# The command


@pytest.fixture
def database(airflow: Airflow) -> Iterator[Any]:
    """Yield a maker of sessions of a database without connections and our pools; both are removed afterwards."""
    from airflow.models.connection import Connection
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    def clear() -> None:
        with create_session() as session:
            session.execute(delete(Pool).where(Pool.pool != Pool.DEFAULT_POOL_NAME))
            session.execute(delete(Connection))

    clear()
    yield create_session
    clear()


def stored(database: Any) -> dict[str, Any]:
    """Return description and node of the connections in the database."""
    from airflow.models.connection import Connection
    from sqlalchemy import select

    with database() as session:
        found = session.scalars(select(Connection)).all()
        return {
            c.conn_id: (c.conn_type, c.description, node_from_connection(c.conn_id, c.host, c.port, c.extra_dejson))
            for c in found
        }


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write a config.json without any default value."""
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps(
            {
                "server_address": "pacs.hospital.example",
                "port": 11112,
                "server_AET": "PACS",
                "AET": "OURS",
                "move_AET": "ARCHIVE2",
                "move_port": 11113,
                "batch_size": 50,
                "batch_wait_time": 2.5,
            }
        )
    )
    return path


@pytest.mark.airflow
def test_a_config_becomes_a_connection_with_a_pool(
    database: Any, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from airflow.models.pool import Pool

    assert connection.main(["--config", str(config), "--description", "Radiology"]) == 0
    assert capsys.readouterr().out == (
        "connection pacs_default: PACS at pacs.hospital.example port 11112\npool pacs_default: 4 slots\n"
    )
    node = replace(read_config(config), name="pacs_default")
    assert (node.calling_aet, node.receiver_port, node.move_aet) == ("OURS", 11113, "ARCHIVE2")
    assert stored(database) == {"pacs_default": ("dicom", "Radiology", node)}
    with database() as session:
        assert {str(pool.pool) for pool in Pool.get_pools(session=session)} == {
            "default_pool",
            "pacsifier",
            "conversion",
            "pacs_default",
        }
    # A second one replaces the first only with --replace.
    changed = json.loads(config.read_text()) | {"port": 104}
    config.write_text(json.dumps(changed))
    assert connection.main(["--config", str(config)]) == 2
    assert "there is a connection pacs_default already; give --replace" in capsys.readouterr().err
    assert stored(database)["pacs_default"][2] == node
    assert connection.main(["--config", str(config), "--replace"]) == 0
    assert stored(database) == {"pacs_default": ("dicom", "", replace(node, port=104))}
    assert connection.main(["--config", str(config), "--name", "pacs-2"]) == 0
    assert sorted(stored(database)) == ["pacs-2", "pacs_default"]


@pytest.mark.airflow
def test_a_config_with_a_url_becomes_a_connection_of_a_web_archive(
    database: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vna.json"
    address = "https://vna.example/dicom-web"
    path.write_text(
        json.dumps({"url": address, "login": "research", "password": "s3cr3t-Word", "window": "20:00-06:00"})
    )
    assert connection.main(["--config", str(path), "--name", "vna", "--print"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["vna"]["conn_type"] == "dicomweb" and "s3cr3t" not in printed.out + printed.err
    assert "passwords are not printed" in printed.err
    assert connection.main(["--config", str(path), "--name", "vna"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"connection vna: {address}\npool vna: 4 slots\n" and "s3cr3t" not in printed.err
    assert web_archives(database) == {"vna": read_archive(path)}
    # TLS files and rights that somebody has given meanwhile stay, unless the configuration has others.
    change_extra(database, "vna", tls_ca="/etc/ca.pem", may_take="anna")
    path.write_text(json.dumps({"url": address, "login": "research", "password": "n3w-Word"}))
    assert connection.main(["--config", str(path), "--name", "vna", "--replace"]) == 0
    assert web_archives(database) == {"vna": replace(read_archive(path), tls_ca="/etc/ca.pem", may_take="anna")}


@pytest.mark.airflow
def test_a_config_with_fetch_from_becomes_two_connections(
    database: Any, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vna.json"
    path.write_text(json.dumps({"url": "https://vna.example/dicom-web", "fetch_from": "config.json"}))
    assert connection.main(["--config", str(path), "--name", "vna"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "connection config: PACS at pacs.hospital.example port 11112",
        "pool config: 4 slots",
        "connection vna: https://vna.example/dicom-web",
        "pool vna: 4 slots",
    ]
    assert web_archives(database)["vna"].fetch_from == "config"
    # Another one may have the same: that connection stays, with what people have set there.
    assert connection.main(["--config", str(path), "--name", "second"]) == 0
    assert "connection config: it is there already, and stays as it is" in capsys.readouterr().out
    # But not one of that name that leads elsewhere.
    config.write_text(json.dumps(json.loads(config.read_text()) | {"port": 104}))
    assert connection.main(["--config", str(path), "--name", "third"]) == 2
    assert "there is a connection config already; give --replace" in capsys.readouterr().err
    assert set(web_archives(database)) == {"vna", "second"}
    assert connection.main(["--config", str(path), "--name", "config"]) == 2
    assert "would be called config as well; give another --name" in capsys.readouterr().err


def web_archives(database: Any) -> dict[str, WebNode]:
    """Return the nodes of the connections of web archives in the database."""
    from airflow.models.connection import Connection
    from sqlalchemy import select

    with database() as session:
        found = session.scalars(select(Connection).where(Connection.conn_type == "dicomweb")).all()
        fields = ((c.conn_id, c.host, c.port, c.extra_dejson, c.login, c.password) for c in found)
        return {one[0]: web_from_connection(*one) for one in fields}


def change_extra(database: Any, name: str, **extra: str) -> None:
    from airflow.models.connection import Connection
    from sqlalchemy import select

    with database() as session:
        one = session.scalar(select(Connection).where(Connection.conn_id == name))
        one.extra = json.dumps({**one.extra_dejson, **extra})
        session.commit()


@pytest.mark.airflow
def test_the_command_refuses_wrong_names_and_existing_connections(
    database: Any, config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def complaint(*arguments: str) -> str:
        assert connection.main(["--config", str(config), *arguments]) == 2
        return capsys.readouterr().err

    assert "--name is not valid as the id of a connection" in complaint("--name", "a b")
    monkeypatch.setenv("AIRFLOW_CONN_PACS_DEFAULT", "dicom://elsewhere")
    assert "AIRFLOW_CONN_PACS_DEFAULT hides a connection pacs_default" in complaint()
    config.write_text("{}")
    assert "config.json: server_address is missing" in complaint("--name", "other")
    assert stored(database) == {}


@pytest.mark.airflow
def test_airflow_imports_what_the_command_prints(
    airflow: Airflow, database: Any, config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert connection.main(["--config", str(config), "--name", "pacs_file", "--print"]) == 0
    printed = tmp_path / "connections.json"
    printed.write_text(capsys.readouterr().out)
    assert stored(database) == {}
    environment = airflow_home.migrated(airflow.home.parent)[1]
    assert "Imported connection pacs_file" in airflow_home.run_airflow(
        environment, "connections", "import", str(printed)
    )
    assert stored(database)["pacs_file"][2] == replace(read_config(config), name="pacs_file")


def test_the_sample_connection_is_the_sample_config(capsys: pytest.CaptureFixture[str]) -> None:
    sample = json.loads((REPO / "include" / "connections.json").read_text())["pacs_default"]
    config = str(REPO / "include" / "config.json")
    assert connection.main(["--config", config, "--description", sample["description"], "--print"]) == 0
    assert {"pacs_default": sample} == json.loads(capsys.readouterr().out)
