"""Client of a hospital's De-ID service, which assigns pseudonyms and date shifts.

`POST <url>` requests pseudonyms and `POST <url>_shift` requests date shifts, both with the header `Authorization: token
<token>` and `{"project": NAME, "PatientIDList": [{"PatientID": ID}, …]}`. The responses are `{ID: pseudonym, …}` and
`{ID: days, …}`; IDs may be `sub-<ID>`, and numbers may be text.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pacsifier_ops.base.config import check_sizes, extra_values, plain_text, read_keys
from pacsifier_ops.base.errors import ConfigError, DeidError, DeidUnavailable, PatientsRefused
from pacsifier_ops.base.waiting import BACK_OFF, pause
from pacsifier_ops.pseudonyms.linkage import Person, own_names, taken_twice
from pacsifier_ops.query.pseudonym import check_pseudonym, check_shift
from pacsifier_ops.runs.folder import never

if TYPE_CHECKING:
    from pacsifier_ops.pseudonyms.https import Caller, HttpAnswer

T = TypeVar("T")

#: Keys of PACSIFIER's configuration of the service, both required, no others allowed.
CONFIG_KEYS = ("deid_URL", "deid_token")
#: Maximum wait in seconds that the service may request.
LONGEST_WAIT = 120.0

_EXAMPLE = "such as https://deid.hospital.example/api/pseudonyms"


@dataclass(frozen=True)
class DeidConfig:
    """PACSIFIER's configuration of the service."""

    url: str
    token: str = field(repr=False)


@dataclass(frozen=True)
class DeidService:
    """The service, and how we communicate with it. Times in seconds.

    Attributes:
        url: URL of the pseudonyms; https.
        token: token of our requests.
        ca: PEM file of the authorities of its certificate; empty: those of the system.
        connect_timeout, read_timeout: for a connection; from the request to the last byte of the response.
        batch_size: number of patients per request.
        retry_wait: time before a call is repeated after an error that may be temporary; doubles each time.
        name: name for people: the connection id.
    """

    url: str
    token: str = field(repr=False)
    ca: str = ""
    connect_timeout: float = 10.0
    read_timeout: float = 120.0
    batch_size: int = 500
    retry_wait: float = 1.0
    name: str = "the De-ID service"

    def __post_init__(self) -> None:
        check_url(self.url, f"{self.name}: url")
        check_token(self.token, f"{self.name}: token")
        for label in ("connect_timeout", "read_timeout"):
            if not 0 < getattr(self, label) < math.inf:
                raise ConfigError(f"{self.name}: {label} is not a number of seconds above 0")
        if self.batch_size < 1:
            raise ConfigError(f"{self.name}: batch_size is below 1")
        if not 0 <= self.retry_wait < math.inf:
            raise ConfigError(f"{self.name}: retry_wait is negative or no number")
        check_sizes(self, self.name)

    def ask(self, project: str, patient_ids: Sequence[str], cancelled: Callable[[], bool] = never) -> dict[str, Person]:
        """Return the new identities of all these patients, by PatientID.

        Other patients in the response are ignored, with a warning that counts them.

        Args:
            project: name of the project.
            patient_ids: PatientIDs, each once.
            cancelled: called before every request and while waiting for the next.

        Raises:
            PatientsRefused: values for some patients are invalid.
            DeidUnavailable: it did not respond, even at the last attempt.
            DeidError: it refuses, or its response is invalid.
            ConfigError: the file `ca` cannot be used.
            Cancelled: a stop was requested.
        """
        pseudonyms: dict[str, list[Any]] = {}
        shifts: dict[str, list[Any]] = {}
        with self._caller() as caller:
            for start in range(0, len(patient_ids), self.batch_size):
                content = _request(project, patient_ids[start : start + self.batch_size])
                for url, received in ((self.url, pseudonyms), (self._shift_url, shifts)):
                    for key, value in self._repeated(caller, url, content, cancelled):
                        received.setdefault(key, []).append(value)
        names = _values_by_patient(pseudonyms, patient_ids, _pseudonym, "pseudonym")
        days = _values_by_patient(shifts, patient_ids, check_shift, "day shift")
        people = {patient: Person(names[patient], days[patient]) for patient in patient_ids}
        if twice := taken_twice(names):
            raise PatientsRefused(
                "the De-ID service gives one pseudonym to several patients",
                [place for place, patient in enumerate(patient_ids) if patient in twice],
            )
        if own := own_names(people):
            raise PatientsRefused("the De-ID service gives as a pseudonym what is the PatientID of a patient", own)
        asked = set(patient_ids)
        known = {key for patient in patient_ids for key in _keys(patient, asked)}
        if others := len((pseudonyms.keys() | shifts.keys()) - known):
            warnings.warn(f"{self.name}: answered for {others} that nobody asked about; ignored", stacklevel=2)
        return people

    def check(self) -> str:
        """Send one request without patients.

        Returns:
            A sentence with the service and the result.

        Raises:
            DeidError: the text gives the reason.
            ConfigError: the file `ca` cannot be used.
        """
        remark = "accepts the token, and gives pseudonyms and day shifts"
        with self._caller() as caller:
            for url in (self.url, self._shift_url):
                answer = caller.post(url, f"token {self.token}", _request("", []))
                if answer.status in (400, 422):
                    remark = (
                        f"refuses to be asked for nobody (HTTP {answer.status}), as some do; whether it accepts the "
                        "token shows in the first run"
                    )
                else:
                    self._understood(answer)
        address = urlsplit(self.url)
        return f"The De-ID service at {address.hostname} port {address.port or 443} answers over TLS, {remark}."

    @property
    def _shift_url(self) -> str:
        return f"{self.url}_shift"

    def _caller(self) -> Caller:
        from pacsifier_ops.pseudonyms.https import Caller

        return Caller(self.name, self.ca, self.connect_timeout, self.read_timeout)

    def _repeated(
        self, caller: Caller, url: str, content: Any, cancelled: Callable[[], bool]
    ) -> Iterable[tuple[str, Any]]:
        """Call the service; repeat it after each wait while the error is one that may be temporary."""
        pause(0, cancelled)
        for factor in BACK_OFF:
            try:
                return self._understood(caller.post(url, f"token {self.token}", content))
            except DeidUnavailable as error:
                if error.retry_after > LONGEST_WAIT:
                    raise
                wait = max(error.retry_after, factor * self.retry_wait)
            pause(wait, cancelled)
        return self._understood(caller.post(url, f"token {self.token}", content))

    def _understood(self, answer: HttpAnswer) -> Iterable[tuple[str, Any]]:
        """Return the keys and values of a response, repeated keys included.

        Raises:
            DeidError: it is a refusal, or no JSON object.
        """
        if not 200 <= answer.status < 300:
            raise self._refusal(answer)
        if "html" in answer.headers.get("Content-Type", "").lower() or answer.body.lstrip()[:1] == b"<":
            raise DeidError(
                f"{self.name}: a web page came in place of JSON, of a proxy or a login, most likely; check the URL, "
                "HTTPS_PROXY and NO_PROXY"
            )
        try:
            pairs = json.loads(answer.body, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):
            pairs = None
        if not isinstance(pairs, _Pairs):
            raise DeidError(f"{self.name}: the answer is no JSON object of PatientIDs and values; check the URL")
        return pairs

    def _refusal(self, answer: HttpAnswer) -> DeidError:
        status = answer.status
        text = f"{self.name}: HTTP {status}: "
        if status == 429 or status >= 500:
            after = _retry_after(answer.headers)
            text += "it has too much to do" if status == 429 else "it cannot answer for now"
            if after > LONGEST_WAIT:
                text += f", and asks to be left alone for {math.ceil(after)} s"
            return DeidUnavailable(f"{text}; run it again later", after)
        if 300 <= status < 400:
            why = "it leads elsewhere, where the token is not sent; give the URL at which it answers itself"
        else:
            why = {
                401: "it does not accept the token; give one that is valid",
                403: "the token is not allowed to do this; have it allowed for the project",
                404: "there is nothing at this URL; check its path",
                405: "this URL takes no requests of this kind; check its path",
                413: "too many patients at once for it; make batch_size smaller",
            }.get(status, "it refuses the request; check the name of the project, and the URL")
        return DeidError(text + why)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it is written, with repeated keys."""


def _request(project: str, patient_ids: Sequence[str]) -> dict[str, Any]:
    return {"project": project, "PatientIDList": [{"PatientID": patient} for patient in patient_ids]}


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the wait in seconds that a response requests (RFC 9110, 10.2.3): a number, or the date of its end."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", text, re.ASCII):
        return float(text)
    now = _date(headers.get("Date", "")) or dt.datetime.now(dt.UTC)
    return max(0.0, ((_date(text) or now) - now).total_seconds())


def _date(text: str) -> dt.datetime | None:
    with suppress(ValueError, OverflowError):
        return parsedate_to_datetime(text).astimezone(dt.UTC)
    return None


def _keys(patient: str, asked: set[str]) -> list[str]:
    """Return the keys by which a response may name a patient, without those that are another patient's PatientID."""
    return [patient, *({f"sub-{patient}"} - asked)]


def _values_by_patient(
    received: Mapping[str, list[Any]], patient_ids: Sequence[str], check: Callable[[Any], T], what: str
) -> dict[str, T]:
    """Return the values of a response by PatientID.

    Raises:
        PatientsRefused: values are missing or invalid.
    """
    asked, values = set(patient_ids), {}
    wrong: dict[str, list[int]] = {}
    for place, patient in enumerate(patient_ids):
        given = [value for key in _keys(patient, asked) for value in received.get(key, ()) if value is not None]
        try:
            found = {check(value) for value in given}
        except ValueError as error:
            wrong.setdefault(f"the {what} that the De-ID service gives is {error}", []).append(place)
            continue
        if len(found) == 1:
            values[patient] = found.pop()
        else:
            number = "several different" if found else "no"
            wrong.setdefault(f"the De-ID service gives {number} {what}s", []).append(place)
    for reason, places in wrong.items():
        raise PatientsRefused(reason, places)
    return values


def _pseudonym(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("neither text nor a whole number")
    return check_pseudonym(value)


def check_url(text: str, what: str) -> str:
    """Refuse a text that is not the URL of a De-ID service. Return it.

    Raises:
        ConfigError: gives the problem of `what`, without the URL.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme == "http":
        raise ConfigError(f"{what}: http would send token and patients for everybody to read; give one with https")
    if parts.scheme != "https" or not parts.hostname or port == 0 or re.search(r"[\s\\]", text):
        raise ConfigError(f"{what}: is not a URL; give one {_EXAMPLE}")
    if "@" in parts.netloc:
        raise ConfigError(f"{what}: holds a user or a password; the token alone says who we are")
    if re.search(r"[?#]", text):
        raise ConfigError(f"{what}: has more than a path (? or #); give one {_EXAMPLE}")
    return text


def check_token(text: str, what: str) -> str:
    """Refuse a text that cannot be a token in a header. Return it.

    Raises:
        ConfigError: gives the problem of `what`, without the token.
    """
    if not text:
        raise ConfigError(f"{what}: is empty; give the token of the De-ID service")
    if not re.fullmatch(r"[!-~]+", text):
        raise ConfigError(f"{what}: holds blanks or letters beyond ASCII; give the token alone, without a word before")
    return text


def read_deid_config(path: Path) -> DeidConfig:
    """Read PACSIFIER's configuration of the De-ID service.

    Raises:
        ConfigError: the file is missing or no JSON object, or a key is missing, unknown or wrong.
    """
    config = {key: plain_text(value, key, path.name) for key, value in read_keys(path, CONFIG_KEYS).items()}
    url, token = CONFIG_KEYS
    return DeidConfig(
        check_url(config[url], f"{path.name}: {url}"), check_token(config[token], f"{path.name}: {token}")
    )


#: Fields of an Airflow connection's extra: those of DeidService without a field of the connection.
EXTRA_FIELDS = tuple(f.name for f in fields(DeidService) if f.name not in ("url", "token", "name"))


def service_from_connection(
    name: str,
    host: str | None,
    schema: str | None,
    port: int | None,
    extra: Mapping[str, Any],
    password: str | None,
) -> DeidService:
    """Make the service of an Airflow connection of type `deid_api`; empty fields get their defaults.

    Args:
        name: id of the connection.
        host: the URL, or its part after `https://`.
        schema: https, if given.
        port: port of the URL, unless the URL has one.
        extra: the connection's extra.
        password: the token.

    Raises:
        ConfigError: names the connection, the field and the problem.
    """
    where = f"connection {name}"
    values = extra_values(where, extra, DeidService, EXTRA_FIELDS)
    url = (host or "").strip()
    if not url:
        raise ConfigError(f"{where}: host is empty; give the URL of the De-ID service, {_EXAMPLE}")
    if "://" not in url:
        url = f"{(schema or 'https').strip().lower()}://{url}"
    parts = urlsplit(check_url(url, f"{where}: host"))
    if port and parts.port not in (None, port):
        raise ConfigError(f"{where}: port is not that of the URL; leave one of them out")
    if port and parts.port is None:
        url = parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{port}").geturl()
    token = check_token((password or "").strip(), f"{where}: password")
    return DeidService(url, token, name=name, **values)
