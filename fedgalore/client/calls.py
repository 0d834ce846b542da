"""Every request of the REST door as a flow: where it goes, what goes along, and the shape of the answer."""

from __future__ import annotations

import json as json_format
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from fedgalore.client import shapes
from fedgalore.client.answers import parsed
from fedgalore.client.errors import WrongArgument
from fedgalore.client.flow import Ask, Flow
from fedgalore.client.records import Records

API = "/api/v1"
JOBS = f"{API}/jobs"
PAGE = 200  # jobs or rounds in an answer
MODELS_PAGE = 100
AUDIT_PAGE = 1000
JSON, YAML = "application/json", "application/yaml"
_IS_NONE = {
    "job": "is no id of a job; `fedgalore jobs list` shows them",
    "name": "is no name of a client; `fedgalore agents list` shows them",
    "key": "is no id of a key; `fedgalore keys list` shows them",
    "token": "is no id of a join token; `fedgalore agents tokens` shows them",
}
_HEADER = re.compile(r"[!-~]{1,200}")  # what the coordinator takes, and a line of HTTP can carry
Document = Mapping[str, Any] | BaseModel | Path | str | bytes
T = TypeVar("T")


def encoded(document: Document) -> tuple[bytes, str]:
    """A job's document as it is posted, and its media type.

    Args:
        document: a mapping, a `JobSpec`, a file (JSON by its ending, else YAML), or the text of one as YAML.

    Raises:
        WrongArgument: the file cannot be read, or a value has no place in JSON.
    """
    match document:
        case bytes():
            return document, YAML
        case str():
            return document.encode(), YAML
        case Path():
            try:
                return document.read_bytes(), JSON if document.suffix == ".json" else YAML
            except OSError as error:
                problem = f"{document} cannot be read ({error.strerror}); name a file that holds a job"
                raise WrongArgument("document", problem) from None
        case BaseModel():
            return document.model_dump_json().encode(), JSON
    try:
        return json_format.dumps(dict(document), allow_nan=False).encode(), JSON
    except (TypeError, ValueError) as error:
        raise WrongArgument("document", f"cannot be written as JSON ({error}); correct the value") from None


def submit(
    document: Document, idempotency: str | None, tags: Sequence[str], description: str | None, team: str | None
) -> Flow[shapes.Job]:
    query = _given({"tag": list(tags) or None, "description": description, "team": team})
    return (yield from _one(shapes.Job, _posting(JOBS, document, idempotency, query)))


def validate(document: Document, idempotency: str | None, team: str | None) -> Flow[shapes.Review]:
    query = _given({"team": team})
    return (yield from _one(shapes.Review, _posting(f"{JOBS}:validate", document, idempotency, query)))


def _posting(path: str, document: Document, idempotency: str | None, query: dict[str, Any]) -> Ask:
    body, kind = encoded(document)
    if idempotency is not None and not _HEADER.fullmatch(idempotency):
        raise WrongArgument("idempotency", f"{idempotency[:60]!r} is no key; take up to 200 signs of ASCII, no blanks")
    headers = {"Content-Type": kind} | ({"Idempotency-Key": idempotency} if idempotency is not None else {})
    return Ask("POST", path, query, content=body, headers=headers)


def describe(job_id: str, tags: Sequence[str] | None, description: str | None) -> Flow[shapes.Job]:
    labels = {"tags": None if tags is None else list(tags), "description": description}
    return (yield from _one(shapes.Job, Ask("PATCH", job_path(job_id), json=labels)))


def job(job_id: str) -> Flow[shapes.Job]:
    return (yield from _one(shapes.Job, Ask("GET", job_path(job_id))))


@dataclass(frozen=True)
class JobQuery:
    """Which jobs: in any of the `status`es, of any `method`, with all tags; `name`: a part of it. Empty: all."""

    status: Sequence[str] = ()
    name: str = ""
    method: Sequence[str] = ()
    tag: Sequence[str] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None

    def params(self) -> dict[str, Any]:
        times = {name: getattr(self, name) for name in ("created_after", "created_before")}
        wanted = {
            "status": [each.upper() for each in self.status],
            "name": self.name,
            "method": list(self.method),
            "tag": list(self.tag),
            **{name: moment and moment.astimezone().isoformat() for name, moment in times.items()},
        }
        return {name: value for name, value in wanted.items() if value}


def jobs(query: JobQuery, limit: int | None) -> Flow[list[shapes.JobSummary]]:
    """Newest first. `limit`: how many at most; None: all."""
    return (yield from _listed(shapes.JobSummary, JOBS, "jobs", query.params(), limit, PAGE))


def models(name: str, tags: Sequence[str], limit: int | None) -> Flow[list[shapes.Model]]:
    """Of the newest jobs first. `limit`: how many at most; None: all."""
    query = {key: value for key, value in (("name", name), ("tag", list(tags))) if value}
    return (yield from _listed(shapes.Model, f"{API}/models", "models", query, limit, MODELS_PAGE))


def steer(job_id: str, verb: str) -> Flow[shapes.Job]:
    """`verb`: pause, resume or cancel."""
    return (yield from _one(shapes.Job, Ask("POST", f"{job_path(job_id)}/{verb}")))


def rollback(job_id: str, version: int | str) -> Flow[shapes.Job]:
    wanted = {"version": version}
    return (yield from _one(shapes.Job, Ask("POST", f"{job_path(job_id)}/rollback", json=wanted)))


def delete(job_id: str, cancel: bool) -> Flow[shapes.DeletedJob]:
    return (yield from _one(shapes.DeletedJob, Ask("DELETE", job_path(job_id), {"cancel": cancel})))


def rounds(job_id: str, after: int = 0) -> Flow[list[shapes.Round]]:
    """All rounds that follow round `after`, in the order of their numbers."""
    found: list[shapes.Round] = []
    start: int | None = after
    while start is not None:
        page = yield Ask("GET", f"{job_path(job_id)}/rounds", {"limit": PAGE, "after": start})
        found += parsed(list[shapes.Round], page["rounds"])
        start = page["next"]
    return found


def metrics(job_id: str, after: int = 0) -> Flow[Records]:
    """What was measured in all rounds that follow round `after`."""
    found: list[dict[str, Any]] = []
    start: int | None = after
    while start is not None:
        page = yield Ask("GET", f"{job_path(job_id)}/metrics", {"limit": PAGE, "after": start})
        found += page["metrics"]
        start = page["next"]
    return Records.of(found)


def logs(job_id: str, level: str, after: str | None, tail: int | None) -> Flow[list[shapes.LogLine]]:
    """Lines from the oldest on; with `tail`, of so many of the newest events alone."""
    query = {"level": level} | _given({"limit": tail, "tail": True if tail is not None else None})
    found: list[shapes.LogLine] = []
    while True:
        page = yield Ask("GET", f"{job_path(job_id)}/logs", query | _given({"after": after}))
        found += parsed(list[shapes.LogLine], page["lines"])
        if (after := page["next"]) is None:
            return found


def agents() -> Flow[list[shapes.Agent]]:
    return (yield from _many(shapes.Agent, f"{API}/agents", "agents"))


def expect(name: str) -> Flow[shapes.Agent]:
    return (yield from _one(shapes.Agent, Ask("POST", f"{API}/agents", json={"name": name})))


def give(name: str, teams: Sequence[str]) -> Flow[shapes.Agent]:
    path = f"{API}/agents/{_segment(name, 'name')}"
    return (yield from _one(shapes.Agent, Ask("PATCH", path, json={"teams": list(teams)})))


def forget(name: str) -> Flow[None]:
    yield Ask("DELETE", f"{API}/agents/{_segment(name, 'name')}")


def join_tokens() -> Flow[list[shapes.JoinToken]]:
    return (yield from _many(shapes.JoinToken, f"{API}/join-tokens", "join_tokens"))


def invite(name: str, valid_s: float) -> Flow[shapes.MadeJoinToken]:
    wanted = {"client": name, "valid_s": valid_s}
    return (yield from _one(shapes.MadeJoinToken, Ask("POST", f"{API}/join-tokens", json=wanted)))


def revoke_join_token(token_id: str) -> Flow[None]:
    yield Ask("DELETE", f"{API}/join-tokens/{_segment(token_id, 'token')}")


def keys() -> Flow[list[shapes.Key]]:
    return (yield from _many(shapes.Key, f"{API}/keys", "keys"))


def create_key(name: str, role: str, team: str | None) -> Flow[shapes.MadeKey]:
    wanted = {"name": name, "role": role} | _given({"team": team})
    return (yield from _one(shapes.MadeKey, Ask("POST", f"{API}/keys", json=wanted)))


def revoke_key(key_id: str) -> Flow[None]:
    yield Ask("DELETE", f"{API}/keys/{_segment(key_id, 'key')}")


def audit(limit: int, of: str) -> Flow[list[shapes.AuditEntry]]:
    """Newest first, `limit` at most."""
    query = {"of": of}
    return (yield from _listed(shapes.AuditEntry, f"{API}/audit", "entries", query, limit, AUDIT_PAGE))


def version() -> Flow[shapes.Version]:
    return (yield from _one(shapes.Version, Ask("GET", "/version")))


def readiness() -> Flow[shapes.Readiness]:
    return (yield from _one(shapes.Readiness, Ask("GET", "/readyz", takes=(503,))))


def job_path(job_id: str) -> str:
    """Path of a job.

    Raises:
        WrongArgument: no job has such an id.
    """
    return f"{JOBS}/{_segment(job_id, 'job')}"


def _segment(text: str, field: str) -> str:
    if not text.strip(".") or "/" in text:
        raise WrongArgument(field, f"{text!r} {_IS_NONE[field]}")
    return quote(text, safe="")


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _one(shape: type[T], ask: Ask) -> Flow[T]:
    return parsed(shape, (yield ask))


def _listed(shape: type[T], path: str, name: str, query: dict[str, Any], limit: int | None, most: int) -> Flow[list[T]]:
    """Page by page; `most`: how many a page can have."""
    found: list[T] = []
    after: str | None = None
    while limit is None or len(found) < limit:
        wanted = most if limit is None else min(most, limit - len(found))
        page = yield Ask("GET", path, query | {"limit": wanted} | _given({"after": after}))
        found += [parsed(shape, row) for row in page[name]]
        if (after := page["next"]) is None:
            break
    return found


def _many(shape: type[T], path: str, name: str) -> Flow[list[T]]:
    answer = yield Ask("GET", path)
    return [parsed(shape, row) for row in answer[name]]
