"""An object store as a destination, by fsspec: S3 (s3fs), Google (gcsfs), Azure (adlfs), or any other file system.

An object appears when it is complete. S3 gets SHA-256 with each part, refuses what differs, and tells it afterwards. Of
other stores the object is read back.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from pacsifier_ops.base.errors import (
    AssociationAborted,
    ConfigError,
    DestinationRefused,
    OutOfResources,
    PacsifierError,
    PacsTimeout,
    PacsUnreachable,
)
from pacsifier_ops.base.quiet import quiet
from pacsifier_ops.upload.filestore import LONGEST_LINE, PIECE, Corrupted, FileStore, Listed, Reading, temporary
from pacsifier_ops.upload.nodes import STORES, ObjectStoreNode

#: Size of a part of a large object in bytes; S3 takes 10,000 parts of 5 MiB or more. Two are in memory at most.
_PART = 16 << 20


class ObjectStore(FileStore):
    """A bucket, or a folder in one."""

    method = "object store"
    block = _PART
    _etag = ""

    @property
    def _store(self) -> ObjectStoreNode:
        assert isinstance(self.node, ObjectStoreNode)
        return self.node

    def connect(self, stack: ExitStack) -> None:
        """Make the file system; it connects by itself."""
        quiet("s3fs", "fsspec", "aiobotocore", "botocore", "gcsfs", "adlfs", "azure", "urllib3")
        node = self._store
        package = STORES.get(node.scheme, "")
        try:
            import fsspec

            if package:
                importlib.import_module(package)
            with self._errors():
                self._fs = fsspec.filesystem(node.scheme, skip_instance_cache=True, **self._arguments())
        except (ImportError, ValueError) as error:
            needed = package or f"the package of fsspec for {node.scheme}"
            raise ConfigError(
                f"connection {node.name}: root needs {needed}, which is not installed; install it where Airflow runs"
            ) from error
        self._base = str(self._fs._strip_protocol(node.root)).rstrip("/")

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments of the file system.

        Raises:
            ConfigError: options is no JSON object.
        """
        node = self._store
        try:
            options = json.loads(node.options) if node.options else {}
            if not isinstance(options, dict):
                raise ValueError
        except ValueError:
            raise ConfigError(f"connection {node.name}: options is not a JSON object") from None
        if node.scheme == "s3":
            client = {"region_name": node.region_name, "endpoint_url": node.endpoint_url, "verify": node.ca}
            config = {"connect_timeout": node.connect_timeout, "read_timeout": node.answer_timeout}
            found: dict[str, Any] = {
                "key": node.login or None,
                "secret": node.password or None,
                "token": node.session_token or None,
                "client_kwargs": {key: value for key, value in client.items() if value},
                "config_kwargs": {**config, "retries": {"max_attempts": 2}},
                "s3_additional_kwargs": {"ChecksumAlgorithm": "SHA256"},
                "fixed_upload_size": True,
                "use_listings_cache": False,
            }
        elif node.scheme in ("gs", "gcs"):
            try:
                token = json.loads(node.password) if node.password else None
            except ValueError:
                raise ConfigError(f"connection {node.name}: password is not the JSON of a service account") from None
            found = {"token": token, "endpoint_url": node.endpoint_url or None}
        elif package_of(node.scheme) == "adlfs":
            found = {"account_name": node.login or None, "account_key": node.password or None}
        else:
            found = {}
        return {**found, **options}

    def entries(self, folder: str) -> dict[str, Listed]:
        """See `FileStore`."""
        with self._errors():
            self._fs.invalidate_cache()
            try:
                entries = self._fs.ls(self._path(folder).rstrip("/"), detail=True)
            except FileNotFoundError:
                return {}
            files = (one for one in entries if one["type"] == "file")
            return {one["name"].rpartition("/")[2]: Listed(int(one["size"] or 0), _mark(one)) for one in files}

    def mark(self, name: str) -> str:
        """See `FileStore`. S3 has told it when the content was compared."""
        return self._etag

    def write(self, name: str, content: Reading) -> None:
        """See `FileStore`."""
        if self._store.scheme in STORES:
            with self._errors():
                self._send(self._path(name), content)
                try:
                    self.verify(name, content)
                except Corrupted:
                    self._fs.rm_file(self._path(name))
                    raise
            return
        with self._errors():
            unfinished = temporary(name)
            self._fs.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            try:
                self._send(self._path(unfinished), content)
                self.verify(unfinished, content)
                self._fs.mv(self._path(unfinished), self._path(name))
            except BaseException:
                with suppress(Exception):
                    self._fs.rm_file(self._path(unfinished))
                raise

    def _send(self, path: str, content: Reading) -> None:
        stream = self._fs.open(path, "wb", block_size=_PART)
        try:
            for piece in content:
                self.go_on()
                stream.write(piece)
            stream.close()
        except BaseException:
            with suppress(Exception):
                stream.discard()  # parts that are there are removed
            stream.closed = True  # or its end would complete the object
            raise

    def verify(self, name: str, content: Reading) -> None:
        """Compare the checksum that the store tells with ours; read the object back where it tells none."""
        if self._store.scheme == "s3":
            bucket, _, key = self._path(name).partition("/")
            head = self._fs.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
            self._etag = _mark(head)
            if head["ContentLength"] != content.size:
                raise Corrupted("its size differs")
            if head.get("ChecksumSHA256", "") in _sums_sha256(content) or self._etag in _sums_md5(content):
                return
        super().verify(name, content)

    def pieces(self, name: str) -> Iterator[bytes]:
        """See `FileStore`."""
        with self._errors(), self._fs.open(self._path(name), "rb", block_size=_PART, cache_type="readahead") as stream:
            while piece := stream.read(PIECE):
                yield piece

    def beginning(self, name: str) -> bytes:
        """See `FileStore`."""
        with self._errors():
            return bytes(self._fs.cat_file(self._path(name), start=0, end=LONGEST_LINE))

    def remove(self, name: str) -> None:
        """See `FileStore`."""
        with self._errors(), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        name = self.node.name
        try:
            yield
        except (PacsifierError, ImportError):
            raise
        except PermissionError as error:
            raise DestinationRefused(f"{name}: the store refuses us; check the keys, and what they may do") from error
        except FileNotFoundError as error:
            raise DestinationRefused(f"{name}: the bucket is not there; check root and endpoint_url") from error
        except TimeoutError as error:
            raise PacsTimeout(f"{name}: the store is silent ({type(error).__name__})") from error
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.ENOSPC, errno.EDQUOT):
                raise OutOfResources(f"{name}: the store is busy, or has no room") from error
            raise AssociationAborted(f"{name}: the connection was lost ({type(error).__name__})") from error
        except Exception as error:  # libraries of stores have types of their own, whose texts name objects
            kind = type(error).__name__
            if "Credential" in kind or "Auth" in kind:
                raise DestinationRefused(f"{name}: there are no keys, or not whole ones ({kind})") from error
            if kind in ("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError"):
                raise PacsUnreachable(f"{name}: the store does not answer ({kind})") from error
            raise AssociationAborted(f"{name}: the store failed ({kind})") from error


def _mark(told: Mapping[str, Any]) -> str:
    """Return the ETag of an object in S3, from its head or a list. It changes with the content, or how it was put."""
    return str(told.get("ETag") or "").strip('"')


def package_of(scheme: str) -> str:
    """Return the package of fsspec for a scheme; empty where it is none of the known stores."""
    return STORES.get(scheme, "")


def _sums_sha256(content: Reading) -> set[str]:
    """Return what S3 tells as ChecksumSHA256 of a content: of the whole, or of the digests of its parts."""
    whole = base64.b64encode(content.whole.digest()).decode()
    parts = hashlib.sha256(b"".join(sha256 for sha256, _ in content.blocks)).digest()
    return {whole, f"{base64.b64encode(parts).decode()}-{len(content.blocks)}"}


def _sums_md5(content: Reading) -> set[str]:
    """Return what S3 tells as ETag of a content: MD5 of the whole, or of the MD5s of its parts."""
    parts = hashlib.md5(b"".join(md5 for _, md5 in content.blocks), usedforsecurity=False).hexdigest()
    return {content.md5.hexdigest(), f"{parts}-{len(content.blocks)}"}
