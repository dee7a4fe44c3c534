"""A study whose released data set goes to an object store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.runs.folder import stage_run
from pacsifier_ops.study import removal, steps
from pacsifier_ops.study.project import LIST
from pacsifier_ops.study.run import UPLOAD
from pacsifier_ops.upload.filestore import MANIFEST
from tests.support.embedded import node_of, series, serving
from tests.support.store_peers import S3, running
from tests.support.stores import s3_node
from tests.support.study import StudyRun

pytestmark = pytest.mark.archive

DAY = "20200301"


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[EmbeddedPacs]:
    images = [
        *series("80082", "Wurzelbacher^Kunigunde", n_images=3, study_date=DAY),
        *series("12012", "Schnuerpel^Zebedaeus", n_images=2, series_number=2, study_date=DAY),
    ]
    with serving(images, tmp_path / "images") as found:
        yield found


def test_a_released_data_set_lies_in_the_store_as_it_was_approved(
    pacs: EmbeddedPacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    monkeypatch.setenv("PACSIFIER_DATA_ROOT", str(data))
    with running(S3()) as store:
        node = s3_node(store, "trial", "knee")
        rows = [{"PatientID": "80082"}, {"PatientID": "12012"}]
        given = {"upload": "trial", "remove_identified": LIST}
        night = StudyRun(node_of(pacs), data, rows, given)
        night.make()
        night.release()
        night.upload(node)
        night.remove(node)
        account = steps.report(night.run)
        assert account.verdict == COMPLETE
        assert removal.Listing.of(night.run).files == 5, "the store has confirmed them, so the identified may go"
        there = store.contents()
        released = night.folder("released")
        manifest = [json.loads(line) for line in there.pop(f"knee/{MANIFEST}").splitlines()]
        objects = {path.relative_to(released).as_posix(): path.read_bytes() for path in released.rglob("*.dcm")}
        assert {name.removeprefix("knee/"): content for name, content in there.items()} == objects
        assert {line["path"]: line["sha256"] for line in manifest} == {
            name: hashlib.sha256(content).hexdigest() for name, content in objects.items()
        }
        names = " ".join(there)
        assert not any(text in names for text in ("80082", "12012", "Wurzelbacher", DAY))

        again = StudyRun(node_of(pacs), data, rows, given)
        again.make()
        again.release()
        again.upload(node)
        assert steps.report(again.run).verdict == COMPLETE
        sent = json.loads((stage_run(again.run, UPLOAD).folder / "accounts.json").read_text())
        assert sent["totals"]["present"] == 5 and sent["totals"]["received"] == 0
