"""`include/kubernetes`: what Helm makes of our values with the official chart, and the plain files beside it.

Checked with Helm's own engine (4.2, as the package helm-python-sdk), the chart 1.22.0 (tests/support/data), the chart's
JSON schema and values, and the JSON schemas of Kubernetes 1.37 without unknown keys (kubernetes-validate). No
cluster is needed, and none has seen this.
"""

from __future__ import annotations

import copy
import functools
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pacsifier_ops.base import settings
from tests.support.places import DATA, REPO

FOLDER = REPO / "include" / "kubernetes"
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text(encoding="utf-8"))
COMPOSE: dict[str, Any] = yaml.safe_load((REPO / "docker-compose.yml").read_text(encoding="utf-8"))
DOCKERFILE = (REPO / "Dockerfile").read_text(encoding="utf-8")
DOCS = (REPO / "docs" / "kubernetes.md").read_text(encoding="utf-8")
CHART = DATA / "airflow-1.22.0.tgz"
#: Newest version of Kubernetes that is checked, and one that is two years old.
VERSIONS = ("1.37", "1.31")
#: Folders of ours by pod: claim, path, whether it can be written.
DATA_FOLDER, STATE_FOLDER = ("pacsifier-data", "/data", True), ("pacsifier-state", "/state", True)
ALL = {DATA_FOLDER, STATE_FOLDER}
PAGES = {
    ("pacsifier-state", "/state", False),
    *(("pacsifier-state", f"/state/pacsifier/{name}", True) for name in ("requests", "cancelled", "leases")),
}
MOUNTS: dict[str, set[tuple[str, str, bool]]] = {
    "task": ALL,
    "triggerer": ALL,
    "run-airflow-migrations": ALL,
    "receiver": ALL,
    "folders": {*ALL, ("pacsifier-logs", "/logs", True)},
    "api-server": PAGES,
    "scheduler": set(),
    "dag-processor": set(),
}


def chart() -> Any:
    """Return the chart. Rendering it takes charts in it away that are not enabled: each has its own."""
    from helm_python import Chart

    return Chart.load(CHART)


def rendered(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what `helm template` makes of the values, with the pod of a task last."""
    texts = chart().render(values=dict(values), name="pacsifier", namespace="pacsifier")
    made = [part for path, text in texts.items() if not path.endswith("NOTES.txt") for part in yaml.safe_load_all(text)]
    made = [thing for thing in made if thing]
    [config] = [thing for thing in made if thing["kind"] == "ConfigMap"]
    return [*made, yaml.safe_load(config["data"]["pod_template_file.yaml"])]


@functools.cache
def ours() -> list[dict[str, Any]]:
    return rendered(VALUES)


@functools.cache
def plain() -> list[dict[str, Any]]:
    return [
        thing
        for name in ("storage.yaml", "receiver.yaml")
        for thing in yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    ]


def specs() -> dict[str, dict[str, Any]]:
    """Specifications of all pods, by the name of their main container; that of a task is `task`."""
    found = {}
    for thing in (*ours(), *plain()):
        if thing["kind"] == "Pod":
            found["task"] = thing["spec"]
        elif "template" in thing.get("spec", {}):
            spec = thing["spec"]["template"]["spec"]
            found[spec["containers"][0]["name"]] = spec
    return found


def folders(spec: Mapping[str, Any], container: Mapping[str, Any]) -> set[tuple[str, str, bool]]:
    """Claims that a container has mounted, but for the logs of Airflow."""
    claims = {
        v["name"]: v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v
    }
    return {
        (claims[mount["name"]], mount["mountPath"], not mount.get("readOnly", False))
        for mount in container["volumeMounts"]
        if mount["name"] in claims and mount["mountPath"] != "/opt/airflow/logs"
    }


def variables(container: Mapping[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def paths(values: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield keys of ours that the chart's own values do not have. Where the chart has {} or null, anything goes."""
    for key, value in values.items():
        if key not in known:
            yield f"{prefix}{key}"
        elif isinstance(value, Mapping) and isinstance(known[key], Mapping) and known[key]:
            yield from paths(value, known[key], f"{prefix}{key}.")


def test_the_chart_has_every_key_of_our_values() -> None:
    """Helm ignores a key that is misspelled or was renamed, and so does the chart's schema at most places."""
    assert chart().version == "1.22.0"
    chart().validate_schema(VALUES)
    # `securityContexts`, `resources` and the like are {} in the chart; its schema says what may be in them.
    free = {"config.kubernetes_executor.worker_pods_creation_batch_size"}  # a key of Airflow's, not of the chart's
    assert set(paths(VALUES, chart().values)) == free
    from helm_python import HelmError

    wrong = copy.deepcopy(VALUES)
    wrong["securityContexts"]["pod"]["runAsNonRoots"] = True
    with pytest.raises(HelmError, match="runAsNonRoots"):
        chart().validate_schema(wrong)


def test_airflow_knows_the_settings_of_the_values() -> None:
    from airflow.configuration import conf

    assert "worker_pods_creation_batch_size" in (conf.configuration_description["kubernetes_executor"]["options"])
    known = set(re.findall(r"^\| (PACSIFIER_\w+)", settings.__doc__ or "", re.MULTILINE))
    names = {entry["name"] for entry in VALUES["env"]}
    assert {name for name in names if name.startswith("PACSIFIER_")} <= known


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_object(version: str) -> None:
    import kubernetes_validate

    things = [*ours(), *plain()]
    assert len(things) > 20
    for thing in things:
        kubernetes_validate.validate(thing, version, strict=True)
    wrong = copy.deepcopy(next(thing for thing in plain() if thing["kind"] == "Service"))
    wrong["spec"]["externalTrafficPolicies"] = "Local"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_names_that_the_files_use_agree() -> None:
    claims = {thing["metadata"]["name"] for thing in plain() if thing["kind"] == "PersistentVolumeClaim"}
    used, secrets = set(), set()
    for spec in specs().values():
        used |= {v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"] if "persistentVolumeClaim" in v}
        secrets |= {v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
        for container in (*spec["containers"], *(spec.get("initContainers") or [])):
            for entry in container.get("env", []):
                reference = entry.get("valueFrom", {}).get("secretKeyRef")
                secrets |= {reference["name"]} if reference else set()
    assert used == claims
    assert all(
        claim["spec"]["accessModes"] == ["ReadWriteMany"]
        for claim in plain()
        if claim["kind"] == "PersistentVolumeClaim"
    )
    # The docs make these, and no other; the chart makes none with a password that everybody knows.
    assert secrets == set(re.findall(r"create secret generic (pacsifier-[\w-]+)", DOCS)) - {"pacsifier-project-knee"}
    assert [thing["metadata"]["name"] for thing in ours() if thing["kind"] == "Secret"] == ["pacsifier-broker-url"]
    receiver, service = (next(t for t in plain() if t["kind"] == kind) for kind in ("Deployment", "Service"))
    assert service["spec"]["selector"].items() <= receiver["spec"]["template"]["metadata"]["labels"].items()


def test_every_pod_is_ours_and_confined() -> None:
    assert set(specs()) == set(MOUNTS)
    uid = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[-1]
    images = set()
    for name, spec in specs().items():
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True and (str(pod["runAsUser"]), str(pod["runAsGroup"])) == uid, name
        # Without it, every start of a pod would open 0600 files to the group, and read the whole archive to do so.
        assert pod["fsGroupChangePolicy"] == "OnRootMismatch", name
        assert spec["enableServiceLinks"] is False, name
        for container in (*spec["containers"], *(spec.get("initContainers") or [])):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False and security["capabilities"] == {"drop": ["ALL"]}, name
            assert security["readOnlyRootFilesystem"] is True, name
            images.add(container["image"])
    assert len(images) == 1
    assert all(
        spec["automountServiceAccountToken"] is False
        for name, spec in specs().items()
        if name in ("receiver", "folders")
    )
    [account] = [
        t
        for t in ours()
        if t["kind"] == "ServiceAccount" and t["metadata"]["name"] == specs()["task"]["serviceAccountName"]
    ]
    assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", sorted(MOUNTS))
def test_each_pod_has_the_folders_it_needs_and_no_other(name: str) -> None:
    """As in docker-compose.yml: scheduler and DAG processor have none, the pages no data set."""
    spec = specs()[name]
    [container] = [part for part in spec["containers"] if "log-groomer" not in part["name"]]
    assert folders(spec, container) == MOUNTS[name]
    if name != "folders":
        values = variables(container)
        assert (values["PACSIFIER_DATA_ROOT"], values["PACSIFIER_STATE_ROOT"]) == (
            "/data/pacsifier",
            "/state/pacsifier",
        )
        assert container["resources"] or name == "run-airflow-migrations"
    if name not in ("folders", "receiver", "run-airflow-migrations"):
        logs = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}["/opt/airflow/logs"]
        assert {"name": logs, "persistentVolumeClaim": {"claimName": "pacsifier-logs"}} in spec["volumes"]
        assert {"configMapRef": {"name": "pacsifier-airflow"}} in container["envFrom"]
    compose = {"task": "worker", "run-airflow-migrations": "init"}.get(name, name)
    if compose in COMPOSE["services"]:
        mounts = [mount for mount in COMPOSE["services"][compose]["volumes"] if isinstance(mount, dict)]
        there = {
            (mount["target"].replace("/state/", "/state/pacsifier/"), not mount.get("read_only", False))
            for mount in mounts
        }
        there = {(path, write) for path, write in there if path.startswith(("/data", "/state"))}
        assert {(path, write) for _, path, write in MOUNTS[name]} == there


def test_the_charts_own_database_does_for_trying() -> None:
    """The lines of the docs for it, instead of a secret with an address."""
    import kubernetes_validate

    [text] = re.findall(r"^```yaml\n(postgresql:\n.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    more = yaml.safe_load(text)
    made = rendered({**VALUES, **more})
    for thing in made:
        kubernetes_validate.validate(thing, VERSIONS[0], strict=True)
    secrets = {thing["metadata"]["name"]: thing for thing in made if thing["kind"] == "Secret"}
    assert {"pacsifier-metadata", "pacsifier-postgresql"} <= set(secrets)
    [database] = [thing for thing in made if thing["kind"] == "StatefulSet"]
    assert database["metadata"]["name"] == "pacsifier-postgresql"


def test_tasks_are_pods_of_our_image() -> None:
    [config] = [thing for thing in ours() if thing["kind"] == "ConfigMap"]
    assert "executor = KubernetesExecutor" in config["data"]["airflow.cfg"]
    assert specs()["task"]["restartPolicy"] == "Never"
    # The program of a task is given to the entry point of the image, which hands on what is not ours.
    assert "command" not in specs()["task"]["containers"][0]


def test_a_secret_of_a_project_comes_by_name() -> None:
    """The lines that values.yaml has as a comment."""
    text = (FOLDER / "values.yaml").read_text(encoding="utf-8")
    [commented] = re.findall(r"^# (secret:\n)#   (- .*)$", text, re.MULTILINE)
    more = yaml.safe_load("".join(commented))
    task = rendered({**VALUES, **more})[-1]["spec"]["containers"][0]
    reference = {"secretKeyRef": {"name": "pacsifier-project-knee", "key": "connection"}}
    assert {"name": "AIRFLOW_CONN_PACSIFIER_PROJECT_KNEE", "valueFrom": reference} in task["env"]


def test_init_makes_pools_and_no_known_password() -> None:
    [job] = [thing for thing in ours() if thing["kind"] == "Job"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    script, password, connections = container["args"][1:]
    assert (REPO / "docker" / Path(script).name).is_file() and script.startswith("/opt/pacsifier/docker/")
    assert (REPO / "include" / Path(connections).name).is_file() and connections.startswith("/opt/pacsifier/include/")
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(Path(password).parent) in mounts
    assert "admin_password" in DOCS


def test_the_receiver_starts_with_its_arguments_and_keeps_the_senders_address() -> None:
    from pacsifier_ops.cli import receiver

    deployment, service = (next(t for t in plain() if t["kind"] == kind) for kind in ("Deployment", "Service"))
    spec = deployment["spec"]["template"]["spec"]
    [container] = spec["containers"]
    program, *arguments = container["args"]
    parsed = receiver._parser().parse_args(arguments)
    assert program == "pacsifier-receiver" and parsed.allow_aet and parsed.allow_address
    assert container["ports"] == [{"name": "dicom", "containerPort": parsed.port}]
    assert service["spec"]["type"] == "LoadBalancer" and service["spec"]["externalTrafficPolicy"] == "Local"
    assert service["spec"]["loadBalancerSourceRanges"] == [f"{address}/32" for address in parsed.allow_address]
    assert service["spec"]["ports"] == [{"name": "dicom", "port": parsed.port, "targetPort": "dicom"}]
    # One at a time, the old one ends first, and has the time for it.
    assert deployment["spec"]["replicas"] == 1 and deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert spec["terminationGracePeriodSeconds"] > 30
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert f"/dev/tcp/127.0.0.1/{parsed.port}" in container[probe]["exec"]["command"][-1]


def test_the_folders_are_made_and_tried(tmp_path: Path) -> None:
    """The script of the job, on folders here: it may be repeated, and says what a file system lacks."""
    [job] = [thing for thing in plain() if thing["kind"] == "Job"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    *shell, script = container["command"]
    for name in ("data", "state", "logs"):
        (tmp_path / name).mkdir()
        script = re.sub(rf"(?<=\s)/{name}\b", str(tmp_path / name), script)
    for _ in range(2):
        subprocess.run([*shell, script], check=True, timeout=30)
    made = {str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.glob("*/**/*")}
    parts = [f"state/pacsifier/{part}" for part in ("cancelled", "leases", "requests")]
    assert made == dict.fromkeys(["data/pacsifier", "state/pacsifier", *parts], 0o700)
    lacking = script.replace("flock --nonblock", "false")
    failed = subprocess.run([*shell, lacking], capture_output=True, text=True, timeout=30)
    assert failed.returncode == 1 and "its file system has no locks" in failed.stderr


def test_the_settings_become_a_config_map() -> None:
    """`kubectl create configmap --from-env-file`, as the docs have it, keeps the JSON in the settings as it is."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here")
    [line] = re.findall(r"^kubectl create configmap pacsifier-airflow .*$", DOCS, re.MULTILINE)
    command = [*line.split(), "--dry-run=client", "--output=yaml"]
    text = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True, timeout=60).stdout
    kept = yaml.safe_load(text)["data"]
    lines = (REPO / "include" / "airflow.env").read_text(encoding="utf-8").splitlines()
    assert kept == dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
