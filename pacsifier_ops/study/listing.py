"""The list of the files of a data set, with their digests, as it is approved. It comes in parts, one for each folder.

A folder that is as it was has the same part as before. Who works through a list looks at its parts, and at the files of
those parts that are not as they were.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from pacsifier_ops.base.errors import Cancelled
from pacsifier_ops.base.files import (
    ascii_json,
    atomic_stream,
    below,
    json_line,
    name_below,
    read_jsonl,
    readable,
    write_jsonl,
)
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.facts import Facts
from pacsifier_ops.state.ledger import digest
from pacsifier_ops.state.same import store_once
from pacsifier_ops.state.standing import UNKNOWN, Standing, stamp_of_folder, stamps_of
from pacsifier_ops.state.tree import CONTROL

#: Name of what is known of the files of a tree, see `Facts`.
DIGESTS = "digests"

#: Kinds of files in the run's folder (see `Run.part`): the list, and its parts.
LIST, PARTS = "output", "parts"


@dataclass(frozen=True)
class Part:
    """Lines that follow each other in a list: files of one folder.

    Attributes:
        folder: path of the folder below the data set.
        stamp: of the folder when its lines were made, see `state.standing`; UNKNOWN unless these are all its files.
        files, bytes: number and total size of the files.
        start, length: place of the lines in the list, in bytes.
        digest: SHA-256 of the lines, hexadecimal.
    """

    folder: str
    stamp: str
    files: int
    bytes: int
    start: int
    length: int
    digest: str


class _Lines(NamedTuple):
    folder: str
    stamp: str
    text: str
    bytes: int


def write_list(run: Run, root: Path, cancelled: Callable[[], bool]) -> tuple[str, list[Part]]:
    """List every file of a data set, in the order of paths; links are not followed.

    Returns:
        The digest of the list, hexadecimal, and its parts.

    Raises:
        OSError: something cannot be read or written.
        Cancelled: `cancelled` said so.
    """
    with atomic_stream(run.part(LIST)) as stream:
        whole, parts = _joined(_lines_below(root, cancelled), stream.write)
    store_once(run.part(LIST), root)
    write_jsonl(run.part(PARTS), [whole, *map(asdict, parts)])
    return whole, parts


def files_below(root: Path, cancelled: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """Yield path, size and digest of every file of a folder, as a list has them."""
    return (json_line(line) for lines in _lines_below(root, cancelled) for line in lines.text.splitlines())


def parts_of(run: Run) -> list[Part]:
    """Return the parts of the list of a run."""
    with suppress(FileNotFoundError):
        whole, *parts = read_jsonl(run.part(PARTS))
        if whole == digest(run.part(LIST)):
            return [Part(**part) for part in parts]
    # An earlier version has made it, or a process was killed in between.
    with run.part(LIST).open(encoding="ascii") as stream:
        files = ((line, json_line(line)) for line in stream)
        lines = (_Lines(_folder(file["path"]), UNKNOWN, line, file["size"]) for line, file in files)
        return _joined(lines)[1]


def files_of(run: Run, parts: Iterable[Part]) -> Iterator[tuple[Part, list[dict[str, Any]]]]:
    """Yield each of these parts of the list of a run with its files: path, size and digest."""
    with run.part(LIST).open("rb") as stream:
        for part in parts:
            stream.seek(part.start)
            yield part, [json.loads(line) for line in stream.read(part.length).splitlines()]


def _joined(found: Iterable[_Lines], write: Callable[[bytes], Any] = lambda text: None) -> tuple[str, list[Part]]:
    """Join the lines of a folder, as far as they follow each other. Return the digest of all, and the parts."""
    whole, parts, start = hashlib.sha256(), [], 0
    for (folder, stamp), some in groupby(found, lambda lines: lines[:2]):
        texts, sizes = zip(*(lines[2:] for lines in some), strict=True)
        text = "".join(texts).encode()
        write(text)
        whole.update(text)
        of_part = hashlib.sha256(text).hexdigest()
        parts.append(Part(folder, stamp, text.count(b"\n"), sum(sizes), start, len(text), of_part))
        start += len(text)
    return whole.hexdigest(), parts


def _lines_below(root: Path, cancelled: Callable[[], bool]) -> Iterator[_Lines]:
    """Yield the lines of each folder without folders in it, and of each other file."""
    try:
        stamps = stamps_of(root)
    except FileNotFoundError:
        return
    above = {_folder(name) for name in stamps if name}

    def has_folders(entry: os.DirEntry[str]) -> bool:
        name = name_below(entry.path, root)
        return name in above or name not in stamps

    with Standing(root, "listed") as standing, Facts(root, DIGESTS, digest) as digest_of:

        def line(entry: os.DirEntry[str]) -> _Lines:
            if cancelled():
                raise Cancelled("stopped on request")
            status = entry.stat(follow_symlinks=False)
            name, size = readable(name_below(entry.path, root)), status.st_size
            text = ascii_json({"path": name, "size": size, "sha256": digest_of(entry.path, status)})
            return _Lines(_folder(name), UNKNOWN, f"{text}\n", size)

        for entry, problem in below(root, _is_control, has_folders):
            if problem is not None:
                raise problem
            if cancelled():
                raise Cancelled("stopped on request")
            if entry.is_file(follow_symlinks=False):
                yield line(entry)
            elif entry.is_dir(follow_symlinks=False) and not has_folders(entry):
                name = name_below(entry.path, root)
                stamp = stamps[name]
                kept = standing.get(name, stamp)
                if kept is not None:
                    digest_of.hold(name)
                else:
                    # A folder that has come meanwhile is none of this list, and the next stamps know it.
                    inside = below(Path(entry.path), _is_control, lambda entry: False)
                    lines = [line(one) for one, _ in inside if one.is_file(follow_symlinks=False)]
                    kept = ["".join(one.text for one in lines), sum(one.bytes for one in lines)]
                    if stamp_of_folder(Path(entry.path), root) != stamp:
                        stamp = UNKNOWN
                    standing.put(name, stamp, kept, digest_of.since)
                if kept[0]:
                    yield _Lines(readable(name), stamp, *kept)


def _is_control(entry: os.DirEntry[str]) -> bool:
    return entry.name == CONTROL and entry.is_dir(follow_symlinks=False)


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
