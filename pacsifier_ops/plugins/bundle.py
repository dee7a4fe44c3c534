"""A DAG bundle: Airflow reads the DAG files where the package is installed, so both are of one version."""

from __future__ import annotations

from typing import Any

from airflow.dag_processing.bundles.local import LocalDagBundle

from pacsifier_ops.base.shipped import DAGS, shipped


class PacsifierDagBundle(LocalDagBundle):
    """The DAG files of the installed package.

    Raises:
        ConfigError: the package was installed without them.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(path=str(shipped(DAGS)), **kwargs)
