"""What can be started from the page Extract, its fields, and the check of what people fill in.

The fields are the options of the requests (see `base.options`), as in the forms of the DAGs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pacsifier_ops.base import settings
from pacsifier_ops.base.config import node_names
from pacsifier_ops.base.errors import ConfigError, InputError, PacsifierError, not_known
from pacsifier_ops.base.options import IN_FORM, Option, Section, data_path, params_of, request_of, standing
from pacsifier_ops.base.window import Window
from pacsifier_ops.base.words import clock, plural
from pacsifier_ops.extract.requests import given_table, reading_options, table_path
from pacsifier_ops.extract.run import Request
from pacsifier_ops.query.options import Refused
from pacsifier_ops.runs.folder import kept_requests
from pacsifier_ops.study.project import FORM, TABLE, Study, beside, contradictions, read_project
from pacsifier_ops.web.access import EXTRACT, STUDY


@dataclass(frozen=True)
class Remark:
    """What is wrong with an option, or worth a look before the start.

    Attributes:
        option: its name; empty: no single one.
        message: a sentence without a final period.
    """

    option: str
    message: str

    @classmethod
    def of(cls, option: str, why: object) -> Remark:
        """Return a remark; the page shows it at the option, so its name goes from the beginning of the message."""
        return cls(option, str(why).removeprefix(f"{option}: ").removeprefix(f"{option} "))


@dataclass(frozen=True)
class Job:
    """A DAG that can be started from the page.

    Attributes:
        dag_id: its id.
        name, sentence: for people.
        request: class of its request.
        first: options that everybody sees; the others are in a fold.
        check: yields what contradicts, from the conf of a run.
        folder: returns the folder of a run's results, from its conf.
    """

    dag_id: str
    name: str
    sentence: str
    request: type
    first: tuple[str, ...]
    check: Callable[[Mapping[str, Any]], Iterator[Remark]]
    folder: Callable[[Mapping[str, Any]], Path | None]

    @property
    def options(self) -> Mapping[str, Option]:
        """Return the options on the page by name."""
        return {name: one for name, one in standing(self.request, IN_FORM).items() if name not in TABLE}

    @property
    def shown(self) -> list[Option]:
        """Return the options that everybody sees."""
        return [self.options[name] for name in self.first]

    @property
    def folded(self) -> Mapping[Section, list[Option]]:
        """Return the options in the fold, by section."""
        found: dict[Section, list[Option]] = {section: [] for section in Section}
        for name, one in self.options.items():
            if name not in self.first:
                found[one.section].append(one)
        return {section: options for section, options in found.items() if options}


def _check_selection(conf: Mapping[str, Any]) -> Iterator[Remark]:
    """Yield what is wrong with the file of the selection; nothing where the page does not see data."""
    from pacsifier_ops.selection.reading import read_selection

    if conf["selection"] and settings.data_root().is_dir():
        try:
            read_selection(data_path(conf["selection"], "selection"))
        except Refused as error:
            for reason in error.reasons:
                yield Remark("selection", reason)


def _check_extract(conf: Mapping[str, Any]) -> Iterator[Remark]:
    from pacsifier_ops.extract.steps import check_consistent

    try:
        node_names(conf["pacs"])
    except ConfigError as error:
        yield Remark.of("pacs", error)
    try:
        Window.parse(conf["window"] or "")
    except ConfigError as error:
        yield Remark.of("window", error)
    yield from _check_selection(conf)
    try:
        table = given_table(conf["queryfile"] or "", conf["sql_conn"])
        request = request_of(Request, conf, queryfile=table or "", **reading_options(conf["queryfile"] or "", conf))
        check_consistent(request, conf["destination"] or None)
    except PacsifierError as error:
        yield Remark("", str(error))


def _check_study(conf: Mapping[str, Any]) -> Iterator[Remark]:
    set_ = {key: conf[key] for key in FORM if conf[key] is not None}
    given = {key: FORM[key].fitting(one) if isinstance(one, list | tuple) else one for key, one in set_.items()}
    if conf["project_file"]:
        for key in beside(conf, params(JOBS[STUDY], {})):
            yield Remark(key, "must not be given beside a project file; change it there, or leave project_file empty")
        path = data_path(conf["project_file"], "project_file")
        if not settings.data_root().is_dir():  # the page need not see data
            return
        try:
            read_project(path, {"queryfile": conf["queryfile"]} if conf["queryfile"] else {})
        except Refused as error:
            for reason in error.reasons:
                yield Remark("project_file", reason)
        return
    for option, message in contradictions(given):
        yield Remark.of(option, message)
    yield from _check_selection(conf)
    try:
        given_table(conf["queryfile"] or "", conf["sql_conn"])
    except PacsifierError as error:
        yield Remark("", str(error))


def _folder_of_study(conf: Mapping[str, Any]) -> Path | None:
    folder = conf["folder"] or (f"studies/{conf['project']}" if conf["project"] else "")
    return data_path(folder, "folder") if folder and not conf["project_file"] else None


#: The jobs by the ids of their DAGs.
JOBS: Mapping[str, Job] = {
    job.dag_id: job
    for job in (
        Job(
            EXTRACT,
            "Extract",
            "Find the series of the table, and fetch their images as they are.",
            Request,
            ("pacs", "out_directory", "retrieve", "destination"),
            _check_extract,
            lambda conf: data_path(conf["out_directory"], "out_directory"),
        ),
        Job(
            STUDY,
            "Study",
            "Fetch, de-identify, search, and release when a person says so: a data set that may be shared.",
            Study,
            ("project_file", "project", "pacs", "source", "profile", "upload"),
            _check_study,
            _folder_of_study,
        ),
    )
}


def params(job: Job, conf: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params of a run of this conf, with the defaults of the form.

    Raises:
        InputError: the conf has keys that are no options of the job, or its query table is not text.
    """
    known = standing(job.request, IN_FORM)
    if unknown := sorted(conf.keys() - known.keys()):
        named = "; ".join(not_known(key, known) for key in unknown[:10])
        raise InputError(f"{named}; there are {', '.join(known)}")
    if not isinstance(conf.get("queryfile", ""), str):
        raise InputError("queryfile is not text")
    given = params_of(job.request, {"queryfile": "", **conf})
    return {name: None if value == "" and known[name].optional else value for name, value in given.items()}


def problems(job: Job, conf: Mapping[str, Any]) -> list[Remark]:
    """Return all that would end a run of this conf before it asks a PACS.

    Args:
        conf: params of the run by name, see `params`.
    """
    found = [*_misfits(job, conf)]
    if not found:
        try:
            settings.check()
            found += job.check(conf)
        except PacsifierError as error:
            found.append(Remark("", str(error)))
    return found or [*_misspelt(job, conf)]


def _misspelt(job: Job, conf: Mapping[str, Any]) -> Iterator[Remark]:
    """Yield the texts that do not have the form that the help of their option asks for."""
    for name, one in job.options.items():
        if one.pattern and conf[name] and not re.search(one.pattern, str(conf[name])):
            yield Remark(name, "not in the form that is described here")


def _misfits(job: Job, conf: Mapping[str, Any]) -> Iterator[Remark]:
    """Yield what is wrong with single options. Airflow's own check of the form says it in the words of JSON Schema."""
    for name, one in job.options.items():
        value = conf[name]
        if value in (None, "") or (value in ([], ()) and (one.several or one.joined)):
            if not one.optional and not one.several and one.shortest:
                yield Remark(name, "empty; fill it in")
            continue
        try:
            fitting = one.fitting(value)
            if one.path:
                one.path(fitting, name, "")
        except (ValueError, PacsifierError) as error:
            yield Remark.of(name, error)


def remarks(job: Job, conf: Mapping[str, Any]) -> list[Remark]:
    """Return what is worth a look before a run of this conf is started, but no problem: who has used its folder."""
    if (folder := job.folder(conf)) is None:
        return []
    used = [*_users_of(folder, conf["queryfile"])]
    if not used:
        return []
    last, times = clock(max(used)) or "at a time that is not known", plural(len(used), "earlier run")
    if job.dag_id == STUDY:
        message = (
            f"{times} of a study used this folder, the last one {last}; this run adds to the same data set, and known "
            "patients keep their pseudonyms"
        )
        return [Remark("project", message)]
    message = (
        f"{times} for other tables wrote into this folder, the last one {last}; this run adds to what is there, and "
        "images of both tables are then in one folder"
    )
    return [Remark("out_directory", message)]


def _users_of(folder: Path, queryfile: str | None) -> Iterator[str]:
    """Yield the times of the starts of runs that were for the same folder, and other tables."""
    own = {queryfile, str(table_path(queryfile))} if queryfile else set()
    root = settings.data_root().resolve()
    for request in kept_requests():
        of_study = request.get("folder") or f"studies/{request['project']}" if "without" in request else ""
        used = request.get("out_directory") or of_study
        if used and root / used == folder and request.get("queryfile") not in own:
            yield str(request.get("started", ""))


def fresh_folder(request: str, today: str) -> str:
    """Return a folder, below the data root, that no other request is likely to use.

    Args:
        request: id of the request.
        today: date, ISO 8601.
    """
    return f"out/{today}-{request.removeprefix('req-')[:6]}"


def project_files() -> list[str]:
    """Return the paths of the project files below the data root, as far as the page may see it."""
    root = settings.data_root()
    return sorted(path.relative_to(root).as_posix() for path in root.glob("studies/*.y*ml"))
