"""Malformed job documents and agents' configs: each is read or refused with a reason, fast and in little memory."""

from __future__ import annotations

import copy
import json
import os
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client_agent.settings import AgentSettings, load
from coordinator.doors.rest.posting import read_job
from coordinator.state.errors import InvalidJob
from coordinator.state.limits import MAX_BODY_BYTES
from fedgalore.process.settings import SettingsError
from fedgalore.spec.job import JobSpec
from tests.builders import job_document
from tests.fuzz.conftest import ROW
from tests.fuzz.test_update_stream import JSON, NAMES, NUMBERS

INPUTS = int(os.environ.get("FUZZ_INPUTS", "1500"))
LONGEST_S = 10.0  # of this thread's CPU time for a document
MOST_GROWTH_KIB = 2**20
LONGEST_ANSWER = 20_000
KINDS = ("application/json", "application/yaml")
AGENT = {
    "name": "site-a",
    "coordinator": "127.0.0.1:50051",
    "work_dir": "work",
    "threads": 2,
    "cache_bytes": 1000,
    "models": ["models"],
    "data": {
        "reviews": {"train": "a.csv", "test": "b.csv", "text": ["first", "second"], "label": "label"},
        "scans": {"train": "scans.csv", "image": "file", "label": "found", "follow_links": True},
        "answers": {"train": "qa.jsonl", "prompt": "q", "completion": "a", "quoting": False},
    },
}
JUNK = st.one_of(
    NUMBERS,
    st.floats(),
    st.text(max_size=20),
    NAMES,
    JSON,
    st.sampled_from(
        [10**4200, -(10**4200), "x" * 100_000, "9" * 5000, "1e999", "\ud800", "\x1b[2J", "~nobody/x", "a\0"]
    ),
    st.sampled_from(["_cli_parse_args", "_env_file", "__class__", "self", "fault", "1:1:1", "0x" + "f" * 90]),
    st.sampled_from([[[]] * 3000, [0] * 20_000, {str(i): i for i in range(3000)}, ["a"] * 20_000]),
)
KEYS = st.one_of(NAMES, st.sampled_from(["kind", "rank", "name", "_env_file", "_secrets_dir", "<<", "fault", "models"]))
SNIPPETS = st.sampled_from(
    ["&a ", "*a", "<<: *a\n", "<<: {rank: 3}\n", "!!python/object/apply:os.getcwd []", "!!python/name:os.getcwd ''"]
    + ["!!bool x", "!!int ''", "!!float x", "!!timestamp x", "!!null x", "!!binary ß", "!!set {a, b}", "!!omap [a: 1]"]
    + ["!!pairs [a: 1]", "!!str 1", "!!merge x", "!a b", "!!map [1]", "!!seq {a: 1}", "=", "? ", "- ", ": ", "| ", "> "]
    + ["[", "]", "{", "}", '"', "'", "#", "%YAML 1.1\n", "%TAG ! x\n", "---\n", "...\n", "\t", "\0", "\x1b", "\ufeff"]
    + ["\u2028", "\u202e", "\ud800", "\\ud800", "\\u0000", "2024-13-45", "1:1:1", ".inf", ".nan", "NaN", "1e999", "~"]
    + ["\nname: again\n", '"name": 1,', "\r", "@", "`", "0o8", "0b2", "1_000_000", "yes", "[" * 3000, "{a: " * 3000]
)


def repeated(draw: Any) -> str:
    """A short text that may expand to a large document."""
    count = draw(st.sampled_from([3, 100, 1000, 20_000, 60_000]))
    match draw(st.integers(0, 6)):
        case 0:  # every line stands for several of the line before
            width, merged = draw(st.integers(2, 9)), draw(st.booleans())
            lines = ["a0: &a0 {x: 1}" if merged else "a0: &a0 [x]"]
            for i in range(1, draw(st.integers(2, 12))):
                names = ", ".join([f"*a{i - 1}"] * width)
                lines.append(f"a{i}: &a{i} {{<<: [{names}]}}" if merged else f"a{i}: &a{i} [{names}]")
            return "\n".join(lines)
        case 1:
            return draw(st.sampled_from(["[", "{a: ", "- ", "? ", '{"a": ', "!a ", "&a ", "'"])) * count
        case 2:
            return f"seed: {draw(st.sampled_from(['9', '1:', '0x1f', '1_', '1e', '.1', '-']))}" + "1:1" * count
        case 3:
            return "".join(f"k{i}: {i}\n" for i in range(min(count, 40_000)))
        case 4:
            return json.dumps({f"k{i}": i for i in range(count)})
        case 5:
            return f"{'k' * count}: [{'v' * count}]"
    return "a: &a [*a]\nmethod: {kind: *a}"


def changed(draw: Any, document: dict[str, Any]) -> Any:
    """The document with some values or keys replaced, added or removed."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        place: Any = document
        while isinstance(place, dict) and place:
            key = draw(st.sampled_from(sorted(place, key=str)))
            if isinstance(place[key], dict) and draw(st.booleans()):
                place = place[key]
                continue
            match draw(st.integers(0, 3)):
                case 0:
                    del place[key]
                case 1:
                    place[draw(KEYS)] = copy.deepcopy(draw(JUNK))  # the next example draws the same object
                case _:
                    place[key] = copy.deepcopy(draw(JUNK))
            break
    return document


def written(draw: Any, document: Any, kind: str) -> str:
    """The document as text, with some parts inserted, removed or repeated."""
    dump: Callable[[Any], str] = json.dumps if kind == KINDS[0] else yaml.safe_dump
    text = dump(document)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        match draw(st.integers(0, 3)):
            case 0:
                text = text[:at] + text[at + draw(st.integers(1, 9)) :]
            case 1:
                end = draw(st.integers(at, len(text)))
                text = text[:end] + text[at:end] + text[end:]
            case _:
                text = text[:at] + draw(SNIPPETS) + text[at:]
    return text


def body(draw: Any, document: dict[str, Any], kind: str) -> bytes:
    """The body to send, cut at the greatest length that the door accepts."""
    match draw(st.integers(0, 9)):
        case 0:
            return draw(st.binary(max_size=300))
        case 1:
            text = draw(st.text(max_size=300))
        case 2:
            text = repeated(draw)
        case 3:
            text = written(draw, document, kind) + "\n" + repeated(draw)
        case 4:
            text = written(draw, draw(JUNK), kind)
        case 5 | 6:
            text = written(draw, document, kind)
        case _:
            text = written(draw, changed(draw, document), kind)
    return text.encode("utf-8", "surrogatepass")[:MAX_BODY_BYTES]


class Fuzz:
    """Reads attacks on a door, and counts their outcomes."""

    def __init__(self, what: str, read: Callable[[bytes, str], None]) -> None:
        self._what, self._read = what, read
        self.tried, self.taken, self.refused = 0, 0, set[str]()
        self.failures: list[str] = []

    def run(self, document: dict[str, Any], record_property: Any) -> None:
        @settings(max_examples=INPUTS, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(st.data())
        def attack(data: st.DataObject) -> None:
            kind = data.draw(st.sampled_from(KINDS))
            self.attempt(body(data.draw, document, kind), kind)
            assert self.failures == []

        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            attack()
        finally:
            record_property(ROW, [self._what, self.tried, len(self.refused), len(self.failures)])
        assert len(self.refused) > 20
        assert self.taken > 10
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GROWTH_KIB

    def attempt(self, content: bytes, kind: str) -> None:
        self.tried += 1
        started = time.thread_time()
        try:
            self._read(content, kind)
            self.taken += 1
        except InvalidJob as error:
            self.note(error.errors)
        except SettingsError as error:
            self.note([{"field": "--config", "problem": line} for line in str(error).splitlines()])
        except Exception as error:
            self.failures.append(f"{type(error).__name__}: {error} of {content[:2000]!r}")
        if time.thread_time() - started > LONGEST_S:
            self.failures.append(f"{time.thread_time() - started:.1f} s for {content[:2000]!r}")

    def note(self, rows: list[dict[str, str]]) -> None:
        """Checks a refusal: it names a field and its problem, and fits an answer and a terminal."""
        refusal = "; ".join(f"{row['field']}: {row['problem']}" for row in rows)
        if not rows or not all(row["field"] and row["problem"] for row in rows):
            self.failures.append(f"no field or no problem is named: {refusal}")
        if len(refusal.encode()) > LONGEST_ANSWER or not refusal.isprintable():
            self.failures.append(f"cannot be shown: {refusal[:2000]!r}")
        self.refused |= {re.sub(r"[0-9]+|[^ -~]|'[^']*'|.(?<=x)x+", "#", row["problem"])[:60] for row in rows}


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_job_documents(record_property: Any) -> None:
    def read(content: bytes, kind: str) -> None:
        spec = read_job(content, kind)
        kept = spec.model_dump_json()  # as Redis stores it and as the agents get it
        assert len(kept) < 3 * MAX_BODY_BYTES
        assert JobSpec.model_validate_json(kept) == spec

    Fuzz("job documents", read).run(job_document(evaluation={"every": 1}, server={"clip_norm": 3}), record_property)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
def test_agents_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any) -> None:
    for name in [name for name in os.environ if name.startswith("FEDGALORE_")]:
        monkeypatch.delenv(name)
    (tmp_path / "models").mkdir()
    config = tmp_path / "agent.yaml"

    def read(content: bytes, kind: str) -> None:
        config.write_bytes(content)  # almost all JSON is YAML
        chosen = load(config)
        assert isinstance(chosen, AgentSettings)
        for path in (chosen.work_dir, *chosen.models, *(item.train for item in chosen.data.values())):
            assert path.is_absolute()
            os.fspath(path).encode()

    Fuzz("agents' configs", read).run(AGENT, record_property)
