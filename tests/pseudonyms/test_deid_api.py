"""The De-ID service: every fault, over real TLS, through the client and through Airflow's hook."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.errors import (
    Cancelled,
    ConfigError,
    DeidError,
    DeidUnavailable,
    PacsifierError,
    PatientsRefused,
)
from pacsifier_ops.embedded.deid_server import WEB_PAGE, Call, DeidServer, ServiceFaults, pseudonym, shift
from pacsifier_ops.plugins.provider import get_provider_info
from pacsifier_ops.pseudonyms import deid_api
from pacsifier_ops.pseudonyms.deid_api import EXTRA_FIELDS, DeidService, read_deid_config, service_from_connection
from pacsifier_ops.pseudonyms.linkage import Person
from tests.support import airflow_home
from tests.support.airflow_home import Airflow
from tests.support.certificates import Certificates, make
from tests.support.peers import free_port
from tests.support.places import REPO
from tests.support.processes import started

TOKEN = "s3cret-t0ken-of-the-hospital"
PATH = "/gpcr-qwzx/pseudonyms"
#: Nobody's name occurs anywhere else, so that finding one in a message means that it leaked.
PATIENTS = ["ZQX-71830", "YVJ 55912", "Wurzelbächer", "0042", "5512"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def serving(certificates: Certificates) -> Iterator[DeidServer]:
    with DeidServer(certificates.server.context(ssl.Purpose.CLIENT_AUTH), TOKEN, path=PATH) as running:
        yield running


@pytest.fixture
def server(serving: DeidServer) -> DeidServer:
    """The service, without faults, nobody has called it yet."""
    serving.faults = ServiceFaults()
    serving.calls.clear()
    return serving


@pytest.fixture
def service(server: DeidServer, certificates: Certificates) -> Callable[..., DeidService]:
    """Makes clients of the service."""

    def make_one(**changes: Any) -> DeidService:
        given: dict[str, Any] = {"url": server.url, "token": TOKEN, "ca": str(certificates.ca), "retry_wait": 0.001}
        return DeidService(**given | changes)

    return make_one


def refused(service: DeidService, patients: list[str] | None = None) -> PacsifierError:
    """The error that asking ends with; nothing that it tells or carries is a secret."""
    with pytest.raises(PacsifierError) as raised:
        service.ask("study7", patients or PATIENTS)
    error, shown = raised.value, "".join(traceback.format_exception(raised.value))
    for secret in (*PATIENTS, TOKEN, PATH, pseudonym("study7", PATIENTS[0])):
        assert secret not in shown
    return error


# Asking


def test_every_patient_gets_a_pseudonym_and_a_shift(service: Callable[..., DeidService], server: DeidServer) -> None:
    people = service(batch_size=2).ask("study7", PATIENTS)
    assert people == {one: Person(pseudonym("study7", one), shift("study7", one)) for one in PATIENTS}
    assert list(people) == PATIENTS
    batches = [tuple(PATIENTS[start : start + 2]) for start in (0, 2, 4)]
    assert server.calls == [
        Call(path, f"token {TOKEN}", "study7", batch) for batch in batches for path in (PATH, f"{PATH}_shift")
    ]
    other = service().ask("study8", PATIENTS)
    assert not {one.pseudonym for one in people.values()} & {one.pseudonym for one in other.values()}
    assert service().ask("study7", []) == {} and len(server.calls) == 8


def test_keys_and_numbers_as_services_write_them(service: Callable[..., DeidService], server: DeidServer) -> None:
    server.faults = ServiceFaults(
        prefix="sub-",
        pseudonyms={"0042": 17, "5512": "00018"},
        shifts={"0042": "-12", "5512": " +3 ", "ZQX-71830": 0},
    )
    people = service().ask("study7", PATIENTS)
    assert people["0042"] == Person("17", -12) and people["5512"] == Person("00018", 3)
    assert people["ZQX-71830"].shift == 0
    # A key that is a PatientID is that patient's, and no other form of another's.
    server.faults = ServiceFaults(pseudonyms={"1": "A", "sub-1": "B"}, shifts={"1": 1, "sub-1": 2})
    assert service().ask("study7", ["1", "sub-1"]) == {"1": Person("A", 1), "sub-1": Person("B", 2)}
    server.faults = ServiceFaults(missing=frozenset({"1"}))
    assert refused(service(), ["1", "sub-1"]).patients == (0,)  # type: ignore[attr-defined]


def test_what_nobody_asked_about_is_counted_and_ignored(
    service: Callable[..., DeidService], server: DeidServer
) -> None:
    server.faults = ServiceFaults(pseudonyms={"stranger": "X", "other": "Y\\Z"}, shifts={"stranger": "soon"})
    with pytest.warns(UserWarning, match=r"^the De-ID service: answered for 2 that nobody asked about; ignored$"):
        assert list(service().ask("study7", PATIENTS)) == PATIENTS


@pytest.mark.parametrize(
    ("faults", "what", "patients"),
    [
        (ServiceFaults(missing=frozenset(PATIENTS[1:3])), "gives no pseudonyms", (1, 2)),
        (ServiceFaults(pseudonyms={PATIENTS[3]: None}), "gives no pseudonyms", (3,)),
        (ServiceFaults(shifts={PATIENTS[3]: None}), "gives no day shifts", (3,)),
        (
            ServiceFaults(pseudonyms={PATIENTS[4]: "DUP1", PATIENTS[0]: "dup1"}),
            "one pseudonym to several patients",
            (0, 4),
        ),
        (ServiceFaults(pseudonyms={PATIENTS[4]: "zqx-71830"}), "the PatientID of a patient", (4,)),
        (ServiceFaults(pseudonyms={PATIENTS[0]: "A\\B"}), "not fit to name a patient and a folder", (0,)),
        (ServiceFaults(pseudonyms={PATIENTS[0]: "A/B"}), "not fit to name a patient and a folder", (0,)),
        (ServiceFaults(pseudonyms={PATIENTS[0]: ".."}), "not fit to name a patient and a folder", (0,)),
        (ServiceFaults(pseudonyms={PATIENTS[0]: ""}), "not fit to name a patient and a folder", (0,)),
        (ServiceFaults(pseudonyms={PATIENTS[0]: "A" * 65}), "at most 64 ASCII characters", (0,)),
        (ServiceFaults(pseudonyms={PATIENTS[2]: "A\n"}), "control or invisible character", (2,)),
        (ServiceFaults(pseudonyms={PATIENTS[2]: 1.0}), "neither text nor a whole number", (2,)),
        (ServiceFaults(pseudonyms={PATIENTS[2]: True}), "neither text nor a whole number", (2,)),
        (ServiceFaults(pseudonyms={PATIENTS[2]: {"id": "A"}}), "neither text nor a whole number", (2,)),
        (ServiceFaults(shifts={PATIENTS[1]: "soon"}), "no whole number of days", (1,)),
        (ServiceFaults(shifts={PATIENTS[1]: 1.5}), "no whole number of days", (1,)),
        (ServiceFaults(shifts={PATIENTS[1]: 999999}), "no whole number of days", (1,)),
    ],
)
def test_an_answer_that_cannot_be_used_names_the_patients_by_their_places(
    service: Callable[..., DeidService], server: DeidServer, faults: ServiceFaults, what: str, patients: tuple[int, ...]
) -> None:
    server.faults = faults
    error = refused(service(batch_size=2))
    assert isinstance(error, PatientsRefused) and what in str(error) and error.patients == patients
    assert str(error).endswith(f": patient {', '.join(str(place + 1) for place in patients)}")


def test_a_key_that_is_there_twice_must_say_the_same_twice(
    service: Callable[..., DeidService], server: DeidServer
) -> None:
    server.faults = ServiceFaults(body=b'{"7": "5", "sub-7": 5, "7": "5"}')
    assert service().ask("study7", ["7"]) == {"7": Person("5", 5)}
    server.faults = ServiceFaults(body=b'{"7": "5", "7": "6"}')
    error = refused(service(), ["7"])
    assert isinstance(error, PatientsRefused) and "several different pseudonyms: patient 1" in str(error)
    server.faults = ServiceFaults(body=b'{"7": "5", "sub-7": "6"}')
    assert "several different pseudonyms: patient 1" in str(refused(service(), ["7"]))


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (ServiceFaults(body=WEB_PAGE, content_type="text/html; charset=utf-8"), "a web page came in place of JSON"),
        (ServiceFaults(body=WEB_PAGE), "a web page came in place of JSON"),
        (ServiceFaults(body=b""), "no JSON object"),
        (ServiceFaults(body=b"[]"), "no JSON object"),
        (ServiceFaults(body=b'"ZQX-71830"'), "no JSON object"),
        (ServiceFaults(body=b"{'ZQX-71830': 'A'}"), "no JSON object"),
        (ServiceFaults(body=b'{"ZQX-71830": "A"'), "no JSON object"),
        (ServiceFaults(body=b"[" * 100_000), "no JSON object"),
        (ServiceFaults(body=b'{"\xff": 1}'), "no JSON object"),
        (ServiceFaults(status=401), "HTTP 401: it does not accept the token"),
        (ServiceFaults(status=403), "HTTP 403: the token is not allowed to do this"),
        (ServiceFaults(status=404), "HTTP 404: there is nothing at this URL"),
        (ServiceFaults(status=413), "HTTP 413: too many patients at once"),
        (ServiceFaults(status=422), "HTTP 422: it refuses the request"),
        (ServiceFaults(status=301, headers={"Location": "https://elsewhere.example/"}), "HTTP 301: it leads elsewhere"),
        (ServiceFaults(status=307, headers={"Location": "https://[oops"}), "HTTP 307: it leads elsewhere"),
    ],
)
def test_what_no_second_attempt_would_change_is_said_at_once(
    service: Callable[..., DeidService], server: DeidServer, faults: ServiceFaults, words: str
) -> None:
    server.faults = faults
    error = refused(service())
    assert isinstance(error, DeidError) and not error.retryable and words in str(error)
    assert str(error).startswith("the De-ID service: ") and len(server.calls) == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 429}, "HTTP 429: it has too much to do; run it again later"),
        ({"status": 500}, "HTTP 500: it cannot answer for now; run it again later"),
        ({"status": 503, "body": WEB_PAGE}, "HTTP 503: it cannot answer for now; run it again later"),
        ({"cut": "before"}, "it hung up before its answer was whole"),
        ({"cut": "within"}, "it hung up before its answer was whole"),
        ({"delay": 30.0}, "no whole answer within 0.2 s"),
        ({"drip": 0.05}, "no whole answer within 0.2 s"),
    ],
)
def test_what_may_pass_by_itself_is_tried_again(
    service: Callable[..., DeidService], server: DeidServer, fault: dict[str, Any], words: str
) -> None:
    server.faults = ServiceFaults(**fault, times=2)
    assert list(service(read_timeout=0.2).ask("study7", PATIENTS)) == PATIENTS
    assert [call.path for call in server.calls] == [PATH, PATH, PATH, f"{PATH}_shift"]
    server.calls.clear()
    server.faults = ServiceFaults(**fault)
    error = refused(service(read_timeout=0.2))
    assert isinstance(error, DeidUnavailable) and error.retryable and words in str(error)
    assert len(server.calls) == 6


def test_the_service_says_how_long_it_is_to_be_left_alone(
    service: Callable[..., DeidService], server: DeidServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(deid_api, "pause", lambda seconds, cancelled: waited.append(seconds))

    def waits(after: str, **headers: str) -> list[float]:
        waited.clear()
        server.faults = ServiceFaults(times=1, status=429, headers={"Retry-After": after, **headers})
        service().ask("study7", PATIENTS[:1])
        return [seconds for seconds in waited if seconds]

    assert waits("7") == [7] and waits("0") == waits("soon") == waits("-1") == [0.001]
    # By the clock of the service, which its answer tells.
    date = datetime.now(UTC).replace(microsecond=0)
    assert 55 <= waits(format_datetime(date + timedelta(seconds=60), usegmt=True))[0] <= 65
    assert waits(format_datetime(date - timedelta(days=1), usegmt=True)) == [0.001]
    assert waits("Fri, 31 Dec 9999 23:59:59 -2300") == [0.001]
    server.calls.clear()
    with pytest.raises(DeidUnavailable, match="asks to be left alone for 3600 s; run it again later"):
        waits("3600")
    assert len(server.calls) == 1


def test_waiting_can_be_cancelled(service: Callable[..., DeidService], server: DeidServer) -> None:
    server.faults = ServiceFaults(status=503)
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(len(server.calls))
        return len(asked) > 3

    with pytest.raises(Cancelled):
        service(retry_wait=60).ask("study7", PATIENTS, cancelled)
    assert len(server.calls) == 1
    with pytest.raises(Cancelled):
        service().ask("study7", PATIENTS, lambda: True)
    assert len(server.calls) == 1


# The connection


def test_only_a_certificate_of_the_authority_for_this_host_is_trusted(
    certificates: Certificates, tmp_path: Path
) -> None:
    def said(identity: Any, host: str = "127.0.0.1", ca: Path | str = certificates.ca) -> PacsifierError:
        with DeidServer(identity.context(ssl.Purpose.CLIENT_AUTH), TOKEN, path=PATH) as server:
            url = server.url.replace("127.0.0.1", host)
            error = refused(DeidService(url, TOKEN, ca=str(ca)))
            assert not server.calls
            return error

    for error, words in (
        (said(certificates.stranger), "comes from no authority that is trusted"),
        (said(certificates.server, ca=certificates.other_ca), "comes from no authority that is trusted"),
        (said(certificates.expired), "it has expired; have it renewed"),
        (said(certificates.elsewhere), "it names another host"),
        (said(certificates.elsewhere, "localhost"), "it names another host"),
    ):
        assert "its certificate is not accepted" in str(error) and words in str(error) and not error.retryable
    # The system's authorities do not know ours.
    assert "comes from no authority that is trusted" in str(said(certificates.server, ca=""))
    (tmp_path / "empty.pem").touch()
    assert str(said(certificates.server, ca=tmp_path / "empty.pem")).endswith("ca holds no certificate in PEM format")
    assert str(said(certificates.server, ca=tmp_path / "none.pem")).endswith("ca: there is no such file")


def test_the_environment_changes_neither_trust_nor_token(
    service: Callable[..., DeidService],
    server: DeidServer,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\ndefault login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.other_ca))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(certificates.other_ca))
    service().ask("study7", PATIENTS)
    assert {call.token for call in server.calls} == {f"token {TOKEN}"}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.ca))
    assert "comes from no authority that is trusted" in str(refused(service(ca="")))


def test_the_token_does_not_follow_a_redirect(
    service: Callable[..., DeidService], server: DeidServer, certificates: Certificates
) -> None:
    with DeidServer(certificates.server.context(ssl.Purpose.CLIENT_AUTH), TOKEN, path=PATH) as other:
        for status in (301, 302, 303, 307, 308):
            server.faults = ServiceFaults(status=status, headers={"Location": other.url})
            refused(service())
        assert not other.calls


def test_nobody_there(service: Callable[..., DeidService], monkeypatch: pytest.MonkeyPatch) -> None:
    def said(url: str, **changes: Any) -> PacsifierError:
        return refused(service(url=url + PATH, **changes))

    error = said(f"https://127.0.0.1:{free_port()}")
    assert error.retryable and "nothing listens there; check host and port" in str(error)
    error = said("https://nowhere.invalid")
    assert error.retryable and "the name of the host is not known" in str(error)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = said(f"https://127.0.0.1:{silent.getsockname()[1]}", connect_timeout=0.2, read_timeout=0.2)
        assert error.retryable and "within 0.2 s" in str(error)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    error = said("https://nowhere.invalid")
    assert error.retryable and "the proxy of this machine does not lead to it" in str(error)


def test_a_listener_that_speaks_no_tls(service: Callable[..., DeidService]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def serve() -> None:
            client, _ = plain.accept()
            client.recv(4096)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            client.close()

        threading.Thread(target=serve, daemon=True).start()
        error = refused(service(url=f"https://127.0.0.1:{plain.getsockname()[1]}{PATH}"))
    assert "no TLS connection came about" in str(error) and "does it speak TLS at this port?" in str(error)


# Configuration


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://deid.example/secret", "http would send token and patients for everybody to read"),
        ("deid.example/secret", "is not a URL"),
        ("ftp://deid.example/secret", "is not a URL"),
        ("https:///secret", "is not a URL"),
        ("https://deid.example:x/secret", "is not a URL"),
        ("https://deid.example/se cret", "is not a URL"),
        ("https://[oops/secret", "is not a URL"),
        ("https://me:secret@deid.example/", "holds a user or a password"),
        ("https://deid.example/?key=secret", "has more than a path"),
        ("https://deid.example/#secret", "has more than a path"),
    ],
)
def test_a_url_that_will_not_do(tmp_path: Path, url: str, words: str) -> None:
    path = tmp_path / "deid.json"
    path.write_text(json.dumps({"deid_URL": url, "deid_token": TOKEN}))
    for act, where in (
        (lambda: DeidService(url, TOKEN), "the De-ID service: url: "),
        (lambda: read_deid_config(path), "deid.json: deid_URL: "),
    ):
        with pytest.raises(ConfigError, match=words) as raised:
            act()
        assert str(raised.value).startswith(where) and "secret" not in str(raised.value)


def test_the_configuration_that_people_know(tmp_path: Path) -> None:
    path = tmp_path / "deid.json"

    def read(**content: Any) -> deid_api.DeidConfig:
        path.write_text(json.dumps(content), encoding="utf-8-sig")
        return read_deid_config(path)

    config = read(deid_URL=" https://deid.example/api ", deid_token=f"{TOKEN}\n")
    assert (config.url, config.token) == ("https://deid.example/api", TOKEN)
    assert TOKEN not in repr(config) + repr(DeidService(config.url, config.token))
    with pytest.raises(ConfigError) as raised:
        read(deid_url="https://deid.example/api", token="x")
    assert str(raised.value) == (
        "deid.json: deid_URL is missing; deid_token is missing; deid_url is not known (did you mean deid_URL?); "
        "token is not known (did you mean deid_token?)"
    )
    for token, words in (("", "is empty"), (f"token {TOKEN}", "holds blanks"), ("schlüssel", "holds blanks")):
        with pytest.raises(ConfigError, match=f"^deid.json: deid_token: {words}"):
            read(deid_URL="https://deid.example/api", deid_token=token)


def test_a_connection_is_written_as_people_write_them() -> None:
    def url(host: str, schema: str | None = None, port: int | None = None) -> str:
        return service_from_connection("deid", host, schema, port, {}, TOKEN).url

    whole = "https://deid.example:8443/api/ids"
    assert url(whole) == url(whole, "https", 8443) == url("deid.example/api/ids", None, 8443) == whole
    assert url(" https://deid.example/api/ids ", port=8443) == url("deid.example:8443/api/ids", "HTTPS") == whole
    assert url("deid.example") == "https://deid.example"
    for given, words in (
        (("",), "connection deid: host is empty"),
        ((whole, None, 443), "connection deid: port is not that of the URL"),
        (("deid.example", "http"), "connection deid: host: http would send token"),
        (("deid.example", "api/ids"), "connection deid: host: is not a URL"),
    ):
        with pytest.raises(ConfigError, match=words):
            url(*given)
    extra = {"ca": "/etc/ca.pem", "connect_timeout": "2", "read_timeout": None, "batch_size": "50", "retry_wait": ""}
    made = service_from_connection("deid", whole, "", None, extra, f" {TOKEN} ")
    assert made == DeidService(whole, TOKEN, "/etc/ca.pem", connect_timeout=2.0, batch_size=50, name="deid")
    for wrong, words in (
        ({"verify": False}, "unknown field in extra: verify"),
        ({"batch_size": 0}, "batch_size is below 1"),
        ({"read_timeout": 0}, "read_timeout is not a number of seconds above 0"),
        ({"retry_wait": -1}, "retry_wait is negative"),
    ):
        with pytest.raises(ConfigError, match=words):
            service_from_connection("deid", whole, None, None, wrong, TOKEN)
    with pytest.raises(ConfigError, match="connection deid: password: is empty"):
        service_from_connection("deid", whole, None, None, {}, None)


SERVICE = DeidService("https://deid.example", TOKEN)
FORM: dict[str, Any] = next(
    kind["conn-fields"] for kind in get_provider_info()["connection-types"] if kind["connection-type"] == "deid_api"
)


def test_the_form_has_every_field_with_its_default() -> None:
    defaults = {field.name: field.default for field in fields(DeidService)}
    assert sorted(FORM) == sorted(EXTRA_FIELDS)
    for name, described in FORM.items():
        if defaults[name] == "":
            assert "default" not in described["schema"]
        else:
            assert described["schema"]["default"] == defaults[name]
    stored = {name: described["schema"].get("default") for name, described in FORM.items()}
    made = service_from_connection("deid", "deid.example", None, None, stored, TOKEN)
    assert made == replace(SERVICE, name="deid")


def changed(service: DeidService, name: str, value: Any) -> DeidService:
    return replace(service, **{name: value})


def test_the_form_refuses_what_the_service_would_refuse() -> None:
    for name, described in FORM.items():
        if (low := described["schema"].get("minimum")) is not None:
            changed(SERVICE, name, low)
            with pytest.raises(ConfigError, match=name):
                changed(SERVICE, name, 0 if 0 < low < 1 else low - 1)


def test_the_sample_connection_has_every_field_with_its_default() -> None:
    sample = json.loads((REPO / "include" / "connections.json").read_text())["deid_default"]
    assert sample["conn_type"] == "deid_api" and sorted(sample["extra"]) == sorted(EXTRA_FIELDS)
    made = service_from_connection("deid", sample["host"], None, 443, sample["extra"], sample["password"])
    assert sample["port"] == 443 and made == DeidService(made.url, made.token, ca=made.ca, name="deid")


# Within Airflow


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


@pytest.mark.airflow
def test_the_hook_says_in_words_what_is_wrong(
    airflow: Airflow, server: DeidServer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pacsifier_ops.hooks.deid_api import DeidApiHook

    # Airflow tests a connection under an id that it makes up, so that is not to be read anywhere.
    hook = DeidApiHook("qXzWv")

    def said(
        faults: ServiceFaults | None = None, host: str = server.url, token: str = TOKEN, **extra: Any
    ) -> tuple[bool, str]:
        server.faults = faults or ServiceFaults()
        described = {"conn_type": "deid_api", "host": host, "password": token}
        described["extra"] = {"ca": str(certificates.ca), **extra}  # type: ignore[assignment]
        monkeypatch.setenv("AIRFLOW_CONN_QXZWV", json.dumps(described))
        well, words = hook.test_connection()
        assert TOKEN not in words and PATH not in words and "qXzWv" not in words
        return well, words

    at = f"The De-ID service at 127.0.0.1 port {server.port} answers over TLS"
    assert said() == (True, f"{at}, accepts the token, and gives pseudonyms and day shifts.")
    # Nobody's data was sent, nor the name of any project.
    assert server.calls == [Call(path, f"token {TOKEN}") for path in (PATH, f"{PATH}_shift")]
    assert said(ServiceFaults(status=400))[1].startswith(f"{at}, refuses to be asked for nobody (HTTP 400), as some do")
    for given, words in (
        ({"token": "wrong"}, "HTTP 401: it does not accept the token"),
        ({"token": ""}, "password: is empty; give the token of the De-ID service"),
        ({"host": server.url + "x"}, "HTTP 404: there is nothing at this URL"),
        ({"host": server.url.replace("https", "http")}, "host: http would send token and patients"),
        ({"host": f"https://127.0.0.1:{free_port()}/"}, "nothing listens there"),
        ({"ca": str(certificates.other_ca)}, "its certificate is not accepted ("),
        ({"ca": ""}, "its certificate is not accepted ("),
        ({"ca": "/nowhere.pem"}, "ca: there is no such file"),
        ({"faults": ServiceFaults(body=WEB_PAGE)}, "a web page came in place of JSON"),
        ({"faults": ServiceFaults(status=503)}, "HTTP 503: it cannot answer for now"),
        ({"faults": ServiceFaults(delay=30), "read_timeout": 0.2}, "no whole answer within 0.2 s"),
        ({"verify": "false"}, "unknown field in extra: verify"),
    ):
        server.calls.clear()
        well, told = said(**given)
        assert not well and told.startswith(words)
        assert len(server.calls) <= 1


@pytest.mark.airflow
def test_the_hook_gives_the_service(
    airflow: Airflow, server: DeidServer, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pacsifier_ops.hooks.deid_api import DeidApiHook

    with pytest.raises(ConfigError, match="there is no connection deid_default; make one of type deid_api"):
        DeidApiHook().get_conn()
    described = {"conn_type": "deid_api", "host": "127.0.0.1" + PATH, "schema": "https", "port": server.port}
    extra = {"ca": str(certificates.ca), "batch_size": "2"}
    monkeypatch.setenv("AIRFLOW_CONN_DEID_DEFAULT", json.dumps({**described, "password": TOKEN, "extra": extra}))
    made = DeidApiHook().get_conn()
    assert made == DeidService(server.url, TOKEN, extra["ca"], batch_size=2, name="deid_default")
    assert list(made.ask("study7", PATIENTS)) == PATIENTS and len(server.calls) == 6


# The server alone


def test_the_demonstration_makes_its_own_authority(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pacsifier_ops.embedded.deid_server", "--port", "0", "--folder", str(tmp_path)]
    with started(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout and "listens on https://127.0.0.1:" in running.stdout.readline()
        assert {path.stat().st_mode & 0o077 for path in (tmp_path / "config.json", tmp_path / "server.key")} == {0}
        config = read_deid_config(tmp_path / "config.json")
        made = DeidService(config.url, config.token, ca=str(tmp_path / "ca.pem"))
        assert made.ask("study7", ["1"]) == {"1": Person(pseudonym("study7", "1"), shift("study7", "1"))}
    assert running.returncode == 0
