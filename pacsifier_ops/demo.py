"""`make demo`: from a sample table to de-identified images, against an embedded PACS and De-ID service, in one folder.

Needs no server and no root. Run twice, the second time finds everything there already.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pacsifier_ops.accounts import COMPLETE
from pacsifier_ops.embedded.authority import Authority
from pacsifier_ops.embedded.deid_server import DeidServer
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.embedded.phantoms import demo_cohort
from pacsifier_ops.files import private_folder, read_json
from pacsifier_ops.local import HOST, PACS_AET, REPO, airflow_environment

HOME = REPO / "demo"
PROJECT = "demo"


def main() -> int:
    """Run the demo; returns its exit code."""
    HOME.mkdir(exist_ok=True)
    queries = HOME / "queries"
    queries.mkdir(exist_ok=True)
    shutil.copyfile(REPO / "include" / "queries" / "demo.csv", queries / "demo.csv")
    with EmbeddedPacs(aet=PACS_AET) as pacs, _deid_service() as deid:
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
            "AIRFLOW_CONN_DEID_DEFAULT": json.dumps(deid),
        }
        print("2  Airflow sets up its database", flush=True)
        log = private_folder(HOME / "logs") / "airflow.log"
        with log.open("w") as stream:
            _airflow(["db", "migrate"], environment, stream).wait()
            print("3  the DAG pacsifier_extract runs on queries/demo.csv", flush=True)
            conf = {"queryfile": "queries/demo.csv", "out_directory": "out"}
            extraction = _run("pacsifier_extract", conf, environment, stream, "rows found", "series retrieved")
            print("4  the DAG pacsifier_pseudonymize asks a De-ID service who becomes whom", flush=True)
            conf = {"in_folder": "out", "project": PROJECT}
            linking = _run("pacsifier_pseudonymize", conf, environment, stream)
            print("5  the DAG pacsifier_anonymize de-identifies what was retrieved", flush=True)
            conf = {"in_folder": "out", "out_folder": "deidentified", "project": PROJECT}
            removal = _run("pacsifier_anonymize", conf, environment, stream)
    if extraction is None or linking is None or removal is None:
        print(f"the runs did not end; their log is {log}", file=sys.stderr)
        return 1
    _show(read_json(extraction / "accounts.json"), extraction)
    _show_linkage(read_json(linking / "summary.json"))
    _show_deidentified(read_json(removal / "summary.json"), removal)
    verdicts = {read_json(run / "summary.json")["verdict"] for run in (extraction, linking, removal)}
    return 0 if verdicts == {COMPLETE} else 1


@contextmanager
def _deid_service() -> Iterator[dict[str, Any]]:
    """A De-ID service under TLS; gives the Airflow connection to it."""
    with tempfile.TemporaryDirectory(prefix="pacsifier-demo-") as folder:
        authority = Authority(Path(folder), "ca")
        tls = authority.issue("server", HOST).context(ssl.Purpose.CLIENT_AUTH)
        with DeidServer(tls, secrets.token_urlsafe(24), HOST) as server:
            extra = {"ca": str(authority.path)}
            yield {"conn_type": "deid_api", "host": server.url, "password": server.token, "extra": extra}


def _run(dag: str, conf: dict[str, Any], environment: dict[str, str], log: Any, *shown: str) -> Path | None:
    """Run a DAG to its end; returns the folder of its run, None if it left no summary."""
    started = time.time()
    process = _airflow(["dags", "test", dag, "--conf", json.dumps(conf)], environment, log)
    run = _watch(process, started, dag, *shown)
    return run if run is not None and (run / "summary.json").exists() else None


def _airflow(arguments: list[str], environment: dict[str, str], log: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "airflow", *arguments]
    return subprocess.Popen(command, env=environment, cwd=REPO, stdout=log, stderr=subprocess.STDOUT)


def _watch(process: subprocess.Popen[bytes], started: float, dag: str, rows: str = "", series: str = "") -> Path | None:
    """Show what the run has done so far, until it ends; returns its folder."""
    shown, run = "", None
    while True:
        ended = process.poll() is not None
        folders = [f for f in (HOME / "state" / "runs").glob(f"{dag}-*") if f.stat().st_mtime >= started - 1]
        run = max(folders, key=lambda f: f.stat().st_mtime, default=None)
        if run is not None and rows:
            asked, found = len(list(run.glob("rows/*"))), len(list(run.glob("found/*")))
            units, done = len(list(run.glob("units/*"))), len(list(run.glob("results/*")))
            text = f"   {rows} {found}/{asked}   {series} {done}/{units or '?'}"
            if text != shown and sys.stdout.isatty():
                print(f"\r{text}\x1b[K", end="", flush=True)
            shown = text
        if ended:
            if shown:
                print(f"\r{shown}" if sys.stdout.isatty() else shown, flush=True)
            return run
        time.sleep(0.2)


def _show_top(folder: Path) -> None:
    print(f"\nThe top of the tree below {folder.relative_to(REPO)}:")
    for session in sorted(path for path in folder.glob("sub-*/*") if path.is_dir())[:4]:
        print(f"  {session.relative_to(folder)}/")
    print(f"  ... {len(list(folder.glob('sub-*')))} patients, {sum(1 for _ in folder.rglob('*.dcm'))} images")


def _show(accounts: dict[str, Any], run: Path) -> None:
    totals = accounts["totals"]
    out = HOME / "out"
    _show_top(out)
    print(f"\nThe accounts: {accounts['verdict']}")
    print(f"  {totals['rows']} rows asked, {totals['series']} series found, {totals['expected']} images expected:")
    print(f"  {totals['present']} were already there, {totals['received']} received, {totals['missing']} missing")
    if totals["expected"] and totals["present"] == totals["expected"]:
        print("  all was already there: nothing was fetched again")
    print(f"\nlog     {(out / 'logs' / 'pacsifier_log.csv').relative_to(REPO)}")
    print(f"report  {(run / 'report.html').relative_to(REPO)}")


def _show_linkage(summary: dict[str, Any]) -> None:
    folder = (HOME / "state" / "projects" / PROJECT).relative_to(REPO)
    print(f"\nThe pseudonyms: {summary['verdict']}")
    print(f"  {summary['linked']} of {summary['patients']} patients are linked, {summary['new']} of them in this run")
    print(f"\nlinkage {folder}/new_ids_{PROJECT}.json, day_shift_{PROJECT}.json")


def _show_deidentified(summary: dict[str, Any], run: Path) -> None:
    out, totals = HOME / "deidentified", summary["totals"]
    _show_top(out)
    print(f"\nThe de-identification: {summary['verdict']}")
    print(
        f"  of {totals['objects']} objects {totals['deidentified']} are de-identified, {totals['excluded']} excluded,"
    )
    print(f"  {totals['quarantined']} quarantined, {totals['missing']} missing")
    print(f"\ndata set {out.relative_to(REPO)}, its manifest {(out / 'manifest.csv').relative_to(REPO)}")
    print(f"report   {(run / 'report.html').relative_to(REPO)}")


if __name__ == "__main__":
    sys.exit(main())
