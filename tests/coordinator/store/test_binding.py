"""The binding of Redis and the blob directory: stored once, with a warning if fresh, refused if wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from coordinator.store.binding import Binding, NotBound
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.redis_state_store import RedisStateStore


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[RedisStateStore]:
    store = RedisStateStore(redis_url)
    yield store
    await store.close()


class SlowBlobStore(DirectoryBlobStore):
    def bind(self, store_id: str) -> str:
        time.sleep(0.3)
        return super().bind(store_id)


async def test_two_that_are_new_are_bound_and_stay_so(store: RedisStateStore, tmp_path: Path) -> None:
    blobs = SlowBlobStore(tmp_path)
    binding = Binding(store, blobs)
    probe = asyncio.create_task(binding.check())
    while await store.store_id() is None:
        pass
    second = await binding.check()  # as the collector does at the same time
    first = await probe
    assert first == second == await Binding(store, DirectoryBlobStore(tmp_path)).check()
    assert first.warning is None
    assert first.store_id == await store.store_id() == blobs.store_id()


async def test_those_who_wait_share_a_check(store: RedisStateStore, tmp_path: Path) -> None:
    class Counting(DirectoryBlobStore):
        reads = 0

        def store_id(self) -> str | None:
            self.reads += 1
            return super().store_id()

    blobs = Counting(tmp_path)
    binding = Binding(store, blobs)
    await binding.check()
    blobs.reads = 0
    await asyncio.gather(*(binding.must_hold() for _ in range(20)))
    await binding.must_hold(60)
    assert blobs.reads <= 2  # one that was under way, and one for all who asked since


async def test_a_check_waits_for_no_transfers(store: RedisStateStore, tmp_path: Path) -> None:
    binding, ends = Binding(store, DirectoryBlobStore(tmp_path)), threading.Event()
    await binding.check()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    transfer = asyncio.create_task(asyncio.to_thread(ends.wait))
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(5):
            await binding.check()
        assert not transfer.done()
    finally:
        ends.set()
        await transfer


async def test_a_fresh_volume_is_adopted_with_a_warning(store: RedisStateStore, tmp_path: Path) -> None:
    bound = await Binding(store, DirectoryBlobStore(tmp_path / "old")).check()
    binding = Binding(store, DirectoryBlobStore(tmp_path / "new"))
    for _ in range(2):  # the warning stays as long as this process lives
        adopted = await binding.check()
        assert adopted.store_id == bound.store_id
        assert adopted.warning is not None
        assert "blob_dir is new" in adopted.warning


async def test_blobs_of_another_store_are_refused_and_nothing_is_written(
    store: RedisStateStore, tmp_path: Path
) -> None:
    blobs = DirectoryBlobStore(tmp_path)
    blobs.bind("theirs")
    binding = Binding(store, blobs)
    with pytest.raises(NotBound, match="this Redis has none.*redis_url.*empty blob_dir"):
        await binding.check()
    assert await store.store_id() is None
    assert await store.store_id("ours") == "ours"
    assert await store.store_id("later") == "ours"
    with pytest.raises(NotBound, match="this Redis has ours"):
        await binding.check()
    assert blobs.bind("ours") == blobs.store_id() == "theirs"
