"""Connections that an administrator makes in Airflow's user interface, with a real browser."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pacsifier_ops.base.config import EXTRA_FIELDS
from pacsifier_ops.embedded.deid_server import DeidServer
from pacsifier_ops.embedded.pacs import EmbeddedPacs
from pacsifier_ops.onebox import up as local
from pacsifier_ops.pseudonyms import deid_api
from tests.support import airflow_home, certificates
from tests.support.airflow_home import Up
from tests.support.browser import Browser
from tests.support.shared import SharedAirflow

pytestmark = [pytest.mark.airflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def pacs() -> Iterator[EmbeddedPacs]:
    with EmbeddedPacs() as running:
        yield running


@pytest.fixture(scope="module")
def up(shared: SharedAirflow) -> Up:
    return shared.up


@pytest.fixture
def browser(up: Up, request: pytest.FixtureRequest) -> Iterator[Browser]:
    """Return a browser that is logged in, and shows the connections of a name in Airflow's list."""
    with Browser() as page:
        page.open(f"{up.url}/connections?name_pattern={request.param}")
        page.log_in(local.USER, local.password(up.home))
        page.wait_for("button", "Add Connection")
        yield page


def test_the_test_button_of_the_api(up: Up, pacs: EmbeddedPacs) -> None:
    def tested(port: int | None = pacs.port, **extra: Any) -> tuple[bool, str]:
        body = {"connection_id": "new", "conn_type": "dicom", "host": "127.0.0.1", "port": port}
        answer = up._call("api/v2/connections/test", {**body, "extra": json.dumps(extra)})
        return answer["status"], answer["message"]

    well, said = tested(called_aet=pacs.aet, tls=False, tls_check_host=True, tls_ca=None, batch_wait_time=2.5)
    assert well and said.startswith(f"{pacs.aet} at 127.0.0.1 port {pacs.port} (")
    assert said.endswith("answers C-ECHO and offers C-FIND, C-GET, C-MOVE.")
    assert tested() == (False, "called_aet, the AE title of the PACS, is missing")
    well, said = tested(port=1, called_aet=pacs.aet)
    assert not well and said.startswith(f"{pacs.aet}: cannot connect to 127.0.0.1 port 1: nothing listens there")
    pacs.faults.reject = "called_aet"
    try:
        well, said = tested(called_aet=pacs.aet)
    finally:
        pacs.faults.reject = None
    assert not well and said.startswith(f"{pacs.aet}: rejected the association: it does not answer to the called")


@pytest.mark.parametrize("browser", ["pacs_by_hand"], indirect=True)
def test_a_connection_is_made_and_tested_by_hand(
    up: Up,
    pacs: EmbeddedPacs,
    browser: Browser,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    browser.click("button", "Add Connection")
    browser.fill("[name=connection_id]", "pacs_by_hand")
    browser.fill("[role=dialog] input[role=combobox]", "DICOM node (PACS)")
    browser.press("Enter", "Enter", 13)
    browser.fill("[name=description]", "Radiology")
    browser.fill("[name=host]", "127.0.0.1")
    browser.fill("[name=port]", str(pacs.port))
    assert not browser.sees("[name=login]") and not browser.sees("[name=schema]")
    assert not browser.sees("button", "Save")  # only after a called AE title is given
    browser.click("button", "AE titles")
    assert browser.value("[name=element_calling_aet]") == "PACSIFIER"
    browser.fill("[name=element_called_aet]", pacs.aet)
    browser.screenshot(tmp_path / "form.png")
    browser.click("button", "Retrieval")
    browser.fill("[name=element_receiver_port]", "11113")
    browser.click("#element_method", "auto: C-GET where the PACS offers it")
    browser.click("[role=option]", "get: C-GET")
    browser.click("button", "Limits and pacing")
    browser.fill("[name=element_max_series]", "20000")
    browser.fill("[name=element_batch_wait_time]", "2.5")
    browser.fill("[name=element_result_limit]", "")
    browser.click("button", "Hours", exact=True)
    browser.fill("[name=element_window]", "20:00-06:00")
    browser.fill("[name=element_timezone]", "Europe/Zurich")
    browser.click("button", "Timeouts")
    browser.wait_for("[role=dialog]", "Seconds of silence within a query or a retrieval. Default: 120.")
    browser.click("button", "TLS", exact=True)
    browser.fill("[name=element_tls_ca]", "/etc/pacsifier/hospital-ca.pem")
    browser.click("label:has([name=element_tls_check_host])")
    browser.click("button", "Save")
    browser.wait_for("td", "pacs_by_hand")

    browser.click("button[aria-label='Test Connection']")
    browser.wait_for("[role=status]", f"{pacs.aet} at 127.0.0.1 port {pacs.port} (")
    browser.wait_for("[role=status]", "answers C-ECHO and offers C-FIND, C-GET, C-MOVE.")
    pacs.faults.reject = "called_aet"
    browser.click("button[aria-label='Test Connection']")
    browser.wait_for("[role=status]", f"it does not answer to the called AE title {pacs.aet}")
    pacs.faults.reject = None

    stored = up.get("connections/pacs_by_hand")
    extra = json.loads(stored["extra"])
    assert sorted(extra) == sorted(EXTRA_FIELDS)  # the form sends them all, empty ones as null
    assert extra["result_limit"] is extra["tls_key"] is extra["receiver_aet"] is None
    assert extra["tls"] is False and extra["tls_check_host"] is False and extra["max_series"] == 20000
    node = hooked(stored, tmp_path_factory, monkeypatch, tmp_path)
    assert (node.host, node.port, node.called_aet) == ("127.0.0.1", pacs.port, pacs.aet)
    assert (node.calling_aet, node.receiver_port, node.destination) == ("PACSIFIER", 11113, "PACSIFIER")
    assert (node.method, node.max_series, node.batch_wait_time, node.result_limit) == ("get", 20000, 2.5, 0)
    assert (node.window, node.window_weekends, node.timezone) == ("20:00-06:00", False, "Europe/Zurich")
    assert (node.tls, node.tls_ca, node.tls_check_host) == (False, "/etc/pacsifier/hospital-ca.pem", False)

    # An existing connection can be changed: the form shows all its fields.
    browser.click("button[aria-label='Edit Connection']")
    browser.click("button", "Limits and pacing")
    assert browser.value("[name=element_max_series]") == "20000"
    browser.fill("[name=element_max_associations]", "2")
    browser.click("button", "Save")
    up.wait_for(lambda: json.loads(up.get("connections/pacs_by_hand")["extra"]) == extra | {"max_associations": 2})


@pytest.mark.parametrize("browser", ["deid_by_hand"], indirect=True)
def test_a_de_id_service_is_described_and_tested_by_hand(up: Up, browser: Browser, tmp_path: Path) -> None:
    made = certificates.make(tmp_path / "certificates")
    with DeidServer(made.server.context(ssl.Purpose.CLIENT_AUTH), "t0ken-of-the-service") as server:
        browser.click("button", "Add Connection")
        browser.fill("[name=connection_id]", "deid_by_hand")
        browser.fill("[role=dialog] input[role=combobox]", "De-ID service")
        browser.press("Enter", "Enter", 13)
        assert not browser.sees("[name=login]") and not browser.sees("[name=schema]")
        browser.fill("[name=host]", server.url)
        browser.fill("[name=port]", str(server.port))
        browser.fill("[name=password]", server.token)
        browser.click("button", "TLS", exact=True)
        browser.fill("[name=element_ca]", str(made.ca))
        browser.click("button", "Batches")
        browser.fill("[name=element_batch_size]", "50")
        browser.click("button", "Timeouts")
        browser.wait_for("[role=dialog]", "Seconds for a whole answer. Default: 120.")
        browser.screenshot(tmp_path / "form.png")
        browser.click("button", "Save")
        browser.wait_for("td", "deid_by_hand")
        browser.click("button[aria-label='Test Connection']")
        browser.wait_for("[role=status]", f"The De-ID service at 127.0.0.1 port {server.port} answers over TLS")
        assert [(call.project, call.patients) for call in server.calls] == [("", ())] * 2

        stored = up.get("connections/deid_by_hand")
        assert server.token not in json.dumps(stored) + browser.text()
        extra = json.loads(stored["extra"])
        assert sorted(extra) == sorted(deid_api.EXTRA_FIELDS)
        service = deid_api.service_from_connection("deid", server.url, None, server.port, extra, server.token)
        assert service == deid_api.DeidService(server.url, server.token, str(made.ca), batch_size=50, name="deid")


def hooked(
    stored: dict[str, Any], factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Any:
    """Return the node that DicomHook makes of a connection from the API."""
    airflow_home.enter(factory, monkeypatch, tmp_path / "data")
    from pacsifier_ops.hooks.dicom import DicomHook

    described = {key: stored[key] for key in ("conn_type", "host", "port", "extra")}
    monkeypatch.setenv("AIRFLOW_CONN_PACS_BY_HAND", json.dumps(described))
    return DicomHook("pacs_by_hand").get_conn()
