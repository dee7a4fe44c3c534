"""Runs of the extract DAG through `dag.test()`, against an embedded PACS."""

from __future__ import annotations

import csv
import json
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from tests import airflow_home
from tests.airflow_home import KUNIGUNDE, THEOBALD, ZEBEDAEUS, Airflow

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.errors import PathRefused
from pacsifier_ops.extract import retrieve
from pacsifier_ops.extract.requests import take_in

pytestmark = pytest.mark.airflow


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return airflow_home.build(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def pacs(files: list[Path]) -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs() as running:
        running.add(files)
        yield running


@pytest.fixture
def airflow(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pacs: EmbeddedPacs
) -> Airflow:
    entered = airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")
    entered.connect(pacs)
    return entered


def log(airflow: Airflow, out: str = "out") -> list[dict[str, str]]:
    """The lines of logs/pacsifier_log.csv."""
    with (airflow.data / out / "logs" / "pacsifier_log.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def images(airflow: Airflow, out: str = "out") -> set[str]:
    """SOP Instance UIDs of the images in an output folder."""
    return {path.stem for path in (airflow.data / out).glob("sub-*/**/*.dcm")}


def of_patients(files: list[Path], *patients: Mapping[str, str]) -> set[str]:
    """SOP Instance UIDs of the cohort's images of some patients."""
    wanted = {patient["patient_id"] for patient in patients}
    return {path.stem for path in files if dcmread(path, stop_before_pixels=True).PatientID in wanted}


TABLE = "PatientID,StudyDate\nZQX-71830-KW,\n,19940331\n,20150231\nZQX-71830-KW,19931224\nNOBODY-77,\n"


def test_a_table_with_a_bad_row(airflow: Airflow, pacs: EmbeddedPacs, files: list[Path]) -> None:
    airflow.table(TABLE)
    run = airflow.run()
    one, two = "sub-ZQX_71830_KW/ses-19931224070809/0000", "sub-YVJ_55912_ZS/ses-19940331070809/0000"
    folders = {f"{one}1-Zwerchfell_711": 3, f"{one}2-Zwerchfell_712": 2, f"{two}1-Zwerchfell_881": 2}
    tree = airflow_home.tree(airflow.data / "out")
    assert images(airflow) == of_patients(files, KUNIGUNDE, ZEBEDAEUS)
    assert Counter(path.rpartition("/")[0] for path in tree if path.endswith(".dcm")) == folders
    (run_log,) = (path for path in tree if path.startswith("logs/runs/"))
    dumps = {f"{folder}.csv" for folder in folders}
    assert {path for path in tree if not path.endswith(".dcm")} == {*dumps, "logs/pacsifier_log.csv", run_log}
    assert [(line["StudyDate"], line["FilesFound"], line["Status"]) for line in log(airflow)] == [
        ("", "3", "complete"),
        ("", "2", "complete"),
        ("19940331", "2", "complete"),
        ("20150231", "0", "bad"),
        ("", "0", "empty"),
    ]
    # A bad row makes the run incomplete; everything before the verdict went well, row by row, series by series.
    assert run.state == "failed"
    assert run.states == {
        "prepare": ["success"],
        "find": ["success"] * 4,
        "plan": ["success"],
        "retrieve": ["success"] * 3,
        "report": ["failed"],
    }
    assert list(run.tasks["find"]) == [0, 1, 2, 3] and list(run.tasks["retrieve"]) == [0, 1, 2]
    assert run.xcoms["prepare"] == {-1: [0, 1, 2, 3]} and run.xcoms["plan"] == {-1: [0, 1, 2]}
    assert run.xcoms["find"][3] == {"empty": 1, "series": 0}
    assert all(airflow_home.simple(value) for task in run.xcoms.values() for value in task.values())


def test_again_over_the_same_folder_fetches_nothing(airflow: Airflow, pacs: EmbeddedPacs) -> None:
    airflow.table("PatientID\nZQX-71830-KW\n")
    first = airflow.run()
    sent, before = len(pacs.sent), airflow_home.tree(airflow.data / "out")
    again = airflow.run()
    assert (first.state, again.state) == ("success", "success")
    assert sent == 5 and len(pacs.sent) == sent
    assert first.xcoms["report"][-1]["received"] == again.xcoms["report"][-1]["present"] == 5
    after = airflow_home.tree(airflow.data / "out")
    assert {path for path in after - before if not path.startswith("logs/runs/")} == set()


def test_strict_stops_at_a_bad_row_before_the_pacs_is_asked(airflow: Airflow, pacs: EmbeddedPacs) -> None:
    airflow.table(TABLE)
    run = airflow.run(strict=True)
    assert run.state == "failed"
    assert run.states["prepare"] == ["failed"] and run.states["report"] == ["failed"]
    assert {state for task in ("find", "plan", "retrieve") for state in run.states[task]} == {"upstream_failed"}
    assert pacs.queries == [] and pacs.peak_associations == 0
    assert not (airflow.data / "out").exists()


def test_only_find_and_describe(airflow: Airflow, pacs: EmbeddedPacs) -> None:
    airflow.table("PatientID\nZQX-71830-KW\n")
    run = airflow.run(retrieve="none", info=True)
    assert run.state == "success"
    assert pacs.retrieves == [] and images(airflow) == set()
    assert len(list(airflow.data.glob("out/sub-*/ses-*/*.csv"))) == 2
    assert [line["Status"] for line in log(airflow)] == ["listed", "listed"]
    assert run.xcoms["report"][-1]["verdict"] == "complete"


def test_only_find(airflow: Airflow, pacs: EmbeddedPacs) -> None:
    airflow.table("PatientID\nZQX-71830-KW\n")
    run = airflow.run(retrieve="none", info=False)
    assert run.state == "success"
    assert {path.partition("/")[0] for path in airflow_home.tree(airflow.data / "out")} == {"logs"}
    assert [line["Status"] for line in log(airflow)] == ["listed", "listed"]


@pytest.mark.parametrize("method", ["get", "move", "auto"])
def test_config_json_in_place_of_a_connection(
    airflow: Airflow, pacs: EmbeddedPacs, files: list[Path], method: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = {
        "server_address": pacs.host,
        "port": pacs.port,
        "server_AET": pacs.aet,
        "AET": "CONFIGURED",
        "move_AET": "ELSEWHERE",
        "move_port": port,
        "batch_size": 20,
        "batch_wait_time": 1,
    }
    (airflow.data / "config.json").write_text(json.dumps(config))
    pacs.destinations["CONFIGURED"] = ("127.0.0.1", port)
    pacs.faults.allowed_calling_aets = {"CONFIGURED"}
    airflow.table("PatientID\nYVJ-55912-ZS\n")
    run = airflow.run(config="config.json", method=method, pacs="no_such_connection")
    assert run.state == "success"
    assert images(airflow) == of_patients(files, ZEBEDAEUS)
    assert {service for service, _, _ in pacs.retrieves} == {"C-MOVE" if method == "move" else "C-GET"}


def test_a_request_taken_in(airflow: Airflow, files: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "Zebedaeus.csv"
    table.write_text("PatientName\nSchnürpel^Zebedäus\n", encoding="utf-8")
    request = take_in(table)
    table.unlink()
    run = airflow.run(queryfile=request)
    assert run.state == "success"
    assert images(airflow) == of_patients(files, ZEBEDAEUS)


@pytest.mark.parametrize("name", ["queryfile", "out_directory", "config"])
@pytest.mark.parametrize("path", ["../outside", "{outside}", "link", "link/below", "sub/../../outside"])
def test_a_path_outside_the_data_root_is_refused(
    airflow: Airflow, pacs: EmbeddedPacs, tmp_path: Path, name: str, path: str
) -> None:
    from pacsifier_ops.operators import base

    outside = tmp_path / "outside"
    outside.mkdir()
    (airflow.data / "link").symlink_to(outside)
    airflow.table("PatientID\nZQX-71830-KW\n")
    with pytest.raises(PathRefused, match=f"^{name}: the path leads outside the data root"):
        base.data_path({name: path.format(outside=outside)}, name)


def test_a_refused_path_stops_the_run(
    airflow: Airflow, pacs: EmbeddedPacs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    airflow.table("PatientID\nZQX-71830-KW\n", "../stray.csv")
    (airflow.data / "link").symlink_to(tmp_path)
    for name, path in (("queryfile", "../stray.csv"), ("out_directory", "link/out"), ("config", str(tmp_path / "c.json"))):
        run = airflow.run(**{name: path})
        assert run.state == "failed" and run.states["prepare"] == run.states["report"] == ["failed"]
        assert f"{name}: the path leads outside the data root" in capfd.readouterr().out
    assert pacs.peak_associations == 0 and not (tmp_path / "out").exists()


def test_an_incomplete_run_fails_unless_that_was_accepted(airflow: Airflow, pacs: EmbeddedPacs, files: list[Path]) -> None:
    airflow.table("PatientID\nZQX-71830-KW\n")
    wanted = of_patients(files, KUNIGUNDE)
    withheld = min(wanted)
    pacs.faults.withhold = {withheld}
    run = airflow.run()
    assert run.state == "failed" and run.states["report"] == ["failed"]
    assert set(run.states["retrieve"]) == {"success"}  # data that are missing are recorded, not raised
    assert images(airflow) == wanted - {withheld}
    run = airflow.run(accept_incomplete=True)
    assert run.state == "success"
    assert run.xcoms["report"][-1]["verdict"] == "incomplete" and run.xcoms["report"][-1]["missing"] == 1
    pacs.faults.withhold = set()
    run = airflow.run()
    assert run.state == "success" and images(airflow) == wanted
    assert run.xcoms["report"][-1]["received"] == 1


@pytest.mark.parametrize("accept_incomplete", [False, True])
def test_a_cohort_that_is_too_large_stops_after_planning(
    airflow: Airflow, pacs: EmbeddedPacs, files: list[Path], accept_incomplete: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    airflow.connect(pacs, max_series=1)
    airflow.table("PatientID\nZQX-71830-KW\n")
    run = airflow.run(accept_incomplete=accept_incomplete)
    assert run.state == "failed"
    assert run.states["plan"] == ["failed"] and run.states["retrieve"] == ["upstream_failed"]
    assert "finds 2 series (about 5 images), more than the 1 that pacs_default allows" in capfd.readouterr().out
    assert run.states["report"] == ["failed"]
    assert pacs.retrieves == [] and images(airflow) == set()
    run = airflow.run(max_series=2)
    assert run.state == "success" and images(airflow) == of_patients(files, KUNIGUNDE)


class Fussy(EmbeddedPacs):
    """Aborts the association when it is asked for one patient."""

    def _on_find(self, event: Any) -> Iterator[Any]:
        if event.identifier.get("PatientID") == THEOBALD["patient_id"]:
            event.assoc.abort()
        else:
            yield from super()._on_find(event)


def test_rows_that_cannot_be_asked_do_not_keep_the_others_back(
    airflow: Airflow, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieve, "BACK_OFF", ())
    airflow.table("PatientID\nZQX-71830-KW\nWPL-20477-TQ\nYVJ-55912-ZS\n")
    with Fussy() as pacs:
        pacs.add(files)
        airflow.connect(pacs)
        run = airflow.run()
    assert run.state == "failed"
    assert run.states["find"] == ["success", "failed", "success"]
    assert run.states["retrieve"] == ["success"] * 3
    assert images(airflow) == of_patients(files, KUNIGUNDE, ZEBEDAEUS)
    (line,) = (line for line in log(airflow) if line["Status"] == "failed")
    assert line["PatientID"] == "WPL-20477-TQ" and "not attempted" in line["Reason"]


def test_the_report_is_written_though_no_row_could_be_asked(
    airflow: Airflow, pacs: EmbeddedPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieve, "BACK_OFF", ())
    airflow.table("PatientID\nZQX-71830-KW\n")
    pacs.faults.reject = "called_aet"
    run = airflow.run()
    assert run.state == "failed"
    assert run.states["prepare"] == ["failed"] and run.states["report"] == ["failed"]
    assert [line["Status"] for line in log(airflow)] == ["failed"]
