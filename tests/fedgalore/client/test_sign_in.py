"""Signing in by the device flow at a real provider, and tokens that are renewed before they expire."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coordinator.server import serving
from coordinator.settings import CoordinatorSettings
from fedgalore.client import AsyncClient, Client, Refused, Unreachable, WrongArgument, logins, sign_in
from fedgalore.client.access import Access
from fedgalore.client.sign_in import Code
from fedgalore_cli.main import app
from tests.oidc_provider import CLIENT, OPERATORS, VIEWERS, OidcProvider

pytestmark = pytest.mark.slow


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    with OidcProvider() as serving_people:
        yield serving_people


@pytest.fixture
def url(redis_url: str, tmp_path: Path, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A coordinator in a thread of its own, that has this provider; nothing else is in the environment."""
    for name in ("URL", "API_KEY", "API_KEY_FILE", "CA", "CONTEXT"):
        monkeypatch.delenv(f"FEDGALORE_{name}", raising=False)
    monkeypatch.setenv("FEDGALORE_CONFIG", str(tmp_path / "of/contexts.toml"))
    monkeypatch.setattr(sign_in, "SLOWER_S", 0.2)
    settings = CoordinatorSettings(
        redis_url=redis_url,
        blob_dir=tmp_path / "blobs",
        rest_port=0,
        grpc_port=0,
        aggregator=False,
        oidc_issuer=provider.issuer,
        oidc_client_id=CLIENT,
        oidc_groups={OPERATORS: {"role": "operator", "team": "*"}, VIEWERS: {"role": "viewer", "team": "*"}},
    )
    started, ending, ports = threading.Event(), threading.Event(), {}

    async def serve() -> None:
        async with serving(settings, asyncio.Event()) as found:
            ports.update(found)
            started.set()
            await asyncio.to_thread(ending.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(30)
        yield f"http://127.0.0.1:{ports['rest']}"
    finally:
        ending.set()
        thread.join()


def confirm(provider: OidcProvider, user: str | None) -> Callable[[Code], None]:
    """A person at the provider's page, who is quick."""

    def look(code: Code) -> None:
        assert code.page == f"{provider.issuer}/device?user_code={code.user_code}"
        provider.approve(code.user_code, user)

    return look


def test_a_command_signs_in_and_out(url: str, provider: OidcProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    before = CliRunner().invoke(app, ["jobs", "list", "--url", url])
    assert (before.exit_code, "or sign in by `fedgalore login`" in before.stderr) == (1, True)

    def later() -> None:
        while not provider.devices:
            time.sleep(0.05)
        time.sleep(0.5)  # the first question finds nobody yet
        provider.approve(next(iter(provider.devices.values())).user_code, "ada")

    person = threading.Thread(target=later)
    person.start()
    done = CliRunner().invoke(app, ["login", "--url", url])
    person.join()
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(f"signed in at {url} by {provider.issuer}\n")  # behind the coordinator's log
    file = logins.file_of(url)
    assert done.stderr.startswith(f"open {provider.issuer}/device?user_code=")
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert CliRunner().invoke(app, ["keys", "list", "--url", url]).exit_code == 0
    assert CliRunner().invoke(app, ["logout", "--url", url]).stdout.endswith(f"signed out of {url}\n")
    assert not file.exists()
    assert provider.refreshes == {}  # void at the provider, too
    assert CliRunner().invoke(app, ["logout", "--url", url]).stdout.endswith(f"nobody was signed in at {url}\n")


def test_a_code_expires_in_time_whatever_pause_the_provider_asks_for(url: str, provider: OidcProvider) -> None:
    begun = {
        "device_code": "d",
        "user_code": "u",
        "verification_uri": provider.issuer,
        "interval": 1e9,
        "expires_in": 0.5,
    }
    provider.answers["/device_authorization"] = begun
    provider.answers["/token"] = ({"error": "authorization_pending"}, 400)
    with pytest.raises(Refused, match="nobody confirmed the code in time"):
        sign_in.device(Access.of(url), None, lambda code: None)


def test_a_token_is_renewed_before_it_expires_by_one_of_many(url: str, provider: OidcProvider) -> None:
    provider.expires_s = 5  # less than EARLY_S: each is renewed at once
    made = sign_in.device(Access.of(url), None, confirm(provider, "bob"))
    assert logins.read(url) == made
    with Client(url) as client:
        assert client.jobs() == []
    first = logins.read(url)
    assert first is not None
    assert first.refresh_token not in (None, made.refresh_token)  # it is good once
    provider.expires_s = 600

    async def many() -> None:
        async with AsyncClient(url) as one, AsyncClient(url) as other:
            await asyncio.gather(*(each.jobs() for each in (one, other, one, other)))

    asked = provider.asked["/token"]
    asyncio.run(many())
    assert provider.asked["/token"] == asked + 1


def test_a_login_that_has_ended_says_so(url: str, provider: OidcProvider) -> None:
    provider.expires_s = 5
    sign_in.device(Access.of(url), None, confirm(provider, "bob"))
    provider.refreshes.clear()
    with Client(url) as client, pytest.raises(Refused, match=r"does not renew the token .*`fedgalore login`") as ended:
        client.jobs()
    assert ended.value.code == "signed_out"
    logins.file_of(url).write_text('{"token": "secret"}')
    with Client(url) as client, pytest.raises(WrongArgument, match="login: .* cannot be read; sign in again") as broken:
        client.jobs()
    assert "secret" not in str(broken.value)
    assert CliRunner().invoke(app, ["logout", "--url", url]).stdout.endswith(f"signed out of {url}\n")
    assert not logins.file_of(url).exists()


def test_a_login_that_is_renewed_meanwhile_does_not_come_back(url: str, provider: OidcProvider) -> None:
    provider.expires_s = 5
    sign_in.device(Access.of(url), None, confirm(provider, "bob"))
    asked, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        asked.set()
        go_on.wait(10)

    provider.before_token = hold
    with Client(url) as client:
        renewing = threading.Thread(target=client.jobs)
        renewing.start()
        assert asked.wait(10)
        leaving = threading.Thread(target=sign_in.out, args=(Access.of(url),))
        leaving.start()
        leaving.join(0.2)  # it waits for the one that renews
        go_on.set()
        renewing.join()
        leaving.join()
    assert not logins.file_of(url).exists()
    assert provider.refreshes == {}


def test_a_no_at_the_provider_ends_it(url: str, provider: OidcProvider) -> None:
    with pytest.raises(Refused, match=f"the sign-in was refused at {provider.issuer}"):
        sign_in.device(Access.of(url), None, confirm(provider, None))
    assert not logins.file_of(url).exists()


def test_a_key_goes_before_a_login_and_no_token_elsewhere(url: str, provider: OidcProvider) -> None:
    sign_in.device(Access.of(url), None, confirm(provider, "ada"))
    assert Access.of(url).login
    assert not Access.of(url, key="fgk_key").login
    assert not Access.of("http://127.0.0.1:1").login
    with pytest.raises(WrongArgument, match="url: the token must not travel to http://far.example in plaintext"):
        sign_in.device(Access.of("http://far.example"), None, confirm(provider, "ada"))


def test_an_id_token_can_be_what_is_sent(provider: OidcProvider) -> None:
    made = logins.Login(
        url="http://127.0.0.1:1",
        issuer="i",
        client_id="c",
        token_endpoint="t",
        kind="id_token",
        token="",
        expires_at=0.0,
    )
    assert made.renewed({"access_token": "opaque", "id_token": provider.token()}).token.count(".") == 2
    with pytest.raises(Refused, match="answered without a usable id_token"):
        made.renewed({"access_token": "opaque"})


def test_what_is_no_address_is_a_sentence() -> None:
    assert not logins.is_safe("https://login.example:99999/token")
    with pytest.raises(Unreachable, match=r"no answer from the identity provider at https://x\.\.y/token"):
        logins.post("https://x..y/token", {}, None)


@pytest.mark.parametrize("place", ["~nobody-of-this-name/config.toml", f"/{'long' * 100}/config.toml"])
def test_who_has_no_folder_for_logins_calls_as_before(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDGALORE_CONFIG", place)
    assert not Access.of("http://127.0.0.1:1").login
    with pytest.raises(WrongArgument):
        logins.write(logins.Login.model_construct(url="http://127.0.0.1:1"))
