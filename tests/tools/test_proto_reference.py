"""The reference of the agents' door: every call and message with its comment, and the page is up to date."""

from __future__ import annotations

import pytest

from protos import federation_pb2 as pb
from tools import proto_reference
from tools.proto_reference import blocks, described


def test_the_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert proto_reference.main(["--check"]) == 0, capsys.readouterr().err


def test_every_call_message_field_and_value_is_there() -> None:
    made = blocks(described())
    for call in pb.DESCRIPTOR.services_by_name["Federation"].methods:
        assert f"| `{call.name}` |" in made["calls"]
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        part = made["messages"].split(f"### {message.name}\n", 1)[1].split("\n### ", 1)[0]
        assert [field.name for field in message.fields if f"| {field.number} | `{field.name}` |" not in part] == []
        values = [value.name for enum in message.enum_types for value in enum.values]
        assert [value for value in values if f"`{value}`" not in part] == []


@pytest.mark.parametrize(
    "row",
    [
        "| 4 | `datasets` | map of string to uint64 | Data sets that this site offers, with their number of training",
        "| 1 | `task` | [Task](#task) or unset | Unset: no work yet, poll again. |",
        "| 7 | `base_model` | list of [ModelFile](#modelfile) |",
        "| 2 | `chunk` | bytes, one of part |",
        "| 3 | `kind` | `Kind` |",
    ],
)
def test_types_are_those_of_the_file(row: str) -> None:
    assert row in blocks(described())["messages"]
