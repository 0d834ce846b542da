"""What holds of the machine, whatever part it has: versions, threads, memory, GPU, disk, certificates."""

from __future__ import annotations

import platform
import shutil
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fedgalore.process.disk import free_bytes, writable
from fedgalore.process.memory import anonymous_bytes
from fedgalore.process.threads import choose
from fedgalore.process.tls import SOON, ends
from fedgalore.spec.amounts import size
from fedgalore.version import PROTOCOL_VERSION, __version__
from fedgalore_cli.doctor.finding import Finding, Findings, fail, ok, warn

LEAST_FREE = 100 * 2**20  # of a disk: below it nothing works
LITTLE_FREE = 5 * 2**30
MODEL_PARTS = ("torch", "transformers", "peft", "safetensors")


def machine() -> Findings:
    """Versions, threads, memory and GPU."""
    yield ok("version", f"fedgalore {__version__}, protocol {PROTOCOL_VERSION}, Python {platform.python_version()}")
    yield _parts()
    threads = choose("auto")
    yield ok("threads", f"{threads.count}: {threads.reason}")
    memory = anonymous_bytes()
    yield ok("memory", size(memory) if memory is not None else "the machine does not say how much there is")
    yield _gpu()


def _parts() -> Finding:
    found = {name: _installed(name) for name in MODEL_PARTS}
    missing = [name for name, there in found.items() if there is None]
    if missing:
        extras = "fedgalore[agent] trains, fedgalore[coordinator] serves"
        return warn("packages", f"without {', '.join(missing)} there is the command line alone; pip install {extras}")
    return ok("packages", ", ".join(f"{name} {there}" for name, there in found.items()))


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu() -> Finding:
    """Whether torch sees the GPUs that there are."""
    driver = shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia").exists()
    try:
        import torch
    except ModuleNotFoundError:
        return ok("GPU", "not looked for: torch is not installed")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        free = [torch.cuda.mem_get_info(index)[0] for index in range(len(names))]
        return ok("GPU", ", ".join(f"{name}, {size(room)} free" for name, room in zip(names, free, strict=True)))
    if driver:
        words = f"there is an NVIDIA driver, and torch {torch.__version__} sees no GPU; install a CUDA build of torch"
        return warn("GPU", words)
    return ok("GPU", "none; training and aggregation run on the CPU")


def disk(about: str, folder: Path) -> Finding:
    """Whether a folder, which need not exist yet, can be written, and has room."""
    if not writable(folder):
        return fail(about, f"{folder} cannot be written by this user; change its owner, or name another folder")
    free = free_bytes(folder)
    if free is None:
        return warn(about, f"nobody says how much room {folder} has; see to it that there is some")
    told = f"{folder} has {size(free)} free"
    if free < LEAST_FREE:
        return fail(about, f"{told}, and nothing works with so little; make room, or name another folder")
    if free < LITTLE_FREE:
        return warn(about, f"{told}; `fedgalore size MODEL` says what a job takes")
    return ok(about, told)


def certificate(about: str, file: Path) -> Finding:
    """When a certificate ends."""
    try:
        end = ends(file.read_bytes())
    except (OSError, ValueError) as error:
        return fail(about, f"{file} cannot be read as a PEM certificate ({error}); name another file")
    return ending(about, str(file), end)


def ending(about: str, whose: str, end: datetime) -> Finding:
    """What is to be said of a certificate that ends then."""
    now = datetime.now(UTC)
    if end <= now:
        return fail(about, f"{whose} ended on {end:%Y-%m-%d}; renew it (`fedgalore certs`)")
    told = f"{whose} ends on {end:%Y-%m-%d}"
    return warn(about, f"{told}; renew it (`fedgalore certs`)") if end <= now + SOON else ok(about, told)
