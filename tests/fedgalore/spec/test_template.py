"""What a template makes of a row, and the patterns that it cannot have."""

import pytest

from fedgalore.spec.job import SpecError, parse
from fedgalore.spec.template import Template
from tests.builders import job_document


def document(prompt="{question}", completion="{answer}", **sections):
    data = {"name": "d", "template": {"prompt": prompt, "completion": completion}}
    return job_document(model={"source": "m", "task": "causal-lm", "num_labels": None}, data=data, **sections)


def test_names_are_replaced_once_and_braces_are_written_twice():
    template = parse(document("{{{q}}} of {a-1}, {q}:\n", "}}{a-1}{{")).data.template
    assert template.columns == ("q", "a-1")
    made = template.of({"q": "{a-1}{{", "a-1": "é", "more": "!"})
    assert made == {"prompt": "{{a-1}{{} of é, {a-1}{{:\n", "completion": "}é{"}


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{x.__class__}", "'{x.__class__}' names no column; write its name alone"),
        ("{x[0]}", "'{x[0]}' names no column"),
        ("{x!r}", "'{x!r}' names no column"),
        ("{x:>9}", "'{x:>9}' names no column"),
        ("{}", "'{}' names no column"),
        ("{ x }", "'{ x }' names no column"),
        ("{x\n}", "names no column"),
        ("{x}{", "'{' at character 4 stands alone; write {{ for it"),
        ("{x}}", "'}' at character 4 stands alone; write }} for it"),
        ("{{x}", "'}' at character 4 stands alone"),
        ("{" + "x" * 64 + "}", "names no column"),
        ("{x}" + " " * 10_000, "10000 characters"),
        (None, "text"),
    ],
)
@pytest.mark.parametrize("part", ["prompt", "completion"])
def test_a_pattern_that_is_none_is_refused_with_its_field(part, pattern, words):
    with pytest.raises(SpecError, match=rf"^data\.template\.{part}: ") as error:
        parse(document(**{part: pattern}))
    assert words in str(error.value)


def test_an_answer_needs_a_column_and_a_job_a_task_that_writes():
    with pytest.raises(SpecError, match=r"^data\.template\.completion: .*it names no column, so that all answers"):
        parse(document(completion="yes {{x}}"))
    data = document()["data"]
    with pytest.raises(SpecError, match=r"data\.template: only task: causal-lm or seq2seq-lm has prompts"):
        parse(job_document(data=data))
    with pytest.raises(SpecError, match=r"data\.template\.prompt: the encoder of seq2seq-lm has to read something"):
        parse(document("") | {"model": {"source": "m", "task": "seq2seq-lm"}})
    with pytest.raises(SpecError, match=r"data\.template\.prompt: without one the model is asked nothing"):
        parse(document("", evaluation={"metrics": ["rouge1"]}))
    assert parse(document("Write a name.")).data.template == Template(prompt="Write a name.", completion="{answer}")
