"""A job's model on one machine: which weights are trained, what a batch's loss is.

Works with any Hugging Face model for one of the tasks of `fedgalore.model.tasks`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from fedgalore.data.examples import Example
from fedgalore.maths.seeding import derive_seed
from fedgalore.model.configuration import leave_out_outputs, mend_generation
from fedgalore.model.export import AS_LOADED, Formats, formats_of, is_stored_in, save_model
from fedgalore.model.folder import ModelFolderError, check, has_safetensors
from fedgalore.model.in_file import in_file
from fedgalore.model.inputs import Batch, TaskError
from fedgalore.model.matrices import matrices_of, part_memory, places_of, put
from fedgalore.model.missing import new_tensors
from fedgalore.model.plan import training_plan
from fedgalore.model.precision import passes_in
from fedgalore.model.spread import Spread, first_device
from fedgalore.model.tasks.face import Inputs
from fedgalore.model.tasks.registry import task_of
from fedgalore.model.widened import widened
from fedgalore.process.memory import is_short
from fedgalore.spec.job import JobSpec

# While it loads, transformers replaces methods of its classes; two threads at once leave them replaced for good. The
# seed of new weights is the process' as well.
LOADING = threading.Lock()
SHORT = 128  # tokens up to which plain attention is the faster one in bfloat16 on a CPU


class TaskModel:
    """Model of one job and what makes its batches, with its trained weights by name.

    `model` is in float32, until `narrow`; `plan` lists the trained weights, and the buffers that training changes.
    Everything else is frozen.
    """

    def __init__(
        self,
        spec: JobSpec,
        model: nn.Module,
        inputs: Inputs,
        device: torch.device,
        formats: Formats = AS_LOADED,
        new: Collection[str] = (),
        spread: Spread | None = None,
    ) -> None:
        """`new`: names of tensors that were drawn anew. `spread`: over several devices, in place of `device`."""
        self.spec = spec
        self.task = task_of(spec)
        self.model = model.to(device) if spread is None else spread.over(model)
        self._pretrained: Any = model
        self.inputs = inputs
        self.device = device if spread is None else first_device(model)
        self.plan = training_plan(model, spec, new)
        self._parameters = dict(model.named_parameters())
        trained = {place.parameter for place in self.plan.places().values()}
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in trained)
        self._matrices = matrices_of(self.plan, self._parameters)
        self._is_narrow = False
        self._formats = formats
        formats.round_(model.state_dict(), formats.base.keys() - trained)  # they stay so

    @classmethod
    def load(
        cls,
        spec: JobSpec,
        folder: Path,
        device: torch.device | None = None,
        *,
        allow_pickle: bool = False,
        scratch: Path | None = None,
        narrow: bool = False,
        spread: Spread | None = None,
    ) -> TaskModel:
        """Builds the model from a folder with config, safetensors weights, and tokenizer or image processor.

        New weights, such as the head, are drawn from the job's seed, so every site would draw the same.

        Args:
            allow_pickle: weights may be a pickle where there are no safetensors.
            scratch: a folder to be made, good while the model is held, for weights in 16 bits as float32: on a CPU
                they are mapped from there, and take no memory. Memory is taken where none is named.
            narrow: the model is for `narrow`, so that a folder in bfloat16 need never be in memory as float32. It holds
                the folder's numbers either way.
            spread: the layers lie on these devices, in place of `device`, where the model can be spread.

        Raises:
            TaskError: the folder does not hold a model that fits the job, or more than data.
        """
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        with _in_words(spec):
            check(folder, allow_pickle=allow_pickle)
            values = widened(folder, scratch) if scratch is not None else None
            device = device or torch.device("cpu")
            return cls._loaded(spec, folder, device, allow_pickle, values or folder, narrow, spread)

    @classmethod
    def _loaded(
        cls,
        spec: JobSpec,
        folder: Path,
        device: torch.device,
        allow_pickle: bool,
        values: Path,
        narrow: bool,
        spread: Spread | None,
    ) -> TaskModel:
        options: dict[str, Any] = {}
        task = task_of(spec)
        # A head is drawn in float32, whatever the folder is in.
        narrow = narrow and spec.local.weights == "bfloat16" and not task.has_head and has_safetensors(folder)
        narrow = narrow and is_stored_in(folder, torch.bfloat16)
        short = not task.of_images and spec.data.max_length <= SHORT
        if device.type == "cpu" and spec.local.precision == "bfloat16" and short:
            options["attn_implementation"] = "eager"  # the fused one's backward pass takes half of such a step
        if task.has_head:
            names = spec.model.label_names or tuple(f"LABEL_{i}" for i in range(spec.model.labels))
            options["id2label"] = dict(enumerate(names))
            options["label2id"] = {name: i for i, name in enumerate(names)}
        with LOADING:
            torch.manual_seed(derive_seed(spec.seed, "new weights"))
            model, loaded = task.auto_model.from_pretrained(
                str(values),
                dtype=torch.bfloat16 if narrow else torch.float32,
                local_files_only=True,
                use_safetensors=has_safetensors(folder) or not allow_pickle,
                weights_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # a head for other classes is replaced
                output_loading_info=True,
                **options,
            )
        new = new_tensors(model, loaded, has_head=task.has_head)
        if task.has_head:
            model.config.problem_type = task.problem_type
        formats = formats_of(model, folder, new, spec.model.dtype)
        part_memory(model)
        leave_out_outputs(model)
        inputs = task.load_inputs(folder, model)
        mend_generation(model)
        return cls(spec, model, inputs, device, formats, new, spread)

    def under(self, spec: JobSpec) -> TaskModel:
        """The same model and weights for a job that trains the same weights, and evaluates or trains them otherwise."""
        twin = copy(self)
        twin.spec, twin.task = spec, task_of(spec)
        return twin

    def narrow(self) -> None:
        """Holds the model's matrices as the job's `local.weights` says, for good; what is trained whole, in float32.

        A bfloat16 model takes half of the memory, but cannot tell version 0 any more, nor be saved as a download.
        """
        if self.spec.local.weights == "float32" or self._is_narrow:
            return
        whole, self._is_narrow = {item.name for item in self.plan.dense}, True

        def held(name: str, old: Tensor) -> Tensor:
            return old.to(torch.bfloat16 if old.dim() > 1 and name not in whole else torch.float32)

        self._replace(list(self._parameters), held)

    def hold_in(self, folder: Path) -> None:
        """Moves what is trained into files of a new folder, so that `load_weights` takes no memory on a CPU.

        The folder may be deleted. The model itself takes none where it was loaded with `scratch`.

        Raises:
            OSError: the disk has no room.
        """
        folder.mkdir()
        trained = {place.parameter for place in self.plan.places().values()}
        names = [name for name in self._parameters if name in trained]
        self._replace(names, lambda name, old: in_file(folder / name, old))

    def _replace(self, names: Iterable[str], new: Callable[[str, Tensor], Tensor]) -> None:
        """Puts another tensor in the place of parameters, one after the other: two models need not be in memory."""
        self._matrices = {}
        places = places_of(self.model)
        for name in names:
            old = self._parameters[name]
            parameter = nn.Parameter(new(name, old.detach()), old.requires_grad)
            put(parameter, places.pop(old))
            self._parameters[name] = parameter
            del old
        self._matrices = matrices_of(self.plan, self._parameters)

    def weights(self) -> dict[str, Tensor]:
        """Copies of the trained weights and moving buffers, float32 on the CPU."""
        return {name: self.weight(name).clone() for name in self.plan.weights()}

    def weight(self, name: str) -> Tensor:
        """One of them on the CPU, where it may share memory with the model."""
        return self._tensor(name).detach().cpu().float()

    def save(self, folder: Path, *, as_base: bool = False) -> None:
        """Writes the model, in the job's `model.dtype`, and what makes its inputs as `from_pretrained` reads them.

        Args:
            as_base: as `save_model`.
        """
        save_model(self._pretrained, folder, self._formats, as_base=as_base)
        self.inputs.save(folder)

    def round_weights(self) -> None:
        """Gives all that training changes the values that a download has; the next `load_weights` undoes it."""
        self._formats.round_(self.model.state_dict(), {place.parameter for place in self.plan.places().values()})
        self._forget_derived()

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Sets the trained weights and moving buffers; a buffer of whole numbers takes the nearest.

        Raises:
            TaskError: a weight is missing or has another shape.
        """
        with torch.no_grad():
            for name, expected in self.plan.weights().items():
                value = weights.get(name)
                if value is None or tuple(value.shape) != expected.shape:
                    raise TaskError(
                        f"weights: {name} is missing or not of shape {expected.shape}; this job has another model"
                    )
                held = self._tensor(name)
                held.copy_(value if held.is_floating_point() else value.round())
        self._forget_derived()

    def _forget_derived(self) -> None:
        """Makes the model drop what it has computed of its weights for evaluations, as LeViT does its biases.

        Such a model forgets it when training begins, which is when weights change otherwise.
        """
        trains = self.model.training
        self.model.train()
        self.model.train(trains)

    def targets(self) -> dict[str, tuple[nn.Parameter, int]]:
        """The target matrices with their ranks; a matrix that is a part of a parameter shares its memory."""
        return {target.name: (self._matrices[target.name], target.rank) for target in self.plan.targets}

    def dense(self) -> dict[str, nn.Parameter]:
        return {item.name: self._parameters[item.name] for item in self.plan.dense}

    def trained(self) -> dict[str, nn.Parameter]:
        """All that takes steps, by its name in the plan. Gradients are here: parts of a parameter have their own."""
        return {name: matrix for name, (matrix, _) in self.targets().items()} | self.dense()

    def zero_grad(self) -> None:
        """Forgets all gradients. The model's own method does not know those of parts."""
        for parameter in self.trained().values():
            parameter.grad = None

    def buffers(self) -> dict[str, Tensor]:
        """The moving buffers as they are now, float32 on the CPU, where they may share memory with the model."""
        return {item.name: self.weight(item.name) for item in self.plan.buffers}

    def _tensor(self, name: str) -> Tensor:
        """A trained weight, or a buffer: those are looked up each time, because a model may replace them."""
        known = self._matrices.get(name, self._parameters.get(name))
        return self.model.get_buffer(name) if known is None else known

    # --- batches and their loss -----------------------------------------------------------------------------------

    def collate(self, examples: Sequence[Example], *, trains: bool = False) -> Batch:
        """Examples as tensors on the model's device, as the job's task makes them, for a step of training or others.

        Raises:
            TaskError: an example that does not fit the job.
        """
        batch = (self.task.training_batch if trains else self.task.collate)(examples, self.inputs)
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def class_weights(self, examples: Sequence[Example]) -> Tensor | None:
        """The weights `(C,)` that `local.class_weights` gives the classes of a client's examples; None without any.

        Raises:
            TaskError: an example that does not fit the job.
        """
        weights = self.task.class_weights(examples)
        return None if weights is None else weights.to(self.device)

    def outputs(self, batch: Batch) -> Any:
        """What the model says of a batch, in the job's precision: transformers' outputs, `logits` among them."""
        with passes_in(self.spec.local.precision, self.device):
            return self.model(**self.task.model_inputs(batch), **self.task.options(batch))

    def loss(self, batch: Batch, class_weights: Tensor | None = None) -> tuple[Tensor, int, int | None]:
        """Mean loss, how many predictions it averages, how many of them were right; None where they are numbers."""
        outputs = self.outputs(batch)
        return self.task.loss(outputs, batch, class_weights), *self.task.hits(outputs, batch)


@contextmanager
def _in_words(spec: JobSpec) -> Iterator[None]:
    """Around the loading of a folder, in which one false value raises whatever the model's code comes upon.

    Raises:
        TaskError: in place of all but too little memory.
    """
    try:
        yield
    except TaskError:
        raise
    except ModelFolderError as error:
        raise TaskError(f"model.source: {error}") from error
    except Exception as error:
        if is_short(error):
            raise
        problem = " ".join(str(error).partition("\nModel type should be one of")[0].split())  # hundreds of names
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise TaskError(
            f"model.source: not a folder that transformers loads for {spec.model.task}: {kind}{problem}"
        ) from error
