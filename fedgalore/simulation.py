"""A whole federation in one process: the functions that agents and coordinator call, in the order in which they would.

For the same job, seed, clients and machine the final weights equal the distributed run's bit for bit.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from fedgalore.aggregation import NextVersion, TensorSink, first_version, next_version
from fedgalore.best import Best, best_of, is_worn_out, no_best
from fedgalore.chain import Chain, Cut, Earlier, Trail, goes_down_whole, total_bytes
from fedgalore.data.examples import Example
from fedgalore.evaluation import Evaluation, evaluate
from fedgalore.measures.values import Measured, measured, pool
from fedgalore.methods.halves import client_half
from fedgalore.model.chat import NO_TEMPLATE, has_template
from fedgalore.model.exact_match import check_exact_match
from fedgalore.model.inputs import TaskError
from fedgalore.model.probe import probe, probe_narrow
from fedgalore.model.task import TaskModel
from fedgalore.preflight import Split, preflight
from fedgalore.process.blob_ref import BlobRef
from fedgalore.records import RoundRecord, SimulationResult
from fedgalore.replay import apply_aggregate
from fedgalore.rounds import LocalRound, Start
from fedgalore.selection import choose_cohort
from fedgalore.soundness import check_weights, without_the_unfit
from fedgalore.spec import layout
from fedgalore.spec.job import JobSpec
from fedgalore.spec.server import ServerSpec
from fedgalore.training import Update, local_update


@dataclass(frozen=True)
class Site:
    """One client's name and data, as `fedgalore.data.examples` reads it.

    `local_update` is what the client does with a round; a client that misbehaves has one of its own. `train_place` and
    `test_place` are what messages about a row call its data: the file, where there is one.
    """

    name: str
    train: Sequence[Example]
    test: Sequence[Example] = ()
    local_update: Callable[..., Update] = local_update
    train_place: str = "train"
    test_place: str = "test"

    def evaluated(self, spec: JobSpec) -> tuple[Sequence[Example], str]:
        """What the job's versions are evaluated on here, and what messages call it."""
        if spec.evaluation.split == "train":
            return self.train, self.train_place
        return self.test, self.test_place


def simulate(
    spec: JobSpec,
    folder: Path,
    sites: Sequence[Site],
    device: torch.device | None = None,
    on_round: Callable[[RoundRecord], None] | None = None,
    held_out: Mapping[str, Sequence[Example]] | None = None,
    secret: str | None = None,
    held_out_places: Mapping[str, str] | None = None,
) -> SimulationResult:
    """Runs a job over `sites`; `folder` holds the base model. The last record is the evaluation of the final model.

    Args:
        on_round: called with each round's record when it is over.
        secret: hexadecimal, of the noise of a job with privacy; drawn by default.
        held_out: examples by name that no client holds; the model is evaluated on them as often as on the sites' own.
            They tell which version is the best where the job says so, or where no site has any to evaluate.
        held_out_places: what messages about a row call a held-out set; by default its name.

    Raises:
        ValueError: fewer sites than the job's min_clients, or nothing to tell the best version by.
        TaskError: data of sites do not fit the job; all of these sites are named.
        TaskError, TrainingError: as `local_update`.
        TooFewLeft: too few updates of a round can be taken.
        OutOfBounds: weights are not finite, or far too large.
    """
    if len(sites) < spec.rounds.min_clients:
        raise ValueError(f"rounds.min_clients is {spec.rounds.min_clients}, but there are {len(sites)} clients")
    if spec.evaluation.keep is not None and not held_out and not any(site.evaluated(spec)[0] for site in sites):
        raise ValueError(
            "evaluation.keep: no client has test examples, so no version would be the best; add some, "
            "or take evaluation.split: train"
        )
    if spec.evaluation.keep is not None and spec.evaluation.keep.by == "central" and not held_out:
        raise ValueError("evaluation.keep.by: central goes by held-out examples, and there are none; leave by out")
    talking = _check(spec, sites)
    task = TaskModel.load(spec, folder, device, narrow=True)
    if talking and not has_template(task.inputs):
        raise TaskError(f"{', '.join(talking)}: {NO_TEMPLATE}")
    client_half(spec).check(task)
    probe(task)
    federation = _Federation(task, sites, held_out or {}, secret, held_out_places or {})
    probe_narrow(task)
    records: list[RoundRecord] = []
    version, final = 0, False
    while not final:
        final = version == spec.rounds.count or is_worn_out(federation.best, spec)
        record = federation.play(version, final)
        records.append(record)
        if on_round is not None:
            on_round(record)
        version += 1
    weights = federation.weights
    if spec.local.weights != "float32":  # the result can be saved
        task = TaskModel.load(spec, folder, device)
    task.load_weights(weights)
    return SimulationResult(task, weights, records, federation.best, federation.no_best, federation.best_weights)


def _check(spec: JobSpec, sites: Sequence[Site]) -> list[str]:
    """Looks at every site's data before the model is loaded, as agents do; returns who holds conversations.

    Raises:
        TaskError: some do not fit; each of them is named with its first problem.
    """
    problems, talking = [], []
    for site in sites:
        test = Split(site.test_place, site.test) if site.test else None
        found = preflight(spec, Split(site.train_place, site.train), test)
        problems += [f"{site.name}: {found.problem}"] * (found.problem is not None)
        talking += [site.name] * found.conversations
    if problems:
        raise TaskError(
            f"the data of {len(problems)} of {len(sites)} clients do not fit the job: {'; '.join(problems)}"
        )
    return talking


@contextmanager
def _at(*place: str) -> Iterator[None]:
    """Puts in front of a row's message where the row stands: rows are numbered in each file."""
    try:
        yield
    except TaskError as error:
        raise TaskError(": ".join((*place, str(error)))) from error


def _pooled(evaluations: Mapping[str, Evaluation], server: ServerSpec | None = None) -> Measured:
    """Of all their examples as one test set, summed in the order of the names, as the coordinator does.

    Args:
        server: of a job whose sites these are; None: of held-out sets, each of which counts whole.
    """
    counts = [evaluations[name].counts for name in sorted(evaluations)]
    return measured(pool(counts, server.near_median if server else None))


class _Federation:
    """All sites and the server between two rounds. One model serves them all, in turn."""

    def __init__(
        self,
        task: TaskModel,
        sites: Sequence[Site],
        held_out: Mapping[str, Sequence[Example]],
        secret: str | None,
        places: Mapping[str, str],
    ) -> None:
        self.task = task
        self.weights = first_version(task)
        self._beside = TensorSink()  # what the newest version has beside its weights
        self._sites = {site.name: site for site in sites}
        self._held_out = held_out
        self._places = {name: places.get(name, name) for name in held_out}
        self._secret = secret or secrets.token_hex(32)
        self._kept: dict[str, dict[str, Tensor]] = {}  # by client, of its last update that is in a version
        self._look()
        self._weights_bytes = layout.size_bytes(layout.weights_tensors(task.spec, task.plan, 1))
        first = layout.size_bytes(layout.weights_tensors(task.spec, task.plan, 0))
        chain = Chain.start(_stand_in(0, first))
        self._trail = Trail(Earlier(chain.id), chain)  # as clients would be told of the newest version
        self._held = dict.fromkeys(self._sites, chain.id)  # by client: its last version; all draw version 0 themselves
        self.best: Best | None = None
        self.no_best: str | None = None
        self.best_weights: dict[str, Tensor] | None = None
        for site in sites:
            examples, source = site.evaluated(task.spec)
            with _at(site.name, source):
                check_exact_match(task, examples)
        for name, examples in held_out.items():
            with _at(self._places[name]):
                check_exact_match(task, examples)

    def play(self, model_version: int, final: bool) -> RoundRecord:
        """The round that starts from this version; of the final version, its evaluation alone."""
        spec, number = self.task.spec, model_version + 1  # the coordinator's number, while no round is abandoned
        size = len(self._sites) if final else spec.rounds.cohort_size
        names = choose_cohort(self._sites, size, spec.seed, number)
        up, down = (0, 0) if final else self._traffic(names, number)
        record = RoundRecord(number, model_version, up_bytes=up, down_bytes=down)
        evaluates = final or spec.evaluates(model_version)
        held_out = {
            name: self._evaluate(examples, self._places[name]) for name, examples in self._held_out.items() if evaluates
        }
        updates, evaluations = {}, {}
        for name in names:
            site = self._sites[name]
            examples, source = site.evaluated(spec)
            if evaluates and examples:
                evaluations[name] = self._evaluate(examples, name, source)
            if not final:
                updates[name] = self._train(site, number)
                record.training[name] = updates[name].metrics
                record.examples[name] = updates[name].num_examples
        pooled = _pooled(evaluations, spec.server)
        self._judge(model_version, pooled, _pooled(held_out))
        record.evaluation.update({name: result.metrics for name, result in evaluations.items()})
        record.held_out.update({name: measured(result.counts) for name, result in held_out.items()})
        if not final:
            self._aggregate(updates, record)
        return replace(record, pooled=pooled)

    def _judge(self, version: int, sites: Measured, central: Measured) -> None:
        """Compares the version that the round has evaluated to the best."""
        spec = self.task.spec
        self.best = best_of(self.best, version, {"sites": sites.metrics, "central": central.metrics}, spec)
        self.no_best = no_best(self.best, {"sites": sites.undefined, "central": central.undefined}, spec)
        if self.best is not None and self.best.version == version:
            self.best_weights = self.weights

    def _evaluate(self, examples: Sequence[Example], *place: str) -> Evaluation:
        self.task.load_weights(self.weights)
        with _at(*place):
            return evaluate(self.task, examples)

    def _train(self, site: Site, number: int) -> Update:
        beside = self._beside
        start = Start(self.weights, beside.state, self._kept.get(site.name, {}))
        with _at(site.name, site.train_place):
            return site.local_update(LocalRound(self.task, site.name, number, start), site.train)

    def _aggregate(self, updates: Mapping[str, Update], record: RoundRecord) -> None:
        """Goes on to the next version."""
        task, shelf = self.task, self._beside.shelf(self.weights)
        sent = [update.as_sent(name) for name, update in updates.items()]

        def make(left_out: Mapping[str, str]) -> NextVersion:
            self._beside = TensorSink()
            return next_version(
                *(task.spec, task.plan, record.number, shelf, sent, self._beside),
                device=task.device,
                secret=self._secret,
                left_out=left_out,
            )

        outcome = without_the_unfit(make)
        self.weights = apply_aggregate(self.weights, self._beside.aggregate, outcome.decay, task.plan, task.spec)
        record.dropped.update(outcome.dropped)
        record.statistics.update(outcome.statistics)
        record.alignment.update(outcome.alignment)
        summed = updates.keys() - outcome.dropped.keys()
        self._kept.update({name: updates[name].kept for name in summed})
        tensors = layout.aggregate_tensors(task.spec, task.plan, sorted(summed), record.number)
        self._go_on(record.number, layout.size_bytes(tensors))

    def _go_on(self, version: int, cut_bytes: int) -> None:
        """The chain that the coordinator would keep after this round."""
        cut, weights = Cut(version, _stand_in(version, cut_bytes)), _stand_in(version, self._weights_bytes)
        if goes_down_whole(cut_bytes, self._weights_bytes):
            self._look()
            chain = Chain.start(weights, version)
            self._trail = Trail(Earlier(chain.id), chain)
            return
        chain = self._trail.chain.then(cut)
        if chain.is_due:
            self._look()
        self._trail = self._trail.then(cut, chain.ended(version, weights) if chain.is_due else chain)

    def _look(self) -> None:
        """At weights that the coordinator would write."""
        check_weights(self.weights.items(), self.task.spec, self.task.plan)

    def _traffic(self, names: Collection[str], number: int) -> tuple[int, int]:
        """Bytes up and down: each fetches the cuts since the version that it holds, or a checkpoint and those since."""
        spec, plan, trail = self.task.spec, self.task.plan, self._trail
        up = sum(layout.size_bytes(layout.update_tensors(spec, plan, name, number)) for name in names)
        if number == 1:
            return up, 0
        down = len(names) * layout.size_bytes(layout.state_tensors(spec, plan, number - 1))
        for name in names:
            down += total_bytes(trail.fetched(trail.way(self._held[name])))
            self._held[name] = trail.chain.id
        return up, down


def _stand_in(version: int, size_bytes: int) -> BlobRef:
    """A file of a version that is not written: its number takes the place of its hash."""
    return BlobRef(f"{version:064x}", size_bytes)
