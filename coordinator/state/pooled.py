"""What the clients of a round measured of its model, as one test set of all of them would show it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coordinator.state.errors import InvalidUpdate
from coordinator.state.round_state import EvaluationResult, ModelVersion, Round
from fedgalore.measures import values
from fedgalore.measures.values import Measured
from fedgalore.process.plain import plain
from fedgalore.spec.job import JobSpec
from fedgalore.spec.metrics import counts_fit
from fedgalore.spec.server import ServerSpec


def pooled(round: Round, server: ServerSpec) -> Measured:
    """How the version does that the round started from; nothing where nobody evaluated it."""
    return pool(results(round), server)


def of_held_out(version: ModelVersion | None) -> Measured:
    """How a version does on the job's held-out set; nothing where it was not evaluated on that."""
    held_out = version.held_out if version else None
    return values.measured(values.pool([held_out.counts])) if held_out else Measured()


def results(round: Round) -> dict[str, EvaluationResult]:
    """What each client measured of the version that the round started from."""
    return {client: each.evaluation for client, each in round.participants.items() if each.evaluation is not None}


def by_version(rounds: Iterable[Round]) -> dict[int, dict[str, EvaluationResult]]:
    """What each client measured, by version; a client that evaluated one twice counts with its later result."""
    found: dict[int, dict[str, EvaluationResult]] = {}
    for each in rounds:
        for client, result in results(each).items():
            found.setdefault(result.model_version, {})[client] = result
    return found


def pool(results: Mapping[str, EvaluationResult], server: ServerSpec) -> Measured:
    """What the clients' counts are worth together, summed in the order of the clients' names.

    None counts for more examples than the job lets it claim: `server.max_weight`.
    """
    counts = [result.counts for _, result in sorted(results.items())]
    return values.measured(values.pool(counts, server.near_median))


def check_counts(spec: JobSpec, result: EvaluationResult) -> None:
    """Refuses counts that could not be summed with those of other clients.

    Raises:
        InvalidUpdate: a metric of the job is missing, one is not the job's, or counts are too few or too many, or are
            those of no examples.
    """
    if unknown := sorted(set(result.metrics) - {"loss", *spec.measured}):
        raise InvalidUpdate(f"evaluation.metrics.{plain(unknown[0][:64])}: this job does not measure it; leave it out")
    if set(result.counts) != set(spec.measured):
        raise InvalidUpdate(
            f"evaluation.counts: holds {', '.join(sorted(result.counts)) or 'nothing'}; "
            f"this job measures {', '.join(spec.measured)}"
        )
    for name, counts in result.counts.items():
        if not counts_fit(name, len(counts), spec.model):
            raise InvalidUpdate(f"evaluation.counts.{name}: {len(counts)} numbers do not fit this job's classes")
        if not values.fits(name, counts):
            raise InvalidUpdate(
                f"evaluation.counts.{name}: no examples are counted so, such as more right ones than there are; send "
                "what was counted"
            )
