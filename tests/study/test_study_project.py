"""The project file of a study: its keys, contradictions, and the confs of the stages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import ConfigError, InputError
from pacsifier_ops.query.options import Refused
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.study import run as stages
from pacsifier_ops.study.project import OPTIONS, Study, read_project, stages_for
from pacsifier_ops.study.run import stages_of
from pacsifier_ops.study.steps import other_running, set_up
from tests.support.places import REPO

EXAMPLE = REPO / "include" / "studies" / "example.yaml"


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    monkeypatch.setenv("PACSIFIER_STATE_ROOT", str(tmp_path / "state"))
    (tmp_path / "data").mkdir()


def test_the_example_shows_every_key_and_can_be_used(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    assert set(re.findall(r"^(?:# )?(\w+): ", text, re.MULTILINE)) == set(OPTIONS)
    study = Study(**read_project(EXAMPLE))
    study.check()
    every = tmp_path / "every.yaml"
    text = re.sub(r"^# (?!sheet|sql_conn)(\w+: )", r"\1", text, flags=re.MULTILINE)  # a query of a database has neither
    every.write_text(text.replace("source: de-id", "source: custom"))
    assert set(read_project(every)) == set(OPTIONS) - {"sheet", "sql_conn"}


WRONG = {
    "recipient": ({"tell": "anna@x.ch, Ben <b@x.ch>"}, "tell: recipient 2 is neither a mail address nor the id"),
    "no table": ({"queryfile": ""}, "queryfile: is missing"),
    "two tables": ({"sql_conn": "omop", "sql": "a.sql"}, "sql_conn: is a database that the table comes from"),
    "no query": ({"sql_conn": "omop"}, "sql_conn"),
    "map": ({"columns": "PatientID"}, "columns: pair 1 is not understood"),
    "query outside": ({"sql": "../a.sql"}, "sql: leads outside the data root"),
    "outside": ({"folder": "../elsewhere"}, "folder: leads outside the data root"),
    "project": ({"project": "a/b"}, "project: "),
    "window": ({"window": "from eight"}, "window: "),
    "mapping": ({"source": "custom"}, "mappingfile: is missing"),
    "mapping too much": ({"mappingfile": "m.csv"}, "mappingfile: goes with the source custom"),
    "identified upload": ({"without": ("anonymize",), "upload": "node"}, "upload: hands over de-identified data"),
    "nothing left": ({"without": ("anonymize",)}, "without: without anonymize, only karnak or move"),
    "zip of nothing": ({"zip": True}, "zip: is about the DICOMDIR"),
    "album alone": ({"album_name": "A"}, "album_name: karnak and album_name go together"),
    "gateway alone": ({"karnak": "node"}, "karnak: karnak and album_name go together"),
    "album": ({"karnak": "node", "album_name": "A\\B"}, "album_name: does not fit into a tag"),
}


@pytest.mark.parametrize(("given", "reason"), WRONG.values(), ids=WRONG.keys())
def test_contradicting_options_are_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        Study(**{"queryfile": "table.csv", **given}).check()


def test_a_run_may_have_another_table_than_its_file(tmp_path: Path) -> None:
    path = tmp_path / "project.yaml"
    path.write_text("project: knee\ndate_format: DD.MM.YYYY\nstrict: true\n")
    with pytest.raises(Refused):
        read_project(path)
    table = {"queryfile": "req-0123", "sheet": "2"}
    assert read_project(path, table) == {"project": "knee", "strict": True, **table}
    study = set_up(Run.fresh(), {**table, "profile": "research"}, path)
    assert (study.queryfile, study.sheet, study.date_format, study.profile) == ("req-0123", "2", "", "basic")


def test_faults_of_a_file_are_told_by_line_and_key_and_without_values(tmp_path: Path) -> None:
    path = tmp_path / "project.yaml"
    path.write_text("projekt: SECRET\nqueryfile: t.csv\nrelease: SECRET\nwithout: dumps\nzip: true\n")
    with pytest.raises(Refused) as refused:
        read_project(path)
    told = "\n".join(refused.value.reasons)
    assert "line 1: projekt is not known (did you mean project?)" in told
    assert re.search(r"line 3.*release.*none of ask, limit, nobody", told)
    assert re.search(r"line 4.*without.*not a list", told)
    assert re.search(r"line 5.*zip.*DICOMDIR", told)
    assert "SECRET" not in told
    with pytest.raises(InputError, match="project file cannot be used"):
        set_up(Run.fresh(), {}, path)


def test_of_a_file_that_cannot_be_read_nothing_else_is_told(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        read_project(tmp_path / "knee.yaml")
    (reason,) = caught.value.reasons
    assert reason.startswith("knee.yaml: cannot be read")


def test_a_study_keeps_its_file_and_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "data" / "p.yaml"
    path.write_text("project: p\nqueryfile: t.csv\nwithout: [dumps]\nupload: node\n")
    run = Run.fresh()
    study = set_up(run, {}, path)
    assert Study.of(run).digest == study.digest and len(study.digest) == 64
    assert (run.folder / "project.yaml").read_bytes() == path.read_bytes()
    on = {stage for stage, params in stages_of(run).items() if params is not None}
    assert on == {stages.EXTRACT, stages.PSEUDONYMS, stages.ANONYMIZE, stages.UPLOAD}


def test_stages_that_hand_over_read_only_released_data() -> None:
    to = {"dicomdir": True, "convert": "bids", "upload": "a", "karnak": "b", "album_name": "A", "move": "c"}
    to["release_to"] = "d"
    study = Study(queryfile="t.csv", project="p", **to)  # type: ignore[arg-type]
    made = stages_for(study, "run-12345678")
    assert all(params is not None for params in made.values())
    read = {
        stage: params.get("in_folder") or params.get("upload_directory") for stage, params in made.items() if params
    }
    assert {read[stage] for stage in (stages.DICOMDIR, stages.CONVERT, stages.UPLOAD)} == {"studies/p/released"}
    assert (made[stages.CONVERT] or {})["layout"] == "bids"
    written = {params["out_directory"] for params in made.values() if params and "out_directory" in params}
    assert "studies/p/released" not in written


def test_rights_are_needed_where_images_come_from_and_not_to_send_there() -> None:
    study = Study(queryfile="t.csv", project="p", pacs="index, other", upload="index", karnak="k", album_name="A")
    needs = study.needs({"index": "store"})
    assert ("take", "store") in needs and ("identified", "store") in needs and ("take", "other") in needs
    assert ("send", "store") not in needs and ("send", "index") in needs


def test_one_run_of_a_study_at_a_time() -> None:
    study = Study(queryfile="t.csv", project="p")
    running = {"one"}
    assert other_running(study, "folder-1", running.__contains__, "one") == ""
    assert other_running(study, "folder-2", running.__contains__, "two") == "folder-1"
    assert other_running(study, "folder-1", running.__contains__, "one") == "", "a task that is tried again"
    running.clear()
    assert other_running(study, "folder-2", running.__contains__, "two") == ""
    other = Study(queryfile="t.csv", project="p", folder="studies/other")
    assert other_running(other, "folder-3", {"two"}.__contains__, "three") == ""
