"""The REST door under requests that its OpenAPI document allows, and under many that it does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fedgalore_cli.local import LocalFederation, Secured
from fedgalore_cli.main import app
from tests.builders import job_document
from tests.fedgalore.conftest import tiny_bert  # noqa: F401  # fixture
from tests.fuzz.conftest import ROW

KEY = "operators-key-" + "0" * 32
EXAMPLES = int(os.environ.get("FUZZ_INPUTS", "1500")) // 40  # for each operation
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_the_rest_door(tmp_path: Path, tiny_bert: Path, record_property: Any) -> None:  # noqa: F811
    issued = CliRunner().invoke(app, ["certs", "--dir", str(tmp_path / "certs"), "--host", "127.0.0.1"])
    assert issued.exit_code == 0, issued.output
    with LocalFederation(tmp_path / "run", [], secured=Secured(tmp_path / "certs", KEY)) as federation:
        document = job_document(model={"source": str(tiny_bert), "num_labels": 2})
        with federation.http() as http:
            assert http.post("/api/v1/jobs", json=document).status_code == 201
        command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{federation.rest_url}/openapi.json"]
        command += ["--tls-verify", str(tmp_path / "certs/ca.pem"), "--header", f"Authorization: Bearer {KEY}"]
        command += ["--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES), "--request-timeout", "30"]
        # an event stream ends only with its job
        command += ["--exclude-path-regex", "/events$", "--suppress-health-check", "all", "--no-color"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert federation.coordinator.running
        log = federation.coordinator.log.read_text()
    counts = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert counts is not None, done.stdout + done.stderr
    record_property(ROW, ["REST by its OpenAPI document", counts[1], "", int(counts[1]) - int(counts[2])])
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in log
    assert "unexpected_error" not in log
