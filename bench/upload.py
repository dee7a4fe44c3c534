"""Upload beside DCMTK's storescu: the same folder into an Orthanc that is empty and new in every run.

Orthanc answers at once for instances that it has, so that no server serves twice.

python -m bench.upload [ROUNDS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.timing import COHORTS, Cohort, Runs, report, run
from tests.support.peers import OUR_AET, Orthanc, contents

ROOT = Path(__file__).resolve().parents[1]
#: Sends a folder to a server; the second folder is for whatever else it writes.
Tool = Callable[[Orthanc, Path, Path], None]


def ours(server: Orthanc, folder: Path, scratch: Path) -> None:
    """Our command line, with a state of its own."""
    command = [sys.executable, "-m", "pacsifier_ops.cli.pacsifier", "--upload", "--upload_directory", str(folder)]
    config = ["--config", str(server.config(scratch)), "-d", str(scratch / "out")]
    run([*command, *config], scratch, PACSIFIER_STATE_ROOT=str(scratch / "state"), PYTHONPATH=str(ROOT))


def storescu(**environment: str) -> Tool:
    """DCMTK's storescu in one call for the whole folder; it proposes what the files need."""

    def send(server: Orthanc, folder: Path, scratch: Path) -> None:
        options = ["-R", "-aet", OUR_AET, "-aec", server.aet, "--scan-directories", "+r"]
        run(["storescu", *options, "127.0.0.1", str(server.port), str(folder)], scratch, **environment)

    return send


#: Who takes part; the first is ours.
TOOLS: dict[str, Tool] = {
    "ours": ours,
    "DCMTK storescu": storescu(),
    "DCMTK storescu, TCP_NODELAY=1": storescu(TCP_NODELAY="1"),
}


def compare(name: str, folder: Path, rounds: int, **environment: str) -> dict[str, Runs]:
    """Let every tool send a folder, in rounds; `environment` is that of the servers."""
    expected = contents(path for path in folder.rglob("*") if path.is_file())
    results = {tool: Runs() for tool in TOOLS}
    for _ in range(rounds):
        for tool, send in TOOLS.items():
            with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
                server = Orthanc(Path(scratch) / "orthanc", environment=environment)
                server.start()
                try:
                    started = time.perf_counter()
                    send(server, folder, Path(scratch))
                    results[tool].seconds.append(time.perf_counter() - started)
                    held = contents(server)
                finally:
                    server.stop()
            results[tool].files = len(held)
            results[tool].exact &= held == expected
            print(f"  upload, {name}: {tool}: {results[tool].seconds[-1]:.2f} s", file=sys.stderr)
    return results


def measure(folders: Mapping[Cohort, Path], rounds: int) -> tuple[dict[str, Any], list[str]]:
    """Upload the folders of all cohorts to both kinds of server; returns every single time, and tables in Markdown."""
    results: dict[str, Any] = {}
    tables = []
    servers = {"Orthanc out of the box": {}, "Orthanc with TCP_NODELAY=1": {"TCP_NODELAY": "1"}}
    for title, environment in servers.items():
        for cohort, folder in folders.items():
            runs = compare(cohort.name, folder, rounds, **environment)
            results[f"{title}, {cohort.name}"] = {tool: asdict(times) for tool, times in runs.items()}
            tables.append(report(f"Upload of {cohort.name}, {title}", cohort.series * cohort.images, runs))
    return results, tables


def main() -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folders = {cohort: Path(name) / cohort.patient for cohort in COHORTS}
        for cohort, folder in folders.items():
            cohort.write(folder)
        _, tables = measure(folders, int(sys.argv[1]) if sys.argv[1:] else 3)
    print("\n".join(tables))


if __name__ == "__main__":
    main()
