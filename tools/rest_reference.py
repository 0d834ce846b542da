"""The calls and shapes of docs/REST.md, from the OpenAPI document: `python -m tools.rest_reference`, or `--check`.

Calls are grouped by their tags. A job's document is a page of its own, docs/JOBS.md, so its shapes are links there.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from coordinator.doors.rest.app import create_app
from fedgalore.spec.job import JobSpec
from tools.blocks import keep
from tools.schema_words import Schema, one_line, range_words, type_words

PAGE = Path(__file__).resolve().parent.parent / "docs" / "REST.md"
COMMAND = "python -m tools.rest_reference"
PARAMETERS = "| parameter | in | type | default | range | what it does |\n| --- | --- | --- | --- | --- | --- |\n"
FIELDS = "| field | type | range | what it is |\n| --- | --- | --- | --- |\n"
_NAME = re.compile(r"`(\w+Event)`")  # of a shape, in words about events
ROLE = re.compile(r"\s*Needs a key of role (\w+)\.\s*$")


@cache
def document() -> dict[str, Any]:
    """What the door answers at /openapi.json. It is made of the routes alone: no part behind them is asked."""
    nothing: Any = MagicMock()
    app = create_app(*[nothing] * 6, sees_models=True, held_out=None, limits=nothing)
    found: dict[str, Any] = app.openapi()
    return found


def blocks(openapi: Schema) -> dict[str, str]:
    """The content of each generated block, by its name."""
    schemas = openapi["components"]["schemas"]
    of_jobs = {"JobSpec", *JobSpec.model_json_schema()["$defs"]}
    shapes = {name: schema for name, schema in sorted(schemas.items()) if name not in of_jobs}

    def model(name: str) -> str:
        if name not in shapes:
            return "[a job's document](JOBS.md#every-field)"
        return f"[{name}](#{name.lower()})"

    return {
        "calls": "\n\n".join(_calls(openapi, model)),
        "shapes": "\n\n".join(_shape(name, schema, model) for name, schema in shapes.items()),
    }


def _calls(openapi: Schema, model: Any) -> Iterator[str]:
    tag = ""
    for path, calls in openapi["paths"].items():
        for method, call in calls.items():
            if (group := call["tags"][0]) != tag:
                tag = group
                yield f"### {tag}"
            yield from _call(f"{method.upper()} {path}", call, model)


def _call(title: str, call: Schema, model: Any) -> Iterator[str]:
    yield f"#### `{title}`"
    text = call.get("description", "")
    role = ROLE.search(text)
    yield "\n\n".join(filter(None, [ROLE.sub("", text).strip(), f"Role: {role[1]}." if role else "Asks for no key."]))
    rows = [_parameter(each, model) for each in call.get("parameters", ())]
    if told := [row for row in rows if row[1] != "path" or any(row[4:])]:  # what is plain from the path needs no row
        yield PARAMETERS + "\n".join(_row(*row) for row in told)
    if body := call.get("requestBody"):
        yield f"Body: {_content(body['content'], model)}."
    yield from _answers(call["responses"], model)
    for body in [call.get("requestBody", {}), *call["responses"].values()]:
        yield from _examples(body.get("content", {}))


def _parameter(each: Schema, model: Any) -> tuple[str, ...]:
    schema = each["schema"]
    default = (
        "required" if each.get("required") else f"`{json.dumps(schema['default'])}`" if "default" in schema else ""
    )
    text = each.get("description") or schema.get("description", "")
    return f"`{each['name']}`", each["in"], type_words(schema, model), default, range_words(schema), one_line(text)


def _answers(responses: Schema, model: Any) -> Iterator[str]:
    """The statuses of success; every error is a problem, which the page says once."""
    successes = {status: answer for status, answer in responses.items() if status != "default"}
    yield "\n".join(f"- {status}: {_content(answer.get('content', {}), model)}" for status, answer in successes.items())
    for status, answer in successes.items():
        if (said := answer["description"].strip()) != "Successful Response":
            yield f"{status}: {_NAME.sub(lambda match: model(match[1]), said)}"


def _content(content: Schema, model: Any) -> str:
    kinds: dict[str, list[str]] = {}
    for media, body in content.items():
        kinds.setdefault(type_words(body.get("schema", {}), model), []).append(media)
    words = [f"{shape} as {' or '.join(f'`{media}`' for media in medias)}" for shape, medias in kinds.items()]
    return "; ".join(words) or "nothing"


def _examples(content: Schema) -> Iterator[str]:
    for media, body in content.items():
        named = {"": {"value": body["example"]}} if "example" in body else body.get("examples", {})
        for name, example in named.items():
            value = example.get("value", "")
            text = value if isinstance(value, str) else json.dumps(value, indent=2)
            language = "json" if "json" in media else "yaml" if "yaml" in media else ""
            title = (example.get("summary") or name).rstrip(".")
            yield f"Example{f' ({title})' if title else ''}:\n\n```{language}\n{text.strip()}\n```"


def _shape(name: str, schema: Schema, model: Any) -> str:
    about = one_line(schema.get("description", ""))
    if fields := schema.get("properties"):
        rows = [
            _row(f"`{field}`", type_words(node, model), range_words(node), one_line(node.get("description", "")))
            for field, node in fields.items()
        ]
        return "\n\n".join(filter(None, [f"### {name}", about, FIELDS + "\n".join(rows)]))
    return "\n\n".join(filter(None, [f"### {name}", about, f"Is {type_words(schema, model)}."]))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page's blocks, or with `--check` compares them. Returns 1 if they are stale."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    return keep(PAGE, blocks(document()), COMMAND, check=parser.parse_args(arguments).check)


if __name__ == "__main__":
    sys.exit(main())
