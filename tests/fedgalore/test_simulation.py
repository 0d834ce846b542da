"""Whole federations in one process on tiny models."""

import pytest
import safetensors.torch
import torch
import transformers
from sklearn import metrics as judge

from fedgalore.evaluation import evaluate
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from fedgalore.rounds import Start
from fedgalore.selection import choose_cohort
from fedgalore.simulation import Site, simulate
from tests.builders import a_spec
from tests.fedgalore.conftest import configure, image_classifier, language_model, questions, sentences, squares
from tests.fedgalore.rounds import a_round, aggregated, an_update, clients_of

MODEL = {"source": "m", "num_labels": 3}


def classifier(**sections):
    defaults = {
        "model": MODEL,
        "method": {"rank": 4},
        "rounds": {"count": 2, "min_clients": 3},
        "local": {"steps": 3, "batch_size": 8, "learning_rate": 5e-3},
    }
    merged = {name: {**defaults.get(name, {}), **values} for name, values in sections.items() if name != "seed"}
    seed = {"seed": sections["seed"]} if "seed" in sections else {}
    return a_spec(**{**defaults, **merged}, **seed)


def three_sites(examples: int = 40) -> list[Site]:
    """Each lacks a class."""
    pairs = {"north": ("weather", "music"), "south": ("music", "food"), "west": ("food", "weather")}
    return [
        Site(name, sentences(examples, i, classes), sentences(20, 50 + i))
        for i, (name, classes) in enumerate(pairs.items())
    ]


def accuracy(record) -> float:
    return sum(metrics["accuracy"] for metrics in record.evaluation.values()) / len(record.evaluation)


def loss(record) -> float:
    return sum(metrics["loss"] for metrics in record.evaluation.values()) / len(record.evaluation)


EXACTLY = {"bits": 32, "down_rank": 0}


def same_bits(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [{}, {"state_sync": "average", "update_proj_gap": 2}, {"state_sync": "reset"}],
    ids=str,
)
def test_a_federation_learns_what_no_client_could_alone(tiny_bert, method):
    spec = classifier(method=method, rounds={"count": 8}, local={"steps": 5, "learning_rate": 1e-2})
    result = simulate(spec, tiny_bert, three_sites())
    assert [record.number for record in result.rounds] == list(range(1, 10))
    assert [record.model_version for record in result.rounds] == list(range(9))
    assert accuracy(result.rounds[0]) < 0.6
    assert accuracy(result.rounds[-1]) > 0.9
    assert loss(result.rounds[-1]) < 0.3 * loss(result.rounds[0])
    assert result.rounds[-1].training == {}
    if method.get("state_sync", "ajive") == "ajive":
        assert any(record.statistics["joint_rank"] > 0 for record in result.rounds[:-1])
        for record in result.rounds[:-1]:
            assert 0 <= record.statistics["joint_rank"] <= 4
            assert 0 <= record.statistics["explained_share"] <= 1 + 1e-9


@pytest.mark.slow
def test_a_simulation_keeps_the_best_version_and_ends_when_none_becomes_better(tiny_bert):
    keep = {"metric": "loss", "patience": 2, "min_delta": 10.0}  # no improvement is that great
    spec = classifier(rounds={"count": 9}, evaluation={"keep": keep})
    result = simulate(spec, tiny_bert, three_sites())
    losses = [loss(record) for record in result.rounds]  # the sites have as many examples each
    assert [(record.model_version, bool(record.training)) for record in result.rounds] == [
        *((version, True) for version in range(3)),
        (3, False),
    ]
    assert (result.best.version, result.best.value) == (losses.index(min(losses)), pytest.approx(min(losses)))
    longest = simulate(classifier(rounds={"count": 3}), tiny_bert, three_sites())
    assert same_bits(result.weights, longest.weights)
    assert longest.best is longest.best_weights is None
    shorter = simulate(classifier(rounds={"count": result.best.version}), tiny_bert, three_sites())
    assert same_bits(result.best_weights, shorter.weights)


@pytest.mark.slow
def test_a_language_model_learns_answers_from_prompts(tiny_gpt2):
    model = {"source": "m", "task": "causal-lm", "num_labels": None}
    spec = classifier(model=model, rounds={"count": 8, "min_clients": 2}, local={"steps": 6, "learning_rate": 1e-2})
    sites = [Site(f"site-{i}", questions(40, i), questions(20, 50 + i)) for i in range(2)]
    result = simulate(spec, tiny_gpt2, sites)
    assert accuracy(result.rounds[0]) < 0.3
    assert accuracy(result.rounds[-1]) > 0.9


@pytest.mark.slow
def test_images_are_classified_by_what_the_sites_learn(tiny_vit, tmp_path):
    local = {"steps": 6, "batch_size": 8, "learning_rate": 1e-2}
    spec = image_classifier(rounds={"count": 6, "min_clients": 2}, local=local)
    known = {"north": ("red", "green"), "south": ("green", "blue")}
    sites = [
        Site(name, squares(tmp_path / name / "train", 30, i, colours), squares(tmp_path / name / "test", 20, 9 + i))
        for i, (name, colours) in enumerate(known.items())
    ]
    result = simulate(spec, tiny_vit, sites)
    assert accuracy(result.rounds[0]) < 0.6
    assert accuracy(result.rounds[-1]) > 0.9
    assert same_bits(result.weights, simulate(spec, tiny_vit, sites).weights)


@pytest.mark.slow
def test_a_run_repeats_bit_for_bit_whatever_the_order_of_sites(tiny_bert):
    spec = classifier()
    sites = three_sites()
    first, again, shuffled = (simulate(spec, tiny_bert, order) for order in (sites, sites, sites[::-1]))
    for other in (again, shuffled):
        assert same_bits(first.weights, other.weights)
        assert first.rounds == other.rounds
    assert not same_bits(first.weights, simulate(classifier(seed=1), tiny_bert, sites).weights)


@pytest.mark.parametrize("method", [{}, {"update_proj_gap": 2, "complement": 0}], ids=str)
@pytest.mark.slow
def test_rounds_are_the_ones_put_together_by_hand(tiny_bert, method):
    """Each client starts from the last weights and state and what it kept, the server from its residue."""
    spec = classifier(method=method, rounds={"count": 3}, local={"weight_decay": 0.1}, evaluation={"every": 0})
    sites = three_sites()
    task = TaskModel.load(spec, tiny_bert)
    weights, state, residue = task.weights(), {}, {}
    kept = {site.name: {} for site in sites}
    for number in (1, 2, 3):
        updates = {}
        for site in sites:
            start = Start(weights, state, kept[site.name])
            updates[site.name] = an_update(task, spec, site.train, site.name, number, start)
            kept[site.name] = updates[site.name].kept
        result = aggregated(task.plan, a_round(spec, clients_of(updates), weights, state, residue, number))
        weights, state, residue = result.weights, result.state, result.residue
    assert same_bits(simulate(spec, tiny_bert, sites).weights, weights)


@pytest.mark.slow
def test_the_task_ends_with_the_final_weights_and_rounds_are_reported_as_they_end(tiny_bert):
    reported = []
    result = simulate(classifier(), tiny_bert, three_sites(), on_round=reported.append)
    trained = result.task.weights()
    assert same_bits(trained, {name: result.weights[name] for name in trained})
    assert reported == result.rounds


@pytest.mark.slow
def test_cohorts_are_those_that_the_coordinator_would_choose(tiny_bert):
    spec = classifier(rounds={"count": 3, "min_clients": 2})
    sites = three_sites()
    records = simulate(spec, tiny_bert, sites).rounds
    names = [site.name for site in sites]
    for record in records[:-1]:
        chosen = choose_cohort(names, 2, spec.seed, record.number)
        assert tuple(record.training) == tuple(record.evaluation) == chosen
    assert sorted(records[-1].evaluation) == sorted(names)


@pytest.mark.slow
def test_models_are_evaluated_when_the_job_says_so(tiny_bert):
    spec = classifier(rounds={"count": 3}, evaluation={"every": 2, "split": "train"})
    sites = [Site(site.name, site.train) for site in three_sites()]
    records = simulate(spec, tiny_bert, sites).rounds
    assert [bool(record.evaluation) for record in records] == [True, False, True, True]


@pytest.mark.slow
def test_what_unequal_sites_measure_is_of_one_test_set(tiny_bert):
    names = ["f1", "mcc", "auroc", "confusion_matrix"]
    evaluation = {"central": "whole", "keep": {"metric": "f1", "by": "central"}}
    spec = classifier(rounds={"count": 1}, evaluation={"metrics": names, "batch_size": 7, **evaluation})
    tests = {"north": sentences(31, 70, ("weather",)), "south": sentences(12, 71), "west": sentences(1, 72)}
    sites = [Site(site.name, site.train, tests[site.name]) for site in three_sites()]
    whole = [example for test in tests.values() for example in test]
    result = simulate(spec, tiny_bert, sites, held_out={"whole": whole})
    last = result.rounds[-1]
    assert last.pooled.metrics == pytest.approx(last.held_out["whole"].metrics, rel=1e-6)
    assert result.best is not None
    assert (result.best.by, result.best.value) == (
        "central",
        max(record.held_out["whole"].metrics["f1"] for record in result.rounds),
    )
    with pytest.raises(ValueError, match="central goes by held-out examples, and there are none"):
        simulate(spec, tiny_bert, sites)
    with torch.no_grad():
        outputs = [result.task.outputs(result.task.collate([example])).logits for example in whole]
    guesses = torch.cat(outputs).argmax(1).tolist()
    targets = [example["label"] for example in whole]
    assert last.pooled.metrics["f1"] == pytest.approx(judge.f1_score(targets, guesses, average="macro"))
    assert last.pooled.metrics["f1"] != pytest.approx(
        sum(each["f1"] for each in last.evaluation.values()) / 3, abs=0.01
    )
    assert last.pooled.confusion_matrix == judge.confusion_matrix(targets, guesses, labels=[0, 1, 2]).tolist()
    assert "mcc" not in last.evaluation["west"] and "mcc" in last.pooled.metrics


def test_sites_count_by_their_examples(tiny_bert):
    """Beside a thousand times the data, a client hardly moves the mean, where the job asks for that."""
    few, many = sentences(1, 0), sentences(1, 1) * 1000
    spec = classifier(
        rounds={"count": 1, "min_clients": 2},
        method={"state_sync": "reset"},
        server={"max_weight": None},
        wire=EXACTLY,
    )
    both = simulate(spec, tiny_bert, [Site("few", few), Site("many", many)]).weights
    alone = spec.model_copy(update={"rounds": spec.rounds.model_copy(update={"min_clients": 1})})
    expected = simulate(alone, tiny_bert, [Site("many", many)]).weights
    for name, tensor in both.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=2e-4)


def test_equal_clients_are_like_a_single_client(bert_copy):
    """A client's random choices hang on its name: full rank, no dropout and one batch of everything leave none."""
    configure(bert_copy, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    data = sentences(8, 0)

    def run(count: int) -> dict[str, torch.Tensor]:
        spec = classifier(
            method={"rank": 32, "state_sync": "reset"},
            wire=EXACTLY,
            rounds={"count": 3, "min_clients": count},
            local={"steps": 2, "batch_size": 8, "eps": 1e-4},
        )
        return simulate(spec, bert_copy, [Site(f"site-{i}", data) for i in range(count)]).weights

    single, four = run(1), run(4)
    for name, tensor in single.items():
        torch.testing.assert_close(four[name], tensor, rtol=1e-3, atol=1e-4)


def test_jobs_that_cannot_run_are_refused(tiny_bert):
    with pytest.raises(ValueError, match=r"rounds.min_clients is 3, but there are 2 clients"):
        simulate(classifier(), tiny_bert, three_sites()[:2])
    sites = three_sites()
    sites[1] = Site("south", [{"row": 8, "text": "rain", "text_pair": None, "label": 5}])
    with pytest.raises(TaskError, match="row 8: label 5 is outside the range"):
        simulate(classifier(evaluation={"every": 0}), tiny_bert, sites)


def test_a_model_that_cannot_be_trained_as_the_job_says_is_refused_before_any_round(tiny_gpt2, tmp_path):
    spec = language_model(rounds={"count": 1, "min_clients": 2})
    talk = [{"row": 1, "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    with pytest.raises(TaskError, match=r"^south: the model has no chat template, so that messages have no form; take"):
        simulate(spec, tiny_gpt2, [Site("north", questions(4, 0)), Site("south", talk)])
    tokens = transformers.AutoTokenizer.from_pretrained(tiny_gpt2)
    config = transformers.MambaConfig(vocab_size=len(tokens), hidden_size=8, state_size=4, num_hidden_layers=1)
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path)
    tokens.save_pretrained(tmp_path)
    spec = language_model(
        rounds={"count": 1, "min_clients": 1}, method={"kind": "fedit", "target_modules": ["out_proj"]}
    )
    with pytest.raises(TaskError, match=r"^method\.target_modules: PEFT puts no adapters there \(.*out_proj"):
        simulate(spec, tmp_path, [Site("north", questions(4, 0))])


def test_a_model_that_is_not_finite_is_refused_before_any_round(bert_copy):
    weights = safetensors.torch.load_file(bert_copy / "model.safetensors")
    weights["embeddings.LayerNorm.weight"][3] = torch.nan
    safetensors.torch.save_file(weights, bert_copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(TaskError, match=r"model\.source: the model fails on .* \(.*its answer is not a number\)"):
        simulate(classifier(), bert_copy, three_sites())


# --- buffers --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fedgalore", "fedavg", "fedit", "ffa_lora", "flora", "fedex_lora"])
def test_what_sites_measure_of_a_model_with_running_statistics_its_download_gives(tiny_levit, tmp_path, kind):
    rank = {} if kind == "fedavg" else {"rank": 4}
    spec = image_classifier(
        method={"kind": kind} | rank,
        rounds={"count": 2, "min_clients": 2},
        local={"steps": 3, "batch_size": 8, "learning_rate": 2e-3},
    )
    sites = [
        Site(name, squares(tmp_path / name / "train", 16 + 8 * i, i), squares(tmp_path / name / "test", 12, 9 + i))
        for i, name in enumerate(("north", "south"))
    ]
    result = simulate(spec, tiny_levit, sites)
    first = TaskModel.load(spec, tiny_levit).weights()
    variances = [name for name in first if name.endswith("running_var")]
    assert variances and not any(torch.equal(first[name], result.weights[name]) for name in variances)
    result.task.save(tmp_path / "model")
    download = TaskModel.load(spec, tmp_path / "model")
    counts = [name for name in first if name.endswith("num_batches_tracked")]
    assert {download.model.get_buffer(name).item() for name in counts} == {6}
    for site in sites:
        assert evaluate(download, site.test).metrics == result.rounds[-1].evaluation[site.name]


def test_statistics_of_the_data_are_refused_where_all_must_be_noisy(tiny_levit):
    spec = image_classifier(method={"kind": "fedavg"}, privacy={"clip_norm": 1.0, "noise_multiplier": 1.0})
    with pytest.raises(
        TaskError, match=r"^privacy: levit\.\S+ and \d+ more of LevitForImageClassification are statistics"
    ):
        TaskModel.load(spec, tiny_levit)


def test_a_job_in_bfloat16_learns_too_and_ends_with_a_model_in_float32(tiny_gpt2):
    narrow = {"steps": 5, "learning_rate": 1e-2, "weights": "bfloat16", "precision": "bfloat16"}
    spec = language_model(rounds={"count": 6}, local=narrow, evaluation={"every": 6})
    result = simulate(spec, tiny_gpt2, [Site(name, questions(24, n), questions(12, 9)) for n, name in enumerate("ab")])
    assert accuracy(result.rounds[-1]) > 0.9 > 2 * accuracy(result.rounds[0])
    assert {parameter.dtype for parameter in result.task.model.parameters()} == {torch.float32}
    assert same_bits(result.task.weights(), {name: result.weights[name] for name in result.task.plan.weights()})
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in result.task.weights().values())
