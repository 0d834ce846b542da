"""How much of what people and agents send is taken: the numbers, and the refusals of what is beyond them.

Limits of single formats stand with the format: a job's document in `fedgalore.spec`, an update's file in
`coordinator.doors.grpc.update_check`, messages in `protos`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter, ValidationError

from coordinator.state.errors import InvalidAgent, InvalidRequest, InvalidUpdate
from fedgalore.process.plain import plain
from fedgalore.spec.metrics import MOST_COUNTS
from fedgalore.spec.strict import Identifier

MAX_JOBS = 1000  # active at a time, unless FEDGALORE_MAX_JOBS says otherwise
MAX_AGENTS = 1000  # enrolled, unless FEDGALORE_MAX_AGENTS says otherwise
# Unless the setting of the same name says otherwise:
MAX_CONNECTIONS = 4000  # of a door
MAX_CONNECTIONS_PER_ADDRESS = 2000  # a thousand agents behind one address, twice
MAX_REQUESTS_PER_KEY = 256  # at a time
MAX_CALLS_PER_CLIENT = 16  # at a time; an agent has four
MAX_DATASETS = 1000  # of a client
MAX_METRICS = 100  # of an update or an evaluation
MAX_METRIC_NAME = 200  # characters
MAX_METRIC = 1e300  # beyond, a sum over clients could be infinite
MAX_REASON = 2000  # characters of what a client says of its failure
MAX_TEXT = 200  # characters of other short texts, of agents and of people
MAX_TOKEN_VALID_S = 90 * 86400.0  # of a join token
MAX_BODY_BYTES = 2**20  # of a request to the people's door
MAX_JOBS_LISTED = 200  # in one page
MAX_ROUNDS_LISTED = 200  # in one page
MAX_EVENTS_READ = 500  # at a time

_METRIC = re.compile(r"[A-Za-z0-9_.:-]+")
_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)


def check_name(field: str, name: str) -> None:
    """Raises `InvalidAgent` for what cannot be the name of a client or a data set: names become parts of paths."""
    try:
        _IDENTIFIER.validate_python(name)
    except ValidationError:
        raise InvalidAgent(
            f"{field}: {name[:64]!r} cannot be a name; use up to 63 letters, digits, dots, dashes and underscores, "
            "a letter or digit first"
        ) from None


def check_datasets(datasets: Mapping[str, int]) -> None:
    """Raises `InvalidAgent` for too many data sets, a data set without training examples, or what cannot be a name."""
    if len(datasets) > MAX_DATASETS:
        raise InvalidAgent(f"datasets: has {len(datasets)} entries; offer at most {MAX_DATASETS}")
    for name, examples in datasets.items():
        check_name("datasets", name)
        if examples < 1:
            raise InvalidAgent(f"datasets.{name}: has no training examples; add some or leave the data set out")


def check_metrics(field: str, values: Mapping[str, float]) -> None:
    """Raises `InvalidUpdate` for too many metrics, too long a name, or a number that is not finite, or nearly not."""
    if len(values) > MAX_METRICS:
        raise InvalidUpdate(f"{field}: has {len(values)} entries; send at most {MAX_METRICS}")
    for name, value in values.items():
        if len(name) > MAX_METRIC_NAME or not _METRIC.fullmatch(name):
            raise InvalidUpdate(
                f"{field}.{plain(name[:64])}: cannot be the name of a metric; use up to {MAX_METRIC_NAME} letters, "
                "digits, dots, colons, dashes and underscores"
            )
        if not -MAX_METRIC < value < MAX_METRIC:
            raise _not_finite(f"{field}.{name}", value)


def check_counts(field: str, counts: Mapping[str, Sequence[float]]) -> None:
    """Raises `InvalidUpdate` for too many counts, too long a name, or a count that is not finite, or nearly not."""
    check_metrics(field, {name: _farthest(numbers) for name, numbers in counts.items()})
    if (size := sum(map(len, counts.values()))) > MOST_COUNTS:
        raise InvalidUpdate(f"{field}: has {size} numbers; send at most {MOST_COUNTS}")


def _farthest(numbers: Sequence[float]) -> float:
    """The first number that is out of bounds, or else any."""
    return next((number for number in numbers if not -MAX_METRIC < number < MAX_METRIC), 0.0)


def check_finite(field: str, values: Mapping[str, float]) -> None:
    """Raises `InvalidUpdate` for NaN or an infinity."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise _not_finite(f"{field}.{name}", value)


def _not_finite(field: str, value: float) -> InvalidUpdate:
    return InvalidUpdate(
        f"{field}: is {str(value)[:64]}, not a finite number; a run that has diverged needs a lower learning rate"
    )


def check_text(field: str, text: str) -> None:
    """Raises `InvalidRequest` for a text that is too long."""
    if len(text) > MAX_TEXT:
        raise InvalidRequest(f"{field}: has {len(text)} characters; send at most {MAX_TEXT}")


def shortened(reason: str) -> str:
    """What a client says of its failure; a long reason loses its end."""
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 1] + "…"
