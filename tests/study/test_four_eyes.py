"""Who may approve a release: another person than the one who started the run, or the approvers of the project."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import ConfigError, InputError, NotAllowed, NotApproved, StorageError
from pacsifier_ops.runs import approvals
from pacsifier_ops.runs.approvals import APPROVED, RELEASE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.study import release, steps
from pacsifier_ops.study.project import Study
from tests.support import airflow_home
from tests.support.airflow_home import Airflow


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def set_up(file: Path | None = None, started_by: str = "anna", **given: Any) -> tuple[Run, Study]:
    run = Run.fresh()
    given = {"project": "p", "queryfile": "table.csv", **given}
    return run, steps.set_up(run, given, file, started_by)


@pytest.mark.parametrize(
    ("rule", "anna", "ben", "carl"),
    [
        ({}, True, True, True),
        ({"release_by": "another"}, False, True, True),
        ({"approvers": ["anna", "7"]}, True, True, False),
        ({"release_by": "another", "approvers": ["anna", "7"]}, False, True, False),
    ],
)
def test_who_may_release(rule: dict[str, Any], anna: bool, ben: bool, carl: bool) -> None:
    _, study = set_up(**rule)
    assert (not study.may_release("anna", "1")) is anna
    assert (not study.may_release("ben", "7")) is ben
    assert (not study.may_release("carl", "9")) is carl
    assert Study.of(set_up(started_by="", release_by="another")[0]).may_release("anna") == ""


def decided(run: Run, who: str, **more: Any) -> None:
    digest = release.stock_of(run).digest
    approvals.ask(run, RELEASE, digest)
    approvals.decide(run, RELEASE, digest, APPROVED, who, **more)


def test_the_release_checks_who_has_approved(data: Path) -> None:
    run, study = set_up(release_by="another")
    release.folder_of(study, "de-identified").mkdir(parents=True)
    release.take_stock(run)
    decided(run, "anna")
    with pytest.raises(NotApproved, match="may not release it"):
        release.release(run)
    assert release.released_of(run) is None
    decided(run, "ben")
    assert release.release(run).by == "ben"


def test_an_earlier_approval_holds_only_if_that_person_may_still_approve(data: Path) -> None:
    def found(run: Run) -> steps.Obstacles:
        return steps.Obstacles(release.stock_of(run), (), (), 0, 0, 0, 0)

    run, study = set_up(release_by="another")
    release.folder_of(study, "de-identified").mkdir(parents=True)
    release.take_stock(run)
    then = {"when": "2026-01-02T03:04:05+00:00", "reason": "all is there"}
    decided(run, "ben", **then)
    steps.release(run)
    for started_by, same in (("anna", True), ("ben", False)):
        again, _ = set_up(started_by=started_by, release_by="another")
        release.take_stock(again)
        assert steps.released_before(again, found(again)) is same
        if same:  # nobody has answered now
            kept = approvals.history(again)[-1]
            assert {"when": kept.when, "reason": kept.reason} == then


def test_limits_cannot_stand_for_another_person() -> None:
    with pytest.raises(ConfigError, match="release_by: asks for another person"):
        set_up(release="limit", release_by="another")


def test_a_form_does_not_loosen_the_rule_of_the_project_file(data: Path) -> None:
    file = data / "p.yaml"
    file.write_text("project: p\nqueryfile: table.csv\nrelease_by: another\napprovers: [ben]\n")
    _, study = set_up(file)
    assert (study.release_by, study.approvers) == ("another", ("ben",))
    with pytest.raises(ConfigError, match="the project file of this study says otherwise"):
        set_up(approvers=["anna"])
    set_up(release_by="another", approvers=["ben"])
    file.write_text("project: p\nqueryfile: table.csv\n")
    set_up(file)
    set_up(approvers=["anna"])


def test_a_form_does_not_let_limits_release_what_the_project_file_has_a_person_asked_about(data: Path) -> None:
    file = data / "p.yaml"
    wide: dict[str, Any] = {"release": "limit", "most_missing": 10**6, "most_quarantined": 10**6}
    set_up(**wide)  # nobody has said anything yet
    file.write_text("project: p\nqueryfile: table.csv\napprovers: [ben]\n")
    set_up(file)
    with pytest.raises(ConfigError, match="release: the project file of this study says otherwise"):
        set_up(approvers=["ben"], **wide)
    file.write_text("project: p\nqueryfile: table.csv\nrelease: limit\nmost_missing: 2\n")
    set_up(file)
    with pytest.raises(ConfigError, match="release: the project file of this study says otherwise"):
        set_up(**wide)
    set_up(release="limit", most_missing=2)
    set_up()  # a person is asked, which loosens nothing


def test_an_approver_without_a_name_is_nobody(data: Path) -> None:
    _, study = set_up(approvers=[""])
    assert study.may_release("carl", "") and study.may_release("", "")


def test_after_its_last_day_no_run_starts_and_nothing_is_released(data: Path) -> None:
    today = dt.date.today()
    yesterday, tomorrow = (str(today + dt.timedelta(days)) for days in (-1, 1))
    with pytest.raises(NotAllowed, match=f"the project has expired, {yesterday} was its last day") as refused:
        set_up(expires=yesterday, owners=["anna"], ethics="EC 12")
    assert refused.value.facts == {
        "project": "p",
        "owners": ("anna",),
        "approvers": (),
        "ethics": "EC 12",
        "expires": yesterday,
    }
    run, study = set_up(expires=tomorrow)
    release.folder_of(study, "de-identified").mkdir(parents=True)
    release.take_stock(run)
    decided(run, "ben")
    replace(study, expires=yesterday).keep(run)  # as if it had waited for an answer until then
    with pytest.raises(NotAllowed, match="nothing is released"):
        release.release(run)
    assert release.released_of(run) is None
    replace(study, expires=str(today)).keep(run)
    assert release.release(run).by == "ben"


@pytest.mark.parametrize("wrong", ["2026-13-01", "tomorrow", "20270101", "2027-W01-1"])
def test_a_day_that_is_none_is_refused(data: Path, wrong: str) -> None:
    file = data / "p.yaml"
    file.write_text(f"project: p\nqueryfile: table.csv\nexpires: {wrong}\n")
    with pytest.raises(InputError, match="expires: no date; write it as YYYY-MM-DD"):
        set_up(file)


def test_owners_ethics_and_last_day_of_a_project_file(data: Path) -> None:
    file = data / "p.yaml"
    file.write_text("project: p\nqueryfile: table.csv\nowners: [anna]\nethics: EC 2026-7\nexpires: 2999-12-31\n")
    study = Study.of(set_up(file)[0])
    assert (list(study.owners), study.ethics, study.expires) == (["anna"], "EC 2026-7", "2999-12-31")
    with pytest.raises(ConfigError, match="expires: the project file of this study says otherwise"):
        set_up()


def test_decisions_and_releases_are_in_the_audit_file(data: Path, state_root: Path) -> None:
    run, study = set_up()
    release.folder_of(study, "de-identified").mkdir(parents=True)
    release.take_stock(run)
    decided(run, "ben")
    release.release(run)
    stock = release.stock_of(run).digest
    approvals.ask(run, approvals.COHORT, stock)
    approvals.decide(run, approvals.COHORT, stock, approvals.REJECTED, "anna")
    lines = [json.loads(line) for line in (state_root / "audit" / "audit.jsonl").read_text().splitlines()]
    assert [(line["event"], line["by"], line["run"]) for line in lines] == [
        ("approved", "ben", run.name),
        ("released", "ben", run.name),
        ("rejected", "anna", run.name),
    ]
    assert lines[0]["digest"] == lines[1]["digest"] == stock != lines[2]["digest"]


def test_without_its_line_in_the_audit_file_nothing_is_released(data: Path, state_root: Path) -> None:
    run, study = set_up()
    held = release.folder_of(study, "de-identified")
    held.mkdir(parents=True)
    (held / "1.dcm").write_bytes(b"pixels")
    release.take_stock(run)
    decided(run, "ben")
    (state_root / "audit" / "audit.jsonl").unlink()
    (state_root / "audit" / "audit.jsonl").mkdir()
    with pytest.raises(StorageError, match="the audit file"):
        release.release(run)
    assert release.released_of(run) is None and not release.folder_of(study, "released").exists()


def test_another_project_does_not_take_the_folder_of_a_study(data: Path) -> None:
    """It could release the data set without asking the approvers."""
    file = data / "p.yaml"
    file.write_text("project: p\nqueryfile: table.csv\napprovers: [ben]\n")
    set_up(file)
    for folder in ("studies/p", "studies//p/", "studies/../studies/p"):
        with pytest.raises(ConfigError, match="folder"):
            set_up(project="q", folder=folder, without=["extract"])
    set_up(project="q")


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "airflow-data")


@pytest.mark.airflow
def test_the_answer_of_a_person_who_may_not_approve_does_not_count(airflow: Airflow) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    from pacsifier_ops.operators.approval import ApproveOperator, Question

    run, study = set_up(release_by="another")

    class Asking(ApproveOperator):
        """Asks about something."""

        def question(self, run: Run, params: Any) -> Question:
            return Question(RELEASE, "d1", "May it?", [], approvers=study.approvers, why_not=study.may_release)

    def answer(word: str, who: str) -> None:
        event = {"chosen_options": [word], "responded_by_user": {"id": who, "name": who}}
        Asking(task_id="approve").keep_answer(run, {"params": {}}, event)

    approvals.ask(run, RELEASE, "d1")
    with pytest.raises(NotAllowed, match="may not release it; another person") as refused:
        answer("Approve", "anna")
    assert refused.value.facts == {"by": "anna", "subject": RELEASE}
    assert approvals.decision_on(run, RELEASE) is None
    with pytest.raises(AirflowFailException, match="rejected"):
        answer("Reject", "anna")
    answer("Approve", "ben")
    decision = approvals.approved(run, RELEASE, "d1")
    assert (decision.who, decision.user) == ("ben", "ben")


@pytest.mark.airflow
def test_after_the_last_day_nothing_is_fetched_by_clearing_the_stage_that_does(airflow: Airflow) -> None:
    from pacsifier_ops.operators.study import StudyStage
    from pacsifier_ops.upload.run import UploadRequest

    today = dt.date.today()
    run, study = set_up(expires=str(today))
    StudyStage.EXTRACT.begin(run, {}, UploadRequest, {})
    replace(study, expires=str(today - dt.timedelta(1))).keep(run)
    with pytest.raises(NotAllowed, match="the project has expired"):
        StudyStage.EXTRACT.begin(run, {}, UploadRequest, {})
    StudyStage.UPLOAD.begin(run, {}, UploadRequest, {})  # what was released goes on to its end


@pytest.mark.airflow
def test_airflow_assigns_the_question_to_the_approvers_that_it_knows(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pacsifier_ops.operators.approval import assignees

    simple = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
    monkeypatch.setenv("AIRFLOW__CORE__AUTH_MANAGER", simple)
    assert assignees(()) is None and [user["id"] for user in assignees(("anna", "ben")) or ()] == [
        "anna",
        "ben",
    ]
    monkeypatch.setenv(
        "AIRFLOW__CORE__AUTH_MANAGER", "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
    )
    assert assignees(("anna",)) is None and [user["id"] for user in assignees(("7",)) or ()] == ["7"]
