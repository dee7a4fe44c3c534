"""Series that one archive tells of and another gives (`fetch_from`), by the command line, with real Orthancs."""

from __future__ import annotations

import functools
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from tests.extract.test_extract_peers import ROWS
from tests.support import cohort
from tests.support.command import check_tree, extract, files, start, write_table
from tests.support.faulty_web import FaultyWeb
from tests.support.peers import Orthanc
from tests.support.truth import Truth
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


def test_searched_by_dimse_and_fetched_by_dicomweb(orthanc: OrthancWeb, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.csv", ROWS[:8])
    plain = extract(dimse(tmp_path, orthanc), table, tmp_path / "plain")
    web(tmp_path, orthanc)
    split = extract(dimse(tmp_path, orthanc, fetch_from="web.json"), table, tmp_path / "split")
    assert split.code == plain.code, split.said
    assert files(split.out).keys() == files(plain.out).keys()
    kept = orthanc.stored()  # as they lie in the archive: it sends them so by DICOMweb only
    assert {uid: path.read_bytes() for uid, path in files(split.out).items()}.items() <= kept.items()
    fetched = [line for line in split.log if line["FilesFound"] != "0"]
    assert {(line["PACS"], line["FetchedFrom"]) for line in fetched} == {("fast", "web")}
    assert orthanc.password not in split.said


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory, held: list[Path]) -> Iterator[Orthanc]:
    """Another archive, which gives to whoever asks by C-MOVE; it lacks a part."""
    peer = Orthanc(tmp_path_factory.mktemp("part"), aet="PART")
    try:
        peer.load([path for path in held if lacks(path) is None])
        yield peer
    finally:
        peer.stop()


@functools.cache
def lacks(path: Path) -> str | None:
    """Series Instance UID of a file that the other archive lacks: a whole series, or the last of another."""
    head = dcmread(path, specific_tags=["SeriesInstanceUID", "PatientID", "InstanceNumber"])
    wanted = head.PatientID == "123421"
    return str(head.SeriesInstanceUID) if wanted and head.get("InstanceNumber") == 2 else None


def test_searched_by_dicomweb_and_fetched_by_move_from_one_that_lacks_images(
    orthanc: OrthancWeb, part: Orthanc, held: list[Path], tmp_path: Path
) -> None:
    table = write_table(tmp_path / "table.csv", [{"PatientID": "123421"}])
    part.config(tmp_path).rename(tmp_path / "part.json")
    there = {path for path in held if dcmread(path, specific_tags=["PatientID"]).get("PatientID") == "123421"}
    missing = {path for path in there if lacks(path)}
    assert missing and missing < there
    got = extract(web(tmp_path, orthanc, fetch_from="part.json"), table, tmp_path / "out", "--save", "--method", "move")
    assert got.code == 3, got.said
    assert len(files(got.out)) == len(there - missing)
    reasons = [line["Reason"] for line in got.log if line["Missing"] != "0"]
    assert reasons and all("missing at part: it does not list" in r and "and web does" in r for r in reasons)


@pytest.mark.parametrize("path", ["", "/dicom-wep", "/dicom-web/studies"])
def test_an_address_that_gives_nothing_is_told(path: str, orthanc: OrthancWeb, tmp_path: Path) -> None:
    """That of Orthanc's own services, one with a slip, and that of the studies; none is told from WADO-RS alone."""
    table = write_table(tmp_path / "table.csv", [{"PatientID": "123421", "StudyDate": "20150601"}])
    url = orthanc.url.removesuffix("/dicom-web") + path
    web(tmp_path, orthanc, url=url)
    got = extract(dimse(tmp_path, orthanc, fetch_from="web.json"), table, tmp_path / "out")
    assert got.code == 3, got.said
    reasons = {line["Reason"].partition(" missing at web: ")[2] for line in got.log if line["Missing"] != "0"}
    [reason] = reasons
    assert f"(HTTP 404 below {url}, where nothing can be searched either: " in reason and "address is wrong" in reason


@pytest.fixture(scope="module")
def long_files(tmp_path_factory: pytest.TempPathFactory, orthanc: OrthancWeb) -> list[Path]:
    """A patient of twelve series of twenty images, who is in the archive as well."""
    found = cohort.build_long(tmp_path_factory.mktemp("long"))
    orthanc.load(found)
    return found


@pytest.mark.parametrize("giver", ["web", "fast"])
def test_killed_while_images_come_and_again(
    giver: str, orthanc: OrthancWeb, long_files: list[Path], tmp_path: Path
) -> None:
    """Twice, and then it runs to its end: every image is there once, and what was there is not fetched again."""
    table, out = write_table(tmp_path / "table.csv", [{"PatientID": cohort.LONG}]), tmp_path / "out"
    truth = Truth.of(long_files)
    with FaultyWeb(tmp_path / "web") as slow:
        slow.load(long_files)
        slow.fail("wado.trickle", (1024, 0.01))
        given = {"url": slow.url, "fetch_from": "fast.json" if giver == "fast" else ""}
        (tmp_path / "web.json").write_text(json.dumps(given))
        fast = dimse(tmp_path, orthanc, **({"fetch_from": "web.json"} if giver == "web" else {}))
        config = fast if giver == "web" else tmp_path / "web.json"
        flags = ("--save", *(("--method", "get") if giver == "fast" else ()))
        there: dict[Path, int] = {}
        for least in (1, 70):
            process = start(config, table, out, *flags)
            try:
                deadline = time.monotonic() + 60
                while len(files(out)) < least:
                    assert process.poll() is None and time.monotonic() < deadline, process.communicate()
                    time.sleep(0.002)
                if giver == "fast":
                    orthanc.send_signal(signal.SIGSTOP)
                assert process.poll() is None, "the run was over before it could be killed"
            finally:
                process.kill()
                process.communicate()
                if giver == "fast":
                    orthanc.send_signal(signal.SIGCONT)
            before, there = there, {path: path.stat().st_mtime_ns for path in files(out).values()}
            assert before.items() <= there.items() and least <= len(there) < len(long_files)
        slow.reset()
        extract(config, table, out, *flags).ended(0)
        instances = truth.of_series(truth.series({}))
        check_tree(out, instances, killed=True)
        assert {path: path.stat().st_mtime_ns for path in there} == there
        if giver == "web":
            assert {uid: path.read_bytes() for uid, path in files(out).items()} == slow.contents()
            got = Counter(instances[path.stem].series for path in there)
            whole = [uid for uid, count in got.items() if count == 20]
            asked = [one.path for one in slow.requests if one.service == "wado"]
            assert whole and not [path for path in asked if set(whole) & {*path.split("/")}]
            assert not [path for path in asked if path.rpartition("/")[2] in {found.stem for found in there}]


def test_errors_come_before_anything_is_sent(orthanc: OrthancWeb, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.csv", [{"PatientID": "123421"}])

    def said(**config: Any) -> str:
        ended = extract(dimse(tmp_path, orthanc, **config), table, tmp_path / "out")
        assert ended.code == 2 and not ended.out.exists()
        assert orthanc.password not in ended.said
        return ended.said

    assert "fast: fetch_from: none.json: cannot be read" in said(fetch_from="none.json")
    assert "fast: fetch_from names itself" in said(fetch_from="fast.json")
    web(tmp_path, orthanc, "third")
    web(tmp_path, orthanc, "second", fetch_from="third.json")
    assert "fast: fetch_from names second, which has a fetch_from itself" in said(fetch_from="second.json")
    (tmp_path / "deid.json").write_text('{"deid_URL": "https://deid"}')
    assert "fast: fetch_from: deid.json: server_address is missing" in said(fetch_from="deid.json")
    assert "fetch_from is not text" in said(fetch_from=["web.json"])
    web(tmp_path, orthanc, url="http://127.0.0.1:9/dicom-web")
    ended = extract(dimse(tmp_path, orthanc, fetch_from="web.json"), table, tmp_path / "out")
    assert ended.code == 1 and "web: cannot be reached" in ended.said and not files(tmp_path / "out")
