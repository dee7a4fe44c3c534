"""The steps of a study around its stages: set up, check, ask, release, report. Each may be killed and called again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.config import node_names
from pacsifier_ops.base.errors import ConfigError, InputError
from pacsifier_ops.base.files import private_folder, read_json, storage_errors, write_atomic, write_json
from pacsifier_ops.base.given import read_given
from pacsifier_ops.base.places import kept_as
from pacsifier_ops.base.words import plural
from pacsifier_ops.pseudonyms.secret import project_folder
from pacsifier_ops.query.options import Refused
from pacsifier_ops.runs.accounts import COMPLETE, ROWS_ANSWERED
from pacsifier_ops.runs.approvals import APPROVED, LIMITS, RELEASE, decide
from pacsifier_ops.runs.folder import Run, never, now, stage_run
from pacsifier_ops.runs.job import summary_of
from pacsifier_ops.state.facts import forget_facts
from pacsifier_ops.state.leases import shared
from pacsifier_ops.study import run as stages
from pacsifier_ops.study.gate import Gate
from pacsifier_ops.study.project import ALL, ANYBODY, KEEP, LIMIT, NOBODY, REMOVE, Study, read_project, stages_for
from pacsifier_ops.study.release import (
    DEIDENTIFIED_FOLDER,
    FOLDERS,
    Released,
    Stock,
    folder_of,
    list_originals,
    listed,
    released_of,
    stock_of,
    take_stock,
)
from pacsifier_ops.study.run import keep_stages

if TYPE_CHECKING:
    from pacsifier_ops.study.accounts import StudyAccount

#: What the steps keep in the run's folder; forgotten when the first one begins anew. Decisions stay.
KEPT = ("stages", "output", "identified", "stock", "gate", "released", "removal", "accounts", "summary")


def set_up(run: Run, given: Mapping[str, Any], file: Path | None, started_by: str = "") -> Study:
    """Take in what a run was asked for, by a project file or else by a form, and say what each stage is to do.

    Args:
        given: by the keys of a project file; not used with a file.
        started_by: name of the Airflow user who has started the run; empty: nobody did.

    Raises:
        InputError: it cannot be used; with every reason.
        StorageError: the run's folder cannot be written.
    """
    run.forget(KEPT)
    told: dict[str, Any] = {"started": now(), "started_by": started_by}
    values = given
    if file is not None:
        try:
            values = read_project(file)
        except Refused as error:
            raise InputError(f"the project file cannot be used: {'; '.join(error.reasons)}") from None
        data = read_given(file)
        with storage_errors("the state root"):
            write_atomic(run.folder / "project.yaml", data)
        told |= {"file": str(file), "digest": hashlib.sha256(data).hexdigest()}
    several: dict[str, Any] = {name: tuple(values.get(name) or ()) for name in ("without", "approvers")}
    if not isinstance(values.get("pacs", ""), str):
        several["pacs"] = ", ".join(node_names(values["pacs"]))
    study = Study(**{**values, **several}, **told)
    study.check()
    _hold_to_file(study)
    with storage_errors("the state root"):
        study.keep(run)
        keep_stages(run, stages_for(study, run.name))
        if study.verify == ALL:
            for name in FOLDERS:
                forget_facts(folder_of(study, name))
    return study


def _hold_to_file(study: Study) -> None:
    """Make sure that a form does not let go of who may release, where a project file has said so of the same study.

    Raises:
        ConfigError: it would.
        StorageError: the state root cannot be written.
    """
    rule = {"release_by": study.release_by, "approvers": list(study.approvers)}
    with _remembered(study) as last:
        before = last.get("rule")
        if study.file:
            last["rule"] = rule
        elif before and before != rule and before != {"release_by": ANYBODY, "approvers": []}:
            raise ConfigError(
                "release_by, approvers: the project file of this study says otherwise; start it with that"
            )


def going_on(study: Study, run: str, goes_on: Callable[[str], bool], run_id: str) -> str:
    """Let this be the run of its study, unless the last one goes on; then the name of that run's folder, else empty.

    Args:
        run: name of this run's folder.
        goes_on: whether a run of an id goes on.
        run_id: of this run.

    Raises:
        StorageError: the state root cannot be written.
    """
    with _remembered(study) as last:
        if last.get("run_id", run_id) != run_id and goes_on(last["run_id"]):
            return str(last["run"])
        last |= {"run_id": run_id, "run": run}
    return ""


@contextmanager
def _remembered(study: Study) -> Iterator[dict[str, Any]]:
    """What is kept of a study from run to run, as it is changed in the block: its last run, and its last release.

    Raises:
        ConfigError: its folder is that of another project's study, whose approvers would not be asked.
    """
    folder, home = folder_of(study, ""), project_folder(study.project)
    path = home / "studies" / kept_as(folder)
    with storage_errors("the state root"):
        private_folder(path.parent)
    with shared().acquire(f"study:{path.stem}"):
        if any(other.parent != path.parent for other in home.parent.glob(f"*/studies/{path.name}")):
            raise ConfigError("folder: it is that of another project's study; give another project, or another folder")
        before = read_json(path) if path.exists() else {}
        yield (now := dict(before))
        if now != before:
            with storage_errors("the state root"):
                write_json(path, now)


def check(run: Run, cancelled: Any = never) -> dict[str, int]:
    """Take stock of the data set, and search all of it for identifiers of the cohort.

    Returns:
        Counts: files, bytes, findings that block the release, and findings that take a waiver.

    Raises:
        TreeError: the data set is half de-identified.
        StorageError: it cannot be read, or the state root not be written.
        Cancelled: `cancelled` said so.
    """
    run.forget(("output", "identified", "stock", "gate", "released", "removal"))
    study, stock = Study.of(run), take_stock(run, cancelled)
    list_originals(run, cancelled)
    if not study.has(stages.ANONYMIZE):  # what is identified holds identifiers
        return {"files": stock.files, "bytes": stock.bytes}
    root = folder_of(study, DEIDENTIFIED_FOLDER)
    gate = Gate.of(run, root)
    found = gate.search(root, (file["path"] for file in listed(run)), cancelled)
    gate.refuse_foreign(listed(run), found)
    with storage_errors("the state root"):
        write_json(run.folder / "gate.json", {**vars(found), "counts": dict(found.counts)})
    return {
        "files": stock.files,
        "bytes": stock.bytes,
        **{kind: found.counts[kind] for kind in ("blocking", "waivable")},
    }


@dataclass(frozen=True)
class Obstacles:
    """What stands between a data set and its release.

    Attributes:
        stock: what is to be released.
        told: sentences for who decides, in counts only.
        blocking: reasons that no word can put aside, in counts only.
        waivable: findings that take a waiver.
        rows: rows of the query table that could not be answered.
        missing, quarantined: objects that are not in the data set.
    """

    stock: Stock
    told: Sequence[str]
    blocking: Sequence[str]
    waivable: int
    rows: int
    missing: int
    quarantined: int


def findings(run: Run) -> Obstacles:
    """What is known of the data set before its release.

    Raises:
        NotApproved: nobody has looked at it yet.
    """
    study, stock = Study.of(run), stock_of(run)
    extraction, deidentification = (summary_of(stage_run(run, stage)) for stage in (stages.EXTRACT, stages.ANONYMIZE))
    extracted, deidentified = extraction.get("totals", {}), deidentification.get("totals", {})
    rows = sum(n for state, n in extraction.get("rows", {}).items() if state not in ROWS_ANSWERED)
    missing = int(extracted.get("missing", 0)) + int(extracted.get("unverifiable", 0))
    missing += int(deidentified.get("missing", 0))
    quarantined = int(deidentified.get("quarantined", 0))
    told = [
        f"{plural(stock.files, 'file')} of {stock.bytes / 1e6:,.1f} MB are to be released, digest {stock.digest[:16]}",
        f"{plural(rows, 'row')} of the query table could not be answered",
        f"{extracted.get('expected', 0):,} images were expected, {missing:,} of them are missing",
        f"{deidentified.get('deidentified', 0):,} objects are de-identified, {deidentified.get('excluded', 0):,} "
        f"excluded by rule, {quarantined:,} in quarantine",
    ]
    told += [f"goes to: {text}" for text in _destinations(study)]
    gate = stages.outcome(run, stages.GATE) if study.has(stages.ANONYMIZE) else {}
    counts = gate.get("counts", {})
    if waivable := counts.get("waivable", 0):
        told.append(
            f"{plural(waivable, 'finding')} that may be parts of names or short ids of the cohort: the run's page "
            "leads to them; to approve takes a waiver"
        )
    blocking = []
    if certain := counts.get("blocking", 0):
        blocking.append(f"{plural(certain, 'finding')} of identifiers of the cohort; the run's page leads to them")
    return Obstacles(stock, told, blocking, waivable, rows, missing, quarantined)


def _destinations(study: Study) -> list[str]:
    yes = {
        "the folder `released`": study.has(stages.ANONYMIZE),
        "a DICOM file-set": study.dicomdir,
        f"the node {study.upload}": study.upload,
        f"the gateway {study.karnak}, IDENTIFIED, with Karnak tags": study.karnak,
        f"the node {study.move}, IDENTIFIED, from the archive": study.move,
    }
    return [text for text, wanted in yes.items() if wanted]


def release(run: Run, cancelled: Callable[[], bool] = never) -> Released:
    """Release what was approved, see `release.release`, and remember it."""
    from pacsifier_ops.study.release import release

    study, released = Study.of(run), release(run, cancelled)
    with _remembered(study) as last:
        kept = {"digest": released.digest, "by": released.by, "waived": released.waived}
        last["released"] = {**kept, "to": _destinations(study)}
    return released


def released_before(run: Run, found: Obstacles) -> bool:
    """Whether exactly this data set was released before, to the same destinations; if so, that decision still holds."""
    study = Study.of(run)
    with _remembered(study) as last:
        before = last.get("released", {})
    same = (before.get("digest"), before.get("to")) == (found.stock.digest, _destinations(study))
    if same and not found.blocking and study.release != NOBODY and not study.may_release(before["by"]):
        decide(run, RELEASE, found.stock.digest, APPROVED, before["by"], before["waived"], beforehand=True)
        return True
    return False


def within_limits(run: Run, found: Obstacles) -> bool:
    """Whether the limits that were given beforehand release the data set; if so, that is kept as the decision."""
    study = Study.of(run)
    good = (
        study.release == LIMIT
        and not found.blocking
        and not found.waivable
        and not found.rows
        and found.missing <= study.most_missing
        and found.quarantined <= study.most_quarantined
    )
    if good:
        decide(run, RELEASE, found.stock.digest, APPROVED, LIMITS, beforehand=True)
    return good


def remove(run: Run, destination: str = "", cancelled: Callable[[], bool] = never) -> dict[str, int]:
    """List what of the identified copy is verified as delivered, and remove that if it was asked for.

    Args:
        destination: `key` of the node that the study uploads to, if it does.

    Returns:
        How many files may go, went, and stay.

    Raises:
        StorageError: a folder cannot be read or written; what went stays gone.
        Cancelled: `cancelled` said so; likewise.
    """
    from pacsifier_ops.study import removal

    study = Study.of(run)
    if study.remove_identified == KEEP or not study.has(stages.ANONYMIZE) or released_of(run) is None:
        return {}
    identified, deidentified, released = (folder_of(study, name) for name in FOLDERS)
    places = removal.Places(identified, deidentified, released, destination)
    if not run.part("removal").exists():  # an attempt before this one may have removed some of what it lists
        removal.plan_removal(run, places, cancelled)
    listing, removed = removal.Listing.of(run), removal.Removed()
    if study.remove_identified == REMOVE and _at_gateway(run, study):
        removed = removal.remove(run, places, cancelled)
    with storage_errors("the state root"):
        write_json(run.folder / "removal.json", vars(removed))
    return {"may_go": listing.files, "removed": removed.files, "stay": sum(listing.stay.values())}


def _at_gateway(run: Run, study: Study) -> bool:
    """Whether a gateway that is to have identified copies has all of them, but for those of unknown patients."""
    from pacsifier_ops.handover.karnak import all_but_unknown

    if not study.karnak:
        return True
    sent = summary_of(stage_run(run, stages.KARNAK_UPLOAD)).get("verdict")
    return sent == COMPLETE and all_but_unknown(stage_run(run, stages.KARNAK))


def report(run: Run) -> StudyAccount:
    """Close the books of the whole chain, and write both reports. Works on whatever the run left.

    Returns:
        The accounts; their `verdict` is the study's.

    Raises:
        InputError: the study was not set up.
        StorageError: something cannot be read or written.
    """
    from pacsifier_ops.study import closing, handover
    from pacsifier_ops.study import report as manager

    account = closing.close(run)
    handover.write_books(run, account)
    manager.write_books(run, account)
    return account
