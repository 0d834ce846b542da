"""Blobs in a bucket: a job ends with the bits that it has in a folder, whoever dies."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.store.bucket import Bucket
from fedgalore.process.faults import Fault
from fedgalore_cli.local import LocalFederation
from tests.chaos.conftest import ROUNDS, SCHEDULE, Chaos
from tests.e2e.conftest import agents_of, ended
from tests.fedgalore.conftest import tiny_bert  # noqa: F401  # fixture
from tests.s3_server import S3Server

pytestmark = [pytest.mark.bucket, pytest.mark.timeout(600)]
DEATHS = (
    (Fault.UPLOAD_OPENED, 1),
    (Fault.CHUNK_WRITTEN, 1),
    (Fault.UPLOAD_STORED, 1),
    (Fault.BLOB_SYNCED, 2),
    (Fault.BLOB_NAMED, 2),
    (Fault.MODEL_STORED, 1),
    (Fault.VERSION_WRITTEN, 1),
    (Fault.VERSION_STORED, 1),
)


class Federation(LocalFederation):
    """Each turn of a lease asks the bucket, and moto's server on a busy machine takes its time."""

    def start_coordinator(self, timeout_s: float = 60, **environment: str) -> None:
        super().start_coordinator(timeout_s, FEDGALORE_LEASE_S="8", **environment)


@pytest.fixture(scope="module")
def url(s3_server: S3Server) -> str:
    return f"s3://blobs/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def chaos(url: str, tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Iterator[Chaos]:  # noqa: F811
    folder = tmp_path_factory.mktemp("chaos")
    with Federation(folder / "run", agents_of(folder), environment={"FEDGALORE_BLOBS": url}) as federation:
        yield Chaos(federation, tiny_bert)


def test_a_job_ends_with_the_bits_of_the_simulation(chaos: Chaos, url: str, tmp_path: Path) -> None:
    sections = {"rounds": SCHEDULE, "seed": 1}
    job_id = chaos.post(**sections)
    job = chaos.wait(job_id, ended)
    assert (job["status"], job["model_version"]) == ("COMPLETED", ROUNDS), job["reason"]
    assert chaos.different(job_id, tmp_path / "model", **sections) == []
    root = chaos.federation.root / "blobs"
    assert sorted(path.name for path in root.iterdir()) == ["cache", "scratch"]
    assert list((root / "scratch").iterdir()) == []
    assert sum(1 for _ in Bucket(url).list("sha256")) > ROUNDS
    assert list(Bucket(url).list("partial")) == []


@pytest.mark.parametrize(("fault", "passing"), DEATHS, ids=[fault.name for fault, _ in DEATHS])
def test_a_death_costs_nothing_but_time(chaos: Chaos, tmp_path: Path, fault: Fault, passing: int) -> None:
    fired = tmp_path / "fired"
    chaos.doom_coordinator(f"{fault.value}:{passing}:{fired}")
    sections = {"rounds": SCHEDULE, "seed": 100 * fault + passing}
    job_id = chaos.post_in_spite_of_death(key=str(tmp_path), **sections)
    job, _ = chaos.finish(job_id, fired)
    assert (job["status"], job["model_version"]) == ("COMPLETED", ROUNDS), job["reason"]
    assert fired.read_text().split()[1] == fault.name
    assert chaos.different(job_id, tmp_path / "model", **sections) == []
