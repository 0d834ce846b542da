"""The exit statuses of all commands, and nowhere else: what each of them means, and which error ends with which."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedgalore.client import ClientError


class Exit(IntEnum):
    """What a shell sees when a command has ended."""

    OK = 0
    FAILED = 1
    WRONG_CALL = 2
    PAUSED = 3
    CANCELLED = 4
    TIMED_OUT = 5
    UNREACHABLE = 6
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS = {
    Exit.OK: "done; of a job that was followed: it is COMPLETED",
    Exit.FAILED: "refused or impossible, or the job is FAILED; the line on stderr says which",
    Exit.WRONG_CALL: "no such command, option or value, or a wrong setting",
    Exit.PAUSED: "the job is PAUSED: a person has to act, and to resume it",
    Exit.CANCELLED: "the job is CANCELLED",
    Exit.TIMED_OUT: "the job has not ended within --timeout, and goes on",
    Exit.UNREACHABLE: "no coordinator answers; the same call may succeed later",
    Exit.INTERRUPTED: "stopped by Ctrl-C; a job that was followed goes on",
    Exit.TERMINATED: "stopped by SIGTERM",
}
OF_JOBS = {
    "COMPLETED": Exit.OK,
    "FAILED": Exit.FAILED,
    "PAUSED": Exit.PAUSED,
    "CANCELLED": Exit.CANCELLED,
}


def of_error(error: ClientError) -> Exit:
    """How a command ends that the client could not serve."""
    from fedgalore.client import TimedOut, Unreachable, WrongArgument

    if isinstance(error, TimedOut):
        return Exit.TIMED_OUT
    if isinstance(error, WrongArgument):
        return Exit.WRONG_CALL
    return Exit.UNREACHABLE if isinstance(error, Unreachable) else Exit.FAILED


def table() -> str:
    """Of all statuses, in lines for `--help`."""
    return "\n\n".join(f"`{status.value}` {meaning}" for status, meaning in MEANINGS.items())
