"""Which settings open the doors, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from coordinator.doors.doorkeeper import Access
from coordinator.doors.oidc.tokens import Expected
from coordinator.doors.opening import doors
from coordinator.settings import CoordinatorSettings, load
from fedgalore.process.settings import SettingsError
from fedgalore.process.tls import is_loopback
from fedgalore_cli.main import app

KEY = SecretStr("k" * 32)


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    for name in ("good", "other"):
        arguments = ["certs", "--dir", str(folder / name), "--host", "coordinator.example", "--agent", "a"]
        assert CliRunner().invoke(app, arguments).exit_code == 0
    return folder


def tls(certs: Path, **more: Any) -> dict[str, Any]:
    return {"tls_cert": certs / "good/coordinator.pem", "tls_key": certs / "good/coordinator.key", **more}


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("LocalHost.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("coordinator", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_what_is_this_machine_alone(host: str, local: bool) -> None:
    assert is_loopback(host) is local


def test_on_loopback_nothing_is_asked_for_until_there_is_an_operators_key() -> None:
    assert doors(CoordinatorSettings()).access is Access.OPEN
    assert doors(CoordinatorSettings(operator_key=KEY)).access is Access.SECURED
    assert doors(CoordinatorSettings(insecure=True)).access is Access.OPEN


@pytest.mark.parametrize("door", ["rest_host", "grpc_host"])
def test_a_door_open_to_the_network_needs_tls_and_credentials(door: str, certs: Path) -> None:
    given: dict[str, Any] = {door: "0.0.0.0"}
    with pytest.raises(SettingsError, match=r"tls_cert: .*--insecure.*fedgalore certs"):
        doors(CoordinatorSettings(**given, operator_key=KEY))
    with pytest.raises(SettingsError, match=r"operator_key: .*FEDGALORE_OPERATOR_KEY_FILE"):
        doors(CoordinatorSettings(**given, **tls(certs, client_ca=certs / "good/ca.pem")))
    opened = doors(CoordinatorSettings(**given, operator_key=KEY, **tls(certs, client_ca=certs / "good/ca.pem")))
    assert opened.access is Access.SECURED
    assert opened.tls is not None
    opened.tls.grpc_credentials()


def test_agents_on_the_network_show_certificates_by_default(certs: Path) -> None:
    given = {"grpc_host": "0.0.0.0", "operator_key": KEY, **tls(certs)}
    with pytest.raises(SettingsError, match="client_ca: .*FEDGALORE_MUTUAL_TLS=false"):
        doors(CoordinatorSettings(**given))
    opened = doors(CoordinatorSettings(**given, mutual_tls=False))
    assert opened.tls is not None
    assert opened.tls.client_ca is None


def test_plaintext_on_the_network_is_said_in_so_many_words_and_has_no_keys(certs: Path) -> None:
    assert doors(CoordinatorSettings(rest_host="0.0.0.0", insecure=True)).access is Access.PLAINTEXT
    with pytest.raises(SettingsError, match=r"insecure: 0.0.0.0 .*keys must not travel"):
        doors(CoordinatorSettings(rest_host="0.0.0.0", insecure=True, operator_key=KEY))
    with pytest.raises(SettingsError, match="insecure: is set, and there is a certificate"):
        doors(CoordinatorSettings(insecure=True, **tls(certs)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tls_cert": "good/coordinator.pem"}, "tls_key: missing"),
        ({"tls_key": "good/coordinator.key"}, "tls_cert: missing"),
        ({"client_ca": "good/ca.pem"}, "client_ca: .* needs tls_cert"),
        ({"tls_cert": "good/coordinator.pem", "tls_key": "other/coordinator.key"}, "are no certificate with its key"),
        ({"tls_cert": "good/none.pem", "tls_key": "good/coordinator.key"}, "are no certificate with its key"),
        (
            {"tls_cert": "good/coordinator.pem", "tls_key": "good/coordinator.key", "client_ca": "good/ca.key"},
            "client_ca: .* is no PEM file of a CA",
        ),
    ],
)
def test_files_that_do_not_fit_are_named(given: dict[str, str], words: str, certs: Path) -> None:
    with pytest.raises(SettingsError, match=words):
        doors(CoordinatorSettings(**{name: certs / path for name, path in given.items()}))  # type: ignore[arg-type]


def test_a_key_with_a_password_is_refused_not_asked_for(certs: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as to

    key = to.load_pem_private_key((certs / "good/coordinator.key").read_bytes(), None)
    locked = tmp_path / "locked.key"
    encryption = to.BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, encryption))
    with pytest.raises(SettingsError, match="without a password"):
        doors(CoordinatorSettings(tls_cert=certs / "good/coordinator.pem", tls_key=locked))


@pytest.mark.parametrize("key", ["short", "k" * 31, "k" * 513, "k" * 32 + " ", "ä" * 40])
def test_an_operators_key_that_can_be_guessed_or_sent_badly_is_refused_and_not_shown(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDGALORE_OPERATOR_KEY", key)
    with pytest.raises(SettingsError, match="FEDGALORE_OPERATOR_KEY.*32") as caught:
        load()
    assert key not in str(caught.value)


def test_secrets_are_in_no_text_of_the_settings_and_not_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("s" * 40 + "\n")
    monkeypatch.setenv("FEDGALORE_OPERATOR_KEY_FILE", str(tmp_path / "key"))
    settings = load()
    assert settings.operator_key == SecretStr("s" * 40)
    assert "ssss" not in repr(settings) + str(settings.model_dump())
    assert "ssss" not in str(settings.environment())
    assert not {"FEDGALORE_OPERATOR_KEY", "FEDGALORE_OPERATOR_KEY_FILE"} & set(settings.environment())


@pytest.mark.parametrize("password", ["Ab1/cdGEHEIM", "12/cdGEHEIM", "a?b/GEHEIM", "a#GEHEIM", "x@yGEHEIM/"])
def test_a_password_that_breaks_its_url_is_refused_and_not_shown(
    password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDGALORE_REDIS_URL", f"redis://:{password}@127.0.0.1:6379/0")
    with pytest.raises(SettingsError, match="FEDGALORE_REDIS_URL .*%2F") as caught:
        load()
    assert "GEHEIM" not in str(caught.value)


def test_the_address_of_redis_is_shown_without_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDGALORE_REDIS_URL", "redis://me:a%2FGEHEIM@127.0.0.1:6379/3?password=GEHEIM")
    settings = load()
    assert settings.redis_address == "redis://127.0.0.1:6379/3"
    assert "GEHEIM" not in repr(settings)


def test_a_password_in_a_flag_is_refused_for_process_lists_show_it() -> None:
    for url in ("redis://:geheim@127.0.0.1/0", "redis://127.0.0.1/0?password=geheim", "redis://:a/geheim@127.0.0.1/0"):
        with pytest.raises(SettingsError, match="--redis-url: .*FEDGALORE_REDIS_URL_FILE") as caught:
            load(flags={"redis_url": url})
        assert "geheim" not in str(caught.value)


PEOPLE: dict[str, Any] = {
    "oidc_issuer": "https://login.example",
    "oidc_client_id": "fedgalore",
    "oidc_groups": {"admins": {"role": "operator", "team": "*"}},
}


def test_a_provider_lets_people_in_and_everybody_is_asked(certs: Path) -> None:
    opened = doors(CoordinatorSettings(**PEOPLE))
    assert opened.access is Access.SECURED
    assert opened.expected == Expected("https://login.example", "fedgalore", "groups")
    network = doors(CoordinatorSettings(rest_host="0.0.0.0", **PEOPLE, **tls(certs)))
    assert network.access is Access.SECURED
    with pytest.raises(SettingsError, match=r"insecure: .*unset operator_key and oidc_issuer"):
        doors(CoordinatorSettings(rest_host="0.0.0.0", insecure=True, **PEOPLE))


@pytest.mark.parametrize(
    ("lacking", "why"),
    [
        ("oidc_issuer", "oidc_issuer: is missing, and oidc_client_id is set"),
        ("oidc_client_id", "oidc_client_id: is missing; name the public client"),
        ("oidc_groups", "oidc_groups: is empty, so nobody of the provider could do anything"),
    ],
)
def test_half_a_provider_is_refused(lacking: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        doors(CoordinatorSettings(**{name: value for name, value in PEOPLE.items() if name != lacking}))
