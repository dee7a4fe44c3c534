"""The corpus of `deid_world` through the command: what of the planted is found in what goes out, and what has stayed.

`python -m tests.support.deid_world_run [PROFILE …]` prints the table of docs/deid-scores.md;
with `-v` every leak and loss.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import re
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from tests.support.deid_devices import MAY_LEAVE, PROFILES, Planted, Thing, plain, value_at
from tests.support.deid_world import SITUATIONS, world, write
from tests.support.places import REPO

#: What a text may be written in, whatever is declared.
ENCODINGS = (
    *("utf-8", "utf-16-le", "utf-16-be", "latin-1", "iso8859-2", "iso8859-5", "iso8859-6", "iso8859-7", "iso8859-8"),
    *(
        "iso8859-9",
        "iso8859-11",
        "cp1251",
        "cp1255",
        "gb18030",
        "shift_jis",
        "euc_jp",
        "euc_kr",
        "iso2022_jp_2",
        "iso2022_kr",
    ),
)
_SHOWN = re.compile(rb"\x1b[()$][()A-Z0-9@]?[A-Z@]?")


@dataclass
class Found:
    """What one run left.

    Attributes:
        leaks: of each situation: the thing, what of the planted was found, and where.
        lost: of each situation: the thing, and what should have stayed and is gone.
        kept: of each situation, how many words and values of those that are asked for have stayed.
        asked: of each situation, how many are asked for.
        delivered: of each situation, the things that came out.
        said: what the command said.
    """

    leaks: dict[str, list[tuple[str, str, str]]] = field(default_factory=lambda: defaultdict(list))
    lost: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    kept: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    asked: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    delivered: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    said: str = ""


def corpus(folder: Path) -> list[Thing]:
    """Write the corpus to the folder `in` below `folder`, and what the command is to be told of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with the objects is meant
        things = world()
        write(things, folder / "in")
    return things


def run(profile: str, identifiable: bool, things: list[Thing], source: Path, folder: Path) -> Found:
    """Run the command on the corpus, and search what goes out.

    Args:
        identifiable: with the flag that leaves out what likely shows who it is.
        things: what the corpus holds.
        source: where it was written.
        folder: for all that the command makes.

    Raises:
        AssertionError: the command did not end as it should.
    """
    command = [sys.executable, "-m", "pacsifier_ops.cli.anonymize", "-d", f"{source}/in", "-o", f"{folder}/out"]
    command += ["-n", f"{source}/new_ids.json", "--day_shift", f"{source}/day_shift.json"]
    command += ["--profile", profile, "--no_contact_sheets", *(["-i"] if identifiable else [])]
    environment = {**os.environ, "PYTHONPATH": str(REPO), "PACSIFIER_STATE_ROOT": str(folder / "state")}
    # New UIDs depend on the secret. Among thousands of random ones, some hold the digits of a date by chance.
    environment["PACSIFIER_PROJECT_SECRET"] = hashlib.sha256(b"the corpus").hexdigest()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = search(things, folder / "out", profile)
    found.said = ended.stdout + ended.stderr
    return found


def search(things: list[Thing], out: Path, profile: str) -> Found:
    """Search a data set for what was planted, and look for what should stay."""
    found = Found()
    files: dict[str, list[Path]] = defaultdict(list)
    beside: dict[str, bytes] = defaultdict(bytes)
    for path in sorted(out.rglob("*")):
        beside[_whose(str(path.relative_to(out)))] += str(path.relative_to(out)).lower().encode() + b"\n"
        if path.suffix == ".dcm":
            files[path.relative_to(out).parts[0].removeprefix("sub-")].append(path)
        elif path.is_file():
            for line in path.read_bytes().splitlines():
                beside[_whose(line.decode("latin-1"))] += line.lower() + b"\n"
    everywhere = b"".join(beside.values())
    named_anywhere = cache(lambda text: any(spelled in everywhere for spelled in spellings(text)))
    for thing in things:
        planted = [one for one in thing.planted if one.kind not in MAY_LEAVE[profile]]
        objects = [path for path in files[thing.pseudonym] if dcmread(path).Modality == thing.dataset.Modality]
        for path in objects:
            found.delivered[thing.situation].append(thing.title)
            for one, where in leaks(planted, path):
                found.leaks[thing.situation].append((thing.title, f"{one.kind} {one.text}", where))
        for one in planted:
            if one.exact or one.kind == "burned":
                continue
            # A date of one person is the moved date of another.
            beside_it = any(text in beside[thing.pseudonym] for text in spellings(one.text))
            if beside_it if one.text.isdigit() else named_anywhere(one.text):
                found.leaks[thing.situation].append((thing.title, f"{one.kind} {one.text}", "names of files, manifest"))
        dataset = dcmread(objects[0]) if objects else None
        if dataset is None and thing.ordinary:
            found.lost[thing.situation].append((thing.title, "the object"))
        for stay in thing.stays if thing.ordinary else []:
            if profile not in stay.profiles:
                continue
            kind = "words" if stay.word else "values"
            found.asked[thing.situation][kind] += 1
            value = value_at(dataset, stay) if dataset is not None else None
            if value is not None and (same(value, stay.value) if not stay.word else has_word(value, stay.value)):
                found.kept[thing.situation][kind] += 1
            elif dataset is not None:
                told = f"{'.'.join(map(str, stay.path))}: {stay.value} is {value}"
                found.lost[thing.situation].append((thing.title, told))
    return found


def _whose(line: str) -> str:
    """The pseudonym in the name of a file, or a line of the manifest."""
    return line.split("/")[0].split(",")[0].removeprefix("sub-") or "nobody"


def same(value: str, expected: str) -> bool:
    """Whether two values are equal, numbers as numbers."""
    if value == expected:
        return True
    try:
        ours, theirs = ([float(part) for part in text.split("\\")] for text in (value, expected))
        return len(ours) == len(theirs) and all(map(partial(math.isclose, rel_tol=1e-6), ours, theirs))
    except ValueError:
        return False


def has_word(value: str, word: str) -> bool:
    """Whether a word is in a text."""
    return re.search(rf"(?<![^\W\d_]){re.escape(word)}(?![^\W\d_])", value, re.I) is not None


@cache
def spellings(text: str) -> frozenset[bytes]:
    """A text in all encodings that can write it, in small letters."""
    spelled = set()
    for encoding in ENCODINGS[:3] if text.isascii() else ENCODINGS:
        for written in (text.lower(), text, text.upper()):
            try:
                raw = written.encode(encoding).lower()
            except UnicodeEncodeError:
                continue
            spelled |= {raw, _SHOWN.sub(b"", raw)}
    return frozenset(one for one in spelled if len(one) > 2)


def leaks(planted: list[Planted], path: Path) -> Iterator[tuple[Planted, str]]:
    """What of the planted is in a file: in its bytes, in what is compressed in it, in its values."""
    raw = path.read_bytes()
    dataset = dcmread(path)
    values = list(walk(dataset)) + list(walk(dataset.file_meta))
    packed = b"".join(unpacked(value) for _, _, value in values if isinstance(value, bytes))
    lowered = (raw + packed).lower()
    for one in planted:
        if one.kind == "burned":
            if one.text in raw.hex():
                yield one, "PixelData"
        elif one.exact:
            pattern = re.compile(rf"(?<![^\W_]){re.escape(one.text)}(?![^\W_])", re.I)
            for where, vr, value in values:
                if vr != "UI" and not isinstance(value, bytes) and pattern.search(plain(value)):
                    yield one, where
        elif any(spelled in lowered for spelled in spellings(one.text)):
            yield (
                one,
                ", ".join(where for where, _, value in values if one.text.lower() in plain(value).lower()) or "bytes",
            )
        elif one.text.isdigit() and any(
            vr not in ("UI", "OB", "OW") and _number(value) == one.text for _, vr, value in values
        ):
            yield one, ", ".join(where for where, _, value in values if _number(value) == one.text)


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, int | float) and value == value else ""


def unpacked(value: bytes) -> bytes:
    """What is compressed in a value."""
    at = value.find(b"\x1f\x8b")
    try:
        return gzip.decompress(value[at:].rstrip(b"\0")) if at >= 0 else b""
    except (OSError, EOFError, zlib.error):
        return b""


def walk(dataset: Dataset, before: str = "") -> Iterator[tuple[str, str, Any]]:
    """Place, VR and value of all elements; of sequences, those of their items."""
    for element in dataset:
        where = before + (element.keyword or f"({element.tag})".replace("((", "(").replace("))", ")"))
        if element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from walk(item, f"{where}[{number}].")
        elif element.keyword != "PixelData":
            yield where, element.VR, element.value


def table(runs: dict[str, Found]) -> str:
    """The table, in Markdown: of each situation and profile the objects that came out, and the planted values in them.

    The last columns are of the words and values that must stay, summed over the profiles.
    """
    heads = [f"{name}: out | leaks" for name in runs]
    lines = [f"| situation | objects | {' | '.join(heads)} | words kept | values kept |"]
    lines.append("|---|---:|" + "---:|---:|" * len(runs) + "---:|---:|")
    counts = Counter(thing.situation for thing in world())
    for title in SITUATIONS:
        lines.append(_row(title, counts[title], runs, [title]))
    lines.append(_row("**all**", sum(counts.values()), runs, list(SITUATIONS)))
    return "\n".join(lines)


def _row(name: str, objects: int, runs: dict[str, Found], titles: list[str]) -> str:
    cells = [name, str(objects)]
    for found in runs.values():
        cells.append(str(sum(len(found.delivered[title]) for title in titles)))
        cells.append(str(sum(len({leak[:2] for leak in found.leaks[title]}) for title in titles)))
    for kind in ("words", "values"):
        kept, asked = (
            sum(
                counters[title][kind]
                for found in runs.values()
                for counters in (getattr(found, of),)
                for title in titles
            )
            for of in ("kept", "asked")
        )
        cells.append(f"{100 * kept / asked:.1f} % of {asked:,}" if asked else "")
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """Print the table."""
    names = [name for name in sys.argv[1:] if not name.startswith("-")] or list(PROFILES)
    runs = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            things = corpus(Path(folder))
            runs[name] = run(name, "-i" in sys.argv, things, Path(folder), Path(folder))
        if "-v" in sys.argv:
            for title in SITUATIONS:
                for one in runs[name].leaks[title]:
                    print(f"LEAK {name} | {title} | " + " | ".join(one))
                for lost in runs[name].lost[title]:
                    print(f"LOST {name} | {title} | " + " | ".join(lost))
            print(runs[name].said)
    print(table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
