"""A real coordinator to follow."""

from tests.coordinator.doors.rest.conftest import stack  # noqa: F401
