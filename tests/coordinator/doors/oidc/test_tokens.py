"""Which tokens are believed: signatures made by hand, not by the library that checks them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import KeySet

from coordinator.doors.oidc.tokens import MAX_TOKEN, SKEW_S, Expected, Person, key_id, person
from coordinator.state.errors import NotAuthenticated
from tests.coordinator.doors.oidc.signing import EC, OTHER, RSA, Key, base64url, published, signed

NOW = 1_800_000_000.0
ISSUER = "https://login.example"
EXPECTED = Expected(ISSUER, "fedgalore", "groups")
KEYS = KeySet.import_key_set({"keys": published()})  # type: ignore[typeddict-item]
GOOD: dict[str, Any] = {
    "iss": ISSUER,
    "aud": ["fedgalore", "another"],
    "sub": "ada",
    "exp": NOW + 300,
    "iat": NOW - 10,
    "preferred_username": "Ada Ĺ.",
    "groups": ["a", "b"],
}


def told(token: str, expected: Expected = EXPECTED) -> Person:
    key_id(token)
    return person(token, KEYS, expected, NOW)


@pytest.mark.parametrize("key", [RSA, EC])
def test_a_good_token_says_who_it_is(key: Key) -> None:
    assert told(signed(GOOD, key, typ="at+jwt")) == Person("ada", "Ada Ĺ.", ("a", "b"), NOW + 300)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"iss": "https://other.example"}, f"is by another issuer than {ISSUER}"),
        ({"iss": [ISSUER]}, "is by another issuer"),
        ({"aud": "another"}, "is for another audience (aud) than 'fedgalore'"),
        ({"aud": {"fedgalore": 1}}, "is for another audience"),
        ({"exp": NOW - SKEW_S}, "has expired"),
        ({"exp": "tomorrow"}, "has no usable exp"),
        ({"exp": True}, "has no usable exp"),
        ({"nbf": NOW + SKEW_S + 2}, "is not good yet (nbf)"),
        ({"iat": NOW + SKEW_S + 2}, "is not good yet (iat)"),
        ({"exp": None}, "lacks exp"),
        ({"aud": None, "iss": None}, "lacks aud, iss"),
        ({"sub": None}, "lacks sub"),
        ({"sub": 7}, "has no usable sub"),
        ({"sub": "a\nb"}, "has a claim sub that is no text"),
        ({"preferred_username": "ada\u202eroot"}, "has a claim preferred_username that is no text"),
        ({"preferred_username": "x" * 201}, "has a claim preferred_username that is no text"),
        ({"preferred_username": ["ada"]}, "has a claim preferred_username that is no text"),
        ({"groups": {"a": 1}}, "has a claim groups that is no list of texts"),
        ({"groups": ["a", 1]}, "has a claim groups that is no list of texts"),
    ],
)
def test_a_token_that_does_not_fit_is_refused_in_a_sentence(claims: dict[str, Any], why: str) -> None:
    said = {name: value for name, value in {**GOOD, **claims}.items() if value is not None}
    with pytest.raises(NotAuthenticated) as refused:
        told(signed(said))
    assert str(refused.value).startswith(f"Authorization: the token {why}")
    assert "\n" not in str(refused.value)


def test_clocks_may_differ_a_little() -> None:
    assert told(signed({**GOOD, "exp": NOW - SKEW_S + 2, "nbf": NOW + SKEW_S - 2})).subject == "ada"
    assert told(signed({**GOOD, "exp": 10**400})).expires_at == 2**53


@pytest.mark.parametrize(
    ("claim", "said", "groups"),
    [
        ("groups", {"groups": "one"}, ("one",)),
        ("groups", {"groups": None}, ()),
        ("https://x.example/groups", {"https://x.example/groups": ["a"]}, ("a",)),
        ("realm_access.roles", {"realm_access": {"roles": ["a"]}}, ("a",)),
        ("realm_access.roles", {"realm_access": ["roles"]}, ()),
    ],
)
def test_groups_are_where_the_setting_says(claim: str, said: dict[str, Any], groups: tuple[str, ...]) -> None:
    assert told(signed({**GOOD, **said}), Expected(ISSUER, "fedgalore", claim)).groups == groups


PEM = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
HEAD, BODY, SIGNATURE = signed(GOOD).split(".")


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(signed(GOOD, None), id="not signed"),
        pytest.param(f"{HEAD}.{BODY}.", id="signature left out"),
        pytest.param(signed(GOOD, PEM), id="the public key as a secret"),
        pytest.param(signed(GOOD, OTHER), id="another's key"),
        pytest.param(signed(GOOD, OTHER, jwk=published()[0]), id="a key in the header"),
        pytest.param(signed(GOOD, OTHER, jku="http://127.0.0.1/keys"), id="an address of keys in the header"),
        pytest.param(signed(GOOD, EC, alg="RS256", kid="ec"), id="an algorithm of another kind of key"),
        pytest.param(signed(GOOD, kid="unknown"), id="an unknown key"),
        pytest.param(signed(GOOD, kid=["rsa"]), id="a list of keys"),
        pytest.param(signed(GOOD, crit=["exp"]), id="a header that has to be understood"),
        pytest.param(signed(GOOD, typ="logout+jwt"), id="another kind of token"),
        pytest.param(f"{HEAD}.{base64url(json.dumps({**GOOD, 'sub': 'eve'}).encode())}.{SIGNATURE}", id="changed"),
        pytest.param(f"{HEAD}.{BODY}.{SIGNATURE[:-4]}", id="cut"),
        pytest.param("..", id="empty"),
        pytest.param("a.b.c", id="no base64"),
        pytest.param(f"{base64url(b'[1]')}.{BODY}.{SIGNATURE}", id="a list as header"),
        pytest.param(f"{base64url(b'[' * 1500)}.{BODY}.{SIGNATURE}", id="a deep header"),
        pytest.param(signed(b"[1]"), id="a list of claims"),
        pytest.param(signed(b"[" * 8000), id="deep claims"),
        pytest.param(signed(b'{"exp": ' + b"9" * 5000 + b"}"), id="a number beyond all bounds"),
        pytest.param(signed(b"\xff\xfe"), id="no UTF-8"),
        pytest.param(signed({**GOOD, "groups": ["g" * 30] * 500}), id="huge"),
        pytest.param(signed(GOOD, x="y" * 4000), id="a huge header"),
    ],
)
def test_what_only_looks_like_a_token_is_refused(token: str) -> None:
    with pytest.raises(NotAuthenticated) as refused:
        told(token)
    assert str(refused.value).startswith("Authorization: the token ")
    assert len(str(refused.value)) < 300


def test_as_much_as_is_taken() -> None:
    room = MAX_TOKEN - len(signed({**GOOD, "groups": [""]}))
    assert told(signed({**GOOD, "groups": ["g" * (room * 3 // 4 - 2)]})).subject == "ada"
