"""Nightly runs: which files are claimed, left or rejected, and that a kill neither loses nor repeats a submission."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow
import pytest
from pyarrow import parquet

from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.extract.arrival import rows_of
from pacsifier_ops.extract.requests import new_request_id, reading_options, table_path
from pacsifier_ops.nightly import EXTRACT, STUDY, Folders, night_of
from pacsifier_ops.nightly.inbox import PAUSE, Collected, collect, put_away_started
from pacsifier_ops.nightly.options import OPTIONS, PROJECT, read_nightly_options, read_table
from pacsifier_ops.nightly.projects import ProjectRuns, check_projects
from pacsifier_ops.query.options import Refused
from pacsifier_ops.runs.folder import dag_run_name
from tests.support.disks import disk
from tests.support.places import REPO

EXAMPLES = REPO / "include" / "nightly"
NIGHT, NEXT = "2024-03-30", "2024-03-31"
TABLE = "PatientID\nZQX-71830-KW\n"
PAGES = "http://airflow.example/"


def connect(name: str) -> None:
    """Accept one name of a connection."""
    if name != "pacs_default":
        raise ConfigError(f"there is no connection {name}; make one of type dicom")


class Runs:
    """The runs that Airflow has."""

    def __init__(self, ids: Iterable[str] = (), going_on: Iterable[str] = ()) -> None:
        self.ids, self.going_on = set(ids), set(going_on)

    def exists(self, run_id: str) -> bool:
        return run_id in self.ids

    def is_running(self, run_id: str) -> bool:
        return run_id in self.going_on


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    return Folders(tmp_path / "data" / "nightly")


def put(folder: Path, *names: str, text: str = TABLE, age: float = 600) -> None:
    """Write files with a modification time of `age` seconds ago."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text(text, encoding="utf-8")
        os.utime(folder / name, (time.time() - age,) * 2)


def night(folders: Folders, date: str = NIGHT, most: int = 500) -> Collected:
    return collect(folders, date, connect, most, pause=0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_submission_is_one_run_one_request_and_one_folder_by_one_id(folders: Folders, tmp_path: Path) -> None:
    put(folders.inbox, "Wurzelbacher.CSV")
    put(folders.inbox, "wurzelbacher.yaml", text="strict: yes\nmax_series: 12\ninfo:\nretrieve: none\n")
    (start,) = night(folders).starts
    identity = start.run_id.removeprefix("nightly__")
    assert start.conf == {
        "queryfile": identity,
        "out_directory": f"results/{NIGHT}-{identity}",
        "strict": True,
        "max_series": 12,
        "retrieve": "none",
    }
    assert table_path(identity).read_text() == TABLE
    assert put_away_started(folders, Runs(), PAGES) == (0, 1)  # it is not started yet
    assert night(folders, NEXT).starts == [start]
    assert put_away_started(folders, Runs([start.run_id]), PAGES) == (1, 0)
    (done,) = folders.done.iterdir()
    assert done.name == f"{NIGHT}-{identity}"
    assert names(done) == ["Wurzelbacher.CSV", "result.json", "wurzelbacher.yaml"]
    assert json.loads((done / "result.json").read_text()) == {
        "dag_id": EXTRACT,
        "run_id": start.run_id,
        "out_directory": str(tmp_path / "data" / "results" / done.name),
        "report": str(tmp_path / "state" / "runs" / dag_run_name(EXTRACT, start.run_id) / "report.html"),
        "page": f"http://airflow.example/pacsifier/runs/{EXTRACT}/{start.run_id}",
    }
    assert night(folders, NEXT) == Collected() and names(folders.claimed) == names(folders.inbox) == []


def test_options_for_reading_a_table_are_kept_with_it_and_not_in_airflow(folders: Folders) -> None:
    said = {"date_format": "DD.MM.YYYY", "sheet": "Müller", "hidden_rows": "skip"}
    book = openpyxl.Workbook()
    book.active.title = "Müller"
    for cells in (["PatientID", "StudyDate"], ["ZQX-71830-KW", "24.12.1993"], ["hidden", ""]):
        book.active.append(cells)
    book.active.row_dimensions[3].hidden = True
    put(folders.inbox, "a.xlsx")
    book.save(folders.inbox / "a.xlsx")
    os.utime(folders.inbox / "a.xlsx", (0, 0))
    put(folders.inbox, "a.yaml", text="".join(f"{key}: {value}\n" for key, value in said.items()))
    (start,) = night(folders).starts
    assert not start.conf.keys() & said.keys() and reading_options(start.conf["queryfile"], {}) == said
    (row,) = rows_of(start.conf["queryfile"], None)
    assert row.keys == {"PatientID": "ZQX-71830-KW", "StudyDate": "19931224"}
    put(folders.inbox, "b.csv", text="StudyDate\n24.12.93\n")
    put(folders.inbox, "b.yaml", text="date_format: DD.MM.YYYY\n")
    night(folders, NEXT)
    (reasons,) = folders.rejected.glob("*/reasons.txt")
    assert reasons.read_text().endswith("[24.12.93]\n")  # the reasons may contain cells, as they are beside the table


def test_a_second_submission_of_the_same_files_is_another_run(folders: Folders) -> None:
    put(folders.inbox, "a.csv", "b.csv")
    first = night(folders).starts
    put(folders.inbox, "a.csv")
    second = night(folders).starts  # the first two have not been started yet
    assert len({start.run_id for start in first}) == 2
    assert len({start.run_id for start in second}) == 3
    assert {start.run_id for start in first} < {start.run_id for start in second}


def test_files_that_may_be_incomplete_stay(folders: Folders) -> None:
    put(folders.inbox, "copying.csv", age=5)
    put(folders.inbox, "pair.csv")
    put(folders.inbox, "pair.yaml", text="strict: true", age=5)
    put(folders.inbox, "options without table.yaml", text="strict: true")
    put(folders.inbox, "clock ahead.csv", age=-3600)
    put(folders.inbox, "upload.csv.part", ".rsync.csv.x1", "~$open.xlsx", "x.filepart", "x.tmp", "Thumbs.db")
    (folders.inbox / "folder.csv").mkdir()
    (folders.inbox / "link.csv").symlink_to("/etc/hostname")
    before = set(names(folders.inbox))
    collected = night(folders)
    assert (len(collected.starts), collected.copying, collected.without_table) == (1, 2, 1)
    assert 110 < collected.wait <= 115
    assert before - set(names(folders.inbox)) == {"clock ahead.csv"}
    assert not collected.rejected

    put(folders.inbox, "copying.csv", "pair.csv")
    put(folders.inbox, "pair.yaml", text="strict: true")
    assert len(night(folders).starts) == 3


def test_a_file_that_was_complete_before_it_was_renamed_is_taken_at_once(folders: Folders) -> None:
    put(folders.inbox, "a.csv.part")
    (folders.inbox / "a.csv.part").rename(folders.inbox / "a.csv")
    collected = night(folders)
    assert (len(collected.starts), collected.wait) == (1, 0)


def test_a_file_that_changes_between_two_looks_stays(folders: Folders) -> None:
    put(folders.inbox, "slow.csv")
    child = os.fork()
    if child == 0:
        while True:
            with (folders.inbox / "slow.csv").open("a") as stream:
                stream.write("ZQX-71830-KW\n")
            os.utime(folders.inbox / "slow.csv", (0, 0))
            time.sleep(0.01)
    try:
        assert collect(folders, NIGHT, connect, pause=0.5) == Collected(copying=1, wait=PAUSE)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


REJECTED = {
    "unknown column": ({"a.csv": "Patiend\nx\n"}, "a.csv: line 1, column 1: not known; did you mean PatientID?"),
    "no row": ({"a.csv": "PatientID\n"}, "a.csv: has a header but no rows"),
    "no good row": ({"a.csv": "StudyDate\nlast year\n"}, "a.csv: line 2, StudyDate: "),
    "strict": ({"a.csv": f"{TABLE}\\\n", "a.yaml": "strict: true"}, "a.csv: line 3, PatientID: "),
    "no workbook": ({"a.xlsx": "PK\x03\x04"}, "a.xlsx: cannot be read as an .xlsx workbook"),
    "no table": ({"a.docx": "x"}, "a.docx: neither a query table (.csv, .xlsx, .parquet, .duckdb) nor an options file"),
    "two tables": ({"a.csv": TABLE, "A.xlsx": "x"}, "A.xlsx, a.csv: have the same name"),
    "two options": ({"a.csv": TABLE, "a.yaml": "", "a.yml": ""}, "a.csv, a.yaml, a.yml: have the same name"),
    "unknown key": ({"a.csv": TABLE, "a.yaml": "\nmax_serie: 3"}, "a.yaml: line 2: max_serie is not known (did you"),
    "key twice": ({"a.csv": TABLE, "a.yaml": "info: true\ninfo: true"}, "a.yaml: line 2, info: there twice (line 1)"),
    "no number": ({"a.csv": TABLE, "a.yaml": "max_series: 1e3"}, "a.yaml: line 1, max_series: not a whole number"),
    "no switch": ({"a.csv": TABLE, "a.yaml": "info: maybe"}, "a.yaml: line 1, info: neither true nor false"),
    "no choice": ({"a.csv": TABLE, "a.yaml": "retrieve: all"}, "a.yaml: line 1, retrieve: none of save, move, none"),
    "no text": ({"a.csv": TABLE, "a.yaml": "out_directory: [a]"}, "a.yaml: line 1, out_directory: not text"),
    "not YAML": ({"a.csv": TABLE, "a.yaml": "info: true\n\tx: }"}, "a.yaml: line 2: is not YAML"),
    "too deep": ({"a.csv": TABLE, "a.yaml": "[" * 60_000}, "a.yaml: is not YAML"),
    "no mapping": ({"a.csv": TABLE, "a.yaml": "strict"}, "a.yaml: line 1: holds no options"),
    "outside": ({"a.csv": TABLE, "a.yaml": "out_directory: ../x"}, "a.yaml: line 1, out_directory: leads outside"),
    "no connection": ({"a.csv": TABLE, "a.yaml": "pacs: pax"}, "a.yaml: line 1, pacs: there is no connection pax"),
    "no recipient": ({"a.csv": TABLE, "a.yaml": "tell: Anna M"}, "a.yaml: line 1, tell: recipient 1 is neither a mail"),
    "not moved": ({"a.csv": TABLE, "a.yaml": "resend: true"}, "a.yaml: line 1, resend: only with retrieve: move"),
}


@pytest.mark.parametrize(("files", "reason"), REJECTED.values(), ids=REJECTED.keys())
def test_an_unusable_submission_is_rejected_with_reasons(
    folders: Folders, tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    for name, text in files.items():
        put(folders.inbox, name, text=text)
    put(folders.inbox, "good.csv")
    collected = night(folders)
    assert len(collected.starts) == 1, "the good one is not kept from running"
    (rejected,) = folders.rejected.iterdir()
    assert [rejected.name] == collected.rejected and re.fullmatch(rf"{NIGHT}-req-[0-9a-f]{{24}}", rejected.name)
    assert names(rejected) == sorted([*files, "reasons.txt"])
    assert reason in (rejected / "reasons.txt").read_text()
    assert len(names(tmp_path / "state" / "requests")) == 1


def test_all_reasons_are_reported_at_once(folders: Folders) -> None:
    put(folders.inbox, "a.csv", text="PatientIDs,Modaliti\n1,2\n")
    put(folders.inbox, "a.yaml", text="infos: true\nmax_series: 0\nout_directory: /etc\n")
    night(folders)
    (reasons,) = folders.rejected.glob("*/reasons.txt")
    assert [line[:16].split(",")[0] for line in reasons.read_text().splitlines()] == [
        "a.yaml: line 1: ",
        "a.yaml: line 2",
        "a.yaml: line 3",
        "a.csv: line 1",
        "a.csv: line 1",
    ]


def test_other_files_among_the_claims_stay(folders: Folders) -> None:
    put(folders.claimed / "mine", "table.csv")
    put(folders.claimed, ".DS_Store")
    unmade = new_request_id()
    put(folders.claimed / unmade, "notes.txt")
    put(folders.inbox, "a.csv")
    assert len(night(folders).starts) == 1
    assert (folders.claimed / ".DS_Store").exists() and {"mine", unmade} < set(names(folders.claimed))
    assert names(folders.claimed / "mine") == ["table.csv"] and names(folders.claimed / unmade) == ["notes.txt"]


def test_file_names_that_are_not_text(folders: Folders) -> None:
    for name, text in ((b"M\xfcller.csv", TABLE), (b"M\xf6ller.csv", "x")):
        put(folders.inbox, os.fsdecode(name), text=text)
    collected = night(folders)
    assert len(collected.starts) == 1
    (reasons,) = folders.rejected.glob("*/reasons.txt")
    assert r"M\udcf6ller.csv" in reasons.read_text()
    assert put_away_started(folders, Runs([collected.starts[0].run_id]), PAGES) == (1, 0)


def test_a_night_starts_a_maximum_number_the_oldest_first(folders: Folders) -> None:
    for number in range(5):
        put(folders.inbox, f"{number}.csv", age=600 + number)
    started: list[str] = []
    for left in ([0, 1, 2], [0], []):
        collected = night(folders, most=2)
        assert (len(collected.starts), collected.next_night) == (2 if left or len(started) < 4 else 1, len(left))
        started += [start.run_id for start in collected.starts]
        put_away_started(folders, Runs(started), PAGES)
        assert names(folders.inbox) == [f"{number}.csv" for number in left]
    assert len(set(started)) == len(names(folders.done)) == 5


def test_a_submission_that_cannot_be_moved_is_counted_and_stays(folders: Folders, tmp_path: Path) -> None:
    put(folders.inbox, "a.csv")
    with disk(tmp_path / "elsewhere", "size=1m") as elsewhere:
        folders.claimed.rmdir()
        folders.claimed.symlink_to(elsewhere)
        assert night(folders) == Collected(stuck=1)
        assert names(folders.claimed) == [] and names(folders.inbox) == ["a.csv"]


def killed_at(folders: Folders, number: int) -> bool:
    """Run a night in a process that dies before its change number `number` to the disk; return whether it died."""
    child = os.fork()
    if child == 0:
        left = number

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes or event in ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod"):
                left -= 1
                if left == 0:
                    os._exit(9)

        sys.addaudithook(hook)
        try:
            put_away_started(folders, Runs(start.run_id for start in night(folders).starts), PAGES)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_night_that_is_killed_anywhere_is_completed_once(folders: Folders, tmp_path: Path) -> None:
    number = 0
    died = True
    while died:
        number += 1
        put(folders.inbox, "a.csv")
        put(folders.inbox, "a.yaml", text="max_series: 7")
        put(folders.inbox, "bad.csv", text="x")
        died = killed_at(folders, number)
        collected = night(folders)
        put_away_started(folders, Runs(start.run_id for start in collected.starts), PAGES)
        assert names(folders.inbox) == names(folders.claimed) == [], f"killed at {number}"
        assert len(names(folders.done)) == len(names(folders.rejected)) == number
        assert all(names(folder) == ["a.csv", "a.yaml", "result.json"] for folder in folders.done.iterdir())
        assert all(names(folder) == ["bad.csv", "reasons.txt"] for folder in folders.rejected.iterdir())
        assert len(names(tmp_path / "state" / "requests")) == number
    assert number > 15


def test_the_missing_file_of_a_half_claimed_pair_is_waited_for_or_requested(folders: Folders) -> None:
    put(folders.inbox, "a.csv", "b.csv")
    for name in ("a.yaml", "b.yaml"):
        put(folders.inbox, name, text="max_series: 7")
    night(folders)
    for claim in folders.claimed.iterdir():  # the state after a kill between two renames
        kept = json.loads((claim / ".claim.json").read_text())
        (claim / ".claim.json").write_text(json.dumps({**kept, "start": None}))
        for path in claim.glob("*.yaml"):
            path.unlink()
    put(folders.inbox, "a.yaml", text="max_ser", age=5)
    collected = night(folders)
    assert (len(collected.starts), len(collected.rejected), collected.copying) == (0, 1, 1)
    (reasons,) = folders.rejected.glob("*/reasons.txt")
    assert reasons.read_text() == "b.yaml: was removed from the inbox too early; put all files in again\n"
    put(folders.inbox, "a.yaml", text="max_series: 7")
    assert [start.conf["max_series"] for start in night(folders).starts] == [7]


def test_answers_have_the_permissions_of_the_inbox(folders: Folders) -> None:
    assert all(path.stat().st_mode & 0o777 == 0o700 for path in (folders.inbox, folders.done, folders.projects))
    folders.inbox.chmod(0o750)
    folders = Folders(folders.inbox.parent)
    put(folders.inbox, "bad.csv", text="x")
    night(folders)
    (rejected,) = folders.rejected.iterdir()
    assert rejected.stat().st_mode & 0o777 == 0o750
    assert (rejected / "reasons.txt").stat().st_mode & 0o777 == 0o640


# Projects


def projects(folders: Folders, runs: Runs, date: str = NIGHT) -> ProjectRuns:
    return check_projects(folders, date, connect, runs, PAGES, pause=0)


def project(folders: Folders, slug: str, options: str = "", table: str = TABLE) -> Path:
    put(folders.projects / slug, "project.yaml", text=options)
    put(folders.projects / slug, "queries.csv", text=table)
    return folders.projects / slug


def test_a_project_runs_once_a_night_over_the_same_folder_with_the_table_of_that_night(folders: Folders) -> None:
    folder = project(folders, "heart-7", "max_series: 3\n")
    runs = Runs()
    (first,) = projects(folders, runs).starts
    assert first.run_id == f"nightly__{NIGHT}__heart-7"
    assert {**first.conf, "queryfile": ""} == {"out_directory": "results/heart-7", "queryfile": "", "max_series": 3}
    assert json.loads((folder / "result.json").read_text())["run_id"] == first.run_id
    runs.ids.add(first.run_id)
    assert projects(folders, runs) == ProjectRuns(already_run=1)

    runs.going_on.add(first.run_id)
    assert projects(folders, runs, NEXT) == ProjectRuns(already_run=1), "its run of the night before has not ended"
    runs.going_on.clear()
    put(folder, "queries.csv", text=f"{TABLE}other\n")
    (second,) = projects(folders, runs, NEXT).starts
    assert (second.run_id, second.conf["out_directory"]) == (f"nightly__{NEXT}__heart-7", "results/heart-7")
    assert table_path(str(first.conf["queryfile"])).read_text() == TABLE
    assert table_path(str(second.conf["queryfile"])).read_text() == f"{TABLE}other\n"


BROKEN = {
    "unknown key": ("a", "enable: true\n", "project.yaml: line 1: enable is not known (did you mean enabled?)"),
    "no table": ("a", "queryfile: table.csv\n", "project.yaml: queryfile: there is no such file"),
    "outside": ("a", "queryfile: ../good/queries.csv\n", "project.yaml: queryfile: there is no such file"),
    "bad row": ("a", "queryfile: project.yaml\n", "project.yaml: line 1: no header"),
    "slug": ("My project", "", "the folder's name: only a to z, 0 to 9 and -"),
}


@pytest.mark.parametrize(("slug", "options", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_project_has_reasons_and_does_not_affect_the_others(
    folders: Folders, slug: str, options: str, reason: str
) -> None:
    project(folders, "good")
    project(folders, "switched-off", "enabled: false\n")
    (folders.projects / "unfinished").mkdir()
    folder = project(folders, slug, options)
    standing = projects(folders, Runs())
    assert (len(standing.starts), standing.disabled, standing.broken) == (1, 1, 1)
    assert reason in (folder / "reasons.txt").read_text()
    put(folder, "project.yaml", text="enabled: true\n")
    assert projects(folders, Runs()).broken == (0 if slug == "a" else 1)
    assert (folder / "reasons.txt").exists() == (slug != "a")


def test_a_study_runs_once_a_night_by_its_file(folders: Folders) -> None:
    put(folders.projects / "knee", "study.yaml", text="project: knee\nqueryfile: queries/knee.csv\n")
    put(folders.projects / "resting", "study.yaml", text="queryfile: q.csv\nenabled: false\n")
    runs = Runs()
    standing = projects(folders, runs)
    (start,) = standing.starts
    assert (start.dag_id, start.run_id, standing.disabled) == (STUDY, f"nightly__{NIGHT}__knee", 1)
    assert start.conf == {"project_file": "nightly/projects/knee/study.yaml"}
    told = json.loads((folders.projects / "knee" / "result.json").read_text())
    assert told["dag_id"] == STUDY and "out_directory" not in told
    runs.ids.add(start.run_id)
    assert projects(folders, runs) == ProjectRuns(disabled=1, already_run=1)
    runs.going_on.add(start.run_id)
    assert projects(folders, runs, NEXT).starts == [], "its run of the night before has not ended"


def test_a_broken_study_has_reasons(folders: Folders, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    put(folders.projects / "a", "study.yaml", text="project: a\nreleas: ask\n")
    project(folders, "both")
    put(folders.projects / "both", "study.yaml", text="queryfile: q.csv\n")
    assert projects(folders, Runs()).broken == 2
    reasons = (folders.projects / "a" / "reasons.txt").read_text()
    assert "line 2: releas is not known (did you mean release?)" in reasons and "queryfile: is missing" in reasons
    assert "there is study.yaml as well" in (folders.projects / "both" / "reasons.txt").read_text()
    put(folders.projects / "a", "study.yaml", text="queryfile: q.csv\n")
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "elsewhere"))
    assert projects(folders, Runs()).broken == 2
    assert "a file below the data root" in (folders.projects / "a" / "reasons.txt").read_text()


def test_links_do_not_lead_out_of_a_project(folders: Folders, tmp_path: Path) -> None:
    put(tmp_path / "requests", "table.csv", text="PatientID\nsecret\n")
    folder = project(folders, "spy")
    (folder / "queries.csv").unlink()
    (folder / "queries.csv").symlink_to(tmp_path / "requests" / "table.csv")
    elsewhere = project(folders, "elsewhere").rename(tmp_path / "elsewhere")
    (folders.projects / "linked").symlink_to(elsewhere)
    assert projects(folders, Runs()) == ProjectRuns(broken=1)
    assert "queries.csv: is a link" in (folder / "reasons.txt").read_text()
    assert not (elsewhere / "result.json").exists()


def test_a_project_that_cannot_be_written_to_does_not_affect_the_others(folders: Folders) -> None:
    (project(folders, "a") / "result.json").mkdir()
    project(folders, "b")
    standing = projects(folders, Runs())
    assert standing.broken == 1 and [start.run_id for start in standing.starts] == [f"nightly__{NIGHT}__b"]


def test_a_project_that_is_being_changed_is_waited_for_and_is_not_broken(folders: Folders) -> None:
    folder = project(folders, "a")
    project(folders, "b")
    (folder / ".queries.csv.swp").touch()
    (folder / "result.json").write_text("{}")
    assert not check_projects(folders, NIGHT, connect, Runs(), PAGES, pause=0, may_wait=True).wait
    put(folder, "queries.csv", age=5)
    waiting = check_projects(folders, NIGHT, connect, Runs(), PAGES, pause=0, may_wait=True)
    assert (waiting.starts, waiting.broken, 110 < waiting.wait <= 115) == ([], 0, True)
    standing = projects(folders, Runs())  # the night has waited long enough
    assert (len(standing.starts), standing.broken, standing.changing) == (1, 0, 1)
    assert (folder / "reasons.txt").read_text().startswith("queries.csv: was still being changed")
    put(folder, "queries.csv")
    assert len(projects(folders, Runs()).starts) == 2 and not (folder / "reasons.txt").exists()


# Nights and examples


@pytest.mark.parametrize(
    ("utc", "date"),
    [
        ("2024-03-30T19:00+00:00", "2024-03-30"),
        ("2024-03-31T09:59+00:00", "2024-03-30"),  # 11:59 in summer time, which began that night
        ("2024-03-31T10:00+00:00", "2024-03-31"),
        ("2024-12-31T23:30+00:00", "2024-12-31"),
    ],
)
def test_a_night_lasts_from_noon_to_noon_where_the_hospital_is(
    monkeypatch: pytest.MonkeyPatch, utc: str, date: str
) -> None:
    monkeypatch.setenv("PACSIFIER_TIMEZONE", "Europe/Zurich")
    assert night_of(dt.datetime.fromisoformat(utc)) == date


def test_the_examples_can_be_used_and_show_every_option(folders: Folders, tmp_path: Path) -> None:
    request = (EXAMPLES / "request.yaml").read_text()
    assert read_nightly_options(EXAMPLES / "request.yaml", OPTIONS, connect)["pacs"] == "pacs_default"
    assert set(re.findall(r"^(?:# )?(\w+): ", request, re.MULTILINE)) == set(OPTIONS)
    standing = read_nightly_options(EXAMPLES / "projects" / "example" / "project.yaml", PROJECT, connect)
    assert {"enabled", "queryfile"} <= standing.keys()
    for table in (EXAMPLES / "request.csv", EXAMPLES / "projects" / "example" / standing["queryfile"]):
        assert read_table(table, strict=True)


def test_a_selection_is_checked_when_it_is_handed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path))
    (tmp_path / "good.yaml").write_text("studies: 1\n")
    (tmp_path / "bad.yaml").write_text("anchor: near\n")
    options = tmp_path / "options.yaml"

    def reasons(text: str) -> list[str]:
        options.write_text(text)
        try:
            read_nightly_options(options, OPTIONS, lambda name: None)
        except Refused as error:
            return error.reasons
        return []

    assert reasons("selection: good.yaml\nreselect: true\n") == []
    assert ["bad.yaml: line 1, anchor" in reason for reason in reasons("selection: bad.yaml\n")] == [True]
    assert ["leads outside" in reason for reason in reasons("selection: ../good.yaml\n")] == [True]
    assert ["goes with a selection" in reason for reason in reasons("reselect: true\n")] == [True]


def test_tables_with_types_and_queries_by_night(folders: Folders, tmp_path: Path) -> None:
    """A Parquet file with a column map, a query over it, and a project whose table comes from a database."""
    table = pyarrow.table({"mrn": ["ZQX-71830-KW", "YVJ-55912-ZS"], "ward": ["A", "B"]})
    put(folders.inbox, "a.parquet", "b.parquet")
    for name in ("a", "b"):
        parquet.write_table(table, folders.inbox / f"{name}.parquet")
        os.utime(folders.inbox / f"{name}.parquet", (0, 0))
    (tmp_path / "data" / "ward.sql").write_text("select mrn as PatientID from source where ward = 'A'")
    put(folders.inbox, "a.yaml", text="columns: PatientID = mrn\n")
    put(folders.inbox, "b.yaml", text="sql: ward.sql\n")
    starts = night(folders).starts
    asked = sorted(tuple(row.keys["PatientID"] for row in rows_of(one.conf["queryfile"], None)) for one in starts)
    assert asked == [("ZQX-71830-KW",), ("ZQX-71830-KW", "YVJ-55912-ZS")]
    assert not any({"columns", "sql"} & one.conf.keys() for one in starts)
    for name, text in (
        ("c", "columns: PatientID\n"),
        ("d", "sql: ../../outside.sql\n"),
        ("e", "sql_conn: omop\nsql: ward.sql\n"),
    ):
        put(folders.inbox, f"{name}.csv", text=TABLE)
        put(folders.inbox, f"{name}.yaml", text=text)
    assert {one.run_id for one in night(folders, NEXT).starts} == {one.run_id for one in starts}  # they have not begun
    reasons = " ".join(path.read_text() for path in folders.rejected.glob("*/reasons.txt"))
    assert "pair 1 is not understood" in reasons and "leads outside" in reasons and "a table was handed in" in reasons
    project(folders, "omop", "sql_conn: omop\nsql: ward.sql\n")
    (start,) = projects(folders, Runs()).starts
    assert start.conf == {"out_directory": "results/omop", "sql_conn": "omop", "sql": "ward.sql"}
