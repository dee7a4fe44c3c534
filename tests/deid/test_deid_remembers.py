"""What the engine, the rules on what goes out, and the final check remember changes no result."""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from pacsifier_ops.base.files import read_jsonl, unpacked
from pacsifier_ops.deid import identifiers, steps
from pacsifier_ops.deid.convert import Converter
from pacsifier_ops.deid.policy import Policy
from pacsifier_ops.deid.run import DeidRequest, SourceSeries
from pacsifier_ops.runs.folder import Run
from tests.support import physics
from tests.support.deid_devices import PROFILES
from tests.support.deid_world import world, write
from tests.support.realfiles_run import real_files

pytestmark = pytest.mark.slow

#: Objects with some elements of another object, so that equal elements stand beside different ones.
HYBRIDS = 300
_STAY = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "PixelData")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adversarial objects, hybrids of them, series of devices, and real files where there are any."""
    folder = tmp_path_factory.mktemp("corpus") / "in"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with the objects is meant
        write(world(), folder)
        for number, image in enumerate((*physics.siemens(), *physics.ge(), *physics.philips())):
            _save(image, folder / "series" / f"{number}.dcm")
        if real := real_files():
            shutil.copytree(real, folder / "real")
        for number, hybrid in enumerate(_hybrids(sorted(folder.rglob("*.dcm")))):
            _save(hybrid, folder / "hybrids" / f"{number}.dcm")
    return folder


def _save(ds: Dataset, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with suppress(Exception):  # pydicom does not write everything that it reads
        ds.save_as(path, enforce_file_format=True)


def _hybrids(paths: list[Path]) -> Iterator[Dataset]:
    chance = random.Random(20)
    known = []
    for path in paths:
        with suppress(Exception):
            ds = dcmread(path)
            if ds.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian and path.stat().st_size < 1 << 16:
                known.append(ds)
    for _ in range(HYBRIDS):
        one, other = chance.sample(known, 2)
        made = dcmread(one.filename)
        stay = {made[keyword].tag for keyword in _STAY if keyword in made}
        taken = [tag for tag in other.keys() if tag not in stay]  # noqa: SIM118 (iterating would decode)
        for tag in chance.sample(taken, min(len(taken), chance.choice((3, 20, 200)))):
            made[tag] = other.get_item(tag)
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        yield made


@pytest.mark.parametrize("profile", [*PROFILES, "pacsifier+device", "default+clean_structured_content+clean_graphics"])
def test_what_is_remembered_changes_nothing(profile: str, corpus: Path, tmp_path: Path) -> None:
    """Files, accounts and reasons are the same, in any order, with several patients interleaved."""
    run = Run.fresh()
    request = DeidRequest(corpus, tmp_path / "out", profile=profile, identity="study")
    units = steps.prepare(run, request)
    objects = [
        (source, corpus / unpacked(line[0]), line[3])
        for unit in units
        for source in (SourceSeries(**one) for one in read_jsonl(run.part("units", unit)))
        for line in source.files
    ]
    assert len(objects) > HYBRIDS
    how = Policy.of(request)
    remembering, forgetting = (Converter(how, tmp_path, run.note, remembers=yes) for yes in (True, False))
    order = objects * 2
    random.Random(profile).shuffle(order)
    expected: dict[str, Any] = {}
    for source, path, uid in objects:
        for cached in (identifiers._identifiers, identifiers._uids_in, identifiers._terms_of):
            cached.cache_clear()
        expected[uid + str(path)] = _outcome(forgetting, path, source, uid)
    for source, path, uid in order:
        assert _outcome(remembering, path, source, uid) == expected[uid + str(path)], path


def _outcome(converter: Converter, path: Path, source: SourceSeries, uid: str) -> tuple[Any, ...]:
    """All that becomes of an object, apart from the name of its unfinished file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = converter.convert(path, source, uid)
    if made.path != Path():
        made.path.unlink()
        made.path = Path()
    return astuple(made)
