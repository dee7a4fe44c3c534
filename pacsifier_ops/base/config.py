"""A PACS as a node: from PACSIFIER's config.json or from an Airflow connection."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from pacsifier_ops.base import settings
from pacsifier_ops.base.errors import ConfigError, meant
from pacsifier_ops.base.given import Unusable, json_of, read_given
from pacsifier_ops.base.rights import RIGHTS, statement_of
from pacsifier_ops.base.window import Window, zone_of

METHODS = ("auto", "get", "move")
#: Value of `accept_patient_id_of`.
ACCEPT_ARCHIVE = "archive"
#: Values of `letters`: responses contain all letters of a name, or lack those that the archive's character set lacks.
LETTERS_KEPT, LETTERS_LOST = "kept", "lost"

#: Keys of PACSIFIER's config.json, all required.
CONFIG_KEYS = (
    "server_address",
    "port",
    "server_AET",
    "AET",
    "move_AET",
    "move_port",
    "batch_size",
    "batch_wait_time",
)
#: Optional keys with times in seconds: fields of `PacsNode`.
TIMES = ("connect_timeout", "acse_timeout", "dimse_timeout", "recall_wait")
#: All optional keys: the times, results of the probe of an archive, and the configuration that images come from.
MORE_KEYS = (*TIMES, "result_limit", "letters", "fetch_from")


@dataclass(frozen=True)
class Tls:
    """Settings of TLS. Paths lead to PEM files.

    Attributes:
        ca: authorities of the peer's certificate; empty: those of the system.
        certificate, key: our own certificate; empty: none. The key may be in the certificate's file.
        password: passphrase of the key.
        check_host: the certificate of the node to which we connect must name its host.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""
    password: str = field(default="", repr=False)
    check_host: bool = True


@dataclass(frozen=True)
class Node:
    """What every place has that images come from or go to, whatever it speaks. Times in seconds.

    Attributes:
        name: name for people: the connection id, or the configuration's file name.
        max_associations: maximum number of our associations (requests, tasks) there at once, over all processes.
        batch_size, batch_wait_time: after this number of series, no process starts another for this time; 0: no pacing.
        window: times of day at which images may be transferred, such as 20:00-06:00, several separated by commas.
        window_weekends: Saturdays and Sundays are open all day, where there is a window.
        timezone: IANA name of the zone of these times.
        connect_timeout: for the TCP connection.
        retry_wait: time before a call is repeated after an error that may be temporary; doubles each time.
        may_take, may_send, may_identified, may_urgent: who may do so with this node in Airflow, see `rights`; empty:
            the settings say.
    """

    name: str
    _: KW_ONLY
    max_associations: int = 4
    batch_size: int = 0
    batch_wait_time: float = 0.0
    window: str = ""
    window_weekends: bool = False
    timezone: str = ""
    connect_timeout: float = 10.0
    retry_wait: float = 1.0
    may_take: str = ""
    may_send: str = ""
    may_identified: str = ""
    may_urgent: str = ""

    def __post_init__(self) -> None:
        if self.max_associations < 1:
            raise ConfigError(f"{self.where}: max_associations is below 1")
        for label in self._may_be_off:
            if not 0 <= getattr(self, label) < math.inf:
                raise ConfigError(f"{self.where}: {label} is negative or no number; 0 switches it off")
        for label in self._timeouts:
            if not 0 < getattr(self, label) < math.inf:
                raise ConfigError(f"{self.where}: {label} is not a number of seconds above 0")
        for right in RIGHTS:
            statement_of(self, right)
        check_sizes(self, self.where)
        try:
            Window.parse(self.window, zone=zone_of(self.timezone))
        except ConfigError as error:
            raise ConfigError(f"{self.where}: {error}") from None

    @property
    def where(self) -> str:
        """What errors call the place of the settings."""
        return self.name

    @property
    def _may_be_off(self) -> Sequence[str]:
        """Names of the fields that 0 switches off."""
        return ("batch_size", "batch_wait_time", "retry_wait")

    @property
    def _timeouts(self) -> Sequence[str]:
        """Names of the fields that are times of silence."""
        return ("connect_timeout",)

    @property
    def key(self) -> str:
        """What tells one place from another; limits and records of deliveries go by it."""
        raise NotImplementedError

    @property
    def slots(self) -> str:
        """Name of the leases that limit how many of us work there at once, `max_associations` of them."""
        return f"pacs:{self.key}"

    @property
    def retrieval_window(self) -> Window:
        """Times at which images may be transferred; the settings apply where the node has none.

        Raises:
            ConfigError: a setting is wrong.
        """
        zone = zone_of(self.timezone) or settings.timezone()
        return Window.parse(self.window or settings.window(), self.window_weekends, zone)


@dataclass(frozen=True)
class Archive(Node):
    """What all archives have that we search and fetch from, whatever they speak. Times in seconds.

    Attributes:
        max_series: a larger cohort is not retrieved without an approval; 0: the limit of the settings.
        max_images, max_gigabytes, max_hours: the same for the estimated size (see extract.size); 0: no limit.
        max_share: the same, in percent of the archive's images; 0: no limit.
        archive_images: approximate number of images in the archive; 0: unknown.
        result_limit: number of matches at which this archive truncates a query; 0: never.
        letters: `kept` or `lost`: whether its responses contain all letters of a name; empty: each run finds out.
        accept_patient_id_of: `archive`: an object whose PatientID or issuer differs from the archive's response for its
            series is assigned to the patient of that response; empty: it is not used.
        recall_wait: time during which a series that the archive recalls from slow storage is tried again; 0: not at
            all.
        tls_ca, tls_certificate, tls_key: see `Tls`.
        fetch_from: name of the archive that gives the images of what is found here; empty: this one.
        giver: that archive, once it is looked up, see `with_giver`.
    """

    _: KW_ONLY
    max_series: int = 0
    max_images: int = 0
    max_gigabytes: float = 0.0
    max_hours: float = 0.0
    max_share: float = 0.0
    archive_images: int = 0
    result_limit: int = 0
    letters: str = ""
    accept_patient_id_of: str = ""
    recall_wait: float = 3600.0
    tls_ca: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    fetch_from: str = ""
    giver: ArchiveNode | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.accept_patient_id_of not in ("", ACCEPT_ARCHIVE):
            raise ConfigError(f"{self.name}: accept_patient_id_of is not {ACCEPT_ARCHIVE}; leave it empty otherwise")
        if self.letters not in ("", LETTERS_KEPT, LETTERS_LOST):
            raise ConfigError(
                f"{self.name}: letters is neither {LETTERS_KEPT} nor {LETTERS_LOST}; leave it empty otherwise"
            )
        if self.max_series < 0:
            raise ConfigError(f"{self.name}: max_series is negative; 0 leaves it to the settings")
        for label in ("max_images", "max_gigabytes", "max_hours", "max_share", "archive_images"):
            if not 0 <= getattr(self, label) < math.inf:
                raise ConfigError(f"{self.name}: {label} is negative or no number; 0 is no limit")
        if self.max_share > 100:
            raise ConfigError(f"{self.name}: max_share is above 100 percent")
        if self.max_share and not self.archive_images:
            raise ConfigError(f"{self.name}: max_share is a percentage of archive_images; give archive_images as well")
        super().__post_init__()

    @property
    def _may_be_off(self) -> Sequence[str]:
        return (*super()._may_be_off, "result_limit", "recall_wait")

    @property
    def source(self) -> ArchiveNode:
        """The archive that gives the images of what is found here: this one, or that of `fetch_from`.

        Raises:
            ConfigError: the latter was not looked up.
        """
        if self.giver is None and self.fetch_from:
            raise ConfigError(f"{self.name}: fetch_from applies to an archive that is searched, and not here")
        assert isinstance(self, PacsNode | WebNode)
        return self.giver or self

    @property
    def largest_cohort(self) -> int:
        """Maximum number of series without an approval; the settings apply where the node has no limit.

        Raises:
            ConfigError: the setting is wrong.
        """
        return self.max_series or settings.max_series()


@dataclass(frozen=True)
class PacsNode(Archive):
    """A PACS that speaks DIMSE. Times in seconds.

    Attributes:
        host, port, called_aet: address of the PACS and its AE title (PS3.8).
        calling_aet: our AE title, and the destination of C-MOVE to ourselves unless receiver_aet is set.
        receiver_aet, receiver_port: AE title and port of our storage receiver, as declared on the PACS.
        move_aet: AE title of a third node to which images are sent (`--move`).
        method: auto, get or move.
        acse_timeout, dimse_timeout: for the association negotiation; silence during a service.
        tls: DICOM over TLS to the PACS (PS3.15 B).
        receiver_tls: the PACS sends to our receiver over TLS.
        tls_check_host, tls_password: see `Tls`.
    """

    host: str
    port: int
    called_aet: str
    calling_aet: str = "PACSIFIER"
    receiver_aet: str = ""
    receiver_port: int = 0
    move_aet: str = ""
    method: str = field(default="auto", kw_only=True)
    acse_timeout: float = field(default=30.0, kw_only=True)
    dimse_timeout: float = field(default=120.0, kw_only=True)
    tls: bool = field(default=False, kw_only=True)
    receiver_tls: bool = field(default=False, kw_only=True)
    tls_check_host: bool = field(default=True, kw_only=True)
    tls_password: str = field(default="", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not self.host or not self.host.isprintable() or any(c.isspace() for c in self.host):
            raise ConfigError(f"{self.name}: the host is empty or holds blanks; give a host name or an IP address")
        try:
            object.__setattr__(self, "host", plain_host(self.host))
        except ValueError:
            raise ConfigError(
                f"{self.name}: the host has a colon and is no IPv6 address; give a host name or an IP address, and the "
                "port in its own field"
            ) from None
        for label in ("called_aet", "calling_aet"):
            check_ae_title(getattr(self, label), f"{self.name}: {label}")
        for label in ("receiver_aet", "move_aet"):
            if getattr(self, label):
                check_ae_title(getattr(self, label), f"{self.name}: {label}")
        for label, value, low in (("port", self.port, 1), ("receiver_port", self.receiver_port, 0)):
            if not low <= value <= 65535:
                raise ConfigError(f"{self.name}: {label} is not a port; give a number from {low} to 65535")
        if self.method not in METHODS:
            raise ConfigError(f"{self.name}: method is none of {', '.join(METHODS)}")
        if self.receiver_tls and not self.tls_certificate:
            raise ConfigError(f"{self.name}: receiver_tls needs tls_certificate, the certificate of our receiver")
        super().__post_init__()

    @property
    def _timeouts(self) -> Sequence[str]:
        return ("connect_timeout", "acse_timeout", "dimse_timeout")

    @property
    def key(self) -> str:
        """Key of the limit on associations: host, port and called AE title."""
        return f"{self.host}:{self.port}:{self.called_aet}"

    @property
    def address(self) -> str:
        """Host and port in the usual notation."""
        return address_of(self.host, self.port)

    @property
    def tls_files(self) -> Tls:
        """TLS settings of this node."""
        return Tls(self.tls_ca, self.tls_certificate, self.tls_key, self.tls_password, self.tls_check_host)

    @property
    def destination(self) -> str:
        """AE title of the C-MOVE destination where the images are for us."""
        return self.receiver_aet or self.calling_aet


@dataclass(frozen=True)
class WebNode(Archive):
    """An archive that speaks DICOMweb (PS3.18). Times in seconds.

    Attributes:
        url: address of its services, without /studies.
        login, password: of HTTP Basic; without a login, the password is a bearer token; with token_url, both are those
            of an OAuth 2 client.
        token_url, scope: where an OAuth 2 client gets its token (RFC 6749 4.4), and for what; empty: no OAuth 2.
        answer_timeout: silence of the archive.
        plain_credentials: credentials may go over http, without encryption; always so on this machine.
    """

    #: There is one way to fetch, and nothing is sent to us or to others.
    method: ClassVar[str] = "get"
    receiver_port: ClassVar[int] = 0
    receiver_tls: ClassVar[bool] = False
    destination: ClassVar[str] = ""
    move_aet: ClassVar[str] = ""

    url: str
    login: str = ""
    password: str = field(default="", repr=False)
    token_url: str = field(default="", kw_only=True)
    scope: str = field(default="", kw_only=True)
    answer_timeout: float = field(default=120.0, kw_only=True)
    plain_credentials: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        for label in ("url", "token_url"):
            if getattr(self, label) or label == "url":
                object.__setattr__(self, label, self._checked(label))
        if self.token_url and not (self.login and self.password):
            raise ConfigError(f"{self.name}: token_url needs the login and the password of the OAuth 2 client")
        if self.login and not self.password:
            raise ConfigError(f"{self.name}: the login has no password")
        if not self.login and not all("!" <= c <= "~" for c in self.password):
            raise ConfigError(
                f"{self.name}: the password is no token, which has neither blanks nor letters beyond ASCII"
            )
        if bool(self.tls_key) and not self.tls_certificate:
            raise ConfigError(f"{self.name}: tls_key needs tls_certificate")
        super().__post_init__()

    def _checked(self, label: str) -> str:
        """Return an address in its usual form.

        Raises:
            ConfigError: it is none, holds credentials, or credentials would go to it unencrypted.
        """
        given = getattr(self, label).strip().rstrip("/")
        try:
            parts = urlsplit(given)
            host = parts.hostname or ""
            parts.port  # noqa: B018 - raises where it is none
        except ValueError:
            parts, host = urlsplit(""), ""
        is_one_word = given.isprintable() and not any(c.isspace() for c in given)
        if parts.scheme not in ("http", "https") or not (host and is_one_word) or parts.query or parts.fragment:
            raise ConfigError(f"{self.name}: {label} is not an address such as https://pacs.example/dicom-web")
        if parts.username is not None or parts.password is not None:
            raise ConfigError(f"{self.name}: {label} holds a login; give it in the fields login and password")
        if parts.scheme == "http" and self.password and not (self.plain_credentials or _is_here(host)):
            raise ConfigError(
                f"{self.name}: {label} is not encrypted, and there is a password; use https, or set plain_credentials"
            )
        return parts._replace(scheme=parts.scheme.lower(), netloc=parts.netloc.lower()).geturl()

    @property
    def _timeouts(self) -> Sequence[str]:
        return ("connect_timeout", "answer_timeout")

    @property
    def key(self) -> str:
        """Key of the limit on requests: the address."""
        return self.url

    @property
    def tls_files(self) -> Tls:
        """TLS settings of this node."""
        return Tls(self.tls_ca, self.tls_certificate, self.tls_key)


#: What we search and fetch from.
ArchiveNode = PacsNode | WebNode
AnyArchive = TypeVar("AnyArchive", bound=Archive)


def with_giver(node: AnyArchive, look_up: Callable[[str], ArchiveNode]) -> AnyArchive:
    """Return an archive with the one that its `fetch_from` names, if it names one.

    Args:
        node: the archive.
        look_up: returns an archive by its name, without that of its own `fetch_from`.

    Raises:
        ConfigError: there is no such archive, it is this one, or its images come from a third one.
    """
    if not node.fetch_from:
        return node
    try:
        giver = look_up(node.fetch_from)
    except ConfigError as error:
        raise ConfigError(f"{node.name}: fetch_from: {error}") from None
    if giver.name == node.name:
        raise ConfigError(
            f"{node.name}: fetch_from names itself, or another of this name; leave it empty, or rename one"
        )
    if giver.fetch_from:
        raise ConfigError(
            f"{node.name}: fetch_from names {giver.name}, which has a fetch_from itself; name the archive that gives "
            "the images"
        )
    return replace(node, giver=giver)


def with_givers(archives: Iterable[ArchiveNode]) -> list[ArchiveNode]:
    """Return archives and those that give their images, each once, in order.

    Raises:
        ConfigError: two of them have one name; rights, limits and reports go by it.
    """
    nodes: dict[str, ArchiveNode] = {}
    for node in (node for archive in archives for node in (archive, archive.source)):
        if nodes.setdefault(node.name, node) != node:
            raise ConfigError(f"two different archives are called {node.name}; rename the configuration of one")
    return list(nodes.values())


def givers_of(nodes: Iterable[Node]) -> dict[str, str]:
    """Return the names of the archives that give the images of others, by the names of these."""
    return {node.name: node.giver.name for node in nodes if isinstance(node, Archive) and node.giver is not None}


def _is_here(host: str) -> bool:
    """Return whether a host is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def node_names(given: str | Iterable[str]) -> list[str]:
    """Return names of nodes in order, from a list, or from text separated by commas.

    Raises:
        ConfigError: there is none, or one occurs twice.
    """
    parts = given.split(",") if isinstance(given, str) else given
    names = [name for part in parts if (name := str(part).strip())]
    if not names:
        raise ConfigError("pacs is empty; give the id of a connection, or several in the order in which they are asked")
    if again := next((name for name in names if names.count(name) > 1), ""):
        raise ConfigError(f"pacs names {again} twice; remove one")
    return names


def plain_host(text: str) -> str:
    """Return a host in the form of sockets: an IPv6 address without brackets, in its canonical form (RFC 5952).

    Raises:
        ValueError: it has a colon and is no IPv6 address.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return ipaddress.IPv6Address(bare).compressed if ":" in bare or bare != text else text


def address_of(host: str, port: int) -> str:
    """Return host and port in the usual notation: `pacs:104`, `[::1]:104`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_ae_title(value: str, what: str) -> None:
    """Refuse a text that is no AE title (PS3.5 6.2: at most 16 characters, not only blanks, no backslash or control).

    Raises:
        ConfigError: names `what`.
    """
    good = 1 <= len(value) <= 16 and value.strip() and value.isascii() and value.isprintable() and "\\" not in value
    if not good:
        raise ConfigError(f"{what} is not an AE title; give 1 to 16 ASCII characters, no backslash, not only blanks")


#: Maximum time of any wait in seconds (a week), and maximum of any other number.
_LONGEST, _MOST = 7 * 24 * 3600.0, 10**12


def check_sizes(of: Any, where: str) -> None:
    """Refuse excessive numbers: a wait of 1e308 seconds never ends, or fails at an unexpected place.

    Raises:
        ConfigError: names the field.
    """
    for field_ in fields(of):
        value = getattr(of, field_.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if field_.name.endswith(("_timeout", "_wait", "_wait_time")) and value > _LONGEST:
            raise ConfigError(f"{where}: {field_.name} is longer than a week; it is in seconds")
        if value > _MOST:
            raise ConfigError(f"{where}: {field_.name} is too large; give at most {_MOST:,}")


def _number(config: Mapping[str, Any], key: str, where: str, kind: type[int] | type[float]) -> Any:
    raw = config[key]
    text = str(raw).strip() if isinstance(raw, str | int | float) and not isinstance(raw, bool) else ""
    try:
        if not text.isascii() or "_" in text or len(text) > 400:
            raise ValueError
        number = float(text)
        if kind is float:
            return number
        return int(text) if "." not in text and "e" not in text.lower() else _whole(number)
    except (ValueError, OverflowError):
        raise ConfigError(f"{where}: {key} is not a number") from None


def _whole(number: float) -> int:
    """Return an integer that was written as 5.0."""
    if number != int(number):
        raise ValueError
    return int(number)


def plain_text(raw: Any, key: str, where: str) -> str:
    """Return a value that must be text.

    Raises:
        ConfigError: it is no text; names `where` and the key.
    """
    if isinstance(raw, str):
        return raw.strip()
    raise ConfigError(f"{where}: {key} is not text; put it in quotes")


def _truth(value: Any, key: str, where: str) -> bool:
    try:
        return _TRUTH[str(value).strip().lower()]
    except KeyError:
        raise ConfigError(f"{where}: {key} is neither true nor false") from None


def read_keys(
    path: Path, keys: Sequence[str], optional: Sequence[str] = (), elsewhere: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Read a JSON object that has these keys, and no others apart from the optional ones.

    Args:
        path: of the file.
        keys: that must be there.
        optional: that may be there.
        elsewhere: that a connection of Airflow has, and the file has not; what to do about them.

    Raises:
        ConfigError: the file is missing, is no JSON object, or a key is missing or unknown; all wrong keys are named at
            once.
    """
    where = path.name
    try:
        config = json_of(read_given(path))
    except Unusable as error:
        raise ConfigError(f"{where}: {error}; check the configuration") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{where}: is not a JSON object with the keys {', '.join(keys)}")
    wrong = [f"{key} is missing" for key in keys if config.get(key) is None]
    for key in sorted(config.keys() - {*keys, *optional}):
        if told := elsewhere.get(key):
            wrong.append(f"{key} {told}")
        else:
            wrong.append(f"{key} is not known{meant(key, (*keys, *optional))}")
    if wrong:
        raise ConfigError(f"{where}: " + "; ".join(wrong))
    return config


def read_archive(path: Path, checked: Callable[[Path], Path] = lambda path: path) -> ArchiveNode:
    """Read the configuration of an archive, and that of `fetch_from`, a path from the folder of the first.

    Args:
        path: the configuration.
        checked: returns the path of the second one as it is read, or refuses it.

    Raises:
        ConfigError: see `read_one` and `with_giver`.
    """
    return with_giver(read_one(path), lambda other: read_one(checked(path.parent / other)))


def read_one(path: Path) -> ArchiveNode:
    """Read the configuration of an archive alone: a PACSIFIER config.json, or one with the `url` of a web archive.

    The latter has further fields of `WebNode`, such as login and password.

    Raises:
        ConfigError: see `read_keys`; or a key is wrong.
    """
    try:
        found = json_of(read_given(path))
    except Unusable as error:
        raise ConfigError(f"{path.name}: {error}; check the configuration") from None
    if isinstance(found, dict) and "conn_type" in found:
        raise ConfigError(
            f"{path.name}: is the JSON of a connection (it has a conn_type), which only --upload takes; give a "
            "config.json, or a configuration with the url of a web archive"
        )
    if not isinstance(found, dict) or "url" not in found:
        return read_config(path)
    config = read_keys(path, ("url",), ("login", "password", *WEB_FIELDS))
    values = extra_values(path.name, config, WebNode, ("url", "login", "password", *WEB_FIELDS))
    return WebNode(path.stem, **{"url": "", **values})


def read_config(path: Path) -> PacsNode:
    """Read a PACSIFIER config.json.

    Raises:
        ConfigError: see `read_keys`; or a key is wrong.
    """
    where, config = path.name, read_keys(path, CONFIG_KEYS, MORE_KEYS, _ELSEWHERE)
    more: dict[str, Any] = {}
    if config.get("result_limit") is not None:
        more["result_limit"] = _number(config, "result_limit", where, int)
    for key in ("letters", "fetch_from"):
        if config.get(key) is not None:
            more[key] = plain_text(config[key], key, where)
    return PacsNode(
        name=path.stem,
        host=plain_text(config["server_address"], "server_address", where),
        port=_number(config, "port", where, int),
        called_aet=plain_text(config["server_AET"], "server_AET", where),
        calling_aet=plain_text(config["AET"], "AET", where),
        receiver_port=_number(config, "move_port", where, int),
        move_aet=plain_text(config["move_AET"], "move_AET", where),
        batch_size=_number(config, "batch_size", where, int),
        batch_wait_time=_number(config, "batch_wait_time", where, float),
        **{key: _number(config, key, where, float) for key in TIMES if config.get(key) is not None},
        **more,
    )


#: Fields of an Airflow connection's extra: those of the node without a field of the connection itself.
EXTRA_FIELDS = tuple(
    f.name for f in fields(PacsNode) if f.name not in ("name", "giver", "host", "port", "tls_password")
)
WEB_FIELDS = tuple(f.name for f in fields(WebNode) if f.name not in ("name", "giver", "url", "login", "password"))
AnyWeb = TypeVar("AnyWeb", bound=WebNode)

#: The same fields in a config.json: their names there, or that they are flags.
_ELSEWHERE = {
    **dict.fromkeys(
        EXTRA_FIELDS, "is for connections in Airflow; take it out, and see --help whether there is a flag for it"
    ),
    "called_aet": "is called server_AET here",
    "calling_aet": "is called AET here",
    "receiver_port": "is called move_port here",
    "move_aet": "is called move_AET here",
}
_TRUTH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def extra_values(where: str, extra: Mapping[str, Any], of: type, names: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a connection's extra, by name, without empty ones.

    Args:
        where: name of the place in errors.
        extra: the connection's extra.
        of: data class of the fields; values get the types of its defaults.
        names: allowed fields.

    Raises:
        ConfigError: names the field that is unknown or of the wrong type.
    """
    if not isinstance(extra, Mapping):
        raise ConfigError(f"{where}: extra is not a JSON object of fields")
    unknown = sorted(set(extra) - set(names))
    if unknown:
        named = ", ".join(f"{key}{meant(key, names)}" for key in unknown)
        more = "" if all(meant(key, names) for key in unknown) else f"; there are {', '.join(names)}"
        raise ConfigError(f"{where}: unknown field in extra: {named}{more}")
    defaults = {f.name: "" if f.default is MISSING else f.default for f in fields(of)}
    values: dict[str, Any] = {}
    for key in names:
        raw = extra.get(key)
        if raw is None or raw == "":
            continue
        default = defaults[key]
        if isinstance(default, bool):
            values[key] = _truth(raw, key, where)
        elif isinstance(default, (int, float)):
            values[key] = _number(extra, key, where, type(default))
        else:
            values[key] = plain_text(raw, key, where)
    return values


def node_from_connection(
    name: str, host: str | None, port: int | None, extra: Mapping[str, Any], password: str | None = None
) -> PacsNode:
    """Make the node of an Airflow connection of type `dicom`; empty fields get their defaults.

    Args:
        name: id of the connection.
        host, port, extra: fields of the connection.
        password: passphrase of the TLS key.

    Raises:
        ConfigError: names the connection, the field and the problem.
    """
    values = extra_values(f"connection {name}", extra, PacsNode, EXTRA_FIELDS)
    if not values.get("called_aet"):
        raise ConfigError(f"connection {name}: called_aet, the AE title of the PACS, is missing")
    return PacsNode(name=name, host=(host or "").strip(), port=port or 104, tls_password=password or "", **values)


def web_from_connection(
    name: str,
    host: str | None,
    port: int | None,
    extra: Mapping[str, Any],
    login: str | None = None,
    password: str | None = None,
    of: type[AnyWeb] = WebNode,  # type: ignore[assignment]
) -> AnyWeb:
    """Make the node of an Airflow connection of type `dicomweb`; empty fields get their defaults.

    Args:
        name: id of the connection.
        of: class of the node.
        host: the address, with scheme and path.
        port: replaces the port of the address, if given.
        extra, login, password: fields of the connection.

    Raises:
        ConfigError: names the connection, the field and the problem.
    """
    own = (f.name for f in fields(of) if f.name not in {f.name for f in fields(WebNode)})
    values = extra_values(f"connection {name}", extra, of, (*WEB_FIELDS, *own))
    url = (host or "").strip()
    if port and "://" in url:
        scheme, _, rest = url.partition("://")
        place, slash, path = rest.partition("/")
        url = f"{scheme}://{place}:{port}{slash}{path}"
    return of(name, url, login or "", password or "", **values)


def with_overrides(node: AnyArchive, **overrides: Any) -> AnyArchive:
    """Return the node with some fields replaced for one run; None leaves a field unchanged.

    Raises:
        ConfigError: the node has no such field.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    if unknown := sorted(given.keys() - {f.name for f in fields(node)}):
        raise ConfigError(f"{node.name}: {', '.join(unknown)} does not apply to an archive that speaks DICOMweb")
    return replace(node, **given)
