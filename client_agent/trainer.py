"""The job's model on this machine, kept between rounds. Of the agent, only this and what it imports take torch."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Literal

import structlog
import torch
from torch import Tensor

from client_agent.data import LocalSplit
from client_agent.errors import CannotTrain
from client_agent.machine import Device, rooms
from client_agent.tensor_files import FileTensors, VersionFile
from client_agent.trainer_words import in_words, of_examples
from fedgalore.aggregation import first_carried
from fedgalore.evaluation import Evaluation, evaluate
from fedgalore.model.exact_match import check_exact_match
from fedgalore.model.spread import Rooms, Spread
from fedgalore.model.task import TaskModel
from fedgalore.process import durable
from fedgalore.process.faults import Fault, reach
from fedgalore.process.threads import announced
from fedgalore.replay import Aggregate, Replayed
from fedgalore.rounds import LocalRound, Start
from fedgalore.site_noise import SiteNoise
from fedgalore.sizing import SiteMemory
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import UPDATE_FORMAT, WEIGHTS_FORMAT, kept_tensors, update_tensors, weights_tensors
from fedgalore.spec.plan import TensorSpec, TrainingPlan
from fedgalore.training import Trained, local_training
from protos.codec import CodecError, Numbers, SafetensorsWriter, encode_header, open_update

_log = structlog.get_logger(__name__)


class Trainer:
    """Holds the model of one job and the global weights of one version; its methods block and belong in one thread.

    A version is known by its id, as in `fedgalore.chain`.

    Methods raise `CannotTrain` with words for a person; the trainer then stays usable.
    """

    def __init__(self, device: Device, threads: int | Literal["auto"], memory_bytes: int | None = None) -> None:
        """`memory_bytes`: what a job's model may take of the GPUs; None: all."""
        torch.set_num_threads(announced(threads))
        self._rooms = partial(rooms, device, memory_bytes)
        self._rooms()  # raises what is wrong with `device`
        self._task: TaskModel | None = None
        self._weights: Mapping[str, Tensor] = {}
        self._file = Path()
        self.job_id: str | None = None
        self.held: str | None = None  # id of the version whose global weights these are; None before the first
        self.version = 0  # its number
        self._behind = 0  # rounds of training that they come from
        self.unproven_steps = 0  # since the weights were last known to be the server's, bit for bit

    def open(self, job_id: str, spec: JobSpec, plan: TrainingPlan, folder: Path, held: Path) -> None:
        """Builds the job's model from its base model's folder; lets go of the last job's.

        Args:
            held: file of the version whose global weights are held; one that an earlier process left there is taken.
        """
        self.let_go()
        self._file = held
        with in_words():
            device, spread = where(self._rooms(), SiteMemory.of(spec, plan), spec)
            task = TaskModel.load(spec, folder, device, narrow=True, spread=spread)
        if task.plan != plan:
            raise CannotTrain(
                "the model built here trains other weights than the coordinator's plan says; "
                "install the coordinator's versions of fedgalore and transformers"
            )
        task.plan = plan  # its numbers are the coordinator's, whatever this processor makes of them
        self._task, self.job_id = task, job_id
        if (found := VersionFile.noted(held, self._specs)) is not None:
            self._weights, self.held, self.unproven_steps = found

    def runs(self, job_id: str, spec: JobSpec, plan: TrainingPlan) -> bool:
        """Whether this is what is open: a document that has changed under its job's id is another."""
        task = self._task
        if task is None or (self.job_id, task.spec) != (job_id, spec):
            return False
        return task.plan.to_dict() == plan.to_dict()  # with the numbers that rates follow from

    def let_go(self) -> None:
        """Gives the memory of the job's model back; the next task opens it anew."""
        self._task, self._weights = None, {}
        self.job_id, self.held, self.unproven_steps = None, None, 0
        gc.collect()  # errors and modules refer to each other in circles
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def begin(self, id: str) -> bool:
        """Right after `open`: takes what that built as version 0 if it is, bit for bit, so that nobody fetches it."""
        task = self._open_task()
        assert self.held is None
        with in_words():
            beside = first_carried(task)
            first = ((name, beside[name] if name in beside else task.weight(name)) for name in self._specs_of(0))
            weights = VersionFile.written(self._file, self._specs, first)
            if _weights_sha256(task, weights, 0) != id:
                return False
            self._hold(weights, id)
        return True

    def load(self, weights: Path, id: str) -> None:
        """Takes all global weights of a version from their file, which is gone afterwards."""
        with in_words(), self._whole_or_gone():
            self._hold(VersionFile.of_checkpoint(self._file, weights, self._specs), id)

    def step(self, cut: Path, id: str) -> None:
        """Goes on to the next version, of this id, by a cut.

        Another kind of processor may round differently than the server's: see `proves`.
        """
        task, weights, steps = self._open_task(), self._weights, self.unproven_steps + 1
        assert isinstance(weights, VersionFile)
        with in_words(), self._whole_or_gone():
            file = open_update(cut)
            aggregate = Aggregate(FileTensors(file), float(file.metadata["decay"]))
            weights.replace(Replayed(weights, [aggregate], task.plan, task.spec).items())
            self._hold(weights, id, steps)

    def proves(self, version: int, weights_sha256: str) -> bool:
        """Whether the weights are a checkpoint's, bit for bit. Its file is canonical, so its hash shows that."""
        equal = _weights_sha256(self._open_task(), self._weights, version) == weights_sha256
        if equal and isinstance(self._weights, VersionFile) and self.held is not None:
            self._hold(self._weights, self.held)
        return equal

    def reset(self, version: int, behind: int | None = None) -> None:
        """Puts the global weights, as version `version`, into the model, whatever training made of it.

        Args:
            behind: rounds of training that they come from; None: as many as the version's number says.
        """
        with in_words():
            self._open_task().narrow()  # only now: `begin` needs all that the base model's folder says
            self._open_task().load_weights(self._weights)
        self.version = version
        self._behind = version if behind is None else behind

    def check(self, split: LocalSplit) -> None:
        """Refuses a split that the job cannot evaluate exact match on, before any training."""
        with of_examples(split):
            check_exact_match(self._open_task(), split.examples)

    def evaluate(self, split: LocalSplit, goes_on: Callable[[], bool] | None = None) -> Evaluation:
        """How the model does, as it is.

        Raises:
            TrainingStopped: `goes_on`, asked before each batch, answered False.
        """
        with of_examples(split):
            return evaluate(self._open_task(), split.examples, goes_on)

    def train(
        self,
        split: LocalSplit,
        client: str,
        state: Path | None,
        kept: Path | None,
        on_step: Callable[[int, float], bool],
        output: Path,
        keep: Path,
        noise: SiteNoise | None = None,
    ) -> None:
        """One round of local training; the update's file appears at `output` whole or not at all.

        What is trained, and the file, depend on the version that the round makes, not on the round: an abandoned round
        leaves no trace in those after it, and what was sent for it counts in the next.

        Args:
            state: what the round's clients start from beside the weights.
            kept: what this client kept beside its last update that was aggregated; one that cannot be read is left out.
            keep: where to write what it keeps of this one, if the job's method keeps anything.
            noise: that covers what leaves.

        Raises:
            TrainingStopped: `on_step` answered False.
        """
        task, version = self._open_task(), self._makes()
        with of_examples(split):
            beside = FileTensors(open_update(state)) if state else {}
            kept_before = _kept(kept, kept_tensors(task.spec, task.plan, client))
            this = LocalRound(task, client, version, Start(self._weights, beside, kept_before), self._behind)
            with local_training(this, split.examples, on_step, noise) as trained:
                self._write(trained, client, output, keep)
        reach(Fault.UPDATE_WRITTEN)

    def _write(self, trained: Trained, client: str, output: Path, keep: Path) -> None:
        """Both files, a weight in memory at a time; what is kept first, so that a delivered update never lacks it."""
        task, metadata = (
            self._open_task(),
            {
                "format": UPDATE_FORMAT,
                "job": str(self.job_id),
                "round": str(self._makes()),
                "client": client,
                "num_examples": str(trained.num_examples),
                "decay": repr(trained.decay),
                "metrics": json.dumps(trained.metrics, sort_keys=True),
            },
        )
        sent = update_tensors(task.spec, task.plan, client, self._makes())
        kept = kept_tensors(task.spec, task.plan, client)
        with _written_durably(output, sent, metadata) as put_sent:
            with _written_durably(keep, kept, {}) if kept else nullcontext(_nowhere) as put_kept:
                for packed in trained.weights:
                    for put, tensors in ((put_sent, packed.sent), (put_kept, packed.kept)):
                        for name, tensor in tensors.items():
                            put(name, tensor.numpy())
            if kept:
                reach(Fault.KEPT_WRITTEN)

    def _hold(self, weights: VersionFile, id: str, unproven_steps: int = 0) -> None:
        weights.note(id, unproven_steps)
        self._weights, self.held, self.unproven_steps = weights, id, unproven_steps

    @contextmanager
    def _whole_or_gone(self) -> Iterator[None]:
        """Around a change of the version's file: where it fails there is no version, and the next task opens anew."""
        try:
            yield
        except BaseException:
            self.let_go()
            raise

    @property
    def _specs(self) -> dict[str, TensorSpec]:
        """What the file of a version has room for."""
        return self._specs_of(1)

    def _specs_of(self, version: int) -> dict[str, TensorSpec]:
        task = self._open_task()
        return weights_tensors(task.spec, task.plan, version)

    def _makes(self) -> int:
        """The version that a round from the global weights makes."""
        return self.version + 1

    def _open_task(self) -> TaskModel:
        assert self._task is not None, "open() comes first"
        return self._task


def where(gpus: Rooms, memory: SiteMemory, spec: JobSpec) -> tuple[torch.device, Spread | None]:
    """The first GPU with room for a job, so that no layer waits for another's device; where none has, all of them."""
    if not gpus:
        return torch.device("cpu"), None
    needed = memory.gpu + memory.texts.passes(spec, 0)[0].size_bytes
    first, *others = gpus
    roomy = first if not others else next((gpu for gpu, room in gpus.items() if needed <= room), None)
    return roomy or first, None if roomy else Spread(gpus, memory.gpu)


@contextmanager
def _written_durably(
    output: Path, specs: Mapping[str, TensorSpec], metadata: dict[str, str]
) -> Iterator[Callable[[str, Numbers], None]]:
    """Yields what puts a tensor into the file, which is there whole or not at all, whatever ends this process."""
    with durable.survives_power_cut(output) as draft, SafetensorsWriter(draft, specs, metadata) as writer:
        yield writer.write


def _nowhere(name: str, tensor: Numbers) -> None:
    raise AssertionError(f"{name} is kept, and kept_tensors does not list it")


def _kept(path: Path | None, specs: Mapping[str, TensorSpec]) -> Mapping[str, Tensor]:
    """What this site kept, or nothing where it cannot be read: training loses a little then, and still goes on."""
    try:
        file = open_update(path) if path else None
        if file is None:
            return {}
        if {name: entry.spec for name, entry in file.header.tensors.items()} != specs:
            raise CodecError("its tensors are not those that this version of the agent keeps")
        return FileTensors(file)
    except (CodecError, OSError) as error:
        _log.warning("kept_files_unreadable", path=str(path), reason=str(error))
        return {}


def _weights_sha256(task: TaskModel, weights: Mapping[str, Tensor], version: int) -> str:
    """Of the file that the coordinator makes of a version's weights."""
    tensors, metadata = (
        weights_tensors(task.spec, task.plan, version),
        {"format": WEIGHTS_FORMAT, "version": str(version)},
    )
    digest = hashlib.sha256(encode_header(tensors, metadata))
    for name in tensors:
        digest.update(weights[name].view(-1).numpy().data)
    return digest.hexdigest()
