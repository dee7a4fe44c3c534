"""What was converted, kept from run to run in the protected state of the folder of the images.

| file                        | content                                                                       |
|-----------------------------|-------------------------------------------------------------------------------|
| convert/series/<key>.json   | a published series: digest of its objects, its images, where they are          |
| convert/names.json          | labels of patients and sessions, and paths of images, see `naming`             |
| convert/apart/<key>/        | images of a series in which identifiers were found                             |

| folder of the images                       | content                                                        |
|--------------------------------------------|----------------------------------------------------------------|
| .pacsifier/converted/<key>/<digest>/       | a converted series that waits for its publication              |
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pacsifier_ops.base.files import private_folder, read_json, write_json
from pacsifier_ops.convert.naming import Labels, Paths
from pacsifier_ops.state.tree import CONTROL, Tree, state_folder

#: Endings of the files of an image that the converter makes, beside the sidecar; the image itself is the last.
ENDINGS = (".bval", ".bvec", ".nii.gz")
_RECORD = "series.json"


@dataclass
class ImageRecord:
    """An image.

    Attributes:
        name: name that the converter gave it, such as `image_e2`.
        dims: lengths of its axes in voxels.
        volumes: number of its volumes.
        files: size in bytes and SHA-256 of each file, by ending.
        sidecar: what stands beside it, see `sidecar`.
        path: path without ending where it is published, below the folder of the images; empty: it is not.
        published: size in bytes and SHA-256 of its JSON file there.
    """

    name: str
    dims: list[int]
    volumes: int
    files: dict[str, list[Any]]
    sidecar: dict[str, Any]
    path: str = ""
    published: list[Any] = field(default_factory=list)

    @property
    def postfix(self) -> str:
        """What the converter added to its name, such as `e2` or `Tilt_1`; empty: nothing."""
        return self.name.partition("_")[2]


@dataclass
class SeriesRecord:
    """A converted series.

    Attributes:
        key: opaque name of the series.
        digest: of its objects and the converter.
        objects: number of its objects that may hold images; unused: of these, how many the converter has not used.
        others: number of other objects.
        warnings: what the converter remarked, by kind.
        images: its images.
        converter: version of the converter.
    """

    key: str
    digest: str
    objects: int
    unused: int
    others: int
    warnings: dict[str, int]
    images: list[ImageRecord]
    converter: str = ""

    def __post_init__(self) -> None:
        self.images = [ImageRecord(**one) if isinstance(one, dict) else one for one in self.images]


class Store:
    """The store of a folder of images.

    Args:
        tree: the folder.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree, self.root = tree, tree.root
        self._home = state_folder(tree.root) / "convert"
        self.waiting = tree.root / CONTROL / "converted"

    # Published series

    def record(self, key: str) -> SeriesRecord | None:
        """Return the record of a published series; None where there is none, or it is damaged."""
        with suppress(FileNotFoundError, ValueError, TypeError):
            return SeriesRecord(**read_json(self._home / "series" / f"{key}.json"))
        return None

    def records(self) -> Iterator[SeriesRecord]:
        """Yield the records of all published series, in order of their keys."""
        with suppress(FileNotFoundError):
            for path in sorted((self._home / "series").glob("*.json")):
                if record := self.record(path.stem):
                    yield record

    def keep(self, record: SeriesRecord) -> None:
        """Store the record of a series."""
        write_json(private_folder(self._home / "series") / f"{record.key}.json", asdict(record))

    def forget(self, key: str) -> None:
        """Remove the record of a series."""
        (self._home / "series" / f"{key}.json").unlink(missing_ok=True)

    def whole(self, record: SeriesRecord) -> bool:
        """Whether all files of a published series are there, by size."""
        return all(
            self._there(image.path + ending, size)
            for image in record.images
            for ending, (size, _) in {**image.files, ".json": image.published or [0, ""]}.items()
        )

    def _there(self, name: str, size: int) -> bool:
        path = self.root / name
        return path.is_file() and not path.is_symlink() and path.stat().st_size == size

    # Converted series that wait

    def place(self, key: str, digest: str) -> Path:
        """Return the folder for a converted series that waits."""
        return self.waiting / key / digest

    def converted(self, key: str, digest: str) -> SeriesRecord | None:
        """Return the record of a converted series that waits; None where it does not, or is not whole any more."""
        place = self.place(key, digest)
        with suppress(FileNotFoundError, ValueError, TypeError):
            record = SeriesRecord(**read_json(place / _RECORD))
            files = [(place / (one.name + end), size) for one in record.images for end, (size, _) in one.files.items()]
            if all(path.is_file() and path.stat().st_size == size for path, size in files):
                return record
        return None

    def drop(self, key: str) -> None:
        """Remove what waits of a series."""
        shutil.rmtree(self.waiting / key, ignore_errors=True)

    # Names

    def names(self) -> tuple[Labels, Paths]:
        """Return the names that were given."""
        with suppress(FileNotFoundError):
            kept = read_json(self._home / "names.json")
            return Labels(**kept["labels"]), Paths({key: (wish, n) for key, (wish, n) in kept["paths"].items()})
        return Labels(), Paths()

    def keep_names(self, labels: Labels, paths: Paths) -> None:
        """Store names."""
        write_json(private_folder(self._home) / "names.json", {"labels": asdict(labels), "paths": paths.given})

    def apart(self, key: str) -> Path:
        """Return the protected folder for a series in which identifiers were found."""
        return self._home / "apart" / key


def write_record(folder: Path, record: SeriesRecord) -> None:
    """Write the record of a converted series into its folder."""
    write_json(folder / _RECORD, asdict(record))
