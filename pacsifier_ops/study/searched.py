"""What the gate has searched: findings of each file, and contents by folder in which new terms are searched.

A file that has not changed is not read again, also if there is more to search for than the last time. An identifier is
found in a value of a file, whatever its other values are. So the values that the files of a folder have in common are
kept once, without pixels, and the new terms are searched in all of them together. Where these are clean of the new
terms, each of the files is. Where they are not, the files are read.

Contents are kept of DICOM objects without findings. All other files, such as the manifest, are read again whenever the
search is for something else. So are objects that have more than MOST bytes of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from pacsifier_ops import __version__
from pacsifier_ops.base.files import (
    name_below,
    private_folder,
    read_json,
    readable,
    storage_errors,
    write_atomic,
    write_json,
)
from pacsifier_ops.base.identity import digest_of
from pacsifier_ops.state.facts import AGAIN, Facts, facts_folder, identity_of
from pacsifier_ops.state.standing import Standing, stamp_of, stamp_of_folder
from pacsifier_ops.state.tree import state_folder
from pacsifier_ops.study.listing import Part

if TYPE_CHECKING:
    from pacsifier_ops.deid.identifiers import SearchTerms
    from pacsifier_ops.deid.verifier import FileContent

#: Kinds of findings; see `gate`.
BLOCKING, WAIVABLE = "blocking", "waivable"

#: End of the names of images in a data set.
IMAGE = ".dcm"

#: Dates (`YYYYMMDD`), each with the tag of the attribute that it comes from.
Dates = Mapping[str, int]
NO_DATES: Dates = MappingProxyType({})

#: Findings in a file by kind, without values.
Findings: TypeAlias = dict[str, list[str]]

#: Most bytes that are kept of the first file of a folder, of what another has beside those before it, and of a folder.
FIRST, MOST, WHOLE = 1 << 20, 1 << 14, 1 << 24

#: The lists of a `verifier.FileContent` that `verifier.hits` looks at; `clean_uids` is empty if all elements were read.
_LISTS = ("texts", "codes", "named", "numbers", "dates", "uids", "binary", "pieces")


@dataclass(frozen=True)
class Terms:
    """What is searched for.

    Attributes:
        certain, doubtful: identifiers whose findings are blocking, and waivable.
        uids: UIDs that were replaced; blocking.
    """

    certain: SearchTerms
    doubtful: SearchTerms
    uids: frozenset[str]

    def findings(self, content: FileContent, dates: Dates = NO_DATES) -> Findings:
        """Return the findings in a content.

        Args:
            content: the content.
            dates: dates that are forbidden in it; blocking.
        """
        from pacsifier_ops.deid.verifier import hits

        return {
            BLOCKING: sorted(map(str, hits(content, self.certain, self.uids, dates))),
            WAIVABLE: sorted(map(str, hits(content, self.doubtful, frozenset()))),
        }

    def hashes(self) -> set[str]:
        """Return a hash of each term."""
        return {_hash(*term) for term in self._each()} | {_hash("uid", uid) for uid in self.uids}

    def without(self, known: Collection[str]) -> Terms:
        """Return the terms whose hashes are not among these."""
        from pacsifier_ops.deid.identifiers import SearchTerms

        certain, doubtful = (
            SearchTerms(
                **{
                    one.name: {
                        term: tag
                        for term, tag in getattr(terms, one.name).items()
                        if _hash(kind, one.name, term) not in known
                    }
                    for one in fields(terms)
                }
            )
            for kind, terms in self._kinds()
        )
        return Terms(certain, doubtful, frozenset(uid for uid in self.uids if _hash("uid", uid) not in known))

    def digest(self) -> str:
        """Return the SHA-256 of all terms, hexadecimal."""
        whole = hashlib.sha256(repr(sorted(self.uids)).encode())
        for _, terms in self._kinds():
            for one in fields(terms):
                whole.update(repr(sorted(getattr(terms, one.name).items())).encode())
        return whole.hexdigest()

    def _kinds(self) -> Iterable[tuple[str, SearchTerms]]:
        return (BLOCKING, self.certain), (WAIVABLE, self.doubtful)

    def _each(self) -> Iterator[tuple[object, ...]]:
        for kind, terms in self._kinds():
            yield from ((kind, one.name, term) for one in fields(terms) for term in getattr(terms, one.name))


def _hash(*term: object) -> str:
    return hashlib.sha256(repr(term).encode()).hexdigest()[:24]


class Search:
    """A search of the files of a data set. A context manager, which keeps what was found if it ends well.

    Args:
        root: the data set.
        terms: what is searched for.
        dates: SHA-256 of the dates that are searched for beside these.
        pieces: yields the pieces of a file, from its path and its name: its name first, then its content, each with the
            dates that are forbidden in it, which are NO_DATES in a DICOM object and there alone.
        names: returns the content of several names of files, and the dates that are forbidden in names beside these.

    Attributes:
        files_read: number of files that were read.
    """

    def __init__(
        self,
        root: Path,
        terms: Terms,
        dates: str,
        pieces: Callable[[Path, str], Iterator[tuple[FileContent | str, Dates]]],
        names: Callable[[list[str]], tuple[FileContent, Dates]],
    ) -> None:
        self._root, self._terms, self._pieces, self._names = root, terms, pieces, names
        self._home = facts_folder(root) / "contents"
        self._kept = state_folder(root.resolve()).is_dir()  # nothing is kept of a folder that is no tree, see `Facts`
        self._digest = hashlib.sha256(f"{terms.digest()} {dates}".encode()).hexdigest() if self._kept else ""
        self._facts = Facts(root, "searched", self._read, self._packed, self._unpacked, renew=self._renew)
        self._standing = Standing(root, "clean")
        self._folder: Contents | None = None  # the one at hand
        self._clean = False
        self._before = ""
        self._new: Terms | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with storage_errors("the state root"), suppress(FileNotFoundError, ValueError, TypeError, KeyError):
            kept = read_json(self._home / "terms.json")
            self._before = str(kept["digest"])
            if self._before != self._digest:
                self._new = self._terms.without(set(kept["terms"]))
        self._stack.enter_context(self._standing)
        self._stack.enter_context(self._facts)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            with storage_errors("the state root"):
                self._leave()
                if self._kept and self._before != self._digest:
                    # Before the facts: without them, what was found with other terms is read again.
                    terms = {"digest": self._digest, "terms": sorted(self._terms.hashes())}
                    write_json(private_folder(self._home) / "terms.json", terms)
        self._stack.__exit__(kind, error, trace)

    def __call__(self, name: str) -> Findings:
        """Return the findings in a file.

        Args:
            name: its path below the data set.

        Raises:
            OSError: it cannot be read.
        """
        return self._facts(f"{self._root}/{name}")

    def is_clean(self, part: Part) -> bool:
        """Return whether exactly these files were searched for all of this before, and nothing was found."""
        if self._standing.get(part.folder, self._stamp(part)) is None:
            return False
        self._facts.hold(part.folder)
        return True

    def found_clean(self, part: Part, names: Iterable[str]) -> None:
        """Keep that all files of a part were searched, and nothing was found.

        Args:
            names: their paths. If one of them is no image by its name, nothing is kept: what is searched in tables
                depends on the digests of other files as well.
        """
        # What was searched are the listed files if the folder is as it was when they were listed.
        images = all(name.endswith(IMAGE) for name in names)
        if images and stamp_of_folder(self._root / part.folder, self._root) == part.stamp:
            self._standing.put(part.folder, self._stamp(part), True, self._facts.since)

    def _stamp(self, part: Part) -> str:
        return stamp_of(part.stamp, part.digest, part.files, self._digest)

    @property
    def files_read(self) -> int:
        """Return the number of files that were read."""
        return self._facts.files_read

    # What Facts asks for

    def _read(self, path: Path) -> Findings:
        name = readable(name_below(path, self._root))
        identity = identity_of(os.stat(path))
        found: Findings = {BLOCKING: [], WAIVABLE: []}
        objects: list[FileContent] = []
        for number, (content, dates) in enumerate(self._pieces(path, name)):
            if isinstance(content, str):
                found[BLOCKING].append(content)
                continue
            for kind, findings in self._terms.findings(content, dates).items():
                found[kind] += findings
            if number and dates is NO_DATES:
                objects.append(content)
        if self._kept and len(objects) == 1 and not any(found.values()):
            self._contents_of(path).add(path.name, identity, objects[0])
        return found

    def _packed(self, found: Findings) -> list[Any]:
        return [self._digest, found] if any(found.values()) else [self._digest]

    def _unpacked(self, value: list[Any], path: Path | str) -> Findings:
        return value[1] if len(value) > 1 else {}

    def _renew(self, value: list[Any], asked: Path | str, identity: list[int]) -> Any:
        """Return what is kept of an unchanged file, if it still holds with the terms of this search."""
        if value[0] == self._digest:
            return value
        if len(value) > 1 or value[0] != self._before or self._new is None:
            return AGAIN
        path = Path(asked)
        contents = self._contents_of(path)
        return [self._digest] if self._clean and contents.members.get(path.name) == identity else AGAIN

    # Folders

    def _contents_of(self, path: Path) -> Contents:
        folder = readable(name_below(path, self._root).rpartition("/")[0])
        if self._folder is None or self._folder.folder != folder:
            self._leave()
            self._folder = Contents(self._home, folder)
            self._clean = self._new is not None and self._is_clean(self._folder, self._new)
        return self._folder

    def _is_clean(self, contents: Contents, new: Terms) -> bool:
        """Return whether the files whose contents are kept are clean of these terms, and their names of all terms."""
        below = f"{contents.folder}/" if contents.folder else ""
        names, dates = self._names([readable(below + name) for name in contents.members])
        found = [self._terms.findings(names, dates), new.findings(contents.whole())]
        return not any(findings for one in found for findings in one.values())

    def _leave(self) -> None:
        if self._folder is not None:
            self._folder.keep()
            self._folder = None


class Contents:
    """The contents of files of one folder.

    Args:
        home: folder of all contents of the data set.
        folder: path of the folder below the data set.

    Attributes:
        folder: that path.
        members: identity of each file whose content is among them (see `state.facts.identity_of`), by name.
    """

    def __init__(self, home: Path, folder: str) -> None:
        self.folder = folder
        self._path = home / f"{digest_of(folder)}.z"
        self.members: dict[str, list[int]] = {}
        self._values: dict[str, dict[tuple[Any, ...], None]] = {name: {} for name in _LISTS}
        self._added = False
        self._size = 0
        # What is damaged is not known.
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError, zlib.error):
            version, members, values = json.loads(zlib.decompress(self._path.read_bytes()))
            if version == __version__:
                kept = {name: dict.fromkeys(map(_loaded, values[name])) for name in _LISTS}
                self.members, self._values = dict(members), kept
                self._size = sum(_length(value) for values in kept.values() for value in values)

    def add(self, name: str, identity: list[int], content: FileContent) -> None:
        """Add the content of a file without findings.

        Args:
            name: name of the file.
            identity: its identity when the reading began.
            content: its content.
        """
        if self.members.get(name, identity) != identity:
            # It was another file, and what it had is not told apart from what others have.
            self.members, self._values, self._size = {}, {one: {} for one in _LISTS}, 0
        own = [(one, value) for one in _LISTS for value in _of(content, one) if value not in self._values[one]]
        size = sum(_length(value) for _, value in own)
        self._added = True
        if size > (MOST if self.members else FIRST) or self._size + size > WHOLE:
            self.members.pop(name, None)  # it may have been added before, with a content of the same identity
            return
        self._size += size
        for one, value in own:
            self._values[one][value] = None
        self.members[name] = identity

    def whole(self) -> FileContent:
        """Return all values."""
        from pacsifier_ops.deid.verifier import FileContent

        whole = FileContent()
        for name, values in self._values.items():
            getattr(whole, name).extend(value[0] if name == "pieces" else value for value in values)
        return whole

    def keep(self) -> None:
        """Write what was added.

        Raises:
            OSError: the state root cannot be written.
        """
        if self._added:
            values = {name: [_kept(value) for value in values] for name, values in self._values.items()}
            text = json.dumps([__version__, self.members, values], separators=(",", ":"))
            private_folder(self._path.parent)
            write_atomic(self._path, zlib.compress(text.encode(), 1))


def _length(value: tuple[Any, ...]) -> int:
    return sum(len(part) for part in value if isinstance(part, bytes | str))


def _of(content: FileContent, name: str) -> Iterator[tuple[Any, ...]]:
    values: Iterable[Any] = getattr(content, name)
    return ((value,) if name == "pieces" else value for value in values)


def _kept(value: tuple[Any, ...]) -> list[Any]:
    """Return a value as JSON: bytes as a list of one text, in which each byte is one letter."""
    return [[part.decode("latin-1")] if isinstance(part, bytes) else part for part in value]


def _loaded(value: list[Any]) -> tuple[Any, ...]:
    return tuple(part[0].encode("latin-1") if isinstance(part, list) else part for part in value)
