"""The methods of `Client`, to be awaited. What each of them does is said there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx

from fedgalore.client import calls, shapes
from fedgalore.client.access import Access
from fedgalore.client.answers import content, error, reaching
from fedgalore.client.download import Either, Hooks, download
from fedgalore.client.errors import ClientError, Unreachable
from fedgalore.client.events import SILENCE_S, Event, Stream
from fedgalore.client.flow import Ask, Flow, Pause
from fedgalore.client.records import Records
from fedgalore.client.requests import WEEK_S, request, trace
from fedgalore.client.waiting import TIMEOUT_S, OnAway, OnBack, Patience, wait

T = TypeVar("T")


class AsyncClient:
    """`Client` for asyncio: an asynchronous context manager with the same methods; `watch` is for `async for`."""

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        ca: str | Path | None = None,
        context: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._access, self._timeout_s = Access.of(url, key, ca, context), timeout_s
        self._http = httpx.AsyncClient(**self._access.for_httpx(timeout_s))

    @property
    def url(self) -> str:
        return self._access.url

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def submit(
        self,
        document: calls.Document,
        *,
        idempotency: str | None = None,
        tags: Sequence[str] = (),
        description: str | None = None,
        team: str | None = None,
    ) -> shapes.Job:
        return await self._run(calls.submit(document, idempotency, tags, description, team))

    async def validate(
        self, document: calls.Document, *, idempotency: str | None = None, team: str | None = None
    ) -> shapes.Review:
        return await self._run(calls.validate(document, idempotency, team))

    async def job(self, job_id: str) -> shapes.Job:
        return await self._run(calls.job(job_id))

    async def jobs(
        self,
        *,
        status: Sequence[str] = (),
        name: str = "",
        method: Sequence[str] = (),
        tag: Sequence[str] = (),
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int | None = None,
    ) -> list[shapes.JobSummary]:
        query = calls.JobQuery(status, name, method, tag, created_after, created_before)
        return await self._run(calls.jobs(query, limit))

    async def watch(self, job_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        path, stream = f"{calls.job_path(job_id)}/events", Stream(after)
        patience = httpx.Timeout(TIMEOUT_S, read=SILENCE_S)
        while not stream.ended:
            try:
                with reaching(self.url):
                    async with self._http.stream("GET", path, headers=stream.headers(), timeout=patience) as answer:
                        if not answer.is_success:
                            await answer.aread()
                            raise error(answer, self.url)
                        stream.opened()
                        async for line in answer.aiter_lines():
                            if (event := stream.line(line)) is not None:
                                yield event
            except Unreachable as broken:
                stream.lost(broken)
            if not stream.ended:
                await asyncio.sleep(stream.retry_s)

    async def wait(
        self,
        job_id: str,
        timeout_s: float | None = None,
        *,
        on_change: Callable[[shapes.Job], None] | None = None,
        on_away: OnAway | None = None,
        on_back: OnBack | None = None,
    ) -> shapes.Job:
        return await self._run(wait(job_id, timeout_s, on_change, Patience(on_away, on_back)))

    async def describe(
        self, job_id: str, *, tags: Sequence[str] | None = None, description: str | None = None
    ) -> shapes.Job:
        return await self._run(calls.describe(job_id, tags, description))

    async def pause(self, job_id: str) -> shapes.Job:
        return await self._run(calls.steer(job_id, "pause"))

    async def resume(self, job_id: str) -> shapes.Job:
        return await self._run(calls.steer(job_id, "resume"))

    async def cancel(self, job_id: str) -> shapes.Job:
        return await self._run(calls.steer(job_id, "cancel"))

    async def rollback(self, job_id: str, version: int | Literal["best"]) -> shapes.Job:
        return await self._run(calls.rollback(job_id, version))

    async def delete(self, job_id: str, *, cancel: bool = False) -> shapes.DeletedJob:
        return await self._run(calls.delete(job_id, cancel))

    async def rounds(self, job_id: str, *, after: int = 0) -> list[shapes.Round]:
        return await self._run(calls.rounds(job_id, after))

    async def metrics(self, job_id: str, *, after: int = 0) -> Records:
        return await self._run(calls.metrics(job_id, after))

    async def logs(
        self,
        job_id: str,
        *,
        level: Literal["debug", "info", "warning", "error"] = "info",
        after: str | None = None,
        tail: int | None = None,
    ) -> list[shapes.LogLine]:
        return await self._run(calls.logs(job_id, level, after, tail))

    async def models(self, *, name: str = "", tag: Sequence[str] = (), limit: int | None = None) -> list[shapes.Model]:
        return await self._run(calls.models(name, tag, limit))

    async def model(
        self, job_id: str, to: str | Path, *, version: int | str = "last", hooks: Hooks | None = None
    ) -> Path:
        return await self._download(f"{calls.job_path(job_id)}/model", to, {"version": str(version)}, hooks)

    async def adapter(
        self, job_id: str, to: str | Path, *, rank: int = 16, version: int | str = "last", hooks: Hooks | None = None
    ) -> Path:
        query = {"version": str(version), "rank": rank}
        return await self._download(f"{calls.job_path(job_id)}/adapter", to, query, hooks)

    async def agents(self) -> list[shapes.Agent]:
        return await self._run(calls.agents())

    async def expect(self, name: str) -> shapes.Agent:
        return await self._run(calls.expect(name))

    async def give(self, name: str, teams: Sequence[str]) -> shapes.Agent:
        return await self._run(calls.give(name, teams))

    async def forget(self, name: str) -> None:
        await self._run(calls.forget(name))

    async def join_tokens(self) -> list[shapes.JoinToken]:
        return await self._run(calls.join_tokens())

    async def invite(self, name: str, *, valid_s: float = WEEK_S) -> shapes.MadeJoinToken:
        return await self._run(calls.invite(name, valid_s))

    async def revoke_join_token(self, token_id: str) -> None:
        await self._run(calls.revoke_join_token(token_id))

    async def api_keys(self) -> list[shapes.Key]:
        return await self._run(calls.keys())

    async def create_api_key(
        self, name: str, role: Literal["viewer", "operator"] = "viewer", *, team: str | None = None
    ) -> shapes.MadeKey:
        return await self._run(calls.create_key(name, role, team))

    async def revoke_api_key(self, key_id: str) -> None:
        await self._run(calls.revoke_key(key_id))

    async def audit(
        self, *, limit: int = 100, of: Literal["people", "agents", "strangers"] = "people"
    ) -> list[shapes.AuditEntry]:
        return await self._run(calls.audit(limit, of))

    async def version(self) -> shapes.Version:
        return await self._run(calls.version())

    async def readiness(self) -> shapes.Readiness:
        return await self._run(calls.readiness())

    async def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                try:
                    answer = await self._do(step)
                except ClientError as said:
                    step = flow.throw(said)
                else:
                    step = flow.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _do(self, step: Ask | Pause) -> Any:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        wanted = request(self._http, step)
        trace.debug("%s %s", wanted.method, wanted.url)
        with reaching(self.url):
            answer = await self._http.send(wanted)
        trace.debug("%d from %s %s", answer.status_code, wanted.method, wanted.url)
        return content(answer, self.url, step.takes)

    async def _download(self, path: str, to: str | Path, query: dict[str, Any], hooks: Hooks | None) -> Path:
        """In a thread with a connection of its own: tars and files are read and written there."""
        given, folder = hooks or Hooks(), Path(to)
        hooks = replace(given, stopping=Either(given.stopping))  # the caller may pass the same hooks to others

        def fetch() -> None:
            with httpx.Client(**self._access.for_httpx(self._timeout_s)) as http:
                download(http, self.url, path, query, folder, hooks)

        fetching = asyncio.ensure_future(asyncio.to_thread(fetch))
        try:
            await asyncio.shield(fetching)
        except asyncio.CancelledError:
            hooks.stopping.set()
            await asyncio.wait([fetching])  # nothing of a draft is left behind
            fetching.exception()  # that it was stopped; asyncio logs what nobody has asked for
            raise
        return folder
