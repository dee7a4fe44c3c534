"""The fields of the page Extract, which derive from the options of the requests, and the check of what is filled in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import InputError
from pacsifier_ops.base.options import IN_FORM, standing
from pacsifier_ops.extract.requests import table_path, take_in
from pacsifier_ops.extract.run import Request
from pacsifier_ops.runs.folder import Run
from tests.support import airflow_home

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

EXTRACT, STUDY = "pacsifier_extract", "pacsifier_study"


@pytest.fixture(autouse=True)
def _airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


def found(dag: str, what: str = "problems", **conf: Any) -> dict[str, str]:
    """Return the messages of a check by option."""
    from pacsifier_ops.web import forms

    job = forms.JOBS[dag]
    remarks = getattr(forms, what)(job, forms.params(job, conf))
    return {one.option: one.message for one in remarks}


def test_every_option_of_the_forms_is_on_the_page_with_its_default() -> None:
    from pacsifier_ops.study.project import TABLE
    from pacsifier_ops.web import pages
    from pacsifier_ops.web.forms import JOBS

    page = pages.intake_page("/pacsifier", "", [*JOBS.values()], None, {}, 1)
    for job in JOBS.values():
        part = page[page.index(f'<div data-job="{job.dag_id}"') :].partition("</details>")[0]
        shown = dict(re.findall(r'name="(\w+)" data-kind="\w+" data-default="([^"]*)"', part))
        options = {name: one for name, one in standing(job.request, IN_FORM).items() if name not in TABLE}
        assert set(shown) == set(options)
        for name, one in options.items():
            assert one.title in part and json.loads(shown[name].replace("&#34;", '"')) in (one.default, None, [])
            assert (shown[name] == "null") == (one.optional and not one.default)


def test_what_would_end_a_run_is_told_by_option_and_without_values(tmp_path: Path) -> None:
    table = take_in(b"PatientID\nSECRET\n")
    assert found(EXTRACT, queryfile=table, out_directory="out/fresh") == {}
    wrong = found(EXTRACT, queryfile=table, out_directory="../SECRET", max_series="SECRET", approval="SECRET")
    assert wrong.keys() == {"out_directory", "max_series", "approval"}
    wrong |= found(EXTRACT, queryfile=table, window="SECRET", pacs="vna, vna")
    assert {"window", "pacs"} <= wrong.keys() and "SECRET" not in "".join(wrong.values())
    assert "only" in found(EXTRACT, queryfile=table, retrieve="none", destination="node")[""]
    assert found(EXTRACT, queryfile=table, out_directory="studies/knee")["out_directory"].startswith("lies in studies/")
    assert "form" in found(EXTRACT, queryfile=table, tell="<SECRET>")["tell"]
    assert found(EXTRACT, queryfile="req-" + "0" * 24)[""] == "queryfile: there is no request with this id"
    assert found(STUDY, queryfile=table, project="knee") == {}
    wrong = found(STUDY, queryfile=table, project="", volume_size=3, upload="node", without=["anonymize"])
    assert {"project", "volume_size", "upload", "without"} == wrong.keys()
    assert "check the path" in found(STUDY, queryfile=table, project_file="knee.yaml")["project_file"]
    (tmp_path / "data" / "knee.yaml").write_text("project: knee\n")
    assert found(STUDY, queryfile=table, project_file="knee.yaml") == {}
    wrong = found(STUDY, queryfile=table, project_file="knee.yaml", verify="all", without=["dumps"])
    assert wrong.keys() == {"verify", "without"} and wrong["verify"].startswith("must not be given beside a project")
    with pytest.raises(InputError, match="mistyped is not known; there are"):
        found(EXTRACT, queryfile=table, mistyped=1)
    with pytest.raises(InputError, match="not text"):
        found(EXTRACT, queryfile=["SECRET"])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("WINDOW", "late"), ("TIMEZONE", "Zurich"), ("MAX_SERIES", "0"), ("TASKS", "many"), ("VERIFY_DAYS", "-1")),
        *(("RIGHTS", "some"), ("GROUP", "there is no such group"), ("RELEASED_MODE", "rw")),
        *(("GROUP", "\u00b2"), ("GROUP", "9" * 20)),
    ],
)
def test_a_wrong_setting_is_a_problem_before_the_run(setting: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = {"queryfile": take_in(b"PatientID\nSECRET\n"), "out_directory": "out/fresh"}
    monkeypatch.setenv(f"PACSIFIER_{setting}", value)
    assert f"PACSIFIER_{setting}" in found(EXTRACT, **conf)[""]
    other = "PACSIFIER_TASKS" if setting != "TASKS" else "PACSIFIER_MAX_SERIES"
    monkeypatch.setenv(other, "none")
    told = found(EXTRACT, **conf)[""]
    assert f"correct {other}" in told and f"PACSIFIER_{setting}" in told
    monkeypatch.delenv(other)
    monkeypatch.delenv(f"PACSIFIER_{setting}")
    assert found(EXTRACT, **conf) == {}


@pytest.mark.parametrize("value", [[], ["a", "a"], {}, 1.5, "\0", "\ud800", 10**400])
def test_a_value_of_any_kind_is_told_and_never_an_error_of_the_server(value: Any) -> None:
    from pacsifier_ops.web import forms

    for job, place in ((forms.JOBS[EXTRACT], "out_directory"), (forms.JOBS[STUDY], "project")):
        for name in job.options:
            conf = forms.params(job, {"queryfile": take_in(b"PatientID\n1\n"), place: "x", name: value})
            forms.problems(job, conf)
    assert found(STUDY, queryfile=take_in(b"PatientID\n1\n"), project=[])["project"].startswith("not text")


def test_a_folder_that_runs_of_other_tables_have_used_is_remarked(tmp_path: Path) -> None:
    first, other = (take_in(b"PatientID\n1\n") for _ in range(2))
    folder = tmp_path / "data" / "out"
    Request(table_path(first), folder, started="2026-01-31T20:15:00+00:00").keep(Run.fresh())
    assert found(EXTRACT, "remarks", queryfile=first, out_directory="out") == {}
    remark = found(EXTRACT, "remarks", queryfile=other, out_directory="out")["out_directory"]
    assert remark.startswith("1 earlier run for other tables wrote into this folder, the last one 2026-01-31 20:15")
    assert found(EXTRACT, "remarks", queryfile=other, out_directory="out/other") == {}
