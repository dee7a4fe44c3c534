"""`pacsifier --upload` to destinations that are no PACS."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.cli.pacsifier import main
from pacsifier_ops.embedded.phantoms import write
from tests.support.embedded import series
from tests.support.faulty_web import FaultyWeb

PASSWORD = "s3cr3t-Word"


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return write(series("P1", n_images=2), tmp_path / "images")


def upload(tmp_path: Path, config: dict[str, Any], *flags: str) -> tuple[int, str]:
    path = tmp_path / "there.json"
    path.write_text(json.dumps(config))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(
            ["-c", str(path), "--upload", "-ud", str(tmp_path / "images"), "-d", str(tmp_path / "logs"), *flags]
        )
    return code, said.getvalue()


def test_to_a_web_archive(images: list[Path], tmp_path: Path) -> None:
    with FaultyWeb(tmp_path / "web", user="sender", password=PASSWORD) as web:
        config = {"url": web.url, "login": web.user, "password": PASSWORD}
        code, said = upload(tmp_path, config)
        assert code == 0 and PASSWORD not in said, said
        assert sorted(web.contents().values()) == sorted(path.read_bytes() for path in images)
        count = web.count("stow")
        assert upload(tmp_path, config)[0] == 0 and web.count("stow") == count  # it is there


def test_to_a_web_archive_in_a_process_of_its_own(images: list[Path], tmp_path: Path) -> None:
    """Where libraries that commands seldom need are kept out."""
    with FaultyWeb(tmp_path / "web") as web:
        config = tmp_path / "web.json"
        config.write_text(json.dumps({"url": web.url}))
        command = [sys.executable, "-m", "pacsifier_ops.cli.pacsifier", "-c", str(config), "--upload"]
        places = ["-ud", str(tmp_path / "images"), "-d", str(tmp_path / "logs")]
        done = subprocess.run([*command, *places], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert len(web.held) == 2


def test_to_a_folder_by_the_json_of_its_connection(images: list[Path], tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    code, said = upload(tmp_path, {"conn_type": "fs", "extra": {"path": str(share)}})
    assert code == 0, said
    assert len([path for path in share.rglob("*") if path.suffix == ".dcm"]) == 2


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"conn_type": "http", "host": "x"}, "nothing can be sent to a connection of type http"),
        ({"conn_type": "fs", "extra": {"path": "share"}}, "path is not the absolute path of a folder"),
        ({"conn_type": "sftp", "host": "x", "port": "22"}, "there.json: port is not a whole number"),
        ({"conn_type": "sftp", "hots": "x"}, "there.json: hots is not known (did you mean host?)"),
        (
            {"conn_type": "sftp", "host": "x", "extra": {"passwort": "y"}},
            "unknown field in extra: passwort; there are ",
        ),
        ({"conn_type": "fs", "extra": {"root": "/mnt"}}, "unknown field in extra: root; there are "),
        ({"conn_type": "fs", "extra": {"pth": "/mnt"}}, "unknown field in extra: pth (did you mean path?)"),
        ({"conn_type": "sftp", "host": 5}, "there.json: host is not text"),
    ],
)
def test_wrong_configurations_are_told(images: list[Path], tmp_path: Path, config: Any, said: str) -> None:
    code, words = upload(tmp_path, config)
    assert code == 2 and said in words


def test_a_destination_is_no_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "share.json"
    config.write_text(json.dumps({"conn_type": "fs", "extra": {"path": str(tmp_path)}}))
    assert main(["-c", str(config), "-q", "x.csv", "-d", str(tmp_path), "--save"]) == 2
    said = capsys.readouterr().err
    assert "share.json: is the JSON of a connection" in said and "is missing" not in said


def test_a_server_that_speaks_no_ssh(images: list[Path], tmp_path: Path) -> None:
    """One sentence is told, and no traceback of a library."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    server.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        config = {"conn_type": "sftp", "host": "127.0.0.1", "port": port, "login": "us", "password": PASSWORD}
        config["extra"] = {"no_host_key_check": True, "retry_wait": 0.01}
        code, words = upload(tmp_path, config)
    assert code == 1 and "Traceback" not in words
    assert f"check that an SFTP server listens at 127.0.0.1 port {port}" in words


def test_flags_of_archives_are_not_ignored(images: list[Path], tmp_path: Path) -> None:
    code, words = upload(tmp_path, {"conn_type": "fs", "extra": {"path": str(tmp_path)}}, "--tls_ca", "ca.pem")
    assert code == 2 and "there: --tls_ca is for archives" in words
