"""De-identification scored against an answer key that shares nothing with it, over objects of every kind.

The table of scores is printed; docs/deid-scores.md explains it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR

from pacsifier_ops.deid import devices, policy, profile, reading, writing
from pacsifier_ops.deid.convert import Converter
from pacsifier_ops.deid.engine import Engine
from pacsifier_ops.deid.rules import ProfileOption, Rules
from pacsifier_ops.deid.run import SourceSeries as Series
from pacsifier_ops.pseudonyms.linkage import Person
from pacsifier_ops.pseudonyms.secret import Secret
from tests.support.deid_corpus import Source, build, keyword
from tests.support.deid_key import STRICT, Category, Policy, expected, tables
from tests.support.deid_score import Score, Tool, Who, score, table

pytestmark = pytest.mark.slow

SECRET = Secret(b"a secret of the corpus's own ....")
#: Sequences that the profile `research` keeps, beyond its options.
SOURCES = frozenset({0x00081140, 0x00082112})


@dataclass(frozen=True)
class Corpus:
    """The files, what is in them, and who their patients become."""

    folder: Path
    sources: list[Source]
    who: Mapping[str, Who]

    def score(self, out: Path, policy: Policy) -> Score:
        return score(self.sources, out, policy, self.who)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    sources = build(folder)
    patients = dict.fromkeys(source.patient for source in sources)
    # Odd, so that no planted date becomes another one.
    who = {patient: Who(f"P{n:04d}", (-17, 31, -301)[n]) for n, patient in enumerate(patients)}
    return Corpus(folder, sources, who)


#: From the name of a profile and more options to the folder of what the engine made of every object, also of those
#: that a run keeps back, by the numbers of their sources.
Engines = Callable[..., Path]


@pytest.fixture(scope="module")
def engine_alone(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """The engine on every object, once for each profile."""

    @cache
    def made(*names: str) -> Path:
        engine, out = Engine(chosen(*names)[0], SECRET), tmp_path_factory.mktemp(names[0])
        for source in corpus.sources:
            who = corpus.who[source.patient]
            outcome = engine.deidentify(reading.read(source.path), Person(who.pseudonym, who.shift))
            writing.write(outcome.dataset, out / f"{source.number}.dcm")
        return out

    return made


def conversion(rules: Rules) -> Tool:
    """All that a run does to a file: rules on what goes out, engine, black regions, verifier."""

    def tool(folder: Path, out: Path, who: Mapping[str, Who]) -> None:
        how = policy.Policy(rules, devices.load(), SECRET, delete_identifiable=True, keep_patient_dir_names=False)
        converter = Converter(how, out, lambda _: None)
        for path in sorted(folder.rglob("*.dcm")):
            head = dcmread(path, specific_tags=["PatientID", "StudyInstanceUID", "SeriesInstanceUID"])
            person = who[str(head.PatientID)]
            series = Series(
                *(1, "", str(head.PatientID), str(head.StudyInstanceUID), str(head.SeriesInstanceUID), "", "", ""),
                *(person.pseudonym, person.shift, "", ""),
            )
            converter.convert(path, series, path.stem)

    return tool


def chosen(name: str, *options: str) -> tuple[Rules, Policy]:
    """Rules of a profile with more options, and what the key is told of it."""
    found = profile.load(name, add=map(ProfileOption, options))
    return profile.compile(found), Policy(frozenset(map(str, found.options)), SOURCES if found.site else frozenset())


STANDARD = ("basic", ProfileOption.MODIFIED_DATES, ProfileOption.CLEAN_DESCRIPTORS)


def test_every_value_becomes_what_the_standard_says(
    corpus: Corpus,
    engine_alone: Engines,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    scores: dict[str, Score] = {}
    (converted := tmp_path / "converted").mkdir()
    for title, names, whole in (
        ("standard", STANDARD, False),
        ("default", ("default",), False),
        ("research", ("research",), False),
        ("default, as a run converts", ("default",), True),
    ):
        rules, policy = chosen(*names)
        if whole:
            conversion(rules)(corpus.folder, converted, corpus.who)
        scores[title] = corpus.score(converted if whole else engine_alone(*names), policy)
        if not whole:
            del scores[title].asked[Category.PIXELS_HIDDEN]  # which objects go out is not the engine's business
    lines = table(scores)
    record_property("deid_scores", "\n".join(lines))
    with capsys.disabled():
        print("", *lines, sep="\n")
    for title, found in scores.items():
        assert found.is_safe, f"{title}: {_first(found)}"
        assert found.share >= 99.95, f"{title}: {_first(found)}"
        assert not found.lost, f"{title}: {found.lost}"


def _first(found: Score) -> str:
    return "\n".join([*map(str, found.misses[:20]), *map(str, found.survivors[:20])])


def forget(folder: Path, out: Path) -> None:
    """Have a token of one object come back in another place, and the pixels of one image change."""
    leaked = next(path for path in sorted(folder.rglob("*.dcm")) if dcmread(path).get("PixelData"))
    before = dcmread(leaked)
    for path in out.iterdir():
        after = dcmread(path)
        if after.InstanceNumber == before.InstanceNumber:
            after.SeriesDescription = str(before.OperatorsName)
            after.PixelData = bytes(len(after.PixelData))
            after.save_as(path)


def test_the_score_tells_a_copy_and_a_single_leak(corpus: Corpus, engine_alone: Engines, tmp_path: Path) -> None:
    policy = chosen(*STANDARD)[1]
    copy = corpus.score(corpus.folder, policy)  # as where nothing is de-identified
    for category in STRICT - {Category.UID_CONSISTENT}:
        assert copy.asked[category] and not copy.met[category], category
    assert copy.of(Category.TEXT_RETAINED) == copy.of(Category.PIXELS_RETAINED) == copy.of(Category.TAG_RETAINED) == 100
    assert len(copy.survivors) == copy.planted > 100_000

    shutil.copytree(engine_alone(*STANDARD), tmp_path / "leak")
    forget(corpus.folder, tmp_path / "leak")
    leak = corpus.score(tmp_path / "leak", policy)
    assert len(leak.survivors) == 1
    assert leak.asked[Category.TEXT_REMOVED] - leak.met[Category.TEXT_REMOVED] == 1
    assert leak.asked[Category.PIXELS_RETAINED] - leak.met[Category.PIXELS_RETAINED] == 1


def test_every_kind_of_value_is_planted_and_asked_for(corpus: Corpus) -> None:
    """The corpus holds every attribute of the tables that a file can, and few values are asked nothing of."""
    planted = {value.tag for source in corpus.sources for value in source.planted}
    # Commands (0000), directories (0004), and names of PS3.15 that PS3.6 had not when the dictionary was made.
    missing = [tag for tag in tables().attributes if tag not in planted and tag >> 16 not in (0, 4)]
    numbers = {"DS", "IS", "US", "UN", "OB or OW", "OW", "OB"}
    assert [keyword(tag) for tag in missing if dictionary_has_tag(tag) and dictionary_VR(tag) not in numbers] == []
    policy = chosen("research")[1]
    silent = Counter(
        value.vr
        for source in corpus.sources
        for value in source.planted
        if value.needles and not expected(value, policy, source.sop_class)
    )
    assert not silent


@pytest.mark.peers
def test_other_programs_read_the_results_and_find_no_new_error(corpus: Corpus, engine_alone: Engines) -> None:
    """dciodvfy, dcentvfy, dcmftest and dcmdump, on the objects as their kinds are."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy: install the package dicom3tools")
    out = engine_alone("research")
    results = [(source, out / f"{source.number}.dcm") for source in corpus.sources]
    files = [str(path) for _, path in results]
    assert said("dcmftest", *files).count("yes:") == len(files)
    assert "E: " not in said("dcmdump", "-q", "-ml", *files)
    first = {source.kind: (source, path) for source, path in reversed(results) if not source.stuffed}
    for source, path in first.values():
        assert errors(path) <= errors(source.path), source.kind
    for patient in corpus.who:
        # It reads no deflated files, and takes transfer syntaxes that it does not know for others.
        mine = [
            (source, path)
            for source, path in results
            if source.patient == patient and not source.stuffed and source.kind != "transfer syntaxes"
        ]
        assert told(path for _, path in mine) <= told(source.path for source, _ in mine), patient


def said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode("latin-1")


def errors(path: Path) -> set[str]:
    """What dciodvfy calls an error."""
    return {line for line in said("dciodvfy", str(path)).splitlines() if line.startswith("Error")}


def told(paths: Iterable[Path]) -> set[str]:
    """What dcentvfy says, without values and names of files."""
    lines = said("dcentvfy", *map(str, paths)).splitlines()
    return {re.sub(r"<[^<>]*>|/\S+", "", line) for line in lines if line.startswith("Error")}


def test_one_key_gives_one_result_and_another_tells_nothing_of_it(corpus: Corpus, tmp_path: Path) -> None:
    """Two workers that share nothing but the key agree on a patient, whatever the order; another key's UIDs differ."""
    rules, _ = chosen(*STANDARD)
    patient = corpus.sources[0].patient
    sources = [source for source in corpus.sources if source.patient == patient]
    who = corpus.who[patient]

    def results(secret: Secret, order: list[Source]) -> dict[int, bytes]:
        engine, found = Engine(rules, secret), {}
        for source in order:
            outcome = engine.deidentify(reading.read(source.path), Person(who.pseudonym, who.shift))
            writing.write(outcome.dataset, tmp_path / "one.dcm")
            found[source.number] = (tmp_path / "one.dcm").read_bytes()
        return found

    first = results(SECRET, sources)
    assert results(Secret(b"a secret of the corpus's own ...."), sources[::-1]) == first
    other = results(Secret(b"another secret, of another project"), sources)
    shared = {uid for number in first for uid in uids(first[number]) & uids(other[number])}
    assert shared <= {dcmread(tmp_path / "one.dcm").file_meta.ImplementationClassUID.encode()}
    for number in first:
        one, two = (dcmread(BytesIO(found[number])) for found in (first, other))
        assert one.AccessionNumber != two.AccessionNumber
        assert one.StudyID != two.StudyID


def uids(raw: bytes) -> set[bytes]:
    """UIDs of de-identified objects in a file that is not deflated."""
    return set(re.findall(rb"2\.25\.\d{20,}", raw))
