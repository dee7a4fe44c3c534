"""An SFTP server as a destination (SSH File Transfer Protocol, version 3)."""

from __future__ import annotations

import errno
import io
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from stat import S_ISREG
from typing import TYPE_CHECKING

from pacsifier_ops.base.errors import (
    AssociationAborted,
    ConfigError,
    DestinationRefused,
    OutOfResources,
    PacsTimeout,
    PacsUnreachable,
)
from pacsifier_ops.base.quiet import quiet
from pacsifier_ops.upload.filestore import LONGEST_LINE, PIECE, Listed, Reading, Server
from pacsifier_ops.upload.nodes import SftpNode

if TYPE_CHECKING:
    import paramiko

#: Requests under way while a file is read back: 32 KiB each, so 2 MiB of memory.
_AHEAD = 64


class Sftp(Server):
    """An SFTP server.

    Its host key is always checked, unless the connection says otherwise.
    """

    method = "sftp"

    @property
    def _sftp_node(self) -> SftpNode:
        assert isinstance(self.node, SftpNode)
        return self.node

    def connect(self, stack: ExitStack) -> None:
        """Log in, and see that the root is there."""
        import paramiko

        quiet("paramiko", least=logging.CRITICAL)  # else a traceback is printed for what is raised here as well
        node = self._sftp_node
        client = paramiko.SSHClient()
        stack.callback(client.close)
        self._trust(client)
        try:
            client.connect(
                node.host,
                node.port,
                node.login,
                node.password or None,
                pkey=self._key(),
                key_filename=node.key_file or None,
                passphrase=node.private_key_passphrase or None,
                timeout=node.connect_timeout,
                banner_timeout=node.connect_timeout,
                auth_timeout=node.answer_timeout,
                allow_agent=False,
                look_for_keys=False,
            )
            self._files = client.open_sftp()
            channel = self._files.get_channel()
            if channel is not None:
                channel.settimeout(node.answer_timeout)
        except paramiko.BadHostKeyException as error:
            raise DestinationRefused(
                f"{node.name}: the server's host key is not that of the connection; somebody may be in between, or the "
                "server was made anew: ask its administrator, and set host_key"
            ) from error
        except paramiko.AuthenticationException as error:
            raise DestinationRefused(
                f"{node.name}: the server refuses the login; check login, and password or key"
            ) from error
        except paramiko.SSHException as error:
            if "not found in known_hosts" in str(error):
                raise DestinationRefused(
                    f"{node.name}: the server's host key is not known; give host_key in the connection, or a file "
                    "known_hosts that has it"
                ) from error
            raise PacsUnreachable(
                f"{node.name}: no SSH connection ({type(error).__name__}); check that an SFTP server listens at "
                f"{node.host} port {node.port}"
            ) from error
        except paramiko.SFTPError as error:
            raise DestinationRefused(
                f"{node.name}: the server speaks no SFTP at this login; a shell that greets with a text would do that"
            ) from error
        except (OSError, EOFError) as error:
            raise PacsUnreachable(f"{node.name}: {node.host} does not answer at port {node.port}") from error
        with self.errors():
            try:
                self._files.stat(self._path(""))
            except FileNotFoundError:
                raise DestinationRefused(f"{node.name}: root is not there; make the folder on the server") from None

    def _trust(self, client: paramiko.SSHClient) -> None:
        import paramiko

        node = self._sftp_node
        name = node.host if node.port == 22 else f"[{node.host}]:{node.port}"
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        if node.no_host_key_check:
            client.set_missing_host_key_policy(_Trusting())
        elif node.host_key:
            text = node.host_key.strip()
            line = text if len(text.split()) > 1 else f"ssh-rsa {text}"
            try:
                entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{name} {line}")
            except (paramiko.SSHException, ValueError):
                entry = None
            if entry is None or entry.key is None:
                raise ConfigError(
                    f"connection {node.name}: host_key is no public key; give kind and key, as ssh-keyscan tells them"
                )
            client.get_host_keys().add(name, entry.key.get_name(), entry.key)
        else:
            try:
                client.load_system_host_keys(node.known_hosts or None)
            except OSError as error:
                raise ConfigError(f"connection {node.name}: known_hosts cannot be read: {error.strerror}") from error

    def _key(self) -> paramiko.PKey | None:
        import paramiko

        node = self._sftp_node
        if not node.private_key:
            return None
        for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
            with suppress(paramiko.SSHException, ValueError, IndexError):
                found: paramiko.PKey = kind.from_private_key(
                    io.StringIO(node.private_key.replace("\\n", "\n")), node.private_key_passphrase or None
                )
                return found
        raise ConfigError(f"connection {node.name}: private_key is no private key, or its passphrase is wrong")

    def entries(self, folder: str) -> dict[str, Listed]:
        """See `FileStore`."""
        with self.errors():
            try:
                entries = self._files.listdir_attr(self._path(folder))
            except FileNotFoundError:
                return {}
        files = (one for one in entries if one.st_mode is None or S_ISREG(one.st_mode))
        return {one.filename: Listed(one.st_size or 0) for one in files}

    def send(self, name: str, content: Reading) -> None:
        """See `Server`."""
        with suppress(FileNotFoundError):
            self.delete(name)  # what a kill has left
        with self._files.open(self._path(name), "wx") as stream:
            stream.set_pipelined(True)
            for piece in content:
                self.go_on()
                stream.write(piece)

    def size(self, name: str) -> int | None:
        """See `Server`. Some tell none."""
        return self._files.stat(self._path(name)).st_size

    def delete(self, name: str) -> None:
        """See `Server`."""
        self._files.remove(self._path(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        """See `FileStore`."""
        with self.errors(), self._files.open(self._path(name), "rb") as stream:
            stream.prefetch(stream.stat().st_size, max_concurrent_requests=_AHEAD)
            while piece := stream.read(PIECE):
                yield piece

    def beginning(self, name: str) -> bytes:
        """See `FileStore`."""
        with self.errors(), self._files.open(self._path(name), "rb") as stream:
            return stream.read(LONGEST_LINE)

    def remove(self, name: str) -> None:
        """See `FileStore`."""
        with self.errors(), suppress(FileNotFoundError):
            self.delete(name)

    def rename(self, old: str, new: str) -> None:
        """See `Server`. Servers without the extension of OpenSSH refuse to rename over what is there."""
        try:
            self._files.posix_rename(self._path(old), self._path(new))
        except OSError:
            with suppress(FileNotFoundError):
                self._files.remove(self._path(new))
            self._files.rename(self._path(old), self._path(new))

    def make(self, folder: str) -> None:
        """See `Server`."""
        if not folder:
            return
        try:
            self._files.stat(self._path(folder))
        except FileNotFoundError:
            self.make(folder.rpartition("/")[0])
            try:
                self._files.mkdir(self._path(folder))
            except OSError:
                self._files.stat(self._path(folder))  # another task has made it, or this tells why not

    def _path(self, name: str) -> str:
        root = self._sftp_node.root.rstrip("/")
        if not root:
            return f"/{name}" if self._sftp_node.root else name or "."
        return f"{root}/{name}" if name else root

    @contextmanager
    def errors(self) -> Iterator[None]:
        """See `Server`."""
        import paramiko

        name = self.node.name
        try:
            yield
        except TimeoutError as error:
            raise PacsTimeout(f"{name}: the server is silent for {self._sftp_node.answer_timeout:g} s") from error
        except PermissionError as error:
            raise DestinationRefused(f"{name}: the server gives no permission; check root and its rights") from error
        except (paramiko.SSHException, paramiko.SFTPError, EOFError, ConnectionError) as error:
            raise AssociationAborted(f"{name}: the connection was lost ({type(error).__name__})") from error
        except OSError as error:
            if error.errno in (errno.ENOTCONN, errno.EBADF, errno.EPIPE) or "closed" in str(error).lower():
                raise AssociationAborted(f"{name}: the connection was lost") from error
            # Version 3 has one status for everything else: no room, a quota, a name that it does not take.
            raise OutOfResources(f"{name}: the server fails; has it room, and may we write?") from error


class _Trusting:
    """Takes any host key, and keeps none."""

    def missing_host_key(self, client: object, hostname: str, key: object) -> None:
        """Do nothing."""
