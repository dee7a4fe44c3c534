"""Retrieval from one web archive on loopback, Orthanc with its DICOMweb plugin: our command, and dicomweb-client."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom import dcmread

from bench.retrieve import instances
from bench.timing import NO_DELAY, ROOT, STEADY, Cohort, Tool, Work, installed, run
from tests.support.web_peers import OrthancWeb

#: What a user of dicomweb-client writes to have a series on disk.
_SCRIPT = """
import json, pathlib, sys
from dicomweb_client.api import DICOMwebClient
url, out, *series = json.loads(sys.argv[1])
client = DICOMwebClient(url)
for study, uid in series:
    for number, item in enumerate(client.retrieve_series(study, uid, media_types=(("application/dicom", "*"),))):
        item.save_as(pathlib.Path(out) / f"{uid}.{number}.dcm")
"""


def ours(server: OrthancWeb, patient: str) -> Tool:
    """Our command line, with a state of its own."""

    def retrieve(folder: Path, _: Any) -> None:
        config, table = folder / "web.json", folder / "query.csv"
        config.write_text(json.dumps({"url": server.url}))
        table.write_text(f"PatientID\n{patient}\n")
        command = [sys.executable, "-m", "pacsifier_ops.cli.pacsifier", "--save", "--info"]
        command += ["-c", str(config), "-q", str(table), "-d", str(folder / "out")]
        run(command, folder, PACSIFIER_STATE_ROOT=str(folder / "state"), PYTHONPATH=str(ROOT))

    return retrieve


def client(server: OrthancWeb, series: Sequence[tuple[str, str]]) -> Tool:
    """dicomweb-client, in an environment of its own, a call per series, as the archive holds them."""

    def retrieve(folder: Path, _: Any) -> None:
        (folder / "out").mkdir()
        asked = json.dumps([server.url, str(folder / "out"), *series])
        run([str(installed("dicomweb-client==0.61.2") / "python"), "-c", _SCRIPT, asked], folder)

    return retrieve


def _work(server: OrthancWeb, title: str, cohort: Cohort, files: Sequence[Path]) -> Work:
    heads = [dcmread(path, stop_before_pixels=True) for path in files]
    expected = sorted(str(head.SOPInstanceUID) for head in heads)
    series = sorted({(str(head.StudyInstanceUID), str(head.SeriesInstanceUID)) for head in heads})
    tools = {"ours": ours(server, cohort.patient), "dicomweb-client": client(server, series)}
    return Work(
        f"WADO-RS, {cohort.name}, {title}",
        cohort.size,
        tools,
        lambda folder, _: instances(folder / "out") == expected,
    )


def works(folder: Path, quick: bool) -> Iterator[Work]:
    """Yield the comparisons; if `quick`, only that of the server without delay."""
    files = {cohort: cohort.write(folder / cohort.patient) for cohort in STEADY}
    servers = {"Orthanc with TCP_NODELAY=1": NO_DELAY}
    if not quick:
        servers = {"Orthanc as shipped": {}, **servers}
    for title, environment in servers.items():
        server = OrthancWeb(folder / title, environment=environment)
        try:
            server.load([path for paths in files.values() for path in paths])
            for cohort in STEADY[1:] if quick else STEADY:
                yield _work(server, title, cohort, files[cohort])
        finally:
            server.stop()
