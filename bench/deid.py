"""De-identification beside other tools, on tmpfs: how fast, and what is left of the identifiers planted in a corpus.

python -m bench.deid [ROUNDS]
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zlib import crc32

from bench.timing import Cohort, Runs, installed, run, spread
from tests.support import deid_corpus, deid_score
from tests.support.deid_corpus import Source
from tests.support.deid_key import Category, Policy

ROOT = Path(__file__).resolve().parents[1]
#: In memory where there is such a folder, so that no disk is measured.
MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


class Scanned(Cohort):
    """Images with the header of a scanner: pydicom's small CT image, with more pixels."""

    def write(self, folder: Path) -> list[Path]:
        """Write the files of the cohort."""
        from pydicom import dcmread
        from pydicom.data import get_testdata_file
        from pydicom.uid import generate_uid

        image = dcmread(str(get_testdata_file("CT_small.dcm")))
        image.PatientID, image.Rows, image.Columns = self.patient, self.pixels, self.pixels
        pixels = random.Random(1).randbytes(2 * self.pixels**2)
        paths = []
        for series in range(1, self.series + 1):
            image.SeriesNumber, image.SeriesInstanceUID = series, generate_uid()
            (folder / str(series)).mkdir(parents=True)
            for number in range(1, self.images + 1):
                image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
                image.InstanceNumber, image.SliceLocation = number, f"{0.625 * number:.4f}"
                image.ImagePositionPatient = ["-158.135803", "-179.035797", f"{0.625 * number:.4f}"]
                image.AcquisitionTime = image.ContentTime = f"{112000 + number // 50:06d}.{number % 50:02d}"
                image.PixelData = pixels[2 * number :] + pixels[: 2 * number]
                paths.append(folder / str(series) / f"{number:05d}.dcm")
                image.save_as(paths[-1])
        return paths


COHORTS = (
    Cohort("one image of 64×64: start-up", "ONE", 1, 1, 64),
    Cohort("100 series × 20 images of 64×64", "SMALL", 100, 20, 64),
    Cohort("10 series × 50 images of 512×512", "LARGE", 10, 50, 512),
    Scanned("10 series × 200 images of 512×512 with the header of a scanner", "REAL", 10, 200, 512),
)
CORES = os.cpu_count() or 1


@dataclass(frozen=True)
class Tool:
    """A tool, and how it is called.

    Attributes:
        call: reads one folder, writes another one, has a third one for whatever else it needs.
        cores: how many it works on.
    """

    call: Callable[[Path, Path, Path], None]
    cores: int = 1


def copied(folder: Path, out: Path, _: Path) -> None:
    run(["cp", "-r", str(folder), str(out / "copy")], out)


def pacsifier(folder: Path, out: Path, scratch: Path) -> None:
    """PACSIFIER 1.0.0, private tags removed, dates fuzzed."""
    ids = scratch / "new_ids.json"
    ids.write_text(json.dumps({path.name: f"P{crc32(path.name.encode())}" for path in folder.iterdir()}))
    program = installed("pacsifier==1.0.0") / "pacsifier-anonymize"
    run([str(program), "-d", str(folder), "-o", str(out), "-p", "-a", "-n", str(ids)], scratch)


def dicognito(folder: Path, out: Path, scratch: Path) -> None:
    """dicognito as it is, with a seed of its own; its console script cannot be started."""
    python = installed("dicognito==0.19.0") / "python"
    run([str(python), "-m", "dicognito", "--quiet", "--seed", "bench", "-o", str(out), str(folder)], scratch)


def dicom_anonymizer(folder: Path, out: Path, scratch: Path) -> None:
    """dicom-anonymizer with its default, which removes private tags; it takes flat folders."""
    flat = Path(tempfile.mkdtemp(dir=scratch))
    for number, path in enumerate(sorted(folder.rglob("*.dcm"))):
        os.link(path, flat / f"{number}.dcm")
    run([str(installed("dicom-anonymizer==2.1.0") / "dicom-anonymizer"), str(flat), str(out)], scratch)


def gdcmanon(folder: Path, out: Path, scratch: Path) -> None:
    """gdcmanon -e, the Basic Application Level Confidentiality Profile."""
    certificate, key = scratch / "certificate.pem", scratch / "key.pem"
    if not certificate.exists():
        _certificate(certificate, key)
    program = Path(sys.executable).parent / "gdcmanon"
    run([str(program), "-e", "-c", str(certificate), "-r", "-i", str(folder), "-o", str(out)], scratch)


def _certificate(certificate: Path, key: Path) -> None:
    from pacsifier_ops.embedded.authority import Authority

    identity = Authority(certificate.parent, "bench").issue("bench")
    shutil.copy(identity.certificate, certificate)
    shutil.copy(identity.key, key)


def command(*options: str) -> Callable[[Path, Path, Path], None]:
    """Our command: plan, books and report as well, and contact sheets unless it is told otherwise."""

    def call(folder: Path, out: Path, scratch: Path) -> None:
        words = [sys.executable, "-m", "pacsifier_ops.cli.anonymize", "-d", str(folder), "-o", str(out), "-i"]
        words += ["--profile", "default", "--accept_incomplete", *options]
        run(words, scratch, PACSIFIER_STATE_ROOT=str(scratch / "state"), PYTHONPATH=str(ROOT))

    return call


def ours(cores: int = 1, *, profile: str = "default", without: str = "") -> Callable[[Path, Path, Path], None]:
    """All that is done to a file, without the books of a run.

    Args:
        without: "verifier", or "rules": every object goes out, also those that a run keeps back.
    """

    def call(folder: Path, out: Path, scratch: Path) -> None:
        words = [sys.executable, "-m", "bench.deid", "convert", str(folder), str(out), str(cores), profile, without]
        run(words, scratch, PYTHONPATH=str(ROOT))

    return call


TOOLS = {
    "ours, one process": Tool(ours()),
    "ours, one process, no verifier": Tool(ours(without="verifier")),
    f"ours, {CORES} processes": Tool(ours(CORES), CORES),
    "ours, the whole command": Tool(command(), CORES),
    "ours, the whole command, no contact sheets": Tool(command("--no_contact_sheets"), CORES),
    "cp": Tool(copied),
    "PACSIFIER 1.0.0": Tool(pacsifier),
    "dicognito 0.19.0": Tool(dicognito),
    "dicom-anonymizer 2.1.0": Tool(dicom_anonymizer),
    "gdcmanon (python-gdcm)": Tool(gdcmanon),
}
#: The tools that other people wrote to de-identify, in Python.
PEERS = ("PACSIFIER 1.0.0", "dicognito 0.19.0", "dicom-anonymizer 2.1.0")
#: Those whose results are scored, all by the Basic Profile.
SCORED = {
    "ours, every object": Tool(ours(profile="basic", without="rules")),
    "ours, what a run lets out": Tool(ours(profile="basic")),
    **{name: TOOLS[name] for name in (*PEERS, "gdcmanon (python-gdcm)", "cp")},
}


# Ours, as a program


def convert(paths: Sequence[Path], names: Sequence[str], out: Path, name: str, without: str) -> None:
    """De-identify files: read, judged, de-identified, blacked out, written, searched."""
    from pacsifier_ops.base.errors import Unfit
    from pacsifier_ops.deid import devices, pixels, profile, reading, writing
    from pacsifier_ops.deid import verifier as search
    from pacsifier_ops.deid.engine import Engine
    from pacsifier_ops.deid.exclusion import Judge, Kind
    from pacsifier_ops.deid.numbers import Calendar
    from pacsifier_ops.deid.rules import ProfileOption
    from pacsifier_ops.deid.verifier import Identifiers, Searched
    from pacsifier_ops.pseudonyms.linkage import Person
    from pacsifier_ops.pseudonyms.secret import Secret

    options = (ProfileOption.MODIFIED_DATES, ProfileOption.CLEAN_DESCRIPTORS) if name == "default" else ()
    rules = profile.compile(profile.load("basic", add=options))
    engine, searched = Engine(rules, Secret(b"the secret of the benchmark ....")), Searched()
    judge = Judge(True, devices.load(), rules.options)
    for path, new in zip(paths, names, strict=True):
        target = out / new
        try:
            dataset = reading.read(path)
            verdict = judge.verdict(dataset)
            if verdict.kind is not Kind.PASS and without != "rules":
                continue
            person = Person(f"P{crc32(str(dataset.PatientID).encode())}", -17)
            identifiers = Identifiers.of(dataset, person)
            calendar = Calendar.of(identifiers.days, -17, frozenset(), frozenset(identifiers.terms.numbers))
            outcome = engine.deidentify(dataset, person, calendar)
            if verdict.blackout is not None:
                pixels.blackout(outcome.dataset, verdict.blackout)
            writing.write(outcome if verdict.blackout is None else outcome.dataset, target)
            if without != "verifier" and search.search(target, identifiers, searched):
                target.unlink()
        except Unfit:
            target.unlink(missing_ok=True)


def _program(folder: Path, out: Path, cores: int, profile: str, without: str) -> None:
    paths = sorted(folder.rglob("*.dcm"))
    names = [f"{number:06d}.dcm" for number in range(len(paths))]
    if cores == 1:
        convert(paths, names, out, profile, without)
        return
    convert([], [], out, profile, without)  # what is loaded before they fork, they share
    with ProcessPoolExecutor(cores, get_context("fork")) as pool:
        parts = [
            pool.submit(convert, paths[first::cores], names[first::cores], out, profile, without)
            for first in range(cores)
        ]
        for part in parts:
            part.result()


# Speed


def compare(folder: Path, rounds: int) -> dict[str, Runs]:
    """Let every tool de-identify a folder, in rounds."""
    expected = sum(1 for _ in folder.rglob("*.dcm"))
    results = {name: Runs() for name in TOOLS}
    for _ in range(rounds):
        for name, tool in TOOLS.items():
            with tempfile.TemporaryDirectory(dir=MEMORY, prefix="bench-") as place:
                out, scratch = Path(place) / "out", Path(place) / "scratch"
                out.mkdir()
                scratch.mkdir()
                started = time.perf_counter()
                tool.call(folder, out, scratch)
                results[name].seconds.append(time.perf_counter() - started)
                results[name].files = sum(1 for path in out.rglob("*") if path.is_file() and path.suffix != ".json")
                results[name].exact &= results[name].files >= expected
    return results


def speeds(title: str, files: int, results: dict[str, Runs]) -> list[str]:
    """The runs as a Markdown table: ratios are per core and taken within a round, against the fastest of PEERS."""
    fastest = min(PEERS, key=lambda name: statistics.median(results[name].seconds))
    lines = [
        f"### {title}",
        "",
        f"| tool | runs | seconds: median (min to max) | files/s per core | times {fastest} per core | times cp |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, runs in results.items():
        cores = TOOLS[name].cores
        median = statistics.median(runs.seconds)
        ratios = [theirs / (our * cores) for theirs, our in zip(results[fastest].seconds, runs.seconds, strict=True)]
        times = [our / copy for our, copy in zip(runs.seconds, results["cp"].seconds, strict=True)]
        lines.append(
            f"| {name} | {len(runs.seconds)} | {spread(runs.seconds)} | {files / median / cores:.0f} "
            f"| {spread(ratios)} | {statistics.median(times):.0f} |"
        )
    return [*lines, ""]


# What is left


def leaks(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Planted values that survive each tool, and its scores by the Basic Profile, as Markdown and as numbers."""
    sources = deid_corpus.build(folder / "in")
    policy = Policy(frozenset())
    plain = [source for source in sources if not source.stuffed]
    scores: dict[str, deid_score.Score] = {}
    usual: dict[str, deid_score.Score] = {}
    for name, tool in SCORED.items():
        out, scratch = folder / f"out {name}", folder / f"scratch {name}"
        out.mkdir()
        scratch.mkdir()
        _apply(tool, sources, folder / "in", out, scratch)
        scores[name] = deid_score.score(sources, out, policy)
        usual[name] = deid_score.score(plain, out, policy)
    lines = [
        "### Planted identifiers that survive",
        "",
        "| tool | objects that came out | in one CT object | in objects as their kinds are | with stuffed ones |",
        "|---|---:|---:|---:|---:|",
    ]
    ct = next(source for source in plain if source.kind == "CT")
    planted = len({needle for value in ct.planted for needle in value.needles})
    for name, score in scores.items():
        came = len(sources) - len(score.lost) - len(score.kept_back)
        left = sum(number == ct.number for number, _ in score.survivors)
        lines.append(
            f"| {name} | {came} of {len(sources)} | {'–' if ct.number in score.lost else f'{left} of {planted}'} "
            f"| {_share(usual[name])} | {_share(score)} |"
        )
    numbers = {
        name: {
            "survivors": len(score.survivors),
            "planted": score.planted,
            "lost": len(score.lost),
            "kept_back": len(score.kept_back),
            **{str(category): score.of(category) for category in Category if score.asked[category]},
        }
        for name, score in scores.items()
    }
    return [*lines, "", "### Scores by category", "", *deid_score.table(scores), ""], numbers


def _share(score: deid_score.Score) -> str:
    share = 100 * len(score.survivors) / max(score.planted, 1)
    return f"{len(score.survivors):,} of {score.planted:,} ({share:.1f} %)"


def _apply(tool: Tool, sources: list[Source], folder: Path, out: Path, scratch: Path) -> None:
    """Have a tool do the corpus; where it stops at a file, one by one what has not come out."""
    whole = False
    with suppress(RuntimeError):
        tool.call(folder, out, scratch)
        whole = True
    done = deid_score.outputs(out)
    if whole and done:
        return
    for source in sources:
        if source.number in done:
            continue
        alone, result = scratch / f"in{source.number}", out / str(source.number)
        (alone / source.path.relative_to(folder)).parent.mkdir(parents=True)
        result.mkdir()
        shutil.copy(source.path, alone / source.path.relative_to(folder))
        with suppress(RuntimeError):
            tool.call(alone, result, scratch)


# The whole


def measure(rounds: int) -> tuple[dict[str, Any], list[str]]:
    """All of it: numbers, and Markdown."""
    numbers: dict[str, Any] = {"speed": {}}
    page = ["## De-identification", ""]
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="bench-") as name:
        folder = Path(name)
        for cohort in COHORTS:
            tree = folder / cohort.patient
            files = cohort.write(tree / f"sub-{cohort.patient}" / "ses-20180102101500" / "00001-Phantom_CT")
            results = compare(tree, rounds)
            numbers["speed"][cohort.name] = {tool: asdict(runs) for tool, runs in results.items()}
            page += speeds(cohort.name, len(files), results)
        lines, numbers["leaks"] = leaks(folder / "corpus")
        page += lines
    return numbers, page


if __name__ == "__main__":
    if sys.argv[1:2] == ["convert"]:
        _program(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:7])
    else:
        found, lines = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
        print("\n".join(lines))
        print(json.dumps(found), file=sys.stderr)
