"""The agent's own key and its line to the coordinator."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from client_agent.credential import KEY_FILE, Line, line
from client_agent.errors import AgentRefused, AgentUnknown
from client_agent.settings import AgentSettings, load
from client_agent.transport import Transport
from coordinator.doors.doorkeeper import Access
from fedgalore.process.settings import SettingsError
from tests.client_agent.conftest import Coordinator

PEM = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"


def settings(folder: Path, **given: Any) -> AgentSettings:
    data = {"intents": {"train": folder / "train.jsonl", "text": "text", "label": "label"}}
    return AgentSettings(**{"name": "a", "work_dir": folder, "data": data, **given})


def test_a_key_is_created_with_the_first_join_token_and_stays(tmp_path: Path) -> None:
    assert line(settings(tmp_path)) == Line()
    first = line(settings(tmp_path, join_token="fgj_x"))
    assert first.join_token == "fgj_x"
    assert first.key is not None
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600
    assert line(settings(tmp_path)).key == first.key  # the token is needed once
    assert line(settings(tmp_path, join_token="fgj_y")).key == first.key
    assert first.key not in repr(first)
    assert "fgj_x" not in repr(first)
    assert first.metadata == (("authorization", f"Bearer {first.key}"),)
    assert len(first.key_sha256) == 64
    assert first.key_sha256 not in first.key


def test_another_folder_has_another_key(tmp_path: Path) -> None:
    keys = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        keys.append(line(settings(tmp_path / name, join_token="fgj_x")).key)
    assert keys[0] != keys[1]


def test_a_key_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=f"work_dir: the agent's key .*{KEY_FILE}"):
        line(settings(tmp_path))


@pytest.mark.parametrize("content", ["", "fga_short", "fga_" + "0" * 64 + "\nfga_" + "0" * 64])
def test_a_file_that_holds_no_key_burns_no_token(tmp_path: Path, content: str) -> None:
    (tmp_path / KEY_FILE).write_text(content)
    with pytest.raises(SettingsError, match="holds no key; delete it"):
        line(settings(tmp_path, join_token="fgj_x"))


def test_a_used_token_may_be_tidied_away(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with pytest.raises(SettingsError, match="join_token_file: .*token cannot be read"):
        line(settings(tmp_path, join_token_file=file))
    file.write_text("\n")
    with pytest.raises(SettingsError, match="join_token_file: .*token is empty"):
        line(settings(tmp_path, join_token_file=file))
    file.write_text("fgj_x\n")
    first = line(settings(tmp_path, join_token_file=file))
    assert first.join_token == "fgj_x"
    file.write_text("")
    assert line(settings(tmp_path, join_token_file=file)) == Line(key=first.key)
    file.unlink()
    assert line(settings(tmp_path, join_token_file=file)) == Line(key=first.key)


@pytest.mark.parametrize(
    ("given", "encrypted"),
    [
        ({"coordinator": "127.0.0.1:1"}, False),
        ({"coordinator": "[::1]:1"}, False),
        ({"coordinator": "coordinator.example:1"}, True),
        ({"coordinator": "coordinator.example:1", "insecure": True}, False),
    ],
)
def test_traffic_that_leaves_the_machine_is_encrypted_by_default(
    tmp_path: Path, given: dict[str, Any], encrypted: bool
) -> None:
    assert (line(settings(tmp_path, **given)).channel is not None) is encrypted


def test_a_ca_means_tls_on_this_machine_too(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(PEM)
    assert line(settings(tmp_path, ca=tmp_path / "ca.pem")).channel is not None


def test_no_key_travels_in_plaintext_beyond_this_machine(tmp_path: Path) -> None:
    away = {"coordinator": "coordinator.example:1", "insecure": True}
    with pytest.raises(SettingsError, match="insecure: .*plaintext"):
        line(settings(tmp_path, join_token="fgj_x", **away))
    with pytest.raises(SettingsError, match=KEY_FILE):  # the key file exists: the first call created it
        line(settings(tmp_path, **away))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"ca": "none.pem"}, "ca: .*none.pem cannot be read"),
        ({"ca": "train.jsonl"}, "ca: .*train.jsonl is no PEM file"),
        ({"ca": "ca.pem", "tls_cert": "ca.pem"}, "certificate and key go together|is no certificate"),
        ({"tls_cert": "ca.pem", "tls_key": "ca.pem"}, "tls_cert: .* is plaintext: name the ca"),
        ({"ca": "ca.pem", "insecure": True}, "ca: .* is plaintext: unset insecure"),
        ({"ca": "ca.pem", "tls_key": "ca.pem"}, "a certificate and its key go together"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    (tmp_path / "ca.pem").write_text(PEM)
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(SettingsError, match=words):
        line(settings(tmp_path, **{name: tmp_path / v if isinstance(v, str) else v for name, v in given.items()}))


def test_the_join_token_comes_from_a_file_and_shows_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("fgj_geheim\n")
    (tmp_path / "agent.yaml").write_text(
        "{name: a, work_dir: work, ca: pki/ca.pem, data: {d: {train: t.csv, text: x, label: y}}}"
    )
    monkeypatch.setenv("FEDGALORE_AGENT_JOIN_TOKEN_FILE", str(tmp_path / "token"))
    loaded = load(tmp_path / "agent.yaml")
    assert line(loaded.model_copy(update={"work_dir": tmp_path, "ca": None})).join_token == "fgj_geheim"
    assert loaded.ca == tmp_path / "pki/ca.pem"
    monkeypatch.setenv("FEDGALORE_AGENT_JOIN_TOKEN", "fgj_other")
    assert load(tmp_path / "agent.yaml").join_token == SecretStr("fgj_other")
    assert "other" not in repr(load(tmp_path / "agent.yaml"))
    with pytest.raises(SettingsError, match="both are set"):
        line(load(tmp_path / "agent.yaml"))


@asynccontextmanager
async def connected(coordinator: Coordinator, folder: Path, token: str | None) -> AsyncIterator[Transport]:
    way = line(settings(folder, join_token=token) if token else settings(folder))
    transport = Transport(coordinator.address, "a", line=way)
    try:
        yield transport
    finally:
        await transport.close()


async def test_an_agent_enrols_once_and_comes_back_with_its_key(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.doorkeeper.access = Access.SECURED
    _, token = await coordinator.doorkeeper.create_join_token("a", 60)
    async with connected(coordinator, tmp_path, None) as stranger:
        with pytest.raises(AgentRefused, match="not enrolled .*fedgalore agents invite a"):
            await stranger.register({"d": 1})
    for given in (token, token, None):  # with the token once more, as a container's environment keeps it
        async with connected(coordinator, tmp_path, given) as agent:
            await agent.register({"d": 1})
            assert await agent.next_task(0) is None
    (tmp_path / "other").mkdir()
    async with connected(coordinator, tmp_path / "other", token) as thief:
        with pytest.raises(AgentRefused, match="used already"):
            await thief.register({"d": 1})


async def test_a_revoked_agent_is_out_with_its_next_call(coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.doorkeeper.access = Access.SECURED
    _, token = await coordinator.doorkeeper.create_join_token("a", 60)
    async with connected(coordinator, tmp_path, token) as agent:
        await agent.register({"d": 1})
        await coordinator.doorkeeper.revoke_agent("a")
        with pytest.raises(AgentUnknown, match="revoked"):
            await agent.next_task(0)
        with pytest.raises(AgentRefused):
            await agent.register({"d": 1})


@pytest.mark.slow
async def test_a_key_for_this_machine_goes_to_no_proxy(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.5)
        for name in ("HTTP_PROXY", "http_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        async with connected(coordinator, tmp_path, None) as agent:
            await asyncio.wait_for(agent.register({"d": 1}), 20)
        with pytest.raises(TimeoutError):
            proxy.accept()
