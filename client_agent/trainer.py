"""The job's model on this machine, kept between rounds. The agent's only module that imports torch."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import structlog
import torch
from torch import Tensor

from client_agent.data import LocalSplit
from client_agent.errors import CannotTrain
from fedgalore.aggregation import first_version
from fedgalore.data.errors import DataError
from fedgalore.model.culprits import unforeseen
from fedgalore.model.exact_match import check_exact_match
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from fedgalore.process import durable
from fedgalore.process.faults import Fault, reach
from fedgalore.process.threads import announced
from fedgalore.replay import apply_aggregate
from fedgalore.rounds import LocalRound, Start
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import UPDATE_FORMAT, WEIGHTS_FORMAT, update_tensors, weights_tensors
from fedgalore.spec.plan import TensorSpec, TrainingPlan
from fedgalore.training import Evaluation, TrainingError, TrainingStopped, Update, evaluate, local_update
from protos.codec import CodecError, SafetensorsWriter, TensorFile, encode_header, open_update

_log = structlog.get_logger(__name__)


class Trainer:
    """Holds the model of one job and the global weights of one version; its methods block and belong in one thread.

    A version is known by its id, as in `fedgalore.chain`.

    Methods raise `CannotTrain` with words for a person; the trainer then stays usable.
    """

    def __init__(self, device: Literal["auto", "cpu", "cuda"], threads: int | Literal["auto"]) -> None:
        torch.set_num_threads(announced(threads))
        cuda = torch.cuda.is_available()
        if device == "cuda" and not cuda:
            raise CannotTrain("device: cuda is set, but torch sees none here; set device: auto or cpu")
        self._device = torch.device("cuda" if cuda and device != "cpu" else "cpu")
        self._task: TaskModel | None = None
        self._weights: dict[str, Tensor] = {}
        self.job_id: str | None = None
        self.held: str | None = None  # id of the version whose global weights these are; None before the first
        self.version = 0  # its number
        self._behind = 0  # rounds of training that they come from
        self.unproven_steps = 0  # since the weights were last known to be the server's, bit for bit

    def open(self, job_id: str, spec: JobSpec, plan: TrainingPlan, folder: Path) -> None:
        """Builds the job's model from its base model's folder; lets go of the last job's."""
        self.let_go()
        with _in_words():
            task = TaskModel.load(spec, folder, self._device)
        if task.plan != plan:
            raise CannotTrain(
                "the model built here trains other weights than the coordinator's plan says; "
                "install the coordinator's versions of fedgalore and transformers"
            )
        task.plan = plan  # its numbers are the coordinator's, whatever this processor makes of them
        self._task, self.job_id = task, job_id

    def let_go(self) -> None:
        """Gives the memory of the job's model back; the next task opens it anew."""
        self._task, self._weights = None, {}
        self.job_id, self.held, self.unproven_steps = None, None, 0
        gc.collect()  # errors and modules refer to each other in circles
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def begin(self, id: str) -> bool:
        """Right after `open`: takes what that built as version 0 if it is, bit for bit, so that nobody fetches it."""
        task = self._open_task()
        assert self.held is None
        weights = first_version(task)
        if _weights_sha256(task, weights, 0) != id:
            return False
        self._weights, self.held = weights, id
        return True

    def load(self, weights: Path, id: str) -> None:
        """Takes all global weights of a version from their file."""
        with _in_words():
            self._weights = _tensors(open_update(weights))
        self.held, self.unproven_steps = id, 0

    def step(self, cut: Path, id: str) -> None:
        """Goes on to the next version, of this id, by a cut.

        Another kind of processor may round differently than the server's: see `proves`.
        """
        task = self._open_task()
        with _in_words():
            file = open_update(cut)
            decay = float(file.metadata["decay"])
            self._weights = apply_aggregate(self._weights, _tensors(file), decay, task.plan, task.spec)
        self.held, self.unproven_steps = id, self.unproven_steps + 1

    def proves(self, version: int, weights_sha256: str) -> bool:
        """Whether the weights are a checkpoint's, bit for bit. Its file is canonical, so its hash shows that."""
        equal = _weights_sha256(self._open_task(), self._weights, version) == weights_sha256
        self.unproven_steps = 0 if equal else self.unproven_steps
        return equal

    def reset(self, version: int, behind: int | None = None) -> None:
        """Puts the global weights, as version `version`, into the model, whatever training made of it.

        Args:
            behind: rounds of training that they come from; None: as many as the version's number says.
        """
        with _in_words():
            self._open_task().load_weights(self._weights)
        self.version = version
        self._behind = version if behind is None else behind

    def check(self, split: LocalSplit) -> None:
        """Refuses a split that the job cannot evaluate exact match on, before any training."""
        with _in_words(split):
            check_exact_match(self._open_task(), split.examples)

    def evaluate(self, split: LocalSplit, goes_on: Callable[[], bool] | None = None) -> Evaluation:
        """How the model does, as it is.

        Raises:
            TrainingStopped: `goes_on`, asked before each batch, answered False.
        """
        with _in_words(split):
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
    ) -> None:
        """One round of local training; the update's file appears at `output` whole or not at all.

        What is trained, and the file, depend on the version that the round makes, not on the round: an abandoned round
        leaves no trace in those after it, and what was sent for it counts in the next.

        Args:
            state: what the round's clients start from beside the weights.
            kept: what this client kept beside its last update that was aggregated; one that cannot be read is left out.
            keep: where to write what it keeps of this one, if the job's method keeps anything.

        Raises:
            TrainingStopped: `on_step` answered False.
        """
        task, version = self._open_task(), self._makes()
        with _in_words(split):
            start = Start(self._weights, _tensors(open_update(state)) if state else {}, _kept(kept))
            update = local_update(LocalRound(task, client, version, start, self._behind), split.examples, on_step)
        with _in_words():
            if update.kept:  # before the update, so that a delivered one never lacks it
                shapes = {name: TensorSpec("F32", tuple(tensor.shape)) for name, tensor in update.kept.items()}
                _write_durably(keep, shapes, update.kept, {})
                reach(Fault.KEPT_WRITTEN)
            self._write(update, client, output)
            reach(Fault.UPDATE_WRITTEN)

    def _write(self, update: Update, client: str, output: Path) -> None:
        metadata = {
            "format": UPDATE_FORMAT,
            "job": str(self.job_id),
            "round": str(self._makes()),
            "client": client,
            "num_examples": str(update.num_examples),
            "decay": repr(update.decay),
            "metrics": json.dumps(update.metrics, sort_keys=True),
        }
        task = self._open_task()
        tensors = update_tensors(task.spec, task.plan, client, self._makes())
        _write_durably(output, tensors, update.tensors, metadata)

    def _makes(self) -> int:
        """The version that a round from the global weights makes."""
        return self.version + 1

    def _open_task(self) -> TaskModel:
        assert self._task is not None, "open() comes first"
        return self._task


def _write_durably(
    output: Path, shapes: dict[str, TensorSpec], tensors: Mapping[str, Tensor], metadata: dict[str, str]
) -> None:
    """A tensor file at `output`, whole or not there, whatever ends this process or the machine."""
    with durable.survives_power_cut(output) as draft, SafetensorsWriter(draft, shapes, metadata) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor.numpy())


def _tensors(file: TensorFile) -> dict[str, Tensor]:
    """Copies, not views: the file may be pruned, and products of differently aligned memory may round differently."""
    return {name: torch.from_numpy(file.tensor(name)).clone() for name in file.names}


def _kept(path: Path | None) -> dict[str, Tensor]:
    """What this site kept, or nothing where it cannot be read: training loses a little then, and still goes on."""
    try:
        return _tensors(open_update(path)) if path else {}
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
        digest.update(weights[name].contiguous().view(-1).numpy().data)
    return digest.hexdigest()


@contextmanager
def _in_words(split: LocalSplit | None = None) -> Iterator[None]:
    """Turns what the site, its files or the job cause into `CannotTrain`, with the data's file in front."""
    try:
        yield
    except (TaskError, TrainingError) as error:
        raise CannotTrain(f"{split.path}: {error}" if split else str(error)) from error
    except (CodecError, DataError, OSError) as error:
        raise CannotTrain(str(error)) from error
    except (CannotTrain, TrainingStopped):
        raise
    except Exception as error:  # whatever the code of a model or a tokenizer comes upon
        _log.debug("model_failed", exc_info=True)
        raise CannotTrain(f"{split.path}: {unforeseen(error)}" if split else unforeseen(error)) from error
