"""Leases, and processes that take them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.state.leases import Leases

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path / "leases")


@pytest.fixture
def start() -> Iterator[Callable[..., Any]]:
    started: list[Any] = []

    def _start(function: Callable[..., None], *args: Any, context: Any = FORK) -> Any:
        process = context.Process(target=function, args=args)
        process.start()
        started.append(process)
        return process

    yield _start
    for process in started:
        process.kill()
        process.join()
