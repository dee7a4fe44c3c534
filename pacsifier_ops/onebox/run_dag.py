"""Run a DAG once in this process, without a scheduler: `python -m pacsifier_ops.onebox.run_dag FILE`.

Airflow starts meanwhile: the conf of the run comes as JSON from standard input, and the run begins when that is closed.
The database is made if this version of Airflow has not made it: even a check takes seconds.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from importlib import metadata
from pathlib import Path

from pacsifier_ops.base.files import write_atomic


def main(file: str) -> None:
    """Run the DAG of a file."""
    from airflow.dag_processing.dagbag import DagBag

    _make_database(Path(os.environ["AIRFLOW_HOME"]))
    bag = DagBag(file)
    if bag.import_errors:
        sys.exit("\n".join(map(str, bag.import_errors.values())))
    (dag,) = bag.dags.values()
    # To look for garbage among the many objects of Airflow takes a tenth of the time, and finds 30 MB.
    gc.disable()
    dag.test(run_conf=json.load(sys.stdin))


def _make_database(home: Path) -> None:
    database, made = home / "airflow.db", home / "made-by"
    version = metadata.version("apache-airflow")
    if database.exists() and made.exists() and made.read_text(encoding="utf-8") == version:
        return
    from airflow.cli.cli_parser import get_parser

    made.unlink(missing_ok=True)
    migrate = get_parser().parse_args(["db", "migrate"])
    migrate.func(migrate)
    write_atomic(made, version)


if __name__ == "__main__":
    main(*sys.argv[1:])
