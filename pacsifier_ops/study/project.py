"""What a study is: which patients, from where, made into what, handed over how; set up once, and run often."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.config import METHODS, node_names
from pacsifier_ops.base.errors import ConfigError, PathRefused
from pacsifier_ops.base.files import confined
from pacsifier_ops.base.places import reserved
from pacsifier_ops.base.window import Window
from pacsifier_ops.deid.whose import IDENTITIES, PATIENT_ID
from pacsifier_ops.extract.run import FIRST, SEARCH
from pacsifier_ops.pseudonyms.local import ALPHABET, Style
from pacsifier_ops.pseudonyms.run import CUSTOM, SOURCES
from pacsifier_ops.pseudonyms.secret import check_project
from pacsifier_ops.query.options import READING, Field, read_options
from pacsifier_ops.query.reading import Reading
from pacsifier_ops.runs.approvals import LONGEST_PATIENCE, PATIENCE
from pacsifier_ops.runs.folder import Kept
from pacsifier_ops.study import run as stages

#: Who releases: a person, the limits where the data set is within them and else a person, or nobody in this run.
ASK, LIMIT, NOBODY = "ask", "limit", "nobody"
RELEASE = (ASK, LIMIT, NOBODY)

#: Who may release: whoever Airflow lets answer, or not who has started the run.
ANYBODY, ANOTHER = "anybody", "another"
RELEASE_BY = (ANYBODY, ANOTHER)

#: What becomes of the identified copy: it stays, what could go is listed, or that is removed.
KEEP, LIST, REMOVE = "keep", "list", "remove"
REMOVAL = (KEEP, LIST, REMOVE)

#: Stages that a study may do without; those that hand over are on where a destination is given.
WITHOUT = (stages.EXTRACT, stages.PSEUDONYMS, stages.ANONYMIZE, stages.DUMPS)

#: What fits into an LO (PS3.5 6.2), as ASCII.
_TAG_TEXT = re.compile(r"[ -\[\]-~]{1,64}")


@dataclass(frozen=True)
class Study(Reading, Kept):
    """A study, and how its table is read. Paths are below the data root; connections are Airflow's.

    Attributes:
        project: names it; whose pseudonyms and secret hold.
        queryfile: the query table, a path or the id of a request.
        pacs: connection of the archive.
        method: how images are fetched; empty leaves it to the connection.
        window: times of day at which images may be transferred; empty leaves it to the connection.
        max_series: largest cohort without a person's word; 0 leaves it to the connection.
        strict: any bad row of the table ends the run.
        folder: of all that the study has; empty: studies/<project>.
        without: stages that it does without, of WITHOUT.
        source: where pseudonyms come from, of pseudonyms.run.SOURCES.
        deid: connection of the De-ID service.
        mappingfile: of the source `custom`.
        profile: of the de-identification.
        devices: catalogue of what is blacked out; empty: the package's.
        identity: what tells whose an object is that has no PatientID, of deid.whose.IDENTITIES.
        delete_identifiable: objects that likely show who it is are excluded.
        approval: a cohort above the limits of the connection is asked about; else it ends the run.
        release: of RELEASE.
        release_by: of RELEASE_BY.
        approvers: Airflow users who may release, by name or id; empty: whoever Airflow lets answer.
        most_missing, most_quarantined: objects up to which the limits release.
        patience: hours that a person's answer is waited for.
        dicomdir, zip, volume_size: make a DICOM file-set, in a zip, of volumes of so many MB; 0: one.
        upload: connection of the node that the released data set is sent to.
        karnak, album_name: connection of a gateway that identified copies with Karnak tags are sent to.
        move: connection of a node that the archive sends the originals to.
        remove_identified: of REMOVAL.
        accept_incomplete: an incomplete run counts as a success for whoever waits for it.
        enabled: the nightly runs start it, where its file is among their projects.
        started: ISO 8601.
        started_by: name of the Airflow user who has started the run; empty: nobody did, it was scheduled.
        file: path of the project file, for people; digest: its SHA-256.
    """

    project: str = "default"
    queryfile: str = ""
    pacs: str = "pacs_default"
    search: str = FIRST
    method: str = ""
    window: str = ""
    max_series: int = 0
    strict: bool = False
    folder: str = ""
    without: tuple[str, ...] = ()
    source: str = "de-id"
    deid: str = "deid_default"
    mappingfile: str = ""
    profile: str = "basic"
    devices: str = ""
    identity: str = PATIENT_ID
    delete_identifiable: bool = True
    approval: bool = True
    release: str = ASK
    release_by: str = ANYBODY
    approvers: tuple[str, ...] = ()
    most_missing: int = 0
    most_quarantined: int = 0
    patience: float = PATIENCE
    dicomdir: bool = False
    zip: bool = False
    volume_size: int = 0
    upload: str = ""
    karnak: str = ""
    album_name: str = ""
    move: str = ""
    remove_identified: str = LIST
    accept_incomplete: bool = False
    enabled: bool = True
    started: str = ""
    started_by: str = ""
    file: str = ""
    digest: str = ""

    @property
    def root(self) -> str:
        """Folder of all that the study has, below the data root."""
        return self.folder or f"studies/{self.project}"

    def has(self, stage: str) -> bool:
        """Whether the study does this stage."""
        given = {
            stages.DICOMDIR: self.dicomdir,
            stages.UPLOAD: self.upload,
            stages.KARNAK: self.karnak,
            stages.KARNAK_UPLOAD: self.karnak,
            stages.MOVE: self.move,
        }
        return bool(given[stage]) if stage in given else stage not in self.without

    def may_release(self, name: str, user: str = "") -> str:
        """Why somebody may not release what the study has made; empty where they may.

        Args:
            name, user: of the Airflow user, and id.
        """
        if self.release_by == ANOTHER and self.started_by and name == self.started_by:
            return "whoever has started the run may not release it; another person is to answer"
        if self.approvers and not {name, user} & set(self.approvers):
            return "only those may release it whom the project names as approvers"
        return ""

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            ConfigError: with every reason.
        """
        if wrong := [f"{key}: {message}" for key, message in contradictions(vars(self))]:
            raise ConfigError("; ".join(wrong))


#: Keys of the form; they mean what Study says.
FORM: Mapping[str, Field] = {
    **{
        name: Field(str)
        for name in ("project", "queryfile", "window", "folder", "deid", "mappingfile", "profile", "devices")
    },
    "pacs": Field(str, joined=True),
    "search": Field(str, SEARCH),
    **{name: Field(str) for name in ("upload", "karnak", "album_name", "move")},
    **{name: Field(int) for name in ("max_series", "volume_size")},
    "patience": Field(int, most=LONGEST_PATIENCE),
    **{name: Field(int, least=0) for name in ("most_missing", "most_quarantined")},
    **{name: Field(bool) for name in ("strict", "delete_identifiable", "approval", "dicomdir", "zip")},
    "accept_incomplete": Field(bool),
    **READING,
    "method": Field(str, METHODS),
    "source": Field(str, SOURCES),
    "identity": Field(str, IDENTITIES),
    "release": Field(str, RELEASE),
    "release_by": Field(str, RELEASE_BY),
    "approvers": Field(str, several=True),
    "remove_identified": Field(str, REMOVAL),
    "without": Field(str, WITHOUT, several=True),
}
#: Keys of a project file.
OPTIONS: Mapping[str, Field] = {**FORM, "enabled": Field(bool)}


def read_project(path: Path) -> dict[str, Any]:
    """Read and check a project file.

    Raises:
        Refused: with every reason, by line and key, never with a value.
    """
    return read_options(path, OPTIONS, contradictions)


def own_folder(folder: str) -> str:
    """The folder of a study, where that is one that a study may have: below `studies`, no deeper than its own name."""
    parts = PurePosixPath(folder).parts
    return folder if len(parts) == 2 and ".." not in parts else ""


def contradictions(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with values of the right kind: key and message."""
    defaults = {field.name: field.default for field in fields(Study)}
    study: dict[str, Any] = {**defaults, **given}
    without, deidentified = study["without"], stages.ANONYMIZE not in study["without"]
    for key in ("folder", "mappingfile", "devices"):
        if study[key]:
            try:
                path = confined(study[key], settings.data_root(), "it")
            except PathRefused:
                yield key, "leads outside the data root; give a path below it"
            else:
                if key == "folder" and (reason := reserved(path, own_folder(study[key]))):
                    yield key, reason
    for key in ("max_series", "volume_size", "most_missing", "most_quarantined"):
        if not 0 <= study[key] <= FORM[key].most:
            yield key, f"is negative or above {FORM[key].most:,}"
    if not 0 < study["patience"] <= LONGEST_PATIENCE:
        yield "patience", f"is not a number of hours above 0, at most {LONGEST_PATIENCE:,}, which is a year"
    try:
        check_project(study["project"])
    except ConfigError as error:
        yield "project", str(error)
    try:
        Window.parse(study["window"])
    except ConfigError as error:
        yield "window", str(error)
    try:
        node_names(study["pacs"])
    except ConfigError as error:
        yield "pacs", str(error)
    if not study["queryfile"] and stages.EXTRACT not in without:
        yield "queryfile", "is missing; give the query table, or the id of a request"
    if study["release"] == LIMIT and study["release_by"] == ANOTHER:
        yield "release_by", "asks for another person, and release: limit may ask nobody; set release to ask"
    if study["source"] == CUSTOM and not study["mappingfile"]:
        yield "mappingfile", "is missing; the source custom is a file of lines old,new"
    if study["source"] != CUSTOM and study["mappingfile"]:
        yield "mappingfile", f"goes with the source custom, and the source is {study['source']}"
    for key in ("dicomdir", "upload"):
        if study[key] and not deidentified:
            yield key, "hands over de-identified data, and the study does without anonymize; take one of them out"
    if not deidentified and not (study["karnak"] or study["move"]):
        yield "without", "without anonymize, only karnak or move hand anything over; give one of them"
    for key in ("zip", "volume_size"):
        if study[key] and not study["dicomdir"]:
            yield key, "is about the DICOMDIR, and none is asked for; set dicomdir"
    if bool(study["karnak"]) != bool(study["album_name"]):
        yield "album_name" if study["album_name"] else "karnak", "karnak and album_name go together; give both"
    if study["album_name"] and not _TAG_TEXT.fullmatch(study["album_name"]):
        yield "album_name", "does not fit into a tag; give at most 64 ASCII characters, no backslash"


def stages_for(study: Study, run: str) -> dict[str, dict[str, Any] | None]:
    """What each stage is asked for, as the conf of its DAG; None for one that the study does without.

    Args:
        run: name of the run's folder: each run makes a file-set of its own.
    """
    root = study.root
    identified, deidentified, released = f"{root}/identified", f"{root}/de-identified", f"{root}/released"
    extraction: dict[str, Any] = {
        "queryfile": study.queryfile,
        **study.options(),
        "pacs": study.pacs,
        "search": study.search,
        "config": None,
        "strict": study.strict,
        "max_series": study.max_series or None,
        "window": study.window or None,
        "approval": study.approval,
    }
    sending = {"config": None, "resend": False}
    every: dict[str, dict[str, Any]] = {
        stages.EXTRACT: {
            **extraction,
            "retrieve": "save",
            "method": study.method or None,
            "accept_patient_id_of": None,
            "names": None,
            "out_directory": identified,
            "info": True,
            "destination": None,
            "resend": False,
        },
        stages.PSEUDONYMS: {
            "project": study.project,
            "queryfile": None,
            **Reading().options(),
            "in_folder": identified,
            "source": study.source,
            "deid": study.deid,
            "mappingfile": study.mappingfile or None,
            "shift_days": True,
            "prefix": Style.prefix,
            "length": Style.length,
            "alphabet": ALPHABET,
            "leave_out": True,
        },
        stages.ANONYMIZE: {
            "in_folder": identified,
            "out_folder": deidentified,
            "profile": study.profile,
            "devices": study.devices or None,
            "new_ids": None,
            "day_shift": None,
            "project": study.project,
            "identity": study.identity,
            "linked_only": study.has(stages.PSEUDONYMS),
            "delete_identifiable": study.delete_identifiable,
            "remove_private_tags": False,
            "fuzz_acq_dates": False,
            "keep_patient_dir_names": False,
        },
        stages.DUMPS: {"data_folder": identified, "info_folder": f"{root}/info"},
        stages.DICOMDIR: {
            "in_folder": released,
            "out_folder": f"{root}/dicomdir/{run[-8:]}",
            "zip": study.zip,
            "volume_size": study.volume_size,
        },
        stages.UPLOAD: {
            **sending,
            "upload_directory": released,
            "pacs": study.upload,
            "out_directory": f"{root}/logs/upload",
        },
        stages.KARNAK: {
            "in_folder": identified,
            "out_folder": f"{root}/karnak",
            "new_ids": None,
            "day_shift": None,
            "project": study.project,
            "album_name": study.album_name,
            "leave_out": True,
        },
        stages.KARNAK_UPLOAD: {
            **sending,
            "upload_directory": f"{root}/karnak",
            "pacs": study.karnak,
            "out_directory": f"{root}/logs/karnak",
        },
        stages.MOVE: {
            **extraction,
            "retrieve": "move",
            "method": None,
            "accept_patient_id_of": None,
            "names": None,
            "out_directory": f"{root}/moved",
            "info": False,
            "destination": study.move,
            "resend": False,
        },
    }
    given = {"accept_incomplete": True, "patience": study.patience}
    return {stage: {**every[stage], **given} if study.has(stage) else None for stage in stages.STAGES}
