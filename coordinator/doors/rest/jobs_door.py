"""What the routes of jobs work with, and how each of them shows a job."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query

from coordinator.doors.rest import schemas, views
from coordinator.engine.people_calls import PeopleCalls
from coordinator.models.choice import chosen
from coordinator.state.job_state import Job
from coordinator.state.outlook import warnings
from coordinator.state.round_state import ModelVersion
from coordinator.store.blob_store import BlobStore

VersionQuery = Annotated[
    str,
    Query(
        pattern=r"^(last|best|[0-9]{1,9})$",
        examples=["last", "best", "3"],
        description="A version's number, `last` for the newest, or `best` by the job's evaluation.keep",
    ),
]


@dataclass(frozen=True)
class JobsDoor:
    """`sees_models`: model folders lie on this machine, so they can be looked at. `held_out`: names of data sets that
    the aggregator evaluates models on; None where it runs elsewhere, with settings of its own. `stopping`: set when the
    process is about to end, so that event streams end too."""

    people: PeopleCalls
    blobs: BlobStore
    stopping: asyncio.Event
    sees_models: bool
    held_out: Collection[str] | None

    async def view(self, job: Job) -> schemas.JobView:
        reader = self.people.reader
        rounds, live, totals = await asyncio.gather(
            reader.newest_evaluated(job), reader.live_progress(job.id), reader.totals(job.id)
        )
        outlook = [] if job.status.is_final else warnings(job.parsed, await reader.presence(job.team))
        return views.job_view(job, rounds, live, totals, outlook)

    async def version_of(self, job_id: str, version: str) -> tuple[Job, ModelVersion, dict[str, Any] | None]:
        """The job, the version that is asked for, and what clients measured of that version in rounds that are over.

        A round in flight would change its download at each report.
        """
        reader = self.people.reader
        job = await reader.job(job_id)
        found = await chosen(job, version, reader.version)
        rounds = [each for each in await reader.rounds_from(job, found.version) if each.phase.is_final]
        quality, central = views.evaluation(job.parsed, rounds, found.version), views.held_out(job.parsed, found)
        told = quality.model_dump(mode="json") if quality else {}
        return job, found, (told | {"held_out": central.model_dump(mode="json")} if central else told) or None

    async def whole_version_of(self, job_id: str, version: str) -> tuple[Job, ModelVersion, dict[str, Any] | None]:
        """As `version_of`, with the version's whole weights, which the aggregator may have to make first."""
        job, found, quality = await self.version_of(job_id, version)
        return job, await self.people.with_whole_weights(job, found), quality
