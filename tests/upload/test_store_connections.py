"""Connections of destinations: what they may say, and what is refused with the connection and the field named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pacsifier_ops.base.config import Node, WebNode
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.upload.filestore import checked
from pacsifier_ops.upload.nodes import (
    FolderNode,
    FtpsNode,
    KheopsNode,
    ObjectStoreNode,
    SftpNode,
    XnatNode,
    store_of,
)


def made(conn_type: str, **fields: Any) -> Node:
    given = {"host": None, "port": None, "login": None, "password": None, "extra_dejson": {}, **fields}
    return store_of("there", SimpleNamespace(conn_type=conn_type, **given))


def test_the_type_of_a_connection_says_what_it_is() -> None:
    found = {
        "fs": made("fs", extra_dejson={"path": "/mnt/share/"}),
        "sftp": made("sftp", host="h", login="us", extra_dejson={"key_file": "/k", "look_for_keys": "false"}),
        "ssh": made("ssh", host="h", login="us", port=2222),
        "ftp": made("ftp", host="h", login="us", password="p"),
        "object_store": made("object_store", extra_dejson={"root": "s3://b/x", "may_send": "role:Trials"}),
        "aws": made("aws", login="k", password="s", extra_dejson={"root": "s3://b", "region_name": "eu"}),
        "dicomweb": made("dicomweb", host="https://h/dicom-web", login="us", password="p"),
        "xnat": made("xnat", host="https://h", login="us", password="p", extra_dejson={"project": "KNEE"}),
        "kheops": made("kheops", host="https://h/api", password="t", extra_dejson={"album": "Knee"}),
    }
    kinds = [FolderNode, SftpNode, SftpNode, FtpsNode, ObjectStoreNode, ObjectStoreNode, WebNode, XnatNode, KheopsNode]
    assert [type(node) for node in found.values()] == kinds
    assert found["ssh"].key == "sftp:us@h:2222:" and found["fs"].key == "folder:/mnt/share"
    assert len({node.key for node in found.values()}) == len(found)


@pytest.mark.parametrize(
    ("conn_type", "fields", "told"),
    [
        ("fs", {}, "path is not the absolute path"),
        ("fs", {"extra_dejson": {"path": "/mnt/../etc"}}, "path is not the absolute path"),
        ("fs", {"extra_dejson": {"path": "/mnt", "may_sned": "anna"}}, "unknown field in extra: may_sned"),
        ("fs", {"extra_dejson": {"path": "/mnt", "may_send": "anna, nobody"}}, "may_send names nobody and others"),
        ("fs", {"extra_dejson": {"path": "/mnt", "window": "20-6 o'clock"}}, "window"),
        ("fs", {"extra_dejson": ["path"]}, "extra is not a JSON object"),
        ("sftp", {"host": "h"}, "login is missing"),
        ("sftp", {"host": "a b", "login": "us"}, "the host is empty or holds blanks"),
        ("sftp", {"host": "h", "login": "us", "extra_dejson": {"root": "/in/../.."}}, "root is not the path"),
        ("object_store", {}, "root is not the URL of a bucket"),
        ("object_store", {"extra_dejson": {"root": "s3://b/../x"}}, "root is not the URL of a folder"),
        ("object_store", {"extra_dejson": {"root": "s3://b", "endpoint_url": "minio:9000"}}, "endpoint_url is not"),
        ("object_store", {"extra_dejson": {"root": "s3://b", "endpoint_url": "https://:9000"}}, "endpoint_url is not"),
        ("object_store", {"extra_dejson": {"root": "s3://b", "endpoint_url": "https://u:p@h"}}, "has a login in it"),
        ("aws", {"extra_dejson": {"root": "s3://b", "role_arn": "arn"}}, "unknown field in extra: role_arn"),
        ("xnat", {"host": "https://h", "extra_dejson": {"project": "a/b"}}, "project is not the ID"),
        ("http", {"host": "h"}, "nothing can be sent to a connection of type http"),
    ],
)
def test_what_is_wrong_is_named(conn_type: str, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        made(conn_type, password="SECRET", **fields)
    assert str(error.value).startswith("connection there: ") and "SECRET" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["../x", "a/../x", "/x", "a//x", "a/./x", "a\\x", "a/b\nc", "a:b", " a/x", "manifest.jsonl"]
)
def test_paths_that_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="its path cannot be used"):
        checked(name)


def test_paths_of_a_released_tree_pass() -> None:
    name = "sub-PSEUDO1/ses-20200101120000/00001-Head_a1b2/2.25.123.dcm"
    assert checked(name) == name
