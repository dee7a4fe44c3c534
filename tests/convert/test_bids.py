"""A BIDS data set that a validator accepts, whose names stay from night to night, and that holds no identifier.

The validator is that of the BIDS maintainers (`bids-validator-deno`): it reads headers, sidecars and tables. The older
one for Python (`bids_validator`) looks at names alone.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from pacsifier_ops.base.errors import ConfigError, InputError, TreeError
from pacsifier_ops.convert import bids, steps
from pacsifier_ops.convert.bids import Session, described
from pacsifier_ops.convert.request import ConvertRequest
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.approved import approved_of
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.tree import state_folder
from pacsifier_ops.study.cohort import search_of
from tests.support import scans
from tests.support.scans import converted, deidentified, names


def errors(folder: Path) -> list[dict[str, Any]]:
    """What the validator calls an error."""
    program = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run([program, "--format", "json", folder], capture_output=True, text=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [issue for issue in issues if issue["severity"] == "error"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def brain(date: str = "20180102", time: str = "101500", **more: Any) -> list[Dataset]:
    """A study of a head: two T1w, T2w, BOLD, a localizer."""
    when = {"study_date": date, "study_time": time, **more}
    first, again = scans.t1w(8, **when), scans.t1w(10, **when)
    return [*first, *again, *scans.t1w(9, "t2_tse_tra", **when)]


def test_a_validator_accepts_what_the_rules_of_the_package_make(tmp_path: Path) -> None:
    kinds = [scans.ct(), scans.tilted(), scans.echoes(), scans.in_time(), scans.localizer(), scans.multiframe()]
    source = deidentified([*(image for images in kinds for image in images), *brain()], tmp_path)
    _, account = converted(source, tmp_path / "nii", "bids")
    root = tmp_path / "nii" / "bids"
    assert account.verdict == COMPLETE and errors(root) == []
    (patient,) = (path.name for path in root.glob("sub-*"))
    found = {re.sub(r"^.*_ses-1_", "", path.name) for path in root.rglob("*.nii.gz")}
    assert found == {
        *("run-1_T1w.nii.gz", "run-2_T1w.nii.gz", "task-rest_bold.nii.gz", "rec-Tilt1_ct.nii.gz"),
        *("run-1_ct.nii.gz", "run-2_ct.nii.gz", "run-1_T2w.nii.gz", "run-2_T2w.nii.gz"),
    }
    assert (
        account.counts["unassigned, no rule fits"]
        == len(list((tmp_path / "nii" / "unassigned").rglob("*.nii.gz")))
        == 5
    )
    assert table(root / "participants.tsv") == [{"participant_id": patient, "pseudonym": patient[4:], "sessions": "1"}]
    assert table(root / patient / f"{patient}_sessions.tsv") == [{"session_id": "ses-1", "days_from_first": "0"}]
    told = json.loads((root / "dataset_description.json").read_text())
    assert {one["Name"] for one in told["GeneratedBy"]} == {"pacsifier-ops", "dcm2niix"}
    assert all(one["Version"] for one in told["GeneratedBy"])
    assert json.loads(next(root.rglob("*_bold.json")).read_text())["TaskName"] == "rest"
    assert approved_of(tmp_path / "nii").files.keys() == set(names(tmp_path / "nii"))  # type: ignore[union-attr]
    assert not any("2018" in name or scans.PATIENT in name for name in names(tmp_path / "nii"))


def test_the_validator_finds_what_is_wrong(tmp_path: Path) -> None:
    """Or its silence would prove nothing."""
    source = deidentified(brain(), tmp_path)
    converted(source, tmp_path / "nii", "bids")
    root = tmp_path / "nii" / "bids"
    image = next(root.rglob("*T2w.nii.gz"))
    image.rename(image.with_name(image.name.replace("_T2w", "_tow")))
    assert errors(root)
    (root / "dataset_description.json").unlink()
    assert any("dataset_description" in str(one) for one in errors(root))


def test_an_earlier_session_that_comes_later_changes_no_name(tmp_path: Path) -> None:
    source, out = deidentified(brain("20180301"), tmp_path), tmp_path / "nii"
    converted(source, out, "bids")
    before = {name: digest(out / name) for name in names(out) if name.endswith((".nii.gz", ".json"))}
    deidentified(brain("20180102"), tmp_path)  # the next night, into the same data set
    _, account = converted(source, out, "bids")
    assert account.verdict == COMPLETE and account.counts["of these new"] == 3
    after = {name: digest(out / name) for name in names(out)}
    assert before.items() <= after.items()
    (sessions,) = out.rglob("*_sessions.tsv")
    assert table(sessions) == [
        {"session_id": "ses-1", "days_from_first": "58"},
        {"session_id": "ses-2", "days_from_first": "0"},
    ]
    assert errors(out / "bids") == []
    # in one night, the order is that of the examinations
    other = deidentified([*brain("20180301"), *brain("20180102")], tmp_path / "other")
    converted(other, tmp_path / "both", "bids")
    (sessions,) = (tmp_path / "both").rglob("*_sessions.tsv")
    assert [row["days_from_first"] for row in table(sessions)] == ["0", "58"]


def test_a_second_image_of_a_later_night_changes_no_name(tmp_path: Path) -> None:
    source, out = deidentified(scans.t1w(8), tmp_path), tmp_path / "nii"
    converted(source, out, "bids")
    (first,) = out.rglob("*T1w.nii.gz")
    deidentified(scans.t1w(3), tmp_path)
    converted(source, out, "bids")
    found = sorted(path.name.partition("ses-1_")[2] for path in out.rglob("*T1w.nii.gz"))
    assert first.exists() and found == ["T1w.nii.gz", "run-2_T1w.nii.gz"] and errors(out / "bids") == []


RULES = """\
rules:
- name: all heads
  match: {Modality: MR, SeriesDescription: "*t2*"}
  datatype: anat
  suffix: T2w
  entities: {acq: mine}
  sidecar: {Note: ours}
"""


def test_other_rules_name_anew_and_convert_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules are found by trying. What was converted is not converted again for that."""
    source, out = deidentified(brain(), tmp_path), tmp_path / "nii"
    converted(source, out, "bids")
    image = next(out.rglob("*T2w.nii.gz"))
    whole = digest(image)
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    run = Run.fresh()
    assert steps.prepare(run, ConvertRequest(source, out, "bids", str(rules))) == []
    steps.assemble(run, search_of(run, source))
    account = steps.report(run)
    assert account.verdict == COMPLETE and account.counts["unassigned, no rule fits"] == 2
    (named,) = (out / "bids").rglob("*.nii.gz")
    assert named.name.endswith("_ses-1_acq-mine_T2w.nii.gz") and digest(named) == whole and not image.exists()
    assert json.loads(named.with_name(named.name.replace(".nii.gz", ".json")).read_text())["Note"] == "ours"
    assert errors(out / "bids") == [] and approved_of(out).files.keys() == set(names(out))  # type: ignore[union-attr]
    converted(source, out, "bids")  # and back
    assert image.exists() and digest(image) == whole and errors(out / "bids") == []


def test_rules_that_are_wrong_end_the_run_before_anything_is_made(tmp_path: Path) -> None:
    source = deidentified(scans.ct(), tmp_path)
    (tmp_path / "rules.yaml").write_text(RULES.replace("datatype: anat", "datatype: nothing"))
    with pytest.raises(ConfigError, match=r"line 4.*nothing is not known"):
        converted(source, tmp_path / "nii", "bids", bids_rules=str(tmp_path / "rules.yaml"))
    assert not (tmp_path / "nii").exists()


# Identifiers


def _put(sidecar: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something get past the filter of sidecars."""
    from pacsifier_ops.convert import series

    whole = series.sidecar.filtered
    monkeypatch.setattr(series.sidecar, "filtered", lambda said, header: {**whole(said, header), **sidecar})


@pytest.mark.parametrize("layout", ["nifti", "bids"])
@pytest.mark.parametrize("value", [scans.NAME, "Kunigunde Wurzelbacher", f"scan of {scans.PATIENT}", "QQ-77777-X"])
def test_an_identifier_of_anybody_in_the_cohort_sets_a_series_apart(
    value: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one of another patient, who is in the data set; nothing of the series is published."""
    other = scans.ct(4, "Head", patient_id="QQ-77777-X", patient_name="Erstmann^Ottokar")
    source, out = deidentified([*scans.ct(), *other], tmp_path), tmp_path / "nii"
    with monkeypatch.context() as patch:
        _put({"Note": value}, patch)
        run, account = converted(source, out, layout)
    assert account.verdict == INCOMPLETE and account.counts["series set apart"] == 2
    assert all("identifiers of the cohort" in reason and value not in reason for _, reason in account.problems)
    assert not list(out.rglob("*.nii.gz")) and not any(name.endswith("ct.json") for name in names(out))
    assert not list((out / ".pacsifier" / "converted").glob("*"))
    apart = state_folder(out) / "convert" / "apart"
    assert len(list(apart.rglob("*.nii.gz"))) == 2 and not apart.stat().st_mode & 0o077
    for path in run.folder.rglob("*"):
        if path.is_file() and path.name not in ("problems.txt",) and path.suffix in (".json", ".html", ".jsonl"):
            assert value not in path.read_text(errors="replace"), path
    _, account = converted(source, out, layout)  # without it, the next run makes and publishes them
    assert account.verdict == COMPLETE and len(list(out.rglob("*.nii.gz"))) == 2


def test_an_image_that_was_published_goes_if_an_identifier_is_found_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = deidentified(scans.ct(), tmp_path), tmp_path / "nii"
    converted(source, out)
    deidentified(scans.ct(n_images=13)[12:], tmp_path)
    _put({"Note": scans.NAME}, monkeypatch)
    _, account = converted(source, out)
    assert account.counts["series set apart"] == 1 and names(out) == []
    assert not approved_of(out).files  # type: ignore[union-attr]


def test_a_table_with_an_identifier_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = deidentified(scans.ct(), tmp_path)
    whole = bids.described
    monkeypatch.setattr(
        bids, "described", lambda *given: {**whole(*given), "participants.tsv": f"participant_id\n{scans.NAME}\n"}
    )
    run = Run.fresh()
    for unit in steps.prepare(run, ConvertRequest(source, tmp_path / "nii", "bids")):
        steps.convert(run, unit)
    with pytest.raises(InputError, match="1 file"):
        steps.assemble(run, search_of(run, source))
    assert names(tmp_path / "nii") == []  # nor anything else
    assert steps.report(run).verdict == INCOMPLETE


def test_a_folder_whose_patients_nobody_knows_cannot_be_searched(tmp_path: Path) -> None:
    (tmp_path / "any").mkdir()
    with pytest.raises(TreeError, match="no record of the patients"):
        search_of(Run.fresh(), tmp_path / "any")


# Tables


def test_sessions_without_dates_have_no_days() -> None:
    files = described([Session("A", "a", 1, ""), Session("A", "a", 2, "20180102")], (), ["1"])
    assert files["sub-A/sub-A_sessions.tsv"] == "session_id\tdays_from_first\nses-1\tn/a\nses-2\t0\n"
    assert ".bidsignore" not in files


def test_a_pseudonym_with_a_tab_is_one_cell() -> None:
    files = described([Session("A", "a\tb\nc", 1, "20180102")], (), ["1"])
    assert files["participants.tsv"].splitlines()[1] == "sub-A\ta b c\t1"


def test_no_date_is_in_any_file(tmp_path: Path) -> None:
    source = deidentified(brain(), tmp_path)
    converted(source, tmp_path / "nii", "bids")
    for name in names(tmp_path / "nii"):
        if not name.endswith(".gz"):
            text = (tmp_path / "nii" / name).read_text()
            assert not re.search(r"(19|20)\d\d-?[01]\d-?[0-3]\d", text.replace("dcm2niix", "")) or "GeneratedBy" in text
    assert os.path.exists(tmp_path / "nii" / "bids" / "README.md")
