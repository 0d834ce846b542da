from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrolRequest(_message.Message):
    __slots__ = ("client", "join_token", "key_sha256")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    JOIN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    KEY_SHA256_FIELD_NUMBER: _ClassVar[int]
    client: str
    join_token: str
    key_sha256: str
    def __init__(self, client: _Optional[str] = ..., join_token: _Optional[str] = ..., key_sha256: _Optional[str] = ...) -> None: ...

class EnrolResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("client", "protocol_version", "software_version", "datasets", "oldest_protocol_version")
    class DatasetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    client: str
    protocol_version: int
    software_version: str
    datasets: _containers.ScalarMap[str, int]
    oldest_protocol_version: int
    def __init__(self, client: _Optional[str] = ..., protocol_version: _Optional[int] = ..., software_version: _Optional[str] = ..., datasets: _Optional[_Mapping[str, int]] = ..., oldest_protocol_version: _Optional[int] = ...) -> None: ...

class RegisterResponse(_message.Message):
    __slots__ = ("software_version", "presence_s", "protocol_version")
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_S_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    software_version: str
    presence_s: float
    protocol_version: int
    def __init__(self, software_version: _Optional[str] = ..., presence_s: _Optional[float] = ..., protocol_version: _Optional[int] = ...) -> None: ...

class NextTaskRequest(_message.Message):
    __slots__ = ("client", "wait_s")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    client: str
    wait_s: float
    def __init__(self, client: _Optional[str] = ..., wait_s: _Optional[float] = ...) -> None: ...

class NextTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: Task
    def __init__(self, task: _Optional[_Union[Task, _Mapping]] = ...) -> None: ...

class BlobRef(_message.Message):
    __slots__ = ("sha256", "size_bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    size_bytes: int
    def __init__(self, sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class ModelFile(_message.Message):
    __slots__ = ("name", "blob")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    name: str
    blob: BlobRef
    def __init__(self, name: _Optional[str] = ..., blob: _Optional[_Union[BlobRef, _Mapping]] = ...) -> None: ...

class Chain(_message.Message):
    __slots__ = ("checkpoint", "checkpoint_version", "start", "starts_at_version_0", "cuts", "cuts_before_checkpoint")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_VERSION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STARTS_AT_VERSION_0_FIELD_NUMBER: _ClassVar[int]
    CUTS_FIELD_NUMBER: _ClassVar[int]
    CUTS_BEFORE_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: BlobRef
    checkpoint_version: int
    start: str
    starts_at_version_0: bool
    cuts: _containers.RepeatedCompositeFieldContainer[Cut]
    cuts_before_checkpoint: int
    def __init__(self, checkpoint: _Optional[_Union[BlobRef, _Mapping]] = ..., checkpoint_version: _Optional[int] = ..., start: _Optional[str] = ..., starts_at_version_0: bool = ..., cuts: _Optional[_Iterable[_Union[Cut, _Mapping]]] = ..., cuts_before_checkpoint: _Optional[int] = ...) -> None: ...

class Cut(_message.Message):
    __slots__ = ("version", "blob")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    version: int
    blob: BlobRef
    def __init__(self, version: _Optional[int] = ..., blob: _Optional[_Union[BlobRef, _Mapping]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("job_id", "round", "kind", "evaluate", "spec_json", "plan_json", "base_model", "model_version", "chain", "state", "remaining_s", "last_contribution", "rounds_behind", "posted_by", "participants")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Task.Kind]
        KIND_TRAIN: _ClassVar[Task.Kind]
        KIND_EVALUATE: _ClassVar[Task.Kind]
        KIND_CHECK: _ClassVar[Task.Kind]
    KIND_UNSPECIFIED: Task.Kind
    KIND_TRAIN: Task.Kind
    KIND_EVALUATE: Task.Kind
    KIND_CHECK: Task.Kind
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    EVALUATE_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    PLAN_JSON_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REMAINING_S_FIELD_NUMBER: _ClassVar[int]
    LAST_CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_BEHIND_FIELD_NUMBER: _ClassVar[int]
    POSTED_BY_FIELD_NUMBER: _ClassVar[int]
    PARTICIPANTS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    round: int
    kind: Task.Kind
    evaluate: bool
    spec_json: str
    plan_json: str
    base_model: _containers.RepeatedCompositeFieldContainer[ModelFile]
    model_version: int
    chain: Chain
    state: BlobRef
    remaining_s: float
    last_contribution: int
    rounds_behind: int
    posted_by: str
    participants: int
    def __init__(self, job_id: _Optional[str] = ..., round: _Optional[int] = ..., kind: _Optional[_Union[Task.Kind, str]] = ..., evaluate: bool = ..., spec_json: _Optional[str] = ..., plan_json: _Optional[str] = ..., base_model: _Optional[_Iterable[_Union[ModelFile, _Mapping]]] = ..., model_version: _Optional[int] = ..., chain: _Optional[_Union[Chain, _Mapping]] = ..., state: _Optional[_Union[BlobRef, _Mapping]] = ..., remaining_s: _Optional[float] = ..., last_contribution: _Optional[int] = ..., rounds_behind: _Optional[int] = ..., posted_by: _Optional[str] = ..., participants: _Optional[int] = ...) -> None: ...

class DownloadBlobRequest(_message.Message):
    __slots__ = ("client", "sha256", "offset", "job_id", "round", "by_url")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BY_URL_FIELD_NUMBER: _ClassVar[int]
    client: str
    sha256: str
    offset: int
    job_id: str
    round: int
    by_url: bool
    def __init__(self, client: _Optional[str] = ..., sha256: _Optional[str] = ..., offset: _Optional[int] = ..., job_id: _Optional[str] = ..., round: _Optional[int] = ..., by_url: bool = ...) -> None: ...

class DownloadBlobResponse(_message.Message):
    __slots__ = ("data", "url")
    DATA_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    url: str
    def __init__(self, data: _Optional[bytes] = ..., url: _Optional[str] = ...) -> None: ...

class SubmitUpdateRequest(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: UpdateHeader
    chunk: bytes
    def __init__(self, header: _Optional[_Union[UpdateHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class UpdateHeader(_message.Message):
    __slots__ = ("client", "job_id", "round", "blob", "offset")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    client: str
    job_id: str
    round: int
    blob: BlobRef
    offset: int
    def __init__(self, client: _Optional[str] = ..., job_id: _Optional[str] = ..., round: _Optional[int] = ..., blob: _Optional[_Union[BlobRef, _Mapping]] = ..., offset: _Optional[int] = ...) -> None: ...

class SubmitUpdateResponse(_message.Message):
    __slots__ = ("outcome", "reason", "received_bytes")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[SubmitUpdateResponse.Outcome]
        OUTCOME_ACCEPTED: _ClassVar[SubmitUpdateResponse.Outcome]
        OUTCOME_DUPLICATE: _ClassVar[SubmitUpdateResponse.Outcome]
    OUTCOME_UNSPECIFIED: SubmitUpdateResponse.Outcome
    OUTCOME_ACCEPTED: SubmitUpdateResponse.Outcome
    OUTCOME_DUPLICATE: SubmitUpdateResponse.Outcome
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    outcome: SubmitUpdateResponse.Outcome
    reason: str
    received_bytes: int
    def __init__(self, outcome: _Optional[_Union[SubmitUpdateResponse.Outcome, str]] = ..., reason: _Optional[str] = ..., received_bytes: _Optional[int] = ...) -> None: ...

class QueryUploadRequest(_message.Message):
    __slots__ = ("client", "job_id", "round", "blob")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    client: str
    job_id: str
    round: int
    blob: BlobRef
    def __init__(self, client: _Optional[str] = ..., job_id: _Optional[str] = ..., round: _Optional[int] = ..., blob: _Optional[_Union[BlobRef, _Mapping]] = ...) -> None: ...

class QueryUploadResponse(_message.Message):
    __slots__ = ("accepted", "received_bytes")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    accepted: bool
    received_bytes: int
    def __init__(self, accepted: bool = ..., received_bytes: _Optional[int] = ...) -> None: ...

class SiteFacts(_message.Message):
    __slots__ = ("examples", "test_examples", "classes", "longest", "conversations", "memory_bytes", "on_gpu")
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    TEST_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    LONGEST_FIELD_NUMBER: _ClassVar[int]
    CONVERSATIONS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    ON_GPU_FIELD_NUMBER: _ClassVar[int]
    examples: int
    test_examples: int
    classes: int
    longest: int
    conversations: bool
    memory_bytes: int
    on_gpu: bool
    def __init__(self, examples: _Optional[int] = ..., test_examples: _Optional[int] = ..., classes: _Optional[int] = ..., longest: _Optional[int] = ..., conversations: bool = ..., memory_bytes: _Optional[int] = ..., on_gpu: bool = ...) -> None: ...

class ReadJobRequest(_message.Message):
    __slots__ = ("client", "job_id")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    client: str
    job_id: str
    def __init__(self, client: _Optional[str] = ..., job_id: _Optional[str] = ...) -> None: ...

class ReadJobResponse(_message.Message):
    __slots__ = ("spec_json",)
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    spec_json: str
    def __init__(self, spec_json: _Optional[str] = ...) -> None: ...

class ReportCheckRequest(_message.Message):
    __slots__ = ("client", "job_id", "problem", "facts", "code")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    client: str
    job_id: str
    problem: str
    facts: SiteFacts
    code: str
    def __init__(self, client: _Optional[str] = ..., job_id: _Optional[str] = ..., problem: _Optional[str] = ..., facts: _Optional[_Union[SiteFacts, _Mapping]] = ..., code: _Optional[str] = ...) -> None: ...

class ReportCheckResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("model_version", "examples", "metrics", "counts")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Counts
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Counts, _Mapping]] = ...) -> None: ...
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    model_version: int
    examples: int
    metrics: _containers.ScalarMap[str, float]
    counts: _containers.MessageMap[str, Counts]
    def __init__(self, model_version: _Optional[int] = ..., examples: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., counts: _Optional[_Mapping[str, Counts]] = ...) -> None: ...

class Counts(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class ReportProgressRequest(_message.Message):
    __slots__ = ("client", "job_id", "round", "stage", "step", "train_loss", "evaluation", "failure", "failure_code")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TRAIN_LOSS_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CODE_FIELD_NUMBER: _ClassVar[int]
    client: str
    job_id: str
    round: int
    stage: str
    step: int
    train_loss: float
    evaluation: Evaluation
    failure: str
    failure_code: str
    def __init__(self, client: _Optional[str] = ..., job_id: _Optional[str] = ..., round: _Optional[int] = ..., stage: _Optional[str] = ..., step: _Optional[int] = ..., train_loss: _Optional[float] = ..., evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., failure: _Optional[str] = ..., failure_code: _Optional[str] = ...) -> None: ...

class ReportProgressResponse(_message.Message):
    __slots__ = ("go_on", "reason")
    GO_ON_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    go_on: bool
    reason: str
    def __init__(self, go_on: bool = ..., reason: _Optional[str] = ...) -> None: ...
