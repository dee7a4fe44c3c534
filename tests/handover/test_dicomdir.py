"""File-sets and their DICOMDIR, checked with DCMTK, dciodvfy, pydicom and PACSIFIER; second runs, kills, refusals."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.fileset import _FOUR_LEVEL_SOP_CLASSES, _SINGLE_LEVEL_SOP_CLASSES, FileSet
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, UID_dictionary

from pacsifier_ops.base.errors import InputError, TreeError
from pacsifier_ops.cli import create_dicomdir
from pacsifier_ops.embedded.phantoms import phantom_series, write
from pacsifier_ops.handover import dicomdir as steps
from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.handover.dicomdir import DicomdirRequest
from pacsifier_ops.handover.records import KEYS, record_type
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import CONVERTING, DEIDENTIFIED, IDENTIFIED, Tree, write_marker
from tests.support import deid_corpus, old_pacsifier
from tests.support.embedded import extract, node_of, serving
from tests.support.kills import killed

FILE_ID = re.compile(r"[A-Z0-9_]{1,8}(\\[A-Z0-9_]{1,8}){0,7}")


def create(source: Path, target: Path, **more: Any) -> ToolAccount:
    """A whole run in this process."""
    run = Run.fresh()
    for unit in steps.prepare(run, DicomdirRequest(source, target, **more), most=3):
        steps.copy(run, unit)
    steps.assemble(run)
    return steps.report(run)


def command(*arguments: str | Path) -> int:
    return create_dicomdir.main([str(argument) for argument in arguments])


def series(patient: str = "A-1", number: int = 1, **more: Any) -> list[Dataset]:
    small: dict[str, Any] = {"n_images": 2, "rows": 4, "columns": 4, **more}
    return phantom_series(patient_id=patient, patient_name="Phantom^Test", series_number=number, **small)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def listed(directory: Path) -> dict[str, list[Dataset]]:
    """The records of each object by SOP Instance UID, from the patient's down to its own, found by their offsets."""
    dataset = dcmread(directory)
    records = {record.seq_item_tell: record for record in dataset.DirectoryRecordSequence}
    found: dict[str, list[Dataset]] = {}

    def follow(offset: int, above: list[Dataset]) -> None:
        while offset:
            record = records[offset]
            if "ReferencedFileID" in record:
                uid = record.ReferencedSOPInstanceUIDInFile
                assert uid not in found
                found[uid] = [*above, record]
            follow(record.OffsetOfReferencedLowerLevelDirectoryEntity, [*above, record])
            offset = record.OffsetOfTheNextDirectoryRecord

    follow(dataset.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity, [])
    return found


def check_file_set(folder: Path, source: Path) -> None:
    """The DICOMDIR lists every object of `source` once, at a copy of its file; nothing else is there."""
    originals: dict[bytes, Path] = {}
    for path in source.rglob("*"):
        if path.is_file():
            originals.setdefault(hashlib.sha256(path.read_bytes()).digest(), path)
    seen = set()
    file_set = FileSet(folder / "DICOMDIR")
    for instance in file_set:
        record = instance.node._record
        assert FILE_ID.fullmatch("\\".join(record.ReferencedFileID))
        path = Path(instance.path)
        data = dcmread(path, stop_before_pixels=True)
        assert data.SOPInstanceUID == record.ReferencedSOPInstanceUIDInFile
        assert data.SOPClassUID == record.ReferencedSOPClassUIDInFile
        assert data.file_meta.TransferSyntaxUID == record.ReferencedTransferSyntaxUIDInFile
        seen.add(path)
        assert hashlib.sha256(path.read_bytes()).digest() in originals
    assert len(seen) == len(originals) == len(listed(folder / "DICOMDIR"))
    assert seen == {path for path in folder.rglob("*") if path.is_file()} - {folder / "DICOMDIR"}


def judged(directory: Path) -> str:
    """Return the errors that dciodvfy and dcmdump report for a DICOMDIR."""
    verifier = subprocess.run(["dciodvfy", directory], capture_output=True, text=True, errors="replace")
    dump = subprocess.run(["dcmdump", directory], capture_output=True, text=True, errors="replace")
    assert "BasicDirectory" in verifier.stderr + verifier.stdout and dump.returncode == 0
    said = f"{verifier.stdout}{verifier.stderr}{dump.stderr}".splitlines()
    return "\n".join(line for line in said if line.startswith(("Error", "E:", "W:", "F:")))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Objects of many kinds, character sets and transfer syntaxes."""
    folder = tmp_path_factory.mktemp("corpus")
    deid_corpus.build(folder)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


# Beside others


@pytest.mark.slow
def test_dcmmkdir_lists_the_same_records_and_verifiers_find_no_errors(corpus: Path, out: Path, tmp_path: Path) -> None:
    account = create(corpus, out)
    assert account.verdict == COMPLETE and account.counts["objects"] == account.counts["copied"]
    assert account.counts["outside of the media profiles"] > 10
    assert any("PS3.11" in remark and "RLE" in remark for _, remark in account.done)
    check_file_set(out, corpus)
    assert judged(out / "DICOMDIR") == ""

    theirs = tmp_path / "theirs"
    options = ["+r", "+id", str(out), "+D", str(theirs), "-Nxc", "-Nec", "-Nrc"]
    subprocess.run(["dcmmkdir", *options], check=True, capture_output=True, cwd=out)
    ours, others = listed(out / "DICOMDIR"), listed(theirs)
    assert ours.keys() == others.keys()
    kinds = set()
    for uid, records in ours.items():
        for mine, other in zip(records, others[uid], strict=True):
            assert mine.DirectoryRecordType == other.DirectoryRecordType
            kinds.add(mine.DirectoryRecordType)
            wanted = {key.tag for key in KEYS[mine.DirectoryRecordType]} & set(map(int, other.keys()))
            references = {tag for tag in map(int, other.keys()) if 0x00041430 <= tag <= 0x0004FFFF}
            for tag in wanted | references:
                if mine.get("ReferencedSOPClassUIDInFile", "").endswith("104.1") and tag == 0x0040E00C:
                    continue
                if tag == 0x0040E001:  # an HL7 identifier is only for what came from HL7 (PS3.3 F.5.33)
                    assert tag not in mine
                    continue
                assert mine[tag].value == other[tag].value, f"{mine.DirectoryRecordType} {tag:08x}"
    assert kinds == {
        *("PATIENT", "STUDY", "SERIES", "IMAGE", "SR DOCUMENT", "KEY OBJECT DOC", "PRESENTATION", "ENCAP DOC"),
        *("RT DOSE", "RT PLAN", "RT STRUCTURE SET", "WAVEFORM"),
    }


def test_the_file_set_holds_the_files_that_pacsifier_hands_over(tmp_path: Path) -> None:
    images = [
        *series("A-1", StudyDescription="Schädel"),
        *series("A-1", 2, modality="MR", n_images=3, StudyDescription="Schädel"),
        *series("B-2", study_date="20200304", SeriesDescription="Müller"),
    ]
    with serving(images, tmp_path / "archive") as pacs:
        assert extract(node_of(pacs), [{"PatientID": "*-*"}], tmp_path / "tree").verdict == COMPLETE
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    program = old_pacsifier.installed() / "pacsifier-create-dicomdir"
    subprocess.run([program, "-d", tmp_path / "tree", "-o", old], check=True, capture_output=True)
    assert command("-d", tmp_path / "tree", "-o", new) == 0

    before, after = listed(old / "DICOMDIR"), listed(new / "DICOMDIR")
    assert before.keys() == after.keys() == {image.SOPInstanceUID for image in images}
    for uid in before:
        theirs, ours = (
            folder.joinpath(*records[uid][-1].ReferencedFileID) for folder, records in ((old, before), (new, after))
        )
        assert theirs.read_bytes() == ours.read_bytes()
        for mine, other in zip(after[uid], before[uid], strict=True):
            assert {key.tag for key in KEYS[mine.DirectoryRecordType]} <= set(map(int, mine.keys()))
            for tag in set(mine.keys()) & set(other.keys()) - {0x00041400, 0x00041420, 0x00041500}:
                assert mine[tag].value == other[tag].value


# Every kind of object


def bare(sop_class: str, number: int, **more: Any) -> Dataset:
    """Return an object with UIDs and little else."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, f"1.2.3.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", f"1.2.3.0.{number}"
    for keyword, value in more.items():
        setattr(dataset, keyword, value)
    return dataset


def put(dataset: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    dataset.save_as(path, enforce_file_format=True)
    return path


def storage_classes() -> Iterator[str]:
    """All SOP classes of composite objects that are not retired."""
    for uid, (name, kind, _, retired, _) in UID_dictionary.items():
        composite = uid.startswith(("1.2.840.10008.5.1.4.1.1.", "1.2.840.10008.5.1.4.34."))
        if composite and kind == "SOP Class" and "Storage" in name and not retired and "Inventory" not in name:
            yield uid


def test_every_sop_class_has_its_record_and_missing_keys_are_made_up_and_reported(source: Path, out: Path) -> None:
    classes = [*storage_classes(), "1.3.12.2.1107.5.9.1"]
    for number, uid in enumerate(classes, 1):
        put(bare(uid, number), source / f"{number}")
    before = contents(source)
    account = create(source, out)
    assert contents(source) == before and account.verdict == COMPLETE
    records = {records[-1].ReferencedSOPClassUIDInFile: records for records in listed(out / "DICOMDIR").values()}
    assert records.keys() == set(classes)
    for uid, above in records.items():
        assert above[-1].DirectoryRecordType == record_type(uid)
        for record in above:
            for key in KEYS[record.DirectoryRecordType]:
                assert key.tag in record or key.optional
                assert record.get(key.keyword) or not key.made_up
    for uid, kind in _FOUR_LEVEL_SOP_CLASSES.items():
        assert record_type(uid) == kind
    # dciodvfy does not know newer record types. Keys that refer to other objects are not made up.
    known = ("Unrecognized enumerated value", "Referenced", "BlendingSequence", "HL7InstanceIdentifier")
    said = judged(out / "DICOMDIR").splitlines()
    assert [line for line in said if not any(word in line for word in known)] == []
    told = {remark for _, remark in account.done}
    assert "made up in its IMAGE record: InstanceNumber" in told
    assert any(remark.startswith("made up in its PATIENT record: PatientID") for remark in told)
    assert any("private one" in remark for remark in told)
    for path in source.iterdir():  # pydicom's file-sets do not know this record type
        if "ANNOTATION" in record_type(dcmread(path).SOPClassUID):
            path.unlink()
    shutil.rmtree(out)
    create(source, out)
    check_file_set(out, source)


def test_values_that_are_invalid_for_their_vr_are_not_copied_into_records(source: Path, out: Path) -> None:
    with deid_corpus._no_validation():
        odd = bare("1.2.840.10008.5.1.4.1.1.2", 1, PatientID="7", StudyDate="yesterday", StudyTime="10:15:00")
        odd.SeriesNumber, odd.StudyID = 3, "A\x01B"
        odd.add_new("InstanceNumber", "UL", 70000)
        put(odd, source / "odd")
    account = create(source, out)
    told = " ".join(remark for _, remark in account.done)
    for keyword in ("StudyDate", "StudyID", "InstanceNumber", "Modality"):
        assert keyword in told
    ((_, study, one_series, image),) = listed(out / "DICOMDIR").values()
    assert (study.StudyDate, study.StudyTime, study.StudyID) == ("19000101", "10:15:00", "1")
    assert (one_series.SeriesNumber, image.InstanceNumber) == (3, 1)


def test_records_of_documents_have_the_keys_that_tell_them_apart(source: Path, out: Path) -> None:
    def modifier(kind: str) -> Dataset:
        item = deid_corpus.item(RelationshipType=kind, ValueType="TEXT", TextValue="Jörg")
        item.ConceptNameCodeSequence = deid_corpus.code("121049", "DCM", "Language")
        return item

    common: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientID": "1",
        "InstanceNumber": 7,
        "VerificationFlag": "VERIFIED",
        "CompletionFlag": "COMPLETE",
        "ContentDate": "20200101",
        "ContentTime": "120000",
        "ConceptNameCodeSequence": deid_corpus.code("18748-4", "LN", "Bericht für Ärzte"),
        "VerifyingObserverSequence": [
            deid_corpus.item(VerificationDateTime="20200102101500"),
            deid_corpus.item(VerificationDateTime="20200103101500"),
        ],
        "ContentSequence": [modifier("HAS CONCEPT MOD"), modifier("CONTAINS")],
    }
    spectrum: dict[str, Any] = {
        "Rows": 3,
        "Columns": 5,
        "DataPointRows": 1,
        "DataPointColumns": 1024,
        "NumberOfFrames": 1,
    }
    for number, syntax in enumerate((ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian), 1):
        put(bare("1.2.840.10008.5.1.4.1.1.88.22", number, **common), source / f"sr{number}", syntax)
        image = deid_corpus.item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.4", ReferencedSOPInstanceUID="1.2.3.4")
        spectroscopy = bare("1.2.840.10008.5.1.4.1.1.4.2", number + 10, **spectrum)
        spectroscopy.ReferencedImageEvidenceSequence = [image]
        put(spectroscopy, source / f"mrs{number}", syntax)
    create(source, out)
    records = [records[-1] for records in listed(out / "DICOMDIR").values()]
    documents = [record for record in records if record.DirectoryRecordType == "SR DOCUMENT"]
    spectra = [record for record in records if record.DirectoryRecordType == "SPECTROSCOPY"]
    assert len(documents) == len(spectra) == 3
    for record in documents:
        assert record.VerificationDateTime == "20200103101500" and record.InstanceNumber == 7
        assert record.ConceptNameCodeSequence[0].CodeMeaning == "Bericht für Ärzte"
        assert [item.TextValue for item in record.ContentSequence] == ["Jörg"]
    for record in spectra:
        assert {name: record[name].value for name in spectrum} == spectrum
        assert record.ReferencedImageEvidenceSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"
    assert judged(out / "DICOMDIR") == ""


def test_objects_without_a_patient_have_records_at_the_level_of_patients(source: Path, out: Path) -> None:
    write(series(), source)
    for number, uid in enumerate(_SINGLE_LEVEL_SOP_CLASSES, 1):
        dataset = bare(uid, number, ContentLabel="HOT", Manufacturer="Phantom")
        del dataset.StudyInstanceUID, dataset.SeriesInstanceUID
        put(dataset, source / f"{number}")
    shutil.copy(source / "1", source / "copy of 1")
    account = create(source, out)
    assert account.verdict == COMPLETE and account.passed_over == {"second copy of an instance": 1}
    roots = {records[0].DirectoryRecordType for records in listed(out / "DICOMDIR").values()}
    assert roots == {"PATIENT", *_SINGLE_LEVEL_SOP_CLASSES.values()}
    (source / "copy of 1").unlink()
    check_file_set(out, source)
    before = contents(out)
    create(source, out)
    assert contents(out) == before
    assert judged(out / "DICOMDIR") == ""


# Names


def test_the_same_files_get_the_same_names_in_any_folder(source: Path, tmp_path: Path) -> None:
    files = write([*series("A-1"), *series("A.1", 3), *series("A-1", 2, n_images=12)], source)
    create(source, tmp_path / "one")
    elsewhere = tmp_path / "elsewhere"
    for number, path in enumerate(random.Random(7).sample(files, len(files))):
        (elsewhere / f"Ä{number % 3}").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, elsewhere / f"Ä{number % 3}" / f"x {number}")
    create(elsewhere, tmp_path / "two")
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two") and len(one) == 17
    assert "P0000001/ST000001/SE000002/IM000012" in one
    records = listed(tmp_path / "one" / "DICOMDIR")
    last = next(r[-1] for r in records.values() if r[-1].ReferencedFileID[-1] == "IM000012")
    assert last.InstanceNumber == 12


def test_mixed_ids_are_placed_by_the_attributes_of_the_object_and_reported(source: Path, out: Path) -> None:
    mixed = series("A-1", n_images=4)
    mixed[1].PatientID, mixed[2].StudyInstanceUID = "B-2", "1.2.3.4"
    mixed[3].PatientName = "Other^Name"
    del mixed[0].AccessionNumber
    mixed[3].AccessionNumber = "A7"
    write(mixed, source)
    account = create(source, out)
    placed = {uid: records[:2] for uid, records in listed(out / "DICOMDIR").items()}
    for image in mixed:
        patient, study = placed[image.SOPInstanceUID]
        assert (patient.PatientID, study.StudyInstanceUID) == (image.PatientID, image.StudyInstanceUID)
    assert placed[mixed[0].SOPInstanceUID][1].AccessionNumber == "A7"
    remarks = " ".join(remark for _, remark in account.done)
    for told in ("objects of several patients", "objects of several studies", "another PatientName"):
        assert told in remarks
    check_file_set(out, source)


def test_files_that_are_no_objects_are_passed_over_and_damaged_ones_are_problems(
    source: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write(series(), source)
    create(source, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "DICOMDIR", source / "DICOMDIR")
    shutil.copy(first, source / "again.dcm")
    (source / "notes.csv").write_text("PatientID\nA-1\n")
    second.write_bytes(second.read_bytes()[:400])
    assert command("-d", source, "-o", out) == 3
    said = capsys.readouterr()
    assert f"{second.relative_to(source)}: the file is truncated" in said.err
    for line in ("1 file(s), DICOMDIR", "1 file(s), not DICOM", "1 file(s), second copy of an instance"):
        assert line in said.out
    assert len(listed(out / "DICOMDIR")) == 1


# Volumes and zip files


def test_each_volume_is_a_file_set_of_at_most_the_given_size(source: Path, out: Path) -> None:
    for patient in ("A-1", "B-2", "C-3"):
        write([*series(patient, n_images=3, rows=256, columns=512), *series(patient, 2)], source)
    account = create(source, out, volume_size=2, zip=True)
    volumes = sorted(path for path in out.iterdir() if path.is_dir())
    assert len(volumes) == account.counts["file-sets"] == 3
    seen: list[str] = []
    for volume in volumes:
        records = listed(volume / "DICOMDIR")
        assert len({above[1].StudyInstanceUID for above in records.values()}) == 1  # a study is kept together
        seen += records
        assert sum(path.stat().st_size for path in volume.rglob("*") if path.is_file()) <= 2_000_000
        assert judged(volume / "DICOMDIR") == "" and len(list(FileSet(volume / "DICOMDIR"))) == 5
        with zipfile.ZipFile(out / f"{volume.name}.zip") as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == contents(volume)
    assert len(seen) == len(set(seen)) == 15

    write(series("D-4", n_images=1, rows=1024, columns=1024), source)
    with pytest.raises(InputError, match="a file is larger than a volume"):
        create(source, out.with_name("none"), volume_size=2)
    assert not out.with_name("none").exists()


def test_a_series_larger_than_a_volume_goes_on_in_the_next(source: Path, out: Path) -> None:
    write(series(n_images=9, rows=256, columns=512), source)
    assert create(source, out, volume_size=2).counts["file-sets"] == 3
    assert [len(list(FileSet(volume / "DICOMDIR"))) for volume in sorted(out.iterdir())] == [3, 3, 3]


def test_a_zip_file_is_the_same_every_time(source: Path, out: Path) -> None:
    write(series(), source)
    assert command("-d", source, "-o", out, "--zip") == 0
    packed = out.with_name("out.zip")
    first = packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        assert archive.namelist()[0] == "DICOMDIR" and archive.testzip() is None
    shutil.rmtree(out)
    assert command("-d", source, "-o", out, "--zip") == 0 and packed.read_bytes() == first
    packed.write_bytes(b"somebody's")
    assert command("-d", source, "-o", out, "--zip") == 2 and packed.read_bytes() == b"somebody's"


# Again, refused, killed


def test_a_second_run_heals_the_file_set_and_names_stay(source: Path, out: Path) -> None:
    files = write([*series("A-1"), *series("B-2")], source)
    create(source, out)
    before, times = contents(out), {path: path.stat().st_mtime_ns for path in out.rglob("IM*")}
    torn, lost = sorted(times)[:2]
    torn.write_bytes(torn.read_bytes()[:-2])
    lost.unlink()
    (out / "DICOMDIR").unlink()
    (out / "P0000001" / ".IM000001.0123abcd.part").write_bytes(b"half")
    shutil.move(out / "P0000001" / ".IM000001.0123abcd.part", torn.with_name(".IM000001.0123abcd.part"))
    create(source, out)
    assert contents(out) == before
    assert all(path.stat().st_mtime_ns == times[path] for path in times if path not in (torn, lost))

    write(series("C-3"), source)  # a patient behind the others changes no name
    create(source, out)
    assert before.items() - {("DICOMDIR", before["DICOMDIR"])} <= contents(out).items()
    check_file_set(out, source)
    files[0].unlink()
    with pytest.raises(TreeError, match="something else"):
        create(source, out)


def test_unfit_sources_and_targets_are_refused(source: Path, out: Path, tmp_path: Path) -> None:
    write(series(), source)

    def refused(match: str, source: Path = source, target: Path = out) -> None:
        with pytest.raises((InputError, TreeError), match=match):
            create(source, target)

    refused("overlap", target=source)
    refused("overlap", target=source / "below")
    refused("overlap", target=tmp_path)
    refused("not a folder", source=tmp_path / "none")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("no DICOM file", source=empty)
    tree = Tree.open(source)
    with tree.workplace(shared()):
        refused("being written")
    write_marker(source, {"state": CONVERTING})
    refused("half de-identified")
    shutil.rmtree(source / ".pacsifier")
    for name, state in (("a", IDENTIFIED), ("b", DEIDENTIFIED)):
        (tmp_path / "mixed" / name / ".pacsifier").mkdir(parents=True)
        write_marker(tmp_path / "mixed" / name, {"state": state})
        write(series(name), tmp_path / "mixed" / name)
    refused("both identified and de-identified", source=tmp_path / "mixed")
    refused("part of another data set", target=tmp_path / "mixed" / "b" / "disc")
    assert not out.exists()

    for name in ("notes.txt", "P0000001/ST000001/SE000001/IM000009"):
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("somebody's")
        refused("something else")
        assert path.read_text() == "somebody's"
        path.unlink()
    stranger = out / "P0000001" / "ST000001" / "SE000001" / "IM000001"
    write(series("Z-9", n_images=1), tmp_path / "stranger")
    shutil.copy(next((tmp_path / "stranger").rglob("*.dcm")), stranger)
    refused("something else")
    stranger.unlink()
    stranger.symlink_to(tmp_path / "stranger")
    refused("something else")


def test_a_dicomdir_is_written_only_for_files_that_all_exist(source: Path, out: Path) -> None:
    paths = write(series(n_images=3), source)
    run = Run.fresh()
    units = steps.prepare(run, DicomdirRequest(source, out))
    with pytest.raises(InputError, match="before all files were copied"):
        steps.assemble(run)
    assert [reason for _, reason in steps.report(run).problems] == ["not copied: the run ended before"] * 3
    paths[0].write_bytes(paths[0].read_bytes() + b"\0\0")
    assert [steps.copy(run, unit) for unit in units] == [{"copied": 2, "failed": 1}]
    steps.assemble(run)
    account = steps.report(run)
    assert account.verdict == INCOMPLETE and "changed" in account.problems[0][1]
    assert len(listed(out / "DICOMDIR")) == 2
    victim = next(out.rglob("IM*"))
    victim.write_bytes(victim.read_bytes())
    os.utime(victim, (1, 1))
    with pytest.raises(TreeError, match="changed during"):
        steps.assemble(run)


def test_a_step_that_was_killed_and_is_tried_again_leaves_nothing_behind(source: Path, out: Path) -> None:
    write(series(), source)
    create(source, out.with_name("wanted"), zip=True)
    run = Run.fresh()
    for unit in steps.prepare(run, DicomdirRequest(source, out, zip=True)):
        steps.copy(run, unit)
    halves = [
        "P0000001/ST000001/SE000001/.IM000001.0123abcd.part",
        ".DICOMDIR.0123abcd.part",
        "../.out.zip.0123abcd.part",
    ]
    for name in halves:
        (out / name).write_bytes(b"half")
    steps.assemble(run)
    steps.assemble(run)
    assert contents(out) == contents(out.with_name("wanted"))
    assert out.with_name("out.zip").read_bytes() == out.with_name("wanted.zip").read_bytes()
    assert not list(out.parent.glob(".*.part"))


def test_killed_at_any_moment_and_run_again_no_file_is_lost_or_half_written(source: Path, out: Path) -> None:
    write([image for number in range(1, 7) for image in series("A-1", number, n_images=10)], source)
    create(source, out.with_name("wanted"), zip=True)
    wanted, packed = contents(out.with_name("wanted")), out.with_name("wanted.zip").read_bytes()
    line = ["-d", str(source), "-o", str(out), "--zip"]
    for after in (9, 60, 110, 130, 20, 40):
        if after in (9, 130):
            shutil.rmtree(out, ignore_errors=True)
            out.with_name("out.zip").unlink(missing_ok=True)
        killed(lambda: command(*line), after)
        there = contents(out) if out.exists() else {}
        assert all(wanted[name] == data for name, data in there.items() if not name.endswith(".part"))
        if "DICOMDIR" in there:
            assert there.keys() >= wanted.keys()
    assert command(*line) == 0
    assert contents(out) == wanted and out.with_name("out.zip").read_bytes() == packed
    assert not list(out.parent.glob(".*.part"))


def test_only_the_report_of_a_run_names_patients(source: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(series("Wurzelbacher-1"), source)
    assert command("-d", source, "-o", out) == 0
    said = capsys.readouterr()
    assert "Wurzelbacher" not in said.out + said.err
    (summary,) = Path(os.environ["PACSIFIER_STATE_ROOT"]).glob("runs/*/summary.json")
    assert "Wurzelbacher" not in summary.read_text() and json.loads(summary.read_text())["totals"]["copied"] == 2
