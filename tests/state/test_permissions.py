"""Who may read what: identified data, and all that tells who is who, by nobody else; released data by a setting."""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path

import pytest

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.base.files import data_file, data_folder, private_folder, write_atomic
from pacsifier_ops.deid import steps as deid
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.handover import dicomdir, reports
from pacsifier_ops.handover.dicomdir import DicomdirRequest
from pacsifier_ops.handover.reports import ReportsRequest
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.tree import Tree
from pacsifier_ops.upload import steps as upload
from pacsifier_ops.upload.run import UploadRequest
from tests.support.embedded import extract, node_of, series, serving
from tests.support.study import StudyRun

GROUP = next(entry.gr_name for entry in grp.getgrall() if entry.gr_gid in {os.getegid(), *os.getgroups()})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to(root: Path, bits: int) -> list[str]:
    """What in a folder, itself included, somebody else may read, write or enter."""
    return [str(path.relative_to(root)) for path in (root, *root.rglob("*")) if mode(path) & bits]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyRun:
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path / "data"))
    with serving(series("ZQX-71830-KW", "Wurzelbacher^Kunigunde", n_images=2), tmp_path / "archive") as pacs:
        given = {"source": "local", "upload": "research", "karnak": "gateway", "album_name": "Album"}
        study = StudyRun(node_of(pacs), tmp_path / "data", [{"PatientID": "ZQX-71830-KW"}], given)
        study.make()
        study.release()
        with EmbeddedPacs() as there:
            study.upload(node_of(there))
            study.tag_and_send(node_of(there))
    return study


def test_what_identifies_is_the_owner_s_alone_and_what_is_released_is_everybody_s(study: StudyRun) -> None:
    for folder in (*(study.folder(name) for name in ("identified", "info", "karnak", "logs")), settings.state_root()):
        assert folder.is_dir() and open_to(folder, 0o077) == [], folder
    released = [path for path in study.folder("released").rglob("*") if ".pacsifier" not in path.parts]
    for path in (study.folder("released"), *released):
        assert path.is_dir() or mode(path) == data_file() & ~0o222, path
        assert mode(path) & 0o444 == data_file() & 0o444, path


def test_a_group_may_read_what_identifies_where_the_setting_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACSIFIER_GROUP", GROUP)
    monkeypatch.setenv("PACSIFIER_STATE_ROOT", str(tmp_path / "state"))
    before = os.umask(0o077)
    try:
        with serving(series("A"), tmp_path / "archive") as pacs:
            extract(node_of(pacs), [{"PatientID": "A"}], tmp_path / "out", info=True)
    finally:
        os.umask(before)
    wanted = grp.getgrnam(GROUP).gr_gid
    for path in (tmp_path / "out", *(tmp_path / "out").glob("sub-*/**/*"), *(tmp_path / "state" / "runs").rglob("*")):
        if path.name == "table.csv":
            continue  # the test's own
        assert mode(path) == (0o2750 if path.is_dir() else 0o640), path
        assert path.stat().st_gid == wanted


def test_a_folder_that_was_there_is_closed_when_identified_data_begins_in_it(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o755)
    Tree.open(tmp_path / "out")
    assert mode(tmp_path / "out") == 0o700
    (tmp_path / "out").chmod(0o750)  # somebody's own decision
    Tree.open(tmp_path / "out")
    assert mode(tmp_path / "out") == 0o750


def test_released_data_is_as_the_setting_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_RELEASED_MODE", "0640")
    with serving(series("A"), tmp_path / "archive") as pacs:
        extract(node_of(pacs), [{"PatientID": "A"}], tmp_path / "in")
    run = Run.fresh()
    for unit in deid.prepare(run, DeidRequest(tmp_path / "in", tmp_path / "out", "default", contact_sheets=False)):
        deid.convert(run, unit)
    deid.report(run)
    for path in (tmp_path / "out", *(tmp_path / "out").glob("sub-*/**/*"), *(tmp_path / "out").glob("manifest.*")):
        assert mode(path) == (0o750 if path.is_dir() else 0o640), path


@pytest.mark.parametrize("made_of", ["in", "out"])
def test_a_file_set_and_texts_are_as_identified_as_what_they_are_made_of(made_of: str, tmp_path: Path) -> None:
    with serving(series("A"), tmp_path / "archive") as pacs:
        extract(node_of(pacs), [{"PatientID": "A"}], tmp_path / "in")
    run = Run.fresh()
    for unit in deid.prepare(run, DeidRequest(tmp_path / "in", tmp_path / "out", "default", contact_sheets=False)):
        deid.convert(run, unit)
    deid.report(run)
    run = Run.fresh()
    for unit in dicomdir.prepare(run, DicomdirRequest(tmp_path / made_of, tmp_path / "disc", zip=True)):
        dicomdir.copy(run, unit)
    dicomdir.assemble(run)
    run = Run.fresh()
    for unit in reports.prepare(run, ReportsRequest(tmp_path / made_of, tmp_path / "texts")):
        reports.extract(run, unit)
    reports.report(run)
    for path in (tmp_path / "disc.zip", *(tmp_path / "disc").rglob("*"), *(tmp_path / "texts" / "logs").rglob("*")):
        assert bool(mode(path) & 0o077) is (made_of == "out"), path


def test_the_log_of_an_upload_is_private(tmp_path: Path) -> None:
    with serving(series("A"), tmp_path / "archive") as pacs, EmbeddedPacs() as there:
        extract(node_of(pacs), [{"PatientID": "A"}], tmp_path / "in")
        run, to = Run.fresh(), node_of(there)
        for unit in upload.prepare(run, UploadRequest(tmp_path / "in", tmp_path / "logs"), to):
            upload.send(run, to, unit)
        upload.report(run)
    assert open_to(tmp_path / "logs" / "logs", 0o077) == []


def test_settings_that_are_none_are_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACSIFIER_GROUP", "no-such-group")
    with pytest.raises(ConfigError, match="PACSIFIER_GROUP names no group"):
        private_folder(tmp_path / "a")
    with pytest.raises(ConfigError, match="PACSIFIER_GROUP names no group"):
        write_atomic(tmp_path / "b", "")
    for wrong in ("rw", "0755", "0040", "99999"):
        monkeypatch.setenv("PACSIFIER_RELEASED_MODE", wrong)
        with pytest.raises(ConfigError, match="PACSIFIER_RELEASED_MODE is no mode"):
            data_file()
    monkeypatch.setenv("PACSIFIER_RELEASED_MODE", "644")
    assert mode(data_folder(tmp_path / "c" / "d").parent) == 0o755
