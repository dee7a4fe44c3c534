"""An FTP server with TLS as a destination (RFC 959, RFC 3659, RFC 4217). Without TLS nothing is sent."""

from __future__ import annotations

import ftplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from pacsifier_ops.base.errors import (
    AssociationAborted,
    ConfigError,
    DestinationRefused,
    OutOfResources,
    PacsTimeout,
    PacsUnreachable,
    TlsFailed,
)
from pacsifier_ops.upload.filestore import PIECE, Listed, Reading, Server
from pacsifier_ops.upload.nodes import FtpsNode

#: Answers of a server that does not know a command.
_UNKNOWN = ("500", "501", "502", "504")


class _Client(ftplib.FTP_TLS):
    """Many servers take a data connection only with the TLS session of the control connection."""

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        """See `ftplib`."""
        connection, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        control: Any = self.sock
        return self.context.wrap_socket(connection, server_hostname=self.host, session=control.session), size


class Ftps(Server):
    """An FTP server with TLS."""

    method = "ftps"

    @property
    def _ftp_node(self) -> FtpsNode:
        assert isinstance(self.node, FtpsNode)
        return self.node

    def connect(self, stack: ExitStack) -> None:
        """Log in over TLS, and see that the root is there."""
        node = self._ftp_node
        try:
            context = ssl.create_default_context(cafile=node.ca or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"connection {node.name}: ca cannot be read as a PEM file") from error
        context.check_hostname = node.tls_check_host
        ftp = self._ftp = _Client(context=context, timeout=node.connect_timeout, encoding="utf-8")
        stack.callback(ftp.close)
        try:
            ftp.connect(node.host, node.port)
        except (OSError, EOFError, ftplib.Error) as error:
            raise PacsUnreachable(f"{node.name}: {node.host} does not answer at port {node.port}") from error
        try:
            ftp.auth()
        except ssl.SSLError as error:
            raise TlsFailed(f"{node.name}: no TLS: its certificate is not trusted or names another host") from error
        except (ftplib.Error, OSError, EOFError) as error:
            raise TlsFailed(f"{node.name}: the server has no TLS; nothing is sent without") from error
        try:
            ftp.login(node.login, node.password, secure=False)
            ftp.prot_p()
        except ftplib.error_perm as error:
            raise DestinationRefused(f"{node.name}: the server refuses the login; check login and password") from error
        except (ftplib.Error, OSError, EOFError) as error:
            raise PacsUnreachable(f"{node.name}: the server broke off at the login") from error
        assert ftp.sock is not None
        ftp.sock.settimeout(node.answer_timeout)
        ftp.timeout = node.answer_timeout
        ftp.set_pasv(node.passive)
        with self.errors():
            if node.root:
                try:
                    ftp.cwd(node.root)
                except ftplib.error_perm:
                    raise DestinationRefused(f"{node.name}: root is not there; make the folder on the server") from None
            self._root_path = ftp.pwd().rstrip("/")

    def close(self, abort: bool = False) -> None:
        """Log out."""
        if self.is_open and not abort:
            with suppress(Exception):
                self._ftp.quit()
        super().close(abort)

    def entries(self, folder: str) -> dict[str, Listed]:
        """See `FileStore`."""
        with self.errors():
            try:
                entries = [*self._ftp.mlsd(self._path(folder))]
            except ftplib.error_perm as error:
                if not self._is_there(folder):
                    return {}
                if str(error)[:3] not in _UNKNOWN:
                    raise
                return self._asked_sizes(folder)
        return {name: Listed(int(facts.get("size", -1))) for name, facts in entries if facts.get("type") == "file"}

    def _asked_sizes(self, folder: str) -> dict[str, Listed]:
        """Return the same from a server without MLSD (RFC 3659), such as vsftpd: file by file."""
        found = {}
        for path in self._ftp.nlst(self._path(folder)):
            name = path.rpartition("/")[2]
            self._ftp.voidcmd("TYPE I")
            with suppress(ftplib.error_perm):  # a folder
                found[name] = Listed(self.size(f"{folder}/{name}".lstrip("/")))
        return found

    def send(self, name: str, content: Reading) -> None:
        """See `Server`."""
        self._ftp.voidcmd("TYPE I")  # a listing has switched to text, in which no size is told
        connection = self._ftp.transfercmd(f"STOR {self._path(name)}")
        try:
            with connection:
                for piece in content:
                    self.go_on()
                    connection.sendall(piece)
                if isinstance(connection, ssl.SSLSocket):
                    connection.unwrap()  # otherwise a cut connection would look like the end
        except BaseException:
            with suppress(Exception):
                self._ftp.voidresp()
            raise
        self._ftp.voidresp()

    def size(self, name: str) -> int:
        """See `Server`. A server that tells none has not confirmed the file."""
        found = self._ftp.size(self._path(name))
        return -1 if found is None else found

    def delete(self, name: str) -> None:
        """See `Server`."""
        self._ftp.delete(self._path(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        """See `FileStore`."""
        with self.errors():
            self._ftp.voidcmd("TYPE I")
            connection = self._ftp.transfercmd(f"RETR {self._path(name)}")
            try:
                with connection:
                    while piece := connection.recv(PIECE):
                        yield piece
                    if isinstance(connection, ssl.SSLSocket):
                        with suppress(OSError):
                            connection.unwrap()
            except GeneratorExit:  # the reader has enough; the answer would else be taken for that of the next command
                with suppress(Exception):
                    self._ftp.voidresp()
                raise
            self._ftp.voidresp()

    def remove(self, name: str) -> None:
        """See `FileStore`."""
        with self.errors(), suppress(ftplib.error_perm):
            self.delete(name)

    def rename(self, old: str, new: str) -> None:
        """See `Server`. Not all servers rename over what is there."""
        try:
            self._ftp.rename(self._path(old), self._path(new))
        except ftplib.error_perm:
            with suppress(ftplib.error_perm):
                self._ftp.delete(self._path(new))
            self._ftp.rename(self._path(old), self._path(new))

    def make(self, folder: str) -> None:
        """See `Server`."""
        if not folder or self._is_there(folder):
            return
        self.make(folder.rpartition("/")[0])
        try:
            self._ftp.mkd(self._path(folder))
        except ftplib.error_perm:
            if not self._is_there(folder):
                raise

    def _is_there(self, folder: str) -> bool:
        try:
            self._ftp.cwd(self._path(folder))
        except ftplib.error_perm:
            return False
        return True

    def _path(self, name: str) -> str:
        return f"{self._root_path}/{name}" if name else self._root_path or "/"

    @contextmanager
    def errors(self) -> Iterator[None]:
        """See `Server`."""
        name = self.node.name
        try:
            yield
        except TimeoutError as error:
            raise PacsTimeout(f"{name}: the server is silent for {self._ftp_node.answer_timeout:g} s") from error
        except ftplib.error_temp as error:
            raise OutOfResources(f"{name}: the server fails for now ({str(error)[:3]})") from error
        except ftplib.error_perm as error:
            code = str(error)[:3]
            if code == "552":
                raise OutOfResources(f"{name}: the server has no room for us (552)") from error
            raise DestinationRefused(f"{name}: the server refuses it ({code}); check root and its rights") from error
        except (ftplib.Error, EOFError, OSError) as error:
            raise AssociationAborted(f"{name}: the connection was lost ({type(error).__name__})") from error
