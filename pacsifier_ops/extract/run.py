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

from pacsifier_ops.base.identity import SeriesId
from pacsifier_ops.query.reading import Reading
from pacsifier_ops.runs.accounts import SeriesAccount
from pacsifier_ops.runs.folder import Kept

RETRIEVE = ("save", "move", "none")

#: Of several archives, how many are asked for a row: one after the other until it is found, or all of them.
FIRST, ALL = "first", "all"
SEARCH = (FIRST, ALL)

#: Why patients are left out.
SEVERAL_NEW_IDS = "rows give one of its patients different new_ids; that patient was left out"
SEVERAL_PEOPLE = (
    "gives one new_id to several people: other PatientIDs, other issuers of one PatientID, or other names and birth "
    "dates under it; they were left out: give each of them rows and a new_id of their own"
)


@dataclass(frozen=True)
class Request(Reading, Kept):
    """What a run was asked for, and how its table is read.

    Attributes:
        queryfile: the query table.
        out_directory: the output folder.
        info: write an info dump per series.
        retrieve: save, move (to another node) or none.
        method: auto, get or move; None leaves it to the node.
        strict: any bad row stops the run before the PACS is asked.
        accept_incomplete: an incomplete run counts as a success for whoever waits for it.
        max_series: the largest cohort that may be fetched; None leaves it to the node.
        resend: move what the destination has confirmed before as well.
        refetch: fetch what was handed on and removed as well.
        approval: a cohort above the limits waits for a person's word; else it ends the run.
        window: times of day at which images may be transferred; None leaves it to the node.
        accept_patient_id_of: whose word on whose the objects are is accepted; None leaves it to the node.
        search: of several archives, `first` or `all`.
        pacs: names of the connections or configurations, in the order in which they are asked, with commas.
        names: one of `tree.NAMINGS`; None is as the output folder was begun.
        move_aet: AE title that images are moved to.
        destination: the same for people.
        started: ISO 8601.
        only: list of the instances that may be moved (see `study.release.list_originals`); empty: all.
    """

    queryfile: Path
    out_directory: Path
    info: bool = False
    retrieve: str = "save"
    method: str | None = None
    strict: bool = False
    accept_incomplete: bool = False
    max_series: int | None = None
    resend: bool = False
    refetch: bool = False
    approval: bool = False
    window: str | None = None
    accept_patient_id_of: str | None = None
    search: str = FIRST
    names: str | None = None
    pacs: str = ""
    move_aet: str = ""
    destination: str = ""
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
