"""Destinations that are no PACS, as nodes: from Airflow connections. A destination's kind is its connection's type."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pacsifier_ops.base.config import (
    Node,
    WebNode,
    extra_values,
    node_from_connection,
    plain_host,
    plain_text,
    read_keys,
    read_one,
    web_from_connection,
)
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.base.given import Unusable, json_of, read_given


@dataclass(frozen=True)
class StoreNode(Node):
    """What all of them have. Times in seconds.

    Attributes:
        answer_timeout: silence of the destination.
        takes_away: the other side takes files away, so what was confirmed once is not asked for again.
    """

    KIND: ClassVar[str] = ""

    _: KW_ONLY
    answer_timeout: float = 120.0
    takes_away: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check(self.where)

    @property
    def where(self) -> str:
        """See `Node`."""
        return f"connection {self.name}"

    @property
    def _timeouts(self) -> Sequence[str]:
        return (*super()._timeouts, "answer_timeout")

    def check(self, where: str) -> None:
        """Check the fields of the kind.

        Raises:
            ConfigError: names the connection, the field, and what to do.
        """

    @property
    def place(self) -> str:
        """What tells the place from others of its kind, without secrets."""
        raise NotImplementedError

    @property
    def key(self) -> str:
        """See `Node`."""
        return f"{self.KIND}:{self.place}"

    @property
    def slots(self) -> str:
        """See `Node`."""
        return f"store:{self.key}"


@dataclass(frozen=True)
class FolderNode(StoreNode):
    """A folder elsewhere, such as a mounted share. Connection type `fs`.

    Attributes:
        path: the folder, absolute; it must be there, so that files do not go below an empty mount point.
    """

    KIND = "folder"
    path: str = ""

    def check(self, where: str) -> None:
        """See `StoreNode`."""
        if not self.path.startswith("/") or ".." in self.path.split("/"):
            raise ConfigError(f"{where}: path is not the absolute path of a folder; give one such as /mnt/share/knee")

    @property
    def place(self) -> str:
        """The folder."""
        return self.path.rstrip("/")


@dataclass(frozen=True)
class HostNode(StoreNode):
    """A server of files.

    Attributes:
        host, port: its address.
        login, password: who we are.
        root: the folder for the objects, as the server names it; it must be there. Empty: where the login begins.
    """

    host: str = ""
    port: int = 0
    login: str = ""
    password: str = field(default="", repr=False)
    root: str = ""

    def check(self, where: str) -> None:
        """See `StoreNode`."""
        if not self.host or not self.host.isprintable() or any(c.isspace() for c in self.host):
            raise ConfigError(f"{where}: the host is empty or holds blanks; give a host name or an IP address")
        try:
            plain_host(self.host)
        except ValueError:
            raise ConfigError(f"{where}: the host has a colon and is no IPv6 address") from None
        if not 1 <= self.port <= 65535:
            raise ConfigError(f"{where}: port is not a port; give a number from 1 to 65535")
        if not self.login:
            raise ConfigError(f"{where}: login is missing; give the name of our account")
        if not self.root.isprintable() or ".." in self.root.split("/"):
            raise ConfigError(f"{where}: root is not the path of a folder; give one without ..")

    @property
    def place(self) -> str:
        """Account, address and folder."""
        return f"{self.login}@{self.host}:{self.port}:{self.root.rstrip('/')}"


@dataclass(frozen=True)
class SftpNode(HostNode):
    """An SFTP server. Connection types `sftp` and `ssh`.

    Attributes:
        host_key: its public key, as in known_hosts without the name: `ssh-ed25519 AAAA…`. Empty: that of `known_hosts`.
        known_hosts: path of a file of known hosts on the workers. Empty: `~/.ssh/known_hosts`.
        no_host_key_check: whoever answers is trusted. Anybody in between can then read what is sent.
        key_file: path of our private key on the workers.
        private_key: our private key itself, PEM. private_key_passphrase: of either.
    """

    KIND = "sftp"
    host_key: str = field(default="", repr=False)
    known_hosts: str = ""
    no_host_key_check: bool = False
    key_file: str = ""
    private_key: str = field(default="", repr=False)
    private_key_passphrase: str = field(default="", repr=False)


@dataclass(frozen=True)
class FtpsNode(HostNode):
    """An FTP server with TLS (RFC 4217, explicit). Connection type `ftp`.

    Attributes:
        ca: path of a PEM file, on the workers, of the authorities of its certificate. Empty: those of the system.
        tls_check_host: the certificate must name the host.
        passive: we open the data connections.
    """

    KIND = "ftps"
    ca: str = ""
    tls_check_host: bool = True
    passive: bool = True


#: Packages of fsspec for object stores, by scheme.
STORES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs"}


@dataclass(frozen=True)
class ObjectStoreNode(StoreNode):
    """An object store, by fsspec. Connection type `object_store`, or `aws` for S3.

    Attributes:
        root: URL of bucket and prefix, such as `s3://bucket/prefix`.
        login, password: S3: access key and secret key; empty: those that the environment gives (an instance's role).
            GCS: the password is the JSON of a service account. Azure: name of the account and its key.
        endpoint_url: of a store other than that of the maker, such as MinIO.
        region_name: of the bucket.
        session_token: of temporary keys.
        ca: path of a PEM file, on the workers, of the authorities of its certificate. Empty: those of the system.
        options: JSON object of further arguments of the file system of fsspec; a store of another scheme needs them.
    """

    KIND = "object_store"
    root: str = ""
    login: str = ""
    password: str = field(default="", repr=False)
    endpoint_url: str = ""
    region_name: str = ""
    session_token: str = field(default="", repr=False)
    ca: str = ""
    options: str = field(default="", repr=False)

    def check(self, where: str) -> None:
        """See `StoreNode`."""
        parts = urlsplit(self.root)
        if not parts.scheme or not (parts.netloc or parts.path.strip("/")) or parts.query or parts.username:
            raise ConfigError(
                f"{where}: root is not the URL of a bucket or a folder in one; give one such as s3://bucket/prefix"
            )
        if ".." in parts.path.split("/") or not self.root.isprintable():
            raise ConfigError(f"{where}: root is not the URL of a folder; give one without ..")
        address = urlsplit(self.endpoint_url)
        if self.endpoint_url and (address.scheme not in ("http", "https") or not address.hostname):
            raise ConfigError(f"{where}: endpoint_url is not an address; give one such as https://minio.example:9000")
        if address.username or address.password:
            raise ConfigError(f"{where}: endpoint_url has a login in it, which would be shown; give login and password")

    @property
    def scheme(self) -> str:
        """Scheme of the URL: which store it is."""
        return urlsplit(self.root).scheme

    @property
    def place(self) -> str:
        """Bucket and prefix at the address."""
        return f"{self.endpoint_url}|{self.root.rstrip('/')}"


@dataclass(frozen=True)
class XnatNode(WebNode):
    """A project of an XNAT. Connection type `xnat`; its host is the address of the XNAT.

    Attributes:
        project: ID of the project.
        into: `archive`; or `prearchive`, where a person looks at the data first.
    """

    project: str = field(default="", kw_only=True)
    into: str = field(default="archive", kw_only=True)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9A-Za-z_-]+", self.project):
            raise ConfigError(f"connection {self.name}: project is not the ID of a project; give the one XNAT shows")
        if self.into not in ("archive", "prearchive"):
            raise ConfigError(f"connection {self.name}: into is neither archive nor prearchive")
        super().__post_init__()

    @property
    def key(self) -> str:
        """Address, place and project."""
        return f"xnat:{self.url}:{self.into}:{self.project}"


@dataclass(frozen=True)
class KheopsNode(WebNode):
    """An album of Kheops. Connection type `kheops`; its host is the address of the API, its password the token.

    Attributes:
        album: name of the album; it is made if it is not there. Empty: the token is that of an album.
    """

    album: str = field(default="", kw_only=True)

    @property
    def key(self) -> str:
        """Address and album; a token of an album tells no name, so what it opens goes by the connection."""
        return f"kheops:{self.url}:{self.album or f'token of {self.name}'}"


#: Fields of a connection's extra that belong to Airflow's own hooks of these types, and mean nothing here.
_FOREIGN = {
    "sftp": ("timeout", "conn_timeout", "compress", "allow_host_key_change", "look_for_keys", "disabled_algorithms"),
    "ssh": ("timeout", "conn_timeout", "compress", "allow_host_key_change", "look_for_keys", "disabled_algorithms"),
    "aws": ("config_kwargs", "verify", "service_config"),
}
#: Names in the extra that stand for ours, by type.
_ALIASES = {"aws": {"aws_session_token": "session_token"}}
#: Fields that a connection itself has.
_OWN = ("name", "host", "port", "login", "password")

_CLASSES: dict[str, type[StoreNode]] = {
    "fs": FolderNode,
    "sftp": SftpNode,
    "ssh": SftpNode,
    "ftp": FtpsNode,
    "object_store": ObjectStoreNode,
    "aws": ObjectStoreNode,
}
_PORTS = {"sftp": 22, "ssh": 22, "ftp": 21}

_WEB: dict[str, type[WebNode]] = {"dicomweb": WebNode, "xnat": XnatNode, "kheops": KheopsNode}

#: Types of connections that a destination may have, beside `dicom`.
TYPES = (*_WEB, *_CLASSES)


def extra_fields(of: type[StoreNode]) -> list[str]:
    """Return the fields of a kind that stand in a connection's extra."""
    return [one.name for one in fields(of) if one.name not in _OWN]


def store_from_connection(
    name: str,
    conn_type: str,
    host: str | None = None,
    port: int | None = None,
    login: str | None = None,
    password: str | None = None,
    extra: Mapping[str, Any] | None = None,
) -> StoreNode:
    """Make the node of an Airflow connection that is no PACS; empty fields get their defaults.

    Args:
        name: id of the connection.
        conn_type: its type, one of TYPES.
        host, port, login, password, extra: its fields.

    Raises:
        ConfigError: names the connection, the field and the problem.
    """
    where = f"connection {name}"
    if conn_type not in _CLASSES:
        raise ConfigError(
            f"{where}: nothing can be sent to a connection of type {conn_type}; give one of type dicom, "
            f"{', '.join(TYPES)}"
        )
    of = _CLASSES[conn_type]
    given = _without_foreign(extra or {}, conn_type, where)
    values = extra_values(where, given, of, extra_fields(of))
    own = {"host": (host or "").strip(), "port": port or _PORTS.get(conn_type, 0), "login": login, "password": password}
    names = {one.name for one in fields(of)}
    values |= {key: value for key, value in own.items() if key in names and value}
    if of is ObjectStoreNode and not values.get("root"):
        values["root"] = (host or "").strip()
    return of(name=name, **values)


def refuse_no_store(node: Node) -> None:
    """Check that a data set can be released straight to a node: it keeps files under their names.

    Raises:
        ConfigError: it is another kind of destination.
    """
    if not isinstance(node, StoreNode):
        raise ConfigError(
            f"release_to: connection {node.name} is no store of files; give one of type {', '.join(_CLASSES)}, or "
            "leave release_to empty, and name this one as upload"
        )


def store_of(name: str, connection: Any) -> Node:
    """Return the node of a connection of Airflow that is no PACS, see `store_from_connection`.

    Args:
        connection: the connection, with its fields as attributes.
    """
    if web := _WEB.get(connection.conn_type):
        address = (connection.host, connection.port, connection.extra_dejson)
        return web_from_connection(name, *address, connection.login, connection.password, web)
    own = (connection.host, connection.port, connection.login, connection.password)
    return store_from_connection(name, connection.conn_type or "", *own, connection.extra_dejson)


def read_destination(path: Path) -> Node:
    """Read the configuration of a destination: that of an archive, or the JSON of a connection of Airflow.

    The latter has a `conn_type` and the fields of that type; further fields are in `extra`.

    Raises:
        ConfigError: the file is missing or no JSON object, or a field is unknown or wrong.
    """
    try:
        found = json_of(read_given(path))
    except Unusable as error:
        raise ConfigError(f"{path.name}: {error}; check the configuration") from None
    if not isinstance(found, dict) or "conn_type" not in found:
        return read_one(path)
    given = read_keys(path, ("conn_type",), ("host", "port", "login", "password", "extra"))
    text = {k: plain_text(given.get(k) or "", k, path.name) for k in ("conn_type", "host", "login", "password")}
    port = given.get("port")
    if port is not None and (isinstance(port, bool) or not isinstance(port, int)):
        raise ConfigError(f"{path.name}: port is not a whole number")
    connection = SimpleNamespace(port=port, extra_dejson=given.get("extra") or {}, **text)
    if connection.conn_type == "dicom":
        return node_from_connection(path.stem, connection.host, port, connection.extra_dejson, connection.password)
    return store_of(path.stem, connection)


def _without_foreign(extra: Any, conn_type: str, where: str) -> Any:
    if not isinstance(extra, Mapping):
        return extra  # `extra_values` tells what is wrong
    foreign: Sequence[str] = _FOREIGN.get(conn_type, ())
    aliases = _ALIASES.get(conn_type, {})
    return {aliases.get(key, key): value for key, value in extra.items() if key not in foreign}
