"""Only whole series become images, of what is there now, and none takes the place of another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from pacsifier_ops.base.errors import TreeError
from pacsifier_ops.convert import series as one_series
from pacsifier_ops.convert import steps
from pacsifier_ops.convert.request import ConvertRequest
from pacsifier_ops.convert.store import SeriesRecord, Store, write_record
from pacsifier_ops.embedded.phantoms import uid
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.approved import approved_of
from pacsifier_ops.state.tree import Tree, state_folder
from pacsifier_ops.study.cohort import search_of
from tests.support import scans
from tests.support.scans import converted, deidentified, names


def _garbage(path: Path) -> None:
    path.write_bytes(b"no object any more")


def _other_series(path: Path) -> None:
    image = dcmread(path)
    image.SeriesInstanceUID = uid("another series")
    image.save_as(path)


@pytest.mark.parametrize("change", [_garbage, _other_series])
def test_a_series_of_which_an_object_was_changed_before_the_run_is_not_converted_in_part(
    change: Callable[[Path], None], tmp_path: Path
) -> None:
    source, out = deidentified([*scans.ct(), *scans.t1w()], tmp_path), tmp_path / "nii"
    change(sorted(next(source.rglob("00001-*")).glob("*.dcm"))[3])
    _, account = converted(source, out)
    assert account.verdict == INCOMPLETE
    assert [name for name in names(out) if "00001-" in name] == []


def test_a_run_that_has_looked_before_another_publishes_nothing_old(tmp_path: Path) -> None:
    source, out = deidentified(scans.ct(), tmp_path), tmp_path / "nii"
    run = Run.fresh()
    for unit in steps.prepare(run, ConvertRequest(source, out)):
        steps.convert(run, unit)
    deidentified(scans.t1w(), tmp_path)
    converted(source, out)
    before = names(out)
    with pytest.raises(TreeError, match="run it again"):
        steps.assemble(run, search_of(run, source))
    assert names(out) == before
    assert steps.report(run).verdict == INCOMPLETE


@pytest.mark.parametrize("whole", [True, False])
def test_what_another_run_has_converted_meanwhile_is_as_good(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = deidentified(scans.ct(), tmp_path), tmp_path / "nii"
    keep = one_series._keep

    def late(record: SeriesRecord, kept: Path, store: Store) -> None:
        shutil.copytree(kept, place := store.place(record.key, record.digest))
        write_record(place, record)
        if not whole:
            next(place.glob("*.nii.gz")).unlink()
        keep(record, kept, store)

    monkeypatch.setattr(one_series, "_keep", late)
    _, account = converted(source, out)
    assert account.verdict == COMPLETE and len(names(out)) == 2


@pytest.mark.parametrize("gone", [True, False])
def test_what_users_take_away_is_no_hole_unless_it_was_released(
    gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = deidentified(scans.ct(), tmp_path), tmp_path / "nii"
    approved = approved_of(source)
    assert approved is not None
    monkeypatch.setattr(steps, "approved_of", lambda folder: replace(approved, released=gone))
    sorted(source.rglob("*.dcm"))[3].unlink()
    _, account = converted(source, out)
    assert account.counts["series failed"] == gone and len(list(out.rglob("*.nii.gz"))) == (not gone)


def test_series_that_change_their_names_do_not_take_images_of_each_other(tmp_path: Path) -> None:
    """What one had may be the name of another now."""
    source, out = deidentified([*scans.t1w(1), *scans.ct(2)], tmp_path), tmp_path / "nii"
    converted(source, out)
    store = Store(Tree(out, state_folder(out)))
    one, other = sorted(store.records(), key=lambda record: record.images[0].path)
    # The other one has another content, and the name that the first had goes to it.
    labels, paths = store.names()
    paths.given = {}
    store.keep_names(labels, paths)
    for record, path in ((one, other.images[0].path), (other, one.images[0].path)):
        record.digest, record.images[0].path = "another", path
        store.keep(record)
    _, account = converted(source, out)
    assert account.verdict == COMPLETE
    assert approved_of(out).files.keys() == set(names(out)) and len(names(out)) == 4  # type: ignore[union-attr]
