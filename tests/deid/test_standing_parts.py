"""Series that there is nothing to convert of get no task; what has changed is looked at again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from pacsifier_ops.base.errors import Cancelled, InputError, PacsifierError, PatientsRefused, TreeError
from pacsifier_ops.deid import steps
from pacsifier_ops.deid.books import DeidAccount
from pacsifier_ops.deid.run import DeidRequest, Store, series_of, store_of
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.pseudonyms.linkage import Linkage, Person
from pacsifier_ops.pseudonyms.secret import project_folder
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state import facts
from pacsifier_ops.state.facts import facts_folder, forget_facts
from pacsifier_ops.state.tree import CONVERTING, DEIDENTIFIED, Tree, write_marker
from tests.support.airflow_home import KUNIGUNDE, ZEBEDAEUS
from tests.support.texts import text, text_during_scan


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of three series of two patients; one is larger than a part. Files count as settled at once."""
    monkeypatch.setattr(facts, "_GRANULARITY", -(10**12))
    monkeypatch.setattr(steps, "PART", 2)
    folder = Tree.open(tmp_path / "in").root
    for patient, number, images in ((KUNIGUNDE, 1, 3), (KUNIGUNDE, 2, 2), (ZEBEDAEUS, 1, 2)):
        values: dict[str, Any] = {**patient, "series_number": number, "n_images": images, "rows": 8, "columns": 8}
        write(phantom_series(**values), folder / f"sub-{patient['patient_id']}" / str(number))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def prepared(source: Path, out: Path, **values: Any) -> tuple[Run, list[int]]:
    run = Run.fresh()
    return run, steps.prepare(run, DeidRequest(source, out, **{"profile": "default", **values}))


def deidentify(source: Path, out: Path, **values: Any) -> tuple[DeidAccount, int]:
    """A whole run; returns its account, and the number of its units that were worked on."""
    run, units = prepared(source, out, **values)
    for unit in units:
        steps.convert(run, unit)
    return steps.report(run), len(units)


def content(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.dcm"))}


def test_the_third_night_has_nothing_to_do(source: Path, out: Path) -> None:
    first, units = deidentify(source, out)
    made = content(out)
    assert (first.verdict, units, len(made)) == ("complete", 4, 7)
    second, units = deidentify(source, out)
    assert units == 4
    third, units = deidentify(source, out)
    assert units == 0
    for account in (second, third):
        assert account.verdict == "complete"
        assert account.totals() == first.totals() and account.rules == first.rules
        assert [vars(one) for one in account.series] == [vars(one) for one in first.series]
    assert content(out) == made
    # News are worked on alone.
    more = phantom_series(patient_id="ZQX-9", patient_name="Qvx^Y", series_number=9, n_images=1, rows=8, columns=8)
    write(more, source / "sub-9" / "9")
    account, units = deidentify(source, out)
    assert (units, account.verdict) == (1, "complete")
    assert content(out).items() > made.items()


@pytest.fixture
def standing(source: Path, out: Path) -> None:
    for _ in range(3):
        deidentify(source, out)


def first(paths: Iterable[Path]) -> Path:
    return min(paths)


def same_size_and_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def found_store(out: Path) -> Store:
    found = store_of(out)
    assert found is not None
    return found


def store(out: Path) -> Path:
    return found_store(out).folder


CHANGES: dict[str, tuple[int, Callable[[Path, Path], object]]] = {
    "nothing": (0, lambda source, out: None),
    "a source is touched": (1, lambda source, out: os.utime(first(source.rglob("*.dcm")))),
    "a source is gone": (1, lambda source, out: first(source.rglob("*.dcm")).unlink()),
    "a result is gone": (2, lambda source, out: first(out.rglob("*.dcm")).unlink()),
    "a result changes, not its size and time": (2, lambda source, out: same_size_and_time(first(out.rglob("*.dcm")))),
    "a file comes beside the results": (2, lambda source, out: (first(out.rglob("*.dcm")).parent / "x").write_text("")),
    "outcomes are gone": (2, lambda source, out: first((store(out) / "settled").iterdir()).unlink()),
    "sheets are gone": (2, lambda source, out: shutil.rmtree(store(out) / "sheets")),
    "all is to be read again": (4, lambda source, out: forget_facts(out)),
}


@pytest.mark.usefixtures("standing")
@pytest.mark.parametrize(("units", "change"), CHANGES.values(), ids=list(CHANGES))
def test_what_has_changed_is_looked_at_again(
    source: Path, out: Path, units: int, change: Callable[[Path, Path], object]
) -> None:
    before = content(out)
    change(source, out)
    account, worked_on = deidentify(source, out)
    assert account.verdict == "complete"
    # A series in two parts has one folder, and one file of outcomes.
    assert worked_on in ((1, 2) if units in (1, 2) else (units,))
    assert {path.name for path in (store(out) / "sheets").iterdir()} == {"1.png", "2.png", "3.png"}
    assert content(out).keys() == before.keys()
    for name, data in content(out).items():
        assert dcmread(out / name).PatientID not in (KUNIGUNDE["patient_id"], ZEBEDAEUS["patient_id"])
        assert data == before[name] or data.endswith(b"\x07")  # of that, the release will say that it is not ours


@pytest.mark.usefixtures("standing")
def test_other_rules_convert_anew(source: Path, out: Path, tmp_path: Path) -> None:
    assert len(prepared(source, out, contact_sheets=False)[1]) == 4
    assert len(prepared(source, tmp_path / "other")[1]) == 4


def test_what_is_not_de_identified_is_tried_in_each_night(source: Path, out: Path) -> None:
    path = first(source.rglob("*.dcm"))
    image = dcmread(path)
    image.BurnedInAnnotation = "YES"
    image.save_as(path)
    totals = []
    for _ in range(3):
        account, units = deidentify(source, out)
        totals.append(account.totals())
    assert units == 1 and totals[0] == totals[1] == totals[2] and totals[0]["quarantined"] + totals[0]["excluded"] == 1


@pytest.mark.usefixtures("standing")
def test_a_change_between_the_steps_is_not_kept(source: Path, out: Path) -> None:
    forget_facts(out)
    run, units = prepared(source, out)
    for unit in units:
        steps.convert(run, unit)
    path = first(out.rglob("*.dcm"))
    same_size_and_time(path)
    steps.report(run)
    assert 1 <= len(prepared(source, out)[1]) <= 2


def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first step adds to this list when it looks at the objects and their patients."""
    looks: list[int] = []
    before = steps.who_becomes_whom

    def assigned(*given: Any) -> Any:
        looks.append(1)
        return before(*given)

    monkeypatch.setattr(steps, "who_becomes_whom", assigned)
    return looks


def sub(source: Path) -> Path:
    return source / f"sub-{KUNIGUNDE['patient_id']}"


def add_to_linkage(source: Path, out: Path) -> None:
    Linkage("default").add({"ZQX-7": Person("OTHER", 3)})


OTHERS: dict[str, tuple[int, Callable[[Path, Path], object]]] = {
    "nothing": (0, lambda source, out: None),
    "a text comes to the logs": (0, lambda source, out: text(source / "logs" / "b.csv")),
    "an object comes to the logs": (
        1,
        lambda source, out: shutil.copy(first(source.rglob("*.dcm")), text(source / "logs" / "c.csv").parent),
    ),
    "a pseudonym is given": (1, lambda source, out: text(sub(source) / "new_id.txt", pseudonym(out))),
    "the linkage has another patient": (1, add_to_linkage),
    "names are gone": (1, lambda source, out: (store(out) / "names.json").unlink()),
    "a source is touched": (1, lambda source, out: os.utime(first(source.rglob("*.dcm")))),
    "a folder comes": (1, lambda source, out: (source / "x").mkdir()),
    "a result is gone": (1, lambda source, out: first(out.rglob("*.dcm")).unlink()),
    "a sheet is gone": (1, lambda source, out: first((store(out) / "sheets").iterdir()).unlink()),
    "all is to be read again": (1, lambda source, out: forget_facts(out)),
}


def pseudonym(out: Path) -> str:
    """The pseudonym of the first patient, as it is."""
    return next(one.pseudonym for one in series_of(found_store(out)) if one.patient_id == KUNIGUNDE["patient_id"])


@pytest.mark.parametrize(("looks", "change"), OTHERS.values(), ids=list(OTHERS))
def test_a_night_like_the_one_before_looks_at_no_object(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, looks: int, change: Callable[[Path, Path], object]
) -> None:
    text(source / "logs" / "a.csv")
    for _ in range(3):
        before, _ = deidentify(source, out)
    counted = looked(monkeypatch)
    same, units = deidentify(source, out)
    assert (counted, units) == ([], 0)
    told = {"run", "started", "finished"}
    assert {k: v for k, v in vars(same).items() if k not in told} == {
        k: v for k, v in vars(before).items() if k not in told
    }
    change(source, out)
    account, _ = deidentify(source, out)
    assert (len(counted), account.verdict) == (looks, "complete")
    texts = [path for path in source.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    assert account.passed_over["not DICOM"] == len(texts) - 1 and account.patients == 2  # one is the tree's own
    if not looks:
        assert account.series == before.series


@pytest.mark.parametrize("given", [{"linked_only": True}, {"contact_sheets": False}, {"license": "other"}])
def test_another_request_looks_at_the_objects(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    for _ in range(3):
        deidentify(source, out)
    counted = looked(monkeypatch)
    deidentify(source, out, **given)
    assert counted == [1]


def test_a_file_of_pseudonyms_is_read_when_it_changes(
    source: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = text(tmp_path / "ids.json", json.dumps({KUNIGUNDE["patient_id"]: "FIRST"}))
    for _ in range(3):
        deidentify(source, out, new_ids=str(ids))
    counted = looked(monkeypatch)
    assert deidentify(source, out, new_ids=str(ids))[1] == 0 and not counted
    ids.write_text(json.dumps({KUNIGUNDE["patient_id"]: "OTHER"}))
    with pytest.raises(PatientsRefused, match="give different pseudonyms"):
        deidentify(source, out, new_ids=str(ids))


def test_what_cannot_be_used_is_tried_in_each_night(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = first(source.rglob("*.dcm"))
    path.write_bytes(path.read_bytes()[:300])
    counted = looked(monkeypatch)
    for _ in range(3):
        account, _ = deidentify(source, out)
        assert account.unreadable == {"quarantined": 1}
    assert len(counted) == 3


@pytest.mark.usefixtures("standing")
def test_a_result_that_goes_after_the_first_step_is_missed(source: Path, out: Path) -> None:
    run, units = prepared(source, out)
    first(out.rglob("*.dcm")).unlink()
    assert units == [] and steps.report(run).verdict == "unbalanced"


@pytest.mark.usefixtures("standing")
def test_the_plan_of_a_night_that_was_killed_is_made_again(source: Path, out: Path) -> None:
    run, units = prepared(source, out)
    os.utime(first(source.rglob("*.dcm")))
    again = steps.prepare(run, DeidRequest(source, out, profile="default"))
    assert units == [] and len(again) == 1
    for unit in again:
        steps.convert(run, unit)
    assert steps.report(run).verdict == "complete"


def tree_in(folder: Path, state: str) -> None:
    """Another job makes this folder a tree of its own."""
    (folder / ".pacsifier").mkdir(parents=True)
    write_marker(folder, {"state": state})


def emptied(source: Path, out: Path) -> None:
    """The folder becomes empty after a run has begun, which goes on."""
    prepared(source, out)
    for path in source.rglob("*.dcm"):
        path.unlink()
    assert deidentify(source, out)[0].verdict == "complete"


REFUSED: dict[str, tuple[type[PacsifierError], Callable[[Path, Path], object]]] = {
    "a folder is half de-identified": (TreeError, lambda source, out: tree_in(sub(source), CONVERTING)),
    "a folder is de-identified": (TreeError, lambda source, out: tree_in(sub(source), DEIDENTIFIED)),
    "the logs are de-identified": (TreeError, lambda source, out: tree_in(source / "logs", DEIDENTIFIED)),
    "the folder is empty": (InputError, emptied),
    "the linkage is open": (InputError, lambda source, out: project_folder("default").chmod(0o755)),
}


@pytest.mark.usefixtures("standing")
@pytest.mark.parametrize(("error", "change"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_refused_is_refused_without_a_look(
    source: Path, out: Path, error: type[PacsifierError], change: Callable[[Path, Path], object]
) -> None:
    change(source, out)
    with pytest.raises(error):
        prepared(source, out)


def test_results_in_a_folder_with_the_name_of_one_of_runs_are_looked_at(source: Path, out: Path) -> None:
    sub(source).rename(source / "report")
    deidentify(source, out, keep_patient_dir_names=True)
    shutil.rmtree(source / "report")
    for _ in range(3):
        assert deidentify(source, out, keep_patient_dir_names=True)[0].verdict == "complete"
    first((out / "report").rglob("*.dcm")).unlink()
    assert deidentify(source, out, keep_patient_dir_names=True)[0].verdict == "unbalanced"


def test_a_text_that_comes_during_the_scan_is_counted_once(source: Path, out: Path) -> None:
    for _ in range(2):
        deidentify(source, out)
    with text_during_scan(source):
        deidentify(source, out)
    for _ in range(2):
        assert deidentify(source, out)[0].passed_over == {"not DICOM": 1}


def test_a_plan_stands_no_longer_than_what_was_read_for_it(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deidentify(source, out)
    (heads,) = facts_folder(source).glob("heads-*.jsonl")
    line, _, rest = heads.read_bytes().partition(b"\n")
    version, since = json.loads(line)
    heads.write_bytes(json.dumps([version, since - 20 * 86400]).encode() + b"\n" + rest)
    for _ in range(2):
        deidentify(source, out)
    counted = looked(monkeypatch)
    deidentify(source, out)
    assert not counted
    monkeypatch.setenv("PACSIFIER_VERIFY_DAYS", "15")
    deidentify(source, out)
    assert counted


@pytest.mark.usefixtures("standing")
@pytest.mark.parametrize("damaged", [b"", b'["x",', b'["x", null]'])
def test_a_damaged_note_of_the_plan_is_none(source: Path, out: Path, damaged: bytes) -> None:
    run, units = prepared(source, out)
    (run.folder / "standing.json").write_bytes(damaged)
    assert units == [] and steps.report(run).verdict == "complete"


@pytest.mark.usefixtures("standing")
def test_a_cancelled_run_takes_over_no_plan(source: Path, out: Path) -> None:
    run = Run.fresh()
    with pytest.raises(Cancelled):
        steps.prepare(run, DeidRequest(source, out, profile="default"), cancelled=lambda: True)
