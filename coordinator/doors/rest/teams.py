"""Which teams' things a request may touch: looked at before any route runs, so that no route can forget it.

A route about a job (`{job_id}` in its path) is for those who see the job; to anybody else the job does not exist. The
routes of `FILTERED` look at `teams_of` themselves. All other routes are for callers of all teams, new ones too.
"""

from __future__ import annotations

from fastapi import Request

from coordinator.doors.caller import Caller, Teams
from coordinator.doors.rest.audit import CALLER
from coordinator.engine.state_reader import StateReader
from coordinator.state.errors import JobUnreadable, NotAllowed, no_job
from coordinator.store.credentials import Role

TEAMS = "fedgalore.teams"  # in a request's scope: where its caller has the role that it needs
FILTERED = frozenset({"list_jobs", "list_models", "list_agents", "create_job", "validate_job"})


def teams_of(request: Request) -> Teams:
    """The teams whose things a request may touch; None: everything."""
    teams: Teams = request.scope.get(TEAMS)
    return teams


class TeamCheck:
    """A dependency of every route."""

    def __init__(self, reader: StateReader) -> None:
        self._reader = reader

    async def __call__(self, request: Request) -> None:
        teams = teams_of(request)
        if teams is None or request.scope["route"].name in FILTERED:
            return
        caller: Caller = request.scope[CALLER]
        if (job_id := request.path_params.get("job_id")) is None:
            raise NotAllowed(
                f"Authorization: the {caller.shows} is of {_named(teams)} alone, and {request.method} "
                f"{request.url.path} is for operators and viewers of all teams; ask one of them"
            )
        team = await team_of_job(self._reader, job_id, caller.teams(Role.VIEWER))
        if team not in teams:
            where = f"team {team}" if team else "what is of no team"
            raise NotAllowed(f"Authorization: the {caller.shows} is a viewer's in {where}; ask an operator of it")


async def team_of_job(reader: StateReader, job_id: str, seen: Teams) -> str:
    """The team of a job that is of one of the teams `seen`; empty: of none.

    Raises:
        JobNotFound: there is none that they see.
        JobUnreadable: it is theirs, and is damaged or of a newer release.
    """
    try:
        job = await reader.job(job_id)
    except JobUnreadable:
        if seen is None or await reader.team(job_id) in seen:
            raise
        raise no_job(job_id) from None
    if seen is not None and job.team not in seen:
        raise no_job(job_id)
    return job.team


def team_of_new(teams: Teams, wanted: str | None) -> str:
    """The team of a job that is posted: the one that is named, or the only one in which its poster may; empty: none.

    Args:
        teams: in which they may.

    Raises:
        NotAllowed: it is another's, or it is not clear which.
    """
    if wanted is not None and (teams is None or wanted in teams):
        return wanted
    if teams is None:
        return ""
    if wanted is not None:
        raise NotAllowed(f"team: {wanted!r} is none that this job can be of; take {_named(teams)}")
    if len(teams) > 1:
        raise NotAllowed(f"team: is missing, and the job could be of {_named(teams)}; say which (`--team`, `?team=`)")
    return next(iter(teams))


def _named(teams: frozenset[str]) -> str:
    return f"team {' or '.join(sorted(teams))}"
