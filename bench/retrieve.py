"""Retrieval from one Orthanc on loopback: our command, DCMTK's programs, and the published PACSIFIER."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.misc import is_dicom

from bench.timing import NO_DELAY, ROOT, SMALL, STEADY, Cohort, Tool, Work, installed, run
from tests.support.peers import OUR_AET, Orthanc

PUBLISHED = "PACSIFIER 1.0.0"


@contextmanager
def orthanc(folder: Path, files: Sequence[Path], **environment: str) -> Iterator[Orthanc]:
    """Run an Orthanc that holds these files."""
    server = Orthanc(folder, environment=environment)
    try:
        server.load(list(files))
        if server.refused:
            raise RuntimeError(f"Orthanc refused {len(server.refused)} objects")
        yield server
    finally:
        server.stop()


def _table(folder: Path, patient: str) -> Path:
    path = folder / "query.csv"
    path.write_text(f"PatientID\n{patient}\n")
    return path


def ours(server: Orthanc, patient: str, method: str) -> Tool:
    """Our command line, with a state of its own."""

    def retrieve(folder: Path, _: Any) -> None:
        command = [sys.executable, "-m", "pacsifier_ops.cli.pacsifier", "--save", "--info", "--method", method]
        config = ["-c", str(server.config(folder)), "-q", str(_table(folder, patient)), "-d", str(folder / "out")]
        run([*command, *config], folder, PACSIFIER_STATE_ROOT=str(folder / "state"), PYTHONPATH=str(ROOT))

    return retrieve


def dcmtk(server: Orthanc, program: str, series: Sequence[tuple[str, str]], **environment: str) -> Tool:
    """DCMTK's movescu or getscu at the level SERIES, one call per series."""

    def retrieve(folder: Path, _: Any) -> None:
        out = folder / "out"
        here = ["-aet", OUR_AET, "-aec", server.aet, "-S", "-od", str(out)]
        if program == "movescu":
            here += ["-aem", OUR_AET, "+P", str(server.receiver_port)]
        out.mkdir()
        for study, uid in series:
            keys = ["QueryRetrieveLevel=SERIES", f"StudyInstanceUID={study}", f"SeriesInstanceUID={uid}"]
            options = [word for key in keys for word in ("-k", key)]
            run([program, *here, *options, "127.0.0.1", str(server.port)], folder, **environment)

    return retrieve


def published(server: Orthanc, patient: str) -> Tool:
    """The published package, in an environment of its own, with a batch waiting time of 0."""

    def retrieve(folder: Path, _: Any) -> None:
        (folder / "out").mkdir()
        config = ["-c", str(server.config(folder, batch_size=1000)), "-d", str(folder / "out")]
        program = installed("pacsifier==1.0.0") / "pacsifier"
        run([str(program), "-s", "-i", *config, "-q", str(_table(folder, patient))], folder)

    return retrieve


def instances(folder: Path) -> list[str]:
    """Return the SOP Instance UIDs of the DICOM files of a folder, sorted."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".csv", ".parquet"))
    return sorted(
        str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in found if is_dicom(path)
    )


def _work(server: Orthanc, title: str, method: str, cohort: Cohort, files: list[Path], quick: bool) -> Work:
    heads = [dcmread(path, stop_before_pixels=True) for path in files]
    expected = sorted(str(head.SOPInstanceUID) for head in heads)
    series = sorted({(str(head.StudyInstanceUID), str(head.SeriesInstanceUID)) for head in heads})
    program = f"{method}scu"
    tools = {
        "ours": ours(server, cohort.patient, method),
        f"DCMTK {program}, TCP_NODELAY=1": dcmtk(server, program, series, **NO_DELAY),
    }
    if not quick:
        tools[f"DCMTK {program}"] = dcmtk(server, program, series)
        if cohort is SMALL and method == "move":
            tools[PUBLISHED] = published(server, cohort.patient)
    return Work(
        f"C-{method.upper()}, {cohort.name}, {title}",
        cohort.size,
        tools,
        lambda folder, _: instances(folder / "out") == expected,
        once=frozenset({PUBLISHED}),
    )


def works(folder: Path, quick: bool) -> Iterator[Work]:
    """Yield the comparisons. An archive runs for as long as its comparisons are asked for.

    Args:
        quick: large cohorts by C-GET from the server without delay only, and the fastest of the other tools.
    """
    files = {cohort: cohort.write(folder / cohort.patient) for cohort in (SMALL, *STEADY)}
    everything = [path for paths in files.values() for path in paths]
    servers = {"Orthanc with TCP_NODELAY=1": NO_DELAY}
    if not quick:
        servers = {"Orthanc as shipped": {}, **servers}
    for title, environment in servers.items():
        with orthanc(folder / title, everything, **environment) as server:
            for cohort in STEADY if quick else (SMALL, *STEADY):
                for method in ("get",) if quick else ("get", "move"):
                    yield _work(server, title, method, cohort, files[cohort], quick)
