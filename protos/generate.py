"""Regenerates the stubs beside this file: `python -m protos.generate`, or `--check` to only compare.

The generator's version is fixed because it is written into the stubs. They load under protobuf 6 and 7.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

GENERATOR = "1.75.1"
FOLDER = Path(__file__).resolve().parent
STUBS = ("federation_pb2.py", "federation_pb2.pyi", "federation_pb2_grpc.py")


def generate() -> dict[str, bytes]:
    """File name -> content of each stub, generated afresh.

    Raises:
        SystemExit: another version of grpcio-tools is installed, or the proto file does not compile.
    """
    installed = version("grpcio-tools")
    if installed != GENERATOR:
        raise SystemExit(f"grpcio-tools {installed} is installed; install grpcio-tools=={GENERATOR}")
    from grpc_tools import protoc  # type: ignore[import-untyped]

    with TemporaryDirectory() as out:
        # Seen from the folder above, the file is protos/federation.proto, so the stubs import each other as `protos.…`.
        options = [
            f"--proto_path={FOLDER.parent}",
            f"--python_out={out}",
            f"--pyi_out={out}",
            f"--grpc_python_out={out}",
        ]
        status = protoc.main(["protoc", *options, "protos/federation.proto"])
        if status != 0:
            raise SystemExit(f"protoc ended with status {status}")
        return {name: (Path(out) / "protos" / name).read_bytes() for name in STUBS}


def main(arguments: list[str] | None = None) -> int:
    """Writes the stubs, or with `--check` compares them. Returns 1 if a committed stub is stale, else 0."""
    parser = argparse.ArgumentParser(prog="python -m protos.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a stub differs")
    check = parser.parse_args(arguments).check
    stale = []
    for name, content in generate().items():
        path = FOLDER / name
        if path.is_file() and path.read_bytes() == content:
            continue
        stale.append(name)
        if not check:
            path.write_bytes(content)
    if check and stale:
        print(f"{', '.join(stale)}: stale; run `python -m protos.generate` and commit the stubs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
