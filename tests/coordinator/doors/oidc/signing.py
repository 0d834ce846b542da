"""Tokens made by hand, with `cryptography` alone: what a provider signs, and what nobody should believe."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

RSA = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | bytes | None


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(value: int) -> str:
    return base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def published() -> list[dict[str, Any]]:
    """Both public keys as a provider publishes them (RFC 7517)."""
    of_rsa, of_ec = RSA.public_key().public_numbers(), EC.public_key().public_numbers()
    return [
        {"kty": "RSA", "kid": "rsa", "use": "sig", "n": number(of_rsa.n), "e": number(of_rsa.e)},
        {"kty": "EC", "kid": "ec", "crv": "P-256", "x": number(of_ec.x), "y": number(of_ec.y)},
    ]


def signed(claims: dict[str, Any] | bytes, key: Key = RSA, **header: Any) -> str:
    """A token with this header beside `alg`, signed as the key allows: RS256, ES256, HS256, or not at all."""
    algorithm = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256", bytes: "HS256"}
    named = next((name for kind, name in algorithm.items() if isinstance(key, kind)), "none")
    kid = {"RS256": "rsa", "ES256": "ec"}.get(named, "rsa")
    head = json.dumps({"alg": named, "kid": kid, **header}).encode()
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    text = f"{base64url(head)}.{base64url(body)}"
    match key:
        case rsa.RSAPrivateKey():
            made = key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePrivateKey():
            r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
            made = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        case bytes():
            made = hmac.digest(key, text.encode(), hashlib.sha256)
        case _:
            made = b""
    return f"{text}.{base64url(made)}"
