"""Objects are as valid after the de-identification as they were before, by dicom3tools, on real files."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.deid import pixels, profile, reading, writing
from pacsifier_ops.deid.devices import Blackout
from pacsifier_ops.deid.engine import Engine
from pacsifier_ops.embedded.phantoms import phantom_series
from pacsifier_ops.pseudonyms.linkage import Person
from pacsifier_ops.pseudonyms.secret import Secret
from tests.support import deid_corpus
from tests.support.places import REPO

pytestmark = [pytest.mark.peers, pytest.mark.slow]

PROFILES = ("basic", "default", "research")
#: What dciodvfy finds afterwards that it did not find before, and that is as it should be: profile, attribute.
EXPLAINED = {
    # `basic` takes out optional references to source images, as E.1-1 says; the list of series that the object refers
    # to stays, which is only to be there if it refers to any. The other profiles keep both.
    ("basic", "ReferencedSeriesSequence"),
}


@pytest.fixture(scope="module")
def real() -> list[tuple[Path, reading.Parsed]]:
    """The files that can be read."""
    folder = Path(os.environ.get("PACSIFIER_REAL_FILES") or REPO.parent / "real")
    if not folder.is_dir():
        pytest.skip("no real files: PACSIFIER_REAL_FILES names no folder")
    if not all(map(shutil.which, ("dciodvfy", "dcentvfy"))):
        pytest.skip("needs dciodvfy and dcentvfy: install the package dicom3tools")
    return list(_readable(path for path in sorted(folder.rglob("*")) if path.suffix not in (".csv", ".md")))


def _readable(paths: Iterable[Path]) -> Iterator[tuple[Path, reading.Parsed]]:
    for path in paths:
        if path.is_file():
            try:
                yield path, reading.read(path)
            except Unfit:
                continue


@cache
def engine(name: str) -> Engine:
    return Engine(profile.compile(profile.load(name)), Secret(b"s" * 32))


def made(source: reading.Parsed, name: str) -> Dataset | None:
    """The de-identified object; None if it is refused."""
    pseudonym = "P" + hashlib.sha256(str(source.get("PatientID")).encode()).hexdigest()[:12].upper()
    try:
        return engine(name).deidentify(source, Person(pseudonym, -11)).dataset
    except Unfit:
        return None


def errors(program: str, *paths: Path) -> set[str]:
    """What a program calls an error, without values and names of files."""
    done = subprocess.run([program, *map(str, paths)], capture_output=True, check=False)
    lines = (done.stdout + done.stderr).decode("latin-1").splitlines()
    return {
        re.sub(r"= <[^<>]*>|<[^<>A-Za-z][^<>]*>|\b\d+(?:\.\d+){2,}|(?<=InstanceUID )\d+|/\S+", "", line)
        for line in lines
        if line.startswith("Error")
    }


def saved(dataset: Dataset, path: Path) -> Path:
    """Writes an object; a deflated one as it is underneath, since dicom3tools cannot inflate."""
    if dataset.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    writing.write(dataset, path)
    return path


def before(program: str, pairs: Iterable[tuple[Path, reading.Parsed]], folder: Path) -> set[str]:
    """What it calls an error of the objects as they were: of the files, and of them as we read them.

    There are files that we read and it does not.
    """
    paths, read = [], []
    for number, (path, source) in enumerate(pairs):
        paths.append(path)
        read.append(saved(source, folder / f"{number}_before.dcm"))
    return errors(program, *paths) | errors(program, *read)


def explained(name: str, error: str) -> bool:
    return any(name == of and f"<{attribute}>" in error for of, attribute in EXPLAINED)


@pytest.mark.parametrize("name", PROFILES)
def test_no_object_becomes_invalid(name: str, real: list[tuple[Path, reading.Parsed]], tmp_path: Path) -> None:
    new = {}
    for path, source in real:
        if (after := made(source, name)) is not None:
            found = errors("dciodvfy", saved(after, tmp_path / "one.dcm")) - before(
                "dciodvfy", [(path, source)], tmp_path
            )
            new[path.name] = {error for error in found if not explained(name, error)}
    assert len(new) > 200
    assert not {path: found for path, found in new.items() if found}


def test_no_object_becomes_invalid_by_being_blacked_out(
    real: list[tuple[Path, reading.Parsed]], tmp_path: Path
) -> None:
    new = {}
    for path, source in real:
        after = made(source, "default") if "PixelData" in source and source.BitsAllocated >= 8 else None
        if after is None or "SegmentSequence" in source:
            continue
        try:
            pixels.blackout(after, Blackout(entries=("some",), black=((0, 0, 4, 1),)))
        except Unfit:
            continue
        found = errors("dciodvfy", saved(after, tmp_path / "one.dcm"))
        new[path.name] = found - before("dciodvfy", [(path, source)], tmp_path)
    assert len(new) > 100
    assert not {path: found for path, found in new.items() if found}


@pytest.mark.parametrize("name", PROFILES)
def test_studies_are_no_less_consistent(name: str, real: list[tuple[Path, reading.Parsed]], tmp_path: Path) -> None:
    studies: dict[str, list[tuple[Path, reading.Parsed, Path]]] = defaultdict(list)
    for number, (path, source) in enumerate(real):
        if (after := made(source, name)) is not None:
            out = saved(after, tmp_path / f"{number}.dcm")
            studies[str(source.get("StudyInstanceUID"))].append((path, source, out))
    several = [objects for objects in studies.values() if len(objects) > 1]
    assert several
    for objects in several:
        found = errors("dcentvfy", *(out for *_, out in objects))
        found -= before("dcentvfy", [(path, source) for path, source, _ in objects], tmp_path)
        assert not found, objects[0][0].name


@pytest.mark.parametrize("name", [*PROFILES, "pacsifier"])
def test_an_animal_stays_a_valid_animal(name: str, tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy: install the package dicom3tools")
    registry, number = Dataset(), Dataset()
    registry.CodeValue, registry.CodingSchemeDesignator, registry.CodeMeaning = "109204", "DCM", "A registry"
    number.BreedRegistrationNumber, number.BreedRegistryCodeSequence = "B-4711", [registry]
    (animal,) = phantom_series(
        patient_id="4711234",
        patient_name="Rex^Doe",
        transfer_syntax=ExplicitVRLittleEndian,
        rows=8,
        columns=8,
        n_images=1,
        PatientSpeciesDescription="Dog",
        PatientBreedDescription="Beagle of Doe",
        PatientBreedCodeSequence=[],
        PatientSexNeutered="ALTERED",
        BreedRegistrationSequence=[number],
        ResponsiblePerson="Doe^Jane",
        ResponsiblePersonRole="OWNER",
        ResponsibleOrganization="Doe's kennel",
    )
    source, out = tmp_path / "source.dcm", tmp_path / "out.dcm"
    animal.save_as(source, enforce_file_format=True)
    after = made(reading.read(source), name)
    assert after is not None and after.BreedRegistrationSequence == [] and after.ResponsiblePerson == ""
    writing.write(after, out)
    assert not errors("dciodvfy", out) - errors("dciodvfy", source)
    assert not any(word in out.read_bytes() for word in (b"Doe", b"Beagle", b"B-4711"))


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One object of every kind."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy: install the package dicom3tools")
    sources = deid_corpus.build(tmp_path_factory.mktemp("kinds"), with_stuffed=False)
    return {one.kind: one.path for one in reversed(sources) if one.kind != "transfer syntaxes"}


@pytest.mark.parametrize("name", [*PROFILES, "pacsifier"])
def test_every_kind_stays_valid(name: str, kinds: dict[str, Path], tmp_path: Path) -> None:
    for kind, path in kinds.items():
        source = reading.read(path)
        after = made(source, name)
        assert after is not None, kind
        found = errors("dciodvfy", saved(after, tmp_path / "one.dcm"))
        assert not found - before("dciodvfy", [(path, source)], tmp_path), kind
