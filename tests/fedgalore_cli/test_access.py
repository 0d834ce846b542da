"""`fedgalore certs`, `keys`, `agents`: against a coordinator process that speaks TLS and asks for keys."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fedgalore.process.redis_server import free_port
from fedgalore_cli.local import LocalFederation, Secured
from fedgalore_cli.main import app

pytestmark = pytest.mark.slow

OPERATOR = "operators-key-" + "0" * 32


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    folder = tmp_path_factory.mktemp("secured")
    assert run("certs", "--dir", str(folder / "certs"), "--host", "127.0.0.1").exit_code == 0
    with LocalFederation(folder / "run", [], secured=Secured(folder / "certs", OPERATOR)) as federation:
        yield federation


@pytest.fixture(autouse=True)
def as_operator(federation: LocalFederation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDGALORE_URL", federation.rest_url)
    monkeypatch.setenv("FEDGALORE_CA", str(federation.root.parent / "certs/ca.pem"))
    monkeypatch.setenv("FEDGALORE_API_KEY", OPERATOR)


def test_a_key_is_created_used_and_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created = run("keys", "create", "auditor", "--out", str(tmp_path / "key"))
    assert created.exit_code == 0, created.output
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    key = (tmp_path / "key").read_text().strip()
    assert key not in created.output
    assert run("keys", "create", "auditor", "--out", str(tmp_path / "key")).exit_code == 1  # never written over
    monkeypatch.delenv("FEDGALORE_API_KEY")
    monkeypatch.setenv("FEDGALORE_API_KEY_FILE", str(tmp_path / "key"))
    assert run("jobs", "list").exit_code == 0
    refused = run("keys", "list")
    assert refused.exit_code == 1
    assert "needs an operator's; ask an operator for a key of that role [not_allowed]" in refused.stderr
    monkeypatch.delenv("FEDGALORE_API_KEY_FILE")
    monkeypatch.setenv("FEDGALORE_API_KEY", OPERATOR)
    assert run("keys", "create", "x y", "--out", str(tmp_path / "refused")).exit_code == 1
    assert not (tmp_path / "refused").exists()
    assert "auditor" in run("keys", "list").stdout
    (row,) = json.loads(run("keys", "list", "-o", "json").stdout)["keys"]
    assert run("keys", "revoke", row["id"]).exit_code == 0
    assert "no keys but the operator's own" in run("keys", "list").stderr


def test_without_a_key_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDGALORE_API_KEY")
    answer = run("jobs", "list")
    assert answer.exit_code == 1
    assert "no API key" in answer.stderr
    assert "FEDGALORE_API_KEY" in answer.stderr


def test_a_client_is_invited_listed_and_revoked() -> None:
    created = run("agents", "invite", "hospital-a", "--valid-days", "1")
    assert created.exit_code == 0
    assert created.stdout.startswith("fgj_")  # alone, for a pipe
    assert "hospital-a" in created.stderr
    listed = run("agents", "tokens")
    assert "hospital-a" in listed.stdout
    assert "open" in listed.stdout
    assert created.stdout.strip() not in listed.stdout
    (token,) = json.loads(run("agents", "tokens", "-o", "json").stdout)["join_tokens"]
    assert run("agents", "revoke-token", token["id"]).exit_code == 0
    assert "no join tokens" in run("agents", "tokens").stderr
    assert run("agents", "invite", "hospital-a").exit_code == 0
    assert run("agents", "revoke", "hospital-a").exit_code == 0
    assert run("agents", "revoke", "hospital-a").exit_code == 1
    assert "no join tokens" in run("agents", "tokens").stderr
    assert "client" in run("agents", "invite", "../a").stderr


def test_a_key_is_not_sent_in_plaintext_beyond_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDGALORE_URL", "http://coordinator.example:8080")
    answer = run("jobs", "list")
    assert answer.exit_code == 2
    assert "must not travel to coordinator.example in plaintext" in answer.stderr
    assert OPERATOR not in answer.output


def test_a_coordinator_with_an_unknown_certificate_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDGALORE_CA")
    answer = run("jobs", "list")
    assert answer.exit_code == 2
    assert "FEDGALORE_CA" in answer.stderr
    monkeypatch.setenv("FEDGALORE_CA", "nowhere.pem")
    assert "nowhere.pem is no PEM file" in run("jobs", "list").stderr


def test_certificates_are_added_to_a_folder_and_never_written_over(tmp_path: Path) -> None:
    folder = str(tmp_path / "pki")
    assert run("certs", "--dir", folder, "--host", "a.example", "--host", "10.0.0.1").exit_code == 0
    ca = (tmp_path / "pki/ca.pem").read_bytes()
    assert run("certs", "--dir", folder, "--agent", "one", "--agent", "two").exit_code == 0
    assert (tmp_path / "pki/ca.pem").read_bytes() == ca
    created = sorted(path.name for path in (tmp_path / "pki").iterdir())
    assert created == sorted(
        f"{stem}.{end}" for stem in ("ca", "coordinator", "agent-one", "agent-two") for end in ("key", "pem")
    )
    for path in (tmp_path / "pki").glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = run("certs", "--dir", folder, "--agent", "one")
    assert again.exit_code == 1
    assert "agent-one.pem exists already" in again.stderr
    (tmp_path / "pki/agent-one.pem").unlink()  # as a process that was killed leaves it
    assert run("certs", "--dir", folder, "--agent", "one").exit_code == 0
    assert run("certs", "--dir", folder, "--operator-key").exit_code == 0
    assert len((tmp_path / "pki/operator.key").read_text().strip()) == 64
    assert run("certs", "--dir", folder, "--operator-key").exit_code == 1
    for bad in (["--agent", ""], ["--host", " "], ["--host", "http://a.example"], ["--agent", "../x"]):
        assert run("certs", "--dir", str(tmp_path / "b"), *bad).exit_code == 1
    assert not (tmp_path / "b").exists()
    (tmp_path / "pki/ca.key").write_text("nonsense")
    assert "cannot be read" in run("certs", "--dir", folder, "--agent", "three").stderr
    assert "nothing to create" in run("certs", "--dir", folder).stderr


def test_a_key_for_this_machine_goes_to_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.5)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("FEDGALORE_URL", f"http://127.0.0.1:{free_port()}")
        assert "no answer from" in run("jobs", "list").stderr
        with pytest.raises(TimeoutError):
            proxy.accept()
