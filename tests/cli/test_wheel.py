"""The wheel alone is enough for an administrator: DAG files, samples and settings come with it, of one version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pacsifier_ops.cli import init
from tests.support import airflow_home
from tests.support.places import REPO

DAGS = {path.name for path in (REPO / "dags").glob("*.py")}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of the tracked files, install it into an environment of its own, and return its programs.

    What it needs is taken from the environment of the tests.
    """
    source = tmp_path_factory.mktemp("source")
    for name in ("dags", "include", "pacsifier_ops", "scripts"):
        shutil.copytree(REPO / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt", "requirements-cluster.txt"):
        shutil.copy(REPO / name, source)
    environment = source / "environment"
    uv = [str(Path(sys.executable).parent / "uv")]
    isolated = ["--no-build-isolation"] if _has("setuptools") else []
    run([*uv, "build", "--quiet", "--wheel", *isolated, "--python", sys.executable, str(source)])
    (wheel,) = (source / "dist").glob("*.whl")
    run([*uv, "venv", "--quiet", "--python", sys.executable, str(environment)])
    run([*uv, "pip", "install", "--quiet", "--no-deps", "--python", str(environment / "bin" / "python"), str(wheel)])
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))
    return environment / "bin"


def _has(module: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode == 0


def run(command: list[str], **more: str) -> str:
    """Run a command outside of the source tree; it must succeed. Return what it prints."""
    environment = {key: value for key, value in {**os.environ, **more}.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder, by path."""
    found = {
        str((Path(where) / name).relative_to(folder)): (Path(where) / name).read_bytes()
        for where, _, names in os.walk(folder, followlinks=True)
        for name in names
    }
    return {name: content for name, content in found.items() if not name.endswith(".pyc")}


@pytest.mark.slow
def test_dags_and_samples_of_the_wheel_are_those_of_the_source(programs: Path, tmp_path: Path) -> None:
    command = [str(programs / "pacsifier-init"), "--dags", f"{tmp_path}/dags", "--samples", f"{tmp_path}/samples"]
    said = run(command)
    assert files(tmp_path / "dags") == files(REPO / "dags") and f"{tmp_path}/dags/pacsifier_extract.py" in said
    assert files(tmp_path / "samples") == files(REPO / "include")
    (tmp_path / "dags" / "pacsifier_extract.py").write_text("an earlier version")
    (tmp_path / "samples" / "config.json").write_text("mine")
    run(command)
    assert files(tmp_path / "dags") == files(REPO / "dags")
    assert (tmp_path / "samples" / "config.json").read_text() == "mine"


@pytest.mark.airflow
@pytest.mark.slow
def test_airflow_reads_the_dags_of_the_wheel(
    programs: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    run([str(programs / "pacsifier-init"), "--dags", str(tmp_path)])
    code = f"""
import sys
from pathlib import Path
import pacsifier_ops
from airflow.dag_processing.dagbag import DagBag
from pacsifier_ops.plugins.bundle import PacsifierDagBundle

assert Path(sys.prefix) in Path(pacsifier_ops.__file__).parents
bundle = PacsifierDagBundle(name="pacsifier")
assert Path(sys.prefix).resolve() in bundle.path.parents
for folder in (bundle.path, {str(tmp_path)!r}):
    bag = DagBag(folder)
    print("found", len(bag.dags), bag.import_errors)
"""
    said = run([str(programs / "python"), "-c", code], **airflow_home.migrated(tmp_path_factory.getbasetemp())[1])
    assert re.findall("^found .*", said, re.MULTILINE) == [f"found {len(DAGS)} {{}}"] * 2


def test_init_says_why_it_cannot_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dags").write_text("a file")
    assert init.main(["--dags", str(tmp_path / "dags")]) == 2
    assert "pacsifier-init: " in capsys.readouterr().err
