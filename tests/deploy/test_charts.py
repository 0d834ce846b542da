"""The Helm charts, as helm itself renders them: schemas, values that do not fit together, what each choice brings."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from fedgalore.version import __version__
from tools import chart_presets
from tools.kustomize_bases import CHARTS, helm, main, rendered

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "charts"
OTHERS = ("cert-manager.io/", "monitoring.coreos.com/", "gateway.networking.k8s.io/")  # no schemas of these at hand
TRIAL = {"insecure": True, "redis": {"passwordSecret": "redis"}}
SECURED = {"tls": {"secret": "doors"}, "operatorKey": {"secret": "operator"}, "redis": {"passwordSecret": "redis"}}
SITE = {
    "client": "ward-7",
    "tls": {"secret": "ward-7"},
    "joinToken": {"secret": "ward-7-token"},
    "config": {"coordinator": "fl.example:50051", "data": {"notes": {"train": "/data/train.jsonl"}}},
    "data": {"persistentVolumeClaim": {"claimName": "notes"}},
}
SHARED = {"replicas": 3, "blobs": {"accessMode": "ReadWriteMany"}}
PROMETHEUS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
EVERYTHING = SECURED | {
    "replicas": 3,
    "blobs": {"accessMode": "ReadWriteMany", "className": "shared"},
    "tls": {"agentsCA": "sites", "certManager": {"enabled": True, "issuer": {"name": "house"}, "hosts": ["fl.bank"]}},
    "aggregator": {"separate": True, "replicas": 2, "gpu": {"count": 1}, "nodeSelector": {"gpu": "h100"}},
    "settings": {"FEDGALORE_LEASE_S": 5},
    "config": {"cors_origins": ["https://portal.bank"]},
    "ingress": {"enabled": True, "className": "nginx", "restHost": "fl.bank", "grpcHost": "agents.fl.bank"},
    "gateway": {"enabled": True, "parents": [{"name": "edge"}], "restHost": "fl.bank", "grpcHost": "agents.fl.bank"},
    "networkPolicy": {"rest": [PROMETHEUS], "monitoring": [PROMETHEUS]},
    "monitoring": {
        "serviceMonitor": {"enabled": True, "viewerKey": {"secret": "viewer"}},
        "aggregatorPort": 9101,
    },
    "tolerations": [{"key": "fl", "operator": "Exists"}],
    "priorityClassName": "high",
    "image": {"pullSecrets": ["registry"]},
}
BUCKET = {"replicas": 3, "aggregator": {"separate": True}, "blobs": {"bucket": "s3://federation/blobs", "size": "50Gi"}}
WATCHED_SITE = SITE | {
    "gpu": {"count": 2},
    "networkPolicy": {"monitoring": [PROMETHEUS], "egress": [{"ipBlock": {"cidr": "192.0.2.7/32"}}]},
    "monitoring": {"port": 9102, "podMonitor": {"enabled": True}},
    "nodeSelector": {"gpu": "l4"},
    "image": {"pullSecrets": ["registry"]},
}


class Made(dict[tuple[str, str], dict[str, Any]]):
    """What a chart makes, by kind and name."""

    def container(self, kind: str, name: str) -> dict[str, Any]:
        (container,) = self[kind, name]["spec"]["template"]["spec"]["containers"]
        return dict(container)

    def env(self, kind: str, name: str) -> dict[str, Any]:
        variables = self.container(kind, name)["env"]
        assert len({variable["name"] for variable in variables}) == len(variables)
        return {variable["name"]: variable.get("value") for variable in variables}


def made(chart: str, tmp_path: Path, *values: dict[str, Any] | Path) -> Made:
    arguments = []
    for number, given in enumerate(values):
        path = tmp_path / f"values-{number}.yaml"
        path.write_text(given.read_text() if isinstance(given, Path) else yaml.safe_dump(given))
        arguments += ["--values", str(path)]
    items = [item for item in yaml.safe_load_all(rendered(chart, *arguments, release="fl")) if item]
    result = Made({(item["kind"], item["metadata"]["name"]): item for item in items})
    assert len(result) == len(items)
    for item in items:
        if not item["apiVersion"].startswith(OTHERS):
            kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
    return result


@pytest.mark.parametrize(
    ("chart", "values"),
    [("fedgalore", TRIAL), ("fedgalore", SECURED), ("fedgalore", EVERYTHING), ("fedgalore", SECURED | BUCKET),
     ("fedgalore-agent", SITE), ("fedgalore-agent", WATCHED_SITE)],
    ids=["trial", "secured", "everything", "bucket", "site", "watched site"],
)  # fmt: skip
def test_a_chart_is_linted_and_renders_by_the_schemas_of_kubernetes(
    chart: str, values: dict[str, Any], tmp_path: Path
) -> None:
    made(chart, tmp_path, values)
    command = [helm(), "lint", "--strict", "--quiet", str(FOLDER / chart), "--values", str(tmp_path / "values-0.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_presets_render_and_are_what_the_sizing_says(tmp_path: Path) -> None:
    assert chart_presets.main(["--check"]) == 0
    for preset in sorted(chart_presets.FOLDER.glob("*.yaml")):
        is_site = preset.name.startswith("agent")
        chart, base = ("fedgalore-agent", SITE) if is_site else ("fedgalore", SECURED)
        found = made(chart, tmp_path, base, preset)
        wanted = yaml.safe_load(preset.read_text())
        container = found.container(*(("StatefulSet", "fl") if is_site else ("Deployment", "fl-coordinator")))
        assert container["resources"]["limits"]["memory"] == wanted["resources"]["limits"]["memory"]
        if "gpu" in wanted:
            assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
        if "aggregator" in wanted:
            assert found.container("Deployment", "fl-aggregator")["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_the_kustomize_bases_are_those_of_the_charts() -> None:
    assert main(["--check"]) == 0


def test_the_charts_are_of_this_version() -> None:
    for chart in CHARTS.values():
        assert yaml.safe_load((FOLDER / chart / "Chart.yaml").read_text())["appVersion"] == __version__


@pytest.mark.parametrize(
    ("chart", "base", "more", "words"),
    [
        ("fedgalore", {}, {}, "tls.secret: both doors need a certificate"),
        ("fedgalore", SECURED, {"operatorKey": {"secret": ""}}, "operatorKey.secret: both doors ask for credentials"),
        ("fedgalore", SECURED, {"redis": {"passwordSecret": ""}}, "redis.passwordSecret"),
        ("fedgalore", SECURED, {"replicas": 2}, "blobs.accessMode"),
        ("fedgalore", SECURED, {"aggregator": {"separate": True}}, "blobs.accessMode"),
        ("fedgalore", SECURED, {"blobs": {"bucket": "federation"}}, "blobs.bucket"),
        ("fedgalore", SECURED, {"blobs": {"bucket": "s3://b1/x", "existingClaim": "c"}}, "blobs are in one place"),
        ("fedgalore", SECURED, {"aggregator": {"gpu": {"count": 1}}}, "aggregator.gpu.count"),
        ("fedgalore", SECURED, {"tls": {"certManager": {"enabled": True}}}, "tls.certManager.issuer.name"),
        ("fedgalore", SECURED, {"ingress": {"enabled": True}}, "ingress.restHost, ingress.grpcHost"),
        ("fedgalore", SECURED, {"gateway": {"enabled": True}}, "gateway: parents, restHost and grpcHost"),
        ("fedgalore", TRIAL, {"ingress": {"enabled": True}}, "insecure: doors that ask for no credentials"),
        ("fedgalore", SECURED, {"monitoring": {"serviceMonitor": {"enabled": True}}}, "viewerKey.secret"),
        ("fedgalore", SECURED, {"settings": {"LEASE_S": 5}}, "settings.LEASE_S"),
        ("fedgalore", SECURED, {"settings": {"FEDGALORE_DRAIN_S": "50.5"}}, "terminationGracePeriodSeconds: a coord"),
        ("fedgalore", SECURED, {"config": {"drain_s": 51}}, "terminationGracePeriodSeconds: a coordinator ends"),
        ("fedgalore", SECURED, {"replica": 2}, "replica"),
        ("fedgalore", SECURED, {"resources": {"limits": {"cpu": "1", "memory": "4 GB"}}}, "memory"),
        ("fedgalore-agent", SITE, {"tls": {"secret": ""}}, "tls.secret"),
        ("fedgalore-agent", SITE, {"joinToken": {"secret": ""}}, "joinToken.secret"),
        ("fedgalore-agent", SITE, {"config": {"coordinator": ""}}, "config.coordinator"),
        ("fedgalore-agent", SITE, {"config": {"name": "ward-8"}}, "config.name"),
        ("fedgalore-agent", SITE, {"replicas": 2}, "replicas: several agents cannot have one name"),
        ("fedgalore-agent", SITE, {"exampleData": True}, "exampleData"),
        ("fedgalore-agent", SITE, {"tls": {"perPod": True}}, "tls.perPod"),
        ("fedgalore-agent", SITE, {"monitoring": {"podMonitor": {"enabled": True}}}, "monitoring.port"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_the_field(
    chart: str, base: dict[str, Any], more: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        made(chart, tmp_path, base, more)


def test_a_secured_coordinator_has_certificates_and_keys_and_no_plaintext(tmp_path: Path) -> None:
    found = made("fedgalore", tmp_path, SECURED)
    env = found.env("Deployment", "fl-coordinator")
    assert "FEDGALORE_INSECURE" not in env
    pod = found["Deployment", "fl-coordinator"]["spec"]["template"]["spec"]
    secrets = {v["name"]: v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
    assert secrets == {"doors": "doors", "operator": "operator"}
    assert env["FEDGALORE_TLS_KEY"] == "/secrets/doors/tls.key"
    assert env["FEDGALORE_CLIENT_CA"] == "/secrets/doors/ca.crt"
    container = found.container("Deployment", "fl-coordinator")
    assert (
        container["readinessProbe"]["httpGet"]["scheme"] == container["livenessProbe"]["httpGet"]["scheme"] == "HTTPS"
    )
    rules = found["NetworkPolicy", "fl-coordinator"]["spec"]["ingress"]
    assert [rule.get("from") for rule in rules] == [None, None]  # from everywhere


def test_a_trial_is_reached_by_the_agents_of_its_namespace_alone(tmp_path: Path) -> None:
    found = made("fedgalore", tmp_path, TRIAL)
    (rule,) = found["NetworkPolicy", "fl-coordinator"]["spec"]["ingress"]
    assert rule == {
        "from": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "agent"}}}],
        "ports": [{"port": "grpc"}],
    }
    labels = made("fedgalore-agent", tmp_path, SITE)["StatefulSet", "fl"]["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] == "agent"


def test_replicas_are_spread_and_drained_one_by_one(tmp_path: Path) -> None:
    found = made("fedgalore", tmp_path, SECURED, SHARED)
    spec = found["Deployment", "fl-coordinator"]["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    keys = [spread["topologyKey"] for spread in spec["template"]["spec"]["topologySpreadConstraints"]]
    assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    budget = found["PodDisruptionBudget", "fl-coordinator"]["spec"]
    assert budget["selector"]["matchLabels"] == spec["selector"]["matchLabels"]
    alone = made("fedgalore", tmp_path, SECURED)
    assert ("PodDisruptionBudget", "fl-coordinator") not in alone
    assert alone["Deployment", "fl-coordinator"]["spec"]["strategy"] == {"type": "Recreate"}


def test_a_separate_aggregator_has_the_gpus_and_the_coordinator_starts_none(tmp_path: Path) -> None:
    found = made("fedgalore", tmp_path, EVERYTHING)
    container = found.container("Deployment", "fl-aggregator")
    assert container["args"][0] == "aggregator"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert found["Deployment", "fl-aggregator"]["spec"]["template"]["spec"]["nodeSelector"] == {"gpu": "h100"}
    assert found.env("Deployment", "fl-coordinator")["FEDGALORE_AGGREGATOR"] == "false"
    assert found.env("Deployment", "fl-aggregator")["FEDGALORE_AGGREGATOR_METRICS_PORT"] == "9101"
    assert "FEDGALORE_OPERATOR_KEY_FILE" not in found.env("Deployment", "fl-aggregator")
    peers = found["NetworkPolicy", "fl-redis"]["spec"]["ingress"][0]["from"]
    names = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] for peer in peers]
    assert names == ["coordinator", "aggregator"]


def test_a_bucket_takes_the_place_of_a_claim(tmp_path: Path) -> None:
    found = made("fedgalore", tmp_path, SECURED | BUCKET, {"serviceAccountName": "blobs"})
    assert [kind for kind, _ in found if kind == "PersistentVolumeClaim"] == []
    for name in ("fl-coordinator", "fl-aggregator"):
        assert found["Deployment", name]["spec"]["template"]["spec"]["serviceAccountName"] == "blobs"
        assert found.env("Deployment", name)["FEDGALORE_BLOBS"] == "s3://federation/blobs"
        volumes = found["Deployment", name]["spec"]["template"]["spec"]["volumes"]
        assert {"name": "blobs", "emptyDir": {"sizeLimit": "50Gi"}} in volumes
    assert found["Deployment", "fl-coordinator"]["spec"]["strategy"]["type"] == "RollingUpdate"


def test_a_redis_of_ones_own_takes_the_place_of_the_charts(tmp_path: Path) -> None:
    found = made("fedgalore", tmp_path, SECURED, {"redis": {"urlSecret": "redis-url", "passwordSecret": ""}})
    assert not [name for kind, name in found if name == "fl-redis"]
    (url,) = [v for v in found.container("Deployment", "fl-coordinator")["env"] if v["name"] == "FEDGALORE_REDIS_URL"]
    assert url["valueFrom"]["secretKeyRef"] == {"name": "redis-url", "key": "url"}


def test_tls_is_passed_through_and_the_certificate_names_every_host(tmp_path: Path) -> None:
    found = made("fedgalore", tmp_path, EVERYTHING)
    certificate = found["Certificate", "fl-coordinator"]["spec"]
    assert {"localhost", "fl-coordinator", "fl.bank", "agents.fl.bank"} <= set(certificate["dnsNames"])
    assert len(set(certificate["dnsNames"])) == len(certificate["dnsNames"])
    mounted = found["Deployment", "fl-coordinator"]["spec"]["template"]["spec"]["volumes"]
    assert certificate["secretName"] in {v["secret"]["secretName"] for v in mounted if "secret" in v}
    assert found.env("Deployment", "fl-coordinator")["FEDGALORE_CLIENT_CA"] == "/secrets/agents-ca/ca.crt"
    backends = {
        rule["host"]: rule["http"]["paths"][0]["backend"]["service"]["port"]["name"]
        for rule in found["Ingress", "fl-coordinator"]["spec"]["rules"]
    }
    assert backends == {"fl.bank": "rest", "agents.fl.bank": "grpc"}
    assert "tls" not in found["Ingress", "fl-coordinator"]["spec"]  # the proxy ends none
    for door, host, port in (("rest", "fl.bank", 8080), ("grpc", "agents.fl.bank", 50051)):
        route = found["TLSRoute", f"fl-coordinator-{door}"]["spec"]
        assert route["hostnames"] == [host]
        assert route["rules"][0]["backendRefs"] == [{"name": "fl-coordinator", "port": port}]


def test_prometheus_may_scrape_and_has_a_key(tmp_path: Path) -> None:
    found = made("fedgalore", tmp_path, EVERYTHING)
    (endpoint,) = found["ServiceMonitor", "fl-coordinator"]["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["authorization"] == {"credentials": {"name": "viewer", "key": "viewer.key"}}
    ingress = found["NetworkPolicy", "fl-coordinator"]["spec"]["ingress"]
    (rest,) = [rule for rule in ingress if rule["ports"] == [{"port": "rest"}]]
    assert PROMETHEUS in rest["from"]
    (own,) = found["NetworkPolicy", "fl-aggregator"]["spec"]["ingress"]
    assert own == {"from": [PROMETHEUS], "ports": [{"port": "aggregator"}]}
    selector = found["PodMonitor", "fl-aggregator"]["spec"]["selector"]["matchLabels"]
    assert selector == found["Deployment", "fl-aggregator"]["spec"]["selector"]["matchLabels"]


def test_a_site_has_its_name_its_data_and_its_way_out(tmp_path: Path) -> None:
    found = made("fedgalore-agent", tmp_path, WATCHED_SITE)
    env = found.env("StatefulSet", "fl")
    assert env["FEDGALORE_AGENT_NAME"] == "ward-7"
    assert env["FEDGALORE_AGENT_JOIN_TOKEN_FILE"] == "/secrets/join/token"
    pod = found["StatefulSet", "fl"]["spec"]["template"]["spec"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "notes"}} in pod["volumes"]
    assert found.container("StatefulSet", "fl")["resources"]["limits"]["nvidia.com/gpu"] == 2
    config = yaml.safe_load(found["ConfigMap", "fl"]["data"]["agent.yaml"])
    assert config["metrics_port"] == 9102
    policy = found["NetworkPolicy", "fl"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"][-1] == {"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}]}
