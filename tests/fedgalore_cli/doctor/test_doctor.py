"""`fedgalore doctor` on set-ups that work and on broken ones: each line says what to do."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from typer.testing import CliRunner

from coordinator.store.redis_health import OLDEST, is_too_old
from fedgalore.process.redis_server import RedisServer, free_port
from fedgalore.process.tls import SOON
from fedgalore_cli.doctor import coordinator, door, finding, machine, site
from fedgalore_cli.doctor.finding import Finding, Level
from fedgalore_cli.main import app
from tests.s3_server import S3Server


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A coordinator's settings that nothing is wrong with but Redis, which is not there."""
    for name in ("URL", "API_KEY", "API_KEY_FILE", "CA", "CONTEXT", "OPERATOR_KEY", "TLS_CERT"):
        monkeypatch.delenv(f"FEDGALORE_{name}", raising=False)
    monkeypatch.setenv("FEDGALORE_CONFIG", str(tmp_path / "contexts.toml"))
    monkeypatch.setenv("FEDGALORE_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setenv("FEDGALORE_BLOB_DIR", str(tmp_path / "not/yet/there"))
    for name in ("REST", "GRPC"):
        monkeypatch.setenv(f"FEDGALORE_{name}_PORT", str(free_port()))
    return monkeypatch


def by_name(found: Any) -> dict[str, Finding]:
    return {each.about: each for each in found}


def test_a_coordinator_without_redis_is_told_so_and_what_works_is_well() -> None:
    found = by_name(coordinator.coordinator(None))
    assert found["redis"].level is Level.FAIL and "check redis_url and the server" in found["redis"].told
    assert {found[name].level for name in ("rest_port", "grpc_port", "doors")} == {Level.OK}
    assert found["blob_dir"].level is not Level.FAIL


@pytest.mark.bucket
def test_a_bucket_is_tried_and_what_it_lacks_is_said(
    s3_server: S3Server, settings: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings.setenv("FEDGALORE_BLOBS", "s3://blobs/doctor")
    found = by_name(coordinator.coordinator(None))["blobs"]
    assert (found.level, found.told) == (
        Level.OK,
        "s3://blobs/doctor can be written, and keeps what must not be overwritten",
    )
    assert not (tmp_path / "not").exists()  # it changes nothing here
    settings.setenv("FEDGALORE_BLOBS", "s3://no-such-bucket")
    missing = by_name(coordinator.coordinator(None))["blobs"]
    assert missing.level is Level.FAIL and "there is no such bucket: create it" in missing.told


def test_a_redis_that_loses_jobs_is_named_with_its_policy(
    redis_url: str, settings: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    settings.setenv("FEDGALORE_REDIS_URL", redis_url)
    assert by_name(coordinator.coordinator(None))["redis"].told == "answers; appendonly yes, appendfsync always"
    with redis.Redis.from_url(redis_url) as server:
        assert int(str(server.info("server")["redis_version"]).partition(".")[0]) >= OLDEST
        try:
            server.config_set("maxmemory-policy", "allkeys-lru")
            broken = by_name(coordinator.coordinator(None))["redis"]
            server.config_set("maxmemory-policy", "noeviction")
            server.config_set("appendfsync", "everysec")
            risky = [each for each in coordinator.coordinator(None) if each.about == "redis"]
        finally:
            server.config_set("maxmemory-policy", "noeviction")
            server.config_set("appendfsync", "always")
    assert (broken.level, "set maxmemory-policy noeviction" in broken.told) == (Level.FAIL, True)
    assert [each.level for each in risky] == [Level.OK, Level.WARN]
    assert "set appendonly yes and appendfsync always" in risky[1].told


def test_taken_ports_open_doors_and_wrong_settings_are_named(settings: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings.setenv("FEDGALORE_GRPC_PORT", str(other.getsockname()[1]))
        taken = by_name(coordinator.coordinator(None))["grpc_port"]
    assert (taken.level, "set FEDGALORE_GRPC_PORT" in taken.told) == (Level.FAIL, True)
    settings.setenv("FEDGALORE_GRPC_PORT", str(free_port()))
    settings.setenv("FEDGALORE_REST_HOST", "0.0.0.0")
    doors = by_name(coordinator.coordinator(None))["doors"]
    assert doors.level is Level.FAIL and "FEDGALORE_TLS_CERT" in doors.told
    settings.setenv("FEDGALORE_INSECURE", "true")
    assert by_name(coordinator.coordinator(None))["doors"].level is Level.WARN
    settings.setenv("FEDGALORE_REST_PORT", "many")
    (wrong,) = coordinator.coordinator(None)
    assert (wrong.level, wrong.about, "FEDGALORE_REST_PORT" in wrong.told) == (Level.FAIL, "settings", True)


def test_certificates_and_disks_are_told_with_their_ends(tmp_path: Path, settings: pytest.MonkeyPatch) -> None:
    assert (
        CliRunner().invoke(app, ["certs", "--dir", str(tmp_path), "--host", "127.0.0.1", "--days", "9"]).exit_code == 0
    )
    assert machine.certificate("ca", tmp_path / "ca.pem").level is Level.OK
    assert machine.certificate("tls_cert", tmp_path / "coordinator.pem").level is Level.WARN
    assert "cannot be read" in machine.certificate("tls_cert", tmp_path / "coordinator.key").told
    ended = machine.ending("tls_cert", "it", datetime.now(UTC) - timedelta(days=1))
    assert (ended.level, "renew it" in ended.told) == (Level.FAIL, True)
    assert machine.ending("tls_cert", "it", datetime.now(UTC) + SOON + timedelta(days=1)).level is Level.OK
    settings.setattr(machine, "free_bytes", lambda folder: 10**6)
    assert machine.disk("blob_dir", tmp_path).level is Level.FAIL
    settings.setattr(machine, "free_bytes", lambda folder: 10**9)
    assert machine.disk("blob_dir", tmp_path).level is Level.WARN
    settings.setattr(machine, "writable", lambda folder: False)
    assert "cannot be written" in machine.disk("blob_dir", tmp_path).told


@pytest.mark.slow  # torch is imported
def test_a_site_is_told_of_its_data_and_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + "rain,0\nsong,1\n" * 3)
    config = {"name": "site", "work_dir": "work", "coordinator": f"127.0.0.1:{free_port()}"}
    data = {"topics": {"train": "train.csv", "text": "text", "label": "label"}}
    data |= {"lost": {"train": "nowhere.csv", "text": "text", "label": "label"}}
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(config | {"data": data}))
    found = by_name(site.site(tmp_path / "agent.yaml"))
    assert found["data.topics"].told == "6 examples to train on, 0 to test on"
    assert found["data.lost"].level is Level.FAIL and "nowhere.csv" in found["data.lost"].told
    assert found["coordinator"].level is Level.FAIL and "nobody listens at" in found["coordinator"].told
    (tmp_path / "agent.yaml").write_text("name: site\n")
    assert {each.about for each in site.site(tmp_path / "agent.yaml")} == {"settings"}


def test_the_whole_is_a_line_each_and_ends_by_the_worst(settings: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    (away,) = door.door(url)
    assert (away.level, url in away.told) == (Level.WARN, True)
    settings.setattr(machine, "machine", lambda: iter([finding.ok("version", "fedgalore")]))
    done = CliRunner().invoke(app, ["doctor", "--url", url])
    assert done.exit_code == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok", "fail", *["ok"] * 4, "warn"]
    rows = json.loads(CliRunner().invoke(app, ["doctor", "--url", url, "-o", "json"]).stdout)["findings"]
    assert rows[0] == {"level": "ok", "about": "version", "told": "fedgalore"}


@pytest.mark.parametrize(
    ("version", "old"), [("6.2.14", True), ("7.0.0", False), ("255.255.255", False), ("unstable", False), ("", False)]
)
def test_a_version_that_is_no_number_is_not_called_old(version: str, old: bool) -> None:
    assert is_too_old(version) is old


def test_a_provider_that_does_not_answer_is_named(settings: pytest.MonkeyPatch) -> None:
    issuer = f"http://127.0.0.1:{free_port()}"
    settings.setenv("FEDGALORE_OIDC_ISSUER", issuer)
    settings.setenv("FEDGALORE_OIDC_CLIENT_ID", "fedgalore")
    settings.setenv("FEDGALORE_OIDC_GROUPS", '{"staff": {"role": "viewer", "team": "*"}}')
    found = by_name(coordinator.coordinator(None))
    assert found["doors"].told == "everybody is asked for credentials"
    assert found["oidc_issuer"].level is Level.FAIL
    assert f"oidc_issuer: {issuer} does not answer at" in found["oidc_issuer"].told
