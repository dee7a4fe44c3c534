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
from pacsifier_ops.base.options import Flag, Section, any_file, flag_only, option
from pacsifier_ops.pseudonyms.local import ALPHABET, Style
from pacsifier_ops.pseudonyms.secret import DEFAULT_PROJECT, PROJECT_PATTERN
from pacsifier_ops.query.reading import Reading
from pacsifier_ops.runs import options as common
from pacsifier_ops.runs.folder import KeptRequest

#: Where pseudonyms come from: the De-ID service, a mapping file, or the project's secret.
DEID, CUSTOM, LOCAL = "de-id", "custom", "local"
SOURCES = {
    DEID: "the De-ID service",
    CUSTOM: "a mapping file",
    LOCAL: "derived from the project's secret, nobody is asked",
}


@dataclass(frozen=True)
class PseudonymRequest(Reading, KeptRequest):
    """What a run was asked for, and how its table is read. Paths that are not given are empty; of the rest, the options
    tell.

    Attributes:
        deid: connection of the De-ID service; a command has a configuration instead.
        allow_empty: a folder without any object is no error.
        out_directory: folder of the linkage store; empty for the project's own below the state root.
        started: ISO 8601.
    """

    source: str = option(
        "Pseudonyms",
        "Who says who becomes whom.",
        Section.SOURCE,
        form=DEID,
        choices=SOURCES,
        flag=Flag("where pseudonyms come from (default: de-id)", "-m", name="mode", default=DEID),
    )
    project: str = option(
        "Project",
        "Whose pseudonyms these are: letters, digits, dots, dashes and underscores. A patient has another pseudonym in "
        "every project.",
        Section.WHAT,
        default=DEFAULT_PROJECT,
        shortest=0,
        pattern=f"^{PROJECT_PATTERN}$",
        flag=Flag("name of the project", "-a", name="project_name", required=True),
    )
    queryfile: str = option(
        "Query table",
        "A table with the column PatientID: the id of a request (req-…), or the path of a csv, xlsx, Parquet or DuckDB "
        "file below the data root.",
        Section.WHAT,
        default="",
        path=any_file,
        flag=Flag("query table whose patients are wanted", "-q"),
    )
    in_folder: str = option(
        "Folder",
        "Instead of the table: a folder of DICOM files, such as the output folder of an extraction, as a path below "
        "the data root.",
        Section.WHAT,
        default="",
        path=any_file,
        flag=Flag("folder of DICOM files whose patients are wanted", extra=True),
    )
    deid: str = option(
        "De-ID service",
        "Only with de-id: id of a connection of type deid_api.",
        Section.SOURCE,
        default="deid_default",
    )
    mappingfile: str = option(
        "Mapping file",
        "Only with custom: path below the data root of a csv file with a line old,new for each patient.",
        Section.SOURCE,
        default="",
        path=any_file,
        flag=Flag("csv file of lines old,new, for the mode custom", "-mf"),
    )
    shift_days: bool = option(
        "Move dates",
        "Give every patient a day shift from -30 to 30, never 0. With de-id the service decides.",
        Section.SOURCE,
        default=True,
        flag=Flag("move dates by -30 to 30 days, not 0 (modes custom and local)", name="shift-days"),
    )
    prefix: str = option(
        "Prefix",
        "Begins every pseudonym.",
        Section.LOOK,
        default=Style.prefix,
        shortest=0,
        longest=32,
        flag=Flag("begins every pseudonym (mode local)", extra=True),
    )
    length: int = option(
        "Length",
        "Characters after the prefix. Two of 100,000 patients have the same with a probability of 2 in 100,000 at 10 "
        "characters; if they do, the run stops and says so.",
        Section.LOOK,
        default=Style.length,
        least=4,
        most=40,
        flag=Flag("characters after the prefix (mode local)", extra=True, free=True),
    )
    alphabet: str = option(
        "Alphabet",
        "The characters to choose from.",
        Section.LOOK,
        default=ALPHABET,
        shortest=0,
        pattern="^[0-9A-Za-z]{2,36}$",
        flag=Flag("characters to choose from (mode local)", extra=True),
    )
    leave_out: bool = option(
        "Leave out who is unknown",
        "A patient of whom the source says nothing usable does not keep the others of the batch from being linked. The "
        "run is incomplete all the same.",
        Section.HOW,
        default=False,
    )
    accept_incomplete: bool = common.accept_incomplete(flag=None)
    out_directory: str = flag_only(
        "",
        Flag(
            "folder of new_ids_<project>.json, day_shift_<project>.json and log_get_pseudonyms.csv, which nobody else "
            "may read; made if need be",
            "-d",
            required=True,
        ),
        path=any_file,
    )
    allow_empty: bool = False
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
