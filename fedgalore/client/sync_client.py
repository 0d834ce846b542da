"""A coordinator's REST door for programs and notebooks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx

from fedgalore.client import calls, shapes
from fedgalore.client.access import Access
from fedgalore.client.answers import content, error, reaching
from fedgalore.client.download import Hooks, download
from fedgalore.client.errors import ClientError, Unreachable
from fedgalore.client.events import SILENCE_S, Event, Stream
from fedgalore.client.flow import Ask, Flow, Pause
from fedgalore.client.records import Records
from fedgalore.client.requests import WEEK_S, request, trace
from fedgalore.client.waiting import TIMEOUT_S, OnAway, OnBack, Patience, wait

T = TypeVar("T")


class Client:
    """A connection to a coordinator; a context manager. `AsyncClient` has the same methods, to be awaited.

    Every method raises `Refused` when the coordinator says no, `Unreachable` when nobody answers, and `WrongArgument`
    for what cannot be asked for: all of them are `ClientError`. Nothing is retried, unless the method says so.

    Args:
        url, key, ca, context: as `Access.of`; without any of them as the `fedgalore` command finds its coordinator.
        timeout_s: seconds of silence after which a request counts as unanswered.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        ca: str | Path | None = None,
        context: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._access = Access.of(url, key, ca, context)
        self._http = httpx.Client(**self._access.for_httpx(timeout_s))

    @property
    def url(self) -> str:
        """Of the coordinator."""
        return self._access.url

    def close(self) -> None:
        """Lets go of the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        document: calls.Document,
        *,
        idempotency: str | None = None,
        tags: Sequence[str] = (),
        description: str | None = None,
        team: str | None = None,
    ) -> shapes.Job:
        """Posts a job.

        Args:
            document: a mapping, a `JobSpec`, a file as a `Path`, or YAML as text.
            idempotency: posting again with the same key answers the first job, and makes no second one.
            tags, description: for people, to find the job again.
            team: whose job it is, where the key or the login does not say it.
        """
        return self._run(calls.submit(document, idempotency, tags, description, team))

    def validate(
        self, document: calls.Document, *, idempotency: str | None = None, team: str | None = None
    ) -> shapes.Review:
        """What `submit` would say of a document, with all its defaults; makes no job. Faults are in `errors`."""
        return self._run(calls.validate(document, idempotency, team))

    def job(self, job_id: str) -> shapes.Job:
        """One job as it stands."""
        return self._run(calls.job(job_id))

    def jobs(
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
        """Jobs, newest first, page by page; all of them by default.

        Args:
            status, method: jobs in any of them.
            name: a part of the job's name.
            tag: jobs that have all of them.
        """
        query = calls.JobQuery(status, name, method, tag, created_after, created_before)
        return self._run(calls.jobs(query, limit))

    def watch(self, job_id: str, *, after: str | None = None) -> Iterator[Event]:
        """A job's events from its start, then new ones as they happen; ends when the job is final.

        A line that breaks is opened anew behind the last event. A coordinator that is away is waited for, ten minutes.

        Args:
            after: id of an event behind which to begin.
        """
        path, stream = f"{calls.job_path(job_id)}/events", Stream(after)
        patience = httpx.Timeout(TIMEOUT_S, read=SILENCE_S)
        while not stream.ended:
            try:
                with (
                    reaching(self.url),
                    self._http.stream("GET", path, headers=stream.headers(), timeout=patience) as answer,
                ):
                    if not answer.is_success:
                        answer.read()
                        raise error(answer, self.url)
                    stream.opened()
                    for line in answer.iter_lines():
                        if (event := stream.line(line)) is not None:
                            yield event
            except Unreachable as broken:
                stream.lost(broken)
            if not stream.ended:
                time.sleep(stream.retry_s)

    def wait(
        self,
        job_id: str,
        timeout_s: float | None = None,
        *,
        on_change: Callable[[shapes.Job], None] | None = None,
        on_away: OnAway | None = None,
        on_back: OnBack | None = None,
    ) -> shapes.Job:
        """The job when it has ended or is paused. A coordinator that is away is waited for, ten minutes.

        Args:
            on_change: called with the job when its status or its rounds_done has changed, and first with what it is.
            on_away, on_back: as `Patience`.

        Raises:
            TimedOut: it has not within `timeout_s`.
        """
        return self._run(wait(job_id, timeout_s, on_change, Patience(on_away, on_back)))

    def describe(self, job_id: str, *, tags: Sequence[str] | None = None, description: str | None = None) -> shapes.Job:
        """Sets a job's tags, all of them, and its description; None leaves them as they are."""
        return self._run(calls.describe(job_id, tags, description))

    def pause(self, job_id: str) -> shapes.Job:
        """The round in flight goes on to its end; no new round opens."""
        return self._run(calls.steer(job_id, "pause"))

    def resume(self, job_id: str) -> shapes.Job:
        """Goes on with a paused job."""
        return self._run(calls.steer(job_id, "resume"))

    def cancel(self, job_id: str) -> shapes.Job:
        """Ends a job; its newest versions can still be downloaded."""
        return self._run(calls.steer(job_id, "cancel"))

    def rollback(self, job_id: str, version: int | Literal["best"]) -> shapes.Job:
        """Makes an earlier version current again, as a new version from which training goes on."""
        return self._run(calls.rollback(job_id, version))

    def delete(self, job_id: str, *, cancel: bool = False) -> shapes.DeletedJob:
        """Deletes a job that has ended, with its rounds and versions. `cancel`: cancels it first if it has not."""
        return self._run(calls.delete(job_id, cancel))

    def rounds(self, job_id: str, *, after: int = 0) -> list[shapes.Round]:
        """All rounds behind round `after`, the one in flight last."""
        return self._run(calls.rounds(job_id, after))

    def metrics(self, job_id: str, *, after: int = 0) -> Records:
        """What was measured in all rounds behind round `after`, as rows.

        Their `frame()` is a data frame, where pandas is installed.
        """
        return self._run(calls.metrics(job_id, after))

    def logs(
        self,
        job_id: str,
        *,
        level: Literal["debug", "info", "warning", "error"] = "info",
        after: str | None = None,
        tail: int | None = None,
    ) -> list[shapes.LogLine]:
        """Log lines of a job, from the oldest on. `level`: the least that is told.

        Args:
            after: id of a line behind which to begin.
            tail: only so many of the newest events.
        """
        return self._run(calls.logs(job_id, level, after, tail))

    def models(self, *, name: str = "", tag: Sequence[str] = (), limit: int | None = None) -> list[shapes.Model]:
        """Models of all jobs that have one, of the newest job first, with the versions that can be downloaded."""
        return self._run(calls.models(name, tag, limit))

    def model(self, job_id: str, to: str | Path, *, version: int | str = "last", hooks: Hooks | None = None) -> Path:
        """Fetches a version of the model into the new folder `to`, which `from_pretrained` loads. Returns the folder.

        A download that breaks goes on where it broke.

        Args:
            version: last, best (by evaluation.keep), or a number.

        Raises:
            BadDownload: it broke for good; nothing was kept.
        """
        return self._download(f"{calls.job_path(job_id)}/model", to, {"version": str(version)}, hooks)

    def adapter(
        self, job_id: str, to: str | Path, *, rank: int = 16, version: int | str = "last", hooks: Hooks | None = None
    ) -> Path:
        """As `model`: what the job taught its model as a LoRA adapter of this rank, which PEFT loads."""
        query = {"version": str(version), "rank": rank}
        return self._download(f"{calls.job_path(job_id)}/adapter", to, query, hooks)

    def agents(self) -> list[shapes.Agent]:
        """All clients: whether they are present, what data they offer, what they do."""
        return self._run(calls.agents())

    def expect(self, name: str) -> shapes.Agent:
        """Enters a client that is expected, so that it shows before its agent has come."""
        return self._run(calls.expect(name))

    def give(self, name: str, teams: Sequence[str]) -> shapes.Agent:
        """Gives a client to these teams and to no others: jobs of theirs, and those of no team, ask it."""
        return self._run(calls.give(name, teams))

    def forget(self, name: str) -> None:
        """Throws a client out: its key and join tokens become void, and its open tasks are given up."""
        self._run(calls.forget(name))

    def join_tokens(self) -> list[shapes.JoinToken]:
        """Join tokens without their secrets, used and expired ones among them."""
        return self._run(calls.join_tokens())

    def invite(self, name: str, *, valid_s: float = WEEK_S) -> shapes.MadeJoinToken:
        """Makes a token by which the agent of this name can enrol once."""
        return self._run(calls.invite(name, valid_s))

    def revoke_join_token(self, token_id: str) -> None:
        """Makes a join token void; a client that has enrolled with it stays."""
        self._run(calls.revoke_join_token(token_id))

    def api_keys(self) -> list[shapes.Key]:
        """API keys without their secrets."""
        return self._run(calls.keys())

    def create_api_key(
        self, name: str, role: Literal["viewer", "operator"] = "viewer", *, team: str | None = None
    ) -> shapes.MadeKey:
        """Makes an API key; the answer alone has the secret. `team`: where alone it is good."""
        return self._run(calls.create_key(name, role, team))

    def revoke_api_key(self, key_id: str) -> None:
        """Makes an API key void, from its next request on."""
        self._run(calls.revoke_key(key_id))

    def audit(
        self, *, limit: int = 100, of: Literal["people", "agents", "strangers"] = "people"
    ) -> list[shapes.AuditEntry]:
        """Who changed, took or sent something, newest first. `of`: each is kept apart; strangers have no known key."""
        return self._run(calls.audit(limit, of))

    def version(self) -> shapes.Version:
        """Of the coordinator's software, and of the protocol that agents speak."""
        return self._run(calls.version())

    def readiness(self) -> shapes.Readiness:
        """Whether the coordinator can do its work, part by part."""
        return self._run(calls.readiness())

    def _run(self, flow: Flow[T]) -> T:
        """Does what the flow says until it has its result."""
        try:
            step = next(flow)
            while True:
                try:
                    answer = self._do(step)
                except ClientError as said:
                    step = flow.throw(said)
                else:
                    step = flow.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def _do(self, step: Ask | Pause) -> Any:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        wanted = request(self._http, step)
        trace.debug("%s %s", wanted.method, wanted.url)
        with reaching(self.url):
            answer = self._http.send(wanted)
        trace.debug("%d from %s %s", answer.status_code, wanted.method, wanted.url)
        return content(answer, self.url, step.takes)

    def _download(self, path: str, to: str | Path, query: dict[str, Any], hooks: Hooks | None) -> Path:
        folder = Path(to)
        download(self._http, self.url, path, query, folder, hooks or Hooks())
        return folder
