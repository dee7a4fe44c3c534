"""What is left of the identifiers planted in a corpus, by tool: `python -m bench.leaks`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from bench.deid import MEMORY, PEERS, Program, copied
from bench.timing import ROOT, run
from tests.support import deid_corpus, deid_score
from tests.support.deid_corpus import Source
from tests.support.deid_key import Policy


def ours(profile: str, without: str = "") -> Program:
    """All that is done to a file, without the books of a run.

    Args:
        without: "rules": every object goes out, also those that a run keeps back.
    """

    def call(folder: Path, out: Path, scratch: Path) -> None:
        words = [sys.executable, "-m", "bench.leaks", "convert", str(folder), str(out), profile, without]
        run(words, scratch, PYTHONPATH=str(ROOT))

    return call


#: All by the Basic Profile.
TOOLS: dict[str, Program] = {
    "ours, every object": ours("basic", "rules"),
    "ours, what a run lets out": ours("basic"),
    **PEERS,
    "cp": copied,
}


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


def leaks(folder: Path) -> list[str]:
    """Planted values that survive each tool, and its scores by the Basic Profile, as Markdown."""
    sources = deid_corpus.build(folder / "in")
    policy = Policy(frozenset())
    plain = [source for source in sources if not source.stuffed]
    scores: dict[str, deid_score.Score] = {}
    usual: dict[str, deid_score.Score] = {}
    for name, tool in TOOLS.items():
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
    return [*lines, "", "### Scores by category", "", *deid_score.table(scores), ""]


def _share(score: deid_score.Score) -> str:
    share = 100 * len(score.survivors) / max(score.planted, 1)
    return f"{len(score.survivors):,} of {score.planted:,} ({share:.1f} %)"


def _apply(tool: Program, sources: list[Source], folder: Path, out: Path, scratch: Path) -> None:
    """Have a tool do the corpus; where it stops at a file, one by one what has not come out."""
    whole = False
    with suppress(RuntimeError):
        tool(folder, out, scratch)
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
            tool(alone, result, scratch)


def main() -> None:
    """Print the tables, or convert files as the tool `ours` is told to."""
    if sys.argv[1:2] == ["convert"]:
        folder, out = map(Path, sys.argv[2:4])
        paths = sorted(folder.rglob("*.dcm"))
        convert(paths, [f"{number:06d}.dcm" for number in range(len(paths))], out, *sys.argv[4:6])
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="bench-") as name:
        print("\n".join(leaks(Path(name))))


if __name__ == "__main__":
    main()
