"""`fedgalore certs`: certificates for a federation that has no certificate authority (CA) yet."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedgalore.process import durable
from fedgalore.process.address import check_host
from fedgalore_cli import secret_file
from fedgalore_cli.errors import fail
from fedgalore_cli.options import Format, Output
from fedgalore_cli.output import put

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CA_DAYS = 3650
_USES = [
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
]


def certs(
    directory: Annotated[Path, typer.Option("--dir", help="Folder of the CA and of what it signs.")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name or address by which the coordinator is reached; may be given again."),
    ] = None,
    agent: Annotated[list[str] | None, typer.Option(help="A client's name; may be given again.")] = None,
    operator_key: Annotated[bool, typer.Option("--operator-key", help="Create an operator's key as well.")] = False,
    days: Annotated[int, typer.Option(help="Days that the certificates are good for.", min=1, max=CA_DAYS)] = 365,
    output: Output = Format.TABLE,
) -> None:
    """Create a CA, the coordinator's certificate (--host), agents' certificates (--agent) and an operator's key.

    If the folder has a CA already, that CA signs the new certificates. Existing files are never overwritten: to renew a
    certificate, remove its two files first. Keep `ca.key` to yourself. An agent needs `ca.pem` and the two files that
    bear its name.
    """
    if not (host or agent or operator_key):
        fail("there is nothing to create: give --host for the coordinator, --agent for an agent, or --operator-key")
    for name in agent or ():
        _check_client(name)
    for name in host or ():
        _check_host(name)
    made: list[str] = []

    def tell(path: Path) -> None:
        made.append(str(path))
        if output is Format.TABLE:  # at once: a later file may fail
            typer.echo(path)

    if operator_key:
        with secret_file.new(directory / "operator.key") as file:
            file.write(secrets.token_hex(32).encode() + b"\n")
        tell(directory / "operator.key")
    if host or agent:
        ca, key = _authority(directory, tell)
        if host:
            _issue(directory / "coordinator", host[0], host, tell, server=True, days=days, ca=ca, ca_key=key)
        for name in agent or ():
            _issue(directory / f"agent-{name}", name, [name], tell, server=False, days=days, ca=ca, ca_key=key)
    put(output, {"files": made}, lambda: None)


def _check_host(name: str) -> None:
    try:
        check_host(name.removeprefix("*."))
    except ValueError as error:
        fail(f"--host: {error}")


def _check_client(name: str) -> None:
    """Ends the command if a coordinator would refuse the name."""
    from coordinator.state.errors import InvalidAgent
    from coordinator.state.limits import check_name

    try:
        check_name("--agent", name)
    except InvalidAgent as error:
        fail(str(error))


def _authority(directory: Path, tell: Callable[[Path], None]) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    """The CA in the folder. Creates a CA where there is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    certificate, key_file = directory / "ca.pem", directory / "ca.key"
    if not certificate.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("FedGaLore federation")
        usage = {use: use in ("key_cert_sign", "crl_sign") for use in _USES}
        builder = (
            _builder(name, name, key, CA_DAYS)
            .add_extension(x509.BasicConstraints(True, 0), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
        )
        _write(directory / "ca", _signed(builder, key), key, tell)
    try:
        ca = x509.load_pem_x509_certificate(certificate.read_bytes())
        loaded = load_pem_private_key(key_file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        fail(f"--dir: the CA in {certificate} and {key_file} cannot be read ({error}); restore both files")
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != ca.public_key():
        fail(f"--dir: {key_file} is not the key of {certificate}; restore the key, or name another folder")
    return ca, loaded


def _issue(
    stem: Path,
    name: str,
    alternatives: list[str],
    tell: Callable[[Path], None],
    *,
    server: bool,
    days: int,
    ca: x509.Certificate,
    ca_key: EllipticCurvePrivateKey,
) -> None:
    """Writes `<stem>.pem` and `<stem>.key`."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        names = x509.SubjectAlternativeName([_alternative(text) for text in alternatives])
    except ValueError as error:
        hosts = ", ".join(alternatives)
        fail(f"--host: {hosts} cannot all stand in a certificate ({error}); give names in ASCII letters, or addresses")
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = (
        _builder(_name(name), ca.subject, key, days)
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(names, critical=False)
        .add_extension(issuer_key, critical=False)
    )
    _write(stem, _signed(builder, ca_key), key, tell)


def _alternative(text: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _name(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text[:64])])


def _builder(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # for clocks that are behind
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, key: EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    return builder.sign(key, hashes.SHA256())


def _write(
    stem: Path, certificate: x509.Certificate, key: EllipticCurvePrivateKey, tell: Callable[[Path], None]
) -> None:
    from cryptography.hazmat.primitives import serialization as to

    pem = key.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, to.NoEncryption())
    final = stem.with_name(f"{stem.name}.pem")
    if final.exists():
        fail(f"{final} exists already; to renew it, remove it and its key first")
    # The certificate comes last: a key without a certificate was interrupted, and is overwritten.
    for suffix, content in (("key", pem), ("pem", certificate.public_bytes(to.Encoding.PEM))):
        path = stem.with_name(f"{stem.name}.{suffix}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with durable.survives_power_cut(path, durable.SECRET) as draft:
                draft.write_bytes(content)
        except OSError as error:
            fail(f"{path} cannot be written ({error}); name another folder by --dir")
        tell(path)
