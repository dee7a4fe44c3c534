"""The parts of docker-compose.yml as processes of this machine: PostgreSQL, Redis, Airflow with two Celery workers.

`Topology` is for tests. It starts this module as a program, which starts Airflow's parts and the standing receiver.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import psutil
import redis

from pacsifier_ops.onebox import up as local
from pacsifier_ops.onebox.up import HOST, Parts
from tests.support.airflow_home import Up, binary_values
from tests.support.peers import OUR_AET, Orthanc, Peer, free_port
from tests.support.processes import command_of, runs

WORKERS = ("worker-1", "worker-2")
#: Tasks that one worker runs at once, and associations that the PACS grants: fewer than the workers' together.
CONCURRENCY, ASSOCIATIONS = 2, 3
_SUPERUSER = "airflow"


@dataclass
class _Store(Peer):
    """A data store with a password, in a temporary folder of its own."""

    password: str = field(default_factory=lambda: secrets.token_urlsafe(16))


@dataclass
class Redis(_Store):
    """Redis, which writes down every command that it gets."""

    name = "redis"
    program = "redis-server"
    package = "redis-server"

    @property
    def url(self) -> str:
        """Where it is, with the password."""
        return f"redis://:{self.password}@{HOST}:{self.port}/0"

    def command(self) -> list[str]:
        """Write the configuration; return what to start."""
        path = self.folder / "redis.conf"
        path.touch(0o600)
        path.write_text(
            f"bind {HOST}\nport {self.port}\nrequirepass {self.password}\ndir {self.folder}\nsave ''\nappendonly yes\n"
        )
        return [str(self.find_program()), str(path)]

    def client(self) -> redis.Redis:
        """A connection to it."""
        return redis.Redis.from_url(self.url)

    def echo(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self.client().ping())
        except redis.ConnectionError:
            return False


@dataclass
class Postgres(_Store):
    """PostgreSQL with a cluster of its own, without the care for power cuts."""

    name = "postgres"
    program = "postgres"
    package = "postgresql"

    @classmethod
    def find_program(cls, name: str = "postgres") -> str | None:
        """One of its programs; Debian keeps them off the path, by version."""
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
        return shutil.which(name, path=os.pathsep.join([*map(str, reversed(folders)), os.environ.get("PATH", "")]))

    @property
    def url(self) -> str:
        """Where its database is, with the password."""
        return f"postgresql://{_SUPERUSER}:{self.password}@{HOST}:{self.port}/postgres"

    def command(self) -> list[str]:
        """Make the cluster where there is none; return what to start."""
        data = self.folder / "data"
        if not data.exists():
            path = self.folder / "password"
            path.touch(0o600)
            path.write_text(self.password)
            if os.getuid() == 0:
                for owned in (self.folder, path):
                    shutil.chown(owned, "postgres", "postgres")
            identity = [f"--username={_SUPERUSER}", f"--pwfile={path}", "--auth=scram-sha-256"]
            options = ["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", f"--pgdata={data}"]
            command = [*self._unprivileged(), str(self.find_program("initdb")), *identity, *options]
            subprocess.run(command, cwd=self.folder, check=True, capture_output=True)
        settings = {"listen_addresses": HOST, "port": self.port, "unix_socket_directories": self.folder, "fsync": "off"}
        flags = [f"--{name}={value}" for name, value in settings.items()]
        return [*self._unprivileged(), str(self.find_program()), "-D", str(data), *flags]

    @staticmethod
    def _unprivileged() -> list[str]:
        """PostgreSQL does not run as root. To change the user takes the wish back to end with the parent."""
        if os.getuid() != 0:
            return []
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=TERM", "--"]

    def echo(self) -> bool:
        """Whether it takes connections."""
        command = [str(self.find_program("pg_isready")), "--quiet", f"--dbname={self.url}"]
        return subprocess.run(command, check=False).returncode == 0

    def dump(self, path: Path) -> None:
        """Write down the whole database."""
        subprocess.run([str(self.find_program("pg_dump")), f"--dbname={self.url}", f"--file={path}"], check=True)


_AnyStore = TypeVar("_AnyStore", Postgres, Redis)
STORES: tuple[type[Peer], ...] = (Postgres, Redis)


class Topology(Up):
    """Everything, in front of one Orthanc.

    Args:
        home: folder of Airflow, data, state and logs, shared by all.
        folder: folder of Orthanc.
        pacs: stands in its place, if given.
    """

    def __init__(self, home: Path, folder: Path, pacs: Peer | None = None) -> None:
        super().__init__(home, {})
        self._stack = ExitStack()
        self._port, self._receiver_port = free_port(), free_port()
        allowed: dict[str, object] = {f"DicomAlwaysAllow{service}": True for service in ("Find", "Move")}
        self.pacs = pacs or Orthanc(folder, receiver_port=self._receiver_port, options=allowed)
        self.redis: Redis
        self.postgres: Postgres

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.redis = stack.enter_context(_running(Redis))
            self.postgres = stack.enter_context(_running(Postgres))
            stack.callback(self.pacs.stop)
            environment = {k: v for k, v in os.environ.items() if not k.startswith(("PACSIFIER_", "AIRFLOW_"))}
            environment |= local.airflow_environment(self.home, self._port) | self._environment()
            self._start(self._port, environment, "tests.support.topology", str(self._receiver_port))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *details: object) -> None:
        with self._stack:
            super().__exit__(*details)

    def _environment(self) -> dict[str, str]:
        extra = {
            "called_aet": self.pacs.aet,
            "calling_aet": OUR_AET,
            "method": "move",
            "receiver_aet": OUR_AET,
            "receiver_port": self._receiver_port,
            "max_associations": ASSOCIATIONS,
        }
        connection = {"conn_type": "dicom", "host": HOST, "port": self.pacs.port, "extra": extra}
        return {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.postgres.url,
            "AIRFLOW__CELERY__BROKER_URL": self.redis.url,
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(CONCURRENCY),
            "AIRFLOW_CONN_PACS_DEFAULT": json.dumps(connection),
            "PACSIFIER_NIGHTLY_SCHEDULE": "off",  # whatever the time of day
            # Minutes at a site are seconds here.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            "AIRFLOW__CORE__MAX_TASK_RETRY_DELAY": "5",
            "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "20",
            "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__UNACKED_RESTORE_INTERVAL": "2",
            "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__UNACKED_RESTORE_THROTTLE": "1",
        }

    def part(self, name: str) -> list[psutil.Process]:
        """The process of a part, which has this name in its command line, and all that come from it."""
        parts = filter(runs, psutil.Process(self._process.pid).children())
        (part,) = (part for part in parts if name in command_of(part))
        return [part, *part.children(recursive=True)]

    def holdings(self, folder: Path) -> Path:
        """Write down, below `folder`, all that the stores hold."""
        folder.mkdir()
        dump = folder / "database.sql"
        self.postgres.dump(dump)
        text = dump.read_text(encoding="utf-8")
        commands = b"".join(path.read_bytes() for path in sorted(self.redis.folder.rglob("*.aof")))
        (folder / "redis").write_bytes(commands)
        # What is binary in the database, and what Celery packs.
        packed = (base64.b64decode(found) for found in re.findall(rb'"body": ?\\?"([\w+/=]+)', commands))
        (folder / "unpacked").write_bytes(b"\n".join([*binary_values(text), *packed]))
        return folder


@contextmanager
def _running(kind: type[_AnyStore]) -> Iterator[_AnyStore]:
    # Of its own: PostgreSQL, which is not root, does not get into the folders of tests.
    with tempfile.TemporaryDirectory(prefix=f"pacsifier-{kind.name}-") as folder:
        store = kind(Path(folder))
        try:
            store.start()
            yield store
        finally:
            store.stop()


def kill(processes: list[psutil.Process]) -> None:
    """End processes as a machine does that loses power: none of them sees another one go."""
    for process in processes:
        process.suspend()
    for process in processes:
        process.kill()


def main() -> None:
    """Start Airflow's parts and the receiver, and workers again that ended, until Ctrl-C."""
    home, port, receiver_port = Path(os.environ["PACSIFIER_HOME"]), int(os.environ["AIRFLOW__API__PORT"]), sys.argv[1]
    with local.supervised(home / "logs", os.environ) as parts:
        parts.run("database", "pacsifier_ops.onebox.database")
        parts.start("receiver", "pacsifier_ops.cli.receiver", "--aet", OUR_AET, "--host", HOST, "--port", receiver_port)
        parts.start("api-server", "airflow", "api-server")
        parts.start("scheduler", "airflow", "scheduler", "--skip-serve-logs")
        parts.start("triggerer", "airflow", "triggerer", "--skip-serve-logs")
        parts.start("dag-processor", "airflow", "dag-processor")
        for worker in WORKERS:
            _start_worker(parts, worker)
        parts.wait_until("the receiver", lambda: local.is_listening(int(receiver_port)))
        parts.wait_until("Airflow", lambda: local.is_healthy(port))
        parts.wait_until("a worker", lambda: all(b" ready." in parts.log(name).read_bytes() for name in WORKERS))
        print("Ctrl-C stops everything", flush=True)
        while True:
            for worker in WORKERS:
                if parts.running[worker].poll() is not None:
                    _start_worker(parts, worker)
            parts.check()
            time.sleep(1)


def _start_worker(parts: Parts, name: str) -> None:
    # All of them see the log files: no log servers, which would want the same port.
    parts.start(name, "airflow", "celery", "worker", "--celery-hostname", f"{name}@%h", "--skip-serve-logs")


if __name__ == "__main__":
    main()
