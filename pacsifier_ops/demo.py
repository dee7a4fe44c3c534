"""`make demo`: the extract DAG on a sample table, against an embedded PACS, in one folder.

Needs no server and no root. Run twice, the second time finds everything there already.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pacsifier_ops.accounts import COMPLETE
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import demo_cohort
from pacsifier_ops.files import private_folder, read_json
from pacsifier_ops.local import HOST, PACS_AET, REPO, airflow_environment

HOME = REPO / "demo"


def main() -> int:
    """Run the demo; returns its exit code."""
    HOME.mkdir(exist_ok=True)
    queries = HOME / "queries"
    queries.mkdir(exist_ok=True)
    shutil.copyfile(REPO / "include" / "queries" / "demo.csv", queries / "demo.csv")
    with EmbeddedPacs(aet=PACS_AET) as pacs:
        count = pacs.add(demo_cohort(HOME / "pacs"))
        print(f"1  an embedded PACS with {count} DICOM objects listens at port {pacs.port}")
        extra = {"called_aet": PACS_AET, "calling_aet": "PACSIFIER"}
        environment = {
            **os.environ,
            **airflow_environment(HOME),
            "PACSIFIER_DATA_ROOT": str(HOME),
            "AIRFLOW_CONN_PACS_DEFAULT": json.dumps(
                {"conn_type": "dicom", "host": HOST, "port": pacs.port, "extra": extra}
            ),
        }
        print("2  Airflow sets up its database", flush=True)
        log = private_folder(HOME / "logs") / "airflow.log"
        with log.open("w") as stream:
            _airflow(["db", "migrate"], environment, stream).wait()
            print("3  the DAG pacsifier_extract runs on queries/demo.csv", flush=True)
            conf = {"queryfile": "queries/demo.csv", "out_directory": "out"}
            started = time.time()
            process = _airflow(["dags", "test", "pacsifier_extract", "--conf", json.dumps(conf)], environment, stream)
            run = _watch(process, started)
    if run is None or not (run / "accounts.json").exists():
        print(f"the run did not end; its log is {log}", file=sys.stderr)
        return 1
    _show(read_json(run / "accounts.json"), run)
    return 0 if read_json(run / "accounts.json")["verdict"] == COMPLETE else 1


def _airflow(arguments: list[str], environment: dict[str, str], log: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "airflow", *arguments]
    return subprocess.Popen(command, env=environment, cwd=REPO, stdout=log, stderr=subprocess.STDOUT)


def _watch(process: subprocess.Popen[bytes], started: float) -> Path | None:
    """Show what the run has done so far, until it ends; returns its folder."""
    shown, run = "", None
    while True:
        ended = process.poll() is not None
        folders = [f for f in (HOME / "state" / "runs").glob("*") if f.stat().st_mtime >= started - 1]
        run = max(folders, key=lambda f: f.stat().st_mtime, default=None)
        if run is not None:
            rows, found = len(list(run.glob("rows/*"))), len(list(run.glob("found/*")))
            units, done = len(list(run.glob("units/*"))), len(list(run.glob("results/*")))
            text = f"   rows found {found}/{rows}   series retrieved {done}/{units or '?'}"
            if text != shown and sys.stdout.isatty():
                print(f"\r{text}\x1b[K", end="", flush=True)
            shown = text
        if ended:
            print(f"\r{shown}" if sys.stdout.isatty() else shown, flush=True)
            return run
        time.sleep(0.2)


def _show(accounts: dict[str, Any], run: Path) -> None:
    totals = accounts["totals"]
    out = HOME / "out"
    print("\nThe top of the tree below demo/out:")
    folders = sorted(path for path in out.glob("sub-*/*") if path.is_dir())
    for folder in folders[:6]:
        print(f"  {folder.relative_to(out)}/")
    print(f"  ... {len(list(out.glob('sub-*')))} patients, {sum(1 for _ in out.rglob('*.dcm'))} images")
    print(f"\nThe accounts: {accounts['verdict']}")
    print(f"  {totals['rows']} rows asked, {totals['series']} series found, {totals['expected']} images expected:")
    print(f"  {totals['present']} were already there, {totals['received']} received, {totals['missing']} missing")
    if totals["expected"] and totals["present"] == totals["expected"]:
        print("  all was already there: nothing was fetched again")
    print(f"\nlog     {(out / 'logs' / 'pacsifier_log.csv').relative_to(REPO)}")
    print(f"report  {(run / 'report.html').relative_to(REPO)}")


if __name__ == "__main__":
    sys.exit(main())
