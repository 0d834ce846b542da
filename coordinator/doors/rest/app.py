"""The REST door: FastAPI over what people may do. `create_app` joins the routes, the problems and the dashboard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.middleware.cors import CORSMiddleware

from coordinator.doors.doorkeeper import Doorkeeper
from coordinator.doors.limits import DoorLimits
from coordinator.doors.rest import access as rest_access
from coordinator.doors.rest import audit, dashboard, event_schemas, history, models, problems, rounds, schemas, views
from coordinator.doors.rest import jobs as rest_jobs
from coordinator.doors.rest.compact import Compact
from coordinator.doors.rest.head import Head
from coordinator.doors.rest.jobs_door import JobsDoor
from coordinator.doors.rest.metrics import Metrics
from coordinator.doors.rest.parameters import refuse_unknown
from coordinator.doors.rest.readiness import Probe, Readiness
from coordinator.doors.rest.teams import TeamCheck, teams_of
from coordinator.engine.people_calls import PeopleCalls
from coordinator.state.errors import AgentNotFound
from coordinator.store.audit import AuditTrail
from coordinator.store.blob_store import BlobStore
from fedgalore.spec.strict import Identifier, Strict
from fedgalore.version import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, __version__

# Of pages of other origins, beside what any page may send and read. A key goes in Authorization: no cookie is taken.
ASKED_HEADERS = ("Authorization", "Idempotency-Key", "If-None-Match", "If-Range", "Last-Event-ID", "Range")
MAX_TEAMS = 100  # of a site
TOLD_HEADERS = ("Accept-Ranges", "Content-Disposition", "Content-Range", "ETag", "Link", "Location", "Retry-After")


class Live(BaseModel):
    live: bool


class NewAgent(Strict):
    name: Identifier


class AgentTeams(Strict):
    teams: list[Identifier] = Field(max_length=MAX_TEAMS, description="All teams of the site from now on")


class Version(BaseModel):
    version: str
    protocol_version: int
    oldest_protocol_version: int = Field(description="That agents may speak as well")


class SignIn(BaseModel):
    """Where people sign in."""

    issuer: str | None = Field(description="The identity provider; null: there is none, and API keys alone let in")
    client_id: str | None
    scopes: str | None
    token: Literal["access_token", "id_token"] | None = Field(description="Which of its tokens is to be sent")
    authorization_endpoint: str | None = Field(description="null: it has none, or does not answer")
    token_endpoint: str | None


def nowhere() -> SignIn:
    return SignIn.model_validate(dict.fromkeys(SignIn.model_fields))


def create_app(
    people: PeopleCalls,
    blobs: BlobStore,
    probe: Probe,
    doorkeeper: Doorkeeper,
    trail: AuditTrail,
    stopping: asyncio.Event,
    *,
    sees_models: bool,
    held_out: Collection[str] | None,
    limits: DoorLimits,
    origins: Collection[str] = (),
    sign_in: Callable[[], SignIn] = nowhere,
) -> FastAPI:
    """The whole door.

    Args:
        stopping: set when the process is about to end, so that event streams end too.
        sees_models: whether model folders of posted jobs can be looked at from this process.
        origins: of pages elsewhere that may call this door (CORS).
        sign_in: where people sign in, as far as that is known.
        held_out: as `coordinator.doors.rest.jobs_door.JobsDoor`.
    """
    app = FastAPIOffline(  # /docs without a CDN: many sites have no way out
        title="FedGaLore coordinator",
        version=__version__,
        summary="Federated fine-tuning of transformers along low-rank gradient subspaces",
        description="A parameter or a field that a route does not list, or that is given twice, is refused.",
        dependencies=[Depends(TeamCheck(people.reader)), Depends(refuse_unknown)],
        generate_unique_id_function=lambda route: route.name,  # the names of calls in clients made from the document
        separate_input_output_schemas=False,  # a job is posted with defaults left out and shown with them: one schema
    )
    metrics = Metrics(people.reader, blobs.room)
    app.add_middleware(Compact)
    app.add_middleware(Head)
    app.add_middleware(rest_access.KeyGuard, doorkeeper=doorkeeper, limits=limits, origins=origins)
    app.add_middleware(problems.Guard, metrics=metrics)  # added later: around the others
    app.add_middleware(audit.Audit, trail=trail)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST", "PATCH", "DELETE"),
            allow_headers=ASKED_HEADERS,
            expose_headers=TOLD_HEADERS,
        )
    problems.install(app)
    door = JobsDoor(people, blobs, stopping, sees_models, held_out)
    for routes in (rest_jobs.router(door), rounds.router(people.reader), history.router(door), models.router(door)):
        app.include_router(routes)
    app.include_router(_agents(people, doorkeeper))
    app.include_router(rest_access.router(doorkeeper))
    app.include_router(audit.router(trail))
    app.include_router(_operations(probe, metrics, sign_in))
    app.include_router(dashboard.router(lambda: sign_in().token_endpoint))
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _agents(people: PeopleCalls, doorkeeper: Doorkeeper) -> APIRouter:
    routes = APIRouter(prefix="/api/v1/agents", tags=["agents"])

    @routes.get("")
    async def list_agents(request: Request) -> schemas.AgentList:
        """All sites; to whose key or group is of a team, those that are given to it, with their tasks for its jobs.

        The latter are told of no other team that a site is given to.
        """
        found = await people.reader.agents(teams_of(request))
        return schemas.AgentList(agents=[views.agent_view(agent) for agent in found])

    @routes.post("", status_code=201, responses={200: {"model": schemas.AgentView}})
    async def expect_agent(agent: NewAgent, response: Response) -> schemas.AgentView:
        """Enters a site that is expected, so that it shows before its agent has come; 200 when it is known already.

        An agent can register without such an entry; where credentials are asked for, it needs a join token.
        """
        status, new = await people.expect(agent.name)
        response.status_code = 201 if new else 200
        return views.agent_view(status)

    @routes.patch("/{name}")
    async def give_agent(name: str, given: AgentTeams) -> schemas.AgentView:
        """Gives a site to teams, and to no others: whose jobs ask it from the next round on.

        Jobs that are of no team ask every site.
        """
        return views.agent_view(await people.give_agent(name, given.teams))

    @routes.delete("/{name}", status_code=204)
    async def delete_agent(name: str) -> None:
        """Revokes an agent's key and its join tokens, gives up its open tasks and forgets it.

        Its next call is refused. Where no credentials are asked for, an agent that still runs registers again.
        """
        revoked = await doorkeeper.revoke_agent(name)
        try:
            await people.forget_agent(name)
        except AgentNotFound:
            if not revoked:
                raise

    return routes


def _operations(probe: Probe, metrics: Metrics, sign_in: Callable[[], SignIn]) -> APIRouter:
    routes = APIRouter(tags=["operations"])

    @routes.get("/livez")
    async def get_livez() -> Live:
        """This process answers; asks nothing else."""
        return Live(live=True)

    @routes.get("/readyz", responses={503: {"model": Readiness}})
    async def get_readyz(response: Response) -> Readiness:
        """Whether Redis and the blob store answer, each by name."""
        readiness = await probe.readiness()
        response.status_code = 200 if readiness.ready else 503
        return readiness

    @routes.get("/version")
    async def get_version() -> Version:
        return Version(
            version=__version__,
            protocol_version=PROTOCOL_VERSION,
            oldest_protocol_version=OLDEST_PROTOCOL_VERSION,
        )

    @routes.get("/sign-in")
    async def get_sign_in() -> SignIn:
        """Where people sign in, for commands and pages; nobody is asked for a key."""
        return sign_in()

    @routes.get("/metrics", response_class=Response)
    async def get_metrics() -> Response:
        return Response(await metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return routes


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with every error as the problem that this door really sends."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, description=app.description, routes=app.routes
        )
        schemas = document["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        described = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(described.pop("$defs"), Problem=described)
        schemas.update(event_schemas.schemas())
        content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        document["components"]["securitySchemes"] = {
            "key": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key, or a token of the identity provider, where the coordinator asks",
            }
        }
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if (role := rest_access.needed(method.upper(), path)) is not None:
                    operation["security"] = [{"key": []}]
                    operation["description"] = (
                        f"{operation.get('description', '')}\n\nNeeds a key of role {role}.".strip()
                    )
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = {"description": "Problem", "content": content}
        app.openapi_schema = document
    return app.openapi_schema
