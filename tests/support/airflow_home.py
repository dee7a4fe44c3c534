"""An Airflow of the tests' own: its home, runs through `dag.test()`, and the search for what must not be in it."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.extract.requests import take_in
from pacsifier_ops.onebox import postgres
from pacsifier_ops.onebox import up as local
from tests.support.command import Result, extract
from tests.support.peers import end_with_parent, free_port
from tests.support.places import REPO

DAG_ID = "pacsifier_extract"

#: Values that occur nowhere else, so that finding one in Airflow's home means that it leaked.
KUNIGUNDE = {
    "patient_id": "ZQX-71830-KW",
    "patient_name": "Wurzelbacher^Kunigunde",
    "PatientBirthDate": "19370419",
}
ZEBEDAEUS = {
    "patient_id": "YVJ-55912-ZS",
    "patient_name": "Schnürpel^Zebedäus",
    "PatientBirthDate": "19481107",
}
THEOBALD = {
    "patient_id": "WPL-20477-TQ",
    "patient_name": "Quandtmeyer^Theobald",
    "PatientBirthDate": "19520930",
}
_IDENTIFYING = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "AccessionNumber",
    "StudyDate",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "SeriesDescription",
)


def cohort() -> list[Dataset]:
    """Four series of three patients."""

    def series(patient: Any, date: str, accession: str, number: int, images: int) -> list[Dataset]:
        return phantom_series(
            **patient,
            study_date=date,
            study_time="070809",
            AccessionNumber=accession,
            series_number=number,
            SeriesDescription=f"Zwerchfell {accession[-2:]}{number}",
            n_images=images,
            rows=8,
            columns=8,
        )

    return [
        *series(KUNIGUNDE, "19931224", "QACC990171", 1, 3),
        *series(KUNIGUNDE, "19931224", "QACC990171", 2, 2),
        *series(ZEBEDAEUS, "19940331", "QACC990288", 1, 2),
        *series(THEOBALD, "19950606", "QACC990399", 1, 2),
    ]


def build(folder: Path) -> list[Path]:
    """Write the cohort below `folder`; returns its files."""
    return write(cohort(), folder)


def build_busy(folder: Path, patient: str, images: int = 3) -> list[Path]:
    """Write eight series of one more patient below `folder`; returns the files."""
    common: dict[str, Any] = {
        "patient_id": patient,
        "patient_name": f"Langenscheidt^{patient[-2:]}",
        "PatientBirthDate": "19290808",
        "study_date": "19960229",
        "n_images": images,
        "rows": 8,
        "columns": 8,
    }
    return write([image for n in range(1, 9) for image in phantom_series(**common, series_number=n)], folder)


def identifiers(files: Iterable[Path]) -> set[str]:
    """Everything in the files that tells who the patient is, and the parts of it that do."""
    values = set()
    for path in files:
        head = dcmread(path, stop_before_pixels=True)
        values |= {str(head.get(keyword) or "") for keyword in _IDENTIFYING}
    return {word for value in values for word in words_of(value)}


def of_patients(files: list[Path], *patients: Mapping[str, str]) -> set[str]:
    """SOP Instance UIDs of the cohort's images of some patients."""
    wanted = {patient["patient_id"] for patient in patients}
    return {path.stem for path in files if dcmread(path, stop_before_pixels=True).PatientID in wanted}


def words_of(value: str) -> set[str]:
    """A value, and those of its parts that are long enough to be told from other text.

    Four letters of some case stand by chance in one of a hundred databases full of tokens.
    """
    plain = value.replace("-", "_")  # as it is in the name of a folder
    parts = (part for part in re.split(r"[\W_\d]+", value) if len(part) >= 6)
    return {*(whole for whole in (value, plain) if len(whole) >= 6), *parts}


def traces(home: Path, words: Iterable[str]) -> list[str]:
    """Where in the files below `home` (their names included) one of the words occurs, in any case or encoding.

    A PostgreSQL there has to run; its values are looked through as well as its files.
    """
    spellings = {
        spelling.lower().encode(encoding)
        for word in words
        for spelling in (word, json.dumps(word)[1:-1])
        for encoding in ("utf-8", "utf-16-le")
    } | {word.lower().encode("latin-1", "ignore") for word in words}
    wanted = re.compile(b"|".join(re.escape(spelling) for spelling in sorted(spellings)))
    holds_one = _search(spellings)
    found = []
    for name, content in _holdings(home):
        for text in (name.lower().encode(), content.lower()):
            if not holds_one(text):
                continue
            for match in wanted.finditer(text):
                around = text[max(0, match.start() - 120) : match.end() + 60]
                found.append(f"{name}: {around!r}")
    return found


def _search(words: Collection[bytes]) -> Callable[[bytes], bool]:
    """Return what says whether one of the words is in a text, which it passes once, however many the words are."""
    import numpy as np

    places = (0, 2, 4)
    long = tuple(word for word in words if len(word) > places[-1] + 1)
    short = [word for word in words if word not in long]
    begins = {place: np.zeros(1 << 16, bool) for place in places}  # two bytes of a word at this place
    for word in long:
        for place in places:
            begins[place][word[place] << 8 | word[place + 1]] = True

    def holds_one(text: bytes) -> bool:
        values = np.frombuffer(text, np.uint8).astype(np.uint16)
        pairs = values[:-1] << 8 | values[1:]
        at = np.flatnonzero(begins[0][pairs])
        for place in places[1:]:
            at = at[at + place < len(pairs)]
            at = at[begins[place][pairs[at + place]]]
        return any(text.startswith(long, start) for start in at.tolist()) or any(word in text for word in short)

    return holds_one


def _holdings(home: Path) -> Iterator[tuple[str, bytes]]:
    """Names and content of all that is below `home`; of a PostgreSQL what it holds, and the log of what was written."""
    for path in home.rglob("*"):
        if path.name == "postgres" and (path / "PG_VERSION").exists():
            server, _ = postgres.of_home(path.parent)
            assert server
            command = [str(server.programs / "pg_dump"), f"--dbname={server.url.replace('+psycopg', '')}"]
            dump = subprocess.run(command, capture_output=True, check=True).stdout
            yield "pg_dump", b"\n".join([dump, *binary_values(dump.decode())])
        packed = "postgres" in path.parts and "pg_wal" not in path.parts
        with suppress(FileNotFoundError):  # PostgreSQL has taken it away
            yield str(path.relative_to(home)), _content(path) if path.is_file() and not packed else b""


def binary_values(dump: str) -> list[bytes]:
    """What is binary in a dump of PostgreSQL."""
    return [bytes.fromhex(found) for found in re.findall(r"\\\\x((?:[0-9a-f]{2})+)", dump)]


def _content(path: Path) -> bytes:
    """The bytes of a file. A database's are read by another process: closing the file here would, by the rules of
    POSIX, drop the locks that this process's connections to the database hold.
    """
    if ".db" in path.name:
        return subprocess.run(["cat", str(path)], capture_output=True, check=True).stdout
    return path.read_bytes()


@functools.cache
def migrated(folder: Path) -> tuple[Path, Mapping[str, str]]:
    """A home with an empty database below `folder`, made once for all tests, and its environment."""
    home = folder / "airflow_home"
    environment = local.airflow_environment(home)
    run_airflow(environment, "db", "migrate")
    return home, environment


def run_airflow(environment: Mapping[str, str], *arguments: str) -> str:
    """What an airflow command prints, in a process of its own."""
    command = [sys.executable, "-m", "airflow", *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class DagRun:
    """How a DAG run ended: the states of its tasks (and map indexes), their labels, results and links."""

    run_id: str
    state: str
    tasks: dict[str, dict[int, str]] = field(default_factory=dict)
    labels: dict[str, list[str]] = field(default_factory=dict)
    xcoms: dict[str, dict[int, Any]] = field(default_factory=dict)
    links: set[str] = field(default_factory=set)

    @property
    def states(self) -> dict[str, list[str]]:
        """The states of each task, in order of its map indexes."""
        return {task: [states[index] for index in sorted(states)] for task, states in self.tasks.items()}

    @property
    def returned(self) -> dict[str, list[Any]]:
        """What each task returned, in order of its map indexes."""
        return {task: list(values.values()) for task, values in self.xcoms.items()}


class Airflow:
    """The tests' Airflow within this process, in front of one PACS."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
        self.home, self.data = home, data
        self._monkeypatch = monkeypatch
        data.mkdir()
        monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(data))
        from airflow import settings

        assert Path(settings.AIRFLOW_HOME) == home / "airflow", "something imported Airflow before its home was made"

    def connect(self, pacs: EmbeddedPacs, name: str = "pacs_default", **extra: Any) -> None:
        """Let the connection `name` be this PACS."""
        fields = {"called_aet": pacs.aet, "calling_aet": "PACSIFIER", **extra}
        connection = {"conn_type": "dicom", "host": pacs.host, "port": pacs.port, "extra": fields}
        self._monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))

    def table(self, rows: str, name: str = "table.csv") -> str:
        """Put a query table below the data root; returns the parameter that names it."""
        (self.data / name).write_text(rows, encoding="utf-8")
        return name

    def run(self, **conf: Any) -> DagRun:
        """One run of the extract DAG, to its end; no task is tried twice."""
        return self.run_dag(DAG_ID, **{"queryfile": "table.csv", "out_directory": "out", **conf})

    def run_dag(self, dag_id: str, **conf: Any) -> DagRun:
        """One run of a DAG, likewise."""
        return run_dag(dag_id, **conf)


def run_dag(dag_id: str, file: Path | None = None, **conf: Any) -> DagRun:
    """One run of a DAG in this process, to its end; no task is tried twice.

    Args:
        file: of the DAG; by itself one of the package's.
    """
    from airflow import settings
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    # Such a run writes every DAG of the bundle to the database: one with this DAG alone is faster.
    file = file or REPO / "dags" / f"{dag_id}.py"
    folder = Path(settings.AIRFLOW_HOME) / "bundles" / dag_id
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "dag.py").is_symlink():
        (folder / "dag.py").symlink_to(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", bundles({dag_id: folder}))
        done = fresh_dag(dag_id, file).test(run_conf=conf)
    run = DagRun(done.run_id, str(done.state))
    for ti in sorted(done.get_task_instances(), key=lambda ti: ti.map_index):
        run.tasks.setdefault(ti.task_id, {})[ti.map_index] = str(ti.state)
        if ti.rendered_map_index:
            run.labels.setdefault(ti.task_id, []).append(ti.rendered_map_index)
    with create_session() as session:
        xcoms = session.scalars(select(XComModel).where(XComModel.run_id == done.run_id)).all()
        for xcom in sorted(xcoms, key=lambda xcom: xcom.map_index):
            if xcom.key == "return_value":
                run.xcoms.setdefault(xcom.task_id, {})[xcom.map_index] = XComModel.deserialize_value(xcom)
            if xcom.key.startswith("_link"):
                run.links.add(XComModel.deserialize_value(xcom))
    return run


def bundles(folders: Mapping[str, Path]) -> str:
    """Airflow's setting of folders of DAGs, by the names of their bundles."""
    kind = "airflow.dag_processing.bundles.local.LocalDagBundle"
    return json.dumps(
        [{"name": name, "classpath": kind, "kwargs": {"path": str(folder)}} for name, folder in folders.items()]
    )


def fresh_dag(dag_id: str = DAG_ID, file: Path | None = None) -> Any:
    """A DAG, read anew, for a run in this process leaves its params in it; without retries."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    bag = DagBag(file or REPO / "dags" / f"{dag_id}.py")
    assert not bag.import_errors
    dag = bag.dags[dag_id]
    for task in dag.tasks:
        kept: Any = task.partial_kwargs if isinstance(task, MappedOperator) else vars(task)
        kept["retries"] = 0
    return dag


def enter(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, data: Path) -> Airflow:
    """This process within the tests' Airflow, as long as `monkeypatch` lasts."""
    home, environment = migrated(tmp_path_factory.getbasetemp())
    state = os.environ["PACSIFIER_STATE_ROOT"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PACSIFIER_STATE_ROOT", state)  # the test's own
    check_each_schema_once(monkeypatch)
    return Airflow(home, monkeypatch, data)


def check_each_schema_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a parameter's schema checked when it is first seen.

    Airflow checks it for every task of a DAG, whenever it writes the DAG down: a sixth of the time of a run here.
    """
    from jsonschema import Draft7Validator

    check, seen = Draft7Validator.check_schema, set()

    def once(schema: Any, *arguments: Any, **keywords: Any) -> None:
        told = json.dumps([schema, arguments, keywords], sort_keys=True, default=repr)
        if told not in seen:
            check(schema, *arguments, **keywords)
            seen.add(told)

    monkeypatch.setattr(Draft7Validator, "check_schema", once)


def tree(out: Path) -> set[str]:
    """The files of an output folder, without the tree's own folder."""
    return {
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.is_file() and path.relative_to(out).parts[0] != ".pacsifier"
    }


def simple(value: Any) -> bool:
    """Whether a value is of small integers, rates and words, fit for XCom."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and simple(item) for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(isinstance(item, int) for item in value)
    return isinstance(value, int | float | str | None)


#: What the query tables are called before they are taken in.
TABLE_NAME = "Wurzelbacher Kunigunde"


class Up:
    """The whole of Airflow with the real scheduler, as `make up` starts it, in a home of its own.

    Args:
        home: its home.
        connections: PACS by the connections that are there from the start.
        dags: folder of more DAGs than the repository's.
        users: role by name of users beside `admin`; by themselves, those that `make up` makes.

    Attributes:
        url: of the user interface and the API.
        ports: where it listens: the API, the embedded PACS, the receiver, the embedded De-ID service.
        said: what it printed until it was ready.
    """

    def __init__(
        self,
        home: Path,
        connections: Mapping[str, EmbeddedPacs],
        dags: Path | None = None,
        users: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.url = self.said = ""
        self._connections = connections
        self._dags = dags
        self._users = users
        self.ports = [free_port() for _ in range(4)]
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._token = ""

    def __enter__(self) -> Self:
        port, pacs, receiver, deid = self.ports
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PACSIFIER_", "AIRFLOW_"))}
        environment["PACSIFIER_HOME"] = str(self.home)
        environment |= {f"PACSIFIER_{what}_SCHEDULE": "off" for what in ("NIGHTLY", "MESSAGES")}
        environment["AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL"] = "600"  # the files do not change meanwhile
        # Looking ten times a second, it takes a third of a core while something runs.
        environment["AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME"] = "0.3"
        if self._users:
            users = {local.USER: "admin", **self._users}
            environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"] = ",".join(map(":".join, users.items()))
        environment["AIRFLOW_CONN_PACS_BROKEN"] = '{"conn_type": "dicom", "host": "127.0.0.1", "port": 104}'
        for name, node in self._connections.items():
            node.destinations["PACSIFIER"] = ("127.0.0.1", receiver)
            environment[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps({"conn_type": "dicom", **self._described(node)})
        if self._dags:
            folders = {"dags-folder": REPO / "dags", "more": self._dags}
            environment["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"] = bundles(folders)
        ports = ["--port", str(port), "--pacs-port", str(pacs), "--receiver-port", str(receiver)]
        ports += ["--deid-port", str(deid)]
        self._start(port, environment, "pacsifier_ops.onebox.up", *ports)
        return self

    def _start(self, port: int, environment: Mapping[str, str], *arguments: str) -> None:
        """Start `python -m arguments`, and wait until the DAGs can be triggered at `port`."""
        self._process = subprocess.Popen(
            [*end_with_parent(), sys.executable, "-m", *arguments],
            env=environment,
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""
        assert self._process.stdout
        while "Ctrl-C stops everything" not in self.said:
            line = self._process.stdout.readline()
            assert line, self.said
            self.said += line
        self.url = f"http://127.0.0.1:{port}"
        self.log_in(local.USER)
        wanted = {DAG_ID, "pacsifier_nightly", "pacsifier_study"}
        self.wait_for(lambda: wanted <= {dag["dag_id"] for dag in self.get("dags?limit=100")["dags"]})

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        said = self._process.communicate(timeout=60)[0]
        assert self._process.returncode == 0, said

    def restart(self, killed: bool = False) -> None:
        """Stop it, or kill all of its processes at once, and start it again in the same home, at the same ports."""
        if killed:
            family = self.family()
            self._process.kill()
            self._process.wait(60)
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            assert not psutil.wait_procs(family, 60)[1]
        else:
            self.__exit__()
        self._token = ""
        self.__enter__()

    def family(self) -> list[psutil.Process]:
        """The processes that it has started, and theirs."""
        return psutil.Process(self._process.pid).children(recursive=True)

    def _described(self, node: EmbeddedPacs) -> dict[str, Any]:
        extra = {"called_aet": node.aet, "calling_aet": "PACSIFIER", "receiver_port": self.ports[2]}
        return {"host": node.host, "port": node.port, "extra": json.dumps(extra)}

    def _call(self, path: str, body: Mapping[str, Any] | None = None, method: str | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, headers, method=method)
        try:
            with self._opener.open(request, timeout=120) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            error.add_note(error.read().decode(errors="replace"))
            error.add_note((self.home / "logs" / "api-server.log").read_text(errors="replace")[-3000:])
            raise

    def token(self, user: str) -> str:
        """What a user shows to the API, as a bearer or as a cookie."""
        login = {"username": user, "password": local.password(self.home, user)}
        return str(self._call("auth/token", login)["access_token"])

    def log_in(self, user: str) -> None:
        """Be this user in all calls that follow."""
        self._token = self.token(user)

    def get(self, path: str) -> Any:
        """What the public API answers."""
        return self._call(f"api/v2/{path}")

    def patch(self, path: str, body: Mapping[str, Any]) -> Any:
        """Change something by the public API."""
        return self._call(f"api/v2/{path}", body, "PATCH")

    def ui(self, path: str) -> Any:
        """What the user interface is told."""
        return self._call(f"ui/{path}")

    def trigger(self, cells: str, **conf: Any) -> str:
        """Take a query table in and start an extraction on it; returns the id of its run."""
        table = self.home / f"{TABLE_NAME}.csv"
        table.write_text(cells, encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PACSIFIER_STATE_ROOT", str(self.home / "state"))
            conf["queryfile"] = take_in(table)
        return self.start(DAG_ID, **conf)

    def start(self, dag: str, **conf: Any) -> str:
        """Start a DAG run; returns its id."""
        return str(self._call(f"api/v2/dags/{dag}/dagRuns", {"conf": conf, "logical_date": None})["dag_run_id"])

    def tasks(self, run: str, task: str = "", dag: str = DAG_ID) -> list[dict[str, Any]]:
        """The task instances of a run, or those of one of its tasks, in order."""
        path = f"dags/{dag}/dagRuns/{urllib.parse.quote(run)}/taskInstances?limit=100"
        found = self.get(path)["task_instances"]
        return sorted((t for t in found if task in ("", t["task_id"])), key=lambda t: (t["task_id"], t["map_index"]))

    def outcome(self, run: str, dag: str = DAG_ID) -> str:
        """The state in which a run ends."""
        path = f"dags/{dag}/dagRuns/{urllib.parse.quote(run)}"
        self.wait_for(lambda: self.get(path)["state"] in ("success", "failed"))
        return str(self.get(path)["state"])

    def question(self, run: str, dag: str) -> dict[str, Any]:
        """The question that a run waits with, once somebody may answer it.

        That is when the scheduler has heard that the process which asked has ended. It takes word of that which comes
        after the answer for the end of the whole task, and the task for failed; nobody but a program answers so soon.
        """
        path = f"dags/{dag}/dagRuns/{urllib.parse.quote(run)}"
        found: list[dict[str, Any]] = []

        def asked() -> bool:
            details = self.get(f"{path}/hitlDetails")["hitl_details"]
            found[:] = [item for item in details if not item["response_received"]]
            assert found or self.get(path)["state"] not in ("success", "failed"), "the run has ended without a question"
            return bool(found)

        self.wait_for(asked)
        (one,) = found
        task = one["task_instance"]["task_id"]
        heard = re.compile(rf"Received executor event .*task_id='{re.escape(task)}', run_id='{re.escape(run)}'")
        log = self.home / "logs" / "scheduler.log"
        self.wait_for(lambda: bool(heard.search(log.read_text(encoding="utf-8"))))
        return one

    def command_line(self, cells: str, node: EmbeddedPacs, out: Path) -> Result:
        """Run the command line at a PACS, under the same state root."""
        config = {
            "server_address": node.host,
            "port": node.port,
            "server_AET": node.aet,
            "AET": "PACSIFIER",
            "move_AET": "ELSEWHERE",
            "move_port": self.ports[2],
            "batch_size": 1000,
            "batch_wait_time": 0,
        }
        (self.home / "config.json").write_text(json.dumps(config))
        (self.home / "table.csv").write_text(cells, encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PACSIFIER_STATE_ROOT", str(self.home / "state"))
            return extract(self.home / "config.json", self.home / "table.csv", out, "--save")

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Wait until something is so, for five minutes at most."""
        until = time.monotonic() + 300
        while not ready():
            assert self._process.poll() is None and time.monotonic() < until
            time.sleep(0.3)
