"""The request of a pseudonymization.

A unit has one item, a batch of patients. Beside the files of every job (see `runs.job`):

| file                 | written by | what                                                     |
|----------------------|------------|----------------------------------------------------------|
| patients.jsonl       | prepare    | every patient of the cohort, see patients.Patient        |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.pseudonyms.local import ALPHABET, Style
from pacsifier_ops.pseudonyms.secret import DEFAULT_PROJECT
from pacsifier_ops.query.reading import Reading
from pacsifier_ops.runs.folder import Kept

#: Where pseudonyms come from: the De-ID service, a mapping file, or the project's secret.
DEID, CUSTOM, LOCAL = "de-id", "custom", "local"
SOURCES = (DEID, CUSTOM, LOCAL)


@dataclass(frozen=True)
class PseudonymRequest(Reading, Kept):
    """What a run was asked for, and how its table is read. Paths that are not given are empty.

    Attributes:
        source: one of SOURCES.
        project: whose pseudonyms these are, for the De-ID service and for us.
        queryfile: the query table whose patients are to be linked.
        in_folder: the folder of DICOM files whose patients are to be linked.
        mappingfile: the mapping file of the source `custom`.
        shift_days: dates are moved; the De-ID service decides itself.
        prefix, length, alphabet: what pseudonyms of the source `local` look like (see `local.Style`).
        leave_out: patients of whom the source says nothing usable are left out, and do not keep the others of their
            batch from being linked.
        allow_empty: a folder without any object is no error.
        out_directory: folder of the linkage store; empty for the project's own below the state root.
        started: ISO 8601.
    """

    source: str
    project: str = DEFAULT_PROJECT
    queryfile: str = ""
    in_folder: str = ""
    mappingfile: str = ""
    shift_days: bool = True
    prefix: str = Style.prefix
    length: int = Style.length
    alphabet: str = ALPHABET
    leave_out: bool = False
    allow_empty: bool = False
    out_directory: str = ""
    started: str = ""

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            ConfigError: names what is missing or too much.
        """
        if self.queryfile and self.in_folder:
            raise ConfigError("both queryfile and in_folder are given; leave one of them out")
        if not self.queryfile and (how := [name for name, value in self.options().items() if value]):
            raise ConfigError(f"{', '.join(how)}: how a query table is read, and queryfile is not given")
        if self.source == CUSTOM and not self.mappingfile:
            raise ConfigError("the source custom needs mappingfile: a file of lines old,new")
        if self.source != CUSTOM and self.mappingfile:
            raise ConfigError(f"mappingfile goes with the source custom, and the source is {self.source}")
        if self.source != CUSTOM and not (self.queryfile or self.in_folder):
            raise ConfigError("whose pseudonyms? give queryfile, a table with the column PatientID, or in_folder")

    @property
    def folder(self) -> Path | None:
        """Folder of the linkage store; None for the project's own."""
        return Path(self.out_directory) if self.out_directory else None

    @property
    def style(self) -> Style:
        """What pseudonyms of the source `local` look like."""
        return Style(self.prefix, self.length, self.alphabet)
