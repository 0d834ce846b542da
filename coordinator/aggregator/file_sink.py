"""A version as it is computed, written into files group by group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from torch import Tensor

from coordinator.aggregator.weights import weights_part
from fedgalore.aggregation import Part
from fedgalore.chain import goes_down_whole
from fedgalore.maths.parallel import one_thread
from fedgalore.process.faults import Fault, reach
from fedgalore.replay import Aggregate, Replayed
from fedgalore.rounds import GroupResult
from fedgalore.soundness import checked
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import size_bytes
from fedgalore.spec.plan import TrainingPlan
from protos.codec import SafetensorsWriter


class FileSink:
    """A `Sink` of safetensors files in a folder, one a part; a context manager that completes them.

    Where a cut would be no smaller than the weights that it makes, these are written in its place, as part "weights".
    """

    def __init__(
        self, folder: Path, version: int, old: Callable[[], Mapping[str, Tensor]], plan: TrainingPlan, spec: JobSpec
    ) -> None:
        """`old`: the weights of the version before, for new ones."""
        self._folder, self._old, self._plan, self._spec = folder, old, plan, spec
        self._weights = weights_part(version, plan, spec)
        self._files = ExitStack()
        self._writers: dict[str, SafetensorsWriter] = {}
        self._cut: dict[str, Tensor] = {}  # what the group in hand would put into it
        self._new: Replayed | None = None  # the weights after it, where they are written

    @property
    def parts(self) -> list[str]:
        """The parts that were written; each is the file of that name."""
        return list(self._writers)

    def __enter__(self) -> FileSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)

    def open(self, parts: Mapping[str, Part]) -> None:
        """Begins the files.

        Raises:
            ChainBroken: the weights before are asked for, and what they are made of is damaged or missing.
            OSError: the disk refuses.
        """
        cut = parts["aggregate"]
        if goes_down_whole(size_bytes(cut.tensors), size_bytes(self._weights.tensors)):
            step = Aggregate(self._cut, float(cut.metadata["decay"]))
            self._new = Replayed(self._old(), [step], self._plan, self._spec)
            parts = {"weights" if name == "aggregate" else name: part for name, part in parts.items()}
            parts["weights"] = self._weights
        for name, part in parts.items():
            writer = SafetensorsWriter(self._folder / name, part.tensors, part.metadata)
            self._writers[name] = self._files.enter_context(writer)

    def put(self, group: GroupResult) -> None:
        """Writes the tensors.

        Raises:
            OutOfBounds: whole weights are written, and some are not finite, or far too large.
            OSError: the disk refuses.
        """
        for name, tensors in group.parts():
            if name == "aggregate" and self._new is not None:
                self._put_weights(group, self._new)
                continue
            for tensor_name, tensor in tensors.items():
                self._writers[name].write(tensor_name, tensor.numpy())
        reach(Fault.GROUP_WRITTEN)

    def _put_weights(self, group: GroupResult, new: Replayed) -> None:
        self._cut.update(group.aggregate)
        for item in group.items:
            with one_thread():
                tensors = new.replayed(item)
            for name, tensor in checked(tensors.items(), self._spec, self._plan):
                self._writers["weights"].write(name, tensor.numpy())
        self._cut.clear()
