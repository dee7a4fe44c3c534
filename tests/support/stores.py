"""Stores that take files, each as a node and beside the code under test: a folder, SFTP, FTPS, S3."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pacsifier_ops.upload.nodes import FolderNode, FtpsNode, ObjectStoreNode, SftpNode, StoreNode
from tests.support.certificates import make
from tests.support.store_peers import S3, Ftps, Sshd, missing_sshd, running


@dataclass
class Elsewhere:
    """A destination, and how to look at it beside the code under test."""

    node: StoreNode
    contents: Callable[[], dict[str, bytes]]
    clear: Callable[[], None]
    put: Callable[[str, bytes], None]
    drop: Callable[[str], None]


def on_disk(node: StoreNode, root: Path) -> Elsewhere:
    def put(name: str, data: bytes) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)

    def contents() -> dict[str, bytes]:
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def clear() -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)

    return Elsewhere(node, contents, clear, put, lambda name: (root / name).unlink())


def in_store(store: S3) -> Elsewhere:
    node = s3_node(store, "store", "trial/one")
    prefix = "trial/one/"

    def contents() -> dict[str, bytes]:
        return {key.removeprefix(prefix): data for key, data in store.contents().items()}

    def put(name: str, data: bytes) -> None:
        store.client().put_object(Bucket=store.bucket, Key=prefix + name, Body=data)

    def drop(name: str) -> None:
        store.client().delete_object(Bucket=store.bucket, Key=prefix + name)

    return Elsewhere(node, contents, store.clear, put, drop)


KINDS = ("folder", "sftp", "ftps", "s3")


def started(kind: str, folder: Path, stack: ExitStack) -> Elsewhere:
    """Start the store of a kind; the stack stops it."""
    if kind == "folder":
        return on_disk(FolderNode("share", path=str(folder), retry_wait=0.01), folder)
    if kind == "s3":
        return in_store(stack.enter_context(running(S3())))
    if kind == "sftp":
        if missing := missing_sshd():
            pytest.skip(missing)
        server: Sshd = stack.enter_context(running(Sshd(folder)))
        return on_disk(sftp_node(server), server.root)
    certificates = make(folder / "certificates")
    ftp: Ftps = stack.enter_context(running(Ftps(folder, certificates.server)))
    node = FtpsNode(
        "ftp",
        host="localhost",
        port=ftp.port,
        login=ftp.user,
        password=ftp.password,
        ca=str(certificates.ca),
        retry_wait=0.01,
    )
    return on_disk(node, ftp.root)


@contextmanager
def on_demand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Elsewhere]]:
    """Return a function that gives the empty store of a kind; each is started once, when it is needed."""
    made: dict[str, Elsewhere] = {}
    with ExitStack() as stack:

        def of(kind: str) -> Elsewhere:
            if kind not in made:
                made[kind] = started(kind, tmp_path_factory.mktemp(kind), stack)
            made[kind].clear()
            return made[kind]

        yield of


def s3_node(store: S3, name: str, folder: str, retry_wait: float = 0.01) -> ObjectStoreNode:
    return ObjectStoreNode(
        name,
        root=f"s3://{store.bucket}/{folder}",
        login=store.key,
        password=store.secret,
        endpoint_url=store.url,
        region_name=store.region,
        retry_wait=retry_wait,
    )


def sftp_node(server: Sshd) -> SftpNode:
    return SftpNode(
        "trusted",
        host="127.0.0.1",
        port=server.port,
        login=server.user,
        key_file=str(server.key),
        host_key=server.host_key,
        root=str(server.root),
        retry_wait=0.01,
    )
