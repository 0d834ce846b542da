"""What can go wrong, in words of the domain: a table for both doors.

Every error carries a stable `code`, the HTTP status of REST and the status name of gRPC. Its message names the field
and the remedy, because it is shown to people as it is.
"""

from __future__ import annotations

from typing import ClassVar


class DomainError(Exception):
    """An answer that a caller can act on. Only its subclasses are raised."""

    code: ClassVar[str]
    http_status: ClassVar[int]
    grpc_status: ClassVar[str]  # a name of grpc.StatusCode


class JobNotFound(DomainError):
    code, http_status, grpc_status = "job_not_found", 404, "NOT_FOUND"


def no_job(job_id: str) -> JobNotFound:
    """The same for a job that is not there and for one of a team that the caller is not in."""
    return JobNotFound(f"job {job_id!r} does not exist; `fedgalore jobs list` (GET /api/v1/jobs) shows those that do")


class JobUnreadable(DomainError):
    """A job's document is damaged, or was written by another version of this software."""

    code, http_status, grpc_status = "job_unreadable", 500, "FAILED_PRECONDITION"


class JobTooNew(JobUnreadable):
    """A newer release has written a job's document: a replica that is upgraded serves it."""

    code, http_status, grpc_status = "job_too_new", 503, "UNAVAILABLE"


class RoundNotFound(DomainError):
    code, http_status, grpc_status = "round_not_found", 404, "NOT_FOUND"


class VersionNotFound(DomainError):
    code, http_status, grpc_status = "version_not_found", 404, "NOT_FOUND"


class AgentNotFound(DomainError):
    code, http_status, grpc_status = "agent_not_found", 404, "NOT_FOUND"


class BlobNotFound(DomainError):
    code, http_status, grpc_status = "blob_not_found", 404, "NOT_FOUND"


class BlobLost(DomainError):
    """A blob that the state names is missing or cut short on the coordinator's disk."""

    code, http_status, grpc_status = "blob_lost", 500, "DATA_LOSS"


class BeingMade(DomainError):
    """What is asked for is being made; the same request finds it soon."""

    code, http_status, grpc_status = "being_made", 503, "UNAVAILABLE"


class IllegalTransition(DomainError):
    """An event that the state it meets has no row for; the state is unchanged."""

    code, http_status, grpc_status = "illegal_transition", 409, "FAILED_PRECONDITION"


class RoundClosed(DomainError):
    """The round takes nothing more from this client."""

    code, http_status, grpc_status = "round_closed", 409, "FAILED_PRECONDITION"


class RoundNotInFlight(RoundClosed):
    """The round has ended, or never was: the archive of closed rounds knows."""


class NotReady(DomainError):
    """Asked for too early, such as the model of a job that is still being prepared."""

    code, http_status, grpc_status = "not_ready", 409, "FAILED_PRECONDITION"


class NoAdapter(DomainError):
    """What a job trains cannot be written as a LoRA adapter."""

    code, http_status, grpc_status = "no_adapter", 409, "FAILED_PRECONDITION"


class IdempotencyConflict(DomainError):
    code, http_status, grpc_status = "idempotency_conflict", 409, "ALREADY_EXISTS"


class NotParticipant(DomainError):
    code, http_status, grpc_status = "not_participant", 403, "PERMISSION_DENIED"


class UnknownClient(DomainError):
    code, http_status, grpc_status = "unknown_client", 401, "UNAUTHENTICATED"


class NotAuthenticated(DomainError):
    """No credential, or none that is known."""

    code, http_status, grpc_status = "not_authenticated", 401, "UNAUTHENTICATED"


class NotAllowed(DomainError):
    """A credential that does not reach as far as what was asked."""

    code, http_status, grpc_status = "not_allowed", 403, "PERMISSION_DENIED"


class CredentialNotFound(DomainError):
    code, http_status, grpc_status = "credential_not_found", 404, "NOT_FOUND"


class ProtocolMismatch(DomainError):
    code, http_status, grpc_status = "protocol_mismatch", 409, "FAILED_PRECONDITION"


class InvalidJob(DomainError):
    """A posted document that is no valid job; `errors` has a `{field, problem}` row for each fault of it."""

    code, http_status, grpc_status = "invalid_job", 422, "INVALID_ARGUMENT"

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{row['field']}: {row['problem']}" for row in errors))
        self.errors = errors


class InvalidAgent(DomainError):
    """A registration with a name or a data set that cannot be used."""

    code, http_status, grpc_status = "invalid_agent", 422, "INVALID_ARGUMENT"


class NameTaken(DomainError):
    """Another agent serves under the client's name."""

    code, http_status, grpc_status = "name_taken", 409, "ALREADY_EXISTS"


class InvalidUpdate(DomainError):
    code, http_status, grpc_status = "invalid_update", 422, "INVALID_ARGUMENT"


class WrongOffset(DomainError):
    """An upload that goes on elsewhere than where it stopped; `expected` is the byte to go on from."""

    code, http_status, grpc_status = "wrong_offset", 409, "OUT_OF_RANGE"

    def __init__(self, message: str, expected: int) -> None:
        super().__init__(message)
        self.expected = expected


class StateUnavailable(DomainError):
    """The state store does not answer; nothing is known to have changed, so try again."""

    code, http_status, grpc_status = "state_unavailable", 503, "UNAVAILABLE"


class ProviderAway(DomainError):
    """The identity provider has not given the keys that it signs with: nobody can tell whose token this is."""

    code, http_status, grpc_status = "provider_away", 503, "UNAVAILABLE"


class TooMany(DomainError):
    """A limit of this coordinator is reached; the message names the setting that raises it."""

    code, http_status, grpc_status = "too_many", 429, "RESOURCE_EXHAUSTED"


class Busy(DomainError):
    """A caller, or all together, have as much under way as is taken; the same call is taken when some of it ended."""

    code, http_status, grpc_status = "busy", 503, "UNAVAILABLE"


class Stalled(DomainError):
    """What was under way has stood still, or did not come, for too long; it can be begun again, or gone on with."""

    code, http_status, grpc_status = "stalled", 408, "ABORTED"


class LeaseLost(DomainError):
    """What was to be written is another process' to write now."""

    code, http_status, grpc_status = "lease_lost", 409, "ABORTED"


class StorageFull(DomainError):
    """The disk of the blobs takes nothing more; what was begun goes on as soon as it does."""

    code, http_status, grpc_status = "storage_full", 507, "UNAVAILABLE"


class StorageAway(DomainError):
    """The bucket of the blobs does not answer, or refuses; what was begun goes on as soon as it does."""

    code, http_status, grpc_status = "storage_away", 503, "UNAVAILABLE"


class InvalidRequest(DomainError):
    """A field of a request is missing or has a value that no request may have."""

    code, http_status, grpc_status = "invalid_request", 422, "INVALID_ARGUMENT"


class UploadInProgress(DomainError):
    """The same update is being received over another connection."""

    code, http_status, grpc_status = "upload_in_progress", 409, "ABORTED"
