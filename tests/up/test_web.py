"""The pages in Airflow's user interface, from a running API server: access, content and errors."""

from __future__ import annotations

import html
import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.extract import intake
from pacsifier_ops.onebox import up as local
from pacsifier_ops.runs.folder import dag_run_name
from tests.support import airflow_home
from tests.support.airflow_home import DAG_ID, KUNIGUNDE, TABLE_NAME, THEOBALD, Up, traces, words_of
from tests.support.browser import Browser
from tests.support.shared import FOREIGN, USER, VIEWER, SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

STUDY = "pacsifier_study"
HTML: dict[str, Any] = {"Accept": "text/html,application/xhtml+xml"}
OUT = "web"
TABLE = f"PatientID\n{KUNIGUNDE['patient_id']}\n{THEOBALD['patient_id']}\n"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


@dataclass
class Visitor:
    """A user who requests pages; the cookie identifies the user, as in a browser."""

    url: str
    token: str = ""

    def ask(self, path: str, body: bytes | None = None, method: str | None = None, **headers: Any) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            named["Cookie"] = f"_token={self.token}"
        request = urllib.request.Request(f"{self.url}/{path}", body, named, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _Stay)
        try:
            with opener.open(request, timeout=60) as answer:
                return self._checked(Answer(answer.status, dict(answer.headers), answer.read()), path)
        except urllib.error.HTTPError as error:
            return self._checked(Answer(error.code, dict(error.headers), error.read()), path)

    def _checked(self, answer: Answer, path: str) -> Answer:
        if path.startswith("pacsifier/"):
            told = {name.lower(): value for name, value in answer.headers.items()}
            assert told["cache-control"] == "no-store" and told["x-content-type-options"] == "nosniff"
            assert told["referrer-policy"] == "no-referrer"
            policy = told["content-security-policy"]
            assert policy.startswith("default-src 'none'") and "frame-ancestors 'self'" in policy
            assert "unsafe" not in policy or path.endswith(("/report", "/handover", ".html"))
        return answer

    def send(self, *tables: bytes, name: str = "table", options: str = "", **headers: str) -> Answer:
        """Send tables, as a form does."""
        edge = uuid.uuid4().hex
        parts = (
            f'--{edge}\r\nContent-Disposition: form-data; name="{name}"; filename="{TABLE_NAME}.csv"\r\n'
            "Content-Type: text/csv\r\n\r\n".encode()
            + table
            + b"\r\n"
            for table in tables
        )
        said = (
            f'--{edge}\r\nContent-Disposition: form-data; name="{option}"\r\n\r\n{value}\r\n'.encode()
            for option, _, value in (one.partition("=") for one in options.split())
        )
        body = b"".join((*parts, *said)) + f"--{edge}--\r\n".encode()
        return self.ask("pacsifier/requests", body, Content_Type=f"multipart/form-data; boundary={edge}", **headers)

    def begin(self, rest: bytes) -> int:
        """Begin to send a table without ending, and return the status."""
        place = urllib.parse.urlsplit(self.url)
        with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
            head = (
                f"POST /pacsifier/requests HTTP/1.1\r\nHost: {place.netloc}\r\nCookie: _token={self.token}\r\n"
                "Content-Type: multipart/form-data; boundary=edge\r\n"
            )
            connection.sendall(head.encode() + rest)
            return int(connection.recv(1000).split()[1])


@pytest.fixture(scope="module")
def up(shared: SharedAirflow) -> Up:
    return shared.up


@pytest.fixture(scope="module")
def nobody(up: Up) -> Visitor:
    return Visitor(up.url)


@pytest.fixture(scope="module")
def viola(up: Up) -> Visitor:
    """Return a user who may read runs."""
    return Visitor(up.url, up.token(VIEWER))


@pytest.fixture(scope="module")
def ursula(up: Up) -> Visitor:
    """Return a user who may start runs."""
    return Visitor(up.url, up.token(USER))


@pytest.fixture(scope="module")
def run(up: Up, ursula: Visitor) -> str:
    """Return the address, relative to the pages, of an ended run that was started from the intake page."""
    taken = ursula.send(TABLE.encode(), Sec_Fetch_Site="same-origin", Origin=up.url)
    assert taken.status == 201
    conf = {"queryfile": taken.json()["request"], "out_directory": OUT, "strict": False}
    body = json.dumps({"logical_date": None, "conf": conf}).encode()
    started = ursula.ask(f"api/v2/dags/{DAG_ID}/dagRuns", body, Content_Type="application/json")
    assert started.status == 200, started.body
    run_id = started.json()["dag_run_id"]
    address = f"pacsifier/runs/{DAG_ID}/{urllib.parse.quote(run_id, safe='')}"
    seen: list[Any] = []

    def ended() -> bool:
        seen.append(ursula.ask(address).json())
        return seen[-1]["state"] in ("success", "failed")

    up.wait_for(ended)
    assert seen[-1]["state"] == "success"
    counts = [sum(told["progress"]["series"].values()) for told in seen if told["progress"]]
    assert counts == sorted(counts) and counts[-1] == 3
    return address


def test_nothing_is_shown_without_a_login(nobody: Visitor, run: str) -> None:
    paths = ["", "static/page.css", *(run.removeprefix("pacsifier/") + end for end in ("", "/report", "/summary"))]
    for path in paths:
        assert nobody.ask(f"pacsifier/{path}").status == 401
        led = nobody.ask(f"pacsifier/{path}", **HTML)
        assert led.status == 303 and urllib.parse.urlsplit(led.headers["location"]).path == "/auth/login"
        # The login leads back to the requested page.
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(led.headers["location"]).query)
        assert urllib.parse.unquote(query["next"][0]) == urllib.parse.unquote(f"/pacsifier/{path}")
    assert nobody.send(TABLE.encode()).status == 401
    assert Visitor(nobody.url, "forged").ask(run).status in (401, 403)


def test_users_who_may_read_the_run_see_its_counts(viola: Visitor, run: str) -> None:
    told = viola.ask(run).json()
    assert told["state"] == "success" and told["summary"] == viola.ask(f"{run}/summary").json()
    assert told["progress"]["rows"] == {"found": 2} and told["progress"]["series"] == {"complete": 3}
    assert told["progress"]["images"]["received"] == 7 and told["progress"]["megabytes_per_second"] > 0
    assert told["summary"]["verdict"] == "complete" and told["summary"]["modalities"] == {"CT": 3}
    assert told["report"] is None and told["thumbnails"] == []
    page = viola.ask(run, **HTML)
    assert page.status == 200 and b"Complete" in page.body
    assert "the permission 'PACSIFIER reports'" in html.unescape(page.body.decode())
    assert not re.search(rb"data-running|/report|thumbnails/", page.body)
    for words in (*words_of(KUNIGUNDE["patient_id"]), *words_of(KUNIGUNDE["patient_name"]), "Zwerchfell"):
        assert words.encode() not in page.body and words not in json.dumps(told)


def test_pages_that_identify_patients_need_another_permission(viola: Visitor, ursula: Visitor, run: str) -> None:
    for path in ("report", "thumbnails/1.png", "contact-sheets-1.html"):
        assert viola.ask(f"{run}/{path}").status == 403
    told = ursula.ask(run).json()
    assert told["report"] == f"/{run}/report"
    report = ursula.ask(told["report"].lstrip("/"))
    assert report.headers["content-type"].startswith("text/html") and KUNIGUNDE["patient_id"].encode() in report.body
    assert len(told["thumbnails"]) == 3
    for address in told["thumbnails"]:
        picture = ursula.ask(address.lstrip("/"))
        assert picture.headers["content-type"] == "image/png" and picture.body.startswith(b"\x89PNG")
    page = ursula.ask(run, **HTML).body.decode()
    assert f'href="/{run}/report"' in page and page.count("<img ") == 3
    assert ursula.ask(f"{run}/thumbnails/4.png").status == 404


def test_only_runs_of_ours_have_pages_and_no_path_leads_elsewhere(up: Up, ursula: Visitor, run: str) -> None:
    started = up._call(f"api/v2/dags/{FOREIGN}/dagRuns", {"logical_date": None})["dag_run_id"]
    foreign = ursula.ask(f"pacsifier/runs/{FOREIGN}/{urllib.parse.quote(started)}", **HTML)
    assert foreign.status == 404 and b"This run has no job of PACSIFIER" in foreign.body
    name = dag_run_name(DAG_ID, urllib.parse.unquote(run.rpartition("/")[2]))
    assert (up.home / "state" / "runs" / name / "report.html").exists()
    for path in (
        f"pacsifier/runs/{DAG_ID}/not-there",
        f"pacsifier/runs/{DAG_ID}/{name}/report",
        f"pacsifier/runs/{DAG_ID}/..%2F..%2Fruns%2F{name}/report",
        f"pacsifier/runs/pacsifier_extract%2F../{name}/report",
        f"pacsifier/runs/pacsifier_none/{name}/report",
        f"{run}/thumbnails/..%2F..%2Freport.html",
        f"{run}/thumbnails/0.png",
        f"{run}/contact-sheets-1.html",
        f"{run}/accounts.json",
        "pacsifier/static/..%2Fapp.py",
        "pacsifier/static/app.py",
        "pacsifier/openapi.json",
        "pacsifier/docs",
    ):
        assert ursula.ask(path).status in (400, 404, 422), path


def test_errors_of_tables_name_line_and_column(up: Up, ursula: Visitor, viola: Visitor) -> None:
    assert viola.send(TABLE.encode()).status == 403
    before = len(list((up.home / "state" / "requests").iterdir()))
    taken = ursula.send(b"PatientID,StudyDate\n1,20200101\n2,2020\n")
    assert taken.status == 201 and not taken.json()["all_usable"] and taken.json()["rows"] == 1
    assert [(p["line"], p["column"], p["value"]) for p in taken.json()["problems"]] == [(3, "StudyDate", "2020")]
    read = ursula.send(b"MRN,StudyDate\n1,24.12.1993\n", options="date_format=DD.MM.YYYY sheet=").json()
    assert read["preview"][0]["keys"] == {"PatientID": "1", "StudyDate": "19931224"} and read["notes"]
    for options in ("date_format=DDMM", "elsewhere=1"):
        assert ursula.send(b"PatientID\n1\n", options=options).status == 400
    refused = ursula.send(b"PatientID,StudyDay\n1,20200101\n")
    assert refused.status == 422 and refused.json()["request"] is None
    assert refused.json()["problems"][0]["column"] == "column 2"
    assert len(list((up.home / "state" / "requests").iterdir())) == before + 2


def test_requests_without_a_usable_table_are_refused(ursula: Visitor) -> None:
    table = TABLE.encode()
    assert ursula.begin(b"Content-Length: 1000000000\r\n\r\n") == 413  # before the body is read
    head = b'--edge\r\nContent-Disposition: form-data; name="table"; filename="x"\r\n\r\n'
    body = head + bytes(intake.LARGEST + 2**16)
    assert (
        ursula.begin(b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body) == 413
    )  # as soon as it is too large
    assert ursula.send(table, table).status == 400
    assert ursula.send().status == 400
    assert ursula.send(table, name="elsewhere").status == 400
    assert ursula.ask("pacsifier/requests", table, Content_Type="text/csv").status == 415
    assert ursula.ask("pacsifier/requests", table, Content_Type="multipart/form-data").status == 400


def test_requests_from_pages_of_other_sites_are_refused(up: Up, ursula: Visitor) -> None:
    table = TABLE.encode()
    assert ursula.send(table, Sec_Fetch_Site="cross-site", Origin="https://elsewhere.example").status == 403
    assert ursula.send(table, Sec_Fetch_Site="same-site").status == 403
    assert ursula.send(table, Origin="https://elsewhere.example").status == 403
    assert ursula.send(table, Origin="null").status == 403
    assert ursula.send(table, Origin=up.url).status == 201
    assert ursula.send(table).status == 201  # a program


def test_the_intake_page_offers_the_connections_that_the_user_may_see(up: Up, ursula: Visitor) -> None:
    page = ursula.ask("pacsifier/", **HTML).body.decode()
    assert '<input type="text" id="pacsifier_extract-pacs" name="pacs"' in page
    admin = Visitor(up.url, up.token("admin")).ask("pacsifier/", **HTML).body.decode()
    assert '<select id="pacsifier_extract-pacs" name="pacs"' in admin and "pacs_broken" in admin
    assert not re.search(r"\son\w+=|<style|javascript:", page)
    kinds = {"page.css": "text/css"} | dict.fromkeys(("frame.js", "intake.js", "run.js"), "text/javascript")
    for name, kind in kinds.items():
        assert f"static/{name}" in page or name == "run.js"
        assert ursula.ask(f"pacsifier/static/{name}").headers["content-type"].startswith(kind)


def test_an_unexpected_error_reveals_nothing_of_its_cause(up: Up, ursula: Visitor, run: str) -> None:
    name = dag_run_name(DAG_ID, urllib.parse.unquote(run.rpartition("/")[2]))
    summary = up.home / "state" / "runs" / name / "summary.json"
    good = summary.read_bytes()
    summary.write_text("Wurzelbacher")
    try:
        answer = ursula.ask(run)
    finally:
        summary.write_bytes(good)
    assert (answer.status, answer.body) == (500, b"Internal Server Error")
    log = up.home / "logs" / "api-server.log"  # it is written with a delay
    up.wait_for(lambda: "unexpected JSONDecodeError in a page of PACSIFIER" in log.read_text(encoding="utf-8"))


def test_neither_airflow_nor_its_logs_contain_the_table(up: Up, run: str) -> None:
    words = {word for value in (*KUNIGUNDE.values(), *THEOBALD.values(), TABLE_NAME) for word in words_of(value)}
    assert traces(up.home / "airflow", words) == [] and traces(up.home / "logs", words) == []


def test_airflow_shows_the_pages_in_its_interface(up: Up) -> None:
    (plugin,) = (plugin for plugin in up.get("plugins")["plugins"] if plugin["name"] == "pacsifier")
    views = {view["destination"]: view for view in plugin["external_views"]}
    assert views["nav"]["href"] == "pacsifier/" and views["nav"]["nav_top_level"]
    assert views["dag_run"]["href"] == "pacsifier/runs/{DAG_ID}/{RUN_ID}"


def test_loading_the_plugin_loads_no_page(tmp_path_factory: pytest.TempPathFactory) -> None:
    _, environment = airflow_home.migrated(tmp_path_factory.getbasetemp())
    code = """
import sys
from airflow import plugins_manager
plugins_manager.ensure_plugins_loaded()
print(sorted(name for name in sys.modules if name.startswith(("pacsifier_ops.plugins", "pacsifier_ops.web"))))
print({"pydicom", "numpy", "pandas", "pyarrow", "PIL", "openpyxl"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], env=dict(environment), capture_output=True, text=True)
    loaded, heavy = done.stdout.splitlines()[-2:]
    assert "'pacsifier_ops.plugins.plugin'" in loaded and "pacsifier_ops.web.app" not in loaded and heavy == "set()"


# A study, and the tools


@pytest.fixture(scope="module")
def study(up: Up) -> str:
    """Return the address of a study's run that waits for the approval of its cohort."""
    return _asking(up, "knee")


def _asking(up: Up, project: str) -> str:
    """Start a study that needs an approval, and return the address of its run once it has asked."""
    (up.home / "data" / "all.csv").write_text("AccessionNumber\nQACC990*\n")
    run = up.start(STUDY, project=project, queryfile="all.csv", source="local", max_series=1)
    up.question(run, STUDY)
    return f"pacsifier/runs/{STUDY}/{urllib.parse.quote(run, safe='')}"


def _run_id(address: str) -> str:
    return urllib.parse.unquote(address.rpartition("/")[2])


def _names_nobody(answer: Answer) -> bool:
    words = words_of(KUNIGUNDE["patient_id"]) | words_of(THEOBALD["patient_name"]) | {"Zwerchfell"}
    return not any(word.encode() in answer.body for word in words)


def test_a_study_says_what_it_waits_for_and_where_a_person_answers(
    up: Up, viola: Visitor, study: str, tmp_path: Path
) -> None:
    told = viola.ask(study).json()
    (question,) = told["questions"]
    run = study.rpartition("/")[2]
    answer = f"/dags/{STUDY}/runs/{run}/tasks/extract.approve/required_actions?map_index=-1"
    assert (question["state"], question["task_id"], question["answer"]) == ("open", "extract.approve", answer)
    assert question["headline"] == "May this cohort be retrieved?" and question["until"] > question["asked"]
    assert any("4 series" in line for line in question["told"]) and not told["decisions"]
    states = {name: stage["state"] for name, stage in told["stages"].items()}
    assert states["extract"] == "waiting for an answer" and states["anonymize"] == "waiting"
    assert states["upload"] == "switched off" and told["stages"]["extract"]["progress"]["series"] == {"waiting": 4}
    assert told["progress"] is None  # its stages count
    page = viola.ask(study, **HTML)
    assert f'href="{answer}"'.encode() in page.body and b"4 series" in page.body
    assert _names_nobody(page) and b"/stages/" not in page.body
    with Browser() as browser:
        browser.open(f"{up.url}/dags/{STUDY}/runs/{run}/plugin/pacsifier-results")
        browser.log_in(local.USER, local.password(up.home))
        browser.wait_for(".answers button", "Reject")
        browser.screenshot(tmp_path / "framed.png")
        browser.click("a#answer", "in Airflow")  # Airflow's own pages are not shown within the frame
        browser.wait_for("body", "write nothing about patients")
        browser.screenshot(tmp_path / "question.png")
        there = browser.evaluate("location.pathname + location.search")
        assert urllib.parse.unquote(there) == urllib.parse.unquote(answer)
        browser.click("button", "Approve", exact=True)
        up.wait_for(lambda: bool(up._call(study)["decisions"]))


def test_before_a_release_all_its_pages_are_there(up: Up, viola: Visitor, ursula: Visitor, study: str) -> None:
    assert up.question(_run_id(study), STUDY)["task_instance"]["task_id"] == "approve"
    told, counted = ursula.ask(study).json(), viola.ask(study).json()
    (cohort,) = told["decisions"]
    assert (cohort["subject"], cohort["word"], cohort["who"]) == ("cohort", "approved", local.USER)
    states = {name: stage["state"] for name, stage in told["stages"].items()}
    assert [states[name] for name in ("extract", "pseudonyms", "anonymize", "dumps")] == ["complete"] * 4
    assert told["search"]["counts"] == {} and told["stock"]["files"] > 9 and told["released"] is None
    shown = [
        *(told["stages"][name]["report"] for name in ("extract", "pseudonyms", "anonymize", "dumps")),
        *told["stages"]["anonymize"]["contact_sheets"],
        told["search"]["findings"],
    ]
    page = ursula.ask(study, **HTML).body.decode()
    assert len(shown) == 6
    for address in shown:
        assert f'href="{address}"' in page
        assert ursula.ask(address.lstrip("/"), **HTML).status == 200 and viola.ask(address.lstrip("/")).status == 403
    plain = viola.ask(study, **HTML)
    assert _names_nobody(plain) and not any(address.encode() in plain.body for address in shown)
    assert b"May this data set be released?" in plain.body and "knee" not in json.dumps(counted["stages"])
    assert counted["search"]["findings"] is None and counted["stages"]["extract"]["report"] is None
    for path in ("report", "handover"):
        assert ursula.ask(f"{study}/{path}").status == 404
    # All users see the counts of findings; only those who may read reports see the places.
    gate = up.home / "state" / "runs" / dag_run_name(STUDY, _run_id(study)) / "gate.json"
    good = gate.read_bytes()
    gate.write_text(json.dumps({**json.loads(good), "waivable": [["<b>Zwerchfell", "x"]], "counts": {"waivable": 1}}))
    try:
        findings, plain = ursula.ask(f"{study}/findings", **HTML), viola.ask(study, **HTML)
        assert viola.ask(study).json()["search"]["counts"] == {"waivable": 1}
    finally:
        gate.write_bytes(good)
    assert b"&lt;b&gt;Zwerchfell" in findings.body
    assert _names_nobody(plain) and b"<dt>Findings to be waived</dt><dd>1</dd>" in plain.body


def test_the_page_of_an_ended_study_links_to_all_its_reports(
    up: Up, viola: Visitor, ursula: Visitor, study: str
) -> None:
    run = _run_id(study)
    answered = f"dags/{STUDY}/dagRuns/{run}/taskInstances/approve/-1/hitlDetails"
    up.patch(answered, {"chosen_options": ["Approve"], "params_input": {}})
    assert up.outcome(run, STUDY) == "success"
    told = ursula.ask(study).json()
    assert told["summary"]["verdict"] == "complete" and told["summary"] == ursula.ask(f"{study}/summary").json()
    assert [(one["subject"], one["who"]) for one in told["decisions"]] == [("cohort", "admin"), ("release", "admin")]
    assert told["released"]["files"] == told["released"]["new"] == told["stock"]["files"]
    assert {one["state"] for one in told["questions"]} == {"answered"}
    page = ursula.ask(study, **HTML).body.decode()
    assert "data-running" not in page and "May this" not in page and page.count("badge good") == 8
    report = ursula.ask(told["report"].lstrip("/"))
    links = re.findall(r'href="(stages/[^"#]+)', report.body.decode())
    assert len(links) >= 5
    for link in links:
        assert ursula.ask(f"{study}/{link}").status == 200
    handover = ursula.ask(told["handover"].lstrip("/"))
    assert handover.status == 200 and _names_nobody(handover) and viola.ask(f"{study}/handover").status == 403
    assert not _names_nobody(report) and _names_nobody(viola.ask(study, **HTML))


def test_reports_of_stages_have_one_address_and_no_other(ursula: Visitor, study: str) -> None:
    name = dag_run_name(STUDY, _run_id(study))
    assert ursula.ask(f"{study}/stages/{name}-anonymize/contact-sheets-1.html").status == 200
    for path in (
        f"stages/{name}-nothing/report.html",
        f"stages/{name}-upload/report.html",
        f"stages/{name}-/report.html",
        "stages/extract/report.html",
        f"stages/{name}-extract/accounts.html",
        f"stages/{name}-extract/accounts.json",
        f"stages/{name}-anonymize/contact-sheets-0.html",
        f"stages/{name}-anonymize/contact-sheets-2.html",
        f"stages/{name}-anonymize/contact-sheets-\u0661.html",
        f"stages/{name}-extract/..%2F..%2Freport.html",
        f"stages/..%2F{name}-extract/report.html",
        f"stages/..%2F..%2F{name}/report.html",
        "handover/accounts.json",
        "handover/..%2Fgate.json",
        "gate.json",
    ):
        assert ursula.ask(f"{study}/{urllib.parse.quote(path, safe='/%')}").status in (404, 422), path


def test_the_page_shows_an_unanswered_question(up: Up, viola: Visitor) -> None:
    address = _asking(up, "hip")
    run = _run_id(address)
    up.patch(f"dags/{STUDY}/dagRuns/{run}/taskInstances/extract.approve", {"new_state": "success"})
    up.wait_for(lambda: bool(viola.ask(address).json()["stages"]["extract"]["summary"]))
    told = viola.ask(address).json()
    assert told["questions"][0]["state"] == "marked as success by hand" and not told["decisions"]
    assert told["stages"]["extract"]["state"] == "incomplete"
    page = viola.ask(address, **HTML).body
    assert b"The task extract.approve was marked as success by hand. That is no approval" in page
    assert b"extract.approve/required_actions" not in page


TOOLS: dict[str, dict[str, Any]] = {
    "pacsifier_move_dumps": {"data_folder": OUT},
    "pacsifier_dicomdir": {"in_folder": OUT},
    "pacsifier_karnak": {"in_folder": OUT, "out_folder": "karnak", "album_name": "knee", "new_ids": "ids.json"},
    "pacsifier_reports": {"data_folder": OUT, "out_folder": "texts"},
}


@pytest.mark.usefixtures("run")
def test_runs_of_the_tools_have_pages(up: Up, viola: Visitor, ursula: Visitor) -> None:
    ids = {patient["patient_id"]: f"P{n}" for n, patient in enumerate((KUNIGUNDE, THEOBALD))}
    (up.home / "data" / "ids.json").write_text(json.dumps(ids))
    for dag, conf in TOOLS.items():  # one after the other, because they work on the same folder
        run = up.start(dag, **conf)
        assert up.outcome(run, dag) == "success", dag
        address = f"pacsifier/runs/{dag}/{urllib.parse.quote(run, safe='')}"
        told = ursula.ask(address).json()
        assert told["summary"]["verdict"] == "complete" and "stages" not in told
        assert ursula.ask(told["report"].lstrip("/")).status == 200 and viola.ask(f"{address}/report").status == 403
        page = viola.ask(address, **HTML)
        assert page.status == 200 and b"All that was asked for is done." in page.body and _names_nobody(page)
        assert b"Transferred" not in page.body and b"<dt>Problems</dt><dd>0</dd>" in page.body
        assert (b"7 tagged" in page.body) == (dag == "pacsifier_karnak")


def test_with_fab_reports_need_a_permission_of_their_own(
    tmp_path: Path,
) -> None:
    fab = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
    home = {**local.airflow_environment(tmp_path), "AIRFLOW__CORE__AUTH_MANAGER": fab}
    airflow_home.run_airflow(home, "db", "migrate")
    code = """
from airflow.api_fastapi.app import init_auth_manager
from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from pacsifier_ops.cli import init

init.main([])
manager = init_auth_manager()
from pacsifier_ops.hooks.constants import REPORTS
from pacsifier_ops.web.access import may_read_reports
with get_application_builder() as builder:
    users = builder.sm
    role = users.add_role("Research")
    users.add_permission_to_role(role, users.get_permission("can_read", REPORTS))
    for name in ("Viewer", "Op", "Research", "Admin"):
        user = users.add_user(name, name, name, f"{name}@example", users.find_role(name), "secret")
        print("may", name, may_read_reports(user, "pacsifier_extract"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **home}, capture_output=True, text=True, check=True
    )
    told = dict(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("may "))
    assert told == {"Viewer": "False", "Op": "False", "Research": "True", "Admin": "True"}
