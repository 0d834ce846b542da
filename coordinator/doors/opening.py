"""How the settings open the two doors: with TLS, with credentials, or without."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.doors.doorkeeper import Access
from coordinator.doors.oidc.tokens import Expected
from coordinator.settings import CoordinatorSettings
from fedgalore.process.settings import SettingsError
from fedgalore.process.tls import is_loopback

if TYPE_CHECKING:
    import grpc

_CERTIFICATES = "`fedgalore certs --dir certs --host NAME` makes certificates where there are none"


@dataclass(frozen=True)
class Tls:
    """Certificate chain and key of both doors, as PEM files that belong together.

    `client_ca`: who has to have signed the certificates that agents show; None: they show none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For the agents' door."""
        import grpc

        pair = (self.key.read_bytes(), self.certificate.read_bytes())
        ca = self.client_ca.read_bytes() if self.client_ca else None
        return grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)


@dataclass(frozen=True)
class Doors:
    """`expected`: of the tokens of people, where an identity provider is named."""

    tls: Tls | None
    access: Access
    expected: Expected | None = None


def doors(settings: CoordinatorSettings) -> Doors:
    """How to open them. What is open to the network is encrypted and asks for credentials unless `insecure` is set.

    Raises:
        SettingsError: something is missing, or two settings contradict each other.
    """
    if settings.client_ca is not None and not settings.mutual_tls:
        raise SettingsError("mutual_tls: is off, and client_ca asks agents for certificates; unset one of the two")
    expected = _expected(settings)
    asks = expected is not None or settings.operator_key is not None
    open_rest, open_grpc = not is_loopback(settings.rest_host), not is_loopback(settings.grpc_host)
    tls = _tls(settings)
    if tls and settings.insecure:
        raise SettingsError("insecure: is set, and there is a certificate (tls_cert); unset one of the two")
    if open_rest or open_grpc:
        host = settings.rest_host if open_rest else settings.grpc_host
        if settings.insecure:
            if asks:
                raise SettingsError(
                    f"insecure: {host} is open to the network without TLS, and keys must not travel there; give a "
                    "certificate (tls_cert, tls_key), or unset operator_key and oidc_issuer"
                )
            return Doors(None, Access.PLAINTEXT)
        if tls is None:
            raise SettingsError(
                f"tls_cert: is missing, and {host} is open to the network; give a certificate and its key "
                f"(FEDGALORE_TLS_CERT, FEDGALORE_TLS_KEY), listen on 127.0.0.1, or say --insecure; {_CERTIFICATES}"
            )
        if open_grpc and settings.mutual_tls and tls.client_ca is None:
            raise SettingsError(
                "client_ca: is missing; name the CA that signs the agents' certificates (FEDGALORE_CLIENT_CA), or set "
                f"FEDGALORE_MUTUAL_TLS=false for agents that show none; {_CERTIFICATES}"
            )
        if not asks:
            raise SettingsError(
                f"operator_key: is missing, and {host} is open to the network; set FEDGALORE_OPERATOR_KEY_FILE to a "
                "file that holds 32 characters or more (`fedgalore certs --operator-key` makes it): all other keys and "
                "tokens are made with this key"
            )
    return Doors(tls, Access.SECURED if asks else Access.OPEN, expected)


def _expected(settings: CoordinatorSettings) -> Expected | None:
    """What tokens have to be; None where no identity provider is named."""
    given = [name for name in ("oidc_client_id", "oidc_audience", "oidc_groups", "oidc_ca") if getattr(settings, name)]
    if settings.oidc_issuer is None:
        if given:
            raise SettingsError(
                f"oidc_issuer: is missing, and {given[0]} is set; name the provider, or unset {given[0]}"
            )
        return None
    if settings.oidc_client_id is None:
        raise SettingsError(
            "oidc_client_id: is missing; name the public client that the provider has for this coordinator's people"
        )
    if not settings.oidc_groups:
        raise SettingsError(
            "oidc_groups: is empty, so nobody of the provider could do anything; name a group, its role and its team, "
            'such as {"fl-admins": {"role": "operator", "team": "*"}}'
        )
    audience = settings.oidc_audience or settings.oidc_client_id
    return Expected(settings.oidc_issuer, audience, settings.oidc_groups_claim)


def _tls(settings: CoordinatorSettings) -> Tls | None:
    if (settings.tls_cert is None) != (settings.tls_key is None):
        missing = "tls_key" if settings.tls_key is None else "tls_cert"
        raise SettingsError(f"{missing}: missing; certificate and key go together, so set both or none")
    if settings.tls_cert is None or settings.tls_key is None:
        if settings.client_ca is not None:
            raise SettingsError("client_ca: asks agents for certificates, which needs tls_cert and tls_key as well")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingsError(
            f"tls_cert, tls_key: {settings.tls_cert} and {settings.tls_key} are no certificate with its key in PEM "
            f"files, without a password ({error}); name a pair that belongs together"
        ) from None
    if settings.client_ca is not None:
        try:
            context.load_verify_locations(settings.client_ca)
        except OSError as error:
            raise SettingsError(
                f"client_ca: {settings.client_ca} is no PEM file of a CA ({error}); name the certificate of the CA"
            ) from None
    return Tls(settings.tls_cert, settings.tls_key, settings.client_ca)


def _no_password() -> str:
    raise ValueError("the key has a password: nobody is there to type it")
