"""An HTTP answer as what it means: the JSON in it, or the error that it says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from fedgalore.client.errors import ClientError, FieldProblem, Refused, Unreachable, WrongArgument

T = TypeVar("T")
AWAY = (502, 503, 504)  # the coordinator without its Redis, or a proxy without its coordinator
_PROBLEM = "application/problem+json"


def content(answer: httpx.Response, url: str, takes: tuple[int, ...] = ()) -> Any:
    """The JSON of an answer that was read; None where it is empty.

    Args:
        url: of the coordinator, for messages.
        takes: statuses beside success whose body is an answer, and not a problem.

    Raises:
        Refused, Unreachable
    """
    if not (answer.is_success or (answer.status_code in takes and problem(answer) is None)):
        raise error(answer, url)
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError:
        raise _no_coordinator(answer, url) from None


def error(answer: httpx.Response, url: str) -> ClientError:
    """What an answer without success says."""
    status = answer.status_code
    if found := problem(answer):
        detail, code = str(found["detail"]), str(found["code"])
        if code == "not_authenticated":
            detail += ". The key comes from FEDGALORE_API_KEY, or from the file that FEDGALORE_API_KEY_FILE names"
        fields = [FieldProblem(row["field"], row["problem"]) for row in found.get("errors") or ()]
        return (Unreachable if status in AWAY else Refused)(detail, code, status, fields)
    if status in AWAY:
        sentence = f"no answer from {url}: what stands before it says {status}; try again"
        return Unreachable(sentence, "unreachable", status)
    return _no_coordinator(answer, url)


def problem(answer: httpx.Response) -> dict[str, Any] | None:
    """The problem document of an answer (RFC 9457); None where it is something else."""
    if not answer.headers.get("content-type", "").startswith(_PROBLEM):
        return None
    try:
        found = answer.json()
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"detail", "code"} <= found.keys() else None


def being_made(answer: httpx.Response) -> str | None:
    """In words, what is being made that the same request finds later; None where it is something else."""
    found = problem(answer)
    return str(found["detail"]) if found and found["code"] == "being_made" else None


def parsed(shape: type[T], document: Any) -> T:
    """The answer in its shape.

    Raises:
        Refused: it has another one.
    """
    try:
        return TypeAdapter(shape).validate_python(document)
    except ValidationError as wrong:
        first = wrong.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the answer"
        sentence = f"the coordinator's answer cannot be read ({where}: {first['msg']}); take a client of its version"
        raise Refused(sentence, "unknown_answer") from wrong


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """Says of a line that fails what to do.

    Raises:
        Unreachable
        WrongArgument: there is somebody, who cannot be talked to as the address or the CA says.
    """
    try:
        yield
    except (httpx.RequestError, httpx.InvalidURL) as broken:
        said = str(broken) or type(broken).__name__
        if "CERTIFICATE_VERIFY_FAILED" in said:
            problem = f"the certificate of {url} is not believed ({said}); name the CA of its certificate"
            raise WrongArgument("FEDGALORE_CA", problem) from broken
        if "WRONG_VERSION_NUMBER" in said:
            problem = f"no TLS is spoken at {url} ({said}); give its address with http://"
            raise WrongArgument("url", problem) from broken
        remedy = "start a coordinator with `fedgalore coordinator`, or name its address by --url"
        raise Unreachable(f"no answer from {url} ({said}); {remedy}", "unreachable") from broken


def _no_coordinator(answer: httpx.Response, url: str) -> Refused:
    sentence = f"url: {url} answered {answer.status_code} and is no coordinator; correct the address"
    return Refused(sentence, "no_coordinator", answer.status_code, [FieldProblem("url", "is no coordinator")])
