"""Series that one archive tells of and another gives (`fetch_from`), by the command line, with real Orthancs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.extract.test_extract_peers import ROWS
from tests.support import cohort
from tests.support.command import extract, files, write_table
from tests.support.web_peers import OrthancWeb

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return cohort.build(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory, held: list[Path]) -> Iterator[OrthancWeb]:
    peer = OrthancWeb(tmp_path_factory.mktemp("orthanc"), user="reader", password="s3cret-Pass")
    try:
        peer.load(held)
        yield peer
    finally:
        peer.stop()


def web(folder: Path, peer: OrthancWeb, name: str = "web", **more: Any) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"url": peer.url, "login": peer.user, "password": peer.password, **more}))
    return path


def dimse(folder: Path, peer: OrthancWeb, name: str = "fast", **more: Any) -> Path:
    return peer.config(folder, **more).rename(folder / f"{name}.json")


def sources(state: Path) -> set[str]:
    """Names of the archives that gave the images, as the ledgers tell."""
    entries = (
        json.loads(line) for path in state.glob("trees/*/ledger/**/*.json*") for line in path.read_text().splitlines()
    )
    return {entry["source"] for entry in entries if "source" in entry}


def test_searched_by_dimse_and_fetched_by_dicomweb(orthanc: OrthancWeb, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.csv", ROWS)
    plain = extract(dimse(tmp_path, orthanc), table, tmp_path / "plain")
    web(tmp_path, orthanc)
    split = extract(dimse(tmp_path, orthanc, fetch_from="web.json"), table, tmp_path / "split")
    assert split.code == plain.code, split.said
    assert files(split.out).keys() == files(plain.out).keys()
    kept = orthanc.stored()  # as they lie in the archive: it sends them so by DICOMweb only
    assert {uid: path.read_bytes() for uid, path in files(split.out).items()}.items() <= kept.items()
    fetched = [line for line in split.log if line["FilesFound"] != "0"]
    assert {(line["PACS"], line["FetchedFrom"]) for line in fetched} == {("fast", "web")}
    assert sources(Path(os.environ["PACSIFIER_STATE_ROOT"])) >= {"web"}
    assert orthanc.password not in split.said
