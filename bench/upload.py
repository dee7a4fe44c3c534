"""Upload beside DCMTK's storescu: the same folder into an Orthanc that is empty and new in every run.

Orthanc answers at once for instances that it has, so that no server serves twice.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.timing import NO_DELAY, ROOT, SMALL, STEADY, Cohort, Tool, Work, run
from tests.support.peers import OUR_AET, Orthanc, contents


def ours(sent: Path) -> Tool:
    """Our command line, with a state of its own."""

    def send(folder: Path, server: Orthanc) -> None:
        command = [sys.executable, "-m", "pacsifier_ops.cli.pacsifier", "--upload", "--upload_directory", str(sent)]
        config = ["--config", str(server.config(folder)), "-d", str(folder / "out")]
        run([*command, *config], folder, PACSIFIER_STATE_ROOT=str(folder / "state"), PYTHONPATH=str(ROOT))

    return send


def storescu(sent: Path, **environment: str) -> Tool:
    """DCMTK's storescu in one call for the whole folder; it proposes what the files need."""

    def send(folder: Path, server: Orthanc) -> None:
        options = ["-R", "-aet", OUR_AET, "-aec", server.aet, "--scan-directories", "+r"]
        run(["storescu", *options, "127.0.0.1", str(server.port), str(sent)], folder, **environment)

    return send


@contextmanager
def _empty(place: Path, environment: dict[str, str]) -> Iterator[Orthanc]:
    server = Orthanc(place / "orthanc", environment=environment)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _work(name: str, cohort: Cohort, sent: Path, environment: dict[str, str], quick: bool) -> Work:
    expected = contents(sent.rglob("*.dcm"))
    tools = {"ours": ours(sent), "DCMTK storescu, TCP_NODELAY=1": storescu(sent, **NO_DELAY)}
    if not quick:
        tools["DCMTK storescu"] = storescu(sent)
    return Work(
        f"upload, {cohort.name}, {name}",
        cohort.size,
        tools,
        lambda _, server: contents(server) == expected,
        lambda place: _empty(place, environment),
    )


def works(folder: Path, quick: bool) -> Iterator[Work]:
    """Yield the comparisons; if `quick`, only the server without delay and the faster storescu."""

    servers = {"Orthanc with TCP_NODELAY=1": NO_DELAY}
    if not quick:
        servers = {"Orthanc as shipped": {}, **servers}
    for cohort in (STEADY[1],) if quick else (SMALL, STEADY[1]):
        sent = folder / cohort.patient
        cohort.write(sent)
        for title, environment in servers.items():
            yield _work(title, cohort, sent, environment, quick)
