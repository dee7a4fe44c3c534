"""New terms are found in what is kept of a data set as in its files, and clean files are not read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pacsifier_ops.base.errors import StorageError
from pacsifier_ops.deid.identifiers import terms_of_cohort
from pacsifier_ops.deid.verifier import content_of
from pacsifier_ops.embedded.phantoms import phantom_series
from pacsifier_ops.state import facts
from pacsifier_ops.state.facts import forget_facts
from pacsifier_ops.state.tree import Tree
from pacsifier_ops.study import searched
from pacsifier_ops.study.gate import Gate, GateFindings
from pacsifier_ops.study.searched import Contents, Terms
from tests.support.kills import killed

NAME, UMLAUT, HAN = "Wurzelbacher^Kunigunde", "Größmüller^Änne", "山田^太郎"
ID, DIGITS, UID = "ZQX-71830-KW", "71830555", "1.2.826.0.1.3680043.8.498.4711.1"
BORN = "19370419"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of two series of two objects each, and a table; files count as settled at once."""
    monkeypatch.setattr(facts, "_GRANULARITY", -(10**12))
    folder = tmp_path / "set"
    Tree.open(folder)
    for number in (1, 2):
        (folder / f"sub-{number}" / "a").mkdir(parents=True)
        for place, image in enumerate(clean(series_number=number, n_images=2)):
            image.save_as(folder / f"sub-{number}" / "a" / f"{place}.dcm", enforce_file_format=True)
    (folder / "manifest.csv").write_text("Folder,SOPInstanceUID\n")
    return folder


def clean(**attributes: Any) -> list[Any]:
    return phantom_series(**{"patient_id": "P1", "patient_name": "P1", "rows": 4, "columns": 4, **attributes})


def gate(
    *more: tuple[list[str], list[str]], uids: tuple[str, ...] = (), dates: dict[str, list[str]] | None = None
) -> Gate:
    """A gate for a patient of the first night, and for more people."""
    return Gate([(["Erstmann^Ottokar"], ["QQ-10001-X"]), *more], uids, ["P1"], dates or {})


def search(of: Gate, root: Path) -> GateFindings:
    files = [*root.rglob("*.dcm"), root / "manifest.csv"]
    return of.search(root, sorted(path.relative_to(root).as_posix() for path in files))


def _attribute(keyword: str, value: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (image,) = clean(n_images=1, **{keyword: value})
        image.save_as(path, enforce_file_format=True)

    return change


def _private(value: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        (image,) = clean(n_images=1)
        image.private_block(0x0019, "MAKER", create=True).add_new(0x01, "OB", b"\x01\x02" + value + b"\x00")
        image.save_as(path, enforce_file_format=True)

    return change


def _preamble(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(b"\0\1" + b"wurzelbacher".ljust(126, b"\0") + data[128:])


def _name(path: Path) -> None:
    path.rename(path.with_name(f"{ID}.dcm"))


def _date_in_name(path: Path) -> None:
    path.rename(path.with_name(f"{BORN}101112.dcm"))


NEW = gate(([NAME, UMLAUT, HAN], [ID, DIGITS]), uids=(UID,), dates={"sub-2": [BORN]})


@pytest.mark.parametrize(
    "change",
    [
        _attribute("ImageComments", "Kunigunde WURZELBACHER"),
        _attribute("ImageComments", "Frau Groessmueller"),
        _attribute("SeriesDescription", "太郎"),
        _attribute("StudyID", ID),
        _attribute("PatientComments", f"see {ID.lower()}"),
        _attribute("AcquisitionNumber", DIGITS),
        _attribute("IrradiationEventUID", UID),
        _attribute("DeviceSerialNumber", DIGITS),
        _private(UID.encode()),
        _private("Wurzelbacher".encode("utf-16-le")),
        _private(DIGITS.encode()),
        _preamble,
        _name,
        _date_in_name,
    ],
)
def test_new_terms_are_found_where_they_are(root: Path, change: Callable[[Path], None]) -> None:
    change(root / "sub-2" / "a" / "1.dcm")
    first = search(gate(), root)
    assert (first.read, first.counts.total()) == (5, 0)
    second = search(NEW, root)
    forget_facts(root)
    anew = search(NEW, root)
    assert second.counts.total() and (second.counts, second.blocking) == (anew.counts, anew.blocking)
    assert second.waivable == anew.waivable
    # The other series, which is clean of the new terms, was not read.
    assert (second.read, anew.read) == (3, 5)


def test_what_is_clean_of_new_terms_is_not_read(root: Path) -> None:
    search(gate(), root)
    assert [search(one, root).read for one in (NEW, NEW, gate(), NEW)] == [1, 0, 1, 1]
    # Each time, what is new is read as well.
    _attribute("StudyID", ID)(root / "sub-1" / "a" / "2.dcm")
    third = search(gate(([NAME], [])), root)
    assert (third.read, third.counts.total()) == (2, 0)
    assert search(NEW, root).counts["blocking"]


def test_a_file_that_was_changed_is_searched_as_it_is_now(root: Path) -> None:
    search(gate(), root)
    path = root / "sub-2" / "a" / "1.dcm"
    before = path.stat()
    _attribute("StudyID", ID)(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert search(gate(([NAME], [])), root).counts.total() == 0
    assert search(NEW, root).counts["blocking"]
    _attribute("StudyID", "1")(path)
    found = search(NEW, root)
    assert (found.read, found.counts.total()) == (1, 0)


def test_findings_that_are_none_any_more_are_no_findings(root: Path) -> None:
    _attribute("StudyID", ID)(root / "sub-2" / "a" / "1.dcm")
    assert search(NEW, root).counts["blocking"]
    found = search(gate(), root)
    assert (found.read, found.counts.total()) == (2, 0)  # the object with the finding, and the table


def test_an_object_with_much_of_its_own_is_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searched, "MOST", 2000)
    _private(bytes(range(256)) * 8)(root / "sub-1" / "a" / "1.dcm")
    search(gate(), root)
    assert search(NEW, root).read == 2


def test_what_is_kept_of_a_folder_has_a_limit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searched, "WHOLE", 2000)
    search(gate(), root)
    assert search(NEW, root).read > 1


def _no_terms(home: Path) -> None:
    (home / "terms.json").unlink()


def _damaged_terms(home: Path) -> None:
    (home / "terms.json").write_text("{")


def _no_contents(home: Path) -> None:
    for path in home.glob("*.z"):
        path.unlink()


def _damaged_contents(home: Path) -> None:
    for path in home.glob("*.z"):
        path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("loss", [_no_terms, _damaged_terms, _no_contents, _damaged_contents])
def test_where_something_is_lost_all_is_read(root: Path, loss: Callable[[Path], None]) -> None:
    search(gate(), root)
    loss(facts.facts_folder(root) / "contents")
    assert [search(NEW, root).read for _ in range(2)] == [5, 0]


def test_of_a_folder_that_is_no_tree_nothing_is_kept(root: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(root, plain, ignore=shutil.ignore_patterns(".pacsifier"))
    assert [search(gate(), plain).read for _ in range(2)] == [5, 5]
    assert not facts.facts_folder(plain).exists()


def test_a_search_that_ends_early_need_not_begin_anew(root: Path) -> None:
    search(gate(), root)
    files = [f"sub-{number}/a/{place}.dcm" for number in (1, 2) for place in (0, 1)]
    with pytest.raises(StorageError):
        NEW.search(root, [*files, "missing.dcm"])
    assert search(NEW, root).read == 1


def test_killed_anywhere_and_searched_again_it_finds_the_same(root: Path) -> None:
    _attribute("StudyID", ID)(root / "sub-2" / "a" / "1.dcm")
    expected, after = search(NEW, root).blocking, 0
    while True:
        forget_facts(root)
        search(gate(), root)
        was_killed = killed(lambda: search(NEW, root), after)
        assert [search(NEW, root).blocking for _ in range(2)] == [expected] * 2
        if not was_killed:
            break
        after += 1
    assert after > 5


WORDS = st.sampled_from(
    [
        "kunigunde",
        "Wurzelbacher",
        "Größmüller",
        "aenne",
        "太郎",
        "山",
        "Eva",
        "Li",
        "12345",
        "712830",
        "1.2.826.0.1.4711.12345",
    ]
)
TEXT = st.lists(st.tuples(WORDS, st.sampled_from([" ", "^", "\\", "=", "", "-", "\0", "_"])), max_size=4).map(
    lambda parts: "".join(word + end for word, end in parts)
)


@given(st.lists(st.lists(TEXT, max_size=4), min_size=1, max_size=4), TEXT, TEXT, TEXT)
def test_what_is_found_in_one_of_several_contents_is_found_in_all_of_them(
    files: list[list[str]], name: str, other: str, identifier: str
) -> None:
    terms = Terms(*terms_of_cohort([([name, other], [identifier])], frozenset()), frozenset({"1.2.826.0.1.4711.12345"}))
    contents = Contents(Path("nowhere"), "")
    found = []
    for number, texts in enumerate(files):
        content = content_of(texts)
        content.named = [(0, 0x00100010, text.encode() if text.isascii() else text) for text in texts]
        content.numbers = [(0x00200013, text.encode()) for text in texts if text.isdigit()]
        content.uids = [(0x00080018, text.encode()) for text in texts if text.isascii()]
        content.binary = [(0x00190001, text.encode("utf-16-le")) for text in texts]
        contents.add(str(number), [number], content)
        found.append(terms.findings(content))
    whole = terms.findings(contents.whole())
    for kind in whole:
        assert set(whole[kind]) == {one for each in found for one in each[kind]}
    # The same with the terms that are new beside some that are known.
    known = Terms(*terms_of_cohort([([name], [])], frozenset()), frozenset())
    new, before = terms.without(known.hashes()), known.findings(contents.whole())
    joined = {kind: {*before[kind], *new.findings(contents.whole())[kind]} for kind in whole}
    assert {kind: set(whole[kind]) for kind in whole} == joined
