"""Info dumps moved out of a data folder: never over another file, never lost, beside PACSIFIER's, and killed."""

from __future__ import annotations

import csv
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacsifier_ops.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.cli.move_dumps import main
from pacsifier_ops.errors import InputError, PacsifierError, TreeError
from pacsifier_ops.handover import dumps
from pacsifier_ops.handover.account import ToolAccount
from pacsifier_ops.run import Run
from pacsifier_ops.tree import CONTROL, CONVERTING, DEIDENTIFIED, write_marker
from tests import old_pacsifier
from tests.embedded import extract, node_of, series, serving


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree made by our extract: two patients, a study without a date."""
    folder = tmp_path_factory.mktemp("extracted")
    images = [*series("A-1"), *series("A-1", series_number=2), *series("B2"), *series("C", study_date="")]
    with pytest.MonkeyPatch.context() as patch, serving(images, folder / "pacs") as pacs:
        patch.setenv("PACSIFIER_STATE_ROOT", str(folder / "state"))
        extract(node_of(pacs), [{"PatientID": name} for name in ("A-1", "B2", "C")], folder / "tree", info=True)
    return folder / "tree"


@pytest.fixture
def tree(extracted: Path, tmp_path: Path) -> Path:
    """A copy of it, as anonymization of PACSIFIER left its own."""
    folder = tmp_path / "tree"
    shutil.copytree(extracted, folder)
    (folder / "mapper.json").write_text('{"P1": "A-1"}')
    (folder / "date_offsets.csv").write_text("P1,-3\n")
    return folder


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder on another file system."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("there is no second file system to be written to")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder) / "info"


def moving(data: Path, info: Path, most: int = 2) -> ToolAccount:
    """A whole run; returns its account."""
    run = Run.fresh()
    for unit in dumps.prepare(run, dumps.DumpsRequest(data, info), most):
        dumps.move(run, unit)
    return dumps.report(run)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and CONTROL not in path.parts and path.name != dumps.LISTING
    }


def identifying(folder: Path) -> dict[str, bytes]:
    """What is to be moved."""
    names = ("mapper.json", "date_offsets.csv")
    every = contents(folder).items()
    return {name: data for name, data in every if name in names or (name.startswith("sub-") and name.endswith(".csv"))}


@pytest.mark.parametrize("apart", [False, True])
def test_dumps_of_all_levels_move_and_what_is_left_is_told(
    tree: Path, tmp_path: Path, apart: bool, request: pytest.FixtureRequest
) -> None:
    info = request.getfixturevalue("elsewhere") if apart else tmp_path / "info"
    wanted, before = identifying(tree), contents(tree)
    assert len(wanted) == 6 and any(name.count("/") == 1 for name in wanted), "one of a study without a date"
    account = moving(tree, info)
    assert contents(info) == wanted and contents(tree) == {k: v for k, v in before.items() if k not in wanted}
    assert (account.verdict, account.counts["moved"]) == (COMPLETE, 6)
    left = [path for path, remark in account.done if "left" in remark]
    assert left == [name for name in sorted(contents(tree)) if not name.endswith(".dcm")] and account.counts["left"]
    with (info / dumps.LISTING).open(newline="") as stream:
        assert {line["File"] for line in csv.DictReader(stream)} == set(wanted)
    assert info.stat().st_mode & 0o077 == 0

    shutil.rmtree(tree / "logs")
    again = moving(tree, info)
    assert (again.counts["moved"], again.counts["left"], contents(info)) == (0, 0, wanted)


def test_another_file_at_the_new_place_stays_and_so_does_the_old_one(tree: Path, tmp_path: Path) -> None:
    info = tmp_path / "info"
    same, other, *_ = sorted(name for name in identifying(tree) if name.startswith("sub-"))
    for name, text in ((same, (tree / same).read_bytes()), (other, b"something else\n")):
        (info / name).parent.mkdir(parents=True, exist_ok=True)
        (info / name).write_bytes(text)
    kept = (tree / other).read_bytes()
    account = moving(tree, info)
    assert account.verdict == INCOMPLETE and [path for path, _ in account.problems] == [other]
    assert (tree / other).read_bytes() == kept and (info / other).read_bytes() == b"something else\n"
    assert not (tree / same).exists() and account.counts["already there"] == 1


def test_links_are_not_followed_and_other_tables_stay(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.csv").write_text("somebody else's")
    (tree / "sub-linked").symlink_to(tmp_path / "outside")
    (tree / "sub-A_1" / "link.csv").symlink_to(tmp_path / "outside" / "x.csv")
    (tree / "manifest.csv").write_text("ours")
    account = moving(tree, tmp_path / "info")
    left = {path for path, remark in account.done if "left" in remark}
    assert {"sub-linked", "sub-A_1/link.csv", "manifest.csv"} <= left
    assert (tmp_path / "outside" / "x.csv").exists() and (tree / "manifest.csv").exists()


def test_what_cannot_be_right_is_refused_before_anything_moves(tree: Path, tmp_path: Path) -> None:
    before = contents(tree)
    for info, kind in ((tree / "info", InputError), (tree, InputError), (tree.parent, InputError)):
        with pytest.raises(kind, match="lie one within the other"):
            moving(tree, info)
    (tmp_path / "other" / CONTROL).mkdir(parents=True)
    write_marker(tmp_path / "other", {"state": DEIDENTIFIED})
    with pytest.raises(TreeError, match="info_folder is part of a data set"):
        moving(tree, tmp_path / "other" / "info")
    with pytest.raises(InputError, match="is not a folder"):
        moving(tmp_path / "nowhere", tmp_path / "info")
    write_marker(tree, {"state": CONVERTING})
    with pytest.raises(PacsifierError, match="half de-identified"):
        moving(tree, tmp_path / "info")
    assert contents(tree) == before


def test_the_same_files_as_pacsifier_moves(tree: Path, tmp_path: Path) -> None:
    program, theirs, ours = old_pacsifier.installed() / "pacsifier-move-csv", tmp_path / "theirs", tmp_path / "ours"
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy)
    theirs.mkdir()
    subprocess.run([program, "-d", copy, "-o", theirs], check=True, capture_output=True)
    assert main(["-d", str(tree), "-o", str(ours)]) == 0
    found = contents(theirs)
    assert found and found.items() <= contents(ours).items()
    # What it leaves: dumps of studies without a date, which lie a level higher, and the shifts of dates.
    more = contents(ours).keys() - found.keys()
    assert {name for name in more if name.count("/") != 1} <= {"date_offsets.csv"} and len(more) == 2


@pytest.mark.parametrize("apart", [False, True])
def test_killed_at_any_moment_nothing_is_lost(tmp_path: Path, apart: bool, request: pytest.FixtureRequest) -> None:
    info = request.getfixturevalue("elsewhere") if apart else tmp_path / "info"
    tree = tmp_path / "tree"
    for number in range(2000):
        path = tree / f"sub-{number % 40:02d}" / "ses-20200101" / f"{number:05d}-CT.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d;" % number * 200)
    wanted = contents(tree)
    command = [sys.executable, "-m", "pacsifier_ops.cli.move_dumps", "-d", str(tree), "-o", str(info)]
    killed, seed = 0, random.Random(11)
    while killed < 4 and contents(tree):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            begun, until = len(contents(tree)), time.monotonic() + 60
            while process.poll() is None and sum(len(files) for *_, files in os.walk(tree)) == begun:
                assert time.monotonic() < until
            time.sleep(seed.random() / 50)
            process.kill()
        killed += process.returncode < 0
        here, there = (
            contents(tree),
            {name: data for name, data in contents(info).items() if not name.endswith(".part")},
        )
        assert here.items() <= wanted.items() and there.items() <= wanted.items()
        assert here.keys() | there.keys() == wanted.keys()
    assert killed
    assert main(command[3:]) == 0
    assert {n: d for n, d in contents(info).items() if not n.endswith(".part")} == wanted and not contents(tree)
