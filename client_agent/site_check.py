"""The preflight check at this site: does its policy allow a job, do its data fit, what has its machine for the model?

Answered before a byte of a model is fetched.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from client_agent import admission, protection
from client_agent.data import LocalData, LocalSplit
from client_agent.errors import CannotTrain, InvalidExchange, RoundOver, SiteRefuses
from client_agent.machine import memory
from client_agent.task_document import job_of
from client_agent.task_log import TaskLog
from protos import federation_pb2 as pb

if TYPE_CHECKING:
    from client_agent.assignment import SiteContext
    from fedgalore.preflight import Split

_log = structlog.get_logger(__name__)


async def check_site(task: pb.Task, site: SiteContext) -> None:
    """Looks at the job's data set and tells the coordinator. A job that is gone meanwhile needs no answer.

    Raises:
        AgentUnknown, CoordinatorAway: as `Transport.report_check`.
        RoundOver: the site's log takes no line, so nothing leaves; the coordinator asks again.
    """
    noted = TaskLog(site.log, task)
    try:
        await noted.begins()
        answer = await asyncio.to_thread(_answer, task, site)
        if protection.is_refusal(answer.code):
            await noted.refuses(SiteRefuses(answer.code, answer.problem))
        await noted.sends("check", answer.ByteSize())
    except OSError as error:
        raise RoundOver(f"the site's log takes no line ({error})") from error
    try:
        await site.transport.report_check(answer)
    except (RoundOver, InvalidExchange) as error:
        _log.warning("site_check_dropped", job=task.job_id, reason=str(error))


def _answer(task: pb.Task, site: SiteContext) -> pb.ReportCheckRequest:
    answer = pb.ReportCheckRequest(client=site.settings.name, job_id=task.job_id)
    try:
        _look(task, site, answer)
    except Exception as error:  # whatever it is, other jobs are served and the coordinator hears of it
        _log.exception("site_check_failed", job=task.job_id)
        answer.problem = f"the check of this site's data broke ({type(error).__name__}); the agent's log has why"
    _log.info("site_checked", job=task.job_id, fits=not answer.problem, code=answer.code, reason=answer.problem)
    if answer.problem:
        answer.problem, answer.code = protection.told(site.settings.protection, answer.problem, answer.code)
    return answer


def _look(task: pb.Task, site: SiteContext, answer: pb.ReportCheckRequest) -> None:
    try:
        spec = job_of(task.spec_json)
    except CannotTrain as error:
        answer.problem = str(error)
        return
    data = site.data.get(spec.data.name)
    if data is None:
        answer.problem = f"data: this site has no data set {spec.data.name}; add it to the agent's config"
        return
    try:
        admission.check_job(spec, data, site.settings)
        admission.check_spent(site.settings, site.log)
        room = memory(site.settings)
    except CannotTrain as error:
        answer.problem, answer.code = str(error), error.code
        return
    from fedgalore.preflight import preflight  # with torch, which takes seconds to load

    found = preflight(spec, *_splits(data))
    for misfit in found.misfits:
        _log.error("examples_unfit", job=task.job_id, reason=misfit.words)
    if found.misfits:
        told = "; ".join(misfit.told for misfit in found.misfits)
        answer.problem, answer.code = f"{told}; the agent's log has file and row", found.misfits[0].code
    answer.facts.CopyFrom(
        pb.SiteFacts(
            examples=found.examples,
            test_examples=found.test_examples,
            classes=found.classes,
            longest=found.longest,
            conversations=found.conversations,
            memory_bytes=room.size_bytes or 0,
            on_gpu=room.on_gpu,
        )
    )


def _splits(data: LocalData) -> tuple[Split, Split | None]:
    from fedgalore.preflight import Split

    def split(local: LocalSplit) -> Split:
        return Split(str(local.path), local.examples)

    return split(data.train), split(data.test) if data.test else None
