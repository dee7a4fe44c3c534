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

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import InputError
from pacsifier_ops.base.files import read_json, write_json
from pacsifier_ops.deid.run import DeidRequest
from pacsifier_ops.extract.run import Request
from pacsifier_ops.handover.request import DicomdirRequest, DumpsRequest, KarnakRequest
from pacsifier_ops.pseudonyms.run import PseudonymRequest
from pacsifier_ops.query.reading import Reading
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.upload.run import UploadRequest

if TYPE_CHECKING:
    from pacsifier_ops.study.project import Study

EXTRACT, PSEUDONYMS, ANONYMIZE, DUMPS = "extract", "pseudonyms", "anonymize", "dumps"
DICOMDIR, UPLOAD, KARNAK, KARNAK_UPLOAD, MOVE = "dicomdir", "upload", "karnak", "karnak_upload", "move"


@dataclass(frozen=True)
class StageRow:
    """A stage of a study: what a DAG of its own does.

    Attributes:
        name: of its tasks, and of its run; title: what it does, for people.
        request: what it is asked for. Of its options, the study says those that it has by the same name.
        asked: the others that are not as in the form of the DAG, from the study and the name of the study's run.
        on: where data is handed over, which waits for its release: whether the study wants it. None: it is done unless
            it is among those that the study does `without`.
    """

    name: str
    title: str
    request: type
    asked: Callable[[Study, str], Mapping[str, Any]]
    on: Callable[[Study], object] | None = None


_STAGES = (
    StageRow(EXTRACT, "Retrieval", Request, lambda study, run: {"out_directory": study.identified}),
    StageRow(
        PSEUDONYMS,
        "Pseudonyms",
        PseudonymRequest,
        lambda study, run: {
            "queryfile": None,
            **Reading().options(),
            "in_folder": study.identified,
            "leave_out": True,
        },
    ),
    StageRow(
        ANONYMIZE,
        "De-identification",
        DeidRequest,
        lambda study, run: {
            "in_folder": study.identified,
            "out_folder": study.deidentified,
            "linked_only": study.has(PSEUDONYMS),
        },
    ),
    StageRow(
        DUMPS,
        "Info dumps put apart",
        DumpsRequest,
        lambda study, run: {"data_folder": study.identified, "info_folder": f"{study.root}/info"},
    ),
    StageRow(
        DICOMDIR,
        "DICOM file-set",
        DicomdirRequest,
        # Each run makes a file-set of its own.
        lambda study, run: {"in_folder": study.released, "out_folder": f"{study.root}/dicomdir/{run[-8:]}"},
        on=lambda study: study.dicomdir,
    ),
    StageRow(
        UPLOAD,
        "Upload",
        UploadRequest,
        lambda study, run: {
            "upload_directory": study.released,
            "pacs": study.upload,
            "out_directory": f"{study.root}/logs/upload",
        },
        on=lambda study: study.upload,
    ),
    StageRow(
        KARNAK,
        "Karnak tags",
        KarnakRequest,
        lambda study, run: {
            "in_folder": study.identified,
            "out_folder": f"{study.root}/karnak",
            "leave_out": True,
        },
        on=lambda study: study.karnak,
    ),
    StageRow(
        KARNAK_UPLOAD,
        "Upload to the gateway",
        UploadRequest,
        lambda study, run: {
            "upload_directory": f"{study.root}/karnak",
            "pacs": study.karnak,
            "out_directory": f"{study.root}/logs/karnak",
        },
        on=lambda study: study.karnak,
    ),
    StageRow(
        MOVE,
        "Move by the archive",
        Request,
        lambda study, run: {
            "retrieve": "move",
            "method": None,
            "out_directory": f"{study.root}/moved",
            "info": False,
            "destination": study.move,
        },
        on=lambda study: study.move,
    ),
)
TABLE = {stage.name: stage for stage in _STAGES}

#: The names of the stages of a study, in order.
STAGES = tuple(TABLE)
#: Those that hand data over, and wait for its release; and those that a study may do without.
DESTINATIONS = tuple(stage.name for stage in _STAGES if stage.on)
WITHOUT = tuple(stage.name for stage in _STAGES if not stage.on)

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
