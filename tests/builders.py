"""Small valid values for tests. A test names the parts that it is about; each builder fills in the rest."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from coordinator.state import job as jobs
from coordinator.state.job_events import InRound
from coordinator.state.job_state import Job, Prepared
from coordinator.state.round_state import EvaluationResult, ModelVersion, Policy, RoundEvent, UpdateReceipt
from coordinator.store.blob_store import BlobStore
from fedgalore.chain import Chain, Checkpoint, Cut
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.ranges import read_all
from fedgalore.spec.job import JobSpec, parse
from fedgalore.spec.plan import Dense, Target, TrainingPlan
from protos import federation_pb2 as pb


def job_document(**sections: Any) -> dict[str, Any]:
    """A job with everything in it that an update can hold; sections given here are merged over the small defaults."""
    document: dict[str, Any] = {
        "name": "tiny",
        "model": {"source": "models/tiny", "num_labels": 2},
        "data": {"name": "reviews"},
        "method": {"kind": "fedgalore", "rank": 2, "state_sync": "ajive"},
        "rounds": {"count": 2, "min_clients": 2, "deadline_s": 60, "selection_wait_s": 5},
        "local": {"steps": 2, "batch_size": 2, "learning_rate": 1e-3},
    }
    for name, value in sections.items():
        merge = isinstance(value, dict) and isinstance(document.get(name), dict) and "kind" not in value
        document[name] = {**document[name], **value} if merge else value
    return document


ANY_JOB = {  # a site's policy for jobs as small as those of tests
    "least_examples": 1,
    "least_evaluation_examples": 1,
    "least_clients": 1,
    "learning_rate": [0, 10],
}


def a_spec(**sections: Any) -> JobSpec:
    return parse(job_document(**sections))


def a_blob(text: str = "blob") -> BlobRef:
    return BlobRef(hashlib.sha256(text.encode()).hexdigest(), len(text))


def put_bytes(blobs: BlobStore, data: bytes) -> BlobRef:
    """Stores a blob of these bytes."""
    with blobs.scratch_folder() as folder:
        (folder / "blob").write_bytes(data)
        return blobs.put_file(folder / "blob", move=True)


def blob_path(blobs: BlobStore, sha256: str) -> Path:
    """Where a blob of a store in a directory lies: to read, damage or delete it."""
    with blobs.on_disk(sha256) as path:
        return path


def content_of(blobs: BlobStore, sha256: str) -> bytes:
    """A blob's bytes, wherever they lie."""
    with closing(blobs.open(sha256)) as blob:
        return read_all(blob, 0, blob.size_bytes)


def a_version(version: int = 0) -> ModelVersion:
    """A version as the aggregator stores it: with an aggregate and a state from version 1 on."""
    aggregate, state = (a_blob(f"{part} {version}") if version else None for part in ("aggregate", "state"))
    return whole_version(version, a_blob(f"weights {version}"), aggregate, state)


def whole_version(
    version: int, weights: BlobRef, aggregate: BlobRef | None = None, state: BlobRef | None = None
) -> ModelVersion:
    """A version that is a checkpoint."""
    checkpoint = Checkpoint(version, weights, (aggregate or weights).sha256)
    return ModelVersion(version, Chain(checkpoint), weights, aggregate, state)


def a_step_on(before: ModelVersion, size_bytes: int = 4) -> ModelVersion:
    """The version after this one, made by a cut of this size; its weights are not whole."""
    version = before.version + 1
    cut = Cut(version, replace(a_blob(f"aggregate {version}"), size_bytes=size_bytes))
    return ModelVersion(version, before.chain.then(cut), None, cut.blob, a_blob(f"state {version}"))


def a_plan() -> TrainingPlan:
    return TrainingPlan((Target("layer.weight", (6, 4), 2),), (Dense("head.weight", (2, 4)),))


def a_prepared() -> Prepared:
    files = (("config.json", a_blob("config")), ("model.safetensors", a_blob("base")))
    return Prepared(a_plan().to_dict(), files, files, a_version(0))


def a_receipt(text: str = "update", examples: int = 10) -> UpdateReceipt:
    return UpdateReceipt(a_blob(text), examples, {"train_loss": 0.5})


def a_result(model_version: int = 0, examples: int = 20, loss: float = 0.7, accuracy: float = 0.5) -> EvaluationResult:
    """With the counts that such metrics come of."""
    metrics = {"loss": loss, "accuracy": accuracy}
    counts: dict[str, tuple[float, ...]] = {
        name: (value * examples, float(examples)) for name, value in metrics.items()
    }
    return EvaluationResult(model_version, examples, metrics, counts)


def an_evaluation(model_version: int = 0, **metrics: float) -> pb.Evaluation:
    """`a_result` of eight examples as an agent sends it."""
    result = a_result(model_version, 8, **metrics)
    counts = {name: pb.Counts(values=numbers) for name, numbers in result.counts.items()}
    return pb.Evaluation(model_version=model_version, examples=8, metrics=result.metrics, counts=counts)


def a_policy(**changes: Any) -> Policy:
    """Four clients are chosen, three are wanted and two are needed."""
    values = {"min_clients": 2, "goal": 3, "cohort_size": 4, "deadline_s": 60.0, "selection_wait_s": 5.0, "seed": 0}
    return Policy(**{**values, **changes})


def in_flight(job: Job, event: RoundEvent) -> InRound:
    """Something that happens to the job's round."""
    assert job.round is not None
    return InRound(job.round.number, event)


def a_job(now: float = 0.0, **sections: Any) -> Job:
    """A pending job."""
    return jobs.create("job-1", a_spec(**sections), now)
