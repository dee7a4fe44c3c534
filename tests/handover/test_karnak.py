"""Karnak tags: only the private block changes, and all patients are known first; against PACSIFIER, and killed."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import zlib
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataelem import DataElement
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from pacsifier_ops.base.errors import Cancelled, InputError, PacsifierError, PatientsRefused, TreeError
from pacsifier_ops.cli.add_karnak_tags import main
from pacsifier_ops.cli.anonymize import main as anonymize
from pacsifier_ops.embedded.phantoms import shipped_files, write
from pacsifier_ops.handover import karnak
from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.pseudonyms.linkage import Linkage, Person
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.runs.progress import progress_of
from pacsifier_ops.state.leases import shared
from pacsifier_ops.state.tree import CONTROL, CONVERTING, DEIDENTIFIED, Tree, write_marker
from tests.support import old_pacsifier
from tests.support.embedded import extract, node_of, series, serving
from tests.support.kills import killed

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
)
ALBUM = "Knee Study 7"
GROUP, CREATOR = karnak.GROUP, karnak.CREATOR


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two patients, every transfer syntax, as a tree of PACSIFIER's."""
    root = tmp_path / "tree"
    for patient in ("A-1", "B2"):
        for number, syntax in enumerate(SYNTAXES, 1):
            images = series(patient, series_number=number, n_images=2, transfer_syntax=syntax)
            write(images, root / f"sub-{patient}" / "ses-20180102" / f"{number:05d}-CT")
    return root


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    return as_json(tmp_path / "new_ids.json", {"sub-A-1": "P0001", "B2": "P0002"})


@pytest.fixture
def shifts(tmp_path: Path) -> Path:
    return as_json(tmp_path / "day_shift.json", {"A-1": -3, "sub-B2": "17"})


PEOPLE = {"A-1": Person("P0001", -3), "B2": Person("P0002", 17)}


def as_json(path: Path, values: Mapping[str, Any]) -> Path:
    path.write_text(json.dumps(values))
    return path


def tagging(in_folder: Path, out_folder: Path | None = None, most: int = 4, **request: Any) -> ToolAccount:
    """A whole run; returns its account."""
    return run_of(in_folder, out_folder, most, **request)[1]


def run_of(in_folder: Path, out_folder: Path | None = None, most: int = 4, **request: Any) -> tuple[Run, ToolAccount]:
    run = Run.fresh()
    given: dict[str, Any] = {"album_name": ALBUM, "project": "study"}
    given |= {name: value if isinstance(value, bool) else str(value) for name, value in request.items()}
    for unit in karnak.prepare(run, karnak.KarnakRequest(in_folder, out_folder or in_folder, **given), most):
        karnak.tag(run, unit)
    return run, karnak.report(run)


def link(people: Mapping[str, Person]) -> None:
    Linkage("study").add(people)


def state_of(folder: Path) -> dict[Path, tuple[bytes, int, int]]:
    """Content, modification time and inode of every file, but those of the tree itself."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file() and CONTROL not in path.parts
    }


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: content for path, (content, *_) in state_of(folder).items()}


def tags_of(path: Path) -> tuple[str, ...]:
    """The three values, as another program reads them."""
    block = dcmread(path, force=True).private_block(GROUP, CREATOR)
    found = [block[number] for number in (1, 2, 3)]
    if {element.VR for element in found} == {"UN"}:  # implicit VR, which does not say it
        return tuple(element.value.decode().rstrip(" ") for element in found)
    assert {element.VR for element in found} == {"LO"}
    return tuple(element.value for element in found)


def plain(path: Path) -> bytes:
    """The file, its data set inflated."""
    content = path.read_bytes()
    if content[128:132] != b"DICM" or dcmread(path, specific_tags=[]).file_meta.TransferSyntaxUID not in (
        DeflatedExplicitVRLittleEndian,
    ):
        return content
    start = 144 + struct.unpack("<L", content[140:144])[0]
    return content[:start] + zlib.decompress(content[start:], -zlib.MAX_WBITS)


def only_inserted(before: bytes, after: bytes) -> bool:
    """Whether `after` is `before` with bytes put in at one place."""
    same = bisect_left(range(1, len(before) + 1), True, key=lambda length: before[:length] != after[:length])
    return before[same:] == after[len(after) - len(before) + same :] and len(after) > len(before)


# What is written


def test_every_object_gets_the_tags_and_nothing_else_changes(folder: Path, ids: Path, shifts: Path) -> None:
    for path in folder.rglob("*.dcm"):
        path.chmod(0o640)
    before = {path: plain(path) for path in folder.rglob("*.dcm")}
    run, account = run_of(folder, new_ids=ids, day_shift=shifts)
    assert account.verdict == COMPLETE
    assert account.counts == {"patients": 2, "series": 10, "tagged": 20, "unchanged": 0}
    for path, content in before.items():
        person = PEOPLE[dcmread(path).PatientID]
        assert tags_of(path) == (person.pseudonym, ALBUM, str(person.shift))
        assert only_inserted(content, plain(path)), path
        assert path.stat().st_size % 2 == 0
        assert path.stat().st_mode & 0o777 == 0o640
    progress = progress_of(run)
    assert progress.series == {"complete": 10} and progress.planned


def test_real_objects_are_as_good_as_before_for_other_programs(tmp_path: Path) -> None:
    sources = [path for path in shipped_files() if path.stat().st_size < 1_000_000][::2]
    folder = tmp_path / "tree"
    folder.mkdir()
    people: dict[str, Person] = {}
    for number, path in enumerate(sources):
        shutil.copy(path, folder / f"{number}.dcm")
        if patient := str(dcmread(path).get("PatientID") or ""):
            people.setdefault(patient, Person(f"P{len(people)}", len(people)))
    link(people)
    account = tagging(folder)
    without = sum(not str(dcmread(path).get("PatientID") or "") for path in sources)
    assert {reason for _, reason in account.problems} <= {karnak._NO_PATIENT}
    assert (account.counts["tagged"], len(account.problems)) == (len(sources) - without, without)
    for number, path in enumerate(sources):
        mine = folder / f"{number}.dcm"
        if str(dcmread(path).get("PatientID") or ""):
            assert only_inserted(plain(path), plain(mine)), path.name
            dcmread(mine).walk(lambda dataset, element: element.value)
            assert said("dcmdump", mine).count("E: ") <= said("dcmdump", path).count("E: "), path.name
            assert errors(mine) <= errors(path), path.name


def said(program: str, path: Path) -> str:
    """Return the output of another program for a file; empty if the program is not installed."""
    if shutil.which(program) is None:
        return ""
    done = subprocess.run([program, str(path)], capture_output=True)
    return (done.stdout + done.stderr).decode("latin-1")


def errors(path: Path) -> set[str]:
    return {line for line in said("dciodvfy", path).splitlines() if line.startswith("Error")}


def private(*elements: tuple[int, str, Any]) -> list[DataElement]:
    return [DataElement(GROUP << 16 | number, vr, value) for number, vr, value in elements]


OTHER, OURS = (0x0010, "LO", "SOMEBODY"), (0x0020, "LO", f"{CREATOR} ")
#: Content of group 000B before, the block that gets the tags, and the elements that stay.
BLOCKS: dict[str, tuple[list[DataElement], int, set[int]]] = {
    "nothing": ([], 0x10, set()),
    "another creator": (private(OTHER, (0x1001, "LO", "theirs")), 0x11, {0x10, 0x1001}),
    "elements of nobody": (private((0x1001, "LO", "stray"), (0x1203, "DS", "1")), 0x11, {0x1001, 0x1203}),
    "ours with other values": (
        private(OTHER, OURS, (0x1003, "LO", "theirs"), (0x2001, "UN", b"P9"), (0x2003, "LO", "9"), (0x2004, "SH", "x")),
        0x20,
        {0x10, 0x20, 0x1003, 0x2004},
    ),
    "ours twice": (
        private(OURS, (0x0030, "LO", CREATOR), (0x2001, "LO", "P8"), (0x3001, "LO", "P9"), (0x3007, "LO", "x")),
        0x20,
        {0x20, 0x30, 0x3007},
    ),
    "ours empty": (private((0x00FF, "LO", CREATOR)), 0xFF, {0xFF}),
    "a sequence of theirs": (private(OTHER, (0x1010, "SQ", [Dataset()])), 0x11, {0x10, 0x1010}),
    "room for one": (private(*((n, "LO", f"C{n}") for n in range(0x10, 0xFF))), 0xFF, set(range(0x10, 0xFF))),
}


@pytest.mark.parametrize("syntax", SYNTAXES[:4], ids=lambda uid: UID(uid).name.replace(" ", ""))
def test_the_block_is_found_or_reserved_as_the_standard_says(syntax: str, tmp_path: Path) -> None:
    link({"A-1": Person("P1", 1)})
    for name, (elements, block, kept) in BLOCKS.items():
        folder = tmp_path / name
        (image,) = series("A-1", transfer_syntax=syntax)
        for element in elements:
            image.add(element)
        (path,) = write([image], folder)
        before = dcmread(path)
        account = tagging(folder)
        assert account.verdict == COMPLETE, name
        assert account.counts.get("with tags in another block", 0) == (block != 0x10), name
        after = dcmread(path)
        mine = {GROUP << 16 | block, *(GROUP << 16 | block << 8 | number for number in (1, 2, 3))}
        assert {element.tag for element in after.group_dataset(GROUP)} == mine | {GROUP << 16 | n for n in kept}, name
        assert tags_of(path) == ("P1", ALBUM, "1")
        for element in before:
            if element.tag not in {*mine - {GROUP << 16 | block}, GROUP << 16} and element.tag in after:
                assert after[element.tag] == element, name
        once = state_of(folder)
        assert tagging(folder).counts["unchanged"] == 1 and state_of(folder) == once, name


@pytest.mark.parametrize("syntax", SYNTAXES[:3], ids=lambda uid: UID(uid).name.replace(" ", ""))
def test_a_group_length_stays_right(syntax: str, tmp_path: Path) -> None:
    link({"A-1": Person("P1", 1)})
    (image,) = series("A-1", transfer_syntax=syntax)
    for element in private(OTHER, (0x1001, "LO", "theirs")):
        image.add(element)
    (path,) = write([image], tmp_path / "tree")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    head = struct.pack(f"{order}HH", GROUP, 0) + (
        struct.pack("<L", 4) if syntax == ImplicitVRLittleEndian else b"UL" + struct.pack(f"{order}H", 4)
    )
    content, first, next_group = (
        path.read_bytes(),
        *(struct.pack(f"{order}HH", *tag) for tag in ((GROUP, 0x0010), (0x0010, 0x0010))),
    )
    place = content.index(first)
    path.write_bytes(content[:place] + head + struct.pack(f"{order}L", 4711) + content[place:])
    assert tagging(tmp_path / "tree").verdict == COMPLETE
    content = path.read_bytes()
    start = content.index(head) + len(head) + 4
    end = content.index(next_group, start)
    assert struct.unpack(f"{order}L", content[start - 4 : start]) == (end - start,)
    assert dcmread(path)[GROUP, 0x1001].value in ("theirs", b"theirs") and tags_of(path) == ("P1", ALBUM, "1")


def test_a_file_without_a_free_block_is_not_changed(tmp_path: Path) -> None:
    link({"A-1": Person("P1", 1)})
    full, free = series("A-1", n_images=2)
    for element in private(*((number, "LO", f"C{number}") for number in range(0x10, 0x100))):
        full.add(element)
    paths = write([full, free], tmp_path / "tree")
    before = paths[0].read_bytes()
    account = tagging(tmp_path / "tree")
    assert account.problems == [(paths[0].name, "all blocks of group 000B are reserved by others")]
    assert paths[0].read_bytes() == before and tags_of(paths[1])


# Beside PACSIFIER


@pytest.mark.slow
def test_extracted_trees_get_the_tags_of_pacsifier_and_files_that_it_truncates_stay_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tmp_path / "tree"
    images = [i for n, syntax in enumerate(SYNTAXES, 1) for i in series("A1", series_number=n, transfer_syntax=syntax)]
    undated = series("B2", study_date="", study_time="")
    with serving([*images, *series("B2", n_images=3), *undated], tmp_path / "pacs") as pacs:
        extract(node_of(pacs), [{"PatientID": "A1"}, {"PatientID": "B2"}], tree, info=True)
    ids = as_json(tmp_path / "ids.json", {"sub-A1": "P1", "sub-B2": "P-0002"})
    text = as_json(tmp_path / "text.json", {"sub-A1": "-3", "sub-B2": "17"})
    number = as_json(tmp_path / "number.json", {"sub-A1": -3, "sub-B2": 17})
    theirs, cut = tmp_path / "theirs", tmp_path / "cut"
    shutil.copytree(tree, theirs)
    shutil.copytree(tree, cut)

    def theirs_of(folder: Path, shift: Path) -> int:
        program = str(old_pacsifier.installed() / "pacsifier-add-karnak-tags")
        command = [program, "-d", str(folder), "-n", str(ids), "-s", str(shift), "-a", ALBUM]
        return subprocess.run(command, capture_output=True, timeout=120).returncode

    assert theirs_of(theirs, text) == 0
    before = contents(tree)
    assert main(["-d", str(tree), "-n", str(ids), "-s", str(number), "-a", ALBUM]) == 0
    assert "complete: 2 patients, 7 series, 9 tagged, 0 unchanged\n" in capsys.readouterr().out
    ours, wanted = contents(tree), contents(theirs)
    # PACSIFIER leaves out files that are in no ses- folder.
    (only_ours,) = {path for path in ours if ours[path] != wanted[path]}
    assert wanted[only_ours] == before[only_ours] and tags_of(tree / only_ours) == ("P-0002", ALBUM, "17")
    assert sum(ours[path] != content for path, content in before.items()) == 9  # dumps and logs did not change

    assert theirs_of(cut, number) != 0
    assert any(len(content) < len(before[path]) for path, content in contents(cut).items())
    # The files that PACSIFIER truncated are reported, and the rest is tagged.
    assert main(["-d", str(cut), "-n", str(ids), "-s", str(number), "-a", ALBUM]) == 3
    assert "8 tagged" in capsys.readouterr().out


# Who becomes whom


def test_patients_without_a_pseudonym_are_reported_before_any_file_changes(
    folder: Path, ids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(series("Wurzelbacher"), folder / "elsewhere")
    before = state_of(folder)
    code = main(["-d", str(folder), "-n", str(ids), "-s", str(as_json(tmp_path / "s.json", {"B2": 1})), "-a", ALBUM])
    told = capsys.readouterr().err
    assert code == 2 and state_of(folder) == before
    assert "1 of 3 patients have no pseudonym, 2 of 3 patients have no day shift; nothing was touched" in told
    assert not {"Wurzelbacher", "A-1", "B2"} & set(told.replace(";", " ").split())
    (note,) = Path(os.environ["PACSIFIER_STATE_ROOT"]).glob("runs/*/problems.txt")
    assert note.read_text().split().count("Wurzelbacher") == 2
    assert not (folder / CONTROL).exists()


def test_without_files_the_linkage_of_the_project_gives_the_pseudonyms(folder: Path) -> None:
    with pytest.raises(InputError, match="2 of 2 patients have no pseudonym"):
        tagging(folder)
    link(PEOPLE)
    tagging(folder)
    assert {tags_of(path) for path in folder.rglob("*.dcm")} == {("P0001", ALBUM, "-3"), ("P0002", ALBUM, "17")}


def test_without_day_shifts_dates_stay_and_the_report_says_so(folder: Path, ids: Path, shifts: Path) -> None:
    run, _ = run_of(folder, new_ids=ids)
    assert {tags_of(path)[2] for path in folder.rglob("*.dcm")} == {"0"}
    assert "No day shifts were given" in run.report.read_text()
    with pytest.raises(InputError, match="day_shift needs new_ids"):
        tagging(folder, day_shift=shifts)


def test_patients_that_would_be_mixed_up_are_refused(folder: Path, tmp_path: Path) -> None:
    before = state_of(folder)
    for names, what in (
        ({"A-1": "P1", "B2": "p1"}, "several patients would have one pseudonym: patient 1, 2"),
        ({"A-1": "B2", "B2": "P1"}, "is a PatientID of these data"),
    ):
        with pytest.raises(PatientsRefused, match=what):
            tagging(folder, new_ids=as_json(tmp_path / "names.json", names))
    write(series("B2", series_number=9, IssuerOfPatientID="ONE"), folder / "one")
    write(series("B2", series_number=10, IssuerOfPatientID="OTHER"), folder / "other")
    with pytest.raises(PatientsRefused, match="two IssuerOfPatientIDs"):
        tagging(folder, new_ids=as_json(tmp_path / "names.json", {"A-1": "P1", "B2": "P2"}))
    assert before.items() <= state_of(folder).items()


@pytest.mark.parametrize("album", ["", "  ", "A\\B", "Zürich", "x" * 65, "a\nb", "a\x1b(B"])
def test_values_that_no_tag_can_hold_are_refused(folder: Path, ids: Path, tmp_path: Path, album: str) -> None:
    with pytest.raises(InputError, match="album_name does not fit into a tag"):
        tagging(folder, new_ids=ids, album_name=album)
    for wrong in ("A\\B", "x" * 65, "Müller", ""):
        with pytest.raises(InputError, match="new_ids: entry 1"):
            tagging(folder, new_ids=as_json(tmp_path / "wrong.json", {"A-1": wrong, "B2": "P2"}))


# Again, elsewhere


def test_a_second_run_changes_nothing_and_other_values_replace_old_ones(folder: Path, ids: Path, shifts: Path) -> None:
    tagging(folder, new_ids=ids, day_shift=shifts)
    once = state_of(folder)
    assert tagging(folder, new_ids=ids, day_shift=shifts).counts["unchanged"] == 20
    assert state_of(folder) == once
    assert tagging(folder, new_ids=ids, day_shift=shifts, album_name="Another").counts["tagged"] == 20
    assert {tags_of(path)[1] for path in folder.rglob("*.dcm")} == {"Another"}
    tagging(folder, new_ids=ids, day_shift=shifts)
    assert contents(folder) == {path: content for path, (content, *_) in once.items()}


def test_with_an_output_folder_the_originals_are_not_changed(folder: Path, tmp_path: Path) -> None:
    link(PEOPLE)
    (folder / "sub-B2" / "note.txt").write_text("none of ours")
    out, before = tmp_path / "new" / "out", state_of(folder)
    account = tagging(folder, out)
    assert (account.counts["tagged"], account.passed_over) == (20, {"not DICOM": 1})
    assert state_of(folder) == before and not (folder / CONTROL).exists()
    assert set(contents(out)) == {path for path in before if path.suffix == ".dcm"}
    in_place = contents(out)
    made = state_of(out)
    assert tagging(folder, out).counts["unchanged"] == 20 and state_of(out) == made
    # Files of an earlier run are replaced; files of others are not.
    first, second, *_ = sorted(path for path in out.rglob("*.dcm"))
    first.write_bytes(b"notes")
    second.write_bytes(second.read_bytes()[:-10])
    account = tagging(folder, out)
    assert (account.counts["tagged"], account.counts["unchanged"], account.verdict) == (1, 18, INCOMPLETE)
    assert account.problems == [(str(first.relative_to(out)), karnak._OTHER_FILE)]
    tagging(folder)
    first.write_bytes((folder / first.relative_to(out)).read_bytes())
    assert contents(out) == in_place
    assert {path: content for path, content in contents(folder).items() if path.suffix == ".dcm"} == in_place


def test_unfit_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    link(PEOPLE)
    before = state_of(folder)

    def refused(in_folder: Path, out: Path | None, error: type[PacsifierError], why: str) -> None:
        with pytest.raises(error, match=why):
            tagging(in_folder, out)
        assert state_of(folder) == before

    refused(folder, folder / "out", InputError, "overlap")
    refused(folder / "sub-B2", folder, InputError, "overlap")
    refused(tmp_path / "nowhere", None, InputError, "not a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", None, InputError, "no DICOM file")
    write_marker(Tree.open(tmp_path / "deid").root, {"state": DEIDENTIFIED})
    refused(folder, tmp_path / "deid", TreeError, "de-identified")
    Tree.open(tmp_path / "other")
    refused(folder, tmp_path / "other" / "out", TreeError, "part of another data set")
    busy = Tree.open(folder)
    with busy.workplace(shared()):
        refused(folder, None, TreeError, "another run is at work")
    write_marker(folder, {"state": CONVERTING})
    refused(folder / "sub-B2", None, TreeError, "half de-identified")


def test_de_identified_data_is_refused_and_its_manifest_stays_valid(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deid"
    command = ["-d", str(folder), "-o", str(out), "--no_contact_sheets", "--project", "study"]
    assert anonymize(command) == 0
    before = state_of(out)
    for place in (out, next(out.glob("sub-*"))):
        for target in (None, tmp_path / "tagged"):
            with pytest.raises(TreeError, match="tag the identified data"):
                tagging(place, target)
    assert state_of(out) == before
    tagging(folder)  # the linkage that the de-identification has left
    assert {tags_of(path)[0] for path in folder.rglob("*.dcm")} == {dcmread(p).PatientID for p in out.rglob("*.dcm")}
    # The tags do not prevent a later de-identification.
    assert anonymize(["-d", str(folder), "-o", str(tmp_path / "again"), *command[4:]]) == 0
    assert not any(GROUP in {e.tag.group for e in dcmread(p)} for p in (tmp_path / "again").rglob("*.dcm"))


# Files of every kind


def test_a_bad_file_is_reported_and_the_others_are_tagged(folder: Path, tmp_path: Path) -> None:
    link(PEOPLE)
    here = folder / "sub-B2" / "ses-20180102" / "00001-CT"
    good = sorted(here.iterdir())[0]
    whole = good.read_bytes()
    (here / "cut.dcm").write_bytes(whole[:-3])
    (here / "nobody.dcm").write_bytes(whole.replace(b"B2", b"  "))
    image = dcmread(good)
    start = whole.index(struct.pack("<HH", 0x0028, 0x0010))
    end = whole.index(struct.pack("<HH", 0x0028, 0x0011))
    (here / "disorder.dcm").write_bytes(whole[:start] + whole[end:] + whole[start:end])
    (here / "copy.dcm").write_bytes(whole)
    (here / "bare").write_bytes(whole[144 + struct.unpack("<L", whole[140:144])[0] :])
    (here / "contradiction.dcm").write_bytes(whole.replace(b"Phantom^", b"Fantome^"))
    (here / "link.dcm").symlink_to(good)
    (here / "outside.dcm").symlink_to(tmp_path / "nothing.dcm")
    (here / "notes.txt").write_text("none of ours")
    bad = {name: (here / name).read_bytes() for name in ("cut.dcm", "nobody.dcm", "disorder.dcm", "notes.txt")}
    account = tagging(folder)
    assert {path.rpartition("/")[2]: reason for path, reason in account.problems} == {
        "cut.dcm": "the file is truncated",
        "nobody.dcm": "it has no PatientID, so nobody can say whose it is",
        "disorder.dcm": "its elements are not in order of tags, or a tag occurs twice",
    }
    assert account.passed_over == {"not DICOM": 1, "link to a file of the folder": 1, "link that leads outside": 1}
    assert account.counts["tagged"] == 23
    for name in (good.name, "copy.dcm", "contradiction.dcm", "bare"):
        assert tags_of(here / name) == ("P0002", ALBUM, "17")
    assert (here / "link.dcm").is_symlink() and dcmread(here / "bare", force=True).PatientName == image.PatientName
    assert all((here / name).read_bytes() == content for name, content in bad.items())


def test_a_file_that_changes_during_the_run_is_left_alone(folder: Path) -> None:
    link(PEOPLE)
    run = Run.fresh()
    units = karnak.prepare(run, karnak.KarnakRequest(folder, folder, ALBUM, project="study"))
    path = min(folder.glob("sub-B2/**/00001-CT/*.dcm"))
    path.write_bytes(path.read_bytes().replace(b"B2", b"D2"))
    for unit in units[:-1]:
        karnak.tag(run, unit)
    account = karnak.report(run)
    reasons = [reason for _, reason in account.problems]
    assert sorted(set(reasons)) == [
        "not attempted: the run ended before",
        "the file changed while the run was looking at it",
    ]
    assert reasons.count("not attempted: the run ended before") == 2 and account.counts["tagged"] == 17


def test_a_stopped_run_reports_what_it_has_done(folder: Path) -> None:
    link(PEOPLE)
    run, asked = Run.fresh(), iter(range(100))
    (unit,) = karnak.prepare(run, karnak.KarnakRequest(folder, folder, ALBUM, project="study"), most=1)
    with pytest.raises(Cancelled):
        karnak.tag(run, unit, lambda: next(asked) > 6)
    account = karnak.report(run)
    tagged = sum(bool(dcmread(path).group_dataset(GROUP)) for path in folder.rglob("*.dcm"))
    assert tagged == account.counts["tagged"] == 6
    assert [reason for _, reason in account.problems] == ["not attempted: the run ended before"] * 14
    assert karnak.tag(run, unit) == {"tagged": 14, "unchanged": 6, "problems": 0}
    assert karnak.report(run).verdict == COMPLETE


# The ledger of a tree


def test_an_extraction_fetches_nothing_again_and_leaves_the_tags(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    link(PEOPLE)
    with serving([*series("B2", n_images=3), *series("A-1", n_images=2)], tmp_path / "pacs") as pacs:
        node, rows = node_of(pacs), [{"PatientID": "B2"}, {"PatientID": "A-1"}]
        extract(node, rows, tree)
        changed, *_ = sorted(tree.glob("sub-B2/**/*.dcm"))
        changed.write_bytes(changed.read_bytes().replace(b"Phantom^", b"Fantome^"))
        assert tagging(tree).counts["tagged"] == 5
        tagged = state_of(tree)
        account = extract(node, rows, tree)
        assert (account.totals()["present"], account.totals()["received"]) == (4, 1)
        # A file that did not match its ledger entry before does not match it with tags either.
        after = state_of(tree)
        name = changed.relative_to(tree)
        assert after[name][0] != tagged[name][0] and dcmread(changed).PatientName == "Phantom^Patient"
        assert {k: v for k, v in after.items() if k.suffix == ".dcm" and k != name} == {
            k: v for k, v in tagged.items() if k.suffix == ".dcm" and k != name
        }
        assert tagging(tree).counts == {"patients": 2, "series": 2, "tagged": 1, "unchanged": 4}
        assert extract(node, rows, tree).totals()["present"] == 5


# Killed


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True], ids=["in place", "apart"])
def test_killed_at_any_moment_every_file_is_whole(tmp_path: Path, apart: bool) -> None:
    folder, out = tmp_path / "tree", tmp_path / "out"
    rows = [{"PatientID": "B2"}]
    with serving(
        [image for number in range(1, 13) for image in series("B2", series_number=number, n_images=30)],
        tmp_path / "pacs",
    ) as pacs:
        extract(node_of(pacs), rows, folder)
        pixels = {path.stem: dcmread(path).PixelData for path in folder.rglob("*.dcm")}
        link(PEOPLE)
        target = out if apart else folder
        command = ["-d", str(folder), "-a", ALBUM, "--project", "study", *(["-o", str(out)] if apart else [])]

        def tagged() -> int:
            """Return the number of tagged files; all files are whole."""
            count = 0
            for path in target.rglob("*.dcm"):
                if CONTROL not in path.parts:
                    image = dcmread(path)
                    assert image.PixelData == pixels[path.stem]
                    count += (GROUP, 0x1003) in image
            return count

        before = tagged()
        for after in (5, 31, 150, 401, 3):
            assert killed(lambda: main(command), after)
            now = tagged()
            assert now >= before
            before = now
        assert 0 < before < len(pixels)
        assert main(command) == 0
        assert tagged() == len(pixels) == 360
        assert not list(target.glob(f"{CONTROL}/incoming/*"))
        # Nothing is fetched again. If the kill came between ledger and rename, the file now matches its entry.
        found = extract(node_of(pacs), rows, folder).totals()
        assert (found["present"], found["received"], found["missing"]) == (360, 0, 0)
        assert tagged() == 360


def test_objects_of_unknown_patients_may_be_left_out(folder: Path, tmp_path: Path) -> None:
    link({"A-1": PEOPLE["A-1"]})
    with pytest.raises(InputError, match="1 of 2 patients have no pseudonym"):
        tagging(folder)
    account = tagging(folder, tmp_path / "out", leave_out=True)
    assert account.verdict == INCOMPLETE and {reason for _, reason in account.problems} == {karnak.NOT_LINKED}
    assert {str(dcmread(path).PatientID) for path in (tmp_path / "out").rglob("*.dcm")} == {"A-1"}
