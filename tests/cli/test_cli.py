"""The command `pacsifier` against the embedded PACS."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacsifier_ops.cli.pacsifier import main
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from tests.support.command import arguments, start, write_table
from tests.support.embedded import config_of, log_of, series, serving
from tests.support.peers import free_port

pytestmark = pytest.mark.archive

IMAGES = [
    *series("P1", n_images=2),
    *series("P1", series_number=2, SeriesDescription="Second"),
    *series("P2", n_images=3),
    *series("P3"),
]


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    with serving(IMAGES, tmp_path / "pacs") as running:
        yield running


@pytest.fixture
def config(pacs: EmbeddedPacs, tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_of(pacs, move_port=free_port())))
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "table.csv", [{"PatientID": "P?"}])


def images(out: Path) -> int:
    return sum(1 for _ in out.glob("sub-*/**/*.dcm"))


def test_info_alone_writes_dumps_and_fetches_nothing(
    config: Path, table: Path, pacs: EmbeddedPacs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(config, table, tmp_path / "out", "--info")) == 0
    assert len(list((tmp_path / "out").glob("sub-*/**/*.csv"))) == 4
    assert (images(tmp_path / "out"), pacs.retrieves) == (0, [])
    said = capsys.readouterr().out
    assert "4 series found" in said and "complete: 1 rows, 4 series; no image was to be fetched" in said


def test_all_flags_of_pacsifier_are_accepted(
    config: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--save", "--info", "--resume", "--verbose")
    assert main(arguments(config, table, tmp_path / "out", *flags)) == 0
    said = capsys.readouterr().out
    assert "complete: 1 rows, 4 series; of 7 images expected 0 were there, 7 received, 0 missing" in said
    assert images(tmp_path / "out") == 7
    assert main(["-s", "-i", "-v", *arguments(config, table, tmp_path / "out")]) == 0
    assert "7 were there, 0 received" in capsys.readouterr().out


def test_the_command_loads_nothing_that_decodes_pixels(config: Path, table: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "pacsifier_ops.cli.pacsifier", "--save"]
    done = subprocess.run(
        [*command, *map(str, arguments(config, table, tmp_path / "out"))], capture_output=True, text=True
    )
    assert (done.returncode, images(tmp_path / "out")) == (0, 7)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    packages = {name.partition(".")[0] for name in loaded if "." in name}  # an import that failed has no modules below
    assert {"pydicom", "pynetdicom", "pyarrow"} <= packages
    assert not packages & {"numpy", "PIL", "requests", "pandas"}


def test_an_accession_of_several_studies_is_fetched_whole_and_reported(
    tmp_path: Path, state_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = [
        *series("P1", study_date="20200101", n_images=2, AccessionNumber="A1"),
        *series("P1", study_date="20200102", AccessionNumber="A1"),
        *series("P2", study_date="20200103", AccessionNumber="A1"),
        *series("P3", study_date="20200103", AccessionNumber="A2"),
    ]
    with serving(several, tmp_path / "pacs") as pacs:
        table = write_table(tmp_path / "table.csv", [{"AccessionNumber": "A1"}, {"AccessionNumber": "A2"}])
        config = tmp_path / "config.json"
        config.write_text(json.dumps(config_of(pacs)))
        assert main(arguments(config, table, tmp_path / "out", "--save")) == 0
    assert images(tmp_path / "out") == 5
    assert "0 missing; 1 row(s) with several studies, all included" in capsys.readouterr().out
    (run,) = (state_root / "runs").iterdir()
    accounts, summary = (json.loads((run / f"{name}.json").read_text()) for name in ("accounts", "summary"))
    assert [(row["studies"], row["series"]) for row in accounts["rows"]] == [(3, 3), (1, 1)]
    assert summary["totals"]["rows_with_several_studies"] == 1
    page = (run / "report.html").read_text()
    assert "rows that found more than one study; all of them count" in page and "of 3 studies" in page


def test_exit_codes(config: Path, table: Path, pacs: EmbeddedPacs, tmp_path: Path) -> None:
    def code(*flags: str, rows: Path = table) -> int:
        return main(arguments(config, rows, tmp_path / "out", "--save", *flags))

    assert code("--max_series", "3") == 2
    pacs.faults.withhold = {str(IMAGES[0].SOPInstanceUID)}
    assert code() == 3
    assert code("--accept_incomplete") == 0
    pacs.faults.withhold = set()
    assert code("--max_series", "1") == 0, "what is there does not count"
    bad = write_table(tmp_path / "bad.csv", [{"PatientID": "P1"}, {"PatientID": "*"}])
    assert code(rows=bad) == 3
    assert code("--strict", rows=bad) == 2
    assert code(rows=tmp_path / "missing.csv") == 2
    assert main(arguments(tmp_path / "missing.json", table, tmp_path / "out", "--save")) == 2


def test_flags_say_how_a_table_is_read_and_errors_show_the_cells(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("Patient ID,Study Date\nP1,02.01.2018\n4.5322E+4,\n")
    flags = ("--info", "--date_format", "DD.MM.YYYY", "--match", "exact", "--hidden_rows", "skip")
    assert main(arguments(config, table, tmp_path / "out", *flags)) == 3
    said = capsys.readouterr().err
    assert "query table: column 1 was read as PatientID" in said and "[4.5322E+4]" in said
    assert main(arguments(config, table, tmp_path / "out", *flags, "--strict")) == 2
    assert "line 3, PatientID: a number in powers of ten" in (said := capsys.readouterr().err) and "[4.5322E+4]" in said
    assert main(arguments(config, table, tmp_path / "out", "--info")) == 2  # no row without the format
    assert main(arguments(config, table, tmp_path / "out", "--info", "--sheet", "2")) == 2
    assert "leave sheet out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "nothing to do"),
        (("--save", "--date_format", "DDMMYY"), "invalid choice"),
        (("--save", "--max_series", "0"), "not a number from 1"),
        (("--save", "--method", "fly"), "invalid choice"),
        (("--save", "--move"), "not allowed with argument"),
        (("--save", "--upload"), "not allowed with argument"),
        (("--move", "--upload"), "not allowed with argument"),
        (("--upload", "--upload_directory", "x", "--info"), "--info is only for"),
        (("--probe", "--info"), "--info is only for"),
        (("--save", "--destination", "x"), "--destination needs --move"),
        (("--move", "--refetch"), "--refetch needs --save"),
        (("--probe", "--match", "exact"), "--match needs --queryfile"),
    ],
)
def test_wrong_combinations_of_flags_are_refused_with_a_sentence(
    flags: tuple[str, ...],
    words: str,
    config: Path,
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments(config, table, tmp_path / "out", *flags))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "error:" in said and words in said


@pytest.mark.parametrize("flag", ["--save", "--move", "--info"])
def test_without_a_query_table_nothing_is_found(flag: str, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-c", str(config), flag])
    assert "--queryfile is missing" in capsys.readouterr().err


def rewritten(config: Path, name: str, **changes: object) -> Path:
    """Write another config.json beside the first."""
    path = config.with_name(name)
    path.write_text(json.dumps(json.loads(config.read_text()) | changes))
    return path


@pytest.mark.parametrize("asked", [False, True], ids=["counts only", "destination asked"])
def test_moving_to_another_node(
    asked: bool,
    config: Path,
    table: Path,
    pacs: EmbeddedPacs,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with EmbeddedPacs(aet="ELSEWHERE", folder=tmp_path / "elsewhere") as second:
        pacs.destinations["ELSEWHERE"] = (second.host, second.port)
        move = rewritten(config, "move.json", move_AET="" if asked else "ELSEWHERE")
        there = rewritten(config, "there.json", port=second.port, server_AET="ELSEWHERE")
        flags = ["--move", "--info", *(["--destination", str(there)] if asked else [])]
        assert main(arguments(move, table, tmp_path / "out", *flags)) == 0
        assert sorted(second.stored) == sorted(str(image.SOPInstanceUID) for image in IMAGES)
        said = capsys.readouterr().out
        assert "complete: 1 rows, 4 series; of 7 images expected 0 were there, 7 sent, 0 missing" in said
        assert images(tmp_path / "out") == 0 and len(list((tmp_path / "out").glob("sub-*/**/*.csv"))) == 4
        assert main(arguments(move, table, tmp_path / "out", *flags)) == 0
        assert "7 were there, 0 sent" in capsys.readouterr().out
        assert main(arguments(move, table, tmp_path / "out", *flags, "--resend")) == 0
        assert len(second.offered) == 14
    assert main(arguments(config, table, tmp_path / "out", "--move")) == 2
    assert "no destination to move the images to" in capsys.readouterr().err


def test_uploading_a_folder(
    config: Path, table: Path, pacs: EmbeddedPacs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(config, table, tmp_path / "saved", "--save", "--info")) == 0
    with EmbeddedPacs(aet="SECOND", folder=tmp_path / "second") as second:
        there = rewritten(config, "there.json", port=second.port, server_AET="SECOND")
        flags = [
            "-c",
            str(there),
            "--upload",
            "--upload_directory",
            str(tmp_path / "saved"),
            "-d",
            str(tmp_path / "log"),
        ]
        capsys.readouterr()
        assert main(flags) == 0
        said = capsys.readouterr().out
        assert "4 series to be sent" in said and "complete: 4 series; of 7 images expected 0 were there, 7 sent" in said
        assert "passed over: 8 file(s), not DICOM" in said  # dumps and logs
        assert sorted(second.stored) == sorted(str(image.SOPInstanceUID) for image in IMAGES)
        assert [line["Status"] for line in log_of(tmp_path / "log")] == ["complete"] * 4
        assert main(flags) == 0 and "7 were there, 0 sent" in capsys.readouterr().out
        assert len(second.offered) == 7
        (tmp_path / "saved" / "torn.dcm").write_bytes(
            next((tmp_path / "saved").glob("sub-*/**/*.dcm")).read_bytes()[:400]
        )
        assert main(flags) == 3
        assert "torn.dcm: bad: the file is truncated" in capsys.readouterr().err
        assert main([*flags, "--accept_incomplete"]) == 0
    assert main([*flags[:3], "-ud", str(tmp_path / "nowhere")]) == 2
    assert "upload_directory is not a folder" in capsys.readouterr().err
    assert main(flags) == 1
    assert "nothing listens there" in capsys.readouterr().err


def test_an_upload_that_is_interrupted_goes_on_next_time(config: Path, table: Path, tmp_path: Path) -> None:
    assert main(arguments(config, table, tmp_path / "saved", "--save")) == 0
    with EmbeddedPacs(aet="SECOND", folder=tmp_path / "second") as second:
        there = rewritten(config, "there.json", port=second.port, server_AET="SECOND")
        second.faults.delay = 0.5
        flags = ("--upload", "--upload_directory", str(tmp_path / "saved"))
        process = start(there, table, tmp_path / "log", *flags)
        while not second.stored:
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert "Traceback" not in errors and log_of(tmp_path / "log")
        second.faults.delay = 0
        assert main(arguments(there, table, tmp_path / "log", *flags)) == 0
        assert set(second.stored) == {str(image.SOPInstanceUID) for image in IMAGES}


def test_probing(config: Path, pacs: EmbeddedPacs, capsys: pytest.CaptureFixture[str], state_root: Path) -> None:
    assert main(["-c", str(config), "--probe"]) == 0
    said = capsys.readouterr().out
    assert "C-GET" in said and "calling_aet" in said
    assert len(list(state_root.glob("runs/*/probe.html"))) == 1
    pacs.stop()
    assert main(["-c", str(config), "--probe"]) == 1


def test_a_series_that_fails_does_not_end_the_others(
    config: Path, table: Path, pacs: EmbeddedPacs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pacs.faults.withhold = {str(image.SOPInstanceUID) for image in IMAGES if image.PatientID == "P2"}
    assert main(arguments(config, table, tmp_path / "out", "--save")) == 3
    states = sorted((line["FilesFound"], line["Status"]) for line in log_of(tmp_path / "out"))
    assert states == [("0", "incomplete"), ("1", "complete"), ("1", "complete"), ("2", "complete")]
    assert "3 of 3 instances missing" in capsys.readouterr().err


def test_an_interrupted_extraction_keeps_its_images_and_goes_on_next_time(
    config: Path, table: Path, pacs: EmbeddedPacs, tmp_path: Path
) -> None:
    pacs.faults.delay = 0.5
    process = start(config, table, tmp_path / "out", "--save")
    while not pacs.sent:
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopping; what has arrived is kept" in errors and "Traceback" not in errors
    assert said.splitlines()[-2].startswith("log:") and log_of(tmp_path / "out")
    pacs.faults.delay = 0
    assert main(arguments(config, table, tmp_path / "out", "--save")) == 0
    assert images(tmp_path / "out") == 7
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix == ".part"]
