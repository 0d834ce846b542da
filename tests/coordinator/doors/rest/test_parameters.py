"""Parameters and bodies of every route: what it does not know is refused."""

from __future__ import annotations

import re

from tests.coordinator.doors.rest.stack import JOBS, Stack, is_problem


async def test_every_route_refuses_what_it_does_not_know_and_names_what_it_takes(stack: Stack) -> None:
    document = (await stack.http.get("/openapi.json")).json()
    asked = 0
    for path, operations in document["paths"].items():
        url = re.sub(r"\{\w+\}", "1", path)
        for method, operation in operations.items():
            known = sorted(each["name"] for each in operation.get("parameters", []) if each["in"] == "query")
            answer = await stack.http.request(method.upper(), url, params={"dry_rnu": "true"}, json={"force": 1})
            rows = {row["field"]: row["problem"] for row in is_problem(answer, 422, "invalid_request")["errors"]}
            takes_none = method != "get" and "requestBody" not in operation
            assert list(rows) == (["dry_rnu", "body"] if takes_none else ["dry_rnu"])
            assert rows["dry_rnu"].endswith(f"takes {', '.join(known)}" if known else "takes no parameters")
            assert rows.get("body", "").endswith("takes none; leave it out" if takes_none else "")
            asked += 1
    assert asked > 20
    assert (await stack.http.get(JOBS)).json()["jobs"] == []


async def test_a_parameter_is_given_once(stack: Stack) -> None:
    shown = is_problem(await stack.http.get(f"{JOBS}?limit=1&limit=2&afetr=x"), 422, "invalid_request")
    assert [row["field"] for row in shown["errors"]] == ["limit", "afetr"]
    assert "limit: is given 2 times" in shown["detail"]
    assert (await stack.http.get(f"{JOBS}?limit=1")).status_code == 200
