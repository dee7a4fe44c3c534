"""Image, compose file and scripts, checked with the Compose Specification, Airflow's settings, and the project's files.

No Docker engine is needed. Where Docker Compose is at hand it has to take the file too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet
from jsonschema import Draft7Validator

from pacsifier_ops import __version__
from pacsifier_ops.base import settings
from pacsifier_ops.cli import receiver
from pacsifier_ops.onebox import up as local
from tests.support.command import write_table
from tests.support.embedded import series, serving
from tests.support.peers import Orthanc, free_port
from tests.support.places import DATA, REPO

COMPOSE = yaml.safe_load((REPO / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {name for name, service in SERVICES.items() if service["restart"] == "no"}
OURS = {name for name, service in SERVICES.items() if service["image"].startswith("pacsifier-airflow")}
#: Services that are not in the network of the hospital.
INSIDE = ("postgres", "redis", "init", "scheduler", "dag-processor")
SCRIPTS = sorted((REPO / "docker").glob("*.sh"))
DOCKERFILE = (REPO / "Dockerfile").read_text(encoding="utf-8")
PROGRAMS = Path(sys.executable).parent
#: Our settings, by the table that documents them.
KNOWN = set(re.findall(r"^\| (PACSIFIER_\w+)", settings.__doc__ or "", re.MULTILINE))


def variables(text: str) -> dict[str, tuple[str, str]]:
    """Return the variables of a text, each with its operator (`:-` default, `:?` required) and the operator's text."""
    return {name: (kind, rest) for name, kind, rest in re.findall(r"\$\{(\w+)(:-|:\?)?([^}]*)\}", text)}


def env_file(path: Path) -> dict[str, str]:
    """Return the values of lines NAME=VALUE."""
    return dict(re.findall(r"^(\w+)=(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE))


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command without input; it must succeed."""
    options = {"stdin": subprocess.DEVNULL, "start_new_session": True, "timeout": 300, **options}
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def write_config(folder: Path, port: int, called: str, calling: str, move_port: int) -> Path:
    """Write a config.json of a PACS on this machine."""
    config = {"server_address": "127.0.0.1", "port": port, "server_AET": called, "AET": calling, "move_AET": ""}
    path = folder / "config.json"
    path.write_text(json.dumps(config | {"move_port": move_port, "batch_size": 0, "batch_wait_time": 0}))
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a copy of the project's files for Compose, after setup."""
    for name in ("docker", "include"):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("secrets"))
    shutil.copy(REPO / "docker-compose.yml", tmp_path)
    run("sh", tmp_path / "docker" / "setup.sh", env={"PATH": os.environ["PATH"], "TZ": "Europe/Zurich"})
    return tmp_path


# The compose file.


def test_compose_file_follows_the_specification() -> None:
    schema = json.loads((DATA / "compose-spec.json").read_text(encoding="utf-8"))
    errors = [f"{error.json_path}: {error.message}" for error in Draft7Validator(schema).iter_errors(COMPOSE)]
    assert not errors


def test_compose_accepts_the_file_only_after_setup(project: Path) -> None:
    def works(command: list[str]) -> bool:
        found = shutil.which(command[0])
        return found is not None and subprocess.run([*command, "version"], capture_output=True).returncode == 0

    usable = [command for command in (["docker", "compose"], ["docker-compose"]) if works(command)]
    if not usable:
        pytest.skip("Docker Compose is not on this machine")
    environment = {"PATH": os.environ["PATH"], "HOME": str(project)}
    config = [*usable[0], "--profile", "*", "config", "--format", "json"]
    refused = subprocess.run(config, cwd=project, env=environment, capture_output=True, text=True)
    assert refused.returncode != 0 and "PACSIFIER_ALLOWED_" in refused.stderr
    with (project / ".env").open("a") as settings:
        settings.write("PACSIFIER_ALLOWED_AETS=PACS,OTHER\nPACSIFIER_ALLOWED_ADDRESSES=10.1.2.3,10.2.0.0/16\n")
    done = run(*config, cwd=project, env=environment)
    assert json.loads(done.stdout)["services"].keys() == SERVICES.keys()
    (project / ".env").unlink()
    refused = subprocess.run(config, cwd=project, env=environment, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "is missing a value" in refused.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_no_needless_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["user"].partition(":")[0] in ("postgres", "redis", "${PACSIFIER_UID")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "/tmp" in service["tmpfs"]
    assert ("healthcheck" in service) == (name not in ONE_SHOT)
    assert not {"privileged", "cap_add", "network_mode", "pid", "container_name"} & service.keys()
    assert ("hospital" not in service["networks"]) == (name in INSIDE)
    assert ("ports" in service) == (name in ("api-server", "receiver"))
    assert (service["image"].startswith("pacsifier-airflow")) == (service.get("pull_policy") == "never")


def test_services_wait_for_what_they_need() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            kind = "service_completed_successfully" if other in ONE_SHOT else "service_healthy"
            assert how == {"condition": kind}, f"{name} waits for {other}"
        if name in OURS - {"init", "receiver"}:
            assert "init" in service["depends_on"]


def test_every_variable_is_explained_and_has_one_default() -> None:
    text = (REPO / "docker-compose.yml").read_text(encoding="utf-8")
    example = env_file(REPO / "docker" / "env.example")
    found = variables(text)
    assert found.keys() == example.keys()
    for name, value in example.items():
        kind, default = found[name]
        assert (kind, default) == (":-", value) if value else kind == ":?", name
    assert len(re.findall(r"\$\{", text)) == len(re.findall(r"\$\{\w+(?::-|:\?)[^}]+\}", text))
    bare = re.findall(r"(?<!\$)\$(?!\$|\{)\w+", text)
    assert not bare


def test_secrets_come_from_files_that_setup_makes_and_from_nowhere_else(project: Path) -> None:
    made = {path.name for path in (project / "docker" / "secrets").iterdir()}
    declared = COMPOSE["secrets"]
    assert {name: {"file": f"docker/secrets/{name}"} for name in declared} == declared
    assert made == declared.keys() | {"redis_password"}  # other secrets are made of it
    for name, service in SERVICES.items():
        given = set(service.get("secrets", ()))
        used = set(re.findall(r"/run/secrets/(\w+)", json.dumps(service)))
        assert used == given <= made, name
        for variable, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|_KEY|_CONN|_URL_", variable):
                assert variable.endswith(("_CMD", "_FILE")), variable
                assert re.fullmatch(r"(cat )?/run/secrets/\w+", value), variable


def test_every_path_in_the_containers_exists() -> None:
    copied = {target: source for source, target in re.findall(r"^COPY (\w+) (/opt/\S+)$", DOCKERFILE, re.MULTILINE)}
    assert copied.pop("/opt/airflow/dags") == "dags"
    assert copied == {f"/opt/pacsifier/{name}": name for name in ("include", "docker")}
    paths = re.findall(r"/opt/pacsifier/[\w./*-]+", json.dumps(SERVICES) + DOCKERFILE)
    for path in set(paths) - copied.keys() - {"/opt/pacsifier"}:
        assert list(REPO.glob(path.removeprefix("/opt/pacsifier/"))), path
    for service in SERVICES.values():
        assert not service.get("env_file") or (REPO / service["env_file"]).is_file()
        for volume in service["volumes"]:
            source = volume["source"] if isinstance(volume, dict) else volume.partition(":")[0]
            if isinstance(volume, dict):
                assert volume["bind"] == {"create_host_path": False}
                default = re.sub(r"^\$\{\w+:-([^}]*)\}", r"\1", source)
                assert default.startswith("${PACSIFIER_FOLDER:?") or (REPO / default).is_file(), source
            else:
                assert source in COMPOSE["volumes"]


def test_data_and_spool_are_one_file_system_and_pages_see_no_data() -> None:
    def targets(name: str, read_only: bool) -> set[str]:
        return {
            v["target"]
            for v in SERVICES[name]["volumes"]
            if isinstance(v, dict) and v.get("read_only", False) == read_only
        }

    for name in ("worker", "receiver", "triggerer", "init"):
        assert targets(name, False) == {"/data", "/state"}
        assert SERVICES[name]["environment"].get("PACSIFIER_SPOOL") is None  # below the data root
    assert targets("api-server", True) == {"/state"}
    assert targets("api-server", False) == {"/state/cancelled", "/state/requests", "/state/leases"}
    assert "logs:/opt/airflow/logs:ro" in SERVICES["api-server"]["volumes"]


def test_settings_of_ours_are_known() -> None:
    for name in OURS:
        assert {v for v in SERVICES[name]["environment"] if v.startswith("PACSIFIER_")} <= KNOWN


def test_receiver_understands_its_command() -> None:
    command = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", part) for part in SERVICES["receiver"]["command"]]
    assert command[0] in tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]
    arguments = receiver._parser().parse_args(command[1:])
    assert (arguments.aet, arguments.port) == ("PACSIFIER", 11113)
    # The senders are required; without them, nothing starts.
    assert all(given[0].startswith("${PACSIFIER_ALLOWED_") for given in (arguments.allow_aet, arguments.allow_address))


@pytest.mark.airflow
def test_airflow_knows_every_setting_and_understands_every_command(tmp_path: Path) -> None:
    names, commands = set(), []
    for service in SERVICES.values():
        names |= {name for name in service.get("environment", {}) if name.startswith("AIRFLOW__")}
        for command in (service.get("command", []), service.get("healthcheck", {}).get("test", [])[1:]):
            if command[:1] == ["airflow"]:
                commands.append(command[1:])
    assert len(commands) == 7
    code = """
import json, pkgutil, sys
from airflow.cli.cli_parser import get_parser
from airflow.configuration import conf
names, commands = json.loads(sys.argv[1])
for name in names:
    section, option = name.lower().split("__")[1:]
    described = conf.configuration_description[section]["options"]
    assert described[option.removesuffix("_cmd")].get("sensitive", False) == option.endswith("_cmd"), name
for command in commands:
    get_parser().parse_args(command)
pkgutil.resolve_name("airflow.providers.celery.executors.celery_executor:app")
pkgutil.resolve_name(conf.get("core", "auth_manager"))
"""
    environment = {
        **os.environ,
        **local.airflow_environment(tmp_path),
        "AIRFLOW__CORE__EXECUTOR": SERVICES["worker"]["environment"]["AIRFLOW__CORE__EXECUTOR"],
        "AIRFLOW__CORE__AUTH_MANAGER": SERVICES["worker"]["environment"]["AIRFLOW__CORE__AUTH_MANAGER"],
    }
    run(sys.executable, "-c", code, json.dumps([sorted(names), commands]), env=environment)
    check = " ".join(SERVICES["worker"]["healthcheck"]["test"])
    assert "--app airflow.providers.celery.executors.celery_executor.app " in check


# The image.


def test_image_has_the_locked_airflow_and_a_python_that_we_support() -> None:
    match = re.search(r"^ARG AIRFLOW=(\S+)-python(\S+)$", DOCKERFILE, re.MULTILINE)
    assert match
    lock = (REPO / "requirements.lock").read_text(encoding="utf-8")
    assert re.search(rf"^apache-airflow=={re.escape(match[1])} ", lock, re.MULTILINE)
    assert (3, 11) <= tuple(map(int, match[2].split("."))) < (3, 15)


def test_what_the_image_copies_is_there_and_sent_to_the_engine() -> None:
    kept = {line[1:] for line in (REPO / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
        if not source.startswith("--")
    ]
    assert {source.partition("/")[0] for source in sources} == kept
    for source in sources:
        assert (REPO / source).exists(), source


def test_wheel_has_all_files_of_the_package() -> None:
    patterns = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    for path in (REPO / "pacsifier_ops").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".py":
            assert any(fnmatch(path.name, pattern) for pattern in patterns), path


def test_make_tags_the_image_with_the_version() -> None:
    done = run("make", "--no-print-directory", "--dry-run", "-C", REPO, "build-docker")
    assert f"--build-arg VERSION={__version__} " in done.stdout
    assert f"--tag pacsifier-airflow:{__version__} --tag pacsifier-airflow:latest " in done.stdout


def test_only_what_the_image_lacks_is_installed(tmp_path: Path) -> None:
    def missing(lock: Path) -> str:
        return run(sys.executable, REPO / "docker" / "missing.py", lock).stdout

    # Everything is installed here, except packages for other systems, which have markers.
    entries = re.findall(r"^(\S+)==\S+( ; )?", missing(REPO / "requirements.lock"), re.MULTILINE)
    assert all(marker for _, marker in entries)
    lock = tmp_path / "lock"
    absent = "No_such.thing==1.0 \\\n    --hash=sha256:00\n    # via us"
    present = "PyDICOM==3.0.1 \\\n    --hash=sha256:11\n"
    local_only = "no-server==1.0 \\\n    --hash=sha256:00\n    # via -r requirements-up.txt\n"
    lock.write_text(f"# Head\n#   of it\n{present}{local_only}{absent}\npynetdicom==3.0.0 \\\n    --hash=sha256:22\n")
    assert missing(lock).strip() == absent


# The scripts.


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_can_be_read_by_its_shell(script: Path) -> None:
    shell = script.read_text(encoding="utf-8").splitlines()[0].removeprefix("#!/bin/")
    assert shell in ("sh", "bash")
    assert os.access(script, os.X_OK)
    run(shell, "-n", script)
    if checker := shutil.which("shellcheck"):
        run(checker, script)


def test_setup_makes_missing_files_and_leaves_existing_ones(project: Path) -> None:
    def content() -> dict[str, bytes]:
        files = [project / ".env", *sorted((project / "docker" / "secrets").iterdir())]
        return {path.name: path.read_bytes() for path in files}

    secrets, made = project / "docker" / "secrets", content()
    assert len(set(made.values())) == len(made)
    Fernet(made["fernet_key"])
    assert b":" + made["database_password"] + b"@postgres/" in made["database_url"]
    assert b":" + made["redis_password"] + b"@redis:" in made["broker_url"]
    assert made["redis_conf"] == b"requirepass " + made["redis_password"] + b"\n"
    # The users of the containers can read them; no other user of this machine can.
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o444}

    user = os.getuid() or 50000
    chosen = env_file(project / ".env")
    assert chosen["PACSIFIER_TIMEZONE"] == "Europe/Zurich"
    assert chosen["PACSIFIER_UID"] == str(user)
    for name in ("data", "state", "state/requests", "state/leases"):
        status = (Path(chosen["PACSIFIER_FOLDER"]) / name).stat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (user, 0o700)

    (secrets / "broker_url").unlink()
    moved = project / "elsewhere"
    (project / ".env").write_text(re.sub("(PACSIFIER_FOLDER)=.*", rf"\1={moved}", (project / ".env").read_text()))
    again = {**made, ".env": (project / ".env").read_bytes()}
    run("sh", project / "docker" / "setup.sh")
    assert content() == again
    assert (moved / "state" / "leases").is_dir()


def test_single_command_needs_the_folder_it_is_started_in_and_nothing_else(tmp_path: Path) -> None:
    with serving(series("HHL-1"), tmp_path / "images") as pacs:
        work = tmp_path / "work"
        work.mkdir()
        write_config(work, pacs.port, pacs.aet, "PACSIFIER", 0)
        write_table(work / "queries.csv", [{"PatientID": "HHL-1"}])
        command = ["pacsifier", "-s", "-i", "-q", "queries.csv", "-c", "config.json", "-d", "out"]
        environment = {"PATH": f"{PROGRAMS}:/usr/bin:/bin", "HOME": "/nowhere"}
        done = run("sh", REPO / "docker" / "entrypoint.sh", *command, cwd=work, env=environment)
    assert "complete" in done.stdout
    assert {path.name for path in work.iterdir()} == {"config.json", "queries.csv", "out", ".pacsifier"}
    assert len(list((work / "out").rglob("*.dcm"))) == 1
    assert (work / ".pacsifier" / "state" / "trees").is_dir()


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of an Airflow with the image's users and roles, after two runs of the service `init`."""
    home = tmp_path_factory.mktemp("airflow")
    (home / "password").write_text("of the admin")
    environment = {
        **os.environ,
        **local.airflow_environment(home),
        "AIRFLOW__CORE__AUTH_MANAGER": SERVICES["init"]["environment"]["AIRFLOW__CORE__AUTH_MANAGER"],
        "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
    }
    arguments = (home / "password", REPO / "include" / "connections.json")
    for _ in range(2):
        run("bash", REPO / "docker" / "init.sh", *arguments, env=environment)
    return environment


def rows(environment: dict[str, str], query: str) -> list[tuple[Any, ...]]:
    """Return the result of a query of the database."""
    path, _, _ = environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].removeprefix("sqlite:///").partition("?")
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


@pytest.mark.airflow
@pytest.mark.slow
def test_init_makes_connections_pools_permission_and_the_first_user(airflow: dict[str, str]) -> None:
    from werkzeug.security import check_password_hash

    assert {name for (name,) in rows(airflow, "select conn_id from connection")} == {"deid_default", "pacs_default"}
    assert {pool for (pool,) in rows(airflow, "select pool from slot_pool")} >= {"pacs_default", "pacsifier"}
    [(name, password)] = rows(airflow, "select username, password from ab_user")
    assert name == "admin"
    assert check_password_hash(password, "of the admin")
    assert rows(airflow, "select name from ab_view_menu where name = 'PACSIFIER reports'")
    assert Path(airflow["PACSIFIER_DATA_ROOT"]).is_dir()


class DemoOrthanc(Orthanc):
    """Debian's Orthanc with the configuration of the service `orthanc`, at free ports."""

    def command(self) -> list[str]:
        """Write the configuration, and return the command."""
        text = (REPO / "docker" / "orthanc.json").read_text(encoding="utf-8")
        changed = {"DicomPort": self.port, "StorageDirectory": str(self.folder), "IndexDirectory": str(self.folder)}
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(json.loads(text.replace('"receiver"', '"127.0.0.1"')) | changed))
        return [str(self.find_program()), str(path)]


@pytest.mark.peers
@pytest.mark.airflow
@pytest.mark.slow
def test_demo_pacs_is_loaded_and_sends_to_the_receiver(airflow: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    pacs = DemoOrthanc(tmp_path / "orthanc", environment={"RECEIVER_AET": "SITE", "RECEIVER_PORT": str(port)})
    pacs.start()
    try:
        run("bash", REPO / "docker" / "demo.sh", "127.0.0.1", str(pacs.port), "SITE", str(port), env=airflow)
        assert rows(airflow, "select conn_type from connection where conn_id = 'orthanc'") == [("dicom",)]
        config = write_config(tmp_path, pacs.port, pacs.aet, "SITE", port)
        what = ("-s", "-q", REPO / "include" / "queries" / "demo.csv", "-d", "out", "--method", "move")
        done = run(PROGRAMS / "pacsifier", "-c", config, *what, cwd=tmp_path, env=airflow)
    finally:
        pacs.stop()
    assert "complete" in done.stdout


# The installation page.


def test_installation_page_names_existing_services_and_commands() -> None:
    page = (REPO / "docs" / "installation.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^(?:.*&& )?make ((?:[\w-]+ ?)+)", page, re.MULTILINE))
    for line in re.findall(r"^(?:.*&& )?make ([\w -]+)$", page, re.MULTILINE):
        assert set(line.split()) <= targets, line
    for service in re.findall(r"^docker compose (?:exec|logs|run|restart) (?:--?[\w-]+ )*([\w-]+)", page, re.MULTILINE):
        assert service in SERVICES
    known = KNOWN | env_file(REPO / "docker" / "env.example").keys()
    assert set(re.findall(r"PACSIFIER_[A-Z_]+", page)) <= known
    for link in re.findall(r"\]\((?!http)([^)#]+)", page):
        assert (REPO / "docs" / link).exists(), link
    for path in re.findall(r"`((?:docker|include|dags|docs)/[\w./-]+)`", page):
        assert (REPO / path).exists() or path.startswith("docker/secrets"), path
