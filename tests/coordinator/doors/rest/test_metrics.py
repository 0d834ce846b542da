"""The metrics that Prometheus reads."""

from __future__ import annotations

from coordinator.doors.rest.metrics import Metrics
from coordinator.engine.assembly import assemble
from coordinator.store.redis_state_store import RedisStateStore


async def test_invented_methods_add_no_time_series(redis_url: str) -> None:
    engine = assemble(RedisStateStore(redis_url))
    metrics = Metrics(engine.reader)
    for method in ("GET", "BREW", "X" * 1000):
        metrics.request(method, "/livez", 200, 0.01)
    text = (await metrics.render()).decode()
    await engine.close()
    counts = [line.partition("{")[2] for line in text.splitlines() if line.startswith("fedgalore_http_requests_total{")]
    assert sorted(counts) == [
        'method="GET",route="/livez",status="200"} 1.0',
        'method="other",route="/livez",status="200"} 2.0',
    ]
