"""What a process that dies costs a federated job, on FedGaLore and on Flower: `python -m benchmarks.kills`.

Each experiment starts a fresh federation of two clients on loopback ports, hands in a job of four rounds, kills one
process by SIGKILL in the middle of the second, starts it again if a person has to, and watches the job to its end. An
undisturbed run of each system says what the weights should be, bit for bit. FedGaLore and Flower's two isolation modes
run side by side; the experiments of each run one after the other.

Flower needs a separate environment: name its python, or let the script create the environment in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Event

from benchmarks.kills import fedgalore, flower
from benchmarks.kills.experiment import CLIENTS, Experiment, Row, perform, row, table
from benchmarks.kills.processes import adopt_orphans
from fedgalore_cli.demo.sites import demo_sites

RESULTS = Path(__file__).resolve().parent.parent / "results" / "kills" / "kills.json"
SYSTEMS = (fedgalore.SYSTEM, flower.SYSTEM)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--system", choices=SYSTEMS, help="run only this system, and write nothing to --to")
    parser.add_argument("--flower-python", type=Path, help=f"python of an environment with flwr {flower.VERSION}")
    parser.add_argument(
        "--cache", type=Path, default=Path.home() / ".cache" / "fedgalore", help="folder for that environment"
    )
    parser.add_argument(
        "--deadline", type=float, default=240, help="seconds after which a job is given up (%(default)g)"
    )
    parser.add_argument("--folder", type=Path, help="new folder for logs and state, which is kept")
    parser.add_argument("--to", type=Path, default=RESULTS, help="JSON file of the results")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    adopt_orphans()

    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-")))
        folder = folder.absolute()
        sites = demo_sites(CLIENTS, alpha=0.1, seed=0)
        experiments: list[Experiment] = []
        versions = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
        if options.system != flower.SYSTEM:
            experiments += fedgalore.experiments(folder / "fedgalore", sites)
        if options.system != fedgalore.SYSTEM:
            python = options.flower_python or flower.python_of(options.cache / f"flower-{flower.VERSION}")
            versions["flwr"] = flower.version_of(python)
            experiments += flower.experiments(folder / "flower", sites, python.absolute())
        rows = all_rows(experiments, options.deadline)
    print(table(rows))
    if options.system is None:
        options.to.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(entry) for entry in rows]
        head = json.dumps(versions)
        options.to.write_text(f'{{"versions": {head},\n"rows": [\n' + ",\n".join(lines) + "\n]}\n")


def all_rows(experiments: Sequence[Experiment], deadline_s: float) -> list[Row]:
    """The experiments' rows, in order. Each system and isolation mode is a lane; lanes run side by side."""
    stop = Event()
    lanes = [
        list(lane) for _, lane in groupby(experiments, key=lambda experiment: (experiment.system, experiment.isolation))
    ]
    with ThreadPoolExecutor(len(lanes)) as pool:
        try:
            return [
                entry for rows in pool.map(partial(_lane, deadline_s=deadline_s, stop=stop), lanes) for entry in rows
            ]
        finally:
            stop.set()


def _lane(experiments: Sequence[Experiment], deadline_s: float, stop: Event) -> list[Row]:
    """Rows of experiments that run one after the other. The first is undisturbed; the others are compared with it."""
    rows: list[Row] = []
    undisturbed = ""
    for experiment in experiments:
        if stop.is_set():
            break
        outcome = perform(experiment, deadline_s, stop)
        undisturbed = undisturbed or ("" if experiment.killed else outcome.digest)
        rows.append(row(experiment, outcome, undisturbed))
        print(*(str(rows[-1][name]) for name in ("system", "isolation", "killed", "status")), sep="  ", file=sys.stderr)
    return rows


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
