"""What the engine, the rules on what goes out, and the final check remember changes no result."""

from __future__ import annotations

import os
import random
import shutil
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import astuple, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.base.files import read_jsonl, unpacked
from pacsifier_ops.deid import identifiers, reading, steps, technique, writing
from pacsifier_ops.deid import profile as profiles
from pacsifier_ops.deid.convert import Converter
from pacsifier_ops.deid.engine import Engine
from pacsifier_ops.deid.identifiers import FoundIdentifier
from pacsifier_ops.deid.numbers import Calendar
from pacsifier_ops.deid.policy import Policy
from pacsifier_ops.deid.run import DeidRequest, SourceSeries
from pacsifier_ops.deid.verifier import Identifiers, Searched, search
from pacsifier_ops.embedded.phantoms import phantom_series
from pacsifier_ops.pseudonyms.linkage import Person
from pacsifier_ops.pseudonyms.secret import Secret
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.ledger import digest
from tests.support import physics
from tests.support.deid_devices import PROFILES
from tests.support.deid_world import world, write
from tests.support.realfiles_run import real_files

SECRET = Secret(b"s" * 32)
OWN, OTHER = Person("P7XK2M9QW4", -11), Person("P4RT8B6VZ2", -30)
#: Objects with some elements of another object, so that equal elements stand beside different ones.
HYBRIDS = 300
_Listed = tuple[SourceSeries, Path, str]
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


@pytest.mark.slow
@pytest.mark.parametrize("profile", [*PROFILES, "pacsifier+device", "default+clean_structured_content+clean_graphics"])
def test_what_is_remembered_changes_nothing(
    profile: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, accounts and reasons are the same, in any order, with several patients interleaved."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # thousands of files that are looked at and removed
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
    expected: dict[str, Any] = {}
    for source, path, uid in objects:
        for cached in (identifiers._identifiers, identifiers._uids_in, identifiers._terms_of):
            cached.cache_clear()
        expected[uid + str(path)] = _outcome(forgetting, path, source, uid)
    for source, path, uid in _order(objects, random.Random(profile)):
        assert _outcome(remembering, path, source, uid) == expected[uid + str(path)], path


def _order(objects: list[_Listed], chance: random.Random) -> Iterator[_Listed]:
    """Each object once, one after the other as in a series or alone among others, and now and then one once more."""
    stretches, at = [], 0
    while at < len(objects):
        length = chance.choice((1, 1, 2, 8))
        stretches.append(objects[at : at + length])
        at += length
    for stretch in chance.sample(stretches, len(stretches)):
        yield from stretch
        if chance.random() < 0.3:
            yield chance.choice(objects)


def _image(name: str = "Doe^Jane", **attributes: Any) -> Dataset:
    """One object."""
    (made,) = phantom_series(patient_id="4711234", patient_name=name, rows=8, columns=8, n_images=1, **attributes)
    return made


def _patched(made: Dataset, before: bytes, after: bytes) -> Dataset:
    """An object some of whose bytes are others."""
    stream = BytesIO()
    made.save_as(stream, enforce_file_format=True)
    assert stream.getvalue().count(before) == 1
    return reading.parse(stream.getvalue().replace(before, after))


def _titled(charset: str) -> Dataset:
    return _patched(_image(charset=charset, SeriesDescription="Sch_del"), b"Sch_del", b"Sch\xe4del")


def _smallest(vr: bytes) -> Dataset:
    return _patched(_image(SmallestImagePixelValue=1), b"\x28\0\x06\1US\2\0", b"\x28\0\x06\1" + vr + b"\2\0")


def _number(order: Literal["little", "big"]) -> Dataset:
    """An object with a number of which the bytes are those of a date, little endian."""
    number = int.from_bytes((20200102).to_bytes(4, "little"), order)
    syntax = ExplicitVRLittleEndian if order == "little" else ExplicitVRBigEndian
    return _image(transfer_syntax=syntax, TriggerSamplePosition=number)


def _within(sequence: str) -> Dataset:
    item = Dataset()
    item.SliceThickness = 5
    made = _image()
    setattr(made, sequence, [item])
    return made


def _private(creator: str) -> Dataset:
    """An object with b-value and slice position of a creator, at the place that Siemens uses for them."""
    made = _image(modality="MR")
    made.add_new(0x00190010, "LO", creator)
    made.add_new(0x0019100C, "IS", "1000")
    return made


def _code(value: str, scheme: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "Kopf"
    return _image(ProcedureCodeSequence=[item])


def _offset(event: str) -> Dataset:
    return _image(LongitudinalTemporalOffsetFromEvent=12.0, LongitudinalTemporalEventType=event)


SITE = """
extends: research
rules:
- {keyword: StudyDescription, action: keep, modality: [MR]}
- {keyword: TriggerSamplePosition, action: clean}
"""
_CALENDARS = [Calendar.of(frozenset([day]), -11, frozenset(), frozenset()) for day in ("20200102", "19990304")]

#: Two objects of which one element is the same, and is treated otherwise since something else differs.
PAIRS: dict[str, tuple[Callable[[], Dataset], Callable[[], Dataset], dict[str, Any], dict[str, Any]]] = {
    "the character set": (lambda: _titled("ISO_IR 100"), lambda: _titled("ISO_IR 192"), {}, {}),
    "the private creator": (lambda: _private("SIEMENS MR HEADER"), lambda: _private("ACME 1.1"), {}, {}),
    "the VR": (lambda: _smallest(b"US"), lambda: _smallest(b"SS"), {}, {}),
    "the order of bytes": (
        lambda: _number("little"),
        lambda: _number("big"),
        {"calendar": _CALENDARS[0]},
        {"calendar": _CALENDARS[0]},
    ),
    "a dummy around it": (
        lambda: _within("ReferencedImageSequence"),
        lambda: _within("VerifyingObserverSequence"),
        {},
        {},
    ),
    "the patient's names": (
        lambda: _image(SeriesDescription="Kopf lang"),
        lambda: _image(SeriesDescription="Kopf lang", name="Kopf^Lang"),
        {},
        {},
    ),
    "names that other objects have": (
        lambda: _image(SeriesDescription="Kopf lang"),
        lambda: _image(SeriesDescription="Kopf lang"),
        {},
        {"names": ["Kopf^Lang"]},
    ),
    "the coding scheme": (lambda: _code("T-D1100", "SRT"), lambda: _code("T-D1100", "99LOCAL"), {}, {}),
    "the event of an offset": (lambda: _offset("BASELINE"), lambda: _offset("MOONLANDING"), {}, {}),
    "the pseudonym, and the days of a shift": (_image, _image, {}, {"person": OTHER}),
    "the dates of the patient": (
        lambda: _image(SeriesNumber=200102),
        lambda: _image(SeriesNumber=200102),
        {"calendar": _CALENDARS[0]},
        {"calendar": _CALENDARS[1]},
    ),
    "the modality": (
        lambda: _image(modality="MR", StudyDescription="Kopf Meiringen"),
        lambda: _image(modality="CT", StudyDescription="Kopf Meiringen"),
        {},
        {},
    ),
    "attributes that are left out": (
        lambda: _image(SeriesDescription="Kopf"),
        lambda: _image(SeriesDescription="Kopf"),
        {},
        {"without": [0x0008103E]},
    ),
}


@pytest.mark.parametrize("what", PAIRS)
def test_what_decides_is_part_of_what_is_remembered(what: str, tmp_path: Path) -> None:
    """An element of another object, in another setting, is decided anew; whichever comes first."""
    one, other, first, second = PAIRS[what]
    (tmp_path / "site.yaml").write_text(SITE)
    rules = profiles.compile(profiles.load(tmp_path / "site.yaml"))
    alone = [_made(Engine(rules, SECRET, remembers=False), *each) for each in ((one, first), (other, second))]
    assert alone[0] != alone[1]
    for order in ((0, 1), (1, 0)):
        engine, both = Engine(rules, SECRET), ((one, first), (other, second))
        assert [_made(engine, *both[place]) for place in order] == [alone[place] for place in order]


def _made(engine: Engine, of: Callable[[], Dataset], how: dict[str, Any]) -> tuple[Any, ...]:
    made = engine.deidentify(of(), **{"person": OWN, **how})
    left = {
        tag: one for tag, one in made.elements.items() if tag not in (0x00080018, 0x0020000D, 0x0020000E, 0x00200052)
    }
    return left, made.counts


def test_bytes_that_are_clean_of_one_patient_are_searched_for_another() -> None:
    stream, searched = BytesIO(), Searched()
    written = _image("P7XK2M9QW4", SeriesDescription="Kunigunde")
    written.save_as(stream, enforce_file_format=True)
    for name, hits in (("Doe^Jane", 0), ("Wurzelbacher^Kunigunde", 2), ("Doe^Jane", 0)):
        whose = Identifiers(frozenset([FoundIdentifier("name", 0x00100010, name)]))
        assert len(search(stream.getvalue(), whose, searched)) == hits
        # What is clean apart from its UIDs may have one of this object.
        old = replace(whose, uids=frozenset([written.SOPInstanceUID]))
        assert "a UID that had to be replaced found in (0008,0018)" in search(stream.getvalue(), old, searched)


def test_large_pixel_data_are_not_copied(tmp_path: Path) -> None:
    """An object of 64 MB is converted in less than 16 MB, and every byte of its pixels comes out."""
    made = _image(NumberOfFrames=64)
    made.Rows, made.Columns, made.PixelData = 1024, 512, bytes(range(256)) * (1 << 18)
    made.save_as(tmp_path / "in.dcm", enforce_file_format=True)
    engine = Engine(profiles.compile(profiles.load("default")), SECRET)
    for _ in range(2):  # the first round loads what others would count as well
        tracemalloc.start()
        source = reading.read(tmp_path / "in.dcm")
        sha256 = writing.write(engine.deidentify(source, OWN), tmp_path / "out.dcm")
        assert not search(tmp_path / "out.dcm", Identifiers.of(source, OWN, engine.rules))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 1 << 24
    assert dcmread(tmp_path / "out.dcm").PixelData == made.PixelData
    assert digest(tmp_path / "out.dcm") == sha256


def _outcome(converter: Converter, path: Path, source: SourceSeries, uid: str) -> tuple[Any, ...]:
    """All that becomes of an object, apart from the name of its unfinished file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = converter.convert(path, source, uid)
    if made.path != Path():
        assert made.head in (None, technique.read(made.path)), path
        made.path.unlink()
        made.path = Path()
    return astuple(made)


def _variants(data: bytes, chance: random.Random) -> Iterator[bytes]:
    """A file, the same again, and others that are almost the same: bytes changed, cut out, doubled, the end cut off."""
    yield from (data, data)
    for _ in range(2):
        at, length = chance.randrange(128, len(data)), chance.choice((1, 2, 8, 40))
        yield data[:at] + chance.randbytes(length) + data[at + length :]
        yield data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        yield data[:at] + data[at + length :]
        yield data[: at + length] + data[at:]
        yield data[:at]
    yield data


def _parsed(data: bytes) -> tuple[Any, ...]:
    try:
        made = reading.parse(data)
    except Unfit as unfit:
        return (unfit.reason,)
    return made.elements, [*made.elements], made.syntax, made.meta, made.mended


@pytest.mark.slow
def test_an_object_is_read_and_searched_alike_after_others_that_are_almost_the_same(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What several objects have in common is compared at once, and the smallest difference counts."""
    chance, runs = random.Random(7), 0
    # A clean element is remembered only where the whole file is clean: nothing is searched for but a rare name.
    whose = Identifiers(frozenset([FoundIdentifier("name", 0x00100010, "Quxwort^Zsazsa")]))
    searched = Searched()
    for path in sorted(corpus.rglob("*.dcm")):
        data = path.read_bytes()
        if not 132 < len(data) < 1 << 16:
            continue
        for variant in _variants(data, chance):
            after = _parsed(variant)
            runs += len(reading._form(False, True).runs)
            with monkeypatch.context() as anew:
                anew.setattr(reading, "_form", cache(reading._Form))
                assert _parsed(variant) == after, path
            assert search(variant, whose, searched) == search(variant, whose), path
    assert runs > 1000


def test_what_is_wrong_with_an_encoding_is_told_alike_after_other_objects() -> None:
    """The header of the last element in an item is longer than the item; another object has the same header."""
    stream = BytesIO()
    _within("ReferencedImageSequence").save_as(stream, enforce_file_format=True)
    whole = stream.getvalue()
    at = whole.index(b"\x18\0\x50\0DS")
    header = whole[at : at + 8]
    body = whole[:at].rindex(b"\xfe\xff\0\xe0")
    cut = whole[: body + 4] + (4).to_bytes(4, "little") + header + whole[at + 8 :]
    reading._form(False, True).ordinary.clear()
    told = []
    for _ in range(2):
        with pytest.raises(Unfit) as error:
            reading.parse(cut)
        told.append(str(error.value))
        reading.parse(whole)
    assert told[0] == told[1]
