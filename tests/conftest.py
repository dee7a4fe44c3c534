"""Fixtures for everybody: a state root of each test's own, and the real peers."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from tests.support import cohort
from tests.support.peers import KINDS, Peer, missing_programs
from tests.support.topology import STORES
from tests.support.truth import Truth

#: Seconds above which a test is to have the mark `slow`.
SLOW = 20


def _group(nodeid: str) -> str:
    """What runs in one process, one test after the other: a module, or the modules that share a running Airflow.

    These are two halves, by name, that take about as long. As one chain they would take longer than all other tests.
    """
    module = PurePosixPath(nodeid.partition("::")[0])
    return str(module.parent / ("a-l" if module.name < "test_m" else "m-z") if module.parent.name == "up" else module)


def _turn(item: pytest.Item) -> int:
    """When the group of this test is to begin: the earlier, the longer it may take."""
    if not _group(item.nodeid).endswith(".py"):
        return 0
    marks = ("slow", "airflow", "peers", "archive")
    return next((turn for turn, mark in enumerate(marks, 1) if item.get_closest_marker(mark)), len(marks) + 1)


def pytest_configure() -> None:
    """Have the garbage collector rest while thousands of tests are collected, of which nothing is garbage."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Have it pass over what there is by now, whenever it looks for garbage."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have groups stay together."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups that take longest; skip what cannot run here.

    What needs real peers or stores that are not installed is skipped, unless PACSIFIER_REQUIRE_PEERS=1 wants it.
    """
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        groups.setdefault(_group(item.nodeid), []).append(item)
    items[:] = [item for group in sorted(groups.values(), key=lambda group: min(map(_turn, group))) for item in group]
    if os.environ.get("PACSIFIER_REQUIRE_PEERS") == "1":
        return
    for marker, line in {"peers": missing_programs(), "stores": missing_programs(STORES)}.items():
        for item in items:
            if line and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests have become slow."""
    reports = [one for some in terminalreporter.stats.values() for one in some if isinstance(one, pytest.TestReport)]
    slow = [one for one in reports if one.when == "call" and one.duration > SLOW and "slow" not in one.keywords]
    if slow:
        terminalreporter.section(f"over {SLOW} s without the mark slow: make them faster, or mark them")
        for one in slow:
            terminalreporter.line(f"{one.duration:6.1f} s  {one.nodeid}")


@pytest.fixture(autouse=True)
def state_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test's ledger, leases and runs out of the user's home."""
    folder = tmp_path / "state"
    monkeypatch.setenv("PACSIFIER_STATE_ROOT", str(folder))
    return folder


@dataclass(frozen=True)
class Pacs:
    """A loaded peer, what it holds, and the way to retrieve from it (get or move)."""

    peer: Peer
    truth: Truth
    method: str


@pytest.fixture(scope="session")
def loaded_peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Peer, Truth]]]:
    """Start and load a peer when it is first asked for by its name; all are stopped at the end."""
    if line := missing_programs():
        pytest.fail(line)
    files = cohort.build(tmp_path_factory.mktemp("cohort"))
    started: dict[str, tuple[Peer, Truth]] = {}

    def get(name: str) -> tuple[Peer, Truth]:
        if name not in started:
            peer = KINDS[name](tmp_path_factory.mktemp(name))
            started[name] = (peer, Truth(()))
            peer.load(files)
            assert set(peer.held) | set(peer.refused) == set(files)
            started[name] = (peer, Truth.of(peer.held))
        return started[name]

    try:
        yield get
    finally:
        for peer, _ in started.values():
            peer.stop()


@pytest.fixture(params=[f"{name}-{method}" for name in KINDS for method in ("get", "move")])
def pacs(request: pytest.FixtureRequest, loaded_peer: Callable[[str], tuple[Peer, Truth]]) -> Pacs:
    """Each peer with each way to retrieve."""
    name, method = request.param.split("-")
    return Pacs(*loaded_peer(name), method)


@pytest.fixture(params=list(KINDS))
def archive(request: pytest.FixtureRequest, loaded_peer: Callable[[str], tuple[Peer, Truth]]) -> Pacs:
    """Each peer once, for what does not depend on the way to retrieve."""
    return Pacs(*loaded_peer(request.param), "get")
