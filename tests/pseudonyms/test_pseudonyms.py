"""Who becomes whom: the project's secret, the sources that ask nobody, the linkage store, and the command."""

from __future__ import annotations

import json
import os
import ssl
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import ConfigError, InputError, LeaseLost, PatientsRefused
from pacsifier_ops.base.files import read_jsonl
from pacsifier_ops.cli.get_pseudonyms import main
from pacsifier_ops.dicom import scan
from pacsifier_ops.embedded.authority import Authority
from pacsifier_ops.embedded.deid_server import DeidServer, ServiceFaults
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.pseudonyms import local
from pacsifier_ops.pseudonyms.linkage import Keyed, Linkage, Person, read_day_shifts, read_new_ids
from pacsifier_ops.pseudonyms.local import LocalSource, Style
from pacsifier_ops.pseudonyms.mapping import MappingSource, read_mapping
from pacsifier_ops.pseudonyms.patients import Cohort, of_folder
from pacsifier_ops.pseudonyms.run import DEID, PseudonymRequest
from pacsifier_ops.pseudonyms.secret import Secret, project_secret
from pacsifier_ops.pseudonyms.steps import BATCHES, prepare
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state import facts
from pacsifier_ops.state.facts import forget_facts
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import Tree
from tests.support import deid_faults
from tests.support.tables import parquet_as_csv
from tests.support.texts import text_during_scan

PATIENTS = [f"ZQX-{number}" for number in range(6000)]

# The secret


def test_a_project_has_one_secret_whoever_asks_first(state_root: Path) -> None:
    code = "from pacsifier_ops.pseudonyms.secret import project_secret; print(project_secret('study').uid('1.2.3'))"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {process.communicate()[0].strip() for process in started}
    assert said == {project_secret("study").uid("1.2.3")}
    assert project_secret("other").uid("1.2.3") not in said
    kept = state_root / "projects" / "study"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept.iterdir()} == {0o600}
    assert (kept / "secret").read_text() not in repr(vars(project_secret("study"))) + str(project_secret("study"))


def test_a_secret_that_is_gone_or_another_one_is_never_replaced(state_root: Path) -> None:
    kept = state_root / "projects" / "study" / "secret"
    begun = project_secret("study").uid("1.2.3")
    text = kept.read_text()
    kept.unlink()
    with pytest.raises(ConfigError, match="is gone, and patients were linked with it; restore"):
        project_secret("study")
    with pytest.raises(ConfigError, match="not the one that the project was begun with"):
        project_secret("study", "ab" * 32)
    assert project_secret("study", text).uid("1.2.3") == begun
    assert not kept.exists()  # who keeps it elsewhere does not have it copied


@pytest.mark.parametrize("text", ["", "ab" * 31, "no hexadecimal digits at all " * 3])
def test_a_secret_that_is_too_short_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="hexadecimal"):
        Secret.of_text(text)


@pytest.mark.parametrize("name", ["", ".hidden", "../x", "a/b", "Ä", "x" * 65, " x", "x ", "a\tb", "a:b"])
def test_a_project_is_named_as_a_file_may_be(name: str) -> None:
    with pytest.raises(ConfigError, match="not fit to name a project"):
        project_secret(name)


# Batches


@pytest.mark.parametrize(("patients", "batches"), [(2, 1), (30, 6), (6000, BATCHES)])
def test_the_linkage_is_read_a_limited_number_of_times(tmp_path: Path, patients: int, batches: int) -> None:
    table = tmp_path / "table.csv"
    table.write_text("PatientID\n" + "\n".join(PATIENTS[:patients]), encoding="utf-8")
    run = Run.fresh()
    units = prepare(run, PseudonymRequest(DEID, "study", queryfile=str(table)), batch_size=5)
    asked = [batch["patients"] for unit in units for batch in read_jsonl(run.part("units", unit))]
    assert len(units) == batches and sum(map(len, asked)) == patients


# Without a service


def test_the_same_patient_is_the_same_in_every_run_and_nobody_in_another_project() -> None:
    def people(project: str) -> dict[str, Person]:
        return LocalSource(project_secret(project), Style()).ask(project, PATIENTS)

    first, again, other = people("one"), people("one"), people("two")
    assert first == again and list(first) == PATIENTS
    assert {p.pseudonym for p in first.values()}.isdisjoint(p.pseudonym for p in other.values())
    equal_shifts = sum(first[patient].shift == other[patient].shift for patient in PATIENTS)
    assert equal_shifts < len(PATIENTS) / 30


def test_shifts_are_uniform_from_minus_30_to_30_and_never_0() -> None:
    secret = Secret(b"x" * 32)
    counts = Counter(local.shift(secret, patient) for patient in PATIENTS)
    assert set(counts) == {*range(-30, 0), *range(1, 31)}
    expected = len(PATIENTS) / 60
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 110  # chi², p = 0.00005
    assert {p.shift for p in LocalSource(secret, Style(), shifting=False).ask("x", PATIENTS).values()} == {0}


def test_pseudonyms_look_as_wanted_and_two_that_are_the_same_are_refused() -> None:
    secret = Secret(b"x" * 32)
    assert set(local.pseudonym(secret, "1", Style("X-", 8, "01"[::-1] * 1 + "23456789"))[2:]) <= set("0123456789")
    with pytest.raises(PatientsRefused, match="make pseudonyms longer") as refused:
        LocalSource(secret, Style(length=6, alphabet="0123456789")).ask("x", PATIENTS)
    assert len(refused.value.patients) >= 2


@pytest.mark.parametrize(
    ("style", "words"),
    [
        ({"alphabet": "aA234567"}, "alphabet: a character is there twice"),
        ({"alphabet": "a/"}, "alphabet: give"),
        ({"length": 3}, "length: there would be less"),
        ({"prefix": "a/b"}, "prefix and length: not fit"),
        ({"prefix": "x" * 60}, "prefix and length: not fit"),
    ],
)
def test_a_style_that_no_pseudonym_fits_is_refused(style: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Style(**style)


# Mapping files


@pytest.mark.parametrize(
    "text", ["ZQX-1,P1\nA 2,P2\n", "old;new\r\nZQX-1;P1\r\n\r\nA 2;P2", "\ufeffOldID\tNewID\nZQX-1\tP1\nA 2\tP2\n"]
)
def test_a_mapping_file_may_have_a_header_and_be_divided_as_spreadsheets_do(tmp_path: Path, text: str) -> None:
    (path := tmp_path / "mapping.csv").write_text(text, encoding="utf-8")
    assert read_mapping(path) == {"ZQX-1": "P1", "A 2": "P2"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A,P1\nB,\n", "line 2: a cell is empty"),
        ("A,P1\nB\n", "line 2: give two cells"),
        ("A,P1\nB,P2,7\n", "line 2: give two cells"),
        ("A,P1\nsub-A,P2\n", "line 2: the patient is in line 1 already"),
        ("A,P1\nB,p1\n", "line 2: line 1 has this pseudonym already"),
        ("A,P1\nB,a\n", "in line 2; it would hide nobody"),
        ("A,P1\nB,sub-b\n", "in line 2; it would hide nobody"),
        ("A,P1\nB,sub-P1\n", "line 2: line 1 has this pseudonym already"),
        ("A,P/1\n", "line 1: not fit to name a patient and a folder"),
        ("A,Pä\n", "line 1: not fit"),
        ("\n", "holds nothing"),
        ('A,"P1\n', "line 1: a quoted cell is not closed"),
    ],
)
def test_a_mapping_file_with_duplicates_or_clashes_is_refused_by_line(tmp_path: Path, text: str, words: str) -> None:
    (path := tmp_path / "mapping.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=f"the mapping file cannot be used: .*{words}"):
        read_mapping(path)


def test_patients_of_whom_the_mapping_says_nothing_are_refused() -> None:
    with pytest.raises(PatientsRefused) as refused:
        MappingSource({"A": "P1", "sub-B": "P2"}).ask("x", ["A", "C", "B", "D"])
    assert refused.value.patients == (1, 3)


# The linkage store


def test_who_is_linked_stays_who_he_is(tmp_path: Path) -> None:
    linkage = Linkage("study", tmp_path / "linkage")
    assert linkage.add({"A": Person("P1", -3), "B": Person("P2", 7)}) == 2
    assert linkage.add({"B": Person("P2", 7), "C": Person("P3", 1)}) == 1
    before = {path: path.read_bytes() for path in linkage.folder.iterdir()}
    for person, words in (
        ({"C": Person("P3", 1), "A": Person("P1", 3)}, "neither was changed.* patient 2"),
        ({"A": Person("P9", -3)}, "neither was changed"),
        ({"sub-A": Person("P9", -3)}, "neither was changed"),
        ({"D": Person("p2", 5)}, "somebody else's already"),
        ({"D": Person("P5", 5), "sub-D": Person("P5", 5)}, "somebody else's already"),
        ({"E": Person("P6", 5), "D": Person("a", 5)}, "PatientID of somebody in the linkage.* patient 2"),
        ({"p2": Person("P6", 5)}, "PatientID of somebody in the linkage.* patient 1"),
        ({"E": Person("P6", 5), "D": Person("sub-D", 5)}, "PatientID of somebody in the linkage.* patient 2"),
    ):
        with pytest.raises(PatientsRefused, match=words):
            linkage.add(person)
    assert {path: path.read_bytes() for path in linkage.folder.iterdir()} == before
    assert {stat.S_IMODE(path.stat().st_mode) for path in before} == {0o600}
    assert stat.S_IMODE(linkage.folder.stat().st_mode) == 0o700
    assert Linkage("study", tmp_path / "linkage").people().of("C") == Person("P3", 1)


def test_a_kill_between_the_two_files_heals(tmp_path: Path) -> None:
    linkage = Linkage("study", tmp_path / "linkage")
    linkage.add({"A": Person("P1", -3)})
    linkage.day_shifts.write_text('{"A": -3, "B": 7}')
    assert linkage.people().of("B") is None
    assert linkage.add({"B": Person("P2", 7)}) == 1
    assert linkage.people().of("B") == Person("P2", 7)


def test_who_slept_over_the_linkage_does_not_replace_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linkage = Linkage("study", tmp_path / "linkage")
    read = linkage._kept

    def slept() -> Any:
        kept = read()
        for slot in shared().root.glob("*/slot-0"):
            slot.unlink()  # as those do who find it expired
        Linkage("study", tmp_path / "linkage").add({"A": Person("P1", -3)})
        return kept

    monkeypatch.setattr(linkage, "_kept", slept)
    with pytest.raises(LeaseLost):
        linkage.add({"B": Person("P2", 7)})
    assert linkage.people().given == {"A": Person("P1", -3)}


def test_one_patient_id_of_two_issuers_is_not_one_patient(tmp_path: Path) -> None:
    linkage = Linkage("study", tmp_path / "linkage")
    linkage.add({"A": Person("P1"), "B": Person("P2")}, {"A": "CHUV", "B": ""})
    linkage.add({"A": Person("P1"), "B": Person("P2")}, {"A": "", "B": "HUG"})
    with pytest.raises(PatientsRefused, match=r"another IssuerOfPatientID: patient 2"):
        linkage.add({"B": Person("P2"), "A": Person("P1")}, {"A": "HUG"})


def test_the_linkage_is_never_part_of_a_data_set_nor_open_to_others(tmp_path: Path) -> None:
    (tmp_path / "data" / ".pacsifier").mkdir(parents=True)
    with pytest.raises(InputError, match="within a data set"):
        Linkage("study", tmp_path / "data" / "linkage")
    Linkage("study").folder.chmod(0o755)
    with pytest.raises(InputError, match="open to others; chmod 700"):
        Linkage("study")


def test_a_folder_that_is_open_to_others_is_warned_of_and_its_files_are_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "query.csv").write_text("PatientID\nZQX-1\n")
    (tmp_path / "open").mkdir()
    monkeypatch.chdir(tmp_path / "open")
    arguments = ["-m", "local", "-q", "../query.csv", "-a", "My Project", "-d", "./"]
    for gid, mode in ((None, 0o755), (str(os.getgid()), 0o775)):
        Path.cwd().chmod(mode)
        if gid:
            monkeypatch.setenv("PACSIFIER_GROUP", gid)
        assert main(arguments) == 0
        assert "warning: the folder of the linkage is open to others, its files are not" in capsys.readouterr().err
        names = {"new_ids_My Project.json", "day_shift_My Project.json"}
        logs = {"log_get_pseudonyms.csv", "log_get_pseudonyms.parquet"}
        assert {path.name for path in Path.cwd().iterdir()} == names | logs
        assert {stat.S_IMODE(path.stat().st_mode) for path in Path.cwd().iterdir()} == {0o600}
        (tmp_path / "query.csv").write_text("PatientID\nZQX-1\nZQX-2\n")
    Path("new_ids_My Project.json").chmod(0o644)  # as all files are on some file systems
    assert main(arguments) == 0 and "open to others, folder and files" in capsys.readouterr().err
    Path.cwd().chmod(0o700)
    assert main(arguments) == 0 and "warning" not in capsys.readouterr().err


def test_files_of_pacsifier_are_understood_whichever_way_they_name_patients(tmp_path: Path) -> None:
    (tmp_path / "new_ids.json").write_text('{"sub-1234": "P0001", "77": "P0002", "sub-A_1": "P0003"}')
    (tmp_path / "day_shift.json").write_text('{"sub-1234": "-1", "77": 5}')
    names, shifts = read_new_ids(tmp_path / "new_ids.json"), read_day_shifts(tmp_path / "day_shift.json")
    found = [names.of(patient) for patient in ("1234", "sub-1234", "77", "A-1", "1")]
    assert found == ["P0001", "P0001", "P0002", "P0003", None]
    assert [shifts.of(patient) for patient in ("1234", "77", "A-1")] == [-1, 5, None]
    with pytest.raises(InputError, match="under two keys"):
        Keyed({"5": "P1", "sub-5": "P2"}).of("5")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "no JSON object"),
        ("<html>", "is not valid JSON"),
        ('{"a": "P1", "a": "P2"}', "entry 2: its key is there twice"),
        ('{"a": "P1", "b": ["P2"]}', "entry 2: not fit"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_entry(tmp_path: Path, text: str, words: str) -> None:
    (path := tmp_path / "Wurzelbacher.json").write_text(text)
    with pytest.raises(InputError, match=rf"^new_ids: .*{words}"):
        read_new_ids(path)


# Folders


def images(folder: Path, patient_id: str, n_images: int = 1, **attributes: Any) -> None:
    """Write a series of a patient."""
    person: dict[str, Any] = {"patient_id": patient_id, "patient_name": "Wurzelbacher^Kunigunde"}
    write(phantom_series(**person, n_images=n_images, rows=8, columns=8, **attributes), folder)


def test_the_patients_of_a_folder_are_those_of_its_files(tmp_path: Path) -> None:
    images(tmp_path / "x", "A-1 ", 2)
    images(tmp_path / "y", "B", IssuerOfPatientID="HUG")
    images(tmp_path / "z", "")
    (tmp_path / "x" / "dump.csv").write_text("no DICOM")
    cohort = of_folder(tmp_path)
    assert [(p.patient_id, p.issuer, len(p.places)) for p in cohort.patients] == [("A-1", "", 1), ("B", "HUG", 1)]
    assert cohort.passed_over == 1 and [path.split("/")[0] for path in cohort.unnamed] == ["z"]
    images(tmp_path / "yy", "B", IssuerOfPatientID="CHUV", series_number=2)
    with pytest.raises(InputError, match=r"series \d, .* under another IssuerOfPatientID"):
        of_folder(tmp_path)


def test_the_patients_of_a_tree_that_is_as_it_was_are_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "_GRANULARITY", 0)
    root, scanned = tmp_path / "tree", list[Path]()
    Tree.open(root)
    images(root / "x", "A-1", 2)
    (root / "logs").mkdir()
    real = scan.scan

    def heard(folder: Path, *more: Any, **named: Any) -> scan.Scan:
        scanned.append(folder)
        return real(folder, *more, **named)

    monkeypatch.setattr(scan, "scan", heard)

    def found() -> Cohort:
        time.sleep(0.02)
        first = of_folder(root)
        scanned.clear()
        kept = of_folder(root)
        assert root not in scanned, "nothing has changed"
        forget_facts(root)
        assert kept == first == of_folder(root)
        return kept

    before = found()
    changes: list[Callable[[], object]] = [
        lambda: (root / "logs" / "1.csv").write_text("a log"),
        lambda: images(root / "y", "B"),
        lambda: images(root / "x", "C", series_number=2),
        lambda: (root / "z.dcm").write_bytes(b"\0" * 128 + b"DICMno"),
        lambda: (root / "y").rename(tmp_path / "y"),
    ]
    for number, change in enumerate(changes):
        change()
        after = found()
        assert after != before, number
        before = after
    images(root / "logs", "D")
    time.sleep(0.02)
    assert {one.patient_id for one in of_folder(root).patients} == {"A-1", "C", "D"}


# The command


def test_the_custom_mode_writes_what_pacsifier_writes(tmp_path: Path) -> None:
    """Its files of the same mapping, byte by byte (version 1.0.0)."""
    (tmp_path / "mapping.csv").write_text("OldID,NewID\nZQX-1,P0001\nA_2,P0002\n9,Study 3\n")
    assert main(["-m", "custom", "-mf", str(tmp_path / "mapping.csv"), "-a", "proj", "-d", str(tmp_path / "out")]) == 0
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {
        "new_ids_proj.json": '{\n    "ZQX-1": "P0001",\n    "A_2": "P0002",\n    "9": "Study 3"\n}',
        "day_shift_proj.json": '{\n    "ZQX-1": 0,\n    "A_2": 0,\n    "9": 0\n}',
    }


def test_the_log_is_the_query_table_with_pseudonym_and_shift(tmp_path: Path) -> None:
    (tmp_path / "query.csv").write_text("PatientID,StudyDate\nZQX-1,20200101\n9,\nZQX-1,20200101\nZQX-1,20210101\n")
    arguments = ["-m", "local", "--shift-days", "-q", str(tmp_path / "query.csv"), "-a", "proj"]
    assert main([*arguments, "-d", str(tmp_path / "out")]) == 0
    people = Linkage("proj", tmp_path / "out").people()
    one, nine = people.of("ZQX-1"), people.of("9")
    assert one and nine
    assert (tmp_path / "out" / "log_get_pseudonyms.csv").read_text().splitlines() == [
        "PatientID,StudyDate,NewPseudonym,DayShift",
        f"ZQX-1,20200101,{one.pseudonym},{one.shift}",
        f"9,,{nine.pseudonym},{nine.shift}",
        f"ZQX-1,20200101,{one.pseudonym},{one.shift}",
        f"ZQX-1,20210101,{one.pseudonym},{one.shift}",
    ]
    assert len(parquet_as_csv(tmp_path / "out" / "log_get_pseudonyms.csv")) == 4


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("PatientID,AccessionNumber\nZQX-1,\n,990\nZQX*,1\n", "line 4: a PatientID with a wildcard"),
        ("PatientID,StudyDate\nZQX-1,20200231\n", "the query table has errors: line 2, StudyDate"),
        ("AccessionNumber\n990\n", "no row of the query table has a PatientID"),
        ("PatientID,StudyDate\n,20200101\n", "no row of the query table has a PatientID"),
    ],
)
def test_a_table_that_does_not_say_who_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, words: str
) -> None:
    (tmp_path / "query.csv").write_text(table)
    arguments = ["-m", "local", "-q", str(tmp_path / "query.csv"), "-a", "proj", "-d", str(tmp_path / "out")]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert words in said and "ZQX" not in said and "990" not in said
    assert not (tmp_path / "out" / "new_ids_proj.json").exists()


def test_rows_without_a_patient_id_are_passed_over_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state_root: Path
) -> None:
    """Example 1 of PACSIFIER's manual."""
    (tmp_path / "query.csv").write_text("StudyDate,PatientID\n20150512,123421\n,45322\n20180102,\n")
    arguments = ["-m", "local", "-q", str(tmp_path / "query.csv"), "-a", "proj", "-d", str(tmp_path / "out")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "complete: 2 of 2 patients linked" in said and "1 row without a PatientID passed over" in said
    assert list(Linkage("proj", tmp_path / "out").people().given) == ["123421", "45322"]
    assert (tmp_path / "out" / "log_get_pseudonyms.csv").read_text().splitlines()[-1] == "20180102,,,"
    (folder,) = (state_root / "runs").iterdir()
    assert "no PatientID, passed over: line 4 " in (folder / "problems.txt").read_text()
    assert "1 row of the query table passed over" in (folder / "report.html").read_text()


def test_patients_of_a_table_are_read_as_the_flags_say(tmp_path: Path) -> None:
    (tmp_path / "query.csv").write_text("MRN,Study Date\nZQX*1,24.12.1993\n")
    arguments = ["-m", "local", "-q", str(tmp_path / "query.csv"), "-a", "proj", "-d", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert main([*arguments[:2], *arguments[4:], "--in_folder", str(tmp_path), "--match", "exact"]) == 2
    assert main([*arguments, "--match", "exact", "--date_format", "DD.MM.YYYY"]) == 0
    assert Linkage("proj", tmp_path / "out").people().of("ZQX*1")


def test_what_contradicts_the_linkage_is_told_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "query.csv").write_text("PatientID\nZQX-1\nZQX-2\n")
    (tmp_path / "mapping.csv").write_text("ZQX-1,P1\nZQX-2,P2\n")
    arguments = ["-m", "custom", "-q", str(tmp_path / "query.csv"), "-mf", str(tmp_path / "mapping.csv"), "-a", "proj"]
    arguments += ["-d", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert main(arguments) == 0
    kept = (tmp_path / "out" / "new_ids_proj.json").read_bytes()
    (tmp_path / "mapping.csv").write_text("ZQX-1,P1\nZQX-2,P3\n")
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "line 3: the source gives another pseudonym" in said and "ZQX" not in said and "P3" not in said
    assert (tmp_path / "out" / "new_ids_proj.json").read_bytes() == kept


def test_files_that_name_no_patient_make_a_run_incomplete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state_root: Path
) -> None:
    images(tmp_path / "in" / "a", "ZQX-1")
    images(tmp_path / "in" / "b", "")
    out = str(tmp_path / "out")
    assert main(["-m", "local", "--in_folder", str(tmp_path / "in"), "-a", "proj", "-d", out]) == 3
    assert "1 file(s) name no patient" in capsys.readouterr().err
    assert Linkage("proj", tmp_path / "out").people().of("ZQX-1")
    (folder,) = (state_root / "runs").iterdir()
    assert json.loads((folder / "summary.json").read_text())["verdict"] == "incomplete"
    assert "1 file" in (folder / "report.html").read_text()
    assert "names no patient: b/" in (folder / "problems.txt").read_text()


def test_combinations_that_make_no_sense_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["-m", "custom"], "the source custom needs mappingfile"),
        (["-m", "local"], "whose pseudonyms?"),
        (["-m", "local", "-q", "a", "--in_folder", "b"], "both queryfile and in_folder"),
        (["-m", "local", "-q", "a", "-mf", "b"], "mappingfile goes with the source custom"),
    ):
        assert main([*arguments, "-a", "proj", "-d", str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "out")


PATIENTS_OF_THE_SERVICE = ["ZQX-1", "ZQX-2", "ZQX-3"]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ca")


@pytest.fixture
def server(authority: Authority) -> Iterator[DeidServer]:
    """The service; beside its CA lies the configuration that people write."""
    tls = authority.issue("server", "127.0.0.1").context(ssl.Purpose.CLIENT_AUTH)
    with DeidServer(tls, "the-token-of-the-service") as running:
        config = {"deid_URL": running.url, "deid_token": running.token}
        authority.path.with_name("config.json").write_text(json.dumps(config))
        yield running


@pytest.mark.parametrize("fault", [None, *deid_faults.faults(PATIENTS_OF_THE_SERVICE)])
def test_the_command_asks_the_service_and_meets_its_faults(
    tmp_path: Path, authority: Authority, server: DeidServer, capsys: pytest.CaptureFixture[str], fault: str | None
) -> None:
    server.faults = ServiceFaults(**(deid_faults.faults(PATIENTS_OF_THE_SERVICE)[fault] if fault else {}))
    (tmp_path / "query.csv").write_text("PatientID\n" + "".join(f"{patient}\n" for patient in PATIENTS_OF_THE_SERVICE))
    arguments = ["-c", str(authority.path.with_name("config.json")), "--ca", str(authority.path)]
    arguments += [
        "-q",
        str(tmp_path / "query.csv"),
        "-a",
        "proj",
        "-d",
        str(tmp_path / "out"),
        "--retry_wait",
        "0.01",
        "--timeout",
        "0.5",
    ]
    code = main(arguments)
    said = "".join(capsys.readouterr())
    assert "ZQX" not in said and server.token not in said
    kept = Linkage("proj", tmp_path / "out").people().given
    if fault is None:
        assert code == 0 and list(kept) == PATIENTS_OF_THE_SERVICE
        assert main(arguments) == 0 and len(server.calls) == 2  # who is known is not asked for again
    else:
        assert code in (1, 2) and not kept


def test_who_is_linked_is_nobody_elses_patient_of_that_id(
    tmp_path: Path, authority: Authority, server: DeidServer, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-c", str(authority.path.with_name("config.json")), "--ca", str(authority.path), "-a", "proj"]
    arguments += ["-d", str(tmp_path / "out")]

    def asked_for(name: str, patient: str, issuer: str) -> int:
        images = phantom_series(patient_id=patient, patient_name="ZQX^A", n_images=1, IssuerOfPatientID=issuer)
        write(images, tmp_path / name)
        return main([*arguments, "--in_folder", str(tmp_path / name)])

    server.faults = ServiceFaults()
    assert asked_for("one", "ZQX-1", "") == asked_for("two", "ZQX-1", "HUG") == 0
    capsys.readouterr()
    assert asked_for("three", "ZQX-1", "CHUV") == 2
    said = "".join(capsys.readouterr())
    assert "series 1: the PatientID was linked before for another IssuerOfPatientID" in said and "ZQX" not in said
    Linkage("proj", tmp_path / "out").add({"sub-A_1": Person("P1", 3)})
    assert asked_for("four", "A-1", "") == 2  # its folder is called as that patient is
    assert "somebody else's already" in capsys.readouterr().err


def test_a_text_that_comes_during_the_scan_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_GRANULARITY", -(10**12))
    root = Tree.open(tmp_path / "tree").root
    images(root / "x", "A-1")
    with text_during_scan(root):
        of_folder(root)
    assert [of_folder(root).passed_over for _ in range(2)] == [1, 1]
