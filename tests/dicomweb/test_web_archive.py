"""Extraction from a real web archive: Orthanc with its DICOMweb plugin, compared with the same archive by DIMSE."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.extract.test_extract_peers import ROWS
from tests.support import cohort
from tests.support.command import extract, files, finish, start, write_table
from tests.support.web_peers import OrthancWeb

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancWeb]:
    peer = OrthancWeb(tmp_path_factory.mktemp("orthanc"), user="reader", password="s3cret-Pass")
    try:
        peer.load(cohort.build(tmp_path_factory.mktemp("cohort")))
        yield peer
    finally:
        peer.stop()


@pytest.fixture
def config(orthanc: OrthancWeb, tmp_path: Path) -> Path:
    path = tmp_path / "web.json"
    path.write_text(json.dumps({"url": orthanc.url, "login": orthanc.user, "password": orthanc.password}))
    return path


def test_the_same_comes_by_dicomweb_as_by_dimse(orthanc: OrthancWeb, config: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.csv", ROWS)
    by_web = extract(config, table, tmp_path / "web")
    by_dimse = extract(orthanc.config(tmp_path), table, tmp_path / "dimse")
    assert files(by_web.out).keys() == files(by_dimse.out).keys()
    assert by_web.code == by_dimse.code, by_web.said
    # As they lie in the archive, byte by byte, compressed ones too; by DIMSE, it writes some anew.
    kept = orthanc.stored()
    assert {uid: path.read_bytes() for uid, path in files(by_web.out).items()}.items() <= kept.items()
    # Again: nothing is fetched.
    before = {path: path.stat().st_ctime_ns for path in files(by_web.out).values()}
    assert extract(config, table, tmp_path / "web").code == by_web.code
    assert {path: path.stat().st_ctime_ns for path in files(by_web.out).values()} == before


def test_the_command_in_a_process_of_its_own(orthanc: OrthancWeb, config: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.csv", [{"PatientID": "123421"}])
    ended = finish(start(config, table, tmp_path / "out", "--save"), tmp_path / "out")
    assert ended.code == 0, ended.said
    assert files(ended.out) and orthanc.password not in ended.said
    state = Path(os.environ["PACSIFIER_STATE_ROOT"])
    assert not [path for path in state.rglob("*") if path.is_file() and orthanc.password.encode() in path.read_bytes()]
