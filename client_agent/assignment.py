"""One task of the coordinator, from the offer to the delivered update."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from client_agent import admission, protection
from client_agent.base_model import base_model
from client_agent.begun import MOST_DEATHS
from client_agent.cache import Cache
from client_agent.data import LocalData, LocalSplit
from client_agent.errors import CannotTrain, InvalidExchange, OutOfMemory, RoundOver, SiteRefuses
from client_agent.policy import of_evaluation
from client_agent.room import check_room
from client_agent.session import Work
from client_agent.settings import AgentSettings
from client_agent.site_log import SiteLog
from client_agent.task_document import job_of, plan_of
from client_agent.task_log import TaskLog
from client_agent.told_loss import ToldLoss
from client_agent.training_thread import TrainingThread
from client_agent.transport import Transport
from client_agent.version import Version, blob_of
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.content_folder import ref_of_file
from fedgalore.process.faults import Fault, reach
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import kept_tensors, size_bytes, update_tensors
from fedgalore.spec.relief import Doing, relief
from protos import federation_pb2 as pb

if TYPE_CHECKING:
    from fedgalore.site_noise import SiteNoise

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class SiteContext:
    """What all tasks of an agent share."""

    settings: AgentSettings
    data: Mapping[str, LocalData]
    cache: Cache
    log: SiteLog
    transport: Transport
    thread: TrainingThread


class Assignment:
    """A task at this site. Its coroutines are the session's states; each may be cancelled and run again."""

    def __init__(self, task: pb.Task, site: SiteContext) -> None:
        self._task = task
        self._site = site
        self._trains = task.kind == pb.Task.KIND_TRAIN
        self._log = TaskLog(site.log, task)
        # By the weights and the document that it starts from: an update that a round was abandoned without is that of
        # the next try.
        self._version = Version(task, site)
        start = f"{task.model_version + 1}.{self._version.trail.chain.id[:12]}.{self._log.document[:12]}"
        self._key = f"{task.job_id} {task.round} {start}"
        # What was made without noise is never taken for what has some: it has another name.
        self._covered = ".covered" if site.settings.protection else ""
        self._update = site.cache.update(site.settings.name, task.job_id, f"{start}{self._covered}")
        self._state: Path | None = None  # what the round's clients start from beside the weights
        self._progress = (0, 0.0)  # steps done, the loss that is told
        self._has_begun = False

    @property
    def remaining_s(self) -> float:
        """Seconds that the round had left when the task was offered."""
        return self._task.remaining_s

    def work(self) -> Work:
        """The task as the session sees it. Updates for the job's other versions are deleted: nobody asks for them."""
        self.forget_updates(but=self._update)
        evaluates = self._task.evaluate or not self._trains
        return Work(self._task.job_id, self._task.round, self._trains, evaluates, self._update.is_file())

    async def prepare(self) -> None:
        """Makes the trainer hold exactly the weights of the task's model version; fetches the state to train from."""
        await self._admit()
        task, site, spec = self._task, self._site, self._spec
        held_out = self._held_out(spec)
        plan = plan_of(task.plan_json)
        opened = await site.thread.run(lambda trainer: trainer.runs(task.job_id, spec, plan))
        folder = None if opened else await self._base_model()
        self._begin()
        if folder is not None:
            held = site.cache.held(task.job_id)
            await site.thread.run(lambda trainer: trainer.open(task.job_id, spec, plan, folder, held))
        if held_out is not None:
            split = held_out  # for the lambda, which would not know that it is there
            await site.thread.run(lambda trainer: trainer.check(split))
        await self._version.bring()
        await site.thread.run(lambda trainer: trainer.reset(task.model_version, task.rounds_behind))
        reach(Fault.WEIGHTS_HELD)
        if self._trains and task.HasField("state"):
            self._state = await self._version.download(blob_of(task.state))

    async def _admit(self) -> None:
        """Notes the task, and looks at the whole of it, however many of its job have been done.

        Raises:
            SiteRefuses: this site's policy forbids it, or its protection cannot cover it.
        """
        await self._log.begins()
        try:
            await asyncio.to_thread(self._check)
        except SiteRefuses as error:
            await self._log.refuses(error)
            raise

    def _check(self) -> None:
        task, spec, settings = self._task, self._spec, self._site.settings
        admission.check_job(spec, self._local_data(spec), settings)
        participants = task.participants if self._trains else None
        admission.check_model(spec, plan_of(task.plan_json), self._model_files(), participants, settings)
        admission.check_round(settings, self._log.rounds_of_a_day())
        if not self._trains:
            admission.check_evaluation(spec, self._local_data(spec), settings)
            return
        if not self._update.is_file():  # else its noise has been counted
            admission.check_spent(settings, self._site.log)

    def _begin(self) -> None:
        """Counts a try at the task; this object counts once, however often its coroutines are run.

        Raises:
            CannotTrain: too many processes have died at it.
        """
        if self._has_begun:
            return
        self._has_begun = True
        if (deaths := self._site.cache.begun.begin(self._key)) >= MOST_DEATHS:
            raise CannotTrain(
                f"this agent's process ended {deaths} times before the first step of this task, as where the system "
                f"has too little memory for it; {relief(self._spec)}"
            )

    async def evaluate(self) -> None:
        """Measures the received model on this site's data and reports it."""
        spec, chosen = self._spec, self._site.settings.protection
        if chosen is not None and not chosen.metrics and self._trains:
            return
        split = self._held_out(spec)
        if split is None:
            if self._trains:  # training without measuring beats not training
                return
            raise CannotTrain(f"data.{spec.data.name}.test: this site has no test split; add it to the agent's config")
        held_out = split
        thread = self._site.thread
        result = await thread.run(lambda trainer: trainer.evaluate(held_out, thread.goes_on))
        reach(Fault.EVALUATED)
        evaluation = pb.Evaluation(
            model_version=self._task.model_version,
            examples=result.examples,
            metrics=result.metrics,
            counts={name: pb.Counts(values=values) for name, values in result.counts.items()},
        )
        report = self.report(stage="evaluate", evaluation=evaluation)
        await self._log.sends("evaluation", report.ByteSize(), examples=result.examples)
        answer = await self._site.transport.report(report)
        reach(Fault.EVALUATION_REPORTED)
        if self._trains and not answer.go_on:
            raise RoundOver(answer.reason)
        if not self._trains:  # the job's last task
            self._site.cache.forget_kept(self._site.settings.name, self._task.job_id)

    async def train(self) -> None:
        """Trains on this site's data; the update's file lies on disk afterwards."""
        spec, site = self._spec, self._site
        await asyncio.to_thread(admission.check_spent, site.settings, site.log)  # a try before may have drawn its noise
        split, client = self._local_data(spec).train, site.settings.name
        kept = site.cache.last_kept(client, self._task.job_id, self._kept_name(self._task.last_contribution))
        keep = site.cache.kept(client, self._task.job_id, self._kept_name(self._task.model_version + 1))
        check_room(site.settings.work_dir, self._update_bytes(), f"the update of round {self._task.round}")
        if site.settings.protection is None:
            await self._log.tells_progress()
        local, least = spec.local, site.settings.policy.least_evaluation_examples
        on_step = partial(self._on_step, ToldLoss(local.steps, local.batch_size, least))
        await site.thread.run(
            lambda trainer: trainer.train(split, client, self._state, kept, on_step, self._update, keep, self._noise())
        )

    def _kept_name(self, version: int) -> str:
        return f"{version}{self._covered}"

    def _noise(self) -> SiteNoise | None:
        from fedgalore.site_noise import SiteNoise  # with torch, in the thread that has it

        if (chosen := self._site.settings.protection) is None:
            return None
        charge = partial(self._log.charge, chosen.noise_multiplier, chosen.clip_norm)
        return SiteNoise(chosen.clip_norm, chosen.noise_multiplier, charge)

    def _update_bytes(self) -> int:
        """Of all that training writes: what is sent and what is kept."""
        plan = plan_of(self._task.plan_json)
        client, version = self._site.settings.name, self._task.model_version + 1
        sent = update_tensors(self._spec, plan, client, version)
        return size_bytes(sent) + size_bytes(kept_tensors(self._spec, plan, client))

    async def upload(self) -> None:
        """Delivers the update."""
        await self._admit()  # it may lie there since before the agent was given another policy
        blob = await asyncio.to_thread(ref_of_file, self._update)
        await self._log.sends("update", blob.size_bytes, sha256=blob.sha256)
        outcome = await self._site.transport.submit(self._update, blob, self._task.job_id, self._task.round)
        _log.info("update_delivered", outcome=outcome, size_bytes=blob.size_bytes)
        reach(Fault.UPDATE_ACCEPTED)
        self.forget_updates()
        reach(Fault.UPDATE_FORGOTTEN)

    def forget_updates(self, but: Path | None = None) -> None:
        """Deletes this job's updates, or all but one; other jobs' may still be wanted."""
        self._site.cache.forget_updates(self._task.job_id, but)

    def tidy(self) -> None:
        """Prunes the cache down to its limit beyond what this task needed, and its job's next task may need again."""
        self._site.cache.begun.end()
        self._prune(self._site.settings.cache_bytes)

    def make_room(self) -> None:
        """Deletes all of the cache that this task does not need."""
        with suppress(OSError):  # a file system that is read-only; the task itself will tell
            self._prune(0)

    def _prune(self, max_bytes: int) -> None:
        task, cache = self._task, self._site.cache
        with suppress(InvalidExchange):  # a task with a bad name or hash in it has brought nothing
            model = cache.model_folder(self._model_files())
            keep = [task.state.sha256, *(file.blob.sha256 for file in task.base_model)]
            keep += [blob.sha256 for blob in self._version.trail.blobs]
            cache.prune(keep, model, max_bytes, cache.held(task.job_id))

    def out_of_memory(self, error: OutOfMemory, doing: Doing) -> str:
        """What the coordinator hears where there was too little memory: which settings of the job lower it."""
        return f"this site ran out of memory while {doing} ({error}); {relief(self._spec, doing)}"

    async def fail(self, reason: str, code: str = "") -> None:
        """Tells the coordinator that this site cannot do the task; `code` tells machines why."""
        told, told_code = protection.told(self._site.settings.protection, reason, code)
        report = self.report(failure=told, failure_code=told_code)
        with suppress(OSError):  # a disk that takes nothing is what the coordinator may have to hear of
            await self._log.sends("failure", report.ByteSize(), reason=reason)
        await self._site.transport.report(report)

    async def ended(self, outcome: str) -> None:
        """Notes how the task ended."""
        await self._log.ends(outcome)

    def report(
        self,
        stage: str = "",
        evaluation: pb.Evaluation | None = None,
        failure: str | None = None,
        failure_code: str = "",
    ) -> pb.ReportProgressRequest:
        """A progress report of this task as it stands."""
        step, loss = self._progress
        report = pb.ReportProgressRequest(
            client=self._site.settings.name,
            job_id=self._task.job_id,
            round=self._task.round,
            stage=stage,
            step=step,
            train_loss=loss,
            evaluation=evaluation,
            failure=failure,
            failure_code=failure_code,
        )
        self._log.reported(report.ByteSize())
        return report

    @cached_property
    def _spec(self) -> JobSpec:
        return job_of(self._task.spec_json)

    def _local_data(self, spec: JobSpec) -> LocalData:
        data = self._site.data.get(spec.data.name)
        if data is None:
            raise CannotTrain(f"data: this site has no data set {spec.data.name}; add it to the agent's config")
        return data

    def _held_out(self, spec: JobSpec) -> LocalSplit | None:
        """What the job's models are evaluated on, if this site has enough of it."""
        data = self._local_data(spec)
        is_too_little = any(of_evaluation(self._site.settings.policy, spec, data.holdings(spec)))
        return None if is_too_little else data.held_out(spec)

    async def _base_model(self) -> Path:
        task = self._task
        plan = plan_of(task.plan_json)
        return await base_model(self._model_files(), self._site, self._spec, plan, task.job_id, task.round)

    def _model_files(self) -> dict[str, BlobRef]:
        return {file.name: blob_of(file.blob) for file in self._task.base_model}

    def _on_step(self, told: ToldLoss, step: int, loss: float) -> bool:
        if not self._progress[0]:
            self._site.cache.begun.end()
        self._progress = step, nan if self._site.settings.protection else told.after(loss)
        reach(Fault.TRAINED_STEP)
        return self._site.thread.goes_on()
