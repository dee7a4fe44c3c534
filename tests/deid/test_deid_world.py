"""Identifiers where sites and devices plant them, through the command: none goes out, and what must stay stays."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID

from tests.support.deid_devices import PROFILES, Thing
from tests.support.deid_world import SITUATIONS
from tests.support.deid_world_run import Found, corpus, run, table

pytestmark = pytest.mark.slow

CLEANING = ("default", "research", "pacsifier")

#: What is not mended yet: reason, profiles, titles of things.
KNOWN: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "ages below 90 in descriptions stay, also where PatientAge goes",
        ("default",),
        ("SeriesDescription: Knie 72 J.", "SeriesDescription: 73y male knee"),
    ),
    ("a day and a month that read like a measure stay", CLEANING, ("SeriesDescription: 17.01 mm 23",)),
)
#: At least these shares of what must stay do, in percent, and of the ordinary objects come out.
WORDS, VALUES, OBJECTS = 95, 99, 98

Runs = Callable[[str, bool], tuple[Found, Path]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the corpus is."""
    return tmp_path_factory.mktemp("source")


@pytest.fixture(scope="module")
def things(source: Path) -> list[Thing]:
    """The corpus, written once."""
    return corpus(source)


@pytest.fixture(scope="module")
def runs(things: list[Thing], source: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """One run for each profile, with the flag and without it, made when it is asked for."""

    @cache
    def get(profile: str, identifiable: bool) -> tuple[Found, Path]:
        folder = tmp_path_factory.mktemp(profile)
        return run(profile, identifiable, things, source, folder), folder / "out"

    return get


def _known(profile: str) -> set[str]:
    return {title for _, profiles, titles in KNOWN if profile in profiles for title in titles}


@pytest.mark.parametrize("identifiable", [False, True], ids=["kept apart", "left out"])
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("title", SITUATIONS)
def test_nothing_planted_goes_out(runs: Runs, title: str, profile: str, identifiable: bool) -> None:
    """Of all that is not known to leak, nothing is found: not in values, bytes, names of files, or the manifest."""
    leaked = runs(profile, identifiable)[0].leaks[title]
    assert [one for one in leaked if one[0] not in _known(profile)] == []


@pytest.mark.parametrize(
    ("profile", "title"),
    [
        pytest.param(profile, title, marks=pytest.mark.xfail(strict=True, reason=reason))
        for reason, profiles, titles in KNOWN
        for profile in profiles
        for title in titles
    ],
)
def test_what_is_known_to_leak(runs: Runs, things: list[Thing], profile: str, title: str) -> None:
    """When one of these passes, it is mended: take it off the list."""
    assert title in {thing.title for thing in things}
    assert [one for of in runs(profile, False)[0].leaks.values() for one in of if one[0] == title] == []


@pytest.mark.parametrize("profile", PROFILES)
def test_values_stay(runs: Runs, profile: str) -> None:
    """Physics, geometry, codes, pixels, moved dates, and what an option keeps, in all objects that come out."""
    found = runs(profile, False)[0]
    lost = [one for of in found.lost.values() for one in of if one[1] != "the object"]
    assert [one for one in lost if one not in _lost_words(found)] == []


def _lost_words(found: Found) -> list[tuple[str, str]]:
    """What is missing of texts; `test_words_stay` counts it."""
    texts = ("Description", "ProtocolName", "Comments", "ROIName", "SegmentLabel")
    return [one for of in found.lost.values() for one in of if one[1].partition(":")[0].endswith(texts)]


@pytest.mark.parametrize("profile", CLEANING)
def test_words_stay(runs: Runs, profile: str) -> None:
    """Harmless words, written down before anything was run on them."""
    found = runs(profile, False)[0]
    kept, asked = (sum(counter["words"] for counter in of.values()) for of in (found.kept, found.asked))
    assert kept * 100 >= asked * WORDS, table({profile: found})


@pytest.mark.parametrize("profile", ("default", "research"))
def test_ordinary_objects_come_out(runs: Runs, things: list[Thing], profile: str) -> None:
    """What a header tells all of is delivered, whatever was planted in it."""
    found = runs(profile, False)[0]
    ordinary = [thing for thing in things if thing.ordinary]
    out = sum(thing.title in found.delivered[thing.situation] for thing in ordinary)
    assert out * 100 >= len(ordinary) * OBJECTS, [
        one for of in found.lost.values() for one in of if one[1] == "the object"
    ]


@pytest.mark.parametrize("profile", PROFILES)
def test_references_hold(runs: Runs, things: list[Thing], profile: str) -> None:
    """Objects of one person refer to each other as before, by valid UIDs."""
    (person,) = {
        thing.pseudonym for thing in things if thing.situation == "Objects of one person that refer to each other"
    }
    out = runs(profile, False)[1]
    objects: dict[str, Dataset] = {}
    for path in (out / f"sub-{person}").rglob("*.dcm"):
        dataset = dcmread(path)
        objects[dataset.Modality] = dataset
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert all(UID(element.value).is_valid for element in dataset.iterall() if element.VR == "UI")
        assert (dataset.PatientIdentityRemoved, dataset.PatientID) == ("YES", person)
    image = objects.pop("CT")
    assert set(objects) == {"SEG", "RTSTRUCT", "RTDOSE"}
    for dataset in objects.values():
        assert dataset.StudyInstanceUID == image.StudyInstanceUID
        (series,) = dataset.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == image.SeriesInstanceUID
        assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert objects["RTDOSE"].FrameOfReferenceUID == image.FrameOfReferenceUID
