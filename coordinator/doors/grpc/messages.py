"""The wire's messages as the coordinator's values, and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from coordinator.doors.grpc.guard import positive, sha256
from coordinator.doors.grpc.update_check import Manifest
from coordinator.state import whole
from coordinator.state.errors import InvalidRequest, InvalidUpdate
from coordinator.state.limits import check_metrics
from coordinator.state.records import CheckTask, RoundTask
from coordinator.state.round_state import EvaluationResult
from coordinator.state.sites import SiteFacts
from fedgalore.process.blob_ref import BlobRef
from fedgalore.spec.layout import update_tensors
from fedgalore.spec.plan import TrainingPlan
from fedgalore.spec.rates import highest_rates
from protos import federation_pb2 as pb

if TYPE_CHECKING:
    from coordinator.state.admission import Admitted
    from coordinator.state.job_state import Job


def task(work: RoundTask | CheckTask, client: str) -> pb.Task:
    """What the client has to do."""
    if isinstance(work, CheckTask):
        return pb.Task(
            job_id=work.job.id,
            kind=pb.Task.KIND_CHECK,
            spec_json=json.dumps(work.job.spec),
            posted_by=work.job.posted_by,
        )
    job, ready = work.job, work.job.ready()
    model = ready.model
    kinds = {"train": pb.Task.KIND_TRAIN, "evaluate": pb.Task.KIND_EVALUATE}
    return pb.Task(
        job_id=job.id,
        round=work.round.number,
        kind=kinds[work.round.kind],
        evaluate=work.round.evaluate,
        spec_json=json.dumps(job.spec),
        plan_json=json.dumps(ready.prepared.plan),
        base_model=[pb.ModelFile(name=file, blob=_ref(blob)) for file, blob in ready.prepared.base_model],
        model_version=work.round.model_version,
        rounds_behind=job.rounds_behind(work.round.model_version),
        chain=_chain(job),
        state=_ref(model.state) if model.state else None,
        remaining_s=work.remaining_s,
        last_contribution=job.contributions.get(client, 0),
        posted_by=job.posted_by,
        participants=len(work.round.participants),
    )


def _chain(job: Job) -> pb.Chain:
    trail, first = job.trail, job.ready().prepared.model
    return pb.Chain(
        checkpoint=_ref(trail.chain.checkpoint.weights),
        checkpoint_version=trail.chain.checkpoint.version,
        start=trail.earlier.start,
        starts_at_version_0=trail.earlier.start == first.chain.id,
        cuts=[pb.Cut(version=cut.version, blob=_ref(cut.blob)) for cut in trail.cuts],
        cuts_before_checkpoint=len(trail.earlier.cuts),
    )


def _ref(blob: BlobRef) -> pb.BlobRef:
    return pb.BlobRef(sha256=blob.sha256, size_bytes=blob.size_bytes)


def named_blobs(job: Job) -> dict[str, int]:
    """Hash -> bytes of everything that a task of this job names for its client to fetch."""
    ready = job.ready()
    blobs = [blob for _, blob in ready.prepared.base_model]
    blobs += [blob for blob in (*job.trail.blobs, ready.model.state) if blob]
    return {blob.sha256: blob.size_bytes for blob in blobs}


def lost(job: Job, sha256: str) -> str:
    """What to tell a client that cannot fetch a blob."""
    version = job.trail.made(sha256)
    what = f", which version {version} is made of" if version is not None else ""
    remedy = whole.remedy(job, version) if version is not None else "ask its operator"
    return f"the coordinator has lost blob {sha256} of job {job.id}{what}; {remedy}"


def manifest(admitted: Admitted, client: str) -> Manifest:
    """What this client's update must be.

    Raises:
        InvalidUpdate: the round takes no updates.
    """
    job, flying = admitted.job, admitted.round
    if flying.kind != "train":
        raise InvalidUpdate(f"round: {flying.number} only evaluates; send its result with ReportProgress")
    spec, plan = job.parsed, TrainingPlan.from_dict(job.ready().prepared.plan)
    version = flying.model_version + 1
    tensors = update_tensors(spec, plan, client, version)
    rate = highest_rates(spec, plan).targets
    least_decay = (1 - rate * spec.local.weight_decay) ** spec.local.steps * (1 - 1e-9)  # rounding
    return Manifest(job.id, version, client, tensors, least_decay)


def blob_of(message: pb.UpdateHeader | pb.QueryUploadRequest) -> BlobRef:
    """The blob that an upload announces.

    Raises:
        InvalidRequest: hash or size is missing.
    """
    blob = message.blob
    return BlobRef(sha256("blob.sha256", blob.sha256), positive("blob.size_bytes", blob.size_bytes))


def duplicate(client: str, number: int) -> pb.SubmitUpdateResponse:
    """The answer to an update that was sent twice."""
    reason = f"round {number} holds an update of {client} already; nothing changed"
    return pb.SubmitUpdateResponse(outcome=pb.SubmitUpdateResponse.OUTCOME_DUPLICATE, reason=reason)


def evaluation(message: pb.Evaluation) -> EvaluationResult:
    """How the model does on a client's data.

    Raises:
        InvalidRequest: no examples, or no loss.
        InvalidUpdate: a metric is not finite, or there are too many.
    """
    examples = positive("evaluation.examples", message.examples)
    metrics = dict(message.metrics)
    check_metrics("evaluation.metrics", metrics)
    if "loss" not in metrics:
        raise InvalidRequest("evaluation.metrics.loss: missing; set it")
    counts = {name: tuple(numbers.values) for name, numbers in sorted(message.counts.items())}
    return EvaluationResult(message.model_version, examples, metrics, counts)


def site_facts(message: pb.ReportCheckRequest) -> SiteFacts | None:
    """What a client found in its data, if it says so."""
    if not message.HasField("facts"):
        return None
    found = message.facts
    return SiteFacts(
        examples=found.examples,
        test_examples=found.test_examples,
        classes=found.classes,
        longest=found.longest,
        conversations=found.conversations,
        memory_bytes=found.memory_bytes,
        on_gpu=found.on_gpu,
    )
