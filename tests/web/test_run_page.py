"""What the page of a run says of its end, and of the places of its images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import airflow_home

pytestmark = pytest.mark.airflow


@pytest.fixture(autouse=True)
def _airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


def test_a_run_that_only_counted_does_not_say_that_all_is_there() -> None:
    from pacsifier_ops.web import pages, views

    for action, told in (("none", "The series were listed; none was to be fetched."), ("save", "is there")):
        summary: dict[str, Any] = {"verdict": "complete", "action": action, "series": {"listed": 1}}
        box = pages._verdict(views.RunView("d", "r", "success", summary=summary))
        assert box is not None and told in " ".join(box.sentences)


@pytest.mark.parametrize(("convert", "shown"), [("bids", True), ("", False)])
def test_the_place_of_converted_images_is_shown(
    convert: str, shown: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pacsifier_ops.web import views

    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(tmp_path))
    (tmp_path / "studies" / "knee" / "nifti").mkdir(parents=True)
    study = SimpleNamespace(root="studies/knee", convert=convert)
    monkeypatch.setattr(views.Study, "of", lambda run: study)
    places = views._places(None)  # type: ignore[arg-type]
    assert places == ({"NIfTI images": str(tmp_path / "studies" / "knee" / "nifti")} if shown else {})
