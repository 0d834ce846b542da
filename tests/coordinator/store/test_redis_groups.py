"""A master that dies is succeeded by its replica, and everything goes on there: by Sentinel and in a Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import ConnectionError as NotConnected
from typer.testing import CliRunner

from coordinator.engine.assembly import Engine, assemble
from coordinator.engine.lease import Lease
from coordinator.state.errors import StateUnavailable
from coordinator.state.job_state import Status
from coordinator.store import census
from coordinator.store.audit import AuditTrail, Entry, Whose
from coordinator.store.binding import Binding
from coordinator.store.credentials import ApiKey, JoinToken, Role
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.garbage import Collector
from coordinator.store.redis_address import RedisAddress
from coordinator.store.redis_client import PREFIX
from coordinator.store.redis_credential_store import RedisCredentialStore
from coordinator.store.redis_health import client, look
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from fedgalore.process.redis_server import RedisServer
from fedgalore_cli.main import app
from tests.builders import a_prepared, a_receipt, a_spec, a_version
from tests.redis_groups import Group, ask, clustered, over_tls, replicated, until
from tests.sites import all_fit

pytestmark = pytest.mark.slow

BACK_S = 20.0


@pytest.fixture(params=["sentinel", "cluster"])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Group]:
    kind = replicated(tmp_path) if request.param == "sentinel" else clustered(tmp_path, key_slot(PREFIX.encode()))
    with kind as group:
        yield group


async def again(call: Any) -> Any:
    """The answer of a call that is repeated until the new master serves."""
    async with asyncio.timeout(BACK_S):
        while True:
            try:
                return await call()
            except StateUnavailable:
                await asyncio.sleep(0.1)


async def reporting(engine: Engine) -> str:
    """A job whose first round has one of two reports."""
    for name in "ab":
        await engine.agents.register(name, PROTOCOL_VERSION, "0.1", {"reviews": 20})
    job_id = (await engine.people.create(a_spec()))[0].id
    await all_fit(engine)
    await engine.aggregator.prepared(job_id, a_prepared())
    await engine.driver.tick_all()
    await engine.agents.report(job_id, 1, "a", a_receipt("a"))
    return job_id


async def test_a_round_goes_on_where_the_master_died(group: Group, tmp_path: Path) -> None:
    url = f"{group.url}?replicas=1"
    store, credentials = RedisStateStore(url), RedisCredentialStore(url)
    engine = assemble(store)
    job_id = await reporting(engine)
    key, token = ApiKey("k", "n", Role.VIEWER, "d" * 64, 0.0), JoinToken("t", "c", "d" * 64, 0.0, 9e9)
    await credentials.add_key(key)
    await credentials.add_join_token(token)
    assert await credentials.enrol("t", "d" * 64, "c", "e" * 64, 1.0) == "enrolled"
    before = await store.load(job_id)
    woken = asyncio.create_task(store.wait(BACK_S))
    await asyncio.sleep(0.1)

    dead = await asyncio.to_thread(group.kill_master)
    assert await again(lambda: store.load(job_id)) == before
    assert await woken  # it subscribes at the new master
    with pytest.raises(StateUnavailable, match="0 of 1 replicas"):  # nobody would have what this one acknowledges
        await engine.agents.report(job_id, 1, "b", a_receipt("b"))
    with pytest.raises(StateUnavailable, match="0 of 1 replicas"):
        await engine.agents.report(job_id, 1, "b", a_receipt("b"))
    with pytest.raises(StateUnavailable, match="0 of 1 replicas"):
        await engine.agents.admit(job_id, 1, "b")
    await asyncio.to_thread(group.rejoin, dead)
    await again(lambda: engine.agents.report(job_id, 1, "b", a_receipt("b")))

    await engine.aggregator.aggregated(job_id, 1, a_version(1), {}, {})
    assert (await store.load(job_id)).job.model.version == 1
    assert await credentials.keys() == [key]
    assert await credentials.credential("c") == "e" * 64
    assert await again(lambda: credentials.revoke("c"))
    # whatever else there is of scripts and pipelines
    lease = Lease(store, "driver", 5.0)
    async with asyncio.timeout(BACK_S), asyncio.TaskGroup() as tasks:
        keeping = tasks.create_task(lease.keep())
        await lease.held()
        keeping.cancel()
    trail = AuditTrail(store.connection, 100)
    entry = Entry("k", "n", "viewer", "here", "GET", "/", "200")
    await trail.add(entry, Whose.PEOPLE)
    assert [each.entry for each in await trail.page(None, 5, Whose.PEOPLE)] == [entry]
    assert await engine.agents.progress(job_id, 1, "a", "training", 1, 0.5) is not None
    await engine.agents.count_traffic(job_id, 1, "a", "up", 5)
    assert (await store.beside.totals(job_id)).up == 5
    assert await store.beside.begin_attempt(job_id, "prepare") == 1
    assert set((await census.take(store.connection)).jobs) == {job_id}
    blobs = DirectoryBlobStore(tmp_path / "blobs")
    binding = Binding(store, blobs)
    await binding.check()
    await Collector(store, blobs, binding).collect(0.0)
    assert (await engine.people.cancel(job_id)).status is Status.CANCELLED
    await engine.people.delete(job_id, cancel=False, stored_bytes=lambda blob: None)
    assert await store.job_ids(None, 5) == []
    await engine.close()
    await credentials.close()


async def test_a_failover_may_lose_what_no_replica_had_which_is_told(group: Group) -> None:
    for query, warned in (("", True), ("?replicas=1", False)):
        address = RedisAddress.parse(group.url + query)
        redis = client(address)
        found = await look(redis, address)
        await redis.aclose()
        assert found.ok and any("replicas=1" in words for words in found.warnings) is warned
    group.kill_replica()
    redis = client(address)
    found = await look(redis, address)
    await redis.aclose()
    assert not found.ok and "has 0 replicas, and redis_url asks for 1" in found.detail


async def test_over_tls_the_server_shows_whose_it_is(redis_server: RedisServer, tmp_path: Path) -> None:
    arguments = ["certs", "--dir", str(tmp_path), "--host", "127.0.0.1", "--agent", "a"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    async with over_tls(redis_server.port, tmp_path / "coordinator.pem", tmp_path / "coordinator.key") as port:
        for host, query, reason in (
            ("127.0.0.1", f"?ssl_ca_certs={tmp_path / 'ca.pem'}", None),
            ("localhost", f"?ssl_ca_certs={tmp_path / 'ca.pem'}", "Hostname mismatch"),
            ("127.0.0.1", "", "certificate verify failed"),
        ):
            store = RedisStateStore(f"rediss://{host}:{port}/0{query}")
            if reason is None:
                assert await store.load("one") is None
            else:
                with pytest.raises(StateUnavailable, match=reason):
                    await store.load("one")
            await store.close()


async def test_a_node_that_is_cut_off_is_passed_over(tmp_path: Path) -> None:
    slot, cluster = key_slot(PREFIX.encode()), ["--cluster-enabled", "yes"]
    with (
        RedisServer(tmp_path / "off", further=cluster) as off,  # it has one slot, and wants to see all
        RedisServer(tmp_path / "on", further=[*cluster, "--cluster-require-full-coverage", "no"]) as on,
    ):
        for server in (off, on):
            ask(server.port, "CLUSTER", "ADDSLOTS", slot)
        await asyncio.to_thread(until, lambda: "cluster_state:ok" in str(ask(on.port, "CLUSTER", "INFO")))
        redis = client(RedisAddress.parse(f"redis+cluster://127.0.0.1:{off.port},127.0.0.1:{on.port}"))
        assert await redis.setrange("{fedgalore}:probe", 0, "") == 0
        await redis.aclose()
        redis = client(RedisAddress.parse(f"redis+cluster://127.0.0.1:{off.port}"))
        with pytest.raises(NotConnected, match="cut off from the others"):
            await redis.ping()
        await redis.aclose()
