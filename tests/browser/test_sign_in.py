"""Signing in from the dashboard, at a provider that checks the code flow and PKCE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import house
from tests.browser.dashboard import Dashboard
from tests.oidc_provider import CLIENT, OPERATORS, OidcProvider

pytestmark = pytest.mark.browser


@pytest.fixture
def provider() -> Iterator[OidcProvider]:
    with OidcProvider() as serving:
        yield serving


async def test_a_person_signs_in_stays_and_signs_out(
    page: Any, redis_url: str, tmp_path: Path, provider: OidcProvider
) -> None:
    settings = {
        "oidc_issuer": provider.issuer,
        "oidc_client_id": CLIENT,
        "oidc_groups": {OPERATORS: {"role": "operator", "team": "*"}},
    }
    async with house(redis_url, tmp_path, **settings) as stack:
        dashboard = Dashboard(page, str(stack.http.base_url))
        await dashboard.open("#/agents")
        await dashboard.says("This coordinator asks who you are.")
        await page.evaluate("sessionStorage.setItem('key', 'fgk_revoked')")
        provider.expires_s = 20  # less than EARLY_MS: each request renews
        await dashboard.press("Sign in")
        await dashboard.press("ada")
        await dashboard.says("Sign out")
        assert page.url == f"{dashboard.url}/#/agents"  # no code stays in the address
        asked = provider.asked["/token"]
        await page.get_by_role("link", name="Jobs", exact=True).click()
        await dashboard.says("No jobs yet.")
        assert provider.asked["/token"] > asked
        provider.answers["/token"] = ("", 503)  # it cannot just now, which ends no login
        await page.get_by_role("link", name="Agents", exact=True).click()
        await dashboard.says("No agents yet.")
        await dashboard.says("Sign out")
        del provider.answers["/token"]
        kept = await page.evaluate("JSON.stringify([localStorage.length, document.cookie])")
        assert kept == '[0,""]'
        await dashboard.press("Sign out")
        await dashboard.says("This coordinator asks who you are.")
        await page.goto(f"{dashboard.url}/?code=stolen&state=guessed")
        await dashboard.says("This sign-in was not begun in this tab; sign in again.")
        assert provider.codes == {}
