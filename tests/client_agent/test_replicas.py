"""An agent whose every call goes to another replica than the one before."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from client_agent.transport import Transport
from protos import federation_pb2 as pb
from tests.builders import blob_path
from tests.client_agent.conftest import replica
from tests.client_agent.test_transport import MB, cutting, running_job, take_task, write_update
from tests.looking import round_of, traffic_of


class Restless(Transport):
    """As behind a balancer that knows no sessions and sends each call elsewhere."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.called: Counter[str] = Counter()

    @property
    def _stub(self) -> Any:
        self._addresses.rotate(-1)
        self.called[self._address] += 1
        return super()._stub


async def test_any_replica_answers_any_call_and_goes_on_with_an_upload(redis_url: str, tmp_path: Path) -> None:
    async with replica(redis_url, tmp_path) as one, replica(redis_url, tmp_path) as two:
        await one.start()
        await two.start()
        job_id, _, _ = await running_job(one)
        async with cutting(one.port, 2 * MB) as first, cutting(two.port, 2 * MB) as second:
            agent = Restless(f"{first.address},{second.address}", "a", 60.0)
            try:
                task = await take_task(agent)
                path, update = write_update(tmp_path, task)
                await agent.submit(path, update, job_id, 1)  # 4 MiB, which break at each replica once
                asked = pb.ReportProgressRequest(client="a", job_id=job_id, round=1, stage="upload")
                answer = await agent.heartbeat(asked)
                assert not answer.go_on  # wherever it asks, its update is in
            finally:
                await agent.close()
        assert set(agent.called) == {first.address, second.address}
        for each in (one, two):
            seen = await round_of(each.engine, job_id, 1)
            assert seen.participants["a"].receipt.blob.sha256 == update.sha256
            assert blob_path(each.blobs, update.sha256).read_bytes() == path.read_bytes()
        up = (await traffic_of(one.engine, job_id))[1]["a"]["up"]
        assert update.size_bytes <= up <= update.size_bytes + MB  # what one replica had came to no other again
