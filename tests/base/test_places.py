"""What lies around a tree, and whose a folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import PathRefused, TreeError
from pacsifier_ops.base.places import refuse_reserved, refuse_unreleased, reserved
from pacsifier_ops.state.tree import CONVERTING, DEIDENTIFIED, IDENTIFIED, Tree, begin, refuse_around, refuse_mixed
from pacsifier_ops.study import steps
from pacsifier_ops.study.project import Study

STAMP = {"rules": "1"}


def tree(folder: Path, state: str) -> Path:
    folder.mkdir(parents=True)
    begin(folder, {"state": state}, "x")
    return folder


@pytest.mark.parametrize("state", [DEIDENTIFIED, CONVERTING])
@pytest.mark.parametrize("where", ["in/more", "in/a/b/c", "."])
def test_identified_data_begins_neither_in_nor_around_another_data_set(state: str, where: str, tmp_path: Path) -> None:
    tree(tmp_path / "in", state)
    with pytest.raises(TreeError, match=state):
        Tree.open(tmp_path / where)
    assert not (tmp_path / where / ".pacsifier" / "tree.json").exists()
    assert where == "." or not (tmp_path / where).exists()


@pytest.mark.parametrize("where", ["in/more", "in/a/b/c"])
def test_and_the_other_way_round(where: str, tmp_path: Path) -> None:
    tree(tmp_path / "in", IDENTIFIED)
    with pytest.raises(TreeError, match="lies in data that is identified"):
        Tree.convert(tmp_path / where, STAMP, in_place=False, run="r")
    with pytest.raises(TreeError, match="lies in data that is identified"):
        Tree.convert(tmp_path / where, STAMP, in_place=True, run="r")
    assert not (tmp_path / where).exists()


def test_a_part_of_an_identified_tree_is_no_problem_to_it(tmp_path: Path) -> None:
    root = tree(tmp_path / "in", IDENTIFIED)
    assert Tree.open(root / "more").root == root / "more"
    assert Tree.open(tmp_path / "apart").root == tmp_path / "apart"
    refuse_mixed([root, root / "more", tmp_path])


def test_a_tree_is_seen_through_links_and_stays_seen_from_below(tmp_path: Path) -> None:
    released = tree(tmp_path / "released", DEIDENTIFIED)
    (tmp_path / "link").symlink_to(released)
    with pytest.raises(TreeError, match="de-identified"):
        Tree.open(tmp_path / "link" / "more")
    with pytest.raises(TreeError, match="both"):
        refuse_mixed([tree(tmp_path / "identified", IDENTIFIED), released])


def test_a_tree_that_was_moved_into_another_one_is_refused_as_well(tmp_path: Path) -> None:
    inner = Tree.open(tmp_path / "inner").root
    inner.rename(tree(tmp_path / "released", DEIDENTIFIED) / "inner")
    with pytest.raises(TreeError, match="lies in data that is de-identified"):
        Tree.open(tmp_path / "released" / "inner")


def test_nothing_begins_in_a_file_set(tmp_path: Path) -> None:
    (tmp_path / "disc").mkdir()
    (tmp_path / "disc" / "DICOMDIR").touch()
    for state in (IDENTIFIED, DEIDENTIFIED):
        with pytest.raises(TreeError, match="file-set"):
            refuse_around(tmp_path / "disc" / "IMAGES", state, "x")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(root))
    return root


@pytest.mark.parametrize(
    "path, says",
    [
        (".", "is the data root"),
        (".spool", "lies in the spool"),
        (".spool/1.2.3", "lies in the spool"),
        ("requests", "query tables"),
        ("queries/a", "query tables"),
        ("nightly/inbox", "nightly runs"),
        ("studies", "only the studies"),
        ("studies/p", "only the studies"),
        ("studies/p/released/more", "only the studies"),
        ("a/../studies/p", "only the studies"),
        ("Studies/p/released", "only the studies"),
        (".SPOOL", "lies in the spool"),
        ("link/more", "only the studies"),
    ],
)
def test_a_folder_that_is_somebody_s_is_refused(path: str, says: str, data: Path) -> None:
    (data / "studies" / "p").mkdir(parents=True)
    (data / "link").symlink_to(data / "studies" / "p")
    with pytest.raises(PathRefused, match=f"^out_directory {says}|^out_directory lies in .*{says}"):
        refuse_reserved(data / path, "out_directory")


def test_every_other_folder_is_free_and_a_study_has_its_own(data: Path) -> None:
    for path in ("images", "study", "a/studies", "nightly2", "queries.d"):
        assert reserved(data / path) == ""
    assert reserved(data / "studies" / "p" / "identified", "studies/p") == ""
    assert reserved(data / "studies" / "q" / "identified", "studies/p")
    assert reserved(settings.state_root() / "runs")


def test_a_command_may_have_the_data_root_to_itself(data: Path) -> None:
    assert reserved(data, alone=True) == ""
    settings.nightly().mkdir()
    assert reserved(data, alone=True)


def test_what_a_study_has_not_released_is_its_own(data: Path) -> None:
    for path in ("images", "studies/p/released", "studies/p/released/sub-1"):
        assert refuse_unreleased(data / path, "upload_directory")
    for path in (".", "studies", "studies/p", "STUDIES/p/identified", "studies/p/released/../karnak"):
        with pytest.raises(PathRefused, match="has not released"):
            refuse_unreleased(data / path, "upload_directory")
    assert refuse_unreleased(data / "studies/p/karnak", "upload_directory", "studies/p")


def test_what_is_on_its_way_or_was_set_apart_is_nobody_s_to_send(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_STATE_ROOT", str(data / "more" / "state"))
    for path in (".spool", ".spool/.quarantine/1.2_1.3.0a", "more", "more/state", "more/state/runs/x/quarantine"):
        with pytest.raises(PathRefused, match="spool or the state root"):
            refuse_unreleased(data / path, "upload_directory")
    assert refuse_unreleased(data / "nightly" / "results", "upload_directory")


def test_a_study_that_lies_elsewhere_keeps_what_it_has_not_released_as_well(data: Path) -> None:
    study = Study(project="p", queryfile="t.csv", folder="knees/p")
    assert refuse_unreleased(data / "knees/p/de-identified", "upload_directory")  # before it has begun
    assert steps.other_running(study, "run", lambda run_id: False, "id") == ""
    for path in ("knees/p", "knees/p/de-identified", "knees/p/identified/sub-1", "knees/p/released/../karnak"):
        with pytest.raises(PathRefused, match="has not released"):
            refuse_unreleased(data / path, "upload_directory")
    for path in ("knees", "knees/q", "knees/p/released/sub-1"):
        assert refuse_unreleased(data / path, "upload_directory")
    assert refuse_unreleased(data / "knees/p/karnak", "upload_directory", "knees/p")
