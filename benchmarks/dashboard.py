"""What the dashboard asks of a coordinator: requests and bytes of a page that is left open on a long job.

    python -m benchmarks.dashboard                              # a minute on a job of 30 sites and 60 rounds
    python -m benchmarks.dashboard --paused --seconds 20        # of a job in which nothing happens
    python -m benchmarks.dashboard --serve                      # no measurement: open the printed address yourself

Needs Chromium and `pip install playwright`, which `make browser` does; --serve needs neither.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.dashboard_job import Sites, enroll, filled, site_names
from coordinator.engine.assembly import assemble
from coordinator.server import serving
from coordinator.settings import CoordinatorSettings
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore.process import logs
from fedgalore.process.redis_server import RedisServer
from tests.browser.chromium import ARGUMENTS, executable


@asynccontextmanager
async def running(options: argparse.Namespace, folder: Path, redis_url: str) -> AsyncIterator[str]:
    """A coordinator with a job as the options say; the job's address on the dashboard."""
    store = RedisStateStore(redis_url)
    engine = assemble(store)
    settings = CoordinatorSettings(
        redis_url=redis_url, blob_dir=folder, rest_port=options.port, grpc_port=0, aggregator=False
    )
    names = site_names(options.sites)
    job_id = await filled(engine, store, redis_url, options.rounds, names)
    await enroll(engine, names)
    async with serving(settings, asyncio.Event()) as ports:
        playing = None
        if not options.paused:
            await engine.people.resume(job_id)
            playing = asyncio.create_task(Sites(engine, job_id, names[:-1]).play())  # one has stopped
        yield f"http://127.0.0.1:{ports['rest']}/#/jobs/{job_id}"
        if playing is not None:
            playing.cancel()
            with suppress(asyncio.CancelledError):
                await playing
    await engine.close()


async def measure(address: str, seconds: float) -> None:
    """Prints a line for each path, and the sum."""
    from playwright.async_api import async_playwright

    requests: Counter[str] = Counter()
    received: Counter[str] = Counter()  # bytes by path
    wire = 0  # bytes, compressed and with heads, of answers that came to their end
    async with async_playwright() as tool:
        browser = await tool.chromium.launch(executable_path=executable(), args=ARGUMENTS)
        page = await browser.new_page()
        session = await page.context.new_cdp_session(page)
        paths: dict[str, str] = {}

        def sent(event: dict[str, Any]) -> None:
            path = "/" + event["request"]["url"].partition("://")[2].partition("/")[2].partition("#")[0]
            paths[event["requestId"]] = path = path.partition("?")[0]
            requests[path] += 1

        def came(event: dict[str, Any]) -> None:
            received[paths[event["requestId"]]] += event["dataLength"]

        session.on("Network.requestWillBeSent", sent)

        def ended(event: dict[str, Any]) -> None:
            nonlocal wire
            wire += event["encodedDataLength"]

        session.on("Network.dataReceived", came)
        session.on("Network.loadingFinished", ended)
        await session.send("Network.enable")
        await page.goto(address)
        await page.wait_for_timeout(1000 * seconds)
        await browser.close()
    for path, count in requests.most_common():
        print(f"{count:6} requests {received[path] / 1000:12.1f} kB  {path}")
    print(f"{requests.total():6} requests {received.total() / 1000:12.1f} kB  in {seconds:.0f} s")
    print(f"{wire / 1000:28.1f} kB  on the wire, compressed and with heads, but for streams that go on")


async def run(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder) / "redis") as server:
        async with running(options, Path(folder) / "blobs", server.url) as address:
            if options.serve:
                print(address, flush=True)
                await asyncio.Event().wait()
            await measure(address, options.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--paused", action="store_true", help="nothing goes on while the page is open")
    parser.add_argument("--serve", action="store_true", help="only serve, until Ctrl-C")
    options = parser.parse_args()
    logs.configure("text", "error")
    with suppress(KeyboardInterrupt):
        asyncio.run(run(options))


if __name__ == "__main__":
    main()
