"""Logs of an agent: structlog on stderr, one JSON object a line unless a person sits at the terminal."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog


def configure(client: str, log_format: Literal["auto", "json", "text"], level: str) -> None:
    """Sets up this process's logs, each line with the client's name."""
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(
                [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
                if as_json
                else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(client=client)
