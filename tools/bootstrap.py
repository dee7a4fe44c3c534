"""Make .venv, exactly as the lock file says, with nothing but Python's standard library to start from.

Debian's python3 comes without venv and pip, so the installer `uv` is fetched from the Python package index
and checked against the hashes of requirements-dev.lock. Nothing is done where .venv is as it should be. Kill
it anywhere and run it again: the stamp that says "done" is taken away first and written last.

The index is UV_DEFAULT_INDEX, UV_INDEX_URL or PIP_INDEX_URL where one is set.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import hashlib
import html.parser
import io
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / ".setup"
RUN_LOCK, DEV_LOCK = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"
INPUTS = (RUN_LOCK, DEV_LOCK, ROOT / "requirements.txt", ROOT / "pyproject.toml")
TIMEOUT = 60.0  # seconds of silence


def index_url() -> str:
    """Address of the package index, without a slash at its end."""
    names = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
    return next((os.environ[n] for n in names if os.environ.get(n)), "https://pypi.org/simple").rstrip("/")


class Links(html.parser.HTMLParser):
    """Collect the links of a page of the simple repository API."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the target of every link."""
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]


def fetch(url: str) -> bytes:
    """Read `url`, which may hold a user and a password.

    A machine without any certificates cannot verify whom it talks to. The hash of what is installed is
    known beforehand, so it is read all the same then, unless a password would go out.
    """
    parts = urllib.parse.urlsplit(url)
    request = urllib.request.Request(
        parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        headers={"Accept": "text/html, application/octet-stream"},
    )
    if parts.username:
        user = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
    try:
        return bytes(urllib.request.urlopen(request, timeout=TIMEOUT).read())
    except urllib.error.URLError as error:
        unverified = isinstance(error.reason, ssl.SSLCertVerificationError)
        if not unverified or has_certificates() or parts.username:
            raise
    blind = ssl._create_unverified_context()
    return bytes(urllib.request.urlopen(request, timeout=TIMEOUT, context=blind).read())


def has_certificates() -> bool:
    """Whether this machine has certificates of its own to verify others with."""
    paths = ssl.get_default_verify_paths()
    return bool(paths.cafile) or bool(paths.capath and any(Path(paths.capath).iterdir()))


def wheel_ending() -> str:
    """How the name of the wheel for this machine ends, as a regular expression."""
    machine = platform.machine().lower()
    if sys.platform == "darwin":
        return f"macosx_[0-9_]+_{machine}"
    libc = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
    return rf"{libc}_[0-9_]+_{machine}(\.[a-z0-9_]+)?"


def fetch_uv() -> bytes:
    """The program `uv` in the version of the lock file, its wheel checked against the lock's hashes."""
    text = DEV_LOCK.read_text(encoding="utf-8")
    entry = re.search(r"^uv==(\S+)((?:[^\n]*\\\n)+[^\n]*)", text, re.MULTILINE)
    if not entry:
        raise SystemExit(f"{DEV_LOCK.name} does not name uv; make it anew with `make lock`")
    version, hashes = entry[1], set(re.findall(r"sha256:([0-9a-f]{64})", entry[2]))
    page = f"{index_url()}/uv/"
    links = Links()
    links.feed(fetch(page).decode("utf-8", "replace"))
    name = re.compile(rf"uv-{re.escape(version)}-py3-none-{wheel_ending()}\.whl")
    for link in links.found:
        url = urllib.parse.urljoin(page, link)
        if name.fullmatch(urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])):
            wheel = fetch(urllib.parse.urldefrag(url).url)
            if hashlib.sha256(wheel).hexdigest() not in hashes:
                raise SystemExit("the package index gives another wheel of uv than the lock file names")
            with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
                return archive.read(f"uv-{version}.data/scripts/uv")
    raise SystemExit(f"the package index has no uv {version} for this machine ({platform.platform()})")


def run(uv: Path, *arguments: str) -> None:
    """Run uv for .venv; its own messages say what is wrong."""
    environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    environment["UV_PYTHON_DOWNLOADS"] = "never"
    environment["UV_DEFAULT_INDEX"] = index_url()
    if has_certificates():  # else uv's own
        environment.setdefault("UV_SYSTEM_CERTS", "1")
    if subprocess.run([str(uv), *arguments, "--quiet"], cwd=ROOT, env=environment, check=False).returncode:
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
        try:
            program = fetch_uv()
        except OSError as error:
            raise SystemExit(
                f"the package index cannot be reached ({error}); check the network, HTTPS_PROXY and "
                "SSL_CERT_FILE, or name another index in PIP_INDEX_URL"
            ) from None
        if VENV.exists():
            shutil.rmtree(VENV)
        uv.parent.mkdir(parents=True)
        uv.write_bytes(program)
        uv.chmod(0o755)
        run(uv, "venv", "--allow-existing", "--python", sys.executable, str(VENV))
    lock = DEV_LOCK if tools == "dev" else RUN_LOCK
    run(uv, "pip", "sync", "--python", str(python), "--require-hashes", str(lock))
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
