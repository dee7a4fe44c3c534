"""Make .venv, exactly as the lock file says, from nothing but a Python and the package index.

Debian's python3 comes without venv and pip. So any pip that can be found installs the installer `uv`, checked
against the hashes of requirements-dev.lock: an installed one, the one that Python carries for new environments, or
Debian's, which needs no root to be fetched and unpacked. Nothing is done where .venv is as it should be. Kill it
anywhere and run it again: the stamp that says "done" is taken away first and written last.

The index is UV_DEFAULT_INDEX, UV_INDEX_URL or PIP_INDEX_URL where one is set, else the one of pip's settings.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / ".setup"
RUN_LOCK, DEV_LOCK = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"
INPUTS = (RUN_LOCK, DEV_LOCK, ROOT / "requirements.txt", ROOT / "pyproject.toml")
DEBIAN_WHEELS = Path("/usr/share/python-wheels")


def pips(scratch: Path) -> Iterator[list[str]]:
    """Commands that may be a working pip, the handiest first. pip runs from its wheel as well as installed."""
    if importlib.util.find_spec("pip"):
        yield [sys.executable, "-m", "pip"]
    if spec := importlib.util.find_spec("ensurepip"):
        yield from _from_wheels(Path(str(spec.origin)).parent / "_bundled")
    yield from _from_wheels(DEBIAN_WHEELS)
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        quiet = {"cwd": scratch, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
        subprocess.run(["apt-get", "download", "-q", "python3-pip-whl"], **quiet)  # type: ignore[call-overload]
        for package in scratch.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package.name, "."], **quiet)  # type: ignore[call-overload]
        yield from _from_wheels(scratch / DEBIAN_WHEELS.relative_to("/"))


def _from_wheels(folder: Path) -> Iterator[list[str]]:
    for wheel in sorted(folder.glob("pip-*.whl")):
        yield [sys.executable, f"{wheel}/pip"]


def fetch_uv(folder: Path) -> Path:
    """Install the `uv` of the lock file, its hashes checked, into `folder`; returns the program.

    Raises:
        SystemExit: there is no pip, or it cannot get uv; says what to do.
    """
    entry = re.search(r"^uv==\S+(?:[^\n]*\\\n)+[^\n]*", DEV_LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    if not entry:
        raise SystemExit(f"{DEV_LOCK.name} does not name uv; make it anew with `make lock`")
    (folder / "uv.txt").write_text(entry[0], encoding="utf-8")
    environment = dict(os.environ)
    if index := index_url():
        environment["PIP_INDEX_URL"] = index
    into = [
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
        "--require-hashes",
        "--no-deps",
        "--only-binary=:all:",
    ]
    for pip in pips(folder):
        if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode:
            continue
        command = [*pip, *into, "--target", str(folder / "uv"), "-r", str(folder / "uv.txt")]
        if subprocess.run(command, env=environment, check=False).returncode:
            raise SystemExit(
                "the package index cannot be reached, or has no such uv (see above); check the network, HTTPS_PROXY "
                "and SSL_CERT_FILE, or name another index in PIP_INDEX_URL"
            )
        return folder / "uv" / "bin" / "uv"
    raise SystemExit("no pip was found to start from; as root: apt install python3-venv")


def has_certificates() -> bool:
    """Whether this machine has certificates of its own to verify others with."""
    paths = ssl.get_default_verify_paths()
    return bool(paths.cafile) or bool(paths.capath and any(Path(paths.capath).iterdir()))


def index_url() -> str:
    """Address of the package index that the environment names; empty where it names none."""
    names = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
    return next((os.environ[n] for n in names if os.environ.get(n)), "")


def uv_environment() -> dict[str, str]:
    """The environment for uv: the index of `index_url`, the machine's certificates, and no Python but those there."""
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    environment["UV_PYTHON_DOWNLOADS"] = "never"
    if has_certificates():  # else uv's own
        environment.setdefault("UV_SYSTEM_CERTS", "1")
    if index := index_url():
        environment["UV_DEFAULT_INDEX"] = index
    return environment


def run(uv: Path, *arguments: str) -> None:
    """Run uv for .venv; its own messages say what is wrong."""
    if subprocess.run([str(uv), *arguments, "--quiet"], cwd=ROOT, env=uv_environment(), check=False).returncode:
        raise SystemExit("setup failed: see above; `make setup` again goes on from here")


def setup(dev: bool) -> None:
    """Make .venv hold what the lock file says, with the development tools if `dev` (or if it had them)."""
    content = hashlib.sha256(b"".join(path.read_bytes() for path in INPUTS)).hexdigest()
    place = f"{ROOT} {platform.python_version()}"
    had = STAMP.read_text(encoding="utf-8").splitlines() if STAMP.exists() else []
    python = VENV / "bin" / "python"
    fits = had[:1] == [place] and python.exists()
    tools = "dev" if dev or (fits and had[2:] == ["dev"]) else "run"
    if fits and had[1:] == [content, tools]:
        return

    print("setting up .venv: this takes a minute the first time", flush=True)
    STAMP.unlink(missing_ok=True)
    uv = VENV / "bin" / "uv"
    if not (fits and uv.exists()):
        with tempfile.TemporaryDirectory(dir=ROOT, prefix=".setup-") as folder:
            program = fetch_uv(Path(folder))
            if VENV.exists():
                shutil.rmtree(VENV)
            uv.parent.mkdir(parents=True)
            program.replace(uv)
        run(uv, "venv", "--allow-existing", "--python", sys.executable, str(VENV))
    lock = DEV_LOCK if tools == "dev" else RUN_LOCK
    # Compiled once here: Airflow is half a dozen processes, each of which would else do so whenever it starts.
    run(uv, "pip", "sync", "--python", str(python), "--require-hashes", "--compile-bytecode", str(lock))
    run(uv, "pip", "install", "--python", str(python), "--no-deps", "--editable", str(ROOT))
    # What building leaves beside the code would register the package, and with it Airflow's plugin, a second time.
    shutil.rmtree(ROOT / "pacsifier_ops.egg-info", ignore_errors=True)
    STAMP.write_text("\n".join((place, content, tools)) + "\n", encoding="utf-8")


def main() -> None:
    """Run `setup`, one at a time per repo."""
    parser = argparse.ArgumentParser(description="Make .venv as the lock file says.")
    parser.add_argument("--dev", action="store_true", help="with what tests and lint need")
    arguments = parser.parse_args()
    with RUN_LOCK.open(encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        setup(arguments.dev)


if __name__ == "__main__":
    main()
