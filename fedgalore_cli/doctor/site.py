"""What an agent needs on this machine, by its config: data, disk, certificates, a line to a coordinator."""

from __future__ import annotations

import socket
from pathlib import Path

from fedgalore.process.address import targets
from fedgalore.process.settings import SettingsError
from fedgalore_cli.doctor.finding import Finding, Findings, fail, ok
from fedgalore_cli.doctor.machine import certificate, disk

LINE_S = 5.0
PART = "'fedgalore[agent]'"


def site(config: Path) -> Findings:
    """By the agent's config."""
    try:
        import grpc  # noqa: F401
        import torch  # noqa: F401

        from client_agent.data import read_all
        from client_agent.settings import load
        from fedgalore.data.examples import DataError
    except ModuleNotFoundError as error:
        yield fail("agent", f"cannot run here without {error.name}; pip install {PART} brings it")
        return
    try:
        settings = load(config)
    except SettingsError as error:
        yield from (fail("settings", line) for line in str(error).splitlines())
        return
    yield disk("work_dir", settings.work_dir)
    for name, dataset in settings.data.items():
        try:
            local = read_all({name: dataset})[name]
        except DataError as error:
            yield fail(f"data.{name}", str(error))
        else:
            tests = len(local.test.examples) if local.test else 0
            yield ok(f"data.{name}", f"{len(local.train.examples)} examples to train on, {tests} to test on")
    for name in ("ca", "tls_cert"):
        if (file := getattr(settings, name)) is not None:
            yield certificate(name, file)
    for target in targets(settings.coordinator):
        yield _line(target)


def _line(target: str) -> Finding:
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), LINE_S).close()
    except OSError as error:
        why = error.strerror or str(error)
        return fail("coordinator", f"nobody listens at {target} ({why}); correct coordinator, or ask who runs it")
    return ok("coordinator", f"{target} takes connections")
