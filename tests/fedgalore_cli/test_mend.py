"""Single values of a document are set by path; what it has no place for is refused with what there is."""

from __future__ import annotations

from typing import Any

import pytest

from fedgalore_cli.mend import MendError, diff, mended
from tests.builders import a_spec


def document() -> dict[str, Any]:
    return a_spec(model={"num_labels": None, "label_names": ["bad", "good"]}).model_dump(mode="json")


@pytest.mark.parametrize(
    ("assignment", "section", "field", "value"),
    [
        ("local.learning_rate=1.0e-4", "local", "learning_rate", 1e-4),
        ("local.steps=20", "local", "steps", 20),
        ("local.betas[1]=0.99", "local", "betas", [0.9, 0.99]),
        ("model.label_names.0=no", "model", "label_names", ["no", "good"]),
        ("model.label_names=[a, b, c]", "model", "label_names", ["a", "b", "c"]),
        ("rounds.goal_clients=", "rounds", "goal_clients", None),
        ("method.client_ranks.north=4", "method", "client_ranks", {"north": 4}),
        ("privacy.clip_norm=1.5", "privacy", "clip_norm", 1.5),
        ("data.name=a=b", "data", "name", "a=b"),
    ],
)
def test_a_value_is_set_and_nothing_else(assignment: str, section: str, field: str, value: Any) -> None:
    before = document()
    after = mended(before, [assignment])
    assert after[section][field] == value
    assert before == document()
    rest = {name: part for name, part in after.items() if name != section}
    assert rest == {name: part for name, part in before.items() if name != section}


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("rouns.count=3", ["--set rouns.count", "the document has no rouns", "rounds"]),
        ("rounds.cuont=3", ["rounds has no cuont", "count, min_clients"]),
        ("seeed=3", ["has no seeed"]),
        ("name.first=x", ["name is 'tiny' and holds no first"]),
        ("model.label_names[2]=x", ["model.label_names is a list of 2"]),
        ("model.label_names.last=x", ["model.label_names is a list of 2"]),
        ("rounds.count", ["write path=value"]),
        ("=3", ["write path=value"]),
        ("rounds..count=3", ["write path=value"]),
        ("local.betas=[0.9", ["--set local.betas", "not valid YAML"]),
        ("method.kind=fedavg", ["the other fields of fedgalore", "--set 'method={kind: fedavg"]),
    ],
)
def test_what_has_no_place_is_refused_in_words(assignment: str, words: list[str]) -> None:
    with pytest.raises(MendError) as caught:
        mended(document(), [assignment])
    for word in words:
        assert word in str(caught.value)


def test_the_diff_shows_what_changes() -> None:
    after = mended(document(), ["local.steps=20", "rounds.count=3"])
    changed = [line for line in diff(document(), after).splitlines()[2:] if line[0] in "+-"]
    assert sorted(changed) == ["+  count: 3", "+  steps: 20", "-  count: 2", "-  steps: 2"]
    assert diff(after, after) == ""
