"""A real coordinator for the client."""

from tests.coordinator.doors.rest.conftest import stack  # noqa: F401
