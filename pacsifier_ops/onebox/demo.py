"""`make demo`, `make demo-cohort`: studies from a table to a released data set, with two embedded PACS, in one folder.

They need no server and no root. A second run finds that everything is there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pacsifier_ops.base.files import private_folder, read_json, write_json
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import demo_cohort
from pacsifier_ops.onebox.up import HOST, PACS_AET, REPO, airflow_environment, fault_of_port
from pacsifier_ops.runs.accounts import COMPLETE
from pacsifier_ops.runs.failures import sentences
from pacsifier_ops.runs.folder import Run, stage_folder
from pacsifier_ops.study.run import STAGES

HOME = REPO / "demo"


@dataclass(frozen=True)
class Demo:
    """A demonstration.

    Attributes:
        project: name of its project.
        options: the project file, without the project. Pseudonyms come from a secret of the project; a complete data
            set is released without a question.
        files: files below `include/` that it needs, by their path below its home.
    """

    project: str
    options: str
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Folder of the study."""
        return HOME / "studies" / self.project

    @property
    def project_file(self) -> str:
        """Path of the project file, below the data root."""
        return f"projects/{self.project}.yaml"

    def write(self) -> None:
        """Write the files of the demonstration."""
        for name, source in self.files.items():
            (HOME / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPO / "include" / source, HOME / name)
        path = HOME / self.project_file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"project: {self.project}\n{self.options}", encoding="utf-8")


DEMOS = {
    "study": Demo(
        "demo",
        """\
queryfile: queries/demo.csv
source: local
release: limit
dicomdir: true
upload: research_node
""",
        {"queries/demo.csv": "queries/demo.csv"},
    ),
    "cohort": Demo(
        "cohort",
        """\
queryfile: omop/omop.duckdb
sql: omop/operations.sql
columns: PatientID = PatientID
selection: omop/selection.yaml
source: local
profile: default
release: limit
convert: bids
""",
        {f"omop/{name}": f"omop/{name}" for name in ("operations.sql", "selection.yaml")},
    ),
}


def main(which: str = "study") -> int:
    """Run a demonstration, and return the exit code."""
    demo = DEMOS[which]
    demo.write()
    if which == "cohort":
        from pacsifier_ops.onebox import omop

        omop.make(HOME / "omop" / "omop.duckdb")
    ports = ports_of_before()
    with (
        EmbeddedPacs(aet=PACS_AET, port=ports.get(PACS_AET, 0)) as pacs,
        EmbeddedPacs(aet="RESEARCH", port=ports.get("RESEARCH", 0), folder=HOME / "research") as node,
    ):
        write_json(HOME / "ports.json", {each.aet: each.port for each in (pacs, node)})
        log = private_folder(HOME / "logs") / "airflow.log"
        with log.open("w") as stream, _airflow(pacs, node, stream) as airflow:
            count = pacs.add(demo_cohort(HOME / "pacs"))
            print(
                f"1  a PACS with {count} DICOM objects listens at port {pacs.port}, a research node at port {node.port}"
            )
            print("2  Airflow starts", flush=True)
            run = _study(demo, airflow)
    if run is None or not (run / "summary.json").exists():
        print(f"the run did not end{first_failure(run)}; its log is {log}", file=sys.stderr)
        return 1
    _show(run, demo)
    return 0 if read_json(run / "summary.json")["verdict"] == COMPLETE else 1


def ports_of_before() -> dict[str, int]:
    """Return the ports of the last time, by AE title, without those that are taken.

    A node at another port is another node: all would be asked for and sent again.
    """
    path = HOME / "ports.json"
    before: dict[str, int] = read_json(path) if path.exists() else {}
    return {aet: port for aet, port in before.items() if not fault_of_port(port)}


def _connection(pacs: EmbeddedPacs) -> str:
    extra = {"called_aet": pacs.aet, "calling_aet": "PACSIFIER"}
    return json.dumps({"conn_type": "dicom", "host": HOST, "port": pacs.port, "extra": extra})


def _airflow(pacs: EmbeddedPacs, node: EmbeddedPacs, log: Any) -> subprocess.Popen[bytes]:
    """Start Airflow, which waits for the conf of the run (see `run_dag`)."""
    file = REPO / "dags" / "pacsifier_study.py"
    environment = {
        **os.environ,
        **airflow_environment(HOME),
        "PACSIFIER_DATA_ROOT": str(HOME),
        # One task runs at a time, and each takes as long to begin as the demonstration's series take.
        "PACSIFIER_TASKS": "2",
        # Airflow reads all files of the folder each time, and this one is enough.
        "AIRFLOW__CORE__DAGS_FOLDER": str(file),
        "AIRFLOW_CONN_PACS_DEFAULT": _connection(pacs),
        "AIRFLOW_CONN_RESEARCH_NODE": _connection(node),
    }
    command = [sys.executable, "-m", "pacsifier_ops.onebox.run_dag", str(file)]
    return subprocess.Popen(
        command, env=environment, cwd=REPO, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
    )


def _study(demo: Demo, airflow: subprocess.Popen[bytes]) -> Path | None:
    """Run the study to its end, and print each stage when it begins.

    Returns:
        The run's folder; None if it has none.
    """
    started = time.time()
    assert airflow.stdin
    airflow.stdin.write(json.dumps({"project_file": demo.project_file}).encode())
    airflow.stdin.close()
    printed: list[str] = []
    while True:
        ended = airflow.poll() is not None
        folders = [f for f in (HOME / "state" / "runs").glob("pacsifier_study-*") if f.stat().st_mtime >= started - 1]
        run = max(folders, key=lambda f: f.stat().st_mtime, default=None)
        if run and not printed:
            printed.append("")
            print(f"3  the DAG pacsifier_study runs on {demo.project_file}", flush=True)
        for stage in _begun(run):
            if stage not in printed:
                print(f"   {stage}", flush=True)
                printed.append(stage)
        if ended:
            return run
        time.sleep(0.2)


def first_failure(run: Path | None) -> str:
    """Return the task of a run that failed first and its sentence, in brackets; empty if there is none."""
    failed = sentences(Run(run)).items() if run is not None else ()
    return next((f" ({task}: {sentence})" for (task, *_), sentence in failed if sentence), "")


def _begun(run: Path | None) -> list[str]:
    """Return the stages that a run has begun, with approval and release between them."""
    if run is None:
        return []
    between = {"gate.json": "search and approval", "released.json": "release"}
    stages = {stage: stage_folder(Run(run), stage).exists() for stage in STAGES}
    order = ["extract", "pseudonyms", "anonymize", "dumps", *between, "dicomdir", "convert", "upload"]
    return [
        between.get(name, name) for name in order if stages.get(name) or (name in between and (run / name).exists())
    ]


def _show(run: Path, demo: Demo) -> None:
    summary = read_json(run / "summary.json")
    released, images = demo.folder / "released", demo.folder / "nifti"
    print(f"\nThe top of the tree below {released.relative_to(REPO)}:")
    for session in sorted(path for path in released.glob("sub-*/*") if path.is_dir())[:4]:
        print(f"  {session.relative_to(released)}/")
    print(f"  ... {len(list(released.glob('sub-*')))} patients, {sum(1 for _ in released.rglob('*.dcm'))} images")
    print(f"\nThe account: {summary['verdict']}")
    for name, count in summary["totals"].items():
        print(f"  {name.replace('_', ' '):<16} {count}")
    print(f"\nreleased  {released.relative_to(REPO)}, with the report that goes with it in report/")
    for file_set in sorted((demo.folder / "dicomdir").rglob("DICOMDIR")):
        print(f"DICOMDIR  {file_set.parent.relative_to(REPO)}, the same as a DICOM file-set")
    if images.exists():
        print(f"NIfTI     {images.relative_to(REPO)}, {sum(1 for _ in images.rglob('*.nii.gz'))} images")
    for linker in (HOME / "state" / "projects" / demo.project / "data_sets").glob("*/linker.csv"):
        print(f"linker    {linker.relative_to(REPO)}, which is not shared; released/ has one without row ids")
    print(f"identified {(demo.folder / 'identified').relative_to(REPO)}, which is not shared")
    print(f"report    {(run / 'report.html').relative_to(REPO)}")
    if (run / "flow.svg").exists():
        print(f"flow      {(run / 'flow.svg').relative_to(REPO)}, and flow.csv beside it")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
