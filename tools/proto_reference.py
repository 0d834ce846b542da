"""The calls and messages of docs/PROTO.md, from protos/federation.proto with its comments.

`python -m tools.proto_reference` writes them, with `--check` it only compares the page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

from tools.blocks import keep
from tools.schema_words import one_line

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "PROTO.md"
COMMAND = "python -m tools.proto_reference"
MESSAGES, SERVICES = (
    FileDescriptorProto.DESCRIPTOR.fields_by_name[name].number for name in ("message_type", "service")
)
FIELDS, ENUMS = (DescriptorProto.DESCRIPTOR.fields_by_name[name].number for name in ("field", "enum_type"))
VALUES, METHODS = 2, 2  # of an enum, of a service

Place = tuple[int, ...]  # of a thing in the file, as its source information counts
Comments = Mapping[Place, str]


def described() -> FileDescriptorProto:
    """The proto file with the places of its comments.

    Raises:
        SystemExit: it does not compile.
    """
    from grpc_tools import protoc  # type: ignore[import-untyped]

    with TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        options = [f"--proto_path={ROOT}", "--include_source_info", f"--descriptor_set_out={out}"]
        if status := protoc.main(["protoc", *options, "protos/federation.proto"]):
            raise SystemExit(f"protoc ended with status {status}")
        return FileDescriptorSet.FromString(out.read_bytes()).file[0]


def blocks(file: FileDescriptorProto) -> dict[str, str]:
    """The content of each generated block, by its name."""
    comments = {
        tuple(location.path): one_line(location.leading_comments) for location in file.source_code_info.location
    }
    service = file.service[0]
    calls = [
        "| call | asks with | answers | |\n|---|---|---|---|",
        *(_call(call, comments.get((SERVICES, 0, METHODS, index), "")) for index, call in enumerate(service.method)),
    ]
    messages = (
        part
        for index, message in enumerate(file.message_type)
        for part in _message(message, (MESSAGES, index), comments)
    )
    return {
        "service": _paragraphs(file, (SERVICES, 0)),
        "calls": "\n".join(calls),
        "messages": "\n\n".join(filter(None, messages)),
    }


def _paragraphs(file: FileDescriptorProto, place: Place) -> str:
    """A comment with its paragraphs."""
    text = next(each.leading_comments for each in file.source_code_info.location if tuple(each.path) == place)
    return "\n\n".join(one_line(part) for part in text.split("\n\n"))


def _call(call: MethodDescriptorProto, about: str) -> str:
    asks = _stream(call.client_streaming) + _link(call.input_type)
    return f"| `{call.name}` | {asks} | {_stream(call.server_streaming)}{_link(call.output_type)} | {about} |"


def _stream(several: bool) -> str:
    return "stream of " if several else ""


def _link(type_name: str) -> str:
    name = type_name.rpartition(".")[2]
    return f"[{name}](#{name.lower()})"


def _message(message: DescriptorProto, place: Place, comments: Comments) -> Iterator[str]:
    yield f"### {message.name}"
    yield comments.get(place, "")
    rows = [
        f"| {field.number} | `{field.name}` | {_type(field, message)} | {comments.get((*place, FIELDS, index), '')} |"
        for index, field in enumerate(message.field)
    ]
    yield "\n".join(["| | field | type | |\n|---|---|---|---|", *rows]) if rows else "Empty."
    for index, enum in enumerate(message.enum_type):
        yield _enum(enum, (*place, ENUMS, index), comments)


def _enum(enum: EnumDescriptorProto, place: Place, comments: Comments) -> str:
    rows = [
        f"| {value.number} | `{value.name}` | {comments.get((*place, VALUES, index), '')} |"
        for index, value in enumerate(enum.value)
    ]
    return "\n".join([f"`{enum.name}`:\n\n| | value | |\n|---|---|---|", *rows])


def _type(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """The type, as the proto file has it; `message` may hold its entries or its enum."""
    for entry in message.nested_type:
        if entry.options.map_entry and field.type_name.endswith(f".{entry.name}"):
            key, value = (_type(part, entry) for part in entry.field)
            return f"map of {key} to {value}"
    several = "list of " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    one_of = f", one of {message.oneof_decl[field.oneof_index].name}" if _in_oneof(field) else ""
    unset = " or unset" if field.proto3_optional else ""
    return f"{several}{_name(field)}{unset}{one_of}"


def _in_oneof(field: FieldDescriptorProto) -> bool:
    return field.HasField("oneof_index") and not field.proto3_optional


def _name(field: FieldDescriptorProto) -> str:
    if field.type == FieldDescriptorProto.TYPE_MESSAGE:
        return _link(field.type_name)
    if field.type == FieldDescriptorProto.TYPE_ENUM:
        return f"`{field.type_name.rpartition('.')[2]}`"
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page's blocks, or with `--check` compares them. Returns 1 if they are stale."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    return keep(PAGE, blocks(described()), COMMAND, check=parser.parse_args(arguments).check)


if __name__ == "__main__":
    sys.exit(main())
