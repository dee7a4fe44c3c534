"""The steps of a study around its stages: set up, check, ask, release, remove, report.

Each may be killed and called again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.config import Node, node_names
from pacsifier_ops.base.errors import ConfigError, DestinationRefused, InputError, PacsError
from pacsifier_ops.base.files import private_folder, read_json, storage_errors, write_atomic, write_json
from pacsifier_ops.base.given import read_given
from pacsifier_ops.base.places import kept_as
from pacsifier_ops.base.words import plural
from pacsifier_ops.convert.request import BIDS
from pacsifier_ops.extract import choosing
from pacsifier_ops.pseudonyms.secret import project_folder
from pacsifier_ops.query.options import Refused
from pacsifier_ops.runs.accounts import COMPLETE, ROWS_ANSWERED
from pacsifier_ops.runs.approvals import APPROVED, LIMITS, RELEASE, approved, decide
from pacsifier_ops.runs.folder import Run, never, now, stage_run
from pacsifier_ops.runs.job import summary_of
from pacsifier_ops.state import audit
from pacsifier_ops.state.approved import lies_in
from pacsifier_ops.state.facts import forget_facts
from pacsifier_ops.state.leases import shared
from pacsifier_ops.study import run as stages
from pacsifier_ops.study.gate import Gate
from pacsifier_ops.study.project import (
    ALL,
    ANYBODY,
    KEEP,
    LIMIT,
    NOBODY,
    REMOVE,
    TABLE,
    Study,
    read_project,
    selection_file,
    stages_for,
)
from pacsifier_ops.study.release import (
    DEIDENTIFIED_FOLDER,
    FOLDERS,
    Released,
    Stock,
    folder_of,
    list_originals,
    released_of,
    stock_of,
    take_stock,
)
from pacsifier_ops.study.run import keep_stages

if TYPE_CHECKING:
    from pacsifier_ops.study.accounts import StudyAccount

#: Files of the steps in the run's folder. The first step removes them when it begins anew; decisions stay.
_CHECKED = ("linker", "output", "parts", "identified", "stock", "gate", "released", "removal", "may_go")
KEPT = ("stages", *_CHECKED, "accounts", "summary")


def set_up(run: Run, given: Mapping[str, Any], file: Path | None, started_by: str = "") -> Study:
    """Read what a study is, from its project file or else from a form, and store what each stage has to do.

    Args:
        run: the run of the study.
        given: values of the form, by the keys of a project file; with a file, only those of the query table hold.
        file: the project file.
        started_by: name of the Airflow user who started the run; empty: it was scheduled.

    Raises:
        InputError: file or form is invalid; names every reason.
        ConfigError: values contradict each other, or the project file of the same study; likewise.
        NotAllowed: the project has expired.
        StorageError: the run's folder cannot be written.
    """
    run.forget(KEPT)
    own: dict[str, Any] = {"started": now(), "started_by": started_by}
    values = given
    if file is not None:
        try:
            values = read_project(file, {key: given[key] for key in TABLE if given.get(key)})
        except Refused as error:
            raise InputError(f"the project file cannot be used: {'; '.join(error.reasons)}") from None
        data = read_given(file)
        with storage_errors("the state root"):
            write_atomic(run.folder / "project.yaml", data)
        own |= {"file": str(file), "digest": hashlib.sha256(data).hexdigest()}
    several: dict[str, Any] = {name: tuple(values.get(name) or ()) for name in ("without", "owners", "approvers")}
    if not isinstance(values.get("pacs", ""), str):
        several["pacs"] = ", ".join(node_names(values["pacs"]))
    study = Study(**{**values, **several}, **own)
    study.check()
    study.refuse_expired()
    _check_against_file(study)
    with storage_errors("the state root"):
        choosing.read_and_keep(run, str(selection_file(study)))
        study.keep(run)
        keep_stages(run, stages_for(study, run.name))
        if study.verify == ALL:
            for name in FOLDERS:
                forget_facts(folder_of(study, name))
    return study


def check_store(study: Study, node: Node, cancelled: Callable[[], bool] = never) -> str:
    """Check that the study can be released to its store, before anything is fetched, and somebody asked.

    A store that has taken something before and does not answer now is no reason to fetch nothing: the release is tried
    again when it is due.

    Args:
        node: the store.

    Returns:
        What is wrong for now; empty: nothing.

    Raises:
        ConfigError: it is no store of files.
        PacsError: it is not there, we may not write, or another data set lies there; or it has never answered.
    """
    from pacsifier_ops.state.deliveries import has_taken
    from pacsifier_ops.upload.steps import check_place

    if study.release == NOBODY:
        return ""
    try:
        check_place(node, folder_of(study, DEIDENTIFIED_FOLDER), release=True, cancelled=cancelled)
    except DestinationRefused as error:
        raise DestinationRefused(f"release_to: {error}") from error
    except PacsError as error:
        if not (error.retryable and has_taken(node.key)):
            raise
        return str(error)
    return ""


#: Rules of a project file that a form of the same study cannot loosen, with what they are where they restrict nothing.
_RULES: Mapping[str, Any] = {"release_by": ANYBODY, "approvers": [], "expires": ""}


def _check_against_file(study: Study) -> None:
    """Check that a form does not change the rules of a study, if a project file of the same study has restricted them.

    Raises:
        ConfigError: the form changes one.
        StorageError: the state root cannot be written.
    """
    rules = {"release_by": study.release_by, "approvers": list(study.approvers), "expires": study.expires}
    limits = [study.most_missing, study.most_quarantined] if study.release == LIMIT else []
    with _remembered(study) as last:
        before = {**_RULES, **last.get("rule", {})}
        if study.file:
            last |= {"rule": rules, "limits": limits}
            return
        changed = [name for name in _RULES if before != _RULES and before[name] != rules[name]]
        if limits and "rule" in last and limits != last.get("limits"):  # they release where a person was to be asked
            changed.append("release")
        if changed:
            raise ConfigError(
                f"{', '.join(changed)}: the project file of this study says otherwise; start it with that"
            )


def other_running(study: Study, run: str, is_running: Callable[[str], bool], run_id: str) -> str:
    """Register a run as the present one of its study, unless the registered one is still running.

    Args:
        study: the study.
        run: name of this run's folder.
        is_running: whether the run with an id is still running.
        run_id: id of this run.

    Returns:
        The name of the other run's folder if that is still running; otherwise empty.

    Raises:
        StorageError: the state root cannot be written.
    """
    with _remembered(study) as last:
        if last.get("run_id", run_id) != run_id and is_running(last["run_id"]):
            return str(last["run"])
        last |= {"run_id": run_id, "run": run}
    return ""


@contextmanager
def _remembered(study: Study) -> Iterator[dict[str, Any]]:
    """Yield what a study remembers from run to run: its last run and release. Changes in the block are stored.

    Raises:
        ConfigError: its folder belongs to another project's study, whose approvers would not be asked.
    """
    folder, home = folder_of(study, ""), project_folder(study.project)
    path = home / "studies" / kept_as(folder)
    with storage_errors("the state root"):
        private_folder(path.parent)
    with shared().acquire(f"study:{path.stem}"):
        if any(found.parent != path.parent for found in home.parent.glob(f"*/studies/{path.name}")):
            raise ConfigError("folder: it is that of another project's study; give another project, or another folder")
        before = read_json(path) if path.exists() else {}
        yield (now := dict(before))
        if now != before:
            with storage_errors("the state root"):
                write_json(path, now)


def check(run: Run, cancelled: Any = never, secret: str = "") -> dict[str, int]:
    """Write the linker, take stock of the data set, and search all of it for identifiers of the cohort.

    Args:
        secret: secret of the project, where it is stored elsewhere (see `pseudonyms.secret`).

    Returns:
        Counts: files, bytes, findings that block the release, and findings that need a waiver.

    Raises:
        TreeError: the data set is half de-identified.
        StorageError: it cannot be read, or the state root cannot be written.
        Cancelled: `cancelled` returned True.
    """
    from pacsifier_ops.study import linker

    run.forget(_CHECKED)
    study = Study.of(run)
    linked = linker.write(run, secret) if study.has(stages.ANONYMIZE) else None
    stock = take_stock(run, cancelled)
    list_originals(run, cancelled)
    if not study.has(stages.ANONYMIZE):  # identified files are known to hold identifiers
        return {"files": stock.files, "bytes": stock.bytes}
    root = folder_of(study, DEIDENTIFIED_FOLDER)
    gate = Gate.of(run, root)
    found = gate.search_list(run, root, cancelled)
    gate.add_foreign(run, root, found, linked.digests if linked else {})
    with storage_errors("the state root"):
        write_json(run.folder / "gate.json", {**vars(found), "counts": dict(found.counts)})
    return {
        "files": stock.files,
        "bytes": stock.bytes,
        **{kind: found.counts[kind] for kind in ("blocking", "waivable")},
    }


@dataclass(frozen=True)
class Obstacles:
    """What is known of a data set before its release, and may prevent it.

    Attributes:
        stock: the files that are to be released.
        summary: sentences for the person who decides, in counts only.
        blocking: reasons that no approval can overrule, in counts only.
        waivable: number of findings that need a waiver.
        rows: number of rows of the query table that could not be answered.
        missing, quarantined: number of objects that are not in the data set.
    """

    stock: Stock
    summary: Sequence[str]
    blocking: Sequence[str]
    waivable: int
    rows: int
    missing: int
    quarantined: int


def findings(run: Run) -> Obstacles:
    """Return what is known of the data set before its release.

    Raises:
        NotApproved: the step check has not run.
    """
    study, stock = Study.of(run), stock_of(run)
    extraction, deidentification = (summary_of(stage_run(run, stage)) for stage in (stages.EXTRACT, stages.ANONYMIZE))
    extracted, deidentified = extraction.get("totals", {}), deidentification.get("totals", {})
    rows = sum(n for state, n in extraction.get("rows", {}).items() if state not in ROWS_ANSWERED)
    missing = int(extracted.get("missing", 0)) + int(extracted.get("unverifiable", 0))
    missing += int(deidentified.get("missing", 0))
    quarantined = int(deidentified.get("quarantined", 0))
    summary = [
        f"{plural(stock.files, 'file')} of {stock.bytes / 1e6:,.1f} MB are to be released, digest {stock.digest[:16]}",
        f"{plural(rows, 'row')} of the query table could not be answered",
        f"{extracted.get('expected', 0):,} images were expected, {missing:,} of them are missing",
        f"{deidentified.get('deidentified', 0):,} objects are de-identified, {deidentified.get('excluded', 0):,} "
        f"excluded by rule, {quarantined:,} in quarantine",
    ]
    summary += [f"goes to: {text}" for text in _destinations(study)]
    gate = stages.outcome(run, stages.GATE) if study.has(stages.ANONYMIZE) else {}
    counts = gate.get("counts", {})
    if waivable := counts.get("waivable", 0):
        summary.append(
            f"{plural(waivable, 'finding')} that may be parts of names or short ids of the cohort: the run's page "
            "leads to them; to approve takes a waiver"
        )
    blocking = []
    if certain := counts.get("blocking", 0):
        blocking.append(f"{plural(certain, 'finding')} of identifiers of the cohort; the run's page leads to them")
    return Obstacles(stock, summary, blocking, waivable, rows, missing, quarantined)


def _destinations(study: Study) -> list[str]:
    wanted = {
        "the folder `released`": study.has(stages.ANONYMIZE) and not study.release_to,
        f"the store {study.release_to}; the folder `released` gets the tables": study.release_to,
        "a DICOM file-set": study.dicomdir,
        f"NIfTI in the folder `nifti`{', as BIDS' if study.convert == BIDS else ''}": study.convert,
        f"the node {study.upload}": study.upload,
        f"the gateway {study.karnak}, IDENTIFIED, with Karnak tags": study.karnak,
        f"the node {study.move}, IDENTIFIED, from the archive": study.move,
    }
    return [text for text, yes in wanted.items() if yes]


def release(run: Run, cancelled: Callable[[], bool] = never) -> Released:
    """Release what was approved (see `release.release`), and remember it."""
    from pacsifier_ops.study.release import release

    study, released = Study.of(run), release(run, cancelled)
    with _remembered(study) as last:
        decision = approved(run, RELEASE, released.digest)
        kept = {"digest": released.digest, "by": released.by, "waived": released.waived}
        last["released"] = {**kept, "to": _destinations(study), "when": decision.when, "reason": decision.reason}
    return released


def released_before(run: Run, found: Obstacles) -> bool:
    """Return whether exactly this data set was released before, to the same destinations.

    If so, the decision of then is stored as that of this run.
    """
    study = Study.of(run)
    with _remembered(study) as last:
        before = last.get("released", {})
    same = (before.get("digest"), before.get("to")) == (found.stock.digest, _destinations(study))
    if same and not found.blocking and study.release != NOBODY and not study.may_release(before["by"]):
        told = {name: before.get(name, "") for name in ("when", "reason")}  # earlier versions did not keep them
        decide(run, RELEASE, found.stock.digest, APPROVED, before["by"], before["waived"], beforehand=True, **told)
        return True
    return False


def within_limits(run: Run, found: Obstacles) -> bool:
    """Return whether the limits of the study release the data set. If so, this is stored as the decision."""
    study = Study.of(run)
    within = (
        study.release == LIMIT
        and not found.blocking
        and not found.waivable
        and not found.rows
        and found.missing <= study.most_missing
        and found.quarantined <= study.most_quarantined
    )
    if within:
        decide(run, RELEASE, found.stock.digest, APPROVED, LIMITS, beforehand=True)
    return within


def remove(run: Run, destinations: Sequence[str] = (), cancelled: Callable[[], bool] = never) -> dict[str, int]:
    """List the identified files that are verified as delivered, and remove them if the study says so.

    Args:
        destinations: `key` of each node that the study releases or uploads to.

    Returns:
        Number of files that may be removed, were removed, and stay; nothing if the study keeps the identified copy.

    Raises:
        StorageError: a folder cannot be read or written; some files may be removed already.
        Cancelled: `cancelled` returned True; likewise.
    """
    from pacsifier_ops.study import removal

    study = Study.of(run)
    if study.remove_identified == KEEP or not study.has(stages.ANONYMIZE) or released_of(run) is None:
        return {}
    identified, deidentified, released = (folder_of(study, name) for name in FOLDERS)
    places = removal.Places(identified, deidentified, lies_in(released), destinations)
    if not run.part("removal").exists():  # an earlier attempt may have removed some of the files that it listed
        removal.plan_removal(run, places, cancelled, read=study.remove_identified == REMOVE)
    listing, removed = removal.Listing.of(run), removal.Removed()
    if study.remove_identified == REMOVE and _at_gateway(run, study):
        facts = {"run": run.name, "project": study.project}
        audit.record(audit.REMOVING, files=listing.files, **facts)
        removed = removal.remove(run, places, cancelled)
        audit.record(audit.REMOVED, files=removed.files, **facts)
    with storage_errors("the state root"):
        write_json(run.folder / "removal.json", vars(removed))
    return {"may_go": listing.files, "removed": removed.files, "stay": sum(listing.stay.values())}


def _at_gateway(run: Run, study: Study) -> bool:
    """Return whether the gateway of the study, if any, has all identified copies, except those of unknown patients."""
    from pacsifier_ops.handover.karnak import all_but_unknown

    if not study.karnak:
        return True
    sent = summary_of(stage_run(run, stages.KARNAK_UPLOAD)).get("verdict")
    return sent == COMPLETE and all_but_unknown(stage_run(run, stages.KARNAK))


def report(run: Run) -> StudyAccount:
    """Close the account of the whole study, and write both reports, from whatever the run left.

    Returns:
        The account; its `verdict` is the study's.

    Raises:
        InputError: the study was not set up.
        StorageError: something cannot be read or written.
    """
    from pacsifier_ops.handover.dicomdir import is_written
    from pacsifier_ops.study import closing, handover
    from pacsifier_ops.study import report as manager
    from pacsifier_ops.study.release import note_file_set

    account = closing.close(run)
    if is_written(stage_run(run, stages.DICOMDIR)):
        note_file_set(run)
    handover.write_report(run, account)
    manager.write_report(run, account)
    return account
