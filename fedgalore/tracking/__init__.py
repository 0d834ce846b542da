"""Jobs in the tracker that a team has already: MLflow, Weights & Biases, TensorBoard.

```python
from fedgalore.client import Client
from fedgalore.tracking import MLflow, TensorBoard, track

with Client() as client:
    track(client, job_id, [MLflow(experiment="wards"), TensorBoard("runs")], model="best")
```

What is logged is the same for all of them (`mapping`); a tracker only writes it down, each round once, whenever it
begins to follow. docs/TRACKING.md has more. No torch; the packages of the trackers are extras.
"""

from fedgalore.tracking.feeding import Tracking
from fedgalore.tracking.following import track
from fedgalore.tracking.mapping import End, Run, Step
from fedgalore.tracking.mlflow_sink import MLflow
from fedgalore.tracking.sink import Sink, TrackerError
from fedgalore.tracking.tensorboard_sink import TensorBoard
from fedgalore.tracking.wandb_sink import WandB

__all__ = ["End", "MLflow", "Run", "Sink", "Step", "TensorBoard", "TrackerError", "Tracking", "WandB", "track"]
