"""The folder of one run: everything its steps hand to each other, protected, outside every data set.

| file                 | written by | what                                                       |
|----------------------|------------|------------------------------------------------------------|
| request.json         | prepare    | what was asked for                                         |
| rows.jsonl           | prepare    | every row of the query table, bad ones with their reason   |
| table.json           | prepare    | the table's columns, and which lines repeat another        |
| rows/<batch>.jsonl   | prepare    | the rows of one batch                                      |
| found/<batch>.jsonl  | find       | how each row ended, followed by the series that answer it  |
| plan.json            | plan       | how many units, and lines that contradict each other       |
| units/<unit>.jsonl   | plan       | the series of one retrieval unit, see Planned              |
| results/<unit>.jsonl | retrieve   | the account of each series of the unit                     |
| accounts.json        | report     | the accounts of the run                                    |
| report.html          | report     | the same for people                                        |
| problems.txt         | any        | errors and warnings with the values that logs must not hold |
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pacsifier_ops import settings
from pacsifier_ops.accounts import SeriesAccount
from pacsifier_ops.files import PRIVATE_FILE, private_folder, read_json, storage_errors, write_json

RETRIEVE = ("save", "none")


def now() -> str:
    """The time now, ISO 8601 with zone, to the second."""
    return dt.datetime.now().astimezone().isoformat(timespec="seconds")


@dataclass(frozen=True)
class Request:
    """What a run was asked for.

    Attributes:
        queryfile: the query table.
        out_directory: the output folder.
        info: write an info dump per series.
        retrieve: save or none.
        method: auto, get or move; None leaves it to the node.
        strict: any bad row stops the run before the PACS is asked.
        accept_incomplete: an incomplete run counts as a success for whoever waits for it.
        max_series: the largest cohort that may be fetched; None leaves it to the node.
        pacs: name of the connection or configuration.
        started: ISO 8601.
    """

    queryfile: Path
    out_directory: Path
    info: bool = False
    retrieve: str = "save"
    method: str | None = None
    strict: bool = False
    accept_incomplete: bool = False
    max_series: int | None = None
    pacs: str = ""
    started: str = ""


@dataclass
class Planned:
    """A series to be retrieved: a line of a retrieval unit.

    Attributes:
        number: ordinal in the run, from 1.
        lines: lines of the query table that ask for it.
        attributes: text of what the archive returned, by keyword.
        folder: path of the series folder below the output folder.
        new_id: pseudonym given in the query table, or empty.
    """

    number: int
    lines: list[int]
    study_uid: str
    series_uid: str
    attributes: dict[str, str]
    folder: str
    new_id: str = ""

    @property
    def instances(self) -> int | None:
        """NumberOfSeriesRelatedInstances, where the archive gave it."""
        return instances_of(self.attributes)

    def account(self) -> SeriesAccount:
        """The account of this series before anything is fetched: all of it is missing."""
        return SeriesAccount(
            number=self.number,
            lines=self.lines,
            study_uid=self.study_uid,
            series_uid=self.series_uid,
            modality=self.attributes.get("Modality", ""),
            series_number=self.attributes.get("SeriesNumber", ""),
            description=self.attributes.get("SeriesDescription", ""),
            folder=self.folder,
            expected=self.instances,
            missing=self.instances or 0,
        )


def instances_of(attributes: Mapping[str, str]) -> int | None:
    """NumberOfSeriesRelatedInstances (PS3.4 C.3.4), where the archive gave it."""
    text = attributes.get("NumberOfSeriesRelatedInstances", "")
    return int(text) if text.isascii() and text.isdigit() else None


class Run:
    """A run's folder.

    Args:
        folder: `<state root>/runs/<id>`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def named(cls, name: str) -> Run:
        """The run of an opaque name, its folder made where needed.

        Raises:
            StorageError: the state root cannot be written.
        """
        with storage_errors("the state root"):
            return cls(private_folder(settings.state_root() / "runs" / name))

    @classmethod
    def fresh(cls) -> Run:
        """A run with a name of its own."""
        return cls.named(f"{dt.datetime.now():%Y%m%dT%H%M%S}-{secrets.token_hex(4)}")

    @property
    def name(self) -> str:
        """Opaque id of the run."""
        return self.folder.name

    @property
    def report(self) -> Path:
        """Where the HTML report lies."""
        return self.folder / "report.html"

    def part(self, kind: str, number: int | None = None) -> Path:
        """Path of `<kind>.jsonl`, or of `<kind>/<number>.jsonl`."""
        if number is None:
            return self.folder / f"{kind}.jsonl"
        return private_folder(self.folder / kind) / f"{number:05d}.jsonl"

    def parts(self, kind: str) -> list[Path]:
        """The existing numbered parts of a kind, in order."""
        return sorted((self.folder / kind).glob("*.jsonl"))

    def forget(self, kinds: Iterable[str]) -> None:
        """Remove what an earlier attempt of a step left, so that nothing stale is counted."""
        for kind in kinds:
            for path in [*self.parts(kind), self.folder / f"{kind}.jsonl", self.folder / f"{kind}.json"]:
                path.unlink(missing_ok=True)

    def save_request(self, request: Request) -> None:
        """Keep the request."""
        write_json(self.folder / "request.json", {k: _plain(v) for k, v in asdict(request).items()})

    @property
    def request(self) -> Request:
        """The request kept by `save_request`."""
        value = read_json(self.folder / "request.json")
        value.update(queryfile=Path(value["queryfile"]), out_directory=Path(value["out_directory"]))
        return Request(**value)

    def note(self, text: str) -> None:
        """Append to problems.txt what may hold values and therefore must not reach a log."""
        handle = os.open(self.folder / "problems.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
        with os.fdopen(handle, "a", encoding="utf-8") as stream:
            stream.write(f"{now()} {text.rstrip()}\n")


@contextmanager
def noted_warnings(run: Run) -> Iterator[None]:
    """Write warnings to the run's problems.txt: those of pydicom quote values."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, kind, *where: run.note(f"{kind.__name__}: {message}")
        yield


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


#: Batches of rows, or units of series, at most: Airflow maps over no more than 1,024 items, and each costs 0.2 s.
MOST = 500


def slices(count: int, most: int = MOST) -> list[range]:
    """Cut 0…count-1 into at most `most` consecutive ranges of equal size, of one each while there are few."""
    size = max(1, -(-count // most))
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
