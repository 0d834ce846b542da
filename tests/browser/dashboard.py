"""The dashboard as a person meets it: by what it says and what can be pressed."""

from __future__ import annotations

from typing import Any

# Pages by a name, with the job that is looked at in place of JOB.
PAGES = {
    "jobs": "#/jobs",
    "new job": "#/launch",
    "clone": "#/launch/JOB",
    "agents": "#/agents",
    "all models": "#/models",
    "audit": "#/audit",
    "compare": "#/compare/JOB,JOB",
    **{
        tab or "overview": f"#/jobs/JOB/{tab}"
        for tab in ("", "rounds", "sites", "alignment", "models", "document", "log")
    },
    "round": "#/jobs/JOB/rounds/2",
}


class Dashboard:
    """`page`: Playwright's; `url`: of the coordinator."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.requests: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url.removeprefix(url)))

    async def open(self, where: str = "#/jobs") -> None:
        await self.page.goto(f"{self.url}/{where}")

    async def says(self, text: str) -> None:
        """Waits until the page shows this."""
        await self.page.get_by_text(text).first.wait_for()

    async def press(self, name: str, role: str = "button") -> None:
        await self.page.get_by_role(role, name=name, exact=True).first.click()

    async def tab_to(self, name: str, most: int = 60) -> None:
        """Goes on by the keyboard alone until this has the focus."""
        for _ in range(most):
            await self.page.keyboard.press("Tab")
            if await self.focus() == name:
                return
        raise AssertionError(f"Tab never reached {name!r}")

    async def focus(self) -> str:
        """What has the focus, by the name that a screen reader would say, as far as the tests need it."""
        said: str = await self.page.evaluate(
            "(({ textContent, ariaLabel, labels }) => (ariaLabel || labels?.[0]?.textContent || textContent).trim())"
            "(document.activeElement)"
        )
        return said

    async def is_wider_than_the_window(self) -> bool:
        wider: bool = await self.page.evaluate("document.documentElement.scrollWidth > innerWidth")
        return wider
