"""`fedgalore agent --check JOB`: a site's data and machine against a job, without joining anything."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from client_agent import __main__ as command
from client_agent import job_check, settings
from client_agent.machine import Memory
from fedgalore import PROTOCOL_VERSION
from fedgalore.model.skeleton import plan_of_folder
from fedgalore.sizing import site_needs
from tests.builders import a_spec, job_document
from tests.client_agent.conftest import Coordinator
from tests.client_agent.test_agent import configure


def check(folder: Path, job: dict[str, Any], **changes: object) -> int:
    """The command's status."""
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return command._check(settings.load(configure(folder, "127.0.0.1:1", **changes)), str(folder / "job.yaml"))


def test_what_fits_is_told_in_a_table_and_what_does_not_in_sentences(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_document(model={"source": str(tiny_model)})
    assert check(tmp_path, job, memory_bytes=10**9) == 0
    told, wrong = capsys.readouterr()
    assert wrong == ""
    for row in (
        r"^data: 16 examples, and 8 to evaluate on$",
        r"^memory +8\d\d\.\d MB  +1\.0 GB$",
        r"^  base model +\d+\.\d kB$",
        r"^disk of work_dir +\d+\.\d kB +[\d.]+ [GT]B$",
        r"^upload in a round +\d",
    ):
        assert re.search(row, told, re.MULTILINE), told
    assert max(map(len, told.splitlines())) <= 80
    assert not (tmp_path / "a" / "work").exists()

    assert re.search(rf"^model's hash: {job_check.hash_of_model(tiny_model)}$", told, re.MULTILINE)

    strict = {"least_examples": 8, "least_clients": 3, "base_models": ["a" * 64]}
    assert check(tmp_path, job, memory_bytes=10**9, policy=strict) == 1
    _, wrong = capsys.readouterr()
    rules = ["least_examples", "least_clients", "least_evaluation_examples", "base_models"]
    assert re.findall(r"^policy\.(\w+): ", wrong, re.MULTILINE) == rules

    assert check(tmp_path, job | {"data": {"name": "broken"}}, memory_bytes=10**8) == 1
    _, wrong = capsys.readouterr()
    assert "broken.jsonl: row 2" in wrong
    assert re.search(
        r"^memory: the job needs about 8\d\d\.\d MB here, and there are 100\.0 MB; set local\.weights",
        wrong,
        re.MULTILINE,
    )


def test_a_model_that_lies_here_is_known_by_its_name_and_takes_no_disk(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_document(model={"source": f"somewhere/{tiny_model.name}"})
    assert check(tmp_path, job, models=[str(tiny_model.parent)]) == 0
    assert "base model" not in capsys.readouterr().out
    assert check(tmp_path, job) == 1
    assert "has a config.json on this machine; put the model's config.json" in capsys.readouterr().err
    assert check(tmp_path, job | {"data": {"name": "others"}}, models=[str(tiny_model)]) == 1
    assert "data: this site has no data set others" in capsys.readouterr().err


async def test_a_posted_job_is_given_by_its_id_to_whoever_has_its_data(
    coordinator: Coordinator, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job, _ = await coordinator.engine.people.create(a_spec(model={"source": str(tiny_model)}), posted_by="alice")
    chosen = settings.load(configure(tmp_path, coordinator.address, memory_bytes=10**9))

    async def told(job_id: str, status: int) -> str:
        assert await asyncio.to_thread(command._check, chosen, job_id) == status
        return "".join(capsys.readouterr())

    assert "'a' has not registered with this coordinator; start its agent once" in await told(job.id, 1)
    register = coordinator.engine.agents.register
    await register("a", PROTOCOL_VERSION, "1", {"others": 16})
    other, gone = await told(job.id, 1), await told("job-0123456789a-gone", 1)
    assert f"there is no job {job.id} on data that a has registered with; look at the id, or add" in other
    assert other.replace(job.id, "job-0123456789a-gone").endswith(gone)  # nobody learns by it what jobs there are
    await register("a", PROTOCOL_VERSION, "1", {"reviews": 16})
    assert f"job {job.parsed.name}: fedgalore on" in await told(job.id, 0)


def test_a_gpu_has_the_model_and_the_host_little_of_it(tiny_model: Path) -> None:
    spec = a_spec(model={"source": str(tiny_model), "num_labels": 2})
    needs = site_needs(spec, plan_of_folder(spec, tiny_model), 1000, on_gpu=True)
    rows = job_check._table(needs, Memory(10**9, True), None).splitlines()
    assert [row.split("  ")[0] for row in rows if not row.startswith(" ")][1:4] == [
        "memory of the GPU",
        "memory of the host",
        "disk of work_dir",
    ]
    assert rows[1].endswith("1.0 GB")
    assert next(row for row in rows if row.startswith("disk")).endswith("?")
