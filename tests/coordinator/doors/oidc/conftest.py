"""A provider over HTTP for each test, with its first users and keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.oidc_provider import OidcProvider


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    from tests.oidc_provider import OidcProvider  # skips where Authlib is not installed

    with OidcProvider() as serving:
        yield serving
