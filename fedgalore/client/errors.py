"""What goes wrong between a program and a coordinator: exceptions of one family, each with a code for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldProblem:
    """One field of a request or a document, and what is wrong with it."""

    field: str
    problem: str


class ClientError(Exception):
    """`str()` is a whole sentence for people, with the way out.

    Attributes:
        status: HTTP status of the answer; None where there was none.
        code: stable, for programs, such as `job_not_found`.
        fields: a row for each bad field.
    """

    def __init__(
        self, sentence: str, code: str, status: int | None = None, fields: Sequence[FieldProblem] = ()
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.code = code
        self.fields = tuple(fields)


class Unreachable(ClientError):
    """Nobody answers at the address, or somebody who cannot just now: it may be better later."""


class Refused(ClientError):
    """The coordinator answered that it does not do it, and why."""


class WrongArgument(ClientError, ValueError):
    """An argument, or a setting that stands in for one, with which nothing was asked. Its code is `wrong_argument`."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", "wrong_argument", fields=[FieldProblem(field, problem)])


class TimedOut(ClientError, TimeoutError):
    """A job has not ended within the time that was given. Its code is `timed_out`; the job goes on."""

    def __init__(self, job_id: str, status: str, timeout_s: float) -> None:
        problem = f"job {job_id} is {status} after {timeout_s:g} s, and goes on"
        super().__init__(f"timeout_s: {problem}", "timed_out", fields=[FieldProblem("timeout_s", problem)])


class BadDownload(ClientError):
    """A download that cannot be taken: it is no plain folder, or broke for good. Nothing was kept."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, "bad_download")
