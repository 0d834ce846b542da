"""What a person hears of an error in the trainer, and what of it may leave the site."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from client_agent.data import LocalSplit
from client_agent.errors import CannotTrain, UnfitData
from fedgalore.data.errors import DataError
from fedgalore.maths.bounds import OutOfBounds
from fedgalore.model.culprits import unforeseen
from fedgalore.model.inputs import TaskError
from fedgalore.process.panics import panics_as_errors
from fedgalore.training import TrainingError, TrainingStopped
from protos.codec import CodecError

_log = structlog.get_logger(__name__)


@contextmanager
def in_words() -> Iterator[None]:
    """Turns what the job's model, or a file of its versions, causes into `CannotTrain`."""
    try:
        with panics_as_errors():
            yield
    except (CannotTrain, TrainingStopped):
        raise
    except OutOfBounds as error:
        untrainable = f"the version received cannot be trained on: {error}; go back to an earlier version"
        raise CannotTrain(untrainable) from error
    except OSError as error:  # its words name a path of this site
        _log.error("file_unusable", reason=str(error))
        raise CannotTrain(_told(error)) from error
    except (TaskError, CodecError) as error:
        raise CannotTrain(str(error)) from error
    except Exception as error:  # whatever the code of a model comes upon
        _log.debug("model_failed", exc_info=True)
        raise CannotTrain(unforeseen(error)) from error


@contextmanager
def of_examples(split: LocalSplit) -> Iterator[None]:
    """The same of work on a site's examples. File, row and value stay in the log."""
    with in_words():
        try:
            with panics_as_errors():
                yield
        except (CannotTrain, TrainingStopped, OutOfBounds, CodecError):  # no matter of the examples
            raise
        except Exception as error:  # the code of models and tokenizers, too
            _log.error("examples_unfit", file=str(split.path), reason=str(error))
            _log.debug("model_failed", exc_info=True)
            told = _told(error)
            if isinstance(error, TrainingError):
                raise CannotTrain(told) from error
            raise UnfitData(f"{told}; the agent's log has file and row") from error


def _told(error: Exception) -> str:
    """What may leave the site."""
    match error:
        case TaskError() | TrainingError():
            return error.told
        case DataError():
            return "an example of this site cannot be read"
        case OSError():
            return f"a file of this site cannot be used ({error.strerror or type(error).__name__})"
        case _:
            return f"the code of the job's model failed ({type(error).__name__})"
