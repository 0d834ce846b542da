"""What a provider publishes, and what of it is not taken."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from coordinator.doors.oidc.provider import DISCOVERY, Provider, Unusable
from coordinator.state.errors import ProviderAway
from fedgalore.process.settings import SettingsError
from tests.oidc_provider import OidcProvider, new_key

SECRET = {"kty": "oct", "kid": "first", "k": "c2VjcmV0"}


@pytest.mark.parametrize(
    ("published", "why"),
    [
        ({"issuer": "https://else.example"}, "calls itself 'https://else.example'; write the setting as it does"),
        (
            {"jwks_uri": "http://keys.example/"},
            "names 'http://keys.example/' as jwks_uri, which is no https:// address",
        ),
        ({"jwks_uri": "file:///etc/passwd"}, "names 'file:///etc/passwd' as jwks_uri"),
        ({"token_endpoint": "https://x; script-src *"}, "names 'https://x; script-src *' as token_endpoint"),
        ({"jwks_uri": "https://keys.example:99999/"}, "names 'https://keys.example:99999/' as jwks_uri"),
        ({"jwks_uri": "https://xn--/"}, "does not answer at https://xn--/"),
        ({"jwks_uri": None}, "names no jwks_uri"),
        ({"jwks_uri": "{issuer}/nowhere"}, "answers 404 at"),
        ({"jwks_uri": "{issuer}/secrets"}, "publishes no key that could sign a token"),
        ({"jwks_uri": "{issuer}/huge"}, "answers more than 262144 bytes at"),
        ({"jwks_uri": "{issuer}/away"}, "answers 302 at"),
        ({"jwks_uri": "{issuer}/text"}, "answers no JSON object at"),
    ],
)
async def test_a_wrong_provider_is_a_sentence(provider: OidcProvider, published: dict[str, Any], why: str) -> None:
    whole = {"issuer": provider.issuer, "jwks_uri": f"{provider.issuer}/keys"} | published
    provider.answers = {
        "/secrets": (json.dumps({"keys": [SECRET, {"kty": "RSA"}, {"kty": "PQ"}, 3]}), 200),
        "/huge": ("[" * 2**19, 200),
        "/away": ("", 302, {"Location": f"{provider.issuer}/keys"}),
        "/text": ("[" * 5000, 200),
        DISCOVERY: (json.dumps(whole).replace("{issuer}", provider.issuer), 200),
    }
    async with contextlib.aclosing(Provider(provider.issuer)) as asked:
        await asked.renew()
        assert asked.problem is not None
        assert asked.problem.startswith(f"oidc_issuer: {provider.issuer} {why}")
        with pytest.raises(ProviderAway, match="API keys let in as ever"):
            await asked.keys("first")


async def test_of_many_keys_those_that_can_sign_are_taken(provider: OidcProvider) -> None:
    good = new_key("first").as_dict(private=False)
    others = [SECRET, {**good, "use": "enc", "kid": "second"}, {**good, "n": "AQAB", "kid": "short"}]
    others += [{"kty": kind, "crv": "brainpoolP256r1", "x": "AAAA", "y": "AAAA"} for kind in ("EC", "OKP")]
    provider.answers = {"/keys": (json.dumps({"keys": [*others, good]}), 200)}
    async with contextlib.aclosing(Provider(provider.issuer)) as asked:
        assert [key.kid for key in await asked.keys("first")] == ["first"]


async def test_what_it_gave_stays_while_it_is_away_and_unknown_keys_wait(provider: OidcProvider) -> None:
    now = 0.0
    async with contextlib.aclosing(Provider(provider.issuer, clock=lambda: now)) as asked:
        await asked.renew()
        provider.rotate("second")
        assert {key.kid for key in await asked.keys("second")} == {"first"}  # asked a moment ago
        now = 10.0
        assert {key.kid for key in await asked.keys("second")} == {"second"}
        assert (asked.changes, provider.asked["/keys"]) == (2, 2)
        provider.stop()
        now = 20.0
        assert {key.kid for key in await asked.keys("second")} == {"second"}
        with pytest.raises(ProviderAway, match="does not answer"):
            await asked.keys("third")
        assert {key.kid for key in await asked.keys(None)} == {"second"}


async def test_a_provider_elsewhere_cannot_point_at_this_machine(provider: OidcProvider) -> None:
    async with contextlib.aclosing(Provider("https://login.example")) as asked:
        with pytest.raises(Unusable, match="which is no https:// address"):
            asked._address({"jwks_uri": f"{provider.issuer}/keys"}, "jwks_uri")


def test_a_ca_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(SettingsError, match=r"oidc_ca: .*ca.pem is no PEM file of a CA"):
        Provider("https://login.example", tmp_path / "ca.pem")
