"""The secret of a project, from which all values are derived that no other source provides.

These values are equal in all runs on all machines. The secret is generated once and stored as `<state
root>/projects/<project>/secret`, 0600, unless an administrator stores it elsewhere (an Airflow connection, a secrets
backend) and passes it in. Its owner can re-identify patients. Without it, the same pseudonyms, UIDs and shifts can
never be generated again.
"""

from __future__ import annotations

import hmac
import re
import secrets
from contextlib import suppress
from pathlib import Path

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import ConfigError
from pacsifier_ops.base.files import private_folder, storage_errors, write_once

#: Environment variable of a project's secret, for commands, where it is not stored below the state root.
VARIABLE = "PACSIFIER_PROJECT_SECRET"
#: Project of a run without one.
DEFAULT_PROJECT = "default"
#: Form of project names. Blanks are allowed, because a project may have the name of its album.
PROJECT_PATTERN = "[0-9A-Za-z](?:[0-9A-Za-z._ -]{0,62}[0-9A-Za-z._-])?"

_BYTES = 32


def check_project(name: str) -> str:
    """Return the name of a project if it is fit for a file name.

    Raises:
        ConfigError: it is not.
    """
    if not re.fullmatch(PROJECT_PATTERN, name):
        raise ConfigError(
            "project: not fit to name a project; give at most 64 letters, digits, dots, dashes, underscores and "
            "blanks, a letter or digit first, no blank last"
        )
    return name


def project_folder(project: str) -> Path:
    """Return the protected folder of a project: its secret and its linkage.

    Raises:
        ConfigError: the name is invalid.
        StorageError: the state root cannot be written.
    """
    check_project(project)
    with storage_errors("the state root"):
        return private_folder(settings.state_root() / "projects" / project)


class Secret:
    """Derives values that can be neither computed nor inverted without the key (HMAC-SHA256, RFC 2104).

    Args:
        key: at least 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < _BYTES:
            raise ConfigError(f"a project's secret has at least {_BYTES} bytes, {2 * _BYTES} hexadecimal digits")
        self._key = key

    def __repr__(self) -> str:
        return "Secret(…)"

    def digest(self, domain: str, value: str) -> bytes:
        """Return 32 bytes derived from a value. Those of one domain reveal nothing about another domain."""
        return hmac.digest(self._key, f"{domain}\0{value}".encode("utf-8", "surrogatepass"), "sha256")

    def number(self, domain: str, value: str) -> int:
        """Return an integer below 2**256 derived from a value."""
        return int.from_bytes(self.digest(domain, value), "big")

    def uid(self, uid: str) -> str:
        """Return the replacement of a UID: a `2.25.` UID of 128 bits (PS3.5 B.2), at most 44 characters."""
        return f"2.25.{self.number('uid', uid) >> 128}"

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the secret without revealing it."""
        return self.digest("fingerprint", "").hex()[:16]

    @classmethod
    def of_text(cls, text: str) -> Secret:
        """Return the secret of hexadecimal digits.

        Raises:
            ConfigError: the text is invalid.
        """
        with suppress(ValueError):
            return cls(bytes.fromhex(text.strip()))
        raise ConfigError(f"the project's secret is not written in hexadecimal digits, {2 * _BYTES} at least")


def project_secret(project: str = DEFAULT_PROJECT, given: str = "") -> Secret:
    """Return the secret of a project; generate it if the project has none.

    Args:
        project: name of the project.
        given: the secret in hexadecimal digits, where it is stored elsewhere; it is not copied to the state root.

    Raises:
        ConfigError: the name is invalid, the secret cannot be read, or it is not the project's original one.
        StorageError: the state root cannot be written.
    """
    folder = project_folder(project)
    with storage_errors(f"the secret of project {project}"):
        secret = Secret.of_text(given or _kept(folder / "secret", begun=(folder / "fingerprint").exists()))
        # The first secret is permanent: values derived from another one would not match.
        first = write_once(folder / "fingerprint", secret.fingerprint)
    if not hmac.compare_digest(first, secret.fingerprint):
        raise ConfigError(
            f"the secret of project {project} is not the one that the project was begun with; restore that one, "
            "or begin a project of another name"
        )
    return secret


def _kept(path: Path, begun: bool) -> str:
    """Return the secret in a file; generate it if the project is new."""
    if not path.exists() and begun:
        raise ConfigError(
            f"the secret of project {path.parent.name} is gone, and patients were linked with it; restore "
            f"{path} from a backup, or keep it where it was kept, or begin a project of another name"
        )
    return write_once(path, secrets.token_bytes(_BYTES).hex())
