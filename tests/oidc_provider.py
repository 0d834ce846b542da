"""A small OpenID provider over HTTP on loopback: keys that rotate, code flow with PKCE, device flow, refresh.

The protocol is Authlib's server half, so the code under test does not meet its own reading of the standards. Signatures
are joserfc's; `tests.coordinator.doors.oidc.signing` signs without it.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import AuthorizationCodeGrant, RefreshTokenGrant
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc8628 import DeviceAuthorizationEndpoint, DeviceCodeGrant
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from flask import Flask, Response, jsonify, request
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from werkzeug.serving import WSGIRequestHandler, make_server

CLIENT = "fedgalore"
OPERATORS, VIEWERS = "fl-operators", "fl-viewers"


@dataclass
class User:
    id: str
    groups: list[str]

    def get_user_id(self) -> str:
        return self.id


class Client:
    """A public client: it has no secret, so it proves itself by PKCE or by the user's code."""

    client_id = CLIENT

    def get_client_id(self) -> str:
        return CLIENT

    def get_allowed_scope(self, scope: str) -> str:
        return scope or ""

    def check_redirect_uri(self, uri: str) -> bool:
        return uri.startswith("http://127.0.0.1:")

    def check_client_secret(self, secret: str) -> bool:
        return False

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "none"

    def check_grant_type(self, kind: str) -> bool:
        return True

    def check_response_type(self, kind: str) -> bool:
        return kind == "code"


@dataclass
class Saved:
    """A code, a device's wait or a refresh token."""

    user: User | None
    scope: str
    redirect_uri: str = ""
    code_challenge: str | None = None
    code_challenge_method: str | None = None
    user_code: str = ""
    allowed: bool = True
    asked_at: float = 0.0

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope

    def get_client_id(self) -> str:
        return CLIENT

    def get_user_code(self) -> str:
        return self.user_code

    def check_client(self, client: Client) -> bool:
        return True

    def is_expired(self) -> bool:
        return False

    def is_revoked(self) -> bool:
        return False


@cache
def new_key(key_id: str) -> RSAKey:
    """The same for an id, in all tests of a process: making one takes long."""
    return RSAKey.generate_key(2048, {"use": "sig", "kid": key_id})


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


@dataclass
class OidcProvider:
    """Serves as long as the block. `asked`: requests by path. `expires_s`: of access tokens. `extra`: claims of all.
    `answers`: in place of its own, by path. `before_token`: what happens before it gives one."""

    users: dict[str, User] = field(default_factory=dict)
    expires_s: int = 600
    extra: dict[str, Any] = field(default_factory=dict)
    interval_s: float = 0.2  # between a device's questions
    asked: Counter[str] = field(default_factory=Counter)
    answers: dict[str, Any] = field(default_factory=dict)
    before_token: Callable[[], object] = lambda: None

    def __enter__(self) -> OidcProvider:
        os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # Authlib refuses plaintext, also on loopback
        self.users |= {name: User(name, [group]) for name, group in (("ada", OPERATORS), ("bob", VIEWERS))}
        self.keys = [new_key("first")]
        self.codes: dict[str, Saved] = {}
        self.devices: dict[str, Saved] = {}
        self.refreshes: dict[str, Saved] = {}
        self._app = _app(self)
        self._server = make_server("127.0.0.1", 0, self._app, threaded=True, request_handler=_Quiet)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def rotate(self, key_id: str) -> None:
        """Signs with a new key from now on, and publishes it alone."""
        self.keys = [new_key(key_id)]

    def token(self, user: str = "ada", **claims: Any) -> str:
        """An access token of this user; claims that are None are left out."""
        now = int(time.time())
        said: dict[str, Any] = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": user,
            "iat": now,
            "exp": now + self.expires_s,
            "groups": self.users[user].groups if user in self.users else [],
        }
        said = {name: value for name, value in (said | self.extra | claims).items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": self.keys[-1].kid, "typ": "at+jwt"}, said, self.keys[-1], ["RS256"])

    def approve(self, user_code: str, user: str | None) -> None:
        """What a person does at the page of the device flow; None: says no."""
        waiting = next(each for each in self.devices.values() if each.user_code == user_code)
        waiting.user, waiting.allowed = self.users[user or "ada"], user is not None


def _app(provider: OidcProvider) -> Flask:
    app = Flask("oidc")
    app.secret_key = secrets.token_hex(16)
    server = AuthorizationServer(app, lambda client_id: Client() if client_id == CLIENT else None, lambda *_: None)

    class Tokens(JWTBearerTokenGenerator):  # type: ignore[misc]
        def generate(self, *args: Any, user: User, scope: str, **more: Any) -> dict[str, Any]:
            token = {"access_token": provider.token(user.id), "token_type": "Bearer", "expires_in": provider.expires_s}
            if "openid" in scope:
                token["id_token"] = provider.token(user.id, email=f"{user.id}@example.org")
            token["refresh_token"] = secrets.token_urlsafe(24)
            provider.refreshes[token["refresh_token"]] = Saved(user, scope)
            return token | {"scope": scope}

        __call__ = generate

    class Code(AuthorizationCodeGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = ["none"]  # noqa: RUF012

        def save_authorization_code(self, code: str, request: Any) -> None:
            asked = request.payload.data
            saved = Saved(request.user, request.payload.scope, asked["redirect_uri"])
            saved.code_challenge = asked.get("code_challenge")
            saved.code_challenge_method = asked.get("code_challenge_method")
            provider.codes[code] = saved

        def query_authorization_code(self, code: str, client: Client) -> Saved | None:
            return provider.codes.get(code)

        def delete_authorization_code(self, saved: Saved) -> None:
            provider.codes = {code: each for code, each in provider.codes.items() if each is not saved}

        def authenticate_user(self, saved: Saved) -> User | None:
            return saved.user

    class Refresh(RefreshTokenGrant):  # type: ignore[misc]
        TOKEN_ENDPOINT_AUTH_METHODS = ["none"]  # noqa: RUF012
        INCLUDE_NEW_REFRESH_TOKEN = True

        def authenticate_refresh_token(self, token: str) -> Saved | None:
            return provider.refreshes.get(token)

        def authenticate_user(self, saved: Saved) -> User | None:
            return saved.user

        def revoke_old_credential(self, saved: Saved) -> None:
            provider.refreshes = {token: each for token, each in provider.refreshes.items() if each is not saved}

    class Device(DeviceCodeGrant):  # type: ignore[misc]
        def query_device_credential(self, code: str) -> Saved | None:
            return provider.devices.get(code)

        def query_user_grant(self, user_code: str) -> tuple[User, bool] | None:
            saved = next(each for each in provider.devices.values() if each.user_code == user_code)
            return (saved.user, saved.allowed) if saved.user else None

        def should_slow_down(self, saved: Saved) -> bool:
            early = time.monotonic() - saved.asked_at < 0.8 * provider.interval_s
            saved.asked_at = time.monotonic()
            return early

    class AskDevice(DeviceAuthorizationEndpoint):  # type: ignore[misc]
        INTERVAL = provider.interval_s

        def get_verification_uri(self) -> str:
            return f"{provider.issuer}/device"

        def save_device_credential(self, client_id: str, scope: str, data: dict[str, Any]) -> None:
            provider.devices[data["device_code"]] = Saved(None, scope, user_code=data["user_code"])

    class Revoke(RevocationEndpoint):  # type: ignore[misc]
        CLIENT_AUTH_METHODS = ["none"]  # noqa: RUF012

        def query_token(self, token: str, hint: str | None) -> str | None:
            return token if token in provider.refreshes else None

        def revoke_token(self, token: str, request: Any) -> None:
            del provider.refreshes[token]

        def check_params(self, request: Any, client: Client) -> None:
            pass

        def authenticate_token(self, request: Any, client: Client) -> str | None:
            return self.query_token(request.form["token"], None)

    server.register_token_generator("default", Tokens(provider))
    server.register_grant(Code, [CodeChallenge(required=True)])
    server.register_grant(Refresh)
    server.register_grant(Device)
    server.register_endpoint(AskDevice)
    server.register_endpoint(Revoke)

    @app.before_request
    def count() -> Any:
        provider.asked[request.path] += 1
        return provider.answers.get(request.path)

    @app.after_request
    def share(answer: Response) -> Response:
        answer.headers["Access-Control-Allow-Origin"] = "*"  # as providers do for pages that sign in by code
        return answer

    @app.get("/.well-known/openid-configuration")
    def discovery() -> Response:
        places = ("authorization", "token", "device_authorization", "revocation")
        named = {f"{place}_endpoint": f"{provider.issuer}/{place}" for place in places}
        return jsonify({"issuer": provider.issuer, "jwks_uri": f"{provider.issuer}/keys", **named})

    @app.get("/keys")
    def keys() -> Response:
        return jsonify(KeySet(list(provider.keys)).as_dict(private=False))

    @app.route("/authorization", methods=["GET", "POST"])
    def authorize() -> Any:
        """A page with a button for each user; the button posts to the same address."""
        grant = server.get_consent_grant(end_user=None)
        if request.method == "GET":
            buttons = "".join(f'<button name="user" value="{name}">{name}</button>' for name in provider.users)
            return f"<!doctype html><title>Sign in</title><form method=post>{buttons}</form>"
        return server.create_authorization_response(grant_user=provider.users[request.form["user"]], grant=grant)

    @app.post("/token")
    def token() -> Any:
        provider.before_token()
        return server.create_token_response()

    @app.post("/device_authorization")
    def device() -> Any:
        return server.create_endpoint_response(AskDevice.ENDPOINT_NAME)

    @app.post("/revocation")
    def revoke() -> Any:
        return server.create_endpoint_response(Revoke.ENDPOINT_NAME)

    return app
