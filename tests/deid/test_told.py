"""What goes with a data set holds nothing of the source: new names, outcomes, rules, reasons from a fixed list."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.deid import told
from pacsifier_ops.deid.run import DEIDENTIFIED, EXCLUDED, QUARANTINED
from pacsifier_ops.embedded.phantoms import phantom_series, write
from tests.deid.test_anonymize import deidentify

PATIENT, DATE, BORN = "846200607", "20230117", "19610329"
REASONS = {value for name, value in vars(told).items() if name.isupper() and isinstance(value, str)} | {""}


def series(number: str, place: int = 1, n_images: int = 1, **attributes: Any) -> list[Any]:
    """A series whose number, and the place of whose slices, is anything; an image cannot be without the latter."""
    given = {
        "SliceLocation": number,
        "rows": 4,
        "columns": 4,
        "study_date": DATE,
        "PatientBirthDate": BORN,
        **attributes,
    }
    return phantom_series(
        patient_id=PATIENT,
        patient_name="Wolkenstein^Ottokar",
        n_images=n_images,
        series_number=place,
        SeriesNumber=number,
        **given,
    )


def manifest(out: Path) -> list[dict[str, str]]:
    with (out / "manifest.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def traces(out: Path, *secrets: str) -> list[str]:
    files = [path for path in out.rglob("*") if ".pacsifier" not in path.parts]
    return [
        f"{secret} in {path}"
        for secret in secrets
        for path in files
        if secret in str(path.relative_to(out)) or (path.is_file() and secret.encode() in path.read_bytes())
    ]


@pytest.mark.parametrize("secret", [PATIENT, BORN])
def test_a_number_that_spells_the_patient_is_neither_in_the_manifest_nor_in_a_name(secret: str, tmp_path: Path) -> None:
    write([*series("1"), *series(secret, 2)], tmp_path / "in")
    run, account = deidentify(tmp_path / "in", tmp_path / "out", profile="default")
    assert account.totals()["deidentified"] == 1 and account.totals()["quarantined"] == 1
    assert traces(tmp_path / "out", PATIENT, DATE, BORN, "Wolkenstein", "found in") == []
    lines = manifest(tmp_path / "out")
    assert Counter(line["Reason"] for line in lines) == {"": 1, told.STILL_IDENTIFIES: 1}
    assert f"(0020,{'1041' if secret == PATIENT else '0011'})" in run.part("manifest").read_text()


def test_what_is_left_out_is_told_nowhere(tmp_path: Path) -> None:
    """Only the series' number spells the patient: it is left out, of the objects as of the names of folders."""
    write(series(PATIENT, SliceLocation="1"), tmp_path / "in")
    run, account = deidentify(tmp_path / "in", tmp_path / "out", profile="default")
    assert account.totals()["deidentified"] == 1
    assert traces(tmp_path / "out", PATIENT, DATE, BORN, "Wolkenstein", "found in", "found/") == []
    assert "found/left-out" in run.part("manifest").read_text()


def test_nor_does_it_name_the_folder_of_the_others_of_its_series(tmp_path: Path) -> None:
    objects = series("1", n_images=3)
    for one, number in zip(objects, (PATIENT, DATE, "1"), strict=True):
        one.SeriesNumber, one.SliceLocation = number, PATIENT if number == PATIENT else "1"
    write(objects, tmp_path / "in")
    _, account = deidentify(tmp_path / "in", tmp_path / "out", profile="default")
    assert account.totals()["deidentified"] == 2 and account.totals()["quarantined"] == 1  # the date is moved
    assert traces(tmp_path / "out", PATIENT, DATE) == []


def test_what_is_not_there_is_told_of_without_its_place(tmp_path: Path) -> None:
    screen: dict[str, Any] = {"secondary_capture": True, "ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}
    write([*series("1", n_images=2), *series("7", 2, **screen)], tmp_path / "in")
    deidentify(tmp_path / "in", tmp_path / "out", profile="default", delete_identifiable=True)
    *good, apart = manifest(tmp_path / "out")
    assert [line["Outcome"] for line in good] == [DEIDENTIFIED] * 2 and all(line["Folder"] for line in good)
    assert (apart["Outcome"], apart["Rule"], apart["Reason"]) == (EXCLUDED, "screen-save", told.BY_RULE)
    assert not (apart["Folder"] or apart["SOPInstanceUID"] or apart["Rules"])


@pytest.mark.parametrize(
    ("outcome", "reason", "rule", "says"),
    [
        (EXCLUDED, "screen-save", "screen-save", told.BY_RULE),
        (QUARANTINED, "digitised", "digitised", told.BY_RULE),
        (EXCLUDED, "Wolkenstein", "", told.BY_RULE),
        (QUARANTINED, "the result still tells who it is: PatientID found in SeriesNumber", "", told.STILL_IDENTIFIES),
        (QUARANTINED, "what the device catalogue leaves of the image may hold writing", "", told.WRITING),
        (QUARANTINED, "it has several values in PatientID", "", told.UNASSIGNED),
        (QUARANTINED, "its patient has no pseudonym", "", told.NOT_LINKED),
        (QUARANTINED, "unexpected KeyError; problems.txt of the run has more", "", told.UNFIT),
        ("missing", "it cannot be read: Wolkenstein.dcm", "", told.UNFIT),
        (DEIDENTIFIED, "", "", ""),
    ],
)
def test_reasons_are_from_a_fixed_list(outcome: str, reason: str, rule: str, says: str) -> None:
    assert told.public_reason(outcome, reason) == (rule, says) and says in REASONS
