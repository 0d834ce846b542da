"""`fedgalore login` and `fedgalore logout`: a person at an identity provider, in place of an API key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedgalore_cli.options import Format, Output, Url, chosen
from fedgalore_cli.output import note, put

if TYPE_CHECKING:
    from fedgalore.client.sign_in import Code


def login(
    url: Url = None,
    issuer_ca: Annotated[
        Path | None,
        typer.Option("--issuer-ca", help="The CA of the provider's certificate, where the system does not know it."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Sign in at the coordinator's identity provider, by a code that is confirmed in a browser on any machine.

    The tokens lie beside the file of contexts, readable by you alone, and are renewed by themselves. An API key goes
    before them.
    """
    from fedgalore.client import logins, sign_in
    from fedgalore.client.access import Access

    access = Access.of(url, context=chosen.context)
    if access.headers:
        note(f"warning: there is an API key for {access.url} (context or environment), which goes before the login")
    made = sign_in.device(access, None if issuer_ca is None else issuer_ca.expanduser().absolute(), _show)
    told = {"url": made.url, "issuer": made.issuer, "file": str(logins.file_of(made.url))}
    put(output, told, f"signed in at {made.url} by {made.issuer}")


def logout(url: Url = None, output: Output = Format.TABLE) -> None:
    """Delete the tokens of `fedgalore login`, and make what renews them void at the provider where it can be told."""
    from fedgalore.client import sign_in
    from fedgalore.client.access import Access

    access = Access.of(url, context=chosen.context)
    before = sign_in.out(access)
    words = f"signed out of {access.url}" if before else f"nobody was signed in at {access.url}"
    put(output, {"url": access.url, "signed_out": before}, words)


def _show(code: Code) -> None:
    """To stderr, and also where the command is to be quiet: nothing goes on without it."""
    typer.echo(f"open {code.page} and confirm the code {code.user_code}", err=True)
