"""Dashboard and alert rules ask for metrics that there are, with labels that they have."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pacsifier_ops.runs.figures import COUNTS, STANDING, Figures, Key, keep
from pacsifier_ops.runs.folder import Run
from pacsifier_ops.state.leases import shared
from tests.support import airflow_home
from tests.support.airflow_home import Airflow
from tests.support.places import REPO

FOLDER = REPO / "include" / "monitoring"
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
#: Labels and metrics that Prometheus adds.
OWN = {"job"}
PROMTOOL = shutil.which("promtool")


def metrics() -> dict[str, set[str]]:
    """Return the names of all metrics as Prometheus sees them, with their labels."""
    from pacsifier_ops.web.metrics import NOW

    counts = {f"{name}_total": set(labels) for name, (labels, _) in COUNTS.items()}
    return {**counts, **{name: set(labels) for name, (labels, _) in {**STANDING, **NOW}.items()}, "up": {"job"}}


def queries() -> Iterator[str]:
    """Yield every expression of the dashboard and the rules."""
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in DASHBOARD["templating"]["list"]:
        yield variable.get("definition", "").removeprefix("label_values(").rpartition(",")[0]
    yield from (rule["expr"] for group in RULES for rule in group["rules"])


@pytest.fixture
def airflow(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Airflow:
    return airflow_home.enter(tmp_path_factory, monkeypatch, tmp_path / "data")


@pytest.mark.airflow
def test_every_node_has_its_numbers_and_no_other_name_is_a_label(
    airflow: Airflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.utils.session import create_session

    from pacsifier_ops.web.metrics import exposition

    connection = {
        "conn_type": "dicom",
        "host": "pacs",
        "port": 104,
        "extra": {"called_aet": "VNA", "max_associations": 3},
    }
    monkeypatch.setenv("AIRFLOW_CONN_VNA", json.dumps(connection))
    for number, pacs in enumerate(("vna", "Wurzelbacher 19501224")):
        counts: Counter[Key] = Counter({("pacsifier_images", pacs, "save", "received"): number + 2})
        keep(Run.named(f"pacsifier_extract-{number}"), Figures(counts))
    with shared().acquire("pacs:pacs:104:VNA", limit=3), create_session() as session:
        text = exposition(session).decode()
    for line in (
        'pacsifier_images_total{action="save",pacs="vna",state="received"} 2.0',
        'pacsifier_images_total{action="save",pacs="vna",state="missing"} 0.0',
        'pacsifier_images_total{action="save",pacs="other",state="received"} 3.0',
        'pacsifier_associations{pacs="vna"} 1.0',
        'pacsifier_associations_limit{pacs="vna"} 3.0',
    ):
        assert line in text.splitlines()
    assert "Wurzelbacher" not in text
    assert {family.name for family in text_string_to_metric_families(text)} == {
        name.removesuffix("_total") for name in metrics().keys() - {"up"}
    }


@pytest.mark.airflow
@pytest.mark.usefixtures("airflow")
def test_every_query_is_of_metrics_and_labels_that_there_are() -> None:
    known, asked = metrics(), set()
    for query in filter(None, queries()):
        names = set(re.findall(r"\b(pacsifier_\w+|up)\b", re.sub(r'"[^"]*"', '""', query)))
        assert names <= known.keys(), query
        asked |= names
        labels = set().union(*(known[name] for name in names)) | OWN
        grouped = (part.split(",") for part in re.findall(r"by \(([^)]*)\)", query))
        matched = (re.findall(r"(\w+)\s*=?~?!?=", part) for part in re.findall(r"\{([^}]*)\}", query))
        used = {label.strip() for parts in (*grouped, *matched) for label in parts}
        assert used <= labels, query
    assert asked == known.keys(), "the dashboard shows all, or a rule looks at it"


def test_the_dashboard_fits_and_its_legends_name_labels_of_its_queries() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        for target in panel["targets"]:
            assert all(f"{label}" in target["expr"] for label in re.findall(r"{{(\w+)}}", target["legendFormat"]))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_rules_say_what_happened_and_what_it_means() -> None:
    rules = [rule for group in RULES for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert {"summary", "description"} == rule["annotations"].keys()


@pytest.mark.peers
@pytest.mark.skipif(
    PROMTOOL is None and os.environ.get("PACSIFIER_REQUIRE_PEERS") != "1",
    reason="promtool is not installed (Debian: apt install prometheus)",
)
def test_prometheus_takes_rules_and_configuration(tmp_path: Path) -> None:
    assert PROMTOOL, "promtool is not installed (Debian: apt install prometheus)"
    shutil.copy(FOLDER / "alerts.yml", tmp_path)
    text = (FOLDER / "prometheus.yml").read_text(encoding="utf-8")
    (tmp_path / "token").touch()
    (tmp_path / "prometheus.yml").write_text(text.replace("/etc/prometheus/pacsifier.token", str(tmp_path / "token")))
    subprocess.run([PROMTOOL, "check", "config", str(tmp_path / "prometheus.yml")], check=True)
