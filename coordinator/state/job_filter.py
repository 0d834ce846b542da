"""Which jobs of many are asked for, by what is kept beside their documents so that nobody has to read those."""

from __future__ import annotations

import json
from dataclasses import dataclass

from coordinator.state.job_state import Job, Status


@dataclass(frozen=True)
class Facts:
    """What a job is found by. `created_at`: seconds since the epoch."""

    status: Status
    created_at: float
    name: str
    method: str
    tags: frozenset[str]
    team: str = ""

    @classmethod
    def of(cls, job: Job) -> Facts:
        spec = job.parsed
        return cls(job.status, job.created_at, spec.name, spec.method.kind, frozenset(job.labels.tags), job.team)

    @classmethod
    def stored(cls, status: str, created_at: float, text: str) -> Facts:
        """From a job's status, its time and `to_json` of its facts."""
        facts = json.loads(text)
        tags, team = frozenset(facts["tags"]), facts.get("team", "")
        return cls(Status(status), created_at, facts["name"], facts["method"], tags, team)

    def to_json(self) -> str:
        """The facts that the store does not hold otherwise."""
        return json.dumps({"name": self.name, "method": self.method, "tags": sorted(self.tags), "team": self.team})


@dataclass(frozen=True)
class JobFilter:
    """Every part that is given has to fit; an empty set fits each job.

    `name`: a part of the job's name, in whatever case. `tags`: the job has all of them. `created_after` and
    `created_before`: seconds since the epoch. `teams`: the job is of one of them; None: of any, or of none.
    """

    statuses: frozenset[Status] = frozenset()
    name: str = ""
    methods: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    created_after: float | None = None
    created_before: float | None = None
    teams: frozenset[str] | None = None

    def takes(self, facts: Facts) -> bool:
        created_at = round(facts.created_at, 6)  # as people are shown it
        return (
            (not self.statuses or facts.status in self.statuses)
            and self.name.lower() in facts.name.lower()
            and (not self.methods or facts.method in self.methods)
            and self.tags <= facts.tags
            and (self.teams is None or facts.team in self.teams)
            and (self.created_after is None or created_at > self.created_after)
            and (self.created_before is None or created_at < self.created_before)
        )


ALL = JobFilter()
