"""The job document: what is refused, and that the message names the field and what to do."""

import json
import re
from collections.abc import Iterator
from functools import reduce
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import ValidationError

from fedgalore.spec.job import JobSpec, SpecError, explain, load, parse
from fedgalore.spec.registry import methods
from fedgalore.spec.sections import RoundsSpec
from fedgalore.spec.strict import Strict
from tests.builders import a_spec, job_document

LANGUAGE_MODEL = {"model": {"num_labels": None, "task": "causal-lm"}}


def refused(document) -> str:
    with pytest.raises(SpecError) as caught:
        parse(document)
    return str(caught.value)


def test_the_smallest_document_gets_the_documented_defaults():
    spec = parse({"name": "a", "model": {"source": "m", "num_labels": 2}, "data": {"name": "d"}})
    assert (spec.method.kind, spec.method.rank, spec.method.basis) == ("fedgalore", 8, "local")
    assert (spec.method.state_sync, spec.method.prior_steps, spec.method.update_clip) == ("reset", 2.0, 1.0)
    assert (spec.rounds.goal, spec.rounds.cohort_size, spec.local.head_learning_rate) == (2, 2, None)
    assert spec.method.target_modules is spec.wire.up_rank is spec.wire.down_rank is None
    assert spec.bits == 4
    assert (spec.evaluation.exact_match, spec.evaluation.max_new_tokens) == (None, 64)


@pytest.mark.parametrize("document", [{"data": 5}, {"rounds": []}, {"evaluation": {"keep": "f1"}}])
def test_a_value_in_the_place_of_a_section_is_refused_in_words_of_the_document(document):
    assert "does not fit; give a mapping with the keys" in refused(job_document() | document)


def test_exact_match_needs_room_beside_the_prompt_only_when_it_is_asked_for():
    assert a_spec(**LANGUAGE_MODEL, data={"max_length": 65}, evaluation={"exact_match": "text"})
    assert a_spec(**LANGUAGE_MODEL, data={"max_length": 8})


def test_a_spec_survives_json_and_yaml():
    spec = a_spec(
        model={"source": "m", "num_labels": None, "label_names": ["no", "yes"]},
        method={"prior_steps": None, "update_clip": None, "target_modules": ["query"]},
        wire={"bits": 8, "down_rank": 4},
    )
    assert parse(json.loads(spec.model_dump_json())) == spec
    assert parse(yaml.safe_load(yaml.safe_dump(spec.model_dump(mode="json")))) == spec


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"methods": {"rank": 4}}, ["methods", "unknown key", "spelling"]),
        ({"method": {"ranks": 4}}, ["method.ranks", "unknown key"]),
        ({"rounds": {"deadline": 4}}, ["rounds.deadline", "unknown key"]),
        ({"method": {"rank": 0}}, ["method.rank: 0 does not fit", "a whole number from 1 to 4096"]),
        ({"method": {"rank": 2.5}}, ["method.rank: 2.5 does not fit", "a whole number"]),
        (
            {"method": {"kind": "fedsgd"}},
            [
                "method.kind",
                "give fedgalore, fedavg, fedit, ffa_lora, fedex_lora, frlora, fedsvd or flora",
            ],
        ),
        (
            {"method": {"kind": ["fedavg"]}},
            [
                "method.kind",
                "give fedgalore, fedavg, fedit, ffa_lora, fedex_lora, frlora, fedsvd or flora",
            ],
        ),
        ({"method": {"kind": "fedavg", "rank": 4}}, ["method.rank", "unknown key"]),
        ({"method": {"kind": "fedit", "rank": 0}}, ["method.rank: 0 does not fit", "a whole number from 1 to 4096"]),
        (
            {"method": {"kind": "fedit"}, "local": {"learning_rate": None}},
            ["local.learning_rate: fedit has no rate of its own", "name one, such as 1.0e-3", "fedgalore"],
        ),
        ({"method": {"kind": "flora", "basis": "local"}}, ["method.basis", "unknown key"]),
        ({"method": {"basis": "global"}}, ["method.basis", "local or shared"]),
        ({"method": {"basis": "shared", "update_proj_gap": 1}}, ["update_proj_gap (1)", "needs method.basis: local"]),
        ({"method": {"basis": "shared", "client_ranks": {"a": 2}}}, ["method", "client_ranks needs basis: local"]),
        ({"method": {"basis": "shared"}, "wire": {"down_rank": 2}}, ["wire: changes of this method", "leave wire out"]),
        ({"method": {"basis": "shared", "complement": 1}}, ["method", "complement needs basis: local"]),
        ({"method": {"complement": 0}, "wire": {"up_rank": 4}}, ["wire: changes of this method", "leave wire out"]),
        ({"method": {"kind": "fedit"}, "wire": {"bits": 4}}, ["wire: changes of this method (fedit)"]),
        ({"wire": {"bits": 5}}, ["wire.bits: 5 does", "4, 8, 16 or 32"]),
        ({"method": {"complement": -1}}, ["method.complement: -1 does", "from 0 to 100, or null"]),
        (
            {"method": {"kind": "fedit"}, "server": {"clip_norm": 2}},
            ["server.clip_norm: fedit averages factors", "fedgalore or fedavg or flora"],
        ),
        ({"server": {"clip_norm": 0}}, ["server.clip_norm: 0 does", "a number above 0, or null"]),
        ({"method": {"kind": "fedit", "client_ranks": {"a": 2}}}, ["method", "fedit averages factors", "kind: flora"]),
        ({"method": {"client_ranks": {"a": 2}, "rank_pattern": {"b": 3}}}, ["method", "cannot be combined"]),
        ({"method": {"client_ranks": {"a": 0}}}, ["method.client_ranks.a: 0 does", "from 1 to 4096"]),
        ({"method": {"kind": "fedex_lora"}, "server": {"learning_rate": 0.5}}, ["server.learning_rate", "at 1"]),
        ({"method": {"state_sync": "mean"}}, ["method.state_sync", "ajive, average, reset or local"]),
        ({"method": {"update_clip": 0}}, ["method.update_clip: 0 does", "above 0"]),
        ({"method": {"prior_steps": -1}}, ["method.prior_steps: -1 does", "of at least 0"]),
        ({"method": {"prior_steps": float("inf")}}, ["method.prior_steps: inf does", "a number of at least 0"]),
        ({"wire": {"down_rank": -1}}, ["wire.down_rank: -1 does", "from 0 to 4096"]),
        ({"rounds": {"min_clients": 3, "goal_clients": 2}}, ["rounds", "goal_clients (2) is below min_clients (3)"]),
        ({"rounds": {"min_clients": 0}}, ["rounds.min_clients"]),
        ({"rounds": {"over_selection": 0.5}}, ["rounds.over_selection"]),
        ({"model": {"num_labels": None}}, ["model", "num_labels is needed"]),
        ({"model": {"num_labels": 0}}, ["model.num_labels: 0 does", "a whole number from 1 to"]),
        (
            {"model": {"num_labels": 1, "problem": "single_label"}},
            ["model: num_labels is 1, and one class leaves nothing", "two or more, or problem: regression"],
        ),
        (
            {"model": {"num_labels": 1, "problem": "multi_label"}},
            ["model: num_labels is 1, and one class leaves nothing to tell apart; take two or more"],
        ),
        (
            {"model": {"num_labels": 1, "task": "token-classification"}},
            ["model: num_labels is 1, and one class leaves nothing to tell apart; take two or more"],
        ),
        (
            {"model": {"num_labels": None, "label_names": ["a", "b"], "problem": "regression"}},
            ["model: label_names names classes, and regression predicts numbers; give num_labels instead"],
        ),
        (
            {"model": {"problem": "multi_label", "task": "token-classification"}},
            ["problem belongs to task: sequence-classification or image-class", "leave it out for token-class"],
        ),
        ({"model": {"task": "seq2seq-lm"}}, ["num_labels and label_names belong to", "leave them out for seq2seq-lm"]),
        ({"model": {"problem": "multi"}}, ["model.problem", "single_label, multi_label or regression, or null"]),
        (
            {"local": {"class_weights": "balance"}},
            ["local.class_weights: 'balance' does not fit; give balanced, or for each class a number"],
        ),
        (
            {"local": {"micro_batch_size": 4, "batch_size": 2}},
            ["local: micro_batch_size (4) exceeds batch_size (2), which it is a part of; lower it, or leave it out"],
        ),
        (
            {"local": {"final_share": 0.1}},
            ["local: final_share is what schedule: linear or cosine falls to; name one, or leave it out"],
        ),
        (
            {"rounds": {"count": 5}, "local": {"warmup_rounds": 5}},
            ["local.warmup_rounds (5) leaves none of the 5 rounds (rounds.count) at the whole rate; lower the one"],
        ),
        ({"local": {"schedule": "polynomial"}}, ["local.schedule", "constant, linear or cosine, or null"]),
        ({"local": {"max_grad_norm": 0}}, ["local.max_grad_norm", "above 0"]),
        ({"local": {"class_weights": [1, 0]}}, ["local.class_weights: [1, ", "give balanced", "above 0"]),
        ({"local": {"class_weights": [1, float("nan")]}}, ["local.class_weights: [1, ", "give balanced", "above 0"]),
        ({"local": {"class_weights": [1, 2, 3]}}, ["local.class_weights: 3 weights for 2 classes", "one for each"]),
        (
            {"model": {"num_labels": 1}, "local": {"class_weights": [1]}},
            ["local.class_weights: regression has no classes; leave it out"],
        ),
        (
            {**LANGUAGE_MODEL, "local": {"class_weights": "balanced"}},
            ["local.class_weights: causal-lm has no classes; leave it out"],
        ),
        ({"model": {"num_labels": 3, "label_names": ["a", "b"]}}, ["model", "num_labels is 3", "has 2 names"]),
        ({"model": {"label_names": ["a", "a"]}}, ["model", "names 1 and 2 are both"]),
        (
            {"model": {"task": "causal-lm"}},
            ["model: num_labels and label_names belong to classes; leave them out for causal-lm"],
        ),
        (
            {"model": {"task": "translation"}},
            ["model.task", "image-classification, causal-lm or seq2seq-lm"],
        ),
        (
            {"model": {"task": "image-classification", "num_labels": None}},
            ["model", "num_labels is needed for task: image-classification"],
        ),
        (
            {"model": {"task": "image-classification"}, "local": {"group_by_length": True}},
            ["local.group_by_length", "no length", "leave it out"],
        ),
        (
            {"method": {"train_also": ["norms", "output"]}},
            ["method.train_also: the output layer of sequence-classification is its head", "leave output out"],
        ),
        ({"method": {"train_also": ["norm"]}}, ["method.train_also.0", "embeddings, norms, biases or output"]),
        ({"local": {"packing": True}}, ["local.packing: only", "causal-lm", "sequence-classification", "leave it out"]),
        ({"model": {"source": ""}}, ["model.source"]),
        ({"model": {"source": "x" * 4097}}, ["model.source", "1 to 4096 characters"]),
        ({"model": {"num_labels": None, "label_names": ["a", "b" * 501]}}, ["model.label_names.1", "at most 500"]),
        ({"method": {"target_modules": ["a"] * 1001}}, ["method.target_modules", "at most 1000 items"]),
        (
            {"evaluation": {"max_examples": 10**5000}},
            ["evaluation.max_examples: a number of thousands of digits does", "from 1 to"],
        ),
        (
            {"server": {"max_examples": 2**53 + 1}},
            ["server.max_examples: 9007199254740993 does", "from 1 to 9007199254740992"],
        ),
        ({"method": {"update_proj_gap": 10**5000}}, ["method.update_proj_gap: a number of", "from 1 to"]),
        ({"data": {}, "name": "no spaces"}, ["name: 'no spaces' does", "letters, digits"]),
        ({"data": None}, ["data: nothing (null) does", "a mapping with the keys name"]),
        ({"local": {"learning_rate": float("nan")}}, ["local.learning_rate: nan does", "above 0 and at most 10"]),
        ({"local": {"learning_rate": 0}}, ["local.learning_rate: 0 does", "above 0"]),
        ({"local": {"learning_rate": 5, "weight_decay": 0.5}}, ["local", "learning_rate x weight_decay"]),
        ({"local": {"betas": [0.9, 1.0]}}, ["local.betas.1: 1.0 does", "of at least 0 and below 1"]),
        ({"local": {"steps": 0}}, ["local.steps"]),
        ({"local": {"weights": "bfloat16"}}, ["weights: bfloat16 needs precision: bfloat16"]),
        (
            {"method": {"kind": "fedavg"}, "local": {"weights": "bfloat16", "precision": "bfloat16"}},
            ["local.weights: bfloat16 loses the small steps of this method (fedavg)", "method.kind: fedgalore"],
        ),
        (
            {"evaluation": {"exact_match": "text"}},
            ["evaluation.exact_match needs task: causal-lm or seq2seq-lm", "leave it out for sequence-classification"],
        ),
        (
            {**LANGUAGE_MODEL, "evaluation": {"exact_match": "words"}},
            ["evaluation.exact_match", "text or number, or null"],
        ),
        (
            {**LANGUAGE_MODEL, "evaluation": {"max_new_tokens": 0}},
            ["evaluation.max_new_tokens: 0 does", "from 1 to 4096"],
        ),
        (
            {**LANGUAGE_MODEL, "evaluation": {"max_new_tokens": 4097}},
            ["evaluation.max_new_tokens: 4097 does", "from 1 to 4096"],
        ),
        (
            {**LANGUAGE_MODEL, "data": {"max_length": 64}, "evaluation": {"exact_match": "number"}},
            ["evaluation.max_new_tokens (64) leaves no room for a prompt in data.max_length (64)", "raise the other"],
        ),
        ({"seed": -1}, ["seed"]),
        ({"seed": 2**63}, ["seed"]),
    ],
)
def test_what_does_not_fit_is_refused_by_field_and_remedy(sections, words):
    message = refused(job_document(**sections))
    for word in words:
        assert word in message


def test_every_field_that_is_wrong_is_named_at_once():
    message = refused(job_document(method={"rank": 0}, local={"steps": 0}, extra=1))
    assert len(message.split("; ")) >= 3
    for field in ("method.rank", "local.steps", "extra"):
        assert f"{field}: " in message


def test_an_answer_is_short_and_printable_whatever_was_sent():
    message = refused(job_document(**{f"key{i}": 1 for i in range(10_000)}))
    assert message.endswith("document: 9950 more; correct these first")
    assert len(message) < 5000
    assert refused(job_document(**{"\x1b[2J": 1, "k" * 10_000: 1})).startswith(r"\x1b[2J: unknown key")


def test_findings_come_as_rows():
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(job_document(method={"ranks": 1}))
    assert explain(caught.value) == [
        {"field": "method.ranks", "problem": "unknown key; remove it or check its spelling (did you mean rank?)"}
    ]


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_a_document_that_is_no_mapping_is_refused(document):
    assert "document: " in refused(document)


def test_a_spec_does_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        a_spec().seed = 3


@pytest.mark.parametrize(
    ("min_clients", "goal", "over", "cohort"), [(2, None, 1.0, 2), (2, 10, 1.0, 10), (2, 10, 1.1, 11), (3, 5, 1.25, 7)]
)
def test_the_cohort_is_the_goal_and_some_more(min_clients, goal, over, cohort):
    rounds = RoundsSpec(min_clients=min_clients, goal_clients=goal, over_selection=over)
    assert rounds.goal == (goal or min_clients)
    assert rounds.cohort_size == cohort


def test_label_names_say_how_many_classes_there_are():
    spec = a_spec(model={"source": "m", "num_labels": None, "label_names": ["a", "b", "c"]})
    assert spec.model.labels == 3
    assert a_spec().model.labels == 2
    assert a_spec(model={"task": "image-classification"}).model.labels == 2
    assert a_spec(model={"num_labels": None, "task": "causal-lm"}).model.labels == 0


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"num_labels": 1}, "regression"),
        ({"num_labels": 3, "problem": "regression"}, "regression"),
        ({"num_labels": 3}, "single_label"),
        ({"num_labels": 2, "problem": "multi_label"}, "multi_label"),
        ({"num_labels": 1, "task": "image-classification"}, "regression"),
        ({"num_labels": 2, "task": "token-classification"}, "single_label"),
        ({"task": "seq2seq-lm"}, None),
    ],
)
def test_a_single_label_is_a_number_and_others_are_classes(model, expected):
    assert a_spec(model={"num_labels": None, **model}).model.problem_type == expected


def test_answers_of_an_encoder_and_decoder_need_no_room_beside_the_prompt():
    sections = {"data": {"max_length": 64}, "evaluation": {"exact_match": "text", "max_new_tokens": 64}}
    assert a_spec(model={"num_labels": None, "task": "seq2seq-lm"}, **sections).evaluation.max_new_tokens == 64


@pytest.mark.parametrize(("every", "expected"), [(0, [4]), (1, [0, 1, 2, 3, 4]), (3, [0, 3, 4])])
def test_the_final_model_is_always_evaluated(every, expected):
    spec = a_spec(rounds={"count": 4}, evaluation={"every": every})
    assert [version for version in range(5) if spec.evaluates(version)] == expected


# --- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["job.yaml", "job.yml", "job.json"])
def test_jobs_are_read_from_yaml_and_json(tmp_path, name):
    path = tmp_path / name
    document = job_document()
    path.write_text(json.dumps(document) if name.endswith("json") else yaml.safe_dump(document), encoding="utf-8")
    assert load(path) == parse(document)


def test_numbers_in_yaml_may_be_written_with_an_exponent_alone(tmp_path):
    """YAML 1.1 reads `1e-3` as text."""
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job_document()).replace("learning_rate: 0.001", "learning_rate: 1e-3"))
    assert load(path).local.learning_rate == 0.001


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("job.yaml", b"name: [", ["not valid YAML"]),
        ("job.json", b"{name: 1}", ["not valid JSON"]),
        ("job.yaml", b"name: &a a\nmodel: *a", ["not valid YAML", "line 2, column 8: aliases"]),
        ("job.yaml", b"name: a\nname: b", ["not valid YAML", "'name' is given twice"]),
        ("job.yaml", b"name: !!bool x", ["not valid YAML", "does not fit its tag"]),
        ("job.json", b'{"name": 1, "name": 2}', ["not valid JSON", "'name' is given twice"]),
        ("job.json", b"[" * 100_000, ["not valid JSON", "nested too deeply"]),
        ("job.yaml", b"- a\n- b\n", ["a job is a mapping"]),
        ("job.yaml", b"", ["a job is a mapping"]),
        ("job.json", b"null", ["a job is a mapping"]),
        ("job.yaml", b"\xff\xfe\x00", ["not valid YAML"]),
        ("job.yaml", b"name: a\n", ["model: is missing; give a mapping", "data: is missing; give"]),
    ],
)
def test_files_that_are_no_jobs_are_refused(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        load(path)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SpecError, match=r"absent\.yaml: cannot be read"):
        load(tmp_path / "absent.yaml")


def sections(model: type[Strict], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each field below a section that holds plain values, with its path and its type."""
    for name, field in model.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        found = [kind for kind in inner if get_origin(kind) is None and issubclass(kind, Strict)]
        if found:
            yield from sections(found[0], (*path, name))
        else:
            yield (*path, name), field.annotation


FIELDS = [(None, path, kind) for path, kind in sections(JobSpec) if path[0] != "method"] + [
    (method, ("method", *path), kind) for method, face in methods().items() for path, kind in sections(face.spec)
]


def holds(kind: Any) -> set[type]:
    """Whether numbers, truth values or texts may stand in a field."""
    if get_origin(kind) is Literal:
        return set(map(type, get_args(kind)))
    inner = get_args(kind)[1:] if get_origin(kind) is dict else get_args(kind)
    return set().union(*map(holds, inner)) if inner else {kind}


@pytest.mark.parametrize("value", [True, "2", [True], ["2"], {"a": "2"}, 2], ids=str)
def test_a_field_takes_values_of_its_kind_alone(value: Any) -> None:
    looked_at = 0
    plain = next(iter(value.values())) if isinstance(value, dict) else value[0] if isinstance(value, list) else value
    for method, path, kind in FIELDS:
        takes = holds(kind)
        if type(plain) in takes or (type(plain) is int and float in takes) or not takes & {bool, int, float, str}:
            continue
        document = job_document() | ({"method": {"kind": method}} if method else {})
        section = reduce(lambda inner, name: inner.setdefault(name, {}), path[:-1], document)
        section[path[-1]] = value
        with pytest.raises(
            SpecError, match=rf"{re.escape('.'.join(path))}[a-z_.0-9]*: .*(write|quotes|balanced|one of|give)"
        ):
            parse(document)
        looked_at += 1
    assert looked_at > 10


@pytest.mark.parametrize(
    ("section", "field", "value", "words"),
    [
        ("model", "num_labels", True, "model.num_labels: true is a truth value; write a number in digits"),
        ("model", "num_labels", "2", "model.num_labels: '2' is text; write a number in digits, without quotes"),
        ("local", "betas", [0.9, "0.9"], "local.betas: '0.9' is text; write a number"),
        ("local", "group_by_length", 1, "local.group_by_length: 1 is a number; write true or false"),
        ("method", "rank_pattern", {"a": True}, "method.rank_pattern: true is a truth value; write a number"),
        ("data", "name", 2024, "data.name: 2024 is a number; put it in quotes"),
        ("local", "learning_rate", 10**400, "local.learning_rate: "),
    ],
)
def test_a_value_of_another_kind_is_refused_with_the_right_form(section, field, value, words) -> None:
    document = job_document()
    document[section] = {**document[section], field: value}
    with pytest.raises(SpecError) as caught:
        parse(document)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_whole_number_may_have_a_point() -> None:
    spec = a_spec(model={"num_labels": 2.0}, local={"steps": 3, "batch_size": 5, "learning_rate": 1})
    assert (spec.model.num_labels, spec.local.learning_rate) == (2, 1.0)
    assert type(spec.model.num_labels) is int
