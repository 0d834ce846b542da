"""Settings: order of the sources, secrets from files, refusals that name the variable."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest
import structlog

from coordinator.settings import CoordinatorSettings, load
from fedgalore.process import logs
from fedgalore.process.settings import SettingsError


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FEDGALORE_"):
            monkeypatch.delenv(name)


def test_defaults_bind_to_loopback() -> None:
    settings = load()
    assert (settings.rest_host, settings.grpc_host) == ("127.0.0.1", "127.0.0.1")
    assert (settings.rest_port, settings.grpc_port) == (8080, 50051)
    assert settings.aggregator


def test_flags_beat_the_environment_beats_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "coordinator.yaml"
    config.write_text("rest_port: 1\ngrpc_port: 2\npresence_s: 3\n")
    monkeypatch.setenv("FEDGALORE_REST_PORT", "11")
    monkeypatch.setenv("FEDGALORE_GRPC_PORT", "12")
    settings = load(config, {"rest_port": 21, "grpc_port": None})
    assert (settings.rest_port, settings.grpc_port, settings.presence_s) == (21, 12, 3.0)


def test_a_secret_comes_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "url"
    secret.write_text("redis://:hush@db:6379/1\n")
    monkeypatch.setenv("FEDGALORE_REDIS_URL_FILE", str(secret))
    settings = load()
    assert settings.redis_url == "redis://:hush@db:6379/1"
    assert settings.redis_address == "redis://db:6379/1"
    assert "hush" not in settings.redis_address

    monkeypatch.setenv("FEDGALORE_REDIS_URL", "redis://elsewhere")
    with pytest.raises(SettingsError, match="FEDGALORE_REDIS_URL and FEDGALORE_REDIS_URL_FILE are both set"):
        load()
    monkeypatch.delenv("FEDGALORE_REDIS_URL")
    secret.unlink()
    with pytest.raises(SettingsError, match="FEDGALORE_REDIS_URL_FILE: .* cannot be read"):
        load()


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("REST_PORT", "seventy", "'seventy' does not fit; give a whole number"),
        ("GRPC_PORT", "70000", "from 0 to 65535"),
        ("REDIS_URL", "http://x", "does not start with redis:// or rediss://; write it such as redis://x:6379"),
        ("REDIS_URL", "redis://::1:6379/0", "without brackets; write it such as redis://[::1]:6379"),
        ("REDIS_URL", "redis://[::1:6379/0", "write it such as redis://[::1]:6379"),
        ("REDIS_URL", "redis://db:6379/first", "'first' where the number of a database belongs"),
        ("REST_HOST", "http://0.0.0.0", "starts with http://; write an address or name alone, such as 0.0.0.0"),
        ("GRPC_HOST", "[::]", "has brackets, which belong where a port follows"),
        ("BLOBS", "bucket/prefix", "names no bucket; write it such as s3://bucket/prefix"),
        ("BLOBS", "file:///srv/blobs", "names no bucket"),
        ("BLOBS", "s3://bucket/../other", "names no bucket"),
        ("BLOBS", "s3://key:secret@bucket", "names no bucket"),
        ("THREADS", "0", "'0' does not fit; give auto or a whole number from 1 to 1024"),
        ("LOG_FORMAT", "xml", "auto, json or text"),
        ("PRESENCE_S", "0", "from 1 to 3600"),
        ("OIDC_ISSUER", "http://login.example", "is no https:// address: whoever is on the line could sign tokens"),
        ("OIDC_ISSUER", "login.example", "does not start with https:// or http://; write it such as https://login"),
        ("OIDC_ISSUER", "https://login.example/?a=1", "has more than host and path"),
        ("OIDC_GROUPS", '{"staff": {"role": "owner"}}', "staff.role: 'owner' does not fit; give viewer or operator"),
        ("CORS_ORIGINS", '["*"]', "* is no origin of pages; write scheme and host"),
        ("CORS_ORIGINS", '["https://portal.example/"]', "https://portal.example/ is no origin of pages"),
    ],
)
def test_a_bad_value_names_its_variable(
    variable: str, value: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"FEDGALORE_{variable}", value)
    with pytest.raises(SettingsError) as caught:
        load()
    assert f"FEDGALORE_{variable}" in str(caught.value)
    assert problem in str(caught.value)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDGALORE_THREADS", "")
    assert load().threads == "auto"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("redis_ulr: redis://x", "redis_ulr: unknown key"),
        ("- 1", "must be a mapping"),
        ("a: [", "c.yaml is not valid YAML"),
        ("rest_port: !!bool x", "not valid YAML.*does not fit its tag"),
        ("rest_port: 1\nrest_port: 2", "'rest_port' is given twice"),
        ("_cli_parse_args: true", "_cli_parse_args: unknown key"),
        ("blob_dir: ~nobody-of-this-name/blobs", "blob_dir.*home directory"),
        ('blob_dir: "a\\0"', "blob_dir.*zero byte"),
    ],
)
def test_a_bad_file_is_refused(text: str, problem: str, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(text)
    with pytest.raises(SettingsError, match=problem):
        load(config)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--config: .*nowhere.yaml cannot be read"):
        load(tmp_path / "nowhere.yaml")


def test_the_child_sees_the_same_state_and_blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDGALORE_REDIS_URL_FILE", "")
    given = {"redis_url": "redis://db", "blob_dir": tmp_path / "blobs", "threads": 2, "rest_port": 5, "presence_s": 7}
    parent = load(flags={**given, "allow_pickle": True})
    for name, value in parent.environment().items():
        monkeypatch.setenv(name, value)
    child = load()
    assert (child.redis_url, child.blob_dir, child.threads) == (parent.redis_url, parent.blob_dir, 2)
    assert child.presence_s == 7
    assert child.allow_pickle
    assert child.rest_port == CoordinatorSettings().rest_port


def test_logs_are_json_lines_when_not_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure()
    try:
        structlog.get_logger("test").info("round_closed", job="j1", round=3)
        line = json.loads(stream.getvalue())
    finally:
        structlog.reset_defaults()
    assert (line["event"], line["job"], line["round"], line["level"]) == ("round_closed", "j1", 3, "info")
