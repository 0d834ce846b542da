"""The base model's folder of a task: found on this machine file by file, the rest fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from client_agent.cache import find_local
from client_agent.room import check_room
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.faults import Fault, reach
from fedgalore.sizing import site_needs
from fedgalore.spec.amounts import size

if TYPE_CHECKING:
    from client_agent.assignment import SiteContext
    from fedgalore.spec.job import JobSpec
    from fedgalore.spec.plan import TrainingPlan

_log = structlog.get_logger(__name__)


async def base_model(
    files: Mapping[str, BlobRef], site: SiteContext, spec: JobSpec, plan: TrainingPlan, job_id: str, round: int
) -> Path:
    """The folder of these files, fetching only those that no folder of the site holds.

    Raises:
        NoRoom: the disk has none for all that the job will write; nothing was fetched.
        InvalidExchange, RoundOver, CoordinatorAway: as `Transport.download`.
    """
    cache = site.cache
    if await asyncio.to_thread(cache.has_model, files):
        return cache.model_folder(files)
    sources = await asyncio.to_thread(find_local, site.settings.models, files.values(), cache.hashes)
    for name, blob in files.items():
        if blob.sha256 in sources:
            _log.info("model_file_found", file=name, path=str(sources[blob.sha256]), size=size(blob.size_bytes))
    lacked = {blob.sha256: (name, blob) for name, blob in files.items() if blob.sha256 not in sources}
    missing = sum(cache.missing_bytes(blob) for _, blob in lacked.values())
    check_room(site.settings.work_dir, sum(site_needs(spec, plan, missing).disk.values()), f"job {job_id}")
    for number, (name, blob) in enumerate(lacked.values(), start=1):
        what = f"{name}, file {number} of {len(lacked)}"
        sources[blob.sha256] = await site.transport.download(blob, cache, job_id, round, what)
    folder = await asyncio.to_thread(cache.assemble_model, files, sources)
    reach(Fault.MODEL_ASSEMBLED)
    return folder
