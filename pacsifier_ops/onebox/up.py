"""`make up`: all of Airflow on this machine, in the foreground, until Ctrl-C.

One supervisor starts the database, the standing receiver, an embedded PACS and De-ID service, and the components of
Airflow. All of them listen on 127.0.0.1 only; the receiver may have another address. One that ends by itself is started
again. After Ctrl-C or SIGTERM, or when one keeps ending, all are stopped. If the supervisor itself is killed, Linux
stops the others.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from pacsifier_ops.base import settings
from pacsifier_ops.base.config import PacsNode, address_of
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.base.files import PRIVATE_FILE, private_folder, read_json, write_atomic, write_json
from pacsifier_ops.cli.connection import described
from pacsifier_ops.onebox import postgres

REPO = Path(__file__).resolve().parents[2]
HOST, USER, PACS_AET = "127.0.0.1", "admin", "DEMOPACS"
#: Users by name, with their role: the administrator, the data manager, who starts runs and answers questions, and one
#: who looks on.
USERS = {USER: "admin", "manager": "user", "viewer": "viewer"}
#: Variables with the address of the database, for Airflow's synchronous and asynchronous sessions.
ADDRESSES = ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC")
#: Name of the part that all others need.
DATABASE = "postgres"
#: Descriptions of the connections to the embedded services. A connection with this description may be replaced.
EMBEDDED_DEID = "The embedded De-ID service; change this description with the rest, or the next start restores it"
EMBEDDED = "The embedded PACS; change this description with the rest, or the next start restores it"
#: Maximum seconds for the start of a component, for running tasks after Ctrl-C, and for all components to stop.
STARTING, STOPPING, CLOSING = 120.0, 15.0, 6.0
#: Seconds until a component that has ended by itself starts again, after its first end within FORGIVEN seconds, its
#: second, and so on. When it ends once more, all are stopped.
PAUSES, FORGIVEN = (1, 2, 4, 8, 16), 300.0
#: Maximum seconds that a component waits while another one writes to the database. SQLite has one writer at a time, and
#: its default of 5 s is short for a busy scheduler.
WRITE_WAIT = 20.0


def airflow_settings() -> dict[str, str]:
    """Return the settings of include/airflow.env. Variables of the environment override them."""
    lines = (REPO / "include" / "airflow.env").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if line.strip() and not line.startswith("#"))
    return {name.strip(): os.environ.get(name.strip(), value.strip()) for name, value in pairs}


def airflow_environment(home: Path, port: int = 8080) -> dict[str, str]:
    """Return the environment variables of an Airflow whose files are all in `home`. Create its folders if necessary.

    They override all variables that lead to the home or database of another Airflow. It listens on 127.0.0.1:`port`
    only. Users that have no password get one (see `password`). Its database is SQLite.
    """
    home = home.absolute()
    airflow = private_folder(home / "airflow")
    users = os.environ.get("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS") or ",".join(map(":".join, USERS.items()))
    passwords = airflow / "passwords.json"
    _make_passwords(passwords, users)
    without_proxy = [name.strip() for name in os.environ.get("NO_PROXY", os.environ.get("no_proxy", "")).split(",")]
    no_proxy = ",".join(dict.fromkeys([*filter(None, without_proxy), HOST, "localhost"]))
    return {
        **airflow_settings(),
        "AIRFLOW_HOME": str(airflow),
        "AIRFLOW_CONFIG": str(airflow / "airflow.cfg"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow / 'airflow.db'}?timeout={WRITE_WAIT:.0f}",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(airflow / "logs"),
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://{HOST}:{port}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{port}/execution/",
        "AIRFLOW__CORE__AUTH_MANAGER": (
            "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
        ),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": users,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "PACSIFIER_HOME": str(home),
        "PACSIFIER_DATA_ROOT": str(home / "data"),
        "PACSIFIER_STATE_ROOT": str(home / "state"),
        "PACSIFIER_SPOOL": str(home / "data" / ".spool"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")])),
        # Tasks reach the API server of this machine without a proxy.
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }


def _make_passwords(path: Path, users: str) -> None:
    """Give those users a password that have none. Airflow would print it to its log."""
    made = read_json(path) if path.exists() else {}
    names = [user.split(":")[0].strip() for user in users.split(",")]
    if missing := [name for name in names if name not in made]:
        write_json(path, made | {name: secrets.token_urlsafe(12) for name in missing})


def password(home: Path, user: str = USER) -> str:
    """Return the password of a user of the Airflow in `home`."""
    return str(read_json(home / "airflow" / "passwords.json")[user])


def _own_connections(home: Path, aet: str, pacs_port: int, receiver_port: int) -> Mapping[str, Mapping[str, Any]]:
    """Return the connections to the embedded PACS (`pacs_default`) and the embedded De-ID service (`deid_default`).

    They are written to the database, where people can see them and change them to those of the hospital.

    Args:
        aet: AE title of the receiver, to which the PACS sends.
    """
    pacs = PacsNode("pacs_default", HOST, pacs_port, PACS_AET, aet, receiver_port=receiver_port)
    deid = read_json(home / "deid" / "config.json")
    return {
        "pacs_default": described(pacs, EMBEDDED),
        "deid_default": {
            "conn_type": "deid_api",
            "description": EMBEDDED_DEID,
            "host": deid["deid_URL"],
            "port": urlsplit(deid["deid_URL"]).port,  # Airflow's Test button needs one
            "password": deid["deid_token"],
            "extra": {"ca": str(home / "deid" / "ca.pem")},
        },
    }


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _stop_with_parent() -> None:
    _prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _adopt_orphans() -> None:
    """Become the parent of processes that a component leaves behind, so that `stop` finds them."""
    _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


class Parts:
    """The component processes, each with its own log file."""

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self.logs = private_folder(logs)
        self.environment = dict(environment)
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}
        #: By component: when it ended by itself, and when it starts again (by the monotonic clock, in seconds).
        self._ends: dict[str, list[float]] = {}
        self._due: dict[str, float] = {}

    def start(self, name: str, *arguments: str) -> None:
        """Start `python -m arguments` (see `start_program`)."""
        self.start_program(name, [sys.executable, "-m", *arguments])

    def start_program(self, name: str, command: list[str]) -> None:
        """Start a program in a new session, which Ctrl-C in the terminal does not reach."""
        self._commands[name] = command
        self.log(name).unlink(missing_ok=True)
        self._launch(name)

    def _launch(self, name: str) -> None:
        log = os.open(self.log(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
        try:
            self.running[name] = subprocess.Popen(
                self._commands[name],
                env=self.environment,
                cwd=REPO,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_stop_with_parent,
            )
        finally:
            os.close(log)

    def run(self, name: str, *arguments: str) -> None:
        """Run `python -m arguments`, and wait for its end.

        Raises:
            SystemExit: it failed; with the end of its log.
        """
        self.start(name, *arguments)
        if self.running.pop(name).wait():
            raise SystemExit(self.failure(name))

    def check(self) -> None:
        """Check that all components run.

        Raises:
            SystemExit: a component has ended; with the end of its log.
        """
        for name, process in self.running.items():
            if process.poll() is not None:
                raise SystemExit(self.failure(name))

    def mend(self) -> None:
        """Start components again that have ended by themselves, each after the pause of PAUSES. Say so.

        Raises:
            SystemExit: a component keeps ending; with the end of its log.
        """
        now = time.monotonic()
        for name, process in self.running.items():
            if process.poll() is None:
                continue
            if name not in self._due:
                ends = self._ends[name] = [*(end for end in self._ends.get(name, ()) if end > now - FORGIVEN), now]
                if len(ends) > len(PAUSES):
                    raise SystemExit(self.failure(name))
                pause = PAUSES[len(ends) - 1]
                self._due[name] = now + pause
                print(f"{name} ended by itself and starts again in {pause} s; its log is {self.log(name)}", flush=True)
            elif now >= self._due[name]:
                del self._due[name]
                self._kill_orphans()
                self._launch(name)

    def _kill_orphans(self) -> None:
        """Kill what ended components have left behind. Nobody would hear of the results; killed tasks start again."""
        own = {process.pid for process in self.running.values()}
        for orphan in psutil.Process().children():
            if orphan.pid not in own:
                _kill(orphan)

    def log(self, name: str) -> Path:
        """Return the path of a component's log file."""
        return self.logs / f"{name}.log"

    def failure(self, name: str) -> str:
        """Return the message for a component that has ended by itself, with the end of its log."""
        tail = self.log(name).read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return "\n".join([*tail, f"{name} ended by itself; the whole log is {self.log(name)}"])

    def wait_until(self, what: str, ready: Callable[[], bool]) -> None:
        """Wait until `ready` returns True.

        Raises:
            SystemExit: a component has ended, or the time STARTING is over.
        """
        until = time.monotonic() + STARTING
        while not ready():
            self.check()
            if time.monotonic() > until:
                raise SystemExit(f"{what} did not answer within {STARTING:.0f} s; see {self.logs}")
            time.sleep(0.3)

    def stop(self) -> None:
        """Stop all components, and return when no process is left.

        The scheduler stops first: it waits for running tasks, and those that end within STOPPING can report their
        results. Processes that still run after CLOSING are killed; killed tasks start again next time. The database
        stops last.
        """
        if scheduler := self.running.get("scheduler"):
            scheduler.terminate()
            with suppress(subprocess.TimeoutExpired):
                scheduler.wait(STOPPING)
        database = self.running.get(DATABASE)
        for process in self.running.values():
            if process is not database:
                process.terminate()
        self._await_end(database)
        if database:
            database.send_signal(signal.SIGINT)  # PostgreSQL then waits for no connection
            self._await_end()

    def _await_end(self, spared: subprocess.Popen[bytes] | None = None) -> None:
        """Return when no process is left but `spared` and its children. Kill those that run longer than CLOSING."""
        until = time.monotonic() + CLOSING
        while family := [process for process in psutil.Process().children() if not spared or process.pid != spared.pid]:
            if time.monotonic() > until:
                for member in family:
                    _kill(member)
            psutil.wait_procs(family, timeout=0.5)


def _kill(process: psutil.Process) -> None:
    """Kill a process and its descendants, and wait for their end, which makes those go that we have adopted."""
    with suppress(psutil.NoSuchProcess):
        family = [*process.children(recursive=True), process]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=1)


def is_listening(port: int) -> bool:
    """Whether a program listens at a port of this machine."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def is_healthy(port: int) -> bool:
    """Whether the API answers that database, scheduler and DAG processor are healthy."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://{HOST}:{port}/api/v2/monitor/health", timeout=5) as answer:
            health = json.load(answer)
    except (OSError, ValueError):
        return False
    return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


def fault_of_port(port: int) -> str:
    """Return why a program cannot listen at a port of this machine; empty if it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return str(error.strerror)
    return ""


def _check_free(ports: Mapping[str, int]) -> None:
    """Check that the ports are free.

    Args:
        ports: by the flag that sets them.

    Raises:
        SystemExit: names every port that cannot be used, and its flag.
    """
    taken = [
        f"port {port} cannot be used ({fault}); choose another with {flag}"
        for flag, port in ports.items()
        if (fault := fault_of_port(port))
    ]
    if taken:
        raise SystemExit("\n".join(taken))


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Lock `home` for this process. The system releases the lock when the process ends.

    Raises:
        SystemExit: another process has the lock.
    """
    with (private_folder(home) / ".up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"Airflow is running already in {home}") from None
        yield


def _sample_queries(data: Path) -> None:
    """Copy the sample tables to a folder that DAG runs may read. Existing files stay."""
    target = private_folder(data / "queries")
    for table in (REPO / "include" / "queries").iterdir():
        if table.is_file() and not (target / table.name).exists():
            shutil.copyfile(table, target / table.name)


def _remember_database(environment: Mapping[str, str]) -> None:
    """Write the address of the database to airflow.cfg, for commands that are given AIRFLOW_HOME and nothing else."""
    path = Path(environment["AIRFLOW_CONFIG"])
    text = path.read_text(encoding="utf-8")
    for variable in ADDRESSES:
        option = variable.rpartition("__")[2].lower()
        line = f"{option} = {environment[variable]}".replace("%", "%%")  # as configparser reads it
        text = re.sub(rf"^(# )?{option} =.*$", line.replace("\\", r"\\"), text, count=1, flags=re.MULTILINE)
    write_atomic(path, text)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def supervised(logs: Path, environment: Mapping[str, str]) -> Iterator[Parts]:
    """Yield the components. They are stopped when the block ends, also by Ctrl-C, SIGTERM or SIGHUP."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    _adopt_orphans()
    parts = Parts(logs, environment)
    for number in numbers:
        signal.signal(number, _interrupt)
    try:
        yield parts
    except KeyboardInterrupt:
        print(f"\nstopping; running tasks have {STOPPING:.0f} s to end ...", flush=True)
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        parts.stop()
    print("stopped", flush=True)


def up(
    home: Path,
    *,
    port: int,
    pacs_port: int,
    deid_port: int,
    aet: str = "PACSIFIER",
    receiver_host: str = HOST,
    receiver_port: int,
) -> None:
    """Run Airflow, the receiver and the embedded services in `home` until Ctrl-C or SIGTERM.

    Args:
        aet: AE title of the receiver.

    Raises:
        SystemExit: a port is taken, the database cannot be used, or a component did not start or keeps ending; names
            the component and its log.
    """
    chosen = {name: value for name, value in os.environ.items() if name.startswith("PACSIFIER_")}
    environment = {**os.environ, **airflow_environment(home, port), **chosen}
    task_port = _free_port()
    environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] = f"http://{HOST}:{task_port}/execution/"
    server, database = postgres.of_home(Path(environment["AIRFLOW_HOME"]))
    sqlite = environment[ADDRESSES[0]]
    addresses = (server.url, server.url) if server else (sqlite, sqlite.replace("sqlite", "sqlite+aiosqlite", 1))
    environment.update(zip(ADDRESSES, addresses, strict=True))
    data = Path(environment["PACSIFIER_DATA_ROOT"])
    # By default, the spool is on the file system of the data.
    environment["PACSIFIER_SPOOL"] = chosen.get("PACSIFIER_SPOOL", str(data / ".spool"))
    _check_free({"--port": port, "--pacs-port": pacs_port, "--deid-port": deid_port, "--receiver-port": receiver_port})
    _sample_queries(data)
    with supervised(home / "logs", environment) as parts:
        print(f"starting Airflow in {home} ...", flush=True)
        if server:
            parts.start_program(DATABASE, server.command())
        (home / "deid" / "config.json").unlink(missing_ok=True)
        own = ("--port", str(deid_port), "--folder", str(home / "deid"))
        parts.start("deid", "pacsifier_ops.embedded.deid_server", *own)
        parts.wait_until("the embedded De-ID service", (home / "deid" / "config.json").exists)
        connections = home / "connections.json"
        write_json(connections, _own_connections(home, aet, pacs_port, receiver_port))
        if server:
            parts.wait_until("the database", server.is_ready)
        parts.run("database", "pacsifier_ops.onebox.database", str(connections))
        _remember_database(environment)
        parts.start(
            "receiver",
            *("pacsifier_ops.cli.receiver", "--aet", aet, "--host", receiver_host),
            *("--port", str(receiver_port), "--spool", environment["PACSIFIER_SPOOL"]),
        )
        parts.start(
            "pacs",
            *("pacsifier_ops.embedded", "--port", str(pacs_port), "--aet", PACS_AET),
            *("--destination", f"{aet}={HOST}:{receiver_port}"),
        )
        # Tasks have a server of their own. Airflow logs a user's request on the event loop, and the loop waits for the
        # database meanwhile; if a task's request in the same process has the database, it waits for the loop.
        parts.start("api-server", "airflow", "api-server", "--apps", "core")
        parts.start("task-server", "airflow", "api-server", "--apps", "execution", "--port", str(task_port))
        # No log servers: all components read the log files directly, and log servers would listen on all addresses.
        parts.start("scheduler", "airflow", "scheduler", "--skip-serve-logs")
        parts.start("triggerer", "airflow", "triggerer", "--skip-serve-logs")
        parts.start("dag-processor", "airflow", "dag-processor")
        parts.wait_until("the receiver", lambda: is_listening(receiver_port))
        parts.wait_until("the embedded PACS", lambda: is_listening(pacs_port))
        parts.wait_until("the server of the tasks", lambda: is_listening(task_port))
        parts.wait_until("Airflow", lambda: is_healthy(port))
        own_ones = read_json(connections)
        deid = pacs = "as you set it"
        if "pacs_default" in own_ones:
            pacs = f"the embedded PACS, {PACS_AET} at {HOST}:{pacs_port}"
        if "deid_default" in own_ones:
            deid = f"the embedded De-ID service, {HOST}:{deid_port}"
        users = environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"].replace(":", ": ").split(",")
        print(
            f"\nAirflow is ready: http://{HOST}:{port}\n"
            f"  users         {', '.join(user.strip() for user in users)}\n"
            f"  passwords     in {environment['AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE']}\n"
            f"  pacs_default  {pacs}\n"
            f"  deid_default  {deid}\n"
            f"  receiver      {aet} at {address_of(receiver_host, receiver_port)}\n"
            f"  query tables  {data / 'queries'}\n"
            f"  database      {database}\n"
            f"  AIRFLOW_HOME  {environment['AIRFLOW_HOME']}\n"
            f"  state root    {environment['PACSIFIER_STATE_ROOT']}\n"
            f"  logs          {parts.logs}\n"
            "Ctrl-C stops everything.",
            flush=True,
        )
        while True:
            parts.mend()
            time.sleep(1)


def main() -> None:
    """Run `make up`."""
    parser = argparse.ArgumentParser(
        prog="python -m pacsifier_ops.onebox.up",
        description="Airflow with its user interface on this machine, until Ctrl-C.",
    )
    parser.add_argument("--port", type=int, default=8080, help="of the user interface and API (%(default)s)")
    parser.add_argument("--pacs-port", type=int, default=11112, help="of the embedded PACS (%(default)s)")
    parser.add_argument("--deid-port", type=int, default=8444, help="of the embedded De-ID service (%(default)s)")
    parser.add_argument("--aet", default="PACSIFIER", help="AE title of the receiver (%(default)s)")
    parser.add_argument("--receiver-port", type=int, default=11113, help="of the receiver (%(default)s)")
    parser.add_argument(
        "--receiver-host",
        default=HOST,
        help="address of the receiver (%(default)s); :: if a PACS on another machine sends to it",
    )
    arguments = parser.parse_args()
    home = Path(os.environ.get("PACSIFIER_HOME") or REPO / "run").expanduser().absolute()
    try:
        settings.check()
    except ConfigError as error:  # each run would end with it, that of tonight as well
        raise SystemExit(str(error)) from None
    with _locked(home):
        up(home, **vars(arguments))


if __name__ == "__main__":
    main()
