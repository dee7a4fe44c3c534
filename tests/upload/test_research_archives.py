"""Uploads to XNAT and Kheops: to fakes at the level of the wire, made from their public documents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.config import Node
from pacsifier_ops.base.errors import AssociationRejected, ConfigError, DestinationRefused
from pacsifier_ops.dicom.files import inspect
from pacsifier_ops.embedded.phantoms import write
from pacsifier_ops.runs.accounts import COMPLETE, INCOMPLETE, RunAccount
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.upload import steps
from pacsifier_ops.upload import xnat as module
from pacsifier_ops.upload.nodes import KheopsNode, XnatNode
from pacsifier_ops.upload.run import UploadRequest
from pacsifier_ops.upload.xnat import NOT_KEPT
from tests.support.embedded import series
from tests.support.kheops_fake import KheopsFake
from tests.support.xnat_fake import XnatFake


@pytest.fixture(scope="module")
def xnats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[XnatFake]:
    server = XnatFake(tmp_path_factory.mktemp("xnat"))
    with server:
        yield server


@pytest.fixture
def xnat(xnats: XnatFake) -> Iterator[XnatFake]:
    xnats.reset()
    xnats.clear()
    yield xnats
    assert not xnats.errors


@pytest.fixture
def kheops(tmp_path: Path) -> Iterator[KheopsFake]:
    folder = tmp_path / "kheops"
    folder.mkdir()
    server = KheopsFake(folder)
    with server:
        yield server
        assert not server.errors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "released"
    write(series("PSEUDO1", n_images=3), root / "sub-PSEUDO1" / "ses-20200101" / "00001-Head")
    write(series("PSEUDO2", n_images=2), root / "sub-PSEUDO2" / "ses-20200202" / "00001-Chest")
    return root


def xnat_node(server: XnatFake, **more: Any) -> XnatNode:
    fields = {"project": "STUDY", "retry_wait": 0.01, **more}
    return XnatNode("xnat", server.url, server.user, server.password, **fields)


def upload(node: Node, folder: Path) -> RunAccount:
    run = Run.fresh()
    units = steps.prepare(run, UploadRequest(folder, folder.parent / "log"), node)
    with steps.Sending(run, node) as sending:
        sending.units(units)
    return steps.report(run, lambda: node)


def reasons(account: RunAccount) -> str:
    return " | ".join(one.reason for one in account.series)


def contents(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.rglob("*.dcm"))


@pytest.mark.parametrize("into", ["archive", "prearchive"])
def test_xnat_keeps_what_was_sent_under_the_names_of_the_tree(xnat: XnatFake, folder: Path, into: str) -> None:
    account = upload(xnat_node(xnat, into=into), folder)
    assert account.verdict == COMPLETE, reasons(account)
    assert sorted(xnat.stored(into == "archive").values()) == contents(folder)
    assert {one.subject for one in xnat.sessions} == {"PSEUDO1", "PSEUDO2"}
    assert all(one.label.startswith(f"{one.subject}_2020") for one in xnat.sessions)
    assert upload(xnat_node(xnat, into=into), folder).totals()["present"] == 5


@pytest.mark.parametrize(
    ("fault", "value", "into", "told"),
    [
        ("xnat.conflict", True, "prearchive", "in the prearchive as CONFLICT"),
        ("xnat.anonymize", {"PatientComments": "changed"}, "archive", NOT_KEPT),
        ("xnat.unassigned", True, "prearchive", "another project"),
    ],
)
def test_what_xnat_does_otherwise_is_not_delivered(
    xnat: XnatFake, folder: Path, fault: str, value: Any, into: str, told: str
) -> None:
    xnat.fail(fault, value)
    account = upload(xnat_node(xnat, into=into), folder)
    assert account.verdict == INCOMPLETE and told in reasons(account)
    assert account.totals()["received"] == 0


def test_the_catalog_of_a_large_session_is_asked_for_less_and_less(
    xnat: XnatFake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LEAST", 1)
    write(series("PSEUDO1", n_images=40), tmp_path / "released" / "sub-PSEUDO1" / "ses-1" / "00001-Head")
    assert upload(xnat_node(xnat), tmp_path / "released").totals()["received"] == 40
    imported = list(accumulate(request.service == "xnat" and request.method == "POST" for request in xnat.requests))
    listed = [n for n, request in zip(imported, xnat.requests, strict=True) if request.path.endswith("/ALL/files")]
    assert listed[-1] == 40 and sum(listed) < 8 * 40


def test_what_xnat_forgets_is_missing(xnat: XnatFake, folder: Path) -> None:
    file = inspect(sorted(folder.rglob("*.dcm"))[0])
    assert file
    xnat.fail("xnat.forget", file.sop_instance_uid)
    account = upload(xnat_node(xnat), folder)
    assert [uid for one in account.series for uid in one.missing_uids] == [file.sop_instance_uid]
    assert NOT_KEPT in reasons(account)


@pytest.mark.parametrize("fault", ["xnat.no_digest", "xnat.lost"])
def test_xnat_is_read_back_and_a_lost_answer_is_no_loss(xnat: XnatFake, folder: Path, fault: str) -> None:
    xnat.fail(fault, times=1 if fault == "xnat.lost" else None)
    account = upload(xnat_node(xnat), folder)
    assert account.verdict == COMPLETE, reasons(account)
    assert sorted(xnat.stored().values()) == contents(folder)


def test_refusals_of_xnat_are_named(xnat: XnatFake, folder: Path) -> None:
    with pytest.raises(DestinationRefused, match="no such project"):
        upload(xnat_node(xnat, project="OTHER"), folder)
    with pytest.raises(AssociationRejected, match="refuses us"):
        upload(xnat_node(xnat, project="CLOSED"), folder)
    with pytest.raises(ConfigError, match="connection xnat: project"):
        xnat_node(xnat, project="../x")


def test_an_album_is_made_and_gets_the_studies(kheops: KheopsFake, folder: Path) -> None:
    node = KheopsNode("kheops", kheops.url, password=kheops.token, album="Knee study", retry_wait=0.01)
    account = upload(node, folder)
    assert account.verdict == COMPLETE, reasons(account)
    ((number, album),) = kheops.albums.items()
    assert album["name"] == "Knee study"
    uids = {file.sop_instance_uid for path in folder.rglob("*.dcm") if (file := inspect(path))}
    assert kheops.in_album(number) == uids
    assert upload(node, folder).totals()["present"] == 5 and len(kheops.albums) == 1


def test_a_token_of_an_album_is_enough_and_one_that_may_not_write_is_named(kheops: KheopsFake, folder: Path) -> None:
    number, secret = kheops.album("There")
    account = upload(KheopsNode("kheops", kheops.url, password=secret, retry_wait=0.01), folder)
    assert account.verdict == COMPLETE and len(kheops.in_album(number)) == 5
    _, reader = kheops.album("Read only", write=False)
    account = upload(KheopsNode("reader", kheops.url, password=reader, retry_wait=0.01), folder)
    assert account.verdict == INCOMPLETE and "0x0124, not authorised" in reasons(account)
    assert secret not in repr(KheopsNode("kheops", kheops.url, password=secret))
