"""One client's round on real (tiny) models, and the evaluation of what came of it."""

import shutil

import pytest
import torch
from transformers import AutoTokenizer, OPTConfig, OPTForCausalLM

from fedgalore.data.batches import batches
from fedgalore.data.sample import evaluated
from fedgalore.deltas import decoded
from fedgalore.evaluation import evaluate
from fedgalore.maths.compression import rounded
from fedgalore.maths.projector import orient
from fedgalore.maths.seeding import derive_seed
from fedgalore.model.inputs import TaskError
from fedgalore.model.probe import probe
from fedgalore.model.task import TaskModel
from fedgalore.rounds import Start
from fedgalore.spec.layout import kept_tensors, state_tensors, update_tensors
from fedgalore.training import TrainingError, TrainingStopped
from tests.builders import a_spec
from tests.fedgalore.conftest import questions, sentences
from tests.fedgalore.rounds import an_update


def classifier(**sections):
    defaults = {
        "model": {"source": "m", "num_labels": 3},
        "method": {"rank": 4},
        "local": {"steps": 4, "batch_size": 4, "learning_rate": 1e-2},
    }
    merged = {name: {**defaults.get(name, {}), **values} for name, values in sections.items()}
    return a_spec(**{**defaults, **merged})


def language_model(**sections):
    return classifier(**sections, model={"source": "m", "task": "causal-lm", "num_labels": None})


@pytest.fixture
def bert(tiny_bert):
    return TaskModel.load(classifier(), tiny_bert)


def update_from(folder, spec, client="a", number=1, state=None, **options):
    """The task after one round, its weights before it, and the update."""
    task = TaskModel.load(spec, folder)
    before = task.weights()
    data = sentences(12, 1) if spec.model.task == "sequence-classification" else questions(12, 1)
    return task, before, an_update(task, spec, data, client, number, Start(before, state or {}), **options)


def a_state(spec, plan, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = {name: tensor.quantization for name, tensor in state_tensors(spec, plan, 1).items()}
    drawn = {name: torch.rand(code.shape, generator=generator) for name, code in codes.items() if code is not None}
    values = {n: torch.linalg.qr(t)[0] if n.endswith("/reference") else 1e-2 * t.sqrt() for n, t in drawn.items()}
    return {name: rounded(value, codes[name]).wire for name, value in values.items()}


@pytest.mark.slow
@pytest.mark.parametrize("gap", [1, 3, 200])
@pytest.mark.parametrize("task", [classifier, language_model])
def test_an_update_gives_back_the_weights_that_the_client_ended_with(tiny_bert, tiny_gpt2, task, gap):
    spec = task(method={"rank": 4, "update_proj_gap": gap, "complement": 0}, local={"steps": 5, "weight_decay": 0.5})
    folder = tiny_bert if task is classifier else tiny_gpt2
    trained, before, update = update_from(folder, spec)
    after = trained.weights()
    assert update.decay == pytest.approx((1 - 1e-2 * 0.5) ** 5)
    for target in trained.plan.targets:
        total = update.decay * orient(before[target.name]).double()
        for j in range(-(-5 // gap)):
            total = total + (
                update.tensors[f"{target.name}/basis.{j}"].double()
                @ update.tensors[f"{target.name}/factor.{j}"].double()
            )
        torch.testing.assert_close(orient(after[target.name]).double(), total, rtol=1e-5, atol=1e-6)
        assert not torch.equal(after[target.name], before[target.name])
    for item in trained.plan.dense:
        torch.testing.assert_close(after[item.name], before[item.name] + update.tensors[f"{item.name}/delta"])


@pytest.mark.parametrize(("task", "bits"), [(classifier, 32), (classifier, 4), (language_model, 8)])
def test_what_an_update_leaves_out_is_kept_and_goes_with_the_next_update(tiny_bert, tiny_gpt2, task, bits):
    """Weights after = decay x (weights before - what was kept before) + what was sent + what is kept, but for the bits
    that it is kept in."""
    spec = task(method={"rank": 2}, wire={"up_rank": 3, "bits": bits}, local={"steps": 5, "weight_decay": 0.5})
    folder = tiny_bert if task is classifier else tiny_gpt2
    data = sentences(12, 1) if task is classifier else questions(12, 1)
    trained = TaskModel.load(spec, folder)
    residues = {target.name: torch.zeros(target.d, target.k) for target in trained.plan.targets}
    heads = {item.name: torch.zeros(item.shape) for item in trained.plan.dense}
    kept = {}
    for number in (1, 2, 3):
        before = trained.weights()
        update = an_update(trained, spec, data, "a", number, Start(before, {}, kept))
        after, kept = trained.weights(), update.kept
        read = decoded(update.tensors.__getitem__, update_tensors(spec, trained.plan, "a", number))
        read_kept = decoded(kept.__getitem__, kept_tensors(spec, trained.plan, "a"))

        def rounding(left_out, kept_in):
            return 1e-6 + (0 if bits == 32 else float(left_out.abs().max()) / (2**kept_in - 2))

        for name, old in heads.items():
            heads[name] = read_kept(f"{name}/residue") if f"{name}/residue" in kept else old
            whole = before[name] - old + read(f"{name}/delta") + heads[name]
            torch.testing.assert_close(after[name], whole, rtol=1e-5, atol=rounding(heads[name], 8))
            assert heads[name].any() == (bits != 32 and heads[name].numel() > 32)
        for name, old in residues.items():
            sent = read(f"{name}/left").double() @ read(f"{name}/right").double()
            residues[name] = read_kept(f"{name}/residue")
            whole = update.decay * (orient(before[name]).double() - old.double()) + sent + residues[name].double()
            torch.testing.assert_close(
                orient(after[name]).double(), whole, rtol=1e-5, atol=rounding(residues[name], bits)
            )
            assert residues[name].norm() > 0.01 * (after[name] - before[name]).norm()  # three directions do not hold it


def test_nothing_but_the_plan_is_trained(tiny_bert):
    spec = classifier()
    before = dict(TaskModel.load(spec, tiny_bert).model.state_dict())
    task, _, _ = update_from(tiny_bert, spec)
    changed = {name for name, tensor in task.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == set(task.plan.weights())


def test_at_full_rank_a_first_round_is_torch_adamw(tiny_bert):
    """The whole path: same batches, same dropout, every trained weight."""
    spec = classifier(
        method={"rank": 32, "update_clip": None},
        local={"steps": 8, "learning_rate": 2e-3, "head_learning_rate": 1e-2, "weight_decay": 0.1},
    )
    task, _, _ = update_from(tiny_bert, spec, "site")
    other = TaskModel.load(spec, tiny_bert)
    optimizer = torch.optim.AdamW(
        [
            {"params": [weight for weight, _ in other.targets().values()]},
            {"params": list(other.dense().values()), "lr": 1e-2},
        ],
        lr=2e-3,
        weight_decay=0.1,
    )
    torch.manual_seed(derive_seed(spec.seed, "dropout", "site", 1))
    other.model.train()
    for chosen in batches(sentences(12, 1), spec, "site", 1):
        optimizer.zero_grad()
        other.loss(other.collate(chosen))[0].backward()
        optimizer.step()
    # Adam's first steps are +-lr whatever the gradient's size, so rounding in gradients near 0 shows a little
    for name, expected in other.weights().items():
        torch.testing.assert_close(task.weights()[name], expected, rtol=1e-3, atol=5e-5)


@pytest.mark.slow
def test_an_update_hangs_on_seed_client_round_and_state_alone(tiny_bert):
    spec = classifier()
    state = a_state(spec, TaskModel.load(spec, tiny_bert).plan)

    def tensors(client="a", number=1, state=None, seed=0):
        chosen = classifier(seed=seed) if seed else spec
        torch.manual_seed(number + len(client))  # what the process drew before must not matter
        return update_from(tiny_bert, chosen, client, number, state)[2].tensors

    first, again = tensors(), tensors()
    assert all(torch.equal(first[name], again[name]) for name in first)
    others = [tensors("b"), tensors(number=2), tensors(state=state)]
    for other in others:
        assert not torch.equal(first["classifier.weight/delta"], other["classifier.weight/delta"])


@pytest.mark.slow
def test_prior_steps_of_none_and_zero_differ_in_what_the_state_counts_for(tiny_bert):
    plan = TaskModel.load(classifier(), tiny_bert).plan
    state = a_state(classifier(), plan)
    name = f"{plan.targets[0].name}/rms"
    reset = update_from(tiny_bert, classifier())[2].tensors
    ignored = update_from(tiny_bert, classifier(method={"prior_steps": 0}), state=state)[2].tensors
    assert all(torch.equal(reset[n], ignored[n]) for n in reset)
    trusted = update_from(tiny_bert, classifier(method={"prior_steps": None}), state=state)[2].tensors
    told = [decoded(sent.__getitem__, update_tensors(classifier(), plan, "a", 1))(name) for sent in (trusted, reset)]
    assert told[0].square().mean() > 3 * told[1].square().mean()


def test_metrics_tell_of_the_steps_taken(bert):
    seen = []
    update = an_update(
        bert, bert.spec, sentences(12, 1), "a", 1, Start(bert.weights()), lambda *step: not seen.append(step)
    )
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    losses = [loss for _, loss in seen]
    assert update.num_examples == 12
    assert update.metrics["steps"] == 4
    assert update.metrics["train_loss"] == pytest.approx(sum(losses) / 4)
    assert "last_loss" not in update.metrics  # of a batch that may be one example
    assert update.metrics["train_accuracy"] in [i / 16 for i in range(17)]
    assert update.metrics["learning_rate"] == 1e-2
    falling = classifier(local={"schedule": "linear", "steps": 1}, rounds={"count": 4})
    update = an_update(bert, falling, sentences(4, 1), "a", 2, Start(bert.weights()))
    assert update.metrics["learning_rate"] == 0.75e-2


def test_training_stops_when_asked_to_and_can_start_again(tiny_bert, bert):
    steps = []

    def stop_after_two(step, loss):
        steps.append(step)
        return step < 2

    start = bert.weights()
    with pytest.raises(TrainingStopped):
        an_update(bert, bert.spec, sentences(12, 1), "a", 1, Start(start), stop_after_two)
    assert steps == [1, 2]
    assert not torch.equal(start["classifier.weight"], bert.weights()["classifier.weight"])
    bert.loss(bert.collate(sentences(2, 0)))[0].backward()
    assert all(weight.grad is not None for weight, _ in bert.targets().values())  # no hook is left that frees it
    bert.model.zero_grad()
    again = an_update(bert, bert.spec, sentences(12, 1), "a", 1, Start(start))
    fresh = update_from(tiny_bert, bert.spec)[2]
    assert all(torch.equal(again.tensors[name], fresh.tensors[name]) for name in again.tensors)


def test_a_step_in_which_all_layers_are_dropped_changes_nothing(tiny_gpt2, tmp_path):
    shutil.copytree(tiny_gpt2, folder := tmp_path / "opt", ignore=shutil.ignore_patterns("model.*", "*ion_config.json"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"vocab_size": 40, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 16, "num_hidden_layers": 2}
        config = OPTConfig(**sizes, num_attention_heads=2, max_position_embeddings=32, layerdrop=0.5, eos_token_id=3)
        OPTForCausalLM(config).save_pretrained(folder)
    local = {"steps": 4, "batch_size": 2, "weight_decay": 0.1}
    task = TaskModel.load(language_model(local=local), folder)
    probe(task)
    examples, start = questions(6, 0), task.weights()
    ended = []
    for drop in (0.5, 0.5, 1.0):
        task.model.model.decoder.layerdrop = drop
        update = an_update(task, task.spec, examples, "a", 1, Start(start))
        ended.append(task.weights())
    assert update.decay == 1
    for name, weight in start.items():
        assert torch.equal(ended[0][name], ended[1][name])
        torch.testing.assert_close(ended[2][name], weight)
    assert any(not torch.equal(ended[0][name], weight) for name, weight in start.items())
    with pytest.raises(TaskError, match="in 16 tries the loss depends on no weight that is trained"):
        probe(task)


def test_a_loss_that_is_no_number_ends_training(bert):
    with torch.no_grad():
        bert.model.classifier.bias[0] = torch.nan
    with pytest.raises(
        TrainingError, match=r"nan at step 1 of round 3, and the weights .* before any training; look at"
    ):
        an_update(bert, bert.spec, sentences(12, 1), "a", 3, Start(bert.weights()))


def test_a_row_that_gives_no_number_with_the_received_weights_is_named_at_any_step(bert, tiny_bert):
    examples = [{**example, "row": row} for row, example in enumerate(sentences(12, 1), start=5)]
    seen = {token for example in examples for token in bert.collate([example])["input_ids"][0].tolist()}
    unseen = max(set(range(bert.model.config.vocab_size)) - seen)
    with torch.no_grad():
        bert.model.bert.embeddings.word_embeddings.weight[unseen] = torch.nan
    examples[7]["text"] = AutoTokenizer.from_pretrained(tiny_bert).decode([unseen])
    with pytest.raises(TrainingError, match=r"^row 12: the loss became nan at step . of round 1, .* look at the row"):
        an_update(bert, bert.spec, examples, "a", 1, Start(bert.weights()))


def test_the_rate_is_blamed_where_the_received_weights_give_numbers(bert):
    calls = []

    def spoil(module, inputs, output):
        calls.append(0)
        return output * torch.nan if len(calls) == 3 else output

    handle = bert.model.classifier.register_forward_hook(spoil)
    with pytest.raises(
        TrainingError, match=r"the loss became nan at step 3 of round 1; lower local\.learning_rate, or"
    ):
        an_update(bert, bert.spec, sentences(12, 1), "a", 1, Start(bert.weights()))
    handle.remove()


@pytest.mark.slow
@pytest.mark.parametrize("gap", [1, 200])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("at_step", [1, 4])
def test_a_gradient_that_is_no_number_ends_training(bert, gap, bad, at_step):
    """The gradient may show in the search for a basis, in the next loss, or in the update at the end."""
    spec = classifier(method={"rank": 4, "update_proj_gap": gap})
    calls = []

    def spoil(gradient):
        calls.append(0)
        return gradient * bad if len(calls) == at_step else gradient

    handle = bert.model.bert.encoder.layer[0].intermediate.dense.weight.register_hook(spoil)
    with pytest.raises(TrainingError, match=r"infinite or NaN|became nan"):
        an_update(bert, spec, sentences(12, 1), "a", 1, Start(bert.weights()))
    handle.remove()


def test_a_kept_state_that_is_no_number_ends_training(bert):
    """The squared gradient overflows, though the update stays finite. The next round must not start from that state."""
    spec = classifier(method={"rank": 4, "state_sync": "local", "complement": 0}, local={"steps": 1})
    weight = bert.model.bert.encoder.layer[0].intermediate.dense.weight
    handle = weight.register_hook(lambda gradient: gradient * 1e25)
    name = r"bert\.encoder\.layer\.0\.intermediate\.dense\.weight/second_moment"
    with pytest.raises(TrainingError, match=rf"^{name} became infinite or NaN in round 2; lower local\.learning_rate"):
        an_update(bert, spec, sentences(12, 1), "a", 2, Start(bert.weights()))
    handle.remove()


def test_data_that_does_not_fit_is_refused_before_any_step(bert):
    before = bert.weights()
    for examples in ([], questions(4, 0), [{"row": 9, "text": "rain", "text_pair": None, "label": 3}]):
        with pytest.raises(TaskError):
            an_update(bert, bert.spec, examples, "a", 1, Start(before))
        with pytest.raises(TaskError):
            evaluate(bert, examples)
    assert all(torch.equal(tensor, before[name]) for name, tensor in bert.weights().items())


def test_half_precision_is_of_the_passes_not_of_the_update(tiny_bert):
    spec = classifier(local={"precision": "bfloat16"})
    _, _, update = update_from(tiny_bert, spec)
    exact = update_from(tiny_bert, classifier())[2]
    assert {name: tensor.dtype for name, tensor in update.tensors.items()} == {
        name: tensor.dtype for name, tensor in exact.tensors.items()
    }
    assert update.metrics["train_loss"] == pytest.approx(exact.metrics["train_loss"], rel=0.02)
    assert update.metrics["train_loss"] != exact.metrics["train_loss"]


# --- evaluation ----------------------------------------------------------------------------------------------


def test_evaluation_does_not_hang_on_batches_order_or_chance(bert):
    bert.model.train()
    examples = sentences(25, 2)
    results = [
        evaluate(bert.under(classifier(evaluation={"batch_size": size})), chosen).metrics
        for size, chosen in ((64, examples), (7, examples[::-1]), (1, examples))
    ]
    for result in results[1:]:
        assert result["accuracy"] == results[0]["accuracy"]
        assert result["loss"] == pytest.approx(results[0]["loss"], rel=1e-5)


def test_evaluation_is_the_mean_over_examples(bert):
    examples = sentences(5, 2)
    bert.model.eval()
    with torch.no_grad():
        single_results = [bert.loss(bert.collate([e])) for e in examples]
    result = evaluate(bert, examples).metrics
    assert result["loss"] == pytest.approx(float(sum(loss for loss, _, _ in single_results)) / 5, rel=1e-5)
    assert result["accuracy"] == sum(right for _, _, right in single_results) / 5


def test_evaluation_of_a_language_model_counts_answer_tokens(tiny_gpt2):
    spec = language_model(evaluation={"batch_size": 3})
    task = TaskModel.load(spec, tiny_gpt2)
    examples = [*questions(5, 2), {"prompt": "the", "completion": "music food today"}]
    task.model.eval()
    with torch.no_grad():
        singles = [task.loss(task.collate([e])) for e in examples]
    tokens = sum(count for _, count, _ in singles)
    assert tokens == 5 * 2 + 4
    expected = sum(float(loss) * count for loss, count, _ in singles) / tokens
    assert evaluate(task.under(spec), examples).metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_evaluation_takes_at_most_as_many_examples_as_the_job_says(bert):
    examples = sentences(20, 2)
    spec = classifier(evaluation={"max_examples": 6})
    six = evaluate(bert, evaluated(examples, spec))
    assert evaluate(bert.under(spec), examples) == six
    assert evaluate(bert, examples) != six


def test_evaluation_stops_when_asked_to(bert):
    answers = iter([True, True, False])
    with pytest.raises(TrainingStopped):
        evaluate(bert.under(classifier(evaluation={"batch_size": 2})), sentences(20, 2), lambda: next(answers))
    assert next(answers, None) is None
