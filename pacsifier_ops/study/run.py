"""What a study keeps in its run's folder (see `run.Run`).

| file                        | written by | what                                                               |
|-----------------------------|------------|--------------------------------------------------------------------|
| request.json                | set_up     | what was asked for, see `project.Study`                             |
| stages.json                 | set_up     | what each stage is asked for, as the conf of its DAG; null: not     |
| project.yaml                | set_up     | the project file, as it was                                        |
| stages/<run>-<stage>/       | the stage  | the run folder of a stage                                          |
| output.jsonl                | check      | path, size and SHA-256 of every file of the de-identified data set |
| identified.jsonl            | check      | the same of the identified files, where they go somewhere          |
| stock.json                  | check      | digest, files and bytes of what is to be released                  |
| gate.json                   | check      | what the search for identifiers found, see `gate.GateFindings`     |
| decisions/                  | approve    | see `approvals`                                                    |
| released.json               | release    | what was released, by whose word                                   |
| removal.jsonl, removal.json | remove     | what of the identified copy may go, and what went                  |
| handover/                   | report     | what goes with the data: no identifiers                            |
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from pacsifier_ops.base.errors import InputError
from pacsifier_ops.base.files import private_folder, read_json, storage_errors, write_json
from pacsifier_ops.runs.folder import Run

EXTRACT, PSEUDONYMS, ANONYMIZE, DUMPS = "extract", "pseudonyms", "anonymize", "dumps"
DICOMDIR, UPLOAD, KARNAK, KARNAK_UPLOAD, MOVE = "dicomdir", "upload", "karnak", "karnak_upload", "move"
#: The stages of a study, in order; each is what a DAG of its own does.
STAGES = (EXTRACT, PSEUDONYMS, ANONYMIZE, DUMPS, DICOMDIR, UPLOAD, KARNAK, KARNAK_UPLOAD, MOVE)

#: Those that hand data over, and wait for its release.
DESTINATIONS = (DICOMDIR, UPLOAD, KARNAK, KARNAK_UPLOAD, MOVE)

#: How a stage can end, beside the verdicts.
OFF, NOT_RUN, NOT_ENDED = "switched off", "did not run", "did not end"
#: And one that has made all there is to make in an earlier run.
NOTHING_NEW = "nothing new"


#: What steps leave for whoever tells of a study, see `outcome`: content of the table above, by the names of its files.
GATE, STOCK, RELEASED, REMOVAL = "gate", "stock", "released", "removal"


def outcome(run: Run, what: str) -> dict[str, Any]:
    """What a step has left: GATE, STOCK, RELEASED or REMOVAL; empty before. Paths in it may identify."""
    with suppress(FileNotFoundError):
        return dict(read_json(run.folder / f"{what}.json"))
    return {}


def handover_report(run: Run) -> Path:
    """Where the report that goes with the data is, if there is one."""
    return run.folder / "handover" / "report.html"


def stage_folder(run: Run, stage: str) -> Path:
    """Where the run folder of a stage is, or would be."""
    return run.folder / "stages" / f"{run.name}-{stage}"


def stage_run(run: Run, stage: str) -> Run:
    """The run of a stage, its folder made where needed.

    Raises:
        StorageError: the state root cannot be written.
    """
    with storage_errors("the state root"):
        return Run(private_folder(stage_folder(run, stage)))


def keep_stages(run: Run, stages: dict[str, dict[str, Any] | None]) -> None:
    """Keep what each stage is asked for."""
    write_json(run.folder / "stages.json", stages)


def stages_of(run: Run) -> dict[str, dict[str, Any] | None]:
    """What each stage is asked for; None for one that is switched off.

    Raises:
        InputError: the study was not set up.
    """
    try:
        stages: dict[str, dict[str, Any] | None] = read_json(run.folder / "stages.json")
    except FileNotFoundError:
        raise InputError("the study was not set up; see the error of the step set_up") from None
    return stages
