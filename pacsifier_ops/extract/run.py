"""What an extract run is asked for, and what its steps keep beside the files of every job (see `runs.job`).

| file                 | written by | what                                                       |
|----------------------|------------|------------------------------------------------------------|
| rows.jsonl           | prepare    | every row of the query table, bad ones with their reason   |
| table.json           | prepare    | the table's columns, rows, and lines that repeat another   |
| rows/<batch>.jsonl   | prepare    | the rows of one batch                                      |
| found/<batch>.jsonl  | find       | how each row ended, followed by the series that answer it  |
| plan.json            | plan       | size of the cohort, what somebody has to approve of, and   |
|                      |            | lines that contradict each other                           |

The items of a unit are series, see Planned; the step plan makes them. Their results are accounts of series.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pacsifier_ops.base.config import ACCEPT_ARCHIVE
from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.base.options import IN_FORM, Flag, Section, flag_only, option, result_folder
from pacsifier_ops.query.reading import Reading
from pacsifier_ops.runs import options as common
from pacsifier_ops.runs.accounts import MOVE, NONE, SAVE, SeriesAccount
from pacsifier_ops.runs.approvals import LONGEST_PATIENCE, PATIENCE
from pacsifier_ops.runs.folder import KeptRequest
from pacsifier_ops.state.tree import BY_UID, PACSIFIER

#: What happens to the images of the series that are found.
RETRIEVE = {
    SAVE: "fetch them to the output folder",
    MOVE: "have the PACS send them to another node",
    NONE: "only find the series, and report",
}

#: Of several archives, how many are asked for a row.
FIRST, ALL = "first", "all"
SEARCH = {
    FIRST: "one after the other, until a row is found",
    ALL: "every one, for each row; what several hold is fetched once",
}

#: Why patients are left out.
SEVERAL_NEW_IDS = "rows give one of its patients different new_ids; that patient was left out"
SEVERAL_PEOPLE = (
    "gives one new_id to several people: other PatientIDs, other issuers of one PatientID, or other names and birth "
    "dates under it; they were left out: give each of them rows and a new_id of their own"
)


@dataclass(frozen=True)
class Request(Reading, KeptRequest):
    """What a run was asked for, and how its table is read; of the rest, the options tell.

    Attributes:
        refetch: fetch what was handed on and removed as well.
        pacs: names of the connections or configurations, in the order in which they are asked, with commas.
        move_aet: AE title that images are moved to; destination: the same for people.
        started: ISO 8601.
        only: list of the instances that may be moved (see `study.release.list_originals`); empty: all.
    """

    queryfile: Path = option(
        "Query table",
        "The id of a request from the page Extract (req-…), or the path of a csv or xlsx file below the data root, "
        "such as queries/demo.csv. What is typed here stays in Airflow: where a path could identify somebody, give an "
        "id.",
        Section.WHAT,
        stands=(IN_FORM,),
        flag=Flag("query table (csv or xlsx)", "-q", default=None),
    )
    out_directory: Path = option(
        "Output folder",
        "A path below the data root; made if need be. Series, info dumps and logs/pacsifier_log.csv go there. Run "
        "again over the same folder and only what is missing is fetched.",
        Section.WHERE_TO,
        form="out",
        path=result_folder,
        flag=Flag("output folder, made if need be; logs/ goes there too (default: ./data)", "-d", default=Path("data")),
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
        help="Id of a connection of type dicom; or several in the order in which they are asked, with commas: vna, "
        "pacs.",
        joined=True,
    )
    config: str = common.configuration()
    search: str = option(
        "Several archives",
        "How many of the archives named above are asked for a row.",
        Section.WHERE_FROM,
        default=FIRST,
        choices=SEARCH,
        flag=Flag(
            "of several PACS: ask one after the other until a row is found (first, the default), or all of them",
            extra=True,
        ),
    )
    method: str | None = option(
        "Method",
        "How images are fetched, where they are.",
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
        "Only with move: id of a connection of type dicom. The PACS sends to its AE title, and it is asked what it "
        "holds before and after. Empty: the PACS sends to the move_aet of its connection, and only its counts tell.",
        Section.WHERE_TO,
        default="",
    )
    resend: bool = option(
        "Move again",
        "Only with move: have sent what the destination has confirmed before as well.",
        Section.WHERE_TO,
        default=False,
        flag=Flag("move or upload what the destination has confirmed before as well", extra=True),
    )
    refetch: bool = flag_only(
        False, Flag("fetch what was handed on and removed from the output folder as well", extra=True)
    )
    max_series: int | None = option(
        "Largest cohort",
        "Series that may be fetched without a person's word; what is there already does not count. Empty: as the "
        "connection says, whose other limits hold as well.",
        Section.HOW,
        default=None,
        flag=Flag("stop before fetching if more series are to be fetched (10000)", metavar="N", extra=True),
    )
    approval: bool = option(
        "Ask above the limits",
        "A cohort above the limits of the connection waits, before anything is fetched, for a person to approve it. "
        "Otherwise it ends the run.",
        Section.HOW,
        default=False,
        stands=(IN_FORM,),
    )
    patience: float = option(
        "Wait for an answer",
        "Hours that a person's answer is waited for; then the run ends, and nothing is done.",
        Section.HOW,
        default=PATIENCE,
        least=0,
        most=LONGEST_PATIENCE,
        stands=(IN_FORM,),
    )
    accept_patient_id_of: str | None = option(
        "Whose PatientID",
        "Only with save: images may hold another PatientID than the PACS gives for their series, as where a patient "
        "was corrected and the files were not. Empty: they go to quarantine, and the series is incomplete, unless the "
        "connection or the row says otherwise.",
        Section.HOW,
        default=None,
        choices={ACCEPT_ARCHIVE: "what the PACS answers counts"},
        unsaid="as table or connection say",
        flag=Flag(
            "take images for those of the patient whom the PACS names, even if they hold another PatientID themselves",
            extra=True,
        ),
    )
    names: str | None = option(
        "Names",
        "How a new output folder names files and folders. Empty: as it was begun, else by UID.",
        Section.HOW,
        default=None,
        choices={BY_UID: "1.2.3.dcm", PACSIFIER: "CT.1.2.3, and its folders"},
        unsaid="as the folder has them, else uid",
        flag=Flag(
            "how a new output folder names files and folders: by UID, or all as PACSIFIER 1.0 did, such as CT.1.2.3 "
            "(as it was begun, else uid)",
            extra=True,
        ),
    )
    strict: bool = option(
        "Strict",
        "Any bad row stops the run before the PACS is asked. Otherwise the good rows run.",
        Section.HOW,
        default=False,
        flag=Flag("ask the PACS nothing if any row of the table is bad", extra=True),
    )
    accept_incomplete: bool = common.accept_incomplete()
    move_aet: str = ""
    started: str = ""
    only: str = ""


@dataclass
class Planned:
    """A series to be retrieved: a line of a retrieval unit.

    Attributes:
        number: ordinal in the run, from 1.
        lines: lines of the query table that ask for it.
        attributes: text of what the archive returned, by keyword.
        folder: path of the series folder below the output folder.
        new_id: pseudonym given in the query table, or empty.
        accept_patient_id_of: whose word on whose the objects are the query table accepts; see `PacsNode`.
        pacs: name of the archive that it is fetched from; empty: of the only one.
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

    @property
    def series(self) -> SeriesId:
        """Which series it is."""
        return SeriesId(self.study_uid, self.series_uid)

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
            pacs=self.pacs,
            expected=self.instances,
            missing=self.instances or 0,
        )


def instances_of(attributes: Mapping[str, str]) -> int | None:
    """NumberOfSeriesRelatedInstances (PS3.4 C.3.4), where the archive gave it. Of 0 nothing is known."""
    text = attributes.get("NumberOfSeriesRelatedInstances", "")
    return (int(text) if text.isascii() and text.isdigit() else None) or None
