"""Whole runs of `pacsifier` against real archives: the exact set of instances, and what happens when things break."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Pacs
from tests.dimse.test_find_peers import expected
from tests.support import cohort
from tests.support.command import Result, check_tree, extract, files, finish, start, write_table
from tests.support.disks import disk
from tests.support.peers import Orthanc, Peer, free_port
from tests.support.places import REPO
from tests.support.processes import until
from tests.support.truth import Truth

pytestmark = pytest.mark.peers

ROWS = (
    {"StudyDate": "20150512", "PatientID": "123421"},
    {"PatientID": "45322"},
    {"StudyDate": "20150512-20150612", "PatientID": "124588"},
    {"ProtocolName": "BEAT_SelfNav*", "Modality": "CT", "PatientBirthDate": "19920611"},
    {"AccessionNumber": "ACC0001"},
    {"AccessionNumber": "A B 1"},
    {"PatientID": "KEYS", "Modality": "CT"},
    {"PatientID": "KEYS", "SeriesNumber": "3"},
    {"PatientID": "TIME?", "StudyTime": "081530"},
    {"PatientID": "NODATE"},
    {"PatientID": "NODESC"},
    {"PatientID": "A-1"},
    {"PatientID": "A.1"},
    {"PatientID": "A 1"},
    {"PatientID": "TWINS", "StudyDate": "20190304-"},
    {"PatientID": "N1"},
    {"PatientName": "Anna Müller", "StudyDate": "20180102"},
    {"PatientID": "N[1]"},
    {"PatientID": "nobody"},
    {"Modality": "NM"},
    {"Modality": "US"},
    {"PatientID": "KEYS", "ImageType": "DERIVED\\SECONDARY"},
    {"PatientID": "KEYS", "SequenceName": "*tfl*"},
    {"PatientID": "KEYS", "DeviceSerialNumber": "SN-0815"},
    {"PatientID": "KEYS", "AcquisitionDate": "20210608"},
    {"PatientID": "KEYS", "SeriesDescription": "capture"},
    {"PatientID": "KEYS", "StudyDescription": "nothing of the kind"},
)


def flags(pacs: Pacs) -> tuple[str, ...]:
    return ("--save", "--info", "--method", pacs.method)


def test_exactly_what_was_asked_for(pacs: Pacs, tmp_path: Path) -> None:
    """All kinds of rows in one table, some of them overlapping: every instance once, nothing else."""
    wanted = [expected(pacs, row) for row in ROWS]
    series = set().union(*(found for found in wanted if found is not None))
    table = write_table(tmp_path / "table.csv", ROWS)
    result = extract(pacs.peer.config(tmp_path), table, tmp_path / "out", *flags(pacs))
    result.ended(3 if None in wanted else 0)
    instances = pacs.truth.of_series(series)
    check_tree(tmp_path / "out", instances)
    assert len(list((tmp_path / "out").glob("sub-*/**/*.csv"))) == len(series)
    logged = {line["SeriesInstanceUID"]: line for line in result.log if line["SeriesInstanceUID"]}
    assert logged.keys() == series
    for uid, line in logged.items():
        count = str(len(pacs.truth.of_series([uid])))
        assert (line["FilesFound"], line["Expected"], line["Missing"]) == (count, count, "0")
        assert line["Completed"] == "True" and line["Status"] == "complete"
    undecidable = [line for line in result.log if line["Status"] == "undecidable"]
    assert len(undecidable) == wanted.count(None)


@pytest.mark.parametrize("number", [1, 4, 5])
def test_documented_examples(archive: Pacs, number: int, tmp_path: Path) -> None:
    table = REPO / "include" / "queries" / f"example{number}.csv"
    rows: dict[int, list[dict[str, str]]] = {
        1: [
            {"StudyDate": "20150512", "PatientID": "123421"},
            {"PatientID": "45322"},
            {"StudyDate": "20180102"},
        ],
        4: [{"StudyDate": "20150512-20150612", "PatientID": "124588"}],
        5: [{"ProtocolName": "BEAT_SelfNav*", "Modality": "CT", "PatientBirthDate": "19920611"}],
    }
    wanted = [expected(archive, row) for row in rows[number]]
    result = extract(archive.peer.config(tmp_path), table, tmp_path / "out").ended(3 if None in wanted else 0)
    check_tree(tmp_path / "out", archive.truth.of_series(set().union(*(found or () for found in wanted))))
    if None in wanted:
        assert any("ProtocolName" in line["Reason"] for line in result.log)
    else:
        assert all(wanted)


@pytest.mark.parametrize(("number", "reason"), [(2, "PatientID"), (3, "line 2")])
def test_documented_examples_that_are_refused(archive: Pacs, number: int, reason: str, tmp_path: Path) -> None:
    table = REPO / "include" / "queries" / f"example{number}.csv"
    result = extract(archive.peer.config(tmp_path), table, tmp_path / "out").ended(2)
    assert reason in result.said
    assert not files(tmp_path / "out")


def test_run_again_and_heal(pacs: Pacs, tmp_path: Path) -> None:
    """A second run fetches nothing; removed, cut and overwritten files come back, and only they are fetched."""
    out, config = tmp_path / "out", pacs.peer.config(tmp_path)
    table = write_table(tmp_path / "table.csv", [{"PatientID": "A-1"}, {"PatientID": "TWINS"}])
    instances = pacs.truth.of_series(
        pacs.truth.series({"PatientID": "A-1"}) | pacs.truth.series({"PatientID": "TWINS"})
    )
    extract(config, table, out, *flags(pacs)).ended(0)
    check_tree(out, instances)
    before = {path: path.stat().st_mtime_ns for path in files(out).values()}
    extract(config, table, out, *flags(pacs)).ended(0)
    assert {path: path.stat().st_mtime_ns for path in files(out).values()} == before
    removed, cut, changed, *_ = sorted(before)
    removed.unlink()
    cut.write_bytes(cut.read_bytes()[:-20])
    content = bytearray(changed.read_bytes())
    content[-1] ^= 0xFF
    changed.write_bytes(content)
    shutil.rmtree(sorted(before)[-1].parent)
    extract(config, table, out, "--resume", *flags(pacs)).ended(0)
    check_tree(out, instances)
    whole = before.keys() - {removed, cut, changed, *sorted(before)[-1].parent.iterdir()}
    assert {path: path.stat().st_mtime_ns for path in whole} == {path: before[path] for path in whole}


def test_two_runs_at_once(pacs: Pacs, tmp_path: Path) -> None:
    """Two runs fetch the same series into the same folder; every instance is there once, and complete."""
    row = {"PatientID": "KEYS"}
    table = write_table(tmp_path / "table.csv", [row])
    config, out = pacs.peer.config(tmp_path), tmp_path / "out"
    runs = [start(config, table, out, *flags(pacs)) for _ in range(2)]
    for run in runs:
        finish(run, out).ended(0)
    check_tree(out, pacs.truth.of_series(pacs.truth.series(row)))


def test_two_runs_at_once_in_two_folders(archive: Pacs, tmp_path: Path) -> None:
    """Two runs share our AE title and port; each gets the series that it requested."""
    rows, runs = [{"PatientID": "KEYS"}, {"PatientID": "TWINS"}], []
    config = archive.peer.config(tmp_path)
    for number, row in enumerate(rows):
        table, out = write_table(tmp_path / f"{number}.csv", [row]), tmp_path / str(number)
        runs.append((start(config, table, out, "--save", "--method", "move"), out))
    for process, out in runs:
        finish(process, out).ended(0)
    for row, (_, out) in zip(rows, runs, strict=True):
        check_tree(out, archive.truth.of_series(archive.truth.series(row)))


def test_one_bad_row_does_not_stop_the_others(archive: Pacs, tmp_path: Path) -> None:
    rows = [{"PatientID": "A-1"}, {"PatientID": "A.1", "StudyDate": "20150231"}]
    config, table = archive.peer.config(tmp_path), write_table(tmp_path / "table.csv", rows)
    assert "line 3" in extract(config, table, tmp_path / "strict", "--save", "--strict").ended(2).said
    assert not files(tmp_path / "strict")
    result = extract(config, table, tmp_path / "out", "--save").ended(3)
    assert [line["Status"] for line in result.log if not line["SeriesInstanceUID"]] == ["bad"]
    check_tree(tmp_path / "out", archive.truth.of_series(archive.truth.series(rows[0])))
    extract(config, table, tmp_path / "out", "--save", "--accept_incomplete").ended(0)


# Failures; with a separate Orthanc, which the tests stop and start


@pytest.fixture(scope="module")
def long_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return cohort.build_long(tmp_path_factory.mktemp("long"))


@pytest.fixture(scope="module")
def fragile_orthanc(tmp_path_factory: pytest.TempPathFactory, long_files: list[Path]) -> Iterator[tuple[Peer, Truth]]:
    peer = Orthanc(
        tmp_path_factory.mktemp("fragile"),
        options={f"DicomAlwaysAllow{service}": True for service in ("Find", "Get", "Move")},
    )
    try:
        peer.load(long_files)
        yield peer, Truth.of(peer.held)
    finally:
        peer.stop()


@pytest.fixture(params=["get", "move"])
def fragile(request: pytest.FixtureRequest, fragile_orthanc: tuple[Peer, Truth]) -> Pacs:
    """Start an Orthanc with a patient of twelve series of twenty images; it accepts every calling AE title."""
    return Pacs(*fragile_orthanc, request.param)


@pytest.fixture
def long_table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "table.csv", [{"PatientID": cohort.LONG}])


def when_underway(process: subprocess.Popen[str], out: Path, peer: Peer) -> None:
    """Freeze the archive as soon as the first series is on disk, in the middle of the run."""
    if not until(lambda: files(out) or process.poll() is not None, pause=0.002):
        process.kill()
    assert process.poll() is None, process.communicate()
    peer.send_signal(signal.SIGSTOP)
    assert process.poll() is None, "the run was over before it could be disturbed"


def test_killed_in_the_middle(fragile: Pacs, long_table: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "out", fragile.peer.config(tmp_path)
    process = start(config, long_table, out, *flags(fragile))
    try:
        when_underway(process, out, fragile.peer)
        process.kill()
        process.communicate()
        there = {path: path.stat().st_mtime_ns for path in files(out).values()}
    finally:
        fragile.peer.send_signal(signal.SIGCONT)
    assert 0 < len(there) < len(fragile.truth.instances)
    extract(config, long_table, out, *flags(fragile)).ended(0)
    check_tree(out, fragile.truth.of_series(fragile.truth.series({})), killed=True)
    assert {path: path.stat().st_mtime_ns for path in there} == there


def test_pacs_silent_for_a_while(fragile: Pacs, long_table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(fragile.peer.config(tmp_path), long_table, out, *flags(fragile))
    try:
        when_underway(process, out, fragile.peer)
        time.sleep(1)
    finally:
        fragile.peer.send_signal(signal.SIGCONT)
    finish(process, out).ended(0)
    check_tree(out, fragile.truth.of_series(fragile.truth.series({})))


def test_pacs_stopped_and_back(fragile: Pacs, long_table: Path, tmp_path: Path) -> None:
    """The connections break during a transfer; the archive is soon back, and the run continues."""
    out = tmp_path / "out"
    process = start(fragile.peer.config(tmp_path), long_table, out, *flags(fragile))
    try:
        when_underway(process, out, fragile.peer)
    finally:
        fragile.peer.stop(signal.SIGKILL)
        fragile.peer.start()
    finish(process, out).ended(0)
    check_tree(out, fragile.truth.of_series(fragile.truth.series({})))


def test_receiver_port_taken_by_a_stranger(archive: Pacs, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.csv", [{"PatientID": "A-1"}])
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", archive.peer.receiver_port))
        stranger.listen()
        result = extract(archive.peer.config(tmp_path), table, tmp_path / "out", "--save", "--method", "move")
    result.ended(1, 3)
    assert str(archive.peer.receiver_port) in result.said
    assert not files(tmp_path / "out")


def refused(pacs: Pacs, tmp_path: Path, *more: str, **changes: object) -> Result:
    table = write_table(tmp_path / "table.csv", [{"PatientID": cohort.LONG}, {"PatientID": "A-1"}])
    result = extract(pacs.peer.config(tmp_path, **changes), table, tmp_path / "out", "--save", *more).ended(1, 3)
    assert not files(tmp_path / "out")
    return result


def test_wrong_called_ae_title(loaded_peer: Callable[[str], tuple[Peer, Truth]], tmp_path: Path) -> None:
    """dcmqrscp refuses it; Orthanc accepts any called AE title by default."""
    pacs = Pacs(*loaded_peer("dcmqrscp"), "get")
    assert "ELSEWHERE" in refused(pacs, tmp_path, server_AET="ELSEWHERE").said


def test_unknown_calling_ae_title(archive: Pacs, tmp_path: Path) -> None:
    assert "STRANGER" in refused(archive, tmp_path, AET="STRANGER").said


def test_unknown_move_destination(fragile_orthanc: tuple[Peer, Truth], tmp_path: Path) -> None:
    """The message says which AE title and port to declare on the PACS, though Orthanc only says 0xC000."""
    port = free_port()
    pacs = Pacs(*fragile_orthanc, "move")
    result = refused(pacs, tmp_path, "--method", "move", AET="UNDECLARED", move_port=port)
    assert "UNDECLARED" in result.said and str(port) in result.said


def test_a_destination_without_a_listener(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.csv", [{"PatientID": "A-1"}])
    peer = Orthanc(tmp_path / "never started")
    result = extract(peer.config(tmp_path), table, tmp_path / "out").ended(1)
    assert str(peer.port) in result.said


def test_disk_full(fragile: Pacs, long_table: Path, tmp_path: Path) -> None:
    """No incomplete file stays; the next run, with more space, is complete."""
    with disk(tmp_path / "small", "size=512k") as out:
        config = fragile.peer.config(tmp_path)
        result = extract(config, long_table, out, *flags(fragile)).ended(1, 3)
        assert "space" in result.said.lower()
        whole = files(out)
        check_tree(out, {uid: fragile.truth.of_series(fragile.truth.series({}))[uid] for uid in whole})
        subprocess.run(["mount", "-o", "remount,size=64m", out], check=True)
        extract(config, long_table, out, *flags(fragile)).ended(0)
        check_tree(out, fragile.truth.of_series(fragile.truth.series({})))


def test_out_folder_is_a_file(archive: Pacs, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.csv", [{"PatientID": "A-1"}])
    (tmp_path / "out").write_text("in the way")
    result = extract(archive.peer.config(tmp_path), table, tmp_path / "out").ended(2)
    assert "out" in result.said and "Traceback" not in result.said


def test_out_folder_not_writable(archive: Pacs, tmp_path: Path) -> None:
    with disk(tmp_path / "read-only", "ro") as out:
        table = write_table(tmp_path / "table.csv", [{"PatientID": "A-1"}])
        result = extract(archive.peer.config(tmp_path), table, out).ended(2)
        assert "out_directory" in result.said and "Traceback" not in result.said


def test_a_cohort_above_the_limit(archive: Pacs, tmp_path: Path) -> None:
    """Nothing is fetched, and the size is reported; a higher limit for the run lets it continue."""
    table = write_table(tmp_path / "table.csv", [{"PatientID": "TWINS"}])
    config, series = archive.peer.config(tmp_path), archive.truth.series({"PatientID": "TWINS"})
    result = extract(config, table, tmp_path / "out", "--save", "--max_series", str(len(series) - 1)).ended(2)
    assert str(len(series)) in result.said and not files(tmp_path / "out")
    extract(config, table, tmp_path / "out", "--save", "--max_series", str(len(series))).ended(0)
    check_tree(tmp_path / "out", archive.truth.of_series(series))
