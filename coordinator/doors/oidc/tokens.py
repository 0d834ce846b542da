"""What a token says, once its signature was seen to be the provider's: a JWT (RFC 7519, 9068). Pure.

Everything that a token names beside a key's id is left alone: no `jku`, `x5u` or `jwk` of a header is looked at, so no
token chooses what is fetched or believed.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordinator.state.errors import NotAuthenticated
from fedgalore.process.plain import plain

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

# Of two keys, never of a secret that both ends have: what the provider publishes must not sign (HS256).
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
TYPES = ("jwt", "at+jwt", "application/at+jwt")  # a logout token, say, lets nobody in
MAX_TOKEN = 16 * 1024  # characters
MAX_HEADER = 2048  # bytes
MAX_NAME = 200  # characters of a subject, a name or a group
SKEW_S = 60  # by which clocks may differ
NAMES = ("preferred_username", "email", "sub")  # claims that say whose it is, the first that is there
AGAIN = "sign in again by `fedgalore login`"


@dataclass(frozen=True)
class Expected:
    """What tokens have to be: by this issuer, for this audience; and the claim that has a person's groups."""

    issuer: str
    audience: str
    groups_claim: str


@dataclass(frozen=True)
class Person:
    """`expires_at`: seconds since the epoch."""

    subject: str
    name: str
    groups: tuple[str, ...]
    expires_at: float


def looks_like_one(secret: str) -> bool:
    """Whether this is a token rather than an API key, which has no dots."""
    return secret.count(".") == 2


def key_id(token: str) -> str | None:
    """The id of the key that has to have signed it; None where it names none.

    Raises:
        NotAuthenticated: it is too large, is none, or is not signed as it has to be.
    """
    from joserfc.errors import JoseError
    from joserfc.jws import extract_compact

    if len(token) > MAX_TOKEN:
        raise _refused(f"has {len(token)} characters, and {MAX_TOKEN} are taken; let the provider leave groups out")
    try:
        header = extract_compact(token.encode(), registry=_registry()).headers()
    except (JoseError, ValueError, TypeError, AttributeError, RecursionError):
        raise _no_token() from None
    algorithm, kind, key = header.get("alg"), header.get("typ", "JWT"), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise _refused("is not signed by an algorithm of two keys, such as RS256 or ES256; let the provider sign so")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise _refused("is of a kind (typ) that lets nobody in; send an access token or an ID token")
    if not (key is None or isinstance(key, str)):
        raise _no_token()
    return key


def person(token: str, keys: KeySet, expected: Expected, now: float) -> Person:
    """Whose token it is.

    Raises:
        NotAuthenticated: it is not by the provider, not for this coordinator, out of its time, or says too little.
    """
    from joserfc import jwt
    from joserfc.errors import BadSignatureError, InvalidKeyIdError, JoseError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an older name of an algorithm, such as EdDSA
            claims = jwt.decode(token, keys, ALGORITHMS, _registry()).claims
    except (BadSignatureError, InvalidKeyIdError):
        raise _refused(f"is not signed by a key of {expected.issuer}; {AGAIN}") from None
    except (JoseError, ValueError, TypeError, RecursionError):
        raise _no_token() from None
    _check_time_and_place(claims, expected, now)
    subject = _text("sub", claims["sub"])
    told = next((claim for claim in NAMES if claims.get(claim)), "sub")
    groups = _groups(claims, expected.groups_claim)
    return Person(subject, _text(told, claims[told]), groups, min(claims["exp"], 2**53))


def _check_time_and_place(claims: dict[str, Any], expected: Expected, now: float) -> None:
    from joserfc.errors import ClaimError, ExpiredTokenError, MissingClaimError
    from joserfc.jwt import JWTClaimsRegistry

    wanted = JWTClaimsRegistry(
        now=int(now),
        leeway=SKEW_S,
        iss={"essential": True, "value": expected.issuer},
        aud={"essential": True, "value": expected.audience},
        sub={"essential": True},
        exp={"essential": True},
    )
    try:
        wanted.validate(
            {name: claims.get(name) for name in ("iss", "aud", "sub", "exp", "nbf", "iat") if name in claims}
        )
    except ExpiredTokenError:
        raise _refused(f"has expired; {AGAIN}") from None
    except MissingClaimError as error:
        raise _refused(f"lacks {error.claim.replace(',', ', ')}; let the provider put that into its tokens") from None
    except ClaimError as error:
        raise _refused(_misfit(error.claim, expected)) from None


def _misfit(claim: str, expected: Expected) -> str:
    match claim:
        case "iss":
            return f"is by another issuer than {expected.issuer}; {AGAIN}"
        case "aud":
            return f"is for another audience (aud) than {expected.audience!r}; {AGAIN}, or correct oidc_audience"
        case "nbf" | "iat":
            return f"is not good yet ({claim}); look whether the clocks of provider and coordinator agree"
        case _:
            return f"has no usable {claim}; {AGAIN}"


def _groups(claims: dict[str, Any], claim: str) -> tuple[str, ...]:
    """The claim by its name, or by the way to it with dots, such as `realm_access.roles`; empty where there is none."""
    found: Any = claims.get(claim)
    if found is None:
        found = claims
        for part in claim.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    if found is None:
        return ()
    listed = [found] if isinstance(found, str) else found
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise _refused(f"has a claim {claim} that is no list of texts; correct oidc_groups_claim")
    return tuple(listed)


def _text(claim: str, value: object) -> str:
    """A claim that is shown to people and written into the audit."""
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_NAME or plain(value) != value:
        raise _refused(
            f"has a claim {claim} that is no text of 1 to {MAX_NAME} letters that can be shown; let the provider's "
            "administrator correct the name"
        )
    return value


def _registry() -> Any:
    from joserfc.jws import JWSRegistry

    registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
    registry.max_header_length = MAX_HEADER
    return registry


def _refused(why: str) -> NotAuthenticated:
    return NotAuthenticated(f"Authorization: the token {why}")


def _no_token() -> NotAuthenticated:
    return _refused(f"cannot be read as a signed one (JWT); {AGAIN}, or send an API key")
