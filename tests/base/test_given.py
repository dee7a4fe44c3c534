"""Files, folders and numbers that people name: whatever they are, an answer comes, and it is in words."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import socket
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsifier_ops.base import settings
from pacsifier_ops.base.config import CONFIG_KEYS, EXTRA_FIELDS, node_from_connection, read_config
from pacsifier_ops.base.errors import ConfigError, InputError, PathRefused, TreeError
from pacsifier_ops.base.files import LEVELS, below, confined
from pacsifier_ops.base.given import Unusable, json_of, open_given, read_given, yaml_of
from pacsifier_ops.cli import (
    add_karnak_tags,
    anonymize,
    create_dicomdir,
    extract_reports,
    get_pseudonyms,
    move_dumps,
    pacsifier,
    receiver,
)
from pacsifier_ops.cli.options import number_type
from pacsifier_ops.deid import devices, profile
from pacsifier_ops.dicom import scan
from pacsifier_ops.extract.requests import table_path, take_in
from pacsifier_ops.nightly.options import OPTIONS as NIGHTLY
from pacsifier_ops.nightly.options import read_nightly_options, read_table
from pacsifier_ops.nightly.projects import _last_run
from pacsifier_ops.pseudonyms import deid_api, linkage, mapping
from pacsifier_ops.pseudonyms.local import Style
from pacsifier_ops.query.options import Refused
from pacsifier_ops.query.problems import TableRefused
from pacsifier_ops.query.table import parse_query_table, read_query_table
from pacsifier_ops.study.project import read_project
from tests.support.processes import PATIENCE

#: Everything that reads a file which somebody named.
READERS: dict[str, Callable[[Path], object]] = {
    "config": read_config,
    "De-ID configuration": deid_api.read_deid_config,
    "query table": read_query_table,
    "request": take_in,
    "mapping file": mapping.read_mapping,
    "new_ids": linkage.read_new_ids,
    "day_shift": linkage.read_day_shifts,
    "devices": devices.load,
    "profile": profile.load,
    "project file": read_project,
    "options of a night": lambda path: read_nightly_options(path, NIGHTLY, lambda name: None),
    "table of a night": read_table,
}
KINDS = ("missing", "folder", "pipe", "socket", "device", "loop", "nul", "large", "binary", "deep")


@pytest.fixture
def odd() -> Iterator[Callable[[str], Path]]:
    """Makes a file of a kind that nobody should name; its path is short, as that of a socket must be."""
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as listener:
        folder = Path(name)

        def make(kind: str) -> Path:
            path = folder / "given.yaml"
            if kind == "folder":
                path.mkdir()
            elif kind == "pipe":
                os.mkfifo(path)
            elif kind == "socket":
                listener.bind(str(path))
            elif kind == "device":
                path.symlink_to("/dev/zero")
            elif kind == "loop":
                path.symlink_to(path)
            elif kind == "nul":
                path = folder / "given\0.yaml"
            elif kind == "large":
                with path.open("wb") as stream:
                    stream.truncate(1 << 40)
            elif kind == "binary":
                path.write_bytes(b"\xff\xfe\xfd\0\x80" * 10)
            elif kind == "deep":
                path.write_text("[" * 100_000)
            return path

        yield make


def in_time(call: Callable[[], object]) -> BaseException | None:
    """What a call raises; it must not wait for anybody."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it waits"
    return raised[0] if raised else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READERS)
def test_every_reader_answers_at_once_and_in_words(
    odd: Callable[[str], Path], name: str, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PACSIFIER_HOME", str(tmp_path))
    path = odd(kind)
    error = in_time(lambda: READERS[name](path))
    if name == "request" and kind in ("binary", "deep"):
        assert error is None  # kept as it is; reading it says so
        return
    assert isinstance(error, InputError), error
    text = "; ".join(error.reasons) if isinstance(error, Refused) else str(error)
    words = {
        "missing": "No such file",
        "folder": "a folder",
        "pipe": "a named pipe",
        "socket": "a socket",
        "device": "no regular file|is not followed|a link",
        "loop": "leads to itself|is not followed|a link",
        "nul": "no path can have",
        "large": "too large",
        "binary": "",
        "deep": "",
    }[kind]
    assert any(word in text for word in words.split("|")), text
    assert len(text) < 1000


@pytest.mark.parametrize("read", [read_project, READERS["options of a night"], read_table])
def test_what_others_put_into_a_folder_is_not_read_through_a_link(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    (tmp_path / "theirs").write_text("project: p\n")
    (tmp_path / "given.yaml").symlink_to(tmp_path / "theirs")
    with pytest.raises(Refused) as raised:
        read(tmp_path / "given.yaml")
    assert "a link" in raised.value.reasons[0]


def test_a_pipe_for_the_answer_of_a_night_holds_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "result.json")
    assert in_time(lambda: _last_run(tmp_path)) is None
    assert _last_run(tmp_path) == ""


def test_a_file_is_looked_at_before_and_after_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("text")
    regular = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)  # it was one when it was looked at
    error = in_time(lambda: open_given(path))
    assert isinstance(error, Unusable) and "a named pipe" in str(error)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("loop", "leads to itself"),
        ("loop/below", "leads to itself"),
        ("a\0b", "no path can have"),
        ("\ud800", "no path can have"),
        ("../outside", "outside"),
        ("/etc/passwd", "outside"),
        ("out", "outside"),
        ("x" * 300, "cannot be used"),
        ("x/" * 3000, "cannot be used|folders deep"),
        ("x/" * (LEVELS + 1), "folders deep"),
    ],
)
def test_paths_that_no_parameter_may_be(tmp_path: Path, path: str, words: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "loop").symlink_to("loop")
    (root / "out").symlink_to("/etc")
    with pytest.raises(PathRefused) as raised:
        confined(path, root, "in_folder")
    assert str(raised.value).startswith("in_folder: ") and any(word in str(raised.value) for word in words.split("|"))
    assert confined("a/b", root, "x") == root.resolve() / "a" / "b"


@given(st.text())
def test_any_text_is_a_path_below_the_root_or_refused(text: str) -> None:
    root = Path(tempfile.gettempdir()).resolve()
    try:
        found = confined(text, root, "queryfile")
    except PathRefused:
        return
    assert found == root or root in found.parents


def nested(root: Path, levels: int) -> None:
    """Make folders in each other, with a file in the last one."""
    root.mkdir()
    handle = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=handle)
        lower = os.open("d", os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = lower
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=handle))
    os.close(handle)


def test_folders_in_each_other(tmp_path: Path) -> None:
    nested(tmp_path / "few", LEVELS - 1)
    nested(tmp_path / "many", 1_050)
    assert sum(1 for _ in below(tmp_path / "few")) == LEVELS
    with pytest.raises(TreeError, match="in each other"):
        list(below(tmp_path / "many"))
    found = scan.scan(tmp_path / "many")
    assert [file.reason for file in found.bad_files] == [scan.TOO_DEEP] and not found.series
    assert not scan.scan(tmp_path / "few").bad_files
    # pytest's own way to remove them calls itself for each.
    path = tmp_path / "many"
    while path.name != "file":
        path = path / ("d" if (path / "d").is_dir() else "file")
        if len(path.parts) > 2_000:
            break
    for one in (path, *path.parents):
        if one == tmp_path:
            break
        one.unlink() if one.is_file() else one.rmdir()


CONFIG: dict[str, Any] = dict(zip(CONFIG_KEYS, ("pacs", 104, "PACS", "ME", "", 11113, 0, 0), strict=True))

#: What JSON can hold, numbers beyond all measure among it.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([1e308, -1, 10**30]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("AET", []),
        ("AET", 5),
        ("AET", True),
        ("server_address", ["pacs"]),
        ("server_address", "pa\0cs"),
        ("server_AET", {"a": 1}),
        ("port", True),
        ("port", [104]),
        ("port", "1_04"),
        ("port", 104.5),
        ("port", "9" * 5_000),
        ("batch_size", 1e308),
        ("batch_size", 10**30),
        ("batch_size", "inf"),
        ("batch_wait_time", 1e308),
        ("batch_wait_time", 8 * 24 * 3600),
        ("batch_wait_time", "1e400"),
        ("batch_wait_time", False),
        ("batch_wait_time", math.nan),
        ("batch_wait_time", math.inf),
    ],
)
def test_a_configuration_with_a_value_that_is_none(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CONFIG, key: value}))
    with pytest.raises(ConfigError, match=r"config"):
        read_config(path)


def test_numbers_may_still_be_written_as_text_or_with_a_point(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CONFIG, "port": "104", "batch_size": 5.0, "batch_wait_time": " 0.5 "}))
    node = read_config(path)
    assert (node.port, node.batch_size, node.batch_wait_time) == (104, 5, 0.5)


@given(st.sampled_from(CONFIG_KEYS), JSON)
def test_any_value_in_a_configuration_is_understood_or_refused(key: str, value: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps({**CONFIG, key: value}))
        try:
            node = read_config(path)
        except ConfigError:
            return
    assert 0 <= node.batch_wait_time <= 7 * 24 * 3600 and isinstance(node.batch_size, int)


@given(st.sampled_from(EXTRA_FIELDS), JSON)
def test_any_value_in_a_connection_is_understood_or_refused(key: str, value: object) -> None:
    try:
        node = node_from_connection("pacs", "localhost", 104, {"called_aet": "PACS", key: value})
    except ConfigError:
        return
    assert max(node.connect_timeout, node.acse_timeout, node.dimse_timeout, node.retry_wait) <= 7 * 24 * 3600


@given(st.sampled_from(deid_api.EXTRA_FIELDS), JSON)
def test_any_value_in_a_connection_of_the_deid_service_is_understood_or_refused(key: str, value: object) -> None:
    try:
        deid_api.service_from_connection("deid", "https://deid.example/api", None, None, {key: value}, "token")
    except ConfigError:
        return


@given(
    st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | JSON.map(lambda value: json.dumps(value).encode())
)
@pytest.mark.parametrize("name", [name for name in READERS if name != "request"])
def test_any_content_is_understood_or_refused(name: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "given.yaml"
        path.write_bytes(data)
        try:
            READERS[name](path)
        except InputError:
            return


@given(st.dictionaries(st.sampled_from(["patience", "max_series", "project", "without", "window"]), JSON, max_size=3))
def test_any_value_in_a_project_file_is_understood_or_refused(values: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items()))
        try:
            read_project(path)
        except Refused:
            return


def test_json_and_yaml_beyond_the_rules() -> None:
    for data in (b"NaN", b"[Infinity]", b"9" * 10_000, b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"", b"{]"):
        with pytest.raises(Unusable):
            json_of(data)
    for data in (b"[" * 100_000, b"- " * 50_000, b"\xff\xfe\0", b"a: b: c", b"\0", b"*a", b"? " * 50_000):
        with pytest.raises(Unusable):
            yaml_of(data)
    assert json_of(b'\xef\xbb\xbf{"a": 1}') == {"a": 1} and yaml_of(b"") is None


def test_a_file_may_grow_no_larger_than_it_should(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(11))
    assert read_given(path, 11) == bytes(11)
    with pytest.raises(Unusable, match="too large"):
        read_given(path, 10)


def workbook(edit: Callable[[bytes], bytes]) -> bytes:
    """A workbook of one column and one row, its sheet's XML changed."""
    stream, changed = io.BytesIO(), io.BytesIO()
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.append(["PatientID"])
    book.active.append(["1"])
    book.save(stream)
    with zipfile.ZipFile(stream) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, edit(content) if name == "xl/worksheets/sheet1.xml" else content)
    return changed.getvalue()


def after(more: bytes, end: bytes = b"</sheetData>") -> Callable[[bytes], bytes]:
    """Puts something behind the rows, or into them."""
    return lambda content: content.replace(end, more)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (after(b" " * (80 << 20) + b"</sheetData>"), "too large once unpacked"),
        (after(b'</sheetData><mergeCells><mergeCell ref="A1:XFD1048576"/></mergeCells>'), "merged cells"),
        (after(b"</sheetData><mergeCells><mergeCell  ref = '$A$1:$XFD$1048576' /></mergeCells>"), "merged cells"),
        (after(b'<row r="1000000"><c r="I1000000"><v>1</v></c></row></sheetData>'), "too large"),
        (after(b'<row r="99999999999"><c r="A99999999999"><v>1</v></c></row></sheetData>'), "too large"),
        (lambda content: b'<!DOCTYPE a [<!ENTITY b "c">]>' + content, "cannot be read"),
    ],
)
def test_a_workbook_that_would_fill_the_memory(edit: Callable[[bytes], bytes], words: str) -> None:
    data = workbook(edit)
    assert len(data) < 200_000
    with pytest.raises(TableRefused, match=words):
        parse_query_table(data)
    assert len(parse_query_table(workbook(lambda content: content)).rows) == 1


@given(st.binary(max_size=300), st.integers(0, 4000), st.integers(0, 300))
def test_a_damaged_workbook_is_understood_or_refused(junk: bytes, place: int, cut: int) -> None:
    data = workbook(lambda content: content)
    try:
        parse_query_table(data[:place] + junk + data[place + cut :])
    except TableRefused:
        return


@pytest.mark.parametrize(
    "data",
    [
        b"PatientID\n" + b"1" * 300_000,
        b"PatientID\n" + b"," * 300_000,
        b'PatientID\n"' + b"x\n" * 100_000,
        b"PatientID," * 50_000,
        b"PatientID\n\xff\x81\x8d",
        b"\xff\xfe" + b"\0\xd8" * 100,
        b"PatientID\r\r\r\r1\r",
    ],
)
def test_tables_that_are_none(data: bytes) -> None:
    try:
        table = parse_query_table(data)
    except TableRefused as error:
        assert len(str(error)) < 5_000
    else:
        assert table.problems or table.rows


def test_numbers_of_commands_have_bounds() -> None:
    parse = number_type(0, 10)
    assert parse("10") == 10 and number_type(1, 5, int)("5") == 5
    for text in ("nan", "inf", "-inf", "1e308", "-1", "x", ""):
        with pytest.raises(argparse.ArgumentTypeError):
            parse(text)


def test_numbers_of_settings_and_styles_have_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_MAX_SERIES", "9" * 5_000)
    with pytest.raises(ConfigError):
        settings.max_series()
    for length in (10**9, 10.0, True):
        with pytest.raises(ConfigError):
            Style(length=length)  # type: ignore[arg-type]


def test_a_request_that_names_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    os.mkfifo(tmp_path / "data" / "queries.csv")
    error = in_time(lambda: read_query_table(table_path("queries.csv")))
    assert isinstance(error, TableRefused) and "a named pipe" in str(error)
    for name in ("a\0b", "../up", ""):
        with pytest.raises(InputError):
            table_path(name)


@pytest.mark.parametrize("kind", ["loop", "long", "deep"])
def test_no_command_takes_a_path_that_is_none(
    odd: Callable[[str], Path], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = {"loop": odd("loop"), "long": Path("x" * 300), "deep": Path("x/" * 300)}[kind]
    for command in (
        [anonymize.main, "--in_folder", path, "--out_folder", "out"],
        [anonymize.main, "--in_folder", "in", "--out_folder", path],
        [pacsifier.main, "--config", "config.json", "--upload", "--upload_directory", path],
        [get_pseudonyms.main, "--mode", "local", "--project_name", "p", "--in_folder", path],
        [create_dicomdir.main, "--in_folder", path, "--out_folder", "out"],
        [move_dumps.main, "--data_folder", path, "--info_folder", "out"],
        [extract_reports.main, "--data_folder", path],
        [add_karnak_tags.main, "--in_folder", path, "--album_name", "A"],
        [receiver.main, "--aet", "A", "--port", "1", "--spool", path],
    ):
        with pytest.raises(SystemExit) as ended:
            command[0](list(map(str, command[1:])))  # type: ignore[operator]
        assert ended.value.code == 2 and ": the path " in capsys.readouterr().err
