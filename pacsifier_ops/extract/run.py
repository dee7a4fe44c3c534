"""The request of an extract run, its items, and the files of its steps in addition to those of every job (`runs.job`).

| file                 | written by | content                                                    |
|----------------------|------------|------------------------------------------------------------|
| rows.jsonl           | prepare    | the accounts of all rows, bad rows with their reasons      |
| table.json           | prepare    | the columns of the query table, and its repeated lines     |
| rows/<batch>.jsonl   | prepare    | the rows of one batch                                      |
| selection.yaml       | prepare    | a copy of the file of the selection                        |
| found/<batch>.jsonl  | find       | the state of each row, followed by its series              |
| left_out/<batch>.jsonl | find     | series that the selection leaves out, with the reason      |
| beside.parquet       | prepare    | the cells of columns that are not ours, by line, if a      |
|                      |            | column map lets them through                               |
| source.parquet       | prepare    | the query table, if it comes from a database               |
| plan.json            | plan       | size of the cohort, limits that it exceeds, and lines that |
|                      |            | contradict each other                                      |

The items of a unit are series, see `Planned`; the step plan writes them. Their results are accounts of series.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pacsifier_ops.base.config import ACCEPT_ARCHIVE
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.base.options import IN_FORM, Flag, Section, any_file, flag_only, option, result_folder
from pacsifier_ops.query.reading import Reading
from pacsifier_ops.runs import options as common
from pacsifier_ops.runs.accounts import MOVE, NONE, SAVE, SeriesAccount
from pacsifier_ops.runs.approvals import LONGEST_PATIENCE, PATIENCE
from pacsifier_ops.runs.folder import KeptRequest, Run
from pacsifier_ops.state.tree import BY_UID, PACSIFIER, Tree

#: Values of `retrieve`: what happens to the images of the series that are found.
RETRIEVE = {
    SAVE: "fetch them to the output folder",
    MOVE: "have the PACS send them to another node",
    NONE: "only find the series, and report",
}

#: Values of `search`: how many of several archives are queried for a row.
FIRST, ALL = "first", "all"
SEARCH = {
    FIRST: "one after the other, until a row has series",
    ALL: "all of them for each row; a series that several have is fetched once",
}

#: The other value of `verify`, beside ALL: which series the archive lists.
CHANGED = "changed"

#: How long a run relies on the numbers of instances that it was given at its begin.
NUMBERS_HOLD = dt.timedelta(days=1)

#: Reasons why patients are left out.
SEVERAL_NEW_IDS = "rows give one of its patients different new_ids; that patient was left out"
SEVERAL_PEOPLE = (
    "gives one new_id to several people (different PatientIDs, different issuers of one PatientID, or different names "
    "and birth dates under it); they were left out: give each of them separate rows and a separate new_id"
)


@dataclass(frozen=True)
class Request(Reading, KeptRequest):
    """What an extract run is asked for, and how its query table is read. The options describe themselves.

    Attributes:
        refetch: fetch also instances that were handed on and removed.
        pacs: names of the connections or configurations, in the order in which they are queried, with commas.
        destination: the destination that images are moved to, for people.
        move_aet: its AE title.
        started: time of the start, ISO 8601.
        givers: names of the archives that give the images of others (`fetch_from`), by the names of these.
        only: path of the list of instances that may be moved (see `study.release.list_originals`); empty: all.
    """

    queryfile: Path = option(
        "Query table",
        "The id of a request from the page Extract (req-…), or the path of a csv, xlsx, Parquet or DuckDB file below "
        "the data root, such as queries/demo.csv. Airflow keeps this text: if the path could identify a person, give "
        "an id.",
        Section.WHAT,
        form="",  # the table may come from a database instead
        stands=(IN_FORM,),
        flag=Flag("query table (csv, xlsx, Parquet, DuckDB)", "-q", default=None),
    )
    out_directory: Path = option(
        "Output folder",
        "A path below the data root. It is made if it does not exist. Series, info dumps and logs/pacsifier_log.csv go "
        "there. Another run with the same folder fetches only what is missing.",
        Section.WHERE_TO,
        form="out",
        path=result_folder,
        flag=Flag(
            "output folder, made if it does not exist; logs/ goes there too (default: ./data)",
            "-d",
            default=Path("data"),
        ),
    )
    selection: str = option(
        "Selection",
        "Path below the data root of a YAML file with the studies and series of a row that are wanted, such as "
        "selections/chest.yaml. Empty: all that a row finds.",
        Section.WHAT,
        default="",
        path=any_file,
        flag=Flag("YAML file with the studies and series of a row that are wanted", metavar="FILE", extra=True),
    )
    reselect: bool = option(
        "Select anew",
        "Only with a selection: what earlier runs with the same output folder have selected does not stay selected.",
        Section.WHAT,
        default=False,
        flag=Flag("select anew, whatever earlier runs into the same output folder have selected", extra=True),
    )
    retrieve: str = option(
        "Images",
        "What happens to the images of the series that are found.",
        Section.WHAT,
        default=SAVE,
        choices=RETRIEVE,
    )
    info: bool = option(
        "Info dumps",
        "Write a csv with header values beside each series' folder.",
        Section.WHERE_TO,
        default=False,
        form=True,
        flag=Flag("write a csv with header values beside each series' folder", "-i"),
    )
    pacs: str = common.node(
        help="Id of a connection of type dicom; or several, separated by commas, in the order in which they are "
        "queried: vna, pacs.",
        joined=True,
    )
    config: str = common.configuration()
    search: str = option(
        "Several archives",
        "How many of the archives named above are queried for a row.",
        Section.WHERE_FROM,
        default=FIRST,
        choices=SEARCH,
        flag=Flag(
            "query several PACS one after the other until a row has series (first, the default), or all of them",
            extra=True,
        ),
    )
    method: str | None = option(
        "Method",
        "How images are fetched.",
        Section.WHERE_FROM,
        default=None,
        choices={
            "auto": "what fits the PACS and the series",
            "get": "C-GET over our own association",
            "move": "C-MOVE to our receiver",
        },
        unsaid="as the connection says",
        flag=Flag("how images are fetched: C-GET, C-MOVE to us, or what fits", extra=True),
    )
    window: str | None = option(
        "Window",
        "Times of day at which images may be transferred, such as 20:00-06:00. Empty: as the connection says.",
        Section.WHERE_FROM,
        default=None,
        stands=(IN_FORM,),
    )
    destination: str = option(
        "Destination of move",
        "Only with move: id of a connection of type dicom. The PACS sends to its AE title, and it is queried for its "
        "instances before and after. Empty: the PACS sends to the move_aet of its own connection, and only the counts "
        "of the PACS show what has arrived.",
        Section.WHERE_TO,
        default="",
        node=True,
    )
    resend: bool = option(
        "Move again",
        "Only with move: move also instances that the destination has confirmed before.",
        Section.WHERE_TO,
        default=False,
        flag=Flag("move or upload also instances that the destination has confirmed before", extra=True),
    )
    refetch: bool = flag_only(
        False, Flag("fetch also instances that were handed on and removed from the output folder", extra=True)
    )
    max_series: int | None = option(
        "Largest cohort",
        "Maximum number of series that are fetched without an approval; series that were fetched before do not count. "
        "Empty: as the connection says. The other limits of the connection apply as well.",
        Section.HOW,
        default=None,
        flag=Flag("stop before fetching if more series are to be fetched (10000)", metavar="N", extra=True),
    )
    approval: bool = option(
        "Ask above the limits",
        "A cohort above the limits of the connection waits for a person's approval before anything is fetched. "
        "Otherwise it ends the run.",
        Section.HOW,
        default=False,
        stands=(IN_FORM,),
    )
    patience: float = option(
        "Wait for an answer",
        "Hours to wait for a person's answer; after that the run ends, and nothing is fetched.",
        Section.HOW,
        default=PATIENCE,
        least=0,
        most=LONGEST_PATIENCE,
        stands=(IN_FORM,),
    )
    verify: str = option(
        "Verify",
        "Which series the archive is asked to list, to see whether it has instances that are not here.",
        Section.HOW,
        default=ALL,
        choices={
            CHANGED: "new series, those whose number of instances has changed, and all of them from time to time",
            ALL: "all series",
        },
        stands=(IN_FORM,),
    )
    accept_patient_id_of: str | None = option(
        "Whose PatientID",
        "Only with save. Images can contain another PatientID than the PACS gives for their series, for example if a "
        "patient was corrected in the data base of the PACS only. Empty: such images go to quarantine, and the series "
        "is incomplete, unless the connection or the row says otherwise.",
        Section.HOW,
        default=None,
        choices={ACCEPT_ARCHIVE: "take them for the patient whom the PACS gives"},
        unsaid="as table or connection say",
        flag=Flag(
            "take images for those of the patient whom the PACS gives, even if they contain another PatientID",
            extra=True,
        ),
    )
    names: str | None = option(
        "Names",
        "How files and folders of a new output folder are named. Empty: by UID, or as the folder was begun.",
        Section.HOW,
        default=None,
        choices={BY_UID: "1.2.3.dcm", PACSIFIER: "CT.1.2.3, and its folders"},
        unsaid="as the folder has them, else uid",
        flag=Flag(
            "how files and folders of a new output folder are named: by UID, or as PACSIFIER 1.0 did, such as CT.1.2.3 "
            "(default: as the folder was begun, else uid)",
            extra=True,
        ),
    )
    strict: bool = option(
        "Strict",
        "Any bad row ends the run before the PACS is queried. Otherwise the good rows are used.",
        Section.HOW,
        default=False,
        flag=Flag("end the run before the PACS is queried if any row of the table is bad", extra=True),
    )
    accept_incomplete: bool = common.accept_incomplete()
    urgency: str = common.urgency()
    tell: str = common.tell()
    move_aet: str = ""
    started: str = ""
    givers: dict[str, str] = field(default_factory=dict)
    only: str = ""

    def lists_all(self) -> bool:
        """Return whether the archive lists each series again: it is asked to, or its numbers are old by now.

        A run that waited for days, or is done again, has numbers of instances from its begin.
        """
        if self.verify == ALL:
            return True
        began = dt.datetime.fromisoformat(self.started)
        return not dt.timedelta() <= dt.datetime.now(began.tzinfo) - began < NUMBERS_HOLD

    def source_of(self, name: str) -> str | None:
        """Return the name of the archive that gives the images of another; None before the run has begun."""
        return self.givers.get(name, name) if self.started else None


def beside_of(run: Run) -> Path:
    """Return the path of the columns that are not ours; it is there if the table has any, and a column map."""
    return run.folder / "beside.parquet"


def new_id_path(tree: Tree, folder: str) -> Path:
    """Return the path of the pseudonym from the query table, for the patient of a series with this folder."""
    return tree.root / folder.split("/")[0] / "new_id.txt"


@dataclass
class Planned:
    """A series to be retrieved: a line of a retrieval unit.

    Attributes:
        number: number of the series in the run, from 1.
        lines: lines of the query table that find it.
        study_uid, series_uid: its UIDs.
        attributes: values that the archive returned, by keyword.
        folder: path of the series folder below the output folder.
        new_id: pseudonym of the patient from the query table, or empty.
        accept_patient_id_of: value of the query table, see `PacsNode`.
        pacs: name of the archive that it was found in; empty if the run has only one archive.
        source: name of the archive that it is fetched from, if that is another one.
    """

    number: int
    lines: list[int]
    study_uid: str
    series_uid: str
    attributes: dict[str, str]
    folder: str
    new_id: str = ""
    accept_patient_id_of: str = ""
    pacs: str = ""
    source: str = ""

    @property
    def series(self) -> SeriesId:
        """Study and Series Instance UID."""
        return SeriesId(self.study_uid, self.series_uid)

    @property
    def instances(self) -> int | None:
        """Number of instances, if the archive gave it, see `instances_of`."""
        return instances_of(self.attributes)

    def account(self) -> SeriesAccount:
        """Return the account of this series before anything is fetched: all instances are missing."""
        return SeriesAccount(
            number=self.number,
            lines=self.lines,
            study_uid=self.study_uid,
            series_uid=self.series_uid,
            modality=self.attributes.get("Modality", ""),
            series_number=self.attributes.get("SeriesNumber", ""),
            description=self.attributes.get("SeriesDescription", ""),
            folder=self.folder,
            pacs=self.pacs,
            source=self.source,
            expected=self.instances,
            missing=self.instances or 0,
        )


def instances_of(attributes: Mapping[str, str]) -> int | None:
    """Return NumberOfSeriesRelatedInstances (PS3.4 C.3.4); None if the archive did not give it, or gave 0."""
    text = attributes.get("NumberOfSeriesRelatedInstances", "")
    return (int(text) if text.isascii() and text.isdigit() else None) or None
