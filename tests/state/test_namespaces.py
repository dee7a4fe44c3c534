"""Leases between pods: processes with PID, mount, network and host name namespaces of their own that share one folder.

All have PID 1 and, unless a test says otherwise, one host name; the folder is mounted at one path in each. Pods
of another machine have another boot id. Cases are from public reports on lock files in containers.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import LeaseLost, ReceiverError
from pacsifier_ops.cli import receiver
from pacsifier_ops.dimse.receiver import INCOMING
from pacsifier_ops.extract.receiving import announce, series_lease
from pacsifier_ops.state import leases as module
from pacsifier_ops.state.leases import LeaseBusy, Leases
from pacsifier_ops.state.turns import Place
from tests.state.test_leases import most_at_once, note
from tests.support.places import REPO
from tests.support.processes import eventually

PACS = "association pacs.example:104:ARCHIVE"
SERIES = series_lease("1.2.3 1.2.3.4")
UNSHARE = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
POD = [*UNSHARE, "--fork", "--kill-child", "--mount-proc", "--pid", "--mount", "--net", "--uts", "--ipc"]
#: What a pod does first: its host name, the shared folder, and the boot id of its machine.
SETUP = """
set -eu
hostname "$1"
mount --bind "$2" "$3"
[ -z "$4" ] || mount --bind "$4" /proc/sys/kernel/random/boot_id
shift 4
exec "$@"
"""
#: What the tests leave for the pods, and the pods for the tests, is beside the folder of the leases.
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    command = [*POD, "hostname", "pod"]
    tried = subprocess.run(command, capture_output=True, text=True) if shutil.which("unshare") else None
    if tried is None or tried.returncode != 0:
        why = f"no namespaces here: {tried.stderr.strip() if tried else 'unshare (util-linux) is missing'}"
        if os.geteuid() == 0 and os.environ.get("PACSIFIER_REQUIRE_PEERS") == "1":
            pytest.fail(why)
        pytest.skip(why)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Folder that the pods share, as this process sees it."""
    (tmp_path / "mounted").mkdir()  # empty, but for the pods
    (tmp_path / "shared").mkdir()
    (tmp_path / "boot").write_text("11111111-2222-3333-4444-555555555555\n")
    return tmp_path / "shared"


@pytest.fixture
def pod(shared: Path) -> Iterator[Start]:
    """Start a function of this module in a pod; its first argument is the folder at its mount point."""
    started: list[subprocess.Popen[bytes]] = []
    mounted = shared.with_name("mounted")

    def _pod(
        function: Callable[..., None], *args: Any, host: str = "worker-0", other_machine: bool = False
    ) -> subprocess.Popen[bytes]:
        call = f"from tests.state.test_namespaces import *; {function.__name__}(Path({str(mounted)!r}), *{args!r})"
        boot = str(shared.with_name("boot")) if other_machine else ""
        command = [*POD, "sh", "-c", SETUP, "pod", host, str(shared), str(mounted), boot, sys.executable, "-c", call]
        started.append(subprocess.Popen(command, cwd=REPO))
        return started[-1]

    yield _pod
    for process in started:
        process.kill()
        process.wait()
    assert list(mounted.iterdir()) == []  # what the pods wrote they wrote to the folder they share


def tell(folder: Path, name: str, what: object = "") -> None:
    (folder / f"{name}.part").write_text(json.dumps(what))
    (folder / f"{name}.part").rename(folder / name)


def told(folder: Path, name: str) -> Any:
    eventually((folder / name).exists)
    return json.loads((folder / name).read_text())


def where() -> dict[str, Any]:
    spaces = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "mnt", "net")}
    return {"number": os.getpid(), "host": socket.gethostname(), **spaces}


def contend_in_pod(folder: Path, name: str, what: str, limit: int, times: int) -> None:
    tell(folder, f"in-{name}", where())
    leases = Leases(folder / "leases")
    eventually((folder / "go").exists)
    for _ in range(times):
        with leases.acquire(what, limit=limit, wait=60) as lease:
            taken = time.monotonic()
            time.sleep(0.002)
            lease.check()
            note(folder / "log", f"{taken!r} +1\n{time.monotonic()!r} -1")


def hold_in_pod(folder: Path, what: str, ttl: float, limit: int = 1) -> None:
    with Leases(folder / "leases", ttl=ttl).acquire(what, limit=limit, wait=60) as lease:
        tell(folder, "holds")
        eventually((folder / "enough").exists)
        try:
            lease.check()
        except LeaseLost:
            tell(folder, "lost")


def ask_in_pod(folder: Path, answer: str, what: str, limit: int = 1) -> None:
    """Say how many hold it, whether there was a slot at once, and how many hold it after that."""
    leases = Leases(folder / "leases")
    before = leases.count(what)
    try:
        with leases.acquire(what, limit=limit, wait=0):
            got = True
    except LeaseBusy:
        got = False
    tell(folder, answer, [before, got, leases.count(what)])


def wait_in_line(folder: Path, name: str, done: int) -> None:
    with Leases(folder / "leases").acquire(PACS, wait=60, place=Place(done=done)):
        note(folder / "order", name)


def receive_in_pod(folder: Path, answer: str) -> None:
    try:
        with announce(Leases(folder / "leases"), "PACSIFIER", 11113, folder, False):
            tell(folder, answer, "receives")
            eventually((folder / "enough").exists)
    except LeaseBusy:
        tell(folder, answer, "another one receives")


@pytest.mark.parametrize(("what", "limit"), [(PACS, 2), (SERIES, 1)], ids=["associations", "series"])
def test_the_limit_holds_between_pods(shared: Path, pod: Start, what: str, limit: int) -> None:
    """Six pods on two machines: one host name, one PID, no network between them, one folder."""
    pods = [pod(contend_in_pod, f"pod-{n}", what, limit, 20, other_machine=n % 2 == 1) for n in range(6)]
    seen = [told(shared, f"in-pod-{n}") for n in range(6)]
    assert {(there["number"], there["host"]) for there in seen} == {(1, "worker-0")}
    for kind in ("pid", "mnt", "net"):
        assert len({there[kind] for there in (*seen, where())}) == 7
    tell(shared, "go")
    assert [process.wait(120) for process in pods] == [0] * 6
    assert len((shared / "log").read_text().splitlines()) == 2 * 6 * 20
    assert most_at_once(shared / "log") <= limit


@pytest.mark.parametrize("other_machine", [False, True], ids=["same-machine", "other-machine"])
def test_a_live_pod_keeps_its_lease(shared: Path, pod: Start, other_machine: bool) -> None:
    """PID 1 of one pod is not PID 1 of another of the same host name: it is neither dead nor the asker's."""
    holder = pod(hold_in_pod, PACS, 60.0)
    told(shared, "holds")
    pod(ask_in_pod, "same", PACS, other_machine=other_machine).wait(60)
    pod(ask_in_pod, "other", PACS, host="worker-1", other_machine=other_machine).wait(60)
    assert told(shared, "same") == told(shared, "other") == [1, False, 1]
    assert Leases(shared / "leases").count(PACS) == 1  # nor does the machine itself take it for dead
    tell(shared, "enough")
    assert holder.wait(60) == 0
    assert not (shared / "lost").exists()


def test_a_killed_pod_loses_its_lease_when_its_time_is_over(shared: Path, pod: Start) -> None:
    """Nobody else can see that it died, so nobody takes the lease before it expired; then somebody does."""
    holder = pod(hold_in_pod, SERIES, 60.0)
    told(shared, "holds")
    holder.kill()
    holder.wait()
    pod(ask_in_pod, "early", SERIES).wait(60)
    assert told(shared, "early") == [1, False, 1]
    [slot] = (shared / "leases").glob("*/slot-0")
    os.utime(slot, (time.time() - 61,) * 2)
    pod(ask_in_pod, "late", SERIES).wait(60)
    assert told(shared, "late") == [0, True, 0]


def test_a_short_time_to_live_is_waited_for(shared: Path, pod: Start) -> None:
    holder = pod(hold_in_pod, PACS, 2.0)
    told(shared, "holds")
    holder.kill()
    with Leases(shared / "leases").acquire(PACS, wait=60):
        pass


def test_the_line_is_one_for_all_pods(shared: Path, pod: Start) -> None:
    """A small run goes before a large one, though the large one came first and both are PID 1 of a worker-0."""
    holder = pod(hold_in_pod, PACS, 60.0)
    told(shared, "holds")
    leases = Leases(shared / "leases")
    large = pod(wait_in_line, "large", 500)
    eventually(lambda: leases.waiting(PACS) == 1)
    small = pod(wait_in_line, "small", 0, other_machine=True)
    eventually(lambda: leases.waiting(PACS) == 2)
    tell(shared, "enough")
    assert [process.wait(60) for process in (holder, large, small)] == [0, 0, 0]
    assert (shared / "order").read_text().split() == ["small", "large"]


def test_one_receiver_for_an_ae_title_and_port(shared: Path, pod: Start) -> None:
    first = pod(receive_in_pod, "first", host="receiver-a")
    assert told(shared, "first") == "receives"
    pod(receive_in_pod, "second", host="receiver-b").wait(60)
    assert told(shared, "second") == "another one receives"
    tell(shared, "enough")
    assert first.wait(60) == 0
    pod(receive_in_pod, "third", host="receiver-b").wait(60)
    assert told(shared, "third") == "receives"


def run_receiver(folder: Path, answer: str) -> None:
    os.environ["PACSIFIER_STATE_ROOT"] = str(folder)
    tell(folder, answer, receiver.main(["--aet", "PACSIFIER", "--port", "11113", "--spool", str(folder / "spool")]))


def test_a_second_receiver_leaves_alone_what_the_first_is_receiving(shared: Path, pod: Start) -> None:
    """The port is free in a pod of its own, so the port does not keep the second one from the spool."""
    pod(run_receiver, "first", host="receiver-a")
    leases = Leases(shared / "leases")
    eventually(lambda: leases.count("receiver:PACSIFIER:11113"))
    coming = shared / "spool" / INCOMING / "11113" / "coming"
    coming.write_bytes(b"half an object")
    pod(run_receiver, "second", host="receiver-b")
    assert told(shared, "second") == ReceiverError.exit_code
    assert coming.read_bytes() == b"half an object"
    assert not (shared / "first").exists()


def in_namespace(shared: Path, options: list[str], code: str) -> str:
    call = "from tests.state.test_namespaces import *; " + code.format(folder=str(shared))
    command = [*UNSHARE, "--fork", *options, sys.executable, "-c", call]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_another_clock_is_another_place(shared: Path) -> None:
    """With a time namespace of its own, a process sees other start times of the same processes."""
    if not Path("/proc/self/ns/time").exists():
        pytest.skip("this kernel has no time namespaces")
    leases = Leases(shared / "leases")
    with leases.acquire(PACS) as lease:
        options = ["--time", "--boottime", "1000000"]
        assert in_namespace(shared, options, "print(Leases(Path('{folder}') / 'leases').count(PACS))") == "1"
        in_namespace(shared, options, "ask_in_pod(Path('{folder}'), 'answer', PACS)")
        assert told(shared, "answer") == [1, False, 1]
        lease.check()


def test_a_sandbox_with_the_wrong_proc_lives_by_its_heartbeat(shared: Path) -> None:
    """A new PID namespace that still has the machine's /proc: our number is another process there."""
    assert module._identity(os.getpid())["boot"]
    assert in_namespace(shared, ["--pid"], "print(repr(module._identity(os.getpid())['boot']))") == "''"
