"""The repo itself: what is installed, how it is set up, how Airflow is run on one machine."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pacsifier_ops.onebox import up as local
from tests.support.airflow_home import DAG_ID, Up
from tests.support.places import REPO
from tools import bootstrap

LOCKS = ("requirements.lock", "requirements-dev.lock")


def requirements(name: str) -> dict[str, str]:
    """Requirement lines of a file: normalised project name (with its marker, if any) to the rest."""
    lines = re.findall(r"^([A-Za-z0-9._-]+)([^\s;]*)( ; [^\\\n]*)?", (REPO / name).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", n).lower() + m.strip(" "): rest for n, rest, m in lines}


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_file_has_hashes_and_names_no_registry(name: str) -> None:
    text = (REPO / name).read_text()
    entries = re.split(r"\n(?=[a-z0-9])", text.split("\n", 2)[2])
    assert len(entries) > 100
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"https?:|^--(?!hash)", text, re.MULTILINE)


def test_locks_cover_what_is_asked_for_and_agree() -> None:
    # Without markers: what is needed on some systems only may be needed on more of them for tests.
    run, dev = ({n.partition(";")[0]: v for n, v in requirements(name).items()} for name in LOCKS)
    assert (
        set().union(*(requirements(f"requirements{part}.txt") for part in ("", "-up", "-cluster", "-dev")))
        <= dev.keys()
    )
    assert dev.items() >= run.items()


def test_make_says_what_there_is_from_anywhere(tmp_path: Path) -> None:
    command = ["make", "--no-print-directory", "-C", str(REPO)]
    text = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    for target in ("setup", "demo", "up", "test", "lint", "bench", "bench-quick", "clean"):
        assert f"make {target} " in text


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an Airflow may live: a short path, since that of a socket has at most 103 bytes."""
    return tmp_path_factory.mktemp("up") / "home"


def in_airflow(home: Path, code: str) -> str:
    """What `code` prints in a process of its own that has Airflow's environment."""
    environment = {**os.environ, **local.airflow_environment(home)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.airflow
def test_entry_points_can_be_loaded(home: Path) -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    groups = [project["scripts"], *project["entry-points"].values()]
    targets = [target for group in groups for target in group.values()]
    code = f"import pkgutil\nfor name in {targets!r}: pkgutil.resolve_name(name)\nprint('good')"
    assert in_airflow(home, code) == "good"


@pytest.mark.airflow
def test_airflow_knows_every_setting(home: Path) -> None:
    code = (
        "import json\nfrom airflow.configuration import conf\n"
        "print(json.dumps({s: list(v['options']) for s, v in conf.configuration_description.items()}))"
    )
    known = json.loads(in_airflow(home, code))
    for name in local.airflow_environment(home):
        if name.startswith("AIRFLOW__"):
            _, section, option = name.lower().split("__")
            assert option in known[section], name


def test_environment_leads_to_this_airflow_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", "/elsewhere")
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://elsewhere/airflow")
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", "/elsewhere")
    monkeypatch.setenv("NO_PROXY", "pacs.example")
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "3")
    environment = local.airflow_environment(home, 8099)
    assert not [name for name, value in environment.items() if "elsewhere" in value]
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8099/execution/"
    assert environment["NO_PROXY"] == "pacs.example,127.0.0.1,localhost"
    assert environment["AIRFLOW__CORE__PARALLELISM"] == "3"


def test_password_is_made_once_and_is_private(home: Path) -> None:
    local.airflow_environment(home)
    first = local.password(home)
    local.airflow_environment(home)
    assert local.password(home) == first and len(first) >= 16
    assert (home / "airflow" / "passwords.json").stat().st_mode & 0o077 == 0
    assert (home / "airflow").stat().st_mode & 0o077 == 0


def test_a_taken_port_is_named_with_its_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit, match=f"port {port} cannot be used .*--pacs-port"):
            local._check_free({"--pacs-port": port})
    local._check_free({"--pacs-port": port})


def test_a_home_has_one_supervisor(home: Path) -> None:
    with local._locked(home), pytest.raises(SystemExit, match="running already"), local._locked(home):
        pass
    with local._locked(home):
        pass


def test_a_part_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    parts = local.Parts(tmp_path / "logs", os.environ)
    with pytest.raises(SystemExit, match=r"(?s)No module named no_such_module.*broken\.log"):
        parts.run("broken", "no_such_module")
    assert (tmp_path / "logs" / "broken.log").stat().st_mode & 0o077 == 0


@pytest.mark.airflow
@pytest.mark.slow
@pytest.mark.parametrize("database", ["PostgreSQL", "SQLite"])
def test_up_extracts_listens_here_only_and_leaves_nothing(home: Path, database: str) -> None:
    if database == "SQLite":
        local.airflow_environment(home)
        (home / "airflow" / "airflow.db").touch()
    with Up(home, {}) as up:
        assert up.url in up.said and local.password(home) not in up.said
        assert f"database      {database}" in up.said and "admin: admin, manager: user, viewer: viewer" in up.said
        up.log_in("viewer")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            up.start(DAG_ID, queryfile="queries/example1.csv", out_directory="out")
        up.log_in("manager")
        run = up.start(DAG_ID, queryfile="queries/example1.csv", out_directory="out")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            up.get("connections")
        family, listening = up.family(), set()
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # the scheduler's come and go
                listening |= {c.laddr for c in process.net_connections("tcp") if c.status == "LISTEN"}
        assert {a.ip for a in listening} == {"127.0.0.1"}
        # One more: the server of the tasks, at any free port.
        assert {a.port for a in listening} > set(up.ports) and len(listening) == len(up.ports) + 1
        assert up.outcome(run) == "success"
        assert list((home / "data" / "out").rglob("*.dcm"))
        # Commands find the database by AIRFLOW_HOME alone.
        only = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        command = [sys.executable, "-m", "airflow", "connections", "get", "pacs_default", "--output", "json"]
        environment = {**only, "AIRFLOW_HOME": str(home / "airflow")}
        assert "DEMOPACS" in subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        family += up.family()
    assert not [process for process in family if process.is_running()]


# The package index of the tests: a real server on loopback.


class Index(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and keeps what the clients said who they are."""

    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        """Serve a file."""
        self.asked.append((self.path, self.headers["Authorization"]))
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, type[Index]]]:
    """An empty package index, for which a user and a password are needed, and the folder it serves."""
    folder = tmp_path / "index"
    (folder / "simple" / "uv").mkdir(parents=True)
    Index.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Index, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://me:se%40cret@127.0.0.1:{server.server_port}/simple/")
        yield folder / "simple" / "uv", Index
        server.shutdown()


def test_setup_refuses_a_wheel_that_the_lock_does_not_name(
    index: tuple[Path, type[Index]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, server = index
    version = requirements("requirements-dev.lock")["uv"].removeprefix("==")
    (folder / f"uv-{version}-py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(SystemExit, match="cannot be reached, or has no such uv"):
        bootstrap.fetch_uv(tmp_path)
    assert "DO NOT MATCH THE HASHES" in capfd.readouterr().err
    assert {who for _, who in server.asked} == {"Basic bWU6c2VAY3JldA=="}


def test_setup_finds_a_pip_that_starts(tmp_path: Path) -> None:
    started = [
        subprocess.run([*pip, "--version"], capture_output=True).returncode == 0 for pip in bootstrap.pips(tmp_path)
    ]
    assert any(started)


def test_setup_that_is_done_does_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = hashlib.sha256(b"".join(path.read_bytes() for path in bootstrap.INPUTS)).hexdigest()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    stamp = tmp_path / ".setup"
    stamp.write_text(f"{REPO} {sys.version.split()[0]}\n{content}\ndev\n")
    before, now = stamp.stat(), time.time()
    monkeypatch.setattr(bootstrap, "VENV", tmp_path)
    monkeypatch.setattr(bootstrap, "STAMP", stamp)
    bootstrap.setup(dev=False)
    bootstrap.setup(dev=True)
    assert stamp.stat().st_mtime == before.st_mtime <= now


def test_modules_of_tests_have_names_of_their_own() -> None:
    """Without packages, Python would take one for the other, and leave its tests out."""
    names = [path.name for path in (REPO / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
