"""The stages of a study, and the files that it keeps in its run's folder (see `runs.folder.Run`).

| file                        | written by | content                                                            |
|-----------------------------|------------|--------------------------------------------------------------------|
| request.json                | set_up     | the study, see `project.Study`                                     |
| stages.json                 | set_up     | the conf of the DAG of each stage; null: it is switched off        |
| project.yaml                | set_up     | a copy of the project file                                         |
| selection.yaml              | set_up     | a copy of the file of the selection, which the stages take         |
| stages/<run>-<stage>/       | the stage  | the run folder of a stage                                          |
| linker.json                 | check      | what was linked, see `linker.Linked`                               |
| output.jsonl                | check      | path, size and SHA-256 of every file of the de-identified data set |
| identified.jsonl            | check      | the same of the identified files, if they are handed over          |
| stock.json                  | check      | digest, number and size of the files to be released                |
| gate.json                   | check      | findings of the search for identifiers, see `gate.GateFindings`    |
| decisions/                  | approve    | see `approvals`                                                    |
| released.json               | release    | what was released, and who approved it, see `release.Released`     |
| removal.jsonl, removal.json | remove     | identified files that may be removed; how many were                |
| handover/                   | report     | the report that goes with the data, without identifiers            |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pacsifier_ops.base.errors import InputError
from pacsifier_ops.base.files import read_json, write_json
from pacsifier_ops.convert.request import ConvertRequest
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
RELEASE_TO = "release_to"
DICOMDIR, CONVERT, UPLOAD = "dicomdir", "convert", "upload"
KARNAK, KARNAK_UPLOAD, MOVE = "karnak", "karnak_upload", "move"


@dataclass(frozen=True)
class StageRow:
    """A stage of a study: the job of another DAG.

    Attributes:
        name: name of its tasks and of its run; title: its name for people.
        request: class of its request. Options that the study has by the same name are taken from the study.
        asked: returns further options that differ from the defaults, from the study and the name of the study's run.
        on: for a stage that hands data over, and so waits for a person's word: returns whether the study has it. None:
            the study has it unless it is listed in `without`.
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
        RELEASE_TO,
        "Release to the store",
        UploadRequest,
        lambda study, run: {
            "upload_directory": study.deidentified,
            "pacs": study.release_to,
            "out_directory": f"{study.root}/logs/release_to",
        },
        on=lambda study: study.release_to,
    ),
    StageRow(
        DICOMDIR,
        "DICOM file-set",
        DicomdirRequest,
        # Each run makes its own file-set.
        lambda study, run: {"in_folder": study.released, "out_folder": f"{study.root}/dicomdir/{run[-8:]}"},
        on=lambda study: study.dicomdir,
    ),
    StageRow(
        CONVERT,
        "NIfTI",
        ConvertRequest,
        lambda study, run: {
            "in_folder": study.released,
            "out_folder": f"{study.root}/nifti",
            "layout": study.convert,
        },
        on=lambda study: study.convert,
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
#: Stages that hand data over, and wait for a person's word; the first is a part of the release. And stages that a study
#: may do without.
DESTINATIONS = tuple(stage.name for stage in _STAGES if stage.on)
WITHOUT = tuple(stage.name for stage in _STAGES if not stage.on)

#: Ends of a stage, beside the verdicts.
OFF, NOT_RUN, NOT_ENDED = "switched off", "did not run", "did not end"
#: The end of a stage that has no work, since an earlier run has done it.
NOTHING_NEW = "nothing new"


#: Results of steps, see `outcome`: names of files of the table above.
GATE, STOCK, RELEASED, REMOVAL = "gate", "stock", "released", "removal"


def outcome(run: Run, what: str) -> dict[str, Any]:
    """Return the result of a step: GATE, STOCK, RELEASED or REMOVAL; empty if there is none yet. Paths may identify."""
    with suppress(FileNotFoundError):
        return dict(read_json(run.folder / f"{what}.json"))
    return {}


def handover_report(run: Run) -> Path:
    """Return the path of the report that goes with the data; it need not be there."""
    return run.folder / "handover" / "report.html"


def keep_stages(run: Run, stages: dict[str, dict[str, Any] | None]) -> None:
    """Store the conf of each stage; None for one that is switched off."""
    write_json(run.folder / "stages.json", stages)


def stages_of(run: Run) -> dict[str, dict[str, Any] | None]:
    """Return the conf of each stage; None for one that is switched off.

    Raises:
        InputError: the study was not set up.
    """
    try:
        stages: dict[str, dict[str, Any] | None] = read_json(run.folder / "stages.json")
    except FileNotFoundError:
        raise InputError("the study was not set up; see the error of the step set_up") from None
    return {name: stages.get(name) for name in STAGES}  # an earlier version knew fewer
