"""Selections against a real archive: what it tells at SERIES level, and what has to be asked at IMAGE level."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from pacsifier_ops.base.config import read_config
from pacsifier_ops.embedded.phantoms import write
from tests.support.embedded import extract, series
from tests.support.peers import Orthanc

pytestmark = pytest.mark.peers


def made(uid: str, date: str, born: str = "19800229", patient: str = "S1", **attributes: Any) -> list[Dataset]:
    """One series of two images; attributes are set on each image, a list of two on one each."""
    study = uid.rpartition(".")[0]
    images = series(
        patient,
        study_date=date,
        study_uid=f"2.25.77.{study}",
        series_uid=f"2.25.77.{uid}",
        series_number=int(uid.rpartition(".")[2]),
        n_images=2,
        AccessionNumber="ACC7",  # one order, several studies: RSNA/anonymizer #17
        PatientBirthDate=born,
    )
    for number, image in enumerate(images):
        for keyword, value in attributes.items():
            setattr(image, keyword, value[number] if isinstance(value, tuple) else value)
    return images


IMAGES = [
    *made("1.1", "20200110", SliceThickness="5", SeriesDescription="Thorax", ConvolutionKernel="B30f"),
    *made("1.2", "20200110", SliceThickness="1", SeriesDescription="Thorax", ConvolutionKernel="B70f"),
    *made("1.3", "20200110", SliceThickness="0.5", SeriesDescription="TOPOGRAMM"),  # openradx/adit #377
    # A localizer as the first image of a series: dgobbi/vtk-dicom #221.
    *made("2.1", "20200103", ImageType=(["ORIGINAL", "PRIMARY", "LOCALIZER"], ["ORIGINAL", "PRIMARY", "AXIAL"])),
    *made("3.1", "20190110", SliceThickness="1", SeriesDescription="Thorax"),
    *made("4.1", "20180228", SliceThickness="1", SeriesDescription="Thorax"),  # a day before the birthday
    *made("5.1", "20200101", born="", patient="S2", PatientAge="017Y"),
    *made("6.1", "20200101", born="", patient="S3", PatientAge=""),
]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    peer = Orthanc(tmp_path_factory.mktemp("orthanc"))
    peer.start()
    try:
        peer.load(write(IMAGES, tmp_path_factory.mktemp("images")))
        yield peer
    finally:
        peer.stop()


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("anchor: closest\nstudies: 1", {"2.1"}),
        ("anchor: closest\nstudies: 1\nseries: {exclude: [{ImageType: LOCALIZER}]}", {"1.1", "1.2", "1.3"}),
        (
            "anchor: first after\ndays: [0, 30]\nprefer: thinnest\n"
            "series: {exclude: [{SeriesDescription: '*topo*'}, {ImageType: localizer}]}",
            {"1.2"},
        ),
        (
            "anchor: closest\ndays: [0, 30]\nstudies: 1\npriors: {studies: 1, same: [Modality]}\n"
            "series: {include: [{ConvolutionKernel: 'b3*'}, {SeriesDescription: thorax, SliceThickness: '<2'}]}",
            {"1.1", "1.2", "3.1"},
        ),
        ("age: [38, 38]", {"3.1"}),
        ("age: [37, 37]", {"4.1"}),
        ("series: {include: [{NumberOfSeriesRelatedInstances: '>2'}]}", set()),
    ],
)
def test_rules_on_what_the_archive_tells(orthanc: Orthanc, tmp_path: Path, rules: str, expected: set[str]) -> None:
    (tmp_path / "rules.yaml").write_text(rules)
    node = read_config(orthanc.config(tmp_path))
    row = {"PatientID": "S1", "AccessionNumber": "ACC7", "anchor_date": "20200102"}
    account = extract(node, [row], tmp_path / "out", selection=str(tmp_path / "rules.yaml"), retrieve="none")
    assert {one.series_uid.removeprefix("2.25.77.") for one in account.series} == expected
    assert account.rows[0].state == ("found" if expected else "unselected")
    assert account.rows[0].series + sum(account.rows[0].left_out.values()) == 6


def test_age_where_the_birth_date_is_not_known(orthanc: Orthanc, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("age: [18, null]")
    node = read_config(orthanc.config(tmp_path))
    rows = [{"PatientID": "S2"}, {"PatientID": "S3"}]
    account = extract(node, rows, tmp_path / "out", selection=str(tmp_path / "rules.yaml"), retrieve="none")
    assert [row.left_out for row in account.rows] == [{"age": 1}, {"age unknown": 1}]
