"""Answers of a coordinator, for servers that play one."""

from __future__ import annotations

from typing import Any

MOMENT = "2026-01-31T12:00:00Z"


def a_job(status: str, **fields: Any) -> dict[str, Any]:
    """A job as `GET /api/v1/jobs/job-1` answers it."""
    nothing = ("model_version", "rounds_done", "round", "evaluation", "held_out", "held_out_failure", "best", "no_best")
    return {
        **dict.fromkeys((*nothing, "trains")),
        "id": "job-1",
        "name": "tiny",
        "status": status,
        "reason": f"because it is {status.lower()}",
        "created": MOMENT,
        "updated": MOMENT,
        "rounds_total": 2,
        "rounds_opened": 0,
        "method": "fedgalore",
        "posted_by": "",
        "tags": [],
        "description": "",
        "sites": {},
        "notes": [],
        "up_bytes": 0,
        "down_bytes": 0,
        "warnings": [],
        "spec": {"name": "tiny"},
        **fields,
    }
