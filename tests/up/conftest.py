"""The running Airflow that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import shared as airflow
from tests.support.shared import SharedAirflow


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedAirflow]:
    """Start Airflow once for all tests of the folder that run in this process."""
    with airflow.running(tmp_path_factory.mktemp("shared")) as running:
        yield running
