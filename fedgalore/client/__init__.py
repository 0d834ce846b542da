"""A coordinator from Python: `Client` and `AsyncClient`, for notebooks and CI. No torch, and no part of a coordinator.

```python
from fedgalore.client import Client

with Client("https://coordinator.example:8080", key=..., ca="ca.pem") as client:
    job = client.submit(Path("job.yaml"))
    for event in client.watch(job.id):
        print(event.type, event.data)
    client.metrics(job.id).where(source="evaluation", client=None, metric="accuracy")
    client.model(job.id, "my-model", version="best")
```

docs/CLIENT.md has more.
"""

from fedgalore.client.async_client import AsyncClient
from fedgalore.client.download import Hooks
from fedgalore.client.errors import (
    BadDownload,
    ClientError,
    FieldProblem,
    Refused,
    TimedOut,
    Unreachable,
    WrongArgument,
)
from fedgalore.client.events import Event
from fedgalore.client.records import Records
from fedgalore.client.shapes import (
    Agent,
    AuditEntry,
    DeletedJob,
    Job,
    JobSummary,
    JoinToken,
    Key,
    LogLine,
    MadeJoinToken,
    MadeKey,
    Model,
    ModelVersion,
    Participant,
    Readiness,
    Review,
    Round,
    Version,
)
from fedgalore.client.sync_client import Client

__all__ = [
    "Agent",
    "AsyncClient",
    "AuditEntry",
    "BadDownload",
    "Client",
    "ClientError",
    "DeletedJob",
    "Event",
    "FieldProblem",
    "Hooks",
    "Job",
    "JobSummary",
    "JoinToken",
    "Key",
    "LogLine",
    "MadeJoinToken",
    "MadeKey",
    "Model",
    "ModelVersion",
    "Participant",
    "Readiness",
    "Records",
    "Refused",
    "Review",
    "Round",
    "TimedOut",
    "Unreachable",
    "Version",
    "WrongArgument",
]
