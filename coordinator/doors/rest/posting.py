"""How a job is posted: a document as a job, what is refused at once, and looks at it that make no job."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from fastapi import HTTPException
from pydantic import ValidationError

from coordinator.doors.caller import Teams
from coordinator.doors.rest import schemas, views
from coordinator.doors.rest.problems import FieldProblem
from coordinator.doors.rest.teams import team_of_job
from coordinator.engine.people_calls import PeopleCalls
from coordinator.models.source import SourceError, check_folder, is_cached, local_folder
from coordinator.settings import not_held_out
from coordinator.state.errors import InvalidJob, JobNotFound, JobUnreadable, NotReady, VersionNotFound
from coordinator.state.outlook import warnings
from fedgalore.measures import custom
from fedgalore.spec.documents import DocumentError, read_json, read_yaml
from fedgalore.spec.job import JobSpec, explain
from fedgalore.spec.start import job_version

YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")
JOB_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"$ref": "#/components/schemas/JobSpec"}} for kind in ("application/json", YAML_TYPES[0])
        },
    }
}


class Post:
    """Documents that are posted, for a job or for a look.

    Args:
        sees_models, held_out: as `coordinator.doors.rest.jobs_door.JobsDoor`.
        version_of: finds a version of a job, by id and number.
    """

    def __init__(
        self,
        people: PeopleCalls,
        sees_models: bool,
        held_out: Collection[str] | None,
        version_of: Callable[[str, str], Awaitable[object]],
    ) -> None:
        self._people, self._sees_models, self._held_out = people, sees_models, held_out
        self._version_of = version_of

    async def read(
        self, body: bytes, content_type: str, seen: Teams = None, *, looks_here: bool = True
    ) -> tuple[JobSpec, list[dict[str, str]]]:
        """The job, and `{field, problem}` rows of what only the aggregator can tell.

        Args:
            seen: the teams whose jobs the caller sees, and may begin from.
            looks_here: whether the caller may hear what lies on this machine.

        Raises:
            InvalidJob, HTTPException, StateUnavailable: as the functions below.
        """
        spec = await asyncio.to_thread(read_job, body, content_type)
        check_allowed(spec)
        check_central(spec, self._held_out)

        async def version_of(job_id: str, version: str) -> object:
            await team_of_job(self._people.reader, job_id, seen)
            return await self._version_of(job_id, version)

        return spec, await check_source(spec.model.source, self._sees_models and looks_here, version_of)

    async def trial(
        self, spec: JobSpec, unsure: list[dict[str, str]], key: str | None, team: str = ""
    ) -> schemas.JobTrial:
        """What the document would be as a job.

        Raises:
            IdempotencyConflict, TooMany: as a post with this key.
        """
        before = await self._people.would_create(spec, key, team)
        rows = [*unsure, *warnings(spec, await self._people.reader.presence(team))]
        return views.job_trial(spec, before, rows)

    async def review(
        self,
        body: bytes,
        content_type: str,
        key: str | None,
        team: str = "",
        seen: Teams = None,
        *,
        looks_here: bool = True,
    ) -> schemas.JobReview:
        """What a post would say of the document.

        Args:
            seen, looks_here: as `read`.

        Raises:
            HTTPException, StateUnavailable, IdempotencyConflict, TooMany: as a post.
        """
        try:
            trial = await self.trial(*await self.read(body, content_type, seen, looks_here=looks_here), key, team)
        except InvalidJob as error:
            errors = [FieldProblem(**row) for row in error.errors]
            return schemas.JobReview(valid=False, errors=errors, job=None, warnings=[], spec=None)
        return schemas.JobReview(valid=True, errors=[], job=trial.job, warnings=trial.warnings, spec=trial.spec)


def read_job(body: bytes, content_type: str) -> JobSpec:
    """A posted document as a job.

    Raises:
        InvalidJob: with a row for each bad field.
        HTTPException: 415 for another type than JSON or YAML.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and kind not in YAML_TYPES:
        raise HTTPException(
            415, "Content-Type: is neither JSON nor YAML; send the job as application/json or application/yaml"
        )
    try:
        document = read_json(body) if kind == "application/json" else read_yaml(body)
    except DocumentError as error:
        raise InvalidJob([{"field": "document", "problem": str(error)}]) from None
    if not isinstance(document, dict):
        problem = "a job is a mapping with the keys name, model, data, ..."
        raise InvalidJob([{"field": "document", "problem": problem}])
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        raise InvalidJob(explain(error)) from None


def check_allowed(spec: JobSpec) -> None:
    """Refuses at once a metric of another package that this coordinator does not allow.

    Raises:
        InvalidJob
    """
    try:
        custom.check_allowed(spec.measured, "the coordinator")
    except custom.CustomMetricError as error:
        problem = str(error).removeprefix("evaluation.metrics: ")
        raise InvalidJob([{"field": "evaluation.metrics", "problem": problem}]) from None


def check_central(spec: JobSpec, held_out: Collection[str] | None) -> None:
    """Refuses at once a held-out set that the aggregator beside this process does not have.

    Args:
        held_out: the names of those it has; None where the aggregator runs elsewhere, which tells when it prepares.

    Raises:
        InvalidJob
    """
    name = spec.evaluation.central
    if name is not None and held_out is not None and name not in held_out:
        raise InvalidJob([{"field": "evaluation.central", "problem": not_held_out(name, held_out)}])


async def check_source(
    source: str, sees_models: bool, version_of: Callable[[str, str], Awaitable[object]]
) -> list[dict[str, str]]:
    """Refuses at once a source that the aggregator could not read either.

    Args:
        sees_models: whether the aggregator is beside this process, and sees the same folders, and the caller may hear
            of them.
        version_of: finds a version of a job, by id and number.

    Returns:
        A `{field, problem}` row where only the aggregator can tell.

    Raises:
        InvalidJob: for a path that is no model folder, or a version that is not there.
        StateUnavailable: nobody knows.
    """
    if (start := job_version(source)) is not None:
        try:
            await version_of(start.job_id, str(start.version))
        except (JobNotFound, JobUnreadable, NotReady, VersionNotFound) as error:
            raise InvalidJob([{"field": "model.source", "problem": str(error)}]) from error
        return []
    problem = f"whether {source} is a model is seen when the aggregator prepares the job"
    if sees_models:
        try:
            if (folder := await asyncio.to_thread(local_folder, source)) is not None:
                await asyncio.to_thread(check_folder, folder)
                return []
            if await asyncio.to_thread(is_cached, source):
                return []
        except SourceError as error:
            raise InvalidJob([{"field": "model.source", "problem": str(error)}]) from error
        problem = f"is no folder here; whether the hub has a model {source} is seen when the job is prepared"
    return [{"field": "model.source", "problem": problem}]
