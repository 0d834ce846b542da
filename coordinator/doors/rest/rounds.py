"""Routes of a job's rounds, and of what was measured in them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi import Path as PathParameter

from coordinator.doors.rest import measurements, schemas, views
from coordinator.engine.state_reader import StateReader
from coordinator.state.job_state import Job
from coordinator.state.limits import MAX_ROUNDS_LISTED
from coordinator.state.round_state import Round
from coordinator.state.versions import versions

Limit = Annotated[int, Query(ge=1, le=MAX_ROUNDS_LISTED, description="Rounds at most")]
After = Annotated[int, Query(ge=0, lt=2**31, description="Only rounds with a greater number")]
_MEASURED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": measurements.MetricList,
        "content": {"text/csv": {"schema": {"type": "string"}, "example": measurements.EXAMPLE}},
    }
}


def router(reader: StateReader) -> APIRouter:
    routes = APIRouter(prefix="/api/v1", tags=["jobs"])

    async def round_views(job: Job, rounds: list[Round]) -> list[schemas.RoundView]:
        traffic, dense_bytes = await reader.traffic(job.id, rounds), views.dense_bytes(job)
        made = versions(job, [each.result for each in rounds])  # by one of them, for the next
        shown = []
        for each in rounds:
            start = made.get(each.model_version) or await reader.version(job, each.model_version)
            shown.append(views.round_view(job.parsed, each, traffic, dense_bytes, start))
        return shown

    @routes.get("/jobs/{job_id}/rounds")
    async def list_rounds(job_id: str, limit: Limit = 50, after: After = 0) -> schemas.RoundList:
        """Rounds in the order of their numbers, the one in flight last. `after`: the `next` of the page before."""
        job = await reader.job(job_id)
        page = await reader.page_of_rounds(job, after, limit)
        return schemas.RoundList(rounds=await round_views(job, page), next=_next(job, page))

    @routes.get("/jobs/{job_id}/rounds/{number}")
    async def get_round(job_id: str, number: Annotated[int, PathParameter(ge=1, lt=2**31)]) -> schemas.RoundView:
        job = await reader.job(job_id)
        (shown,) = await round_views(job, [await reader.round(job, number)])
        return shown

    @routes.get("/jobs/{job_id}/metrics", response_model=measurements.MetricList, responses=_MEASURED)
    async def list_metrics(
        request: Request,
        job_id: str,
        metric: Annotated[list[str], Query(description="Only these; may be given several times")] = [],  # noqa: B006
        client: Annotated[list[str], Query(description="Only of these; may be given several times")] = [],  # noqa: B006
        limit: Limit = 50,
        after: After = 0,
        accept: Annotated[str, Header(include_in_schema=False)] = "",
    ) -> Response:
        """What was measured, one record a value, as JSON or, where Accept asks for text/csv, as CSV.

        By pages of rounds: `next`, or the header Link, leads to the page that follows.
        """
        job = await reader.job(job_id)
        page = await reader.page_of_rounds(job, after, limit)
        traffic, made = await reader.traffic(job_id, page), versions(job, [each.result for each in page])
        if page and (first := page[0].model_version) not in made and job.parsed.evaluation.central is not None:
            made |= {first: found} if (found := await reader.version(job, first)) else {}
        follows, headers = _next(job, page), {"Vary": "Accept"}
        if follows is not None:
            page_after = request.url.include_query_params(after=follows)
            headers["Link"] = f'<{page_after.path}?{page_after.query}>; rel="next"'  # a proxy may have another host
        records = measurements.records(job.parsed, page, made, traffic, frozenset(metric), frozenset(client))
        # In a thread: a page has ten thousand records where many sites take part.
        if measurements.prefers_csv(accept):
            text, kind = await asyncio.to_thread(measurements.csv_of, records), "text/csv; charset=utf-8"
        else:
            text, kind = await asyncio.to_thread(measurements.json_of, records, follows), "application/json"
        return Response(text, media_type=kind, headers=headers)

    return routes


def _next(job: Job, page: list[Round]) -> int | None:
    return page[-1].number if page and page[-1].number < job.rounds_opened else None
