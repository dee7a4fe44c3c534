"""Runs of the extract DAG through `dag.test()`, against an embedded PACS."""

from __future__ import annotations

import csv
import json
import socket
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from pacsifier_ops.archive import attempts
from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import PacsTimeout, PathRefused, Unsupported
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.extract.requests import take_in
from pacsifier_ops.runs.folder import Run
from tests.support import airflow_home
from tests.support.airflow_home import KUNIGUNDE, THEOBALD, ZEBEDAEUS, Airflow
from tests.support.embedded import config_of
from tests.support.shared import Crooked

pytestmark = [pytest.mark.airflow, pytest.mark.slow]


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


TABLE = "PatientID,StudyDate\nZQX-71830-KW,\n,19940331\n,20150231\nZQX-71830-KW,19931224\nNOBODY-77,\n"


def test_a_table_with_a_bad_row(airflow: Airflow, pacs: EmbeddedPacs, files: list[Path]) -> None:
    airflow.table(TABLE)
    run = airflow.run()
    one, two = "sub-ZQX_71830_KW/ses-19931224070809/0000", "sub-YVJ_55912_ZS/ses-19940331070809/0000"
    folders = {f"{one}1-Zwerchfell_711": 3, f"{one}2-Zwerchfell_712": 2, f"{two}1-Zwerchfell_881": 2}
    tree = airflow_home.tree(airflow.data / "out")
    assert images(airflow) == airflow_home.of_patients(files, KUNIGUNDE, ZEBEDAEUS)
    assert Counter(path.rpartition("/")[0] for path in tree if path.endswith(".dcm")) == folders
    (run_log,) = (path for path in tree if path.startswith("logs/runs/") and path.endswith(".csv"))
    dumps = {f"{folder}.csv" for folder in folders}
    logs = {"logs/pacsifier_log.csv", "logs/pacsifier_log.parquet", run_log, f"{run_log.removesuffix('.csv')}.parquet"}
    assert {path for path in tree if not path.endswith(".dcm")} == dumps | logs
    assert [(line["StudyDate"], line["FilesFound"], line["Status"]) for line in log(airflow)] == [
        ("", "3", "complete"),
        ("", "2", "complete"),
        ("19940331", "2", "complete"),
        ("20150231", "0", "bad"),
        ("", "0", "empty"),
    ]
    # A bad row makes the run incomplete. All tasks before the verdict succeed.
    assert run.state == "failed"
    assert run.states == {
        "prepare": ["success"],
        "find": ["success"] * 4,
        "plan": ["success"],
        "approve": ["success"],
        "route": ["success"],
        "retrieve": ["success"] * 3,
        "move": ["skipped"],
        "report": ["failed"],
    }
    assert list(run.tasks["find"]) == [0, 1, 2, 3] and list(run.tasks["retrieve"]) == [0, 1, 2]
    assert run.xcoms["prepare"] == {-1: [0, 1, 2, 3]} and run.xcoms["plan"] == {-1: [0, 1, 2]}
    assert run.xcoms["find"][3] == {"empty": 1, "series": 0}
    assert run.labels == {
        "find": ["row 2", "row 3", "row 5", "row 6"],
        "retrieve": ["rows 2, 5: series 1, CT", "rows 2, 5: series 2, CT", "row 3: series 3, CT"],
    }
    assert run.links == {f"/pacsifier/runs/pacsifier_extract/{quote(run.run_id)}"}
    assert all(airflow_home.simple(value) for task in run.xcoms.values() for value in task.values())


def test_a_second_run_into_the_same_folder_fetches_nothing(airflow: Airflow, pacs: EmbeddedPacs) -> None:
    airflow.table("PatientID\nZQX-71830-KW\n")
    first = airflow.run()
    sent, before = len(pacs.sent), airflow_home.tree(airflow.data / "out")
    again = airflow.run()
    assert (first.state, again.state) == ("success", "success")
    assert sent == 5 and len(pacs.sent) == sent
    assert first.xcoms["report"][-1]["received"] == again.xcoms["report"][-1]["present"] == 5
    after = airflow_home.tree(airflow.data / "out")
    assert {path for path in after - before if not path.startswith("logs/runs/")} == set()


def test_a_strict_run_stops_at_a_bad_row_before_the_first_query(airflow: Airflow, pacs: EmbeddedPacs) -> None:
    airflow.table(TABLE)
    run = airflow.run(strict=True)
    assert run.state == "failed"
    assert run.states["prepare"] == ["failed"] and run.states["report"] == ["failed"]
    assert {state for task in ("find", "plan", "retrieve") for state in run.states[task]} == {"upstream_failed"}
    assert pacs.queries == [] and pacs.peak_associations == 0
    assert not (airflow.data / "out").exists()


def test_params_say_how_a_table_is_read_and_only_the_run_folder_has_its_cells(
    airflow: Airflow, pacs: EmbeddedPacs, capfd: pytest.CaptureFixture[str], state_root: Path
) -> None:
    airflow.table("patient id,Study Date\nZQX-71830-KW,24.12.1993\n")
    run = airflow.run(date_format="DD.MM.YYYY", match="exact")
    assert run.state == "success" and run.xcoms["report"][-1]["received"] == 5
    airflow.table("PatientID,StudyDate\n,24.12.93\n")
    assert airflow.run(date_format="DD.MM.YYYY").state == "failed"
    said = capfd.readouterr()
    assert "line 2, StudyDate: not a date" in said.out and "24.12.93" not in said.out + said.err
    assert any("[24.12.93]" in path.read_text() for path in (state_root / "runs").glob("*/problems.txt"))


@pytest.mark.parametrize(
    ("conf", "told"),
    [
        ({"out_folder": "out"}, "conf: out_folder is not known (did you mean out_directory?); nothing was done"),
        ({"my key": 1}, "conf: a key that is no plain word is not known; nothing was done"),
        ({"resend": True}, "retrieve is save: resend applies to move only; switch it off, or set retrieve to move"),
        ({"destination": "pacs_default"}, "destination applies to move only; leave it empty, or set"),
        ({"retrieve": "none", "method": "get"}, "method applies to save only; leave it empty, or set"),
        ({"config": "c.json", "pacs": "pacs_other"}, "both pacs and config are given; leave one of them out"),
    ],
    ids=["unknown", "unspeakable", "resend", "destination", "method", "node"],
)
def test_what_does_not_go_together_is_refused_with_a_sentence(
    airflow: Airflow, pacs: EmbeddedPacs, capfd: pytest.CaptureFixture[str], conf: dict[str, Any], told: str
) -> None:
    airflow.table("PatientID\nZQX-71830-KW\n")
    run = airflow.run(**conf)
    assert run.state == "failed" and run.states["prepare"] == ["failed"]
    assert told in capfd.readouterr().out
    assert pacs.peak_associations == 0 and not (airflow.data / "out").exists()


def test_settings_may_come_from_an_airflow_variable(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    airflow.table("PatientID\nZQX-71830-KW\n")
    monkeypatch.setenv("AIRFLOW_VAR_PACSIFIER", '{"max_series": 1}')
    assert airflow.run().states["plan"] == ["failed"]
    assert "finds 2 series (about 5 images), more than the 1" in capfd.readouterr().out
    monkeypatch.setenv("PACSIFIER_MAX_SERIES", "2")
    assert airflow.run().state == "success"  # the environment overrides the variable
    for refused in ('{"max_serie": 1}', '{"data_root": "/"}', '{"window": null}', "[]"):
        monkeypatch.setenv("AIRFLOW_VAR_PACSIFIER", refused)
        assert airflow.run().states["prepare"] == ["failed"]
    told = capfd.readouterr().out
    assert "the Airflow variable pacsifier has unknown settings: max_serie" in told and "settings: data_root" in told
    assert "window: neither text nor a whole number" in told and "is not a JSON object" in told
    monkeypatch.setenv("AIRFLOW_VAR_PACSIFIER", '{"verify_days": "some"}')  # needed much later
    assert airflow.run().states["prepare"] == ["failed"]
    assert "verify_days is not a whole number; correct it in the Airflow variable" in capfd.readouterr().out


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


def test_a_selection_decides_before_anything_is_fetched(airflow: Airflow, pacs: EmbeddedPacs) -> None:
    from pacsifier_ops.extract.choosing import lists_of
    from pacsifier_ops.extract.flowing import sizes_of
    from pacsifier_ops.runs.progress import progress_of
    from pacsifier_ops.web import pages
    from pacsifier_ops.web.views import RunView

    airflow.table("PatientID,anchor_date,row_id\nZQX-71830-KW,19931224,zanzibar\nYVJ-55912-ZS,19931224,quagga\n")
    (airflow.data / "selections").mkdir()
    rules = "days: [0, 1]\nseries: {exclude: [{name: wombat, SeriesNumber: 2}]}\n"
    (airflow.data / "selections" / "rules.yaml").write_text(rules)
    run = airflow.run(selection="selections/rules.yaml")
    assert run.state == "success"
    assert [(line["FilesFound"], line["Status"]) for line in log(airflow)] == [("3", "complete"), ("0", "unselected")]
    assert run.xcoms["find"][0] == {"found": 1, "series": 1, "left_out": 1}
    assert run.xcoms["find"][1] == {"unselected": 1, "series": 0, "left_out": 1}
    assert not any(word in str(run.xcoms) for word in ("zanzibar", "quagga", "wombat"))
    (folder,) = (Run(path.parent) for path in settings.state_root().glob("runs/*/flow.csv"))
    view = RunView(
        "pacsifier_extract",
        "r",
        "running",
        progress=progress_of(folder),
        readable=True,
        lists=list(lists_of(folder)),
        cohort=sizes_of(folder),
    )
    page = pages.run_page("/pacsifier", "", view)
    assert "1 left out: excluded by wombat" in page and "1 left out: outside days" in page
    assert 'href="/pacsifier/runs/pacsifier_extract/r/lists/flow.svg"' in page
    assert "1 series, about 3 images" in page


@pytest.mark.parametrize("method", ["get", "move"])
def test_config_json_in_place_of_a_connection(
    airflow: Airflow, pacs: EmbeddedPacs, files: list[Path], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_PACS_DEFAULT")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    receiver = {"AET": "CONFIGURED", "move_AET": "ELSEWHERE", "move_port": port}
    config = config_of(pacs, **receiver, batch_size=20, batch_wait_time=1)
    (airflow.data / "config.json").write_text(json.dumps(config))
    pacs.destinations["CONFIGURED"] = ("127.0.0.1", port)
    pacs.faults.allowed_calling_aets = {"CONFIGURED"}
    airflow.table("PatientID\nYVJ-55912-ZS\n")
    run = airflow.run(config="config.json", method=method)
    assert run.state == "success"
    assert images(airflow) == airflow_home.of_patients(files, ZEBEDAEUS)
    assert {service for service, _, _ in pacs.retrieves} == {"C-MOVE" if method == "move" else "C-GET"}


def test_a_request_of_the_intake(airflow: Airflow, files: list[Path], tmp_path: Path) -> None:
    table = tmp_path / "Zebedaeus.csv"
    table.write_text("PatientName\nSchnürpel^Zebedäus\n", encoding="utf-8")
    request = take_in(table)
    table.unlink()
    run = airflow.run(queryfile=request)
    assert run.state == "success"
    assert images(airflow) == airflow_home.of_patients(files, ZEBEDAEUS)


@pytest.mark.parametrize("name", ["queryfile", "out_directory", "config"])
@pytest.mark.parametrize("path", ["../outside", "{outside}", "link", "link/below", "sub/../../outside"])
def test_a_path_outside_the_data_root_is_refused(
    airflow: Airflow, pacs: EmbeddedPacs, tmp_path: Path, name: str, path: str
) -> None:
    from pacsifier_ops.operators.extract import ExtractPrepareOperator

    outside = tmp_path / "outside"
    outside.mkdir()
    (airflow.data / "link").symlink_to(outside)
    airflow.table("PatientID\nZQX-71830-KW\n")
    dag = airflow_home.fresh_dag()
    params = dag.params.dump() | {"queryfile": "table.csv", name: path.format(outside=outside)}
    context = {"dag": dag, "dag_run": SimpleNamespace(conf={}), "params": params}
    with pytest.raises(PathRefused, match=f"^{name}: the path leads outside the data root"):
        ExtractPrepareOperator(task_id="prepare").work(Run.named("run"), context)
    assert pacs.peak_associations == 0 and not list(outside.iterdir())


def test_a_refused_path_stops_the_run(airflow: Airflow, pacs: EmbeddedPacs, capfd: pytest.CaptureFixture[str]) -> None:
    airflow.table("PatientID\nZQX-71830-KW\n", "../stray.csv")
    run = airflow.run(queryfile="../stray.csv")
    assert run.state == "failed" and run.states["prepare"] == run.states["report"] == ["failed"]
    assert "queryfile: the path leads outside the data root" in capfd.readouterr().out
    assert pacs.peak_associations == 0


def test_a_missing_connection_is_named(airflow: Airflow, capfd: pytest.CaptureFixture[str]) -> None:
    airflow.table("PatientID\nZQX-71830-KW\n")
    assert airflow.run(pacs="pacs_nowhere").states["prepare"] == ["failed"]
    assert "AirflowFailException: there is no connection pacs_nowhere; make one of type dicom" in capfd.readouterr().out


def test_an_incomplete_run_fails_unless_that_was_accepted(
    airflow: Airflow, pacs: EmbeddedPacs, files: list[Path]
) -> None:
    airflow.table("PatientID\nZQX-71830-KW\n")
    wanted = airflow_home.of_patients(files, KUNIGUNDE)
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


def test_a_cohort_that_is_too_large_stops_after_planning(
    airflow: Airflow, pacs: EmbeddedPacs, files: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    airflow.connect(pacs, max_series=1)
    airflow.table("PatientID\nZQX-71830-KW\n")
    run = airflow.run(accept_incomplete=True)  # this param is about instances that are missing at the end
    assert run.state == "failed"
    assert run.states["plan"] == ["failed"] and run.states["retrieve"] == ["upstream_failed"]
    assert "finds 2 series (about 5 images), more than the 1 that pacs_default allows" in capfd.readouterr().out
    assert run.states["report"] == ["failed"]
    assert pacs.retrieves == [] and images(airflow) == set()
    run = airflow.run(max_series=2)
    assert run.state == "success" and images(airflow) == airflow_home.of_patients(files, KUNIGUNDE)


@pytest.mark.parametrize("asked", [False, True], ids=["counts only", "destination asked"])
def test_moving_to_another_node(airflow: Airflow, pacs: EmbeddedPacs, tmp_path: Path, asked: bool) -> None:
    airflow.table("PatientID\nZQX-71830-KW\n")
    with EmbeddedPacs(aet="RESEARCH", folder=tmp_path / "research") as research:
        pacs.destinations["RESEARCH"] = (research.host, research.port)
        airflow.connect(pacs, move_aet="" if asked else "RESEARCH")
        airflow.connect(research, "research")
        conf = {"retrieve": "move", "destination": "research" if asked else None, "info": False}
        run = airflow.run(**conf)
        assert run.state == "success" and sorted(research.stored) == sorted(pacs.sent) and len(pacs.sent) == 5
        assert run.states["move"] == ["success"] * 2 and run.states["retrieve"] == ["skipped"]
        assert run.xcoms["report"][-1]["received"] == 5
        assert all(airflow_home.simple(value) for task in run.xcoms.values() for value in task.values())
        run = airflow.run(**conf)
        assert run.state == "success" and run.xcoms["report"][-1]["present"] == 5 and len(pacs.sent) == 5
        assert airflow.run(**conf, resend=True).state == "success" and len(pacs.sent) == 10
    assert images(airflow) == set() and [line["FilesFound"] for line in log(airflow)] == ["3", "2"]


def test_a_move_that_is_not_complete_fails(airflow: Airflow, pacs: EmbeddedPacs, tmp_path: Path) -> None:
    airflow.table("PatientID\nZQX-71830-KW\n")
    with EmbeddedPacs(aet="RESEARCH", folder=tmp_path / "research") as research:
        pacs.destinations["RESEARCH"] = (research.host, research.port)
        airflow.connect(pacs, move_aet="RESEARCH")
        research.faults.store_status = 0xC000
        run = airflow.run(retrieve="move")
    assert run.state == "failed" and set(run.states["move"]) == {"success"} and run.states["report"] == ["failed"]
    assert [line["Status"] for line in log(airflow)] == ["incomplete", "incomplete"]


class Fussy(EmbeddedPacs):
    """Aborts the association at a query for one patient."""

    def _on_find(self, event: Any) -> Iterator[Any]:
        if event.identifier.get("PatientID") == THEOBALD["patient_id"]:
            event.assoc.abort()
        else:
            yield from super()._on_find(event)


def test_failed_queries_of_rows_do_not_stop_the_others(
    airflow: Airflow, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "BACK_OFF", ())
    airflow.table("PatientID\nZQX-71830-KW\nWPL-20477-TQ\nYVJ-55912-ZS\n")
    with Fussy() as pacs:
        pacs.add(files)
        airflow.connect(pacs)
        run = airflow.run()
    assert run.state == "failed"
    assert run.states["find"] == ["success", "failed", "success"]
    assert run.states["retrieve"] == ["success"] * 3
    assert images(airflow) == airflow_home.of_patients(files, KUNIGUNDE, ZEBEDAEUS)
    (line,) = (line for line in log(airflow) if line["Status"] == "failed")
    assert line["PatientID"] == "WPL-20477-TQ" and "not attempted" in line["Reason"]


def test_the_report_is_written_if_all_queries_failed(
    airflow: Airflow, pacs: EmbeddedPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "BACK_OFF", ())
    airflow.table("PatientID\nZQX-71830-KW\n")
    pacs.faults.reject = "called_aet"
    run = airflow.run()
    assert run.state == "failed"
    assert run.states["prepare"] == ["failed"] and run.states["report"] == ["failed"]
    assert [line["Status"] for line in log(airflow)] == ["failed"]


def test_nothing_of_the_cohort_is_in_airflows_home(
    airflow: Airflow,
    pacs: EmbeddedPacs,
    files: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """No error reveals a patient in Airflow; the run's folder has the details."""
    monkeypatch.setattr(attempts, "BACK_OFF", ())

    def run(cells: str, *states: str, **conf: Any) -> None:
        table = tmp_path / "Kunigunde Wurzelbacher.csv"
        table.write_text(cells, encoding="utf-8")
        assert airflow.run(queryfile=take_in(table), **conf).state in (states or ("failed",))

    whole = "PatientID,PatientName,AccessionNumber\nZQX-71830-KW,Wurzelbacher*,QACC990171\n,Zebedäus Schnürpel,\n"
    run(whole, "success", out_directory="whole")
    # Cells and names of columns that are refused.
    run("PatientName,StudyDate\nWurzelbacher\\Kunigunde,19370231\n,19370419\n", strict=True)
    run("ZQX-71830-KW,Wurzelbacher^Kunigunde,19370419\nYVJ-55912-ZS,Schnürpel^Zebedäus,19481107\n")
    run('PatientName\n"Wurzelbacher\n')
    # Files where folders should be: of a patient, of the logs.
    for number, name in enumerate(("sub-ZQX_71830_KW", "logs")):
        blocked = airflow.data / f"blocked{number}" / name
        blocked.parent.mkdir(exist_ok=True)
        blocked.write_text("")
        run(whole, out_directory=f"blocked{number}")
    # Values that make pydicom warn with the value in the warning.
    with Crooked(SeriesNumber="Wurzelbacher", SOPInstanceUID="1.2.Wurzelbacher") as crooked:
        crooked.add(files)
        airflow.connect(crooked)
        run(whole, "success", "failed", out_directory="crooked")

    problems = "".join(path.read_text() for path in tmp_path.glob("state/runs/*/problems.txt"))
    assert "UserWarning: Invalid value for VR IS: 'Wurzelbacher'" in problems
    (airflow.home / "said.txt").write_text("".join(capfd.readouterr()))
    words = airflow_home.identifiers(files) | {"Kunigunde Wurzelbacher"}
    assert airflow_home.traces(tmp_path / "state" / "runs", words)  # the search does find them in the run folders
    assert airflow_home.traces(airflow.home, words) == []


def test_the_boundary_hides_the_texts_of_foreign_exceptions(airflow: Airflow, state_root: Path) -> None:
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    from pacsifier_ops.operators.base import boundary

    def told(error: Exception, passes: bool) -> str:
        with pytest.raises(AirflowException) as raised, boundary(Run.named("run")):
            warnings.warn("Wurzelbacher warns", stacklevel=1)
            try:
                raise ValueError("Wurzelbacher was here")
            except ValueError as cause:
                raise error from cause
        assert isinstance(raised.value, AirflowFailException) != passes
        return "".join(traceback.format_exception(raised.value))

    # Only what may pass by itself is tried again.
    for error, words, passes in (
        (KeyError("Wurzelbacher"), "unexpected KeyError; the details are in", False),
        (FileNotFoundError("Wurzelbacher"), "unexpected FileNotFoundError; the details are in", False),
        (OSError(28, "Wurzelbacher"), "unexpected OSError; the details are in", True),
        (ConnectionResetError("Wurzelbacher"), "unexpected ConnectionResetError; the details are in", True),
        (PacsTimeout("pacs: no answer"), "pacs: no answer", True),
        (Unsupported("pacs: no C-GET"), "pacs: no C-GET", False),
    ):
        text = told(error, passes)
        assert words in text and "Wurzelbacher" not in text
    notes = state_root / "runs" / "run" / "problems.txt"
    assert notes.read_text().count("Wurzelbacher warns") == notes.read_text().count("Wurzelbacher was here") / 2 == 6
    assert notes.stat().st_mode & 0o777 == 0o600
