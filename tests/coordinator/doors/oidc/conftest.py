"""A provider over HTTP for each test, with its first users and keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oidc_provider import OidcProvider


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    with OidcProvider() as serving:
        yield serving
