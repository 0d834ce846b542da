"""Alerts and dashboard name what the processes export, and are of the form that Prometheus and Grafana read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from client_agent.exported import Exported
from coordinator.aggregator import exported
from coordinator.doors.rest.metrics import Metrics
from coordinator.doors.rest.snapshot import Snapshot, State
from coordinator.engine.assembly import assemble
from coordinator.store.redis_state_store import RedisStateStore

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "monitoring"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = [each for each in DASHBOARD["panels"] if each["type"] != "row"]
EXPRESSIONS = [rule["expr"] for rule in RULES] + [target["expr"] for panel in PANELS for target in panel["targets"]]
SAMPLES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
NAMES = re.compile(r"\b(?:fedgalore|process)_[a-z_]+\b")
OF_PROMETHEUS = {"up"}
PAIRS = {")": "(", "]": "[", "}": "{"}


def exported_by(text: str) -> set[str]:
    """Names of the samples of each family, whether it has any yet or not."""
    names = set()
    for family in text_string_to_metric_families(text):
        names |= {family.name + ending for ending in SAMPLES.get(family.type, ("",))}
    return names


async def test_every_metric_that_is_named_is_exported(redis_url: str) -> None:
    engine = assemble(RedisStateStore(redis_url))
    pages = [await Metrics(engine.reader, lambda: (2, 1)).render()]
    await engine.close()
    pages += [generate_latest(exported.REGISTRY), generate_latest(Exported(lambda: True).registry)]
    known = set[str]().union(*(exported_by(page.decode()) for page in pages))
    named = {name for expression in EXPRESSIONS for name in NAMES.findall(expression)}
    assert len(named) > 20
    assert named - known == set()
    ours = {name for name in known if name.startswith("fedgalore_") and not name.endswith("_created")}
    page = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(fedgalore_[a-z_]+)`", page.split("## Metrics", 1)[1].split("\n## ", 1)[0]))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours}
    assert families == told, "docs/OPERATIONS.md lists each"


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_is_whole(expression: str) -> None:
    """There is no promtool here: parentheses match, quotes are closed, functions are known."""
    plain = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    assert '"' not in plain.replace('""', "")
    opened: list[str] = []
    for sign in plain:
        if sign in PAIRS.values():
            opened.append(sign)
        elif sign in PAIRS:
            assert opened.pop() == PAIRS[sign]
    assert not opened
    functions = set(re.findall(r"\b([a-z_]+)\s*\(", plain)) - {"by"}
    assert functions <= {"sum", "max", "min", "count", "rate", "increase", "histogram_quantile"}
    for selected in re.findall(r"\[([^\]]+)\]", plain):
        assert re.fullmatch(r"\d+[smhd]|\$__rate_interval", selected)
    assert re.search(r"\b(?:fedgalore_|process_|up\b)", plain)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Fedgalore[A-Z]\w+", rule["alert"])
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    assert rule["labels"] in ({"severity": level} for level in ("info", "warning", "critical"))
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["annotations"]["description"].endswith(".")
    assert re.search(r"[<>=]=? *[-\d(]|[<>] ", rule["expr"]), "a comparison"


def test_alerts_have_names_of_their_own() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))


def test_the_dashboard_is_whole() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert DASHBOARD["uid"]
    variables = {each["name"] for each in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval", "__all"}
    assert used <= variables
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places, f"{panel['title']} lies over another panel"
        places |= cells
    for panel in PANELS:
        assert panel["title"]
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])


def test_no_label_is_one_that_prometheus_gives() -> None:
    """Of a target: ours would be renamed to exported_job."""
    pages = [generate_latest(exported.REGISTRY), generate_latest(Exported(lambda: True).registry)]
    state = State(measured={"job-1": {"loss": 1.0}}, statistics={"job-1": {"rank": 2.0}})
    shown = CollectorRegistry()
    shown.register(Snapshot(state))
    pages += [generate_latest(shown)]
    for page in pages:
        for family in text_string_to_metric_families(page.decode()):
            assert not {label for sample in family.samples for label in sample.labels} & {"job", "instance"}


def test_what_is_scraped_is_what_rules_name() -> None:
    scraped = {job["job_name"] for job in yaml.safe_load((FOLDER / "prometheus.yaml").read_text())["scrape_configs"]}
    named = {name for expression in EXPRESSIONS for name in re.findall(r'job="(fedgalore-\w+)"', expression)}
    assert named <= scraped
