"""The options of a study: which patients, from which archive, how de-identified, and where to."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.config import node_names
from pacsifier_ops.base.errors import ConfigError, NotAllowed, PathRefused
from pacsifier_ops.base.files import confined
from pacsifier_ops.base.options import (
    EVERYWHERE,
    IN_FILE,
    IN_FORM,
    Option,
    Section,
    any_file,
    option,
    params_of,
    same,
    standing,
)
from pacsifier_ops.base.places import reserved
from pacsifier_ops.base.rights import IDENTIFIED, SEND, TAKE, URGENT
from pacsifier_ops.base.telling import recipients
from pacsifier_ops.base.window import Window
from pacsifier_ops.convert.request import BIDS, NIFTI, ConvertRequest
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.extract.run import Request
from pacsifier_ops.handover.request import DicomdirRequest, KarnakRequest
from pacsifier_ops.pseudonyms.run import CUSTOM, PseudonymRequest
from pacsifier_ops.pseudonyms.secret import check_project
from pacsifier_ops.query import reading
from pacsifier_ops.query.options import read_options
from pacsifier_ops.query.reading import CHOICES, Reading
from pacsifier_ops.runs import options as common
from pacsifier_ops.runs.approvals import LONGEST_PATIENCE
from pacsifier_ops.runs.folder import KeptRequest
from pacsifier_ops.study import run as stages

#: Values of `release`: who or what approves the data set.
ASK, LIMIT, NOBODY = "ask", "limit", "nobody"
#: Values of `release_by`: who may approve it.
ANYBODY, ANOTHER = "anybody", "another"
#: Values of `remove_identified`.
KEEP, LIST, REMOVE = "keep", "list", "remove"

#: Values of `verify`: which files are read to see whether they have changed.
CHANGED, ALL = "changed", "all"

#: ASCII text that is valid as LO (PS3.5 6.2).
_TAG_TEXT = re.compile(r"[ -\[\]-~]{1,64}")


@dataclass(frozen=True)
class Study(Reading, KeptRequest):
    """A study, and how its table is read. Paths are below the data root; connections are Airflow's.

    Options that are not given are empty, or 0. An option of a stage has the same name and meaning here, and the stage
    gets its value from the study.

    Attributes:
        enabled: the nightly runs start the study, if its file is among their projects.
        started: time of the start, ISO 8601.
        started_by: name of the Airflow user who started the run; empty: it was scheduled.
        file: path of the project file, for people; digest: its SHA-256.
    """

    file: str = option(
        "Project file",
        "Path below the data root of a YAML file with all options of the study. With it, leave the rest of this form "
        "as it is; only the query table of this run may be another one.",
        Section.WHAT,
        default="",
        name="project_file",
        stands=(IN_FORM,),
    )
    project: str = same(
        PseudonymRequest, "project", help="Name of the study. A patient has another pseudonym in every project."
    )
    queryfile: str = same(
        Request,
        "queryfile",
        help="The id of a request from the page Extract (req-…), or the path of a csv, xlsx, Parquet or DuckDB file "
        "below the data root. What is typed here stays in Airflow: where a path could identify somebody, give an id.",
    )
    strict: bool = same(
        Request,
        "strict",
        help="Any bad row ends the run before the PACS is asked. Otherwise the good rows run.",
        section=Section.WHAT,
    )
    selection: str = same(Request, "selection")
    reselect: bool = same(
        Request, "reselect", help="Only with a selection: what earlier runs of the study have selected does not stay."
    )
    without: tuple[str, ...] = option(
        "Without",
        "Steps that the study leaves out.",
        Section.WHAT,
        default=(),
        choices=dict.fromkeys(stages.WITHOUT, ""),
    )
    folder: str = option(
        "Folder",
        "Folder for all files of the study, a path below the data root. Empty: studies/<project>.",
        Section.WHAT,
        default="",
        path=any_file,
    )
    pacs: str = same(Request, "pacs")
    search: str = same(Request, "search")
    method: str = same(Request, "method")
    window: str = same(Request, "window")
    max_series: int = same(
        Request,
        "max_series",
        help="With more series than this, a person is asked. Empty: as the connection says. Its other limits hold as "
        "well.",
        section=Section.WHERE_FROM,
    )
    approval: bool = same(
        Request,
        "approval",
        True,
        help="A larger cohort waits for a person's approval. Otherwise it ends the run.",
        section=Section.WHERE_FROM,
    )
    source: str = same(PseudonymRequest, "source", section=Section.BECOMES)
    deid: str = same(PseudonymRequest, "deid", section=Section.BECOMES)
    mappingfile: str = same(PseudonymRequest, "mappingfile", section=Section.BECOMES)
    profile: str = same(
        DeidRequest,
        "profile",
        "basic",
        help="Profile of the de-identification: default, basic, research or pacsifier, with options of PS3.15 after "
        "plus signs, such as pacsifier+device; or the path of a YAML file below the data root.",
        section=Section.BECOMES,
    )
    devices: str = same(
        DeidRequest,
        "devices",
        help="Path below the data root of a JSON file with the areas to black out, by device. Empty: the one that "
        "comes with this package.",
        section=Section.BECOMES,
    )
    identity: str = same(DeidRequest, "identity", section=Section.BECOMES)
    delete_identifiable: bool = same(
        DeidRequest,
        "delete_identifiable",
        help="Objects that probably show the patient's identity, such as screen saves, are excluded.",
        section=Section.BECOMES,
    )
    description: str = same(DeidRequest, "description", section=Section.BECOMES)
    license: str = same(DeidRequest, "license", section=Section.BECOMES)
    linker_days: bool = option(
        "Days in the linker",
        "The linker that goes with the data tells the days from each row's anchor_date to the study. Whoever knows "
        "that day then knows the true date of the study.",
        Section.BECOMES,
        default=True,
    )
    release: str = option(
        "Release",
        "Who or what approves the release of the data set.",
        Section.RELEASE,
        default=ASK,
        choices={
            ASK: "a person",
            LIMIT: "the limits below; beyond them, a person",
            NOBODY: "this run ends before the release",
        },
    )
    release_by: str = option(
        "Released by",
        "Who may approve the release. Nobody has started a scheduled run, so there anybody may.",
        Section.RELEASE,
        default=ANYBODY,
        choices={ANYBODY: "whoever Airflow lets answer", ANOTHER: "not the person who started the run"},
    )
    owners: tuple[str, ...] = option(
        "Owners",
        "Names of the Airflow users who answer for the project. Runs that nobody starts have their rights.",
        Section.RELEASE,
        default=(),
    )
    approvers: tuple[str, ...] = option(
        "Approvers",
        "Names of the Airflow users who may approve the release. Empty: whoever Airflow lets answer.",
        Section.RELEASE,
        default=(),
    )
    ethics: str = option(
        "Ethics",
        "Reference of the approval by the ethics committee, for reports, the card of the data set and the audit file.",
        Section.RELEASE,
        default="",
        longest=200,
    )
    expires: str = option(
        "Expires",
        "Last day on which a run may start and data may be released, YYYY-MM-DD. Empty: never.",
        Section.RELEASE,
        default="",
        date=True,
    )
    most_missing: int = option(
        "Missing objects", "Only with limit: the most that may be missing.", Section.RELEASE, default=0, least=0
    )
    most_quarantined: int = option(
        "Objects in quarantine",
        "Only with limit: the most that may be in quarantine.",
        Section.RELEASE,
        default=0,
        least=0,
    )
    patience: float = same(
        Request,
        "patience",
        help="Hours to wait for a person's answer; after that the run ends, and nothing is fetched or released.",
        section=Section.RELEASE,
    )
    release_to: str = option(
        "Release to",
        "Connection of a store (object store, SFTP, FTPS, folder) that gets the released images and tables. Then "
        "released/ keeps the tables only, and no image is on this disk twice. Empty: they are copied to released/.",
        Section.WHERE_TO,
        default="",
        node=True,
        receives=True,
    )
    dicomdir: bool = option("DICOMDIR", "Make a DICOM file-set of the released data.", Section.WHERE_TO, default=False)
    zip: bool = same(DicomdirRequest, "zip", title="Zip", help="Only with DICOMDIR: pack the file-set.")
    volume_size: int = same(
        DicomdirRequest,
        "volume_size",
        title="Volumes",
        help="Only with DICOMDIR: MB of each volume. Empty: one volume.",
        least=1,
    )
    convert: str = option(
        "NIfTI",
        "Convert the released images to NIfTI as well, into nifti/ of the study's folder.",
        Section.WHERE_TO,
        default="",
        choices={NIFTI: "in the folders of their series", BIDS: "as a BIDS data set, by rules"},
        unsaid="not converted",
    )
    bids_rules: str = same(
        ConvertRequest,
        "bids_rules",
        title="Rules of BIDS",
        help="Only with bids: path below the data root of a YAML file of rules. Empty: those of the package.",
    )
    upload: str = option(
        "Upload",
        "Connection of the node, or of the store, that gets the released data.",
        Section.WHERE_TO,
        default="",
        node=True,
        receives=True,
    )
    karnak: str = option(
        "Karnak gateway",
        "Connection of a gateway that de-identifies. It gets identified copies with Karnak tags.",
        Section.WHERE_TO,
        default="",
        node=True,
    )
    album_name: str = same(
        KarnakRequest,
        "album_name",
        help="Only with a Karnak gateway: name of the album.",
        section=Section.WHERE_TO,
        longest=0,
        pattern="",
    )
    move: str = option(
        "Move",
        "Connection of a node to which the PACS sends the identified originals.",
        Section.WHERE_TO,
        default="",
        node=True,
    )
    remove_identified: str = option(
        "Identified copy",
        "Whether it is removed at the end.",
        Section.HOW,
        default=LIST,
        choices={
            KEEP: "it stays",
            LIST: "it stays, and the report says how many files could be removed",
            REMOVE: "files that are verified as delivered are removed",
        },
    )
    verify: str = option(
        "Verify",
        "Which files of the study are read again. Damage that a disk did not notice is found by reading all.",
        Section.HOW,
        default=CHANGED,
        choices={CHANGED: "new and changed files, and all of them from time to time", ALL: "all files"},
    )
    accept_incomplete: bool = common.accept_incomplete()
    urgency: str = common.urgency(stands=EVERYWHERE)
    tell: str = common.tell()
    enabled: bool = option(default=True, stands=(IN_FILE,))
    started: str = ""
    started_by: str = ""
    digest: str = ""

    @property
    def root(self) -> str:
        """Folder for all files of the study, below the data root."""
        return self.folder or f"studies/{self.project}"

    @property
    def identified(self) -> str:
        """Folder of the identified copy."""
        return f"{self.root}/identified"

    @property
    def deidentified(self) -> str:
        """Folder of the de-identified data set before its release."""
        return f"{self.root}/de-identified"

    @property
    def released(self) -> str:
        """Folder of the released data set."""
        return f"{self.root}/released"

    def has(self, stage: str) -> bool:
        """Return whether the study has a stage."""
        row = stages.TABLE[stage]
        return bool(row.on(self)) if row.on else stage not in self.without

    def may_release(self, name: str, user: str = "") -> str:
        """Return why a person may not release the data set; empty if the person may.

        Args:
            name, user: name and id of the Airflow user.
        """
        if self.release_by == ANOTHER and self.started_by and name == self.started_by:
            return "whoever has started the run may not release it; another person is to answer"
        if self.approvers and not ({name, user} - {""}) & set(self.approvers):
            return "only those may release it whom the project names as approvers"
        return ""

    def refuse_expired(self) -> None:
        """Check that the project has not expired, by the clock of the setting `timezone`.

        Raises:
            NotAllowed: it has.
        """
        if self.expires and dt.datetime.now(settings.timezone()).date().isoformat() > self.expires:
            raise NotAllowed(
                f"the project has expired, {self.expires} was its last day: no run starts, and nothing is released; to "
                "go on, the owners have its approval prolonged, and set expires anew",
                **self.told,
            )

    def needs(self, givers: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return the rights that a run needs, each with the name of the connection.

        Args:
            givers: connections that give the images of others, by the names of these.
        """
        asked = node_names(self.pacs) if self.has(stages.EXTRACT) or self.move else []
        archives = list(dict.fromkeys([*asked, *(givers[name] for name in asked if name in givers)]))
        identified = [name for name in (self.karnak, self.move) if name]
        sent_to = list(filter(None, (self.release_to, self.upload, self.karnak, self.move)))
        needs = [(TAKE, name) for name in archives] + [(SEND, name) for name in sent_to]
        if identified:
            needs += [(IDENTIFIED, name) for name in (*archives, *identified)]
        if self.urgency == common.URGENT:
            needs += [(URGENT, name) for name in (*archives, *sent_to)]
        return needs

    @property
    def told(self) -> dict[str, Any]:
        """What reports, pages and the audit file tell of the project."""
        return {name: getattr(self, name) for name in ("project", "owners", "approvers", "ethics", "expires")}

    def check(self) -> None:
        """Check that the options go together.

        Raises:
            ConfigError: they do not; names every reason.
        """
        if wrong := [f"{key}: {message}" for key, message in contradictions(vars(self))]:
            raise ConfigError("; ".join(wrong))


#: Options of a project file by key, and those of them that the form has as well.
OPTIONS: Mapping[str, Option] = standing(Study, IN_FILE)
FORM: Mapping[str, Option] = {name: one for name, one in OPTIONS.items() if IN_FORM in one.stands}


#: The query table, and how it is read. A run may have another table than its project file.
TABLE = ("queryfile", *CHOICES)


def beside(params: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """Return the keys of a form that are changed beside a project file, and must not be.

    A query table may be given, and how it is read.

    Args:
        params: of the run, by key.
        defaults: those of the form.
    """
    own = TABLE if params["queryfile"] or params["sql_conn"] else ()
    return [key for key in FORM if key not in own and params[key] != defaults[key]]


def read_project(path: Path, table: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read and check a project file. Return its values by key.

    Args:
        table: values of TABLE, which replace all of them in the file; empty: those of the file.

    Raises:
        Refused: it is invalid; names every reason by line and key, without values.
    """

    def of_run(values: Mapping[str, Any]) -> dict[str, Any]:
        return {**{key: value for key, value in values.items() if key not in TABLE}, **table} if table else {**values}

    return of_run(read_options(path, OPTIONS, lambda values: contradictions(of_run(values))))


def own_folder(folder: str) -> str:
    """Return the folder of a study if it has the form `<folder>/<study>`, such as studies/knee; otherwise empty."""
    parts = PurePosixPath(folder).parts
    return folder if len(parts) == 2 and ".." not in parts else ""


def contradictions(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield contradictions and invalid values: key and message. The types of the values are checked already.

    Args:
        given: values by key; options that are not given have their defaults.
    """
    defaults = {field.name: field.default for field in fields(Study)}
    study: dict[str, Any] = {**defaults, **given}
    without, deidentified = study["without"], stages.ANONYMIZE not in study["without"]
    for key, one in FORM.items():
        if one.kind is int and not 0 <= study[key] <= one.most:
            yield key, f"is negative or above {one.most:,}"
        if one.is_path and study[key]:
            try:
                path = confined(study[key], settings.data_root(), "it")
            except PathRefused:
                yield key, "leads outside the data root; give a path below it"
            else:
                if key == "folder" and (reason := reserved(path, own_folder(study[key]))):
                    yield key, reason
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
    try:
        recipients(study["tell"], "it")
    except ConfigError as error:
        yield "tell", str(error).removeprefix("it: ")
    yield from reading.contradictions(study)
    if not study["queryfile"] and not study["sql_conn"] and stages.EXTRACT not in without:
        yield "queryfile", "is missing; give the query table, or the id of a request"
    if study["reselect"] and not study["selection"]:
        yield "reselect", "goes with a selection, and there is none; give selection, or remove it"
    if study["selection"] and stages.EXTRACT in without and not study["move"]:
        yield "selection", "is about what the archive has, and the study asks none; remove it"
    if study["queryfile"] and study["sql_conn"]:
        yield "sql_conn", "is a database that the table comes from, and queryfile is another table; give one of them"
    if study["release"] == LIMIT and study["release_by"] == ANOTHER:
        yield "release_by", "asks for another person, and release: limit may ask nobody; set release to ask"
    if study["source"] == CUSTOM and not study["mappingfile"]:
        yield "mappingfile", "is missing; the source custom is a file of lines old,new"
    if study["source"] != CUSTOM and study["mappingfile"]:
        yield "mappingfile", f"goes with the source custom, and the source is {study['source']}"
    for key in ("release_to", "dicomdir", "convert", "upload"):
        if study[key] and not deidentified:
            yield key, "hands over de-identified data, and the study does without anonymize; take one of them out"
    if not deidentified and not (study["karnak"] or study["move"]):
        yield "without", "without anonymize, only karnak or move hand anything over; give one of them"
    if study["upload"] and study["upload"] == study["release_to"]:
        yield "upload", "is the store of release_to, which gets the data set already; take one of them out"
    for key in ("zip", "volume_size"):
        if study[key] and not study["dicomdir"]:
            yield key, "is about the DICOMDIR, and none is asked for; set dicomdir"
    if study["bids_rules"] and study["convert"] != BIDS:
        yield "bids_rules", "is about BIDS, and none is asked for; set convert to bids"
    if bool(study["karnak"]) != bool(study["album_name"]):
        yield "album_name" if study["album_name"] else "karnak", "karnak and album_name go together; give both"
    if study["album_name"] and not _TAG_TEXT.fullmatch(study["album_name"]):
        yield "album_name", "does not fit into a tag; give at most 64 ASCII characters, no backslash"


def selection_file(study: Study) -> Path | str:
    """Return the path of the file with the selection of a study; empty without one.

    Raises:
        PathRefused: it leads outside the data root.
    """
    return confined(study.selection, settings.data_root(), "selection") if study.selection else ""


def stages_for(study: Study, run: str) -> dict[str, dict[str, Any] | None]:
    """Return the conf of the DAG of each stage; None for a stage that the study does not have.

    Args:
        study: the study.
        run: name of the run's folder.
    """

    def conf(stage: stages.StageRow) -> dict[str, Any]:
        return params_of(stage.request, {**vars(study), **stage.asked(study, run), "accept_incomplete": True})

    return {name: conf(stage) if study.has(name) else None for name, stage in stages.TABLE.items()}
