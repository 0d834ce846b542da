"""What all calls of the agents' door share: fields that must be there, errors as statuses, threads waited for."""

from __future__ import annotations

import asyncio
import math
import re
import uuid
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import grpc
import structlog

from coordinator.doors.unbroken import to_its_end
from coordinator.state.errors import DomainError, InvalidRequest, NotAllowed
from coordinator.state.limits import check_name, check_text
from coordinator.state.records import Instance
from coordinator.store.refusals import noted
from fedgalore.process.blob_ref import SHA256
from fedgalore.process.plain import plain
from protos import INSTANCE_KEY, STAGES, WAITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from protos import federation_pb2 as pb

    Context = grpc.aio.ServicerContext[Any, Any]

P = ParamSpec("P")
R = TypeVar("R")
_CODE = re.compile(r"[a-z][a-z0-9_.]{0,63}")
_DETAILS = 1000  # characters: details travel as a header, and a peer's own names may stand in them
_log = structlog.get_logger(__name__)


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """Status and details of an error. What is no domain error leaves only an id, under which the log has it."""
    error = noted(error) or error
    if isinstance(error, DomainError):
        return grpc.StatusCode[error.grpc_status], str(error)[:_DETAILS]
    error_id = uuid.uuid4().hex[:12]
    _log.error("unexpected_error", id=error_id, exc_info=error)
    return grpc.StatusCode.INTERNAL, f"this is a fault of the coordinator; its log has more under {error_id}"


def header(context: Context, key: str) -> str | None:
    """A text of the call's metadata."""
    value = dict(context.invocation_metadata() or ()).get(key)
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def instance(context: Context) -> Instance:
    """Which agent calls."""
    return Instance.parse(header(context, INSTANCE_KEY) or "")


def check_certificate(context: Context, client: str) -> None:
    """Returns when the call's certificate names this client, or where agents show none.

    Raises:
        NotAllowed: its common name and its alternative names are others.
    """
    proved: Mapping[str, Iterable[bytes]] = context.auth_context()
    if not proved.get("x509_pem_cert"):
        return
    subjects = [*proved.get("x509_common_name", ()), *proved.get("x509_subject_alternative_name", ())]
    if client.encode() not in subjects:
        names = b", ".join(subjects).decode(errors="replace") or "nobody"
        raise NotAllowed(
            f"client: the certificate is made for {names}, not for {client!r}; give the agent one of its own name "
            "(tls_cert, tls_key)"
        )


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """The result of blocking work, from a thread. When cancelled, it waits for the work's end before it raises: no
    thread touches a file that was given up."""
    return await to_its_end(asyncio.to_thread(function, *args, **kwargs))


def name(field: str, value: str) -> str:
    """A client's name.

    Raises:
        InvalidRequest: missing.
        InvalidAgent: no name.
    """
    check_name(field, text(field, value))
    return value


def text(field: str, value: str) -> str:
    """A short text that is not blank.

    Raises:
        InvalidRequest: it is, or is long.
    """
    check_text(field, value)
    return prose(field, value)


def prose(field: str, value: str) -> str:
    """A text of any length that is not blank, in `plain` letters; whoever keeps it shortens it.

    Raises:
        InvalidRequest: it is.
    """
    if not value.strip():
        raise InvalidRequest(f"{field}: missing; set it")
    return plain(value)


def stage(value: str) -> str:
    """What an agent does with its task, or in `plain` letters why it waits.

    Raises:
        InvalidRequest: something that no agent does.
    """
    if value.startswith(WAITS):
        return text("stage", value)
    if value not in STAGES:
        raise InvalidRequest(f"stage: {value[:64]!r} is none; send one of {', '.join(STAGES)}")
    return value


def positive(field: str, value: int) -> int:
    """A count or number that starts at 1.

    Raises:
        InvalidRequest: it is 0, which in this protocol is the same as not set.
    """
    if value < 1:
        raise InvalidRequest(f"{field}: missing; set it to 1 or more")
    return value


def finite(field: str, value: float) -> float:
    """A number that is neither NaN nor infinite.

    Raises:
        InvalidRequest: it is.
    """
    if not math.isfinite(value):
        raise InvalidRequest(f"{field}: is {value}, not a finite number; send a finite number")
    return value


def sha256(field: str, value: str) -> str:
    """64 lower-case hexadecimal digits.

    Raises:
        InvalidRequest: something else.
    """
    if not SHA256.fullmatch(text(field, value)):
        raise InvalidRequest(f"{field}: {value[:64]!r} is no SHA-256; send 64 lower-case hexadecimal digits")
    return value


def code(field: str, value: str) -> str | None:
    """What tells machines why; None where it is empty.

    Raises:
        InvalidRequest: it is no code.
    """
    if value and not _CODE.fullmatch(value):
        raise InvalidRequest(
            f"{field}: {value[:64]!r} is no code; send up to 64 lower-case letters, digits, dots and _"
        )
    return value or None


def in_round(
    message: pb.UpdateHeader | pb.QueryUploadRequest | pb.ReportProgressRequest | pb.DownloadBlobRequest,
) -> tuple[str, int]:
    """Job and round of a message that speaks of a task.

    Raises:
        InvalidRequest: one of them is missing.
    """
    return text("job_id", message.job_id), positive("round", message.round)
