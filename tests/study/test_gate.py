"""The gate before a release: the identifiers that it finds, in files of all kinds, and what it lets pass."""

from __future__ import annotations

import json
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest
from pyarrow import parquet

from pacsifier_ops.base.tables import INTEGER, NUMBER, TEXT, write_table
from pacsifier_ops.deid.card import CARD
from pacsifier_ops.embedded.phantoms import phantom_series
from pacsifier_ops.study.gate import Gate, GateFindings

NAME, ID, ACCESSION, UID = "Wurzelbacher^Kunigunde", "ZQX-71830-KW", "QACC990171", "1.2.826.0.1.3680043.8.498.4711.1"
OTHER, SHORT = "Prisma^Vida", "90217"
COHORT = (([NAME], [ID, ACCESSION]), ([OTHER], [SHORT]), (["Dummy"], [""]))


@pytest.fixture(scope="module")
def gate() -> Gate:
    return Gate(COHORT, [UID], ["P0001"])


def clean(**attributes: Any) -> Any:
    (image,) = phantom_series(patient_id="P0001", patient_name="P0001", n_images=1, rows=8, columns=8, **attributes)
    return image


def searched(gate: Gate, root: Path) -> GateFindings:
    return gate.search(root, sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()))


def kinds(gate: Gate, root: Path) -> tuple[int, int]:
    found = searched(gate, root)
    told = " ".join(text for _, text in (*found.blocking, *found.waivable))
    assert not any(value in told for value in (NAME, ID, ACCESSION, UID, "Kunigunde", SHORT))
    return found.counts["blocking"], found.counts["waivable"]


def test_a_clean_data_set_passes(gate: Gate, tmp_path: Path) -> None:
    image = clean(StudyDescription="CT Abdomen", SeriesDescription="axial 5.0 90217 mm", AccessionNumber="A1B2C3D4")
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    (tmp_path / "manifest.csv").write_text("Folder,SOPInstanceUID\nsub-P0001/ses-1/00001-CT,2.25.4711471147114711\n")
    found = searched(gate, tmp_path)
    assert (found.searched, found.patients, found.counts.total()) == (2, 3, 0)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("PatientComments", f"known as {NAME.replace('^', ' ')}"),
        ("PatientComments", "KUNIGUNDE WURZELBACHER"),
        ("StudyID", ID),
        ("ImageComments", f"see {ACCESSION.lower()}"),
        ("IrradiationEventUID", UID),
        ("OtherPatientIDs", ID),
    ],
)
def test_a_certain_identifier_blocks_wherever_it_is_in_an_object(
    gate: Gate, tmp_path: Path, attribute: str, value: str
) -> None:
    clean(**{attribute: value}).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    blocking, _ = kinds(gate, tmp_path)
    assert blocking


def test_it_blocks_in_tables_names_of_files_and_packed_files(gate: Gate, tmp_path: Path) -> None:
    for name, text in (("a.csv", f"1,{ID},x\n"), ("b.html", "<td>Kunigunde <b>Wurzelbacher</b></td>")):
        folder = tmp_path / name.replace(".", "")
        folder.mkdir()
        (folder / name).write_text("padding\n" * 200_000 + text)
        assert kinds(gate, folder)[0], name
    named = tmp_path / "named" / ID
    named.mkdir(parents=True)
    clean().save_as(named / f"{UID}.dcm", enforce_file_format=True)
    assert kinds(gate, tmp_path / "named")[0] == 2
    packed = tmp_path / "packed"
    packed.mkdir()
    clean(StudyID=ID).save_as(tmp_path / "inside.dcm", enforce_file_format=True)
    with zipfile.ZipFile(packed / "set.zip", "w") as archive:
        archive.write(tmp_path / "inside.dcm", "IM000001")
    assert kinds(gate, packed)[0]


def test_a_doubtful_identifier_needs_a_waiver(gate: Gate, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"Description,Number\nVida Prisma,{SHORT}\nWurzelbacher,1\n")
    blocking, waivable = kinds(gate, tmp_path)
    assert blocking == 0 and waivable


def test_a_file_that_cannot_be_read_blocks(gate: Gate, tmp_path: Path) -> None:
    clean().save_as(tmp_path / "a.dcm", enforce_file_format=True)
    whole = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(whole[:-2])
    (tmp_path / "b.zip").write_bytes(b"PK\x03\x04 nothing")
    assert kinds(gate, tmp_path) == (2, 0)


def test_everybody_of_a_large_cohort_is_found(tmp_path: Path) -> None:
    people = [([f"Familie{n:05d}x^Vorname{n:05d}y"], [f"ID-{n:07d}-X"]) for n in range(5000)]
    large = Gate(people, (), ())
    for n in (0, 2500, 4999):
        folder = tmp_path / str(n)
        folder.mkdir()
        clean(ImageComments=f"copy of ID-{n:07d}-X").save_as(folder / "a.dcm", enforce_file_format=True)
        assert searched(large, folder).counts["blocking"]
    clean(ImageComments="copy of ID-5000000-X").save_as(tmp_path / "b.dcm", enforce_file_format=True)
    assert large.search(tmp_path, ["b.dcm"]).counts.total() == 0


BORN, EXAMINED = "19370419", "20230117"


@pytest.fixture
def dated() -> Gate:
    """P0001 was born and examined on these days. A shifted date of P0002 falls on 9 September 1999."""
    dates = {"sub-P0001": [BORN, EXAMINED], "sub-P0002": ["19610329", "19990909"], "": ["19800506"]}
    return Gate(COHORT, [UID], ["P0001"], dates, {"19990909"})


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        (f"sub-P0001/ses-{EXAMINED}101112/00001-CT/a.dcm", True),
        (f"sub-P0001/ses-01/{EXAMINED}-CT/a.dcm", True),
        (f"sub-P0001/ses-01/00001-born_{BORN}/a.dcm", True),
        ("sub-P0001/ses-20230118101112/00001-CT/a.dcm", False),
        (f"sub-P0002/ses-{EXAMINED}101112/00001-CT/a.dcm", False),
        ("sub-P0002/ses-19990909/00001-CT/a.dcm", False),
    ],
)
def test_dates_of_a_patient_block_in_names_of_the_patients_files(
    dated: Gate, tmp_path: Path, name: str, blocks: bool
) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    clean().save_as(tmp_path / name, enforce_file_format=True)
    assert bool(kinds(dated, tmp_path)[0]) is blocks


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        (f"sub-P0002,{EXAMINED},x", True),
        ("born 1937-04-19", True),
        ("a,6.5.1980,b", True),
        ("19990909", False),
        ("1937", False),
    ],
)
def test_dates_of_any_patient_block_in_tables_and_reports(dated: Gate, tmp_path: Path, text: str, blocks: bool) -> None:
    (tmp_path / "manifest.csv").write_text(f"Folder,SOPInstanceUID\n{text}\n")
    assert bool(kinds(dated, tmp_path)[0]) is blocks


def test_a_table_is_searched_value_by_value_however_it_is_packed(dated: Gate, tmp_path: Path) -> None:
    for path, column, values in (
        ("good.csv", "SOPInstanceUID", ["2.25.4711471147114711", ""]),
        ("text.csv", "Reason", ["", f"see {NAME.replace('^', ' ')}"]),
        ("date.csv", "Rows", [1, int(BORN)]),
        ("name.csv", ID, [""]),
    ):
        kind = INTEGER if column == "Rows" else TEXT
        write_table(tmp_path / path, {column: kind}, [(value,) for value in values * 20_000])
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "good.parquet").read_bytes()[:-9])
    found = dated.search(tmp_path, [path.name for path in sorted(tmp_path.glob("*.parquet"))])
    assert {path for path, _ in found.blocking} == {"cut.parquet", "date.parquet", "name.parquet", "text.parquet"}
    assert ("cut.parquet", "the Parquet file cannot be read") in found.blocking


LONG, LONGEST = "526534", "5265341234567892"


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        (INTEGER, int(SHORT), (0, 0)),  # so many rows are no patient
        (NUMBER, float(SHORT), (0, 0)),
        (TEXT, SHORT, (0, 2)),
        (INTEGER, int(LONG), (2, 0)),
        (NUMBER, float(LONG), (2, 0)),
        (NUMBER, 0.526534, (0, 0)),
        (TEXT, f"no {LONG}", (2, 0)),
        (INTEGER, int(BORN), (2, 0)),
        (NUMBER, float(LONGEST), (2, 0)),
    ],
)
def test_numbers_of_tables_are_compared_as_those_of_objects(
    tmp_path: Path, kind: str, value: object, found: tuple[int, int]
) -> None:
    gate = Gate(((["A^B"], [SHORT]), (["C^D"], [LONG, LONGEST])), [UID], ["P0001"], {"": [BORN]})
    write_table(tmp_path / "series.csv", {"Rows": kind, "Folder": TEXT}, [(value, "sub-P1"), (None, "sub-P2")])
    assert kinds(gate, tmp_path) == found
    (tmp_path / CARD).write_text(json.dumps({"a": [{"b": {"c": value}}], "d": None}))
    assert kinds(gate, tmp_path) == tuple(count // 2 * 3 for count in found)


def test_a_csv_file_that_holds_more_than_its_twin_is_searched_as_text(gate: Gate, tmp_path: Path) -> None:
    write_table(tmp_path / "series.csv", {"Rows": INTEGER}, [(int(SHORT),)])
    assert kinds(gate, tmp_path) == (0, 0)
    for text, found in ((f"{SHORT}\n", (0, 1)), (f"{ID}\n", (1, 1))):
        with (tmp_path / "series.csv").open("a") as stream:
            stream.write(text)
        assert kinds(gate, tmp_path) == found


def test_digests_of_the_files_of_the_data_set_hold_no_identifiers(tmp_path: Path) -> None:
    own, other = f"a{LONG}b" + "c" * 56, f"b{LONG}c" + "d" * 56
    gate = Gate(((["A^B"], [LONG]),), [], [], made=lambda: {"sub-P1/a.dcm": own})
    for value, blocks in ((own, 0), (other, 1)):
        write_table(tmp_path / "instances.csv", {"SHA256": TEXT}, [(value,)])
        (tmp_path / "instances.csv").unlink()
        assert kinds(gate, tmp_path) == (blocks, 0)
    (tmp_path / "instances.parquet").unlink()
    for value, blocks in ((own, 0), (other, 1)):
        (tmp_path / CARD).write_text(json.dumps({"sha256": value}))
        assert kinds(gate, tmp_path) == (blocks, 0)


def test_all_of_a_card_is_searched(gate: Gate, tmp_path: Path) -> None:
    for text in (f'{{"name": "{ID}", "name": "x"}}', f'{{"{ID}": 1}}', f'["x", [["{ID}"]]]', f'{{"name": "{ID}"'):
        (tmp_path / CARD).write_text(text)
        assert kinds(gate, tmp_path) == (1, 0), text


def test_what_a_foreign_table_keeps_aside_is_searched(dated: Gate, tmp_path: Path) -> None:
    """pandas keeps the categories of rows that were left out; names are also in columns within columns, and notes."""
    chosen = pandas.DataFrame({"name": pandas.Categorical([NAME, "x"])}).iloc[1:]
    field = pyarrow.field("n", pyarrow.int64())
    for name, table in {
        "category": pyarrow.Table.from_pandas(chosen),
        "bytes": pyarrow.table({"n": [NAME.encode()]}),
        "list": pyarrow.table({"n": [[{"m": NAME}]]}),
        "map": pyarrow.table({"n": pyarrow.array([[("x", NAME)]], pyarrow.map_(pyarrow.string(), pyarrow.string()))}),
        "inner": pyarrow.table({"n": pyarrow.array([None], pyarrow.struct([field.with_name(NAME)]))}),
        "note": pyarrow.table([[1]], schema=pyarrow.schema([field.with_metadata({"of": NAME})])),
        "key": pyarrow.table([[1]], schema=pyarrow.schema([field], metadata={NAME: "x"})),
        "decimal": pyarrow.table({"n": [Decimal(f"{BORN}.00")]}),
        "unreadable": pyarrow.table({"n": pyarrow.array([2**30], pyarrow.int32()).cast(pyarrow.date32())}),
        "good": pyarrow.table({"n": [[{"m": "x"}]]}),
    }.items():
        parquet.write_table(table, tmp_path / f"{name}.parquet")
    names = sorted(path.name for path in tmp_path.glob("*.parquet"))
    found = dated.search(tmp_path, names)
    assert {path for path, _ in found.blocking} == {*names} - {"good.parquet"}


def test_numbers_beside_images_are_compared_as_those_of_objects(tmp_path: Path) -> None:
    """A patient 1000 is no b-value, no time and no day; a longer number, a text and a pseudonym are searched for."""
    gate = Gate(((["A^B"], ["1000"]), ([NAME], [LONG])), [], ["P0001"])
    for number, found in (("1000", (0, 0)), (LONG, (5, 0)), (f"{LONG}.0", (5, 0))):
        (tmp_path / "a.json").write_text(f'{{"SliceTiming": [\n{number},\n0.5\n]}}')
        (tmp_path / "a.bval").write_text(f"{number}\n")
        (tmp_path / "a.bvec").write_text(f"0 {number}\n")
        (tmp_path / "sub-1_sessions.tsv").write_text(f"session_id\tdays_from_first\nses-1\t{number}\n")
        (tmp_path / "participants.tsv").write_text(f"participant_id\tpseudonym\tsessions\nsub-1\tP1\t{number}\n")
        assert kinds(gate, tmp_path) == found
    for path in filter(Path.is_file, list(tmp_path.iterdir())):
        path.unlink()
    (tmp_path / "a.json").write_text('{"SeriesDescription": "1000"}')
    (tmp_path / "participants.tsv").write_text("participant_id\tpseudonym\tsessions\nsub-1\t1000\t1\n")
    assert kinds(gate, tmp_path) == (0, 2)
    (tmp_path / "a.bval").write_text(f"0 {NAME}\n")
    assert kinds(gate, tmp_path)[0] == 1


def test_a_table_that_is_damaged_blocks_and_ends_nothing(gate: Gate, tmp_path: Path) -> None:
    path = tmp_path / "series.parquet"
    write_table(tmp_path / "series.csv", {"Folder": TEXT}, [("sub-P1",)])
    path.write_bytes(path.read_bytes().replace(b"sub-P1", b"\xff\xfeb-P1"))
    found = searched(gate, tmp_path)
    assert found.searched == 2 and found.blocking == [("series.parquet", "the Parquet file cannot be read")]
