"""The tables of docs/JOBS.md, from the job document's JSON schema: `python -m tools.job_reference`, or `--check`.

One block lists the job's sections, and each section has a block. The block of methods has a part for each kind. This
module names no field but `kind`, so that fields, sections and methods may come and go.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from fedgalore.spec.job import JobSpec
from tools.blocks import keep
from tools.schema_words import Schema, one_line, range_words, type_words

PAGE = Path(__file__).resolve().parent.parent / "docs" / "JOBS.md"
COMMAND = "python -m tools.job_reference"
HEAD = "| field | type | default | range | what it does |\n| --- | --- | --- | --- | --- |\n"


def blocks() -> dict[str, str]:
    """The content of each generated block, by its name."""
    schema = JobSpec.model_json_schema()
    sections = {name: list(_models(node, schema)) for name, node in schema["properties"].items()}
    tables = {"job": _table(schema, {name: f"[section](#{name})" for name, models in sections.items() if models})}
    for name, models in sections.items():
        if models:
            tables[name] = _kinds(models) if "kind" in models[0]["properties"] else _section(models[0], schema)
    return tables


def _section(model: Schema, schema: Schema) -> str:
    """A section's table. The fields of a mapping in it stand below, as `mapping.field`."""
    properties, required = dict(model["properties"]), list(model.get("required", ()))
    for name, node in model["properties"].items():
        for inner in _models(node, schema):
            properties |= {f"{name}.{field}": value for field, value in inner["properties"].items()}
            required += [f"{name}.{field}" for field in inner.get("required", ())]
    return _table({"properties": properties, "required": required})


def _models(node: Schema, schema: Schema) -> Iterator[Schema]:
    """The mappings with named fields that a value may be; none where it is a plain value."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    if "properties" in node:
        yield node
    for part in (*node.get("oneOf", ()), *node.get("anyOf", ())):
        yield from _models(part, schema)


def _kinds(models: Sequence[Schema]) -> str:
    """A part for each kind; neighbours with the same fields share one."""
    rows = [
        (_table(model), kind, one_line(model.get("description", ""))) for model in models for kind in _kinds_of(model)
    ]
    parts = []
    for table, alike in groupby(rows, key=itemgetter(0)):
        same = list(alike)
        about = list(dict.fromkeys(text for *_, text in same))
        if len(about) > 1:
            about = [f"- `{kind}`: {text}" for _, kind, text in same]
        title = ", ".join(f"`{kind}`" for _, kind, _ in same)
        parts.append("\n\n".join([f"#### kind: {title}", "\n".join(about), table]))
    return "\n\n".join(parts)


def _kinds_of(model: Schema) -> list[str]:
    kind = model["properties"]["kind"]
    return list(kind.get("enum") or [kind.get("const") or kind["default"]])


def _table(model: Schema, types: Mapping[str, str] | None = None) -> str:
    """A row for each field but `kind`; `types`: what to call some, in place of what the schema says."""
    return HEAD + "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in _row(name, node, model, types or {})) + " |"
        for name, node in model["properties"].items()
        if name != "kind"
    )


def _row(name: str, node: Schema, model: Schema, types: Mapping[str, str]) -> tuple[str, ...]:
    default = "required" if name in model.get("required", ()) else f"`{json.dumps(node.get('default'))}`"
    if name in types:
        default = default if default in ("required", "`null`") else "see there"
        return f"`{name}`", types[name], default, "", one_line(node.get("description", ""))
    return f"`{name}`", type_words(node), default, range_words(node), one_line(node.get("description", ""))


def main(arguments: list[str] | None = None) -> int:
    """Writes the page's tables, or with `--check` compares them. Returns 1 if they are stale."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    return keep(PAGE, blocks(), COMMAND, check=parser.parse_args(arguments).check)


if __name__ == "__main__":
    sys.exit(main())
