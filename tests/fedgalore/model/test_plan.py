"""What of a model is trained, by kind of layer: experts, convolutions, small matrices, all that fedavg finds."""

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from fedgalore.evaluation import evaluate
from fedgalore.model.inputs import TaskError
from fedgalore.model.layers import weights_of
from fedgalore.model.probe import probe
from fedgalore.model.remarks import remarks
from fedgalore.model.task import TaskModel
from fedgalore.simulation import Site, simulate
from fedgalore.spec.plan import Dense, Target, TrainingPlan
from tests.fedgalore.conftest import classifier, configure, image_classifier, language_model, questions, squares

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": 3,
    "eos_token_id": 3,
    "pad_token_id": 0,
}
MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
MIXTURES = {
    "mixtral": lambda base: transformers.MixtralConfig(**base, num_local_experts=4),
    "qwen2_moe": lambda base: transformers.Qwen2MoeConfig(
        **base, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, shared_expert_intermediate_size=12
    ),
    "olmoe": lambda base: transformers.OlmoeConfig(**base, num_experts=4, num_experts_per_tok=2),
    "gpt_oss": lambda base: transformers.GptOssConfig(**base, num_local_experts=4, head_dim=8),
    "deepseek_v3": lambda base: transformers.DeepseekV3Config(
        **base,
        **MLA,
        first_k_dense_replace=0,
        moe_intermediate_size=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
    ),
    "phimoe": lambda base: transformers.PhimoeConfig(**base, num_local_experts=4),
    "granitemoe": lambda base: transformers.GraniteMoeConfig(**base, num_local_experts=4),
}


def mixture(folder: Path, tokenizer: Path, kind: str) -> Path:
    """A mixture of four experts, small and seeded."""
    tokens = transformers.AutoTokenizer.from_pretrained(tokenizer)
    config = MIXTURES[kind]({**SMALL, "vocab_size": len(tokens)})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def refused(spec, folder: Path) -> str:
    with pytest.raises(TaskError) as caught:
        TaskModel.load(spec, folder)
    return str(caught.value)


# --- what learning rates follow ----------------------------------------------------------------------------


def test_a_plan_tells_the_matrices_median_size_and_the_width_of_a_new_head(tmp_path, tiny_bert):
    def plan_of(folder, rate=None):
        return TaskModel.load(classifier(local={"learning_rate": rate}), folder).plan

    task = TaskModel.load(classifier(local={"learning_rate": None}), tiny_bert)
    sizes = sorted(float(weight.detach().square().mean().sqrt()) for weight, _ in task.targets().values())
    middle = len(sizes) // 2
    assert sizes[middle - 1] * 0.999 <= task.plan.size <= sizes[middle] * 1.001
    assert task.plan.new_head_width == 32
    assert remarks(task)[0].startswith("local.learning_rate is not named: it goes from ")
    named = {"learning_rate": 1e-3, "head_learning_rate": 1e-2}
    assert remarks(task.under(classifier(local=named | {"schedule": "constant"}))) == remarks(task)[1:]
    cosine = classifier(local=named | {"schedule": "cosine", "warmup_rounds": 1}, rounds={"count": 3})
    assert remarks(task.under(cosine))[0] == (
        "local.learning_rate changes: it goes from 0.0005 to 0.0004 to 0.0002, of the head 0.005 to 0.004 to 0.002"
    )
    task.model.save_pretrained(tmp_path / "again")
    task.inputs.save(tmp_path / "again")
    assert plan_of(tmp_path / "again").new_head_width is None
    assert plan_of(tiny_bert, 1e-3).size is None
    assert plan_of(tiny_bert, 1e-3) == task.plan  # numbers that processors round are no difference


def test_a_model_of_zeros_needs_a_rate(tmp_path, tiny_bert):
    task = TaskModel.load(classifier(), tiny_bert)
    for weight, _ in task.targets().values():
        torch.nn.init.zeros_(weight)
    task.model.save_pretrained(tmp_path)
    task.inputs.save(tmp_path)
    assert refused(classifier(local={"learning_rate": None}), tmp_path).startswith("local.learning_rate: half of this")


# --- ranks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fedgalore", "flora"])
def test_a_rank_above_a_layer_s_smaller_side_is_lowered_there_and_said(tiny_bert, kind):
    spec = classifier(method={"kind": kind, "rank": 4, "rank_pattern": {"query": 40}})
    plan = TaskModel.load(spec, tiny_bert).plan
    ranks = {target.name: target.rank for target in plan.targets}
    assert ranks["bert.encoder.layer.0.attention.self.query.weight"] == 32
    assert ranks["bert.encoder.layer.0.attention.self.key.weight"] == 4
    lowered = {f"bert.encoder.layer.{i}.attention.self.query": 32 for i in (0, 1)}
    assert plan.census.ranks_lowered == lowered
    assert plan.census.summary().endswith("; rank lowered to 32 in 2 smaller layers")


def test_the_rank_of_one_client_is_lowered_as_well(tiny_bert):
    spec = classifier(method={"kind": "flora", "rank": 4, "client_ranks": {"north": 40}})
    plan = TaskModel.load(spec, tiny_bert).plan
    assert {spec.method.rank_at(target, "north") for target in plan.targets} == {32}
    assert {spec.method.rank_at(target, "south") for target in plan.targets} == {4}
    assert len(plan.census.ranks_lowered) == len(plan.targets)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        {"kind": "fedgalore", "rank": 64},
        {"kind": "fedgalore", "rank": 64, "basis": "shared", "state_sync": "ajive"},
        {"kind": "fedgalore", "rank": 64, "complement": 0, "state_sync": "average"},
        {"kind": "fedit", "rank": 64},
        {"kind": "flora", "rank": 4, "client_ranks": {"north": 64}},
        {"kind": "fedex_lora", "rank": 64},
    ],
    ids=str,
)
def test_jobs_with_lowered_ranks_run_to_their_end(tmp_path, method):
    """Swin v2 has a layer with two columns in every block."""
    config = transformers.Swinv2Config(
        image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    transformers.Swinv2Model(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    spec = image_classifier(method=method, local={"steps": 2, "batch_size": 4}, rounds={"count": 2, "min_clients": 2})
    sites = [Site(name, squares(tmp_path / name, 8, i)) for i, name in enumerate(("north", "south"))]
    result = simulate(spec, tmp_path, sites)
    assert result.task.plan.census.ranks_lowered
    assert all(bool(torch.isfinite(tensor).all()) for tensor in result.weights.values())


# --- experts -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", MIXTURES)
def test_each_expert_of_a_mixture_is_trained(tmp_path, tiny_gpt2, kind):
    folder = mixture(tmp_path / "model", tiny_gpt2, kind)
    spec = language_model(
        rounds={"count": 2, "min_clients": 2}, local={"steps": 4, "batch_size": 8, "learning_rate": 5e-3}
    )
    sites = [Site(name, questions(24, i), questions(8, 9 + i)) for i, name in enumerate(("north", "south"))]
    result = simulate(spec, folder, sites)
    census = result.task.plan.census
    assert census.trained["experts"] == census.parameters["experts"] > 0
    first = transformers.AutoModelForCausalLM.from_pretrained(folder)
    after = dict(result.task.model.named_parameters())
    stacked = [(name, old) for name, old in first.named_parameters() if old.dim() == 3]
    assert stacked
    for name, old in stacked:
        moved = (after[name] != old).flatten(1).any(1)
        assert moved.any(), name  # an expert that saw no token of any site stays
    result.task.save(tmp_path / "download")
    download = TaskModel.load(spec, tmp_path / "download")
    for site in sites:
        assert evaluate(download, site.test).metrics == result.rounds[-1].evaluation[site.name]


def test_an_expert_is_a_view_of_its_parameter_with_a_gradient_of_its_own(tmp_path, tiny_gpt2):
    task = TaskModel.load(language_model(), mixture(tmp_path, tiny_gpt2, "mixtral"))
    whole = dict(task.model.named_parameters())["model.layers.0.mlp.experts.down_proj"]
    name = "model.layers.0.mlp.experts.down_proj[2]"
    target = next(target for target in task.plan.targets if target.name == name)
    assert target == Target(name, (16, 24), 4, part_of=name[:-3], whole=(4, 16, 24), is_wrappable=False)
    place = task.plan.places()[name]
    assert (place.parameter, place.shape, place.start) == (name[:-3], (4, 16, 24), 2 * 16 * 24)
    assert list(task.plan.parts()[name[:-3]]) == [f"{name[:-3]}[{i}]" for i in range(4)]
    view = task.targets()[name][0]
    with torch.no_grad():
        view.fill_(0.5)
    assert torch.equal(whole[2], view)
    task.loss(task.collate(questions(8, 0)))[0].backward()
    seen = [task.targets()[f"{name[:-3]}[{i}]"][0].grad for i in range(4)]
    assert whole.grad is None
    assert any(gradient is not None for gradient in seen)
    assert all(gradient is None or bool(gradient.any()) for gradient in seen)
    task.zero_grad()
    assert all(parameter.grad is None for parameter in task.trained().values())


def test_a_mixture_is_tried_writing_too_and_the_trial_leaves_no_gradient_at_an_expert(tmp_path, tiny_gpt2):
    folder = mixture(tmp_path, tiny_gpt2, "mixtral")
    configure(folder, output_router_logits=True)  # `generate` would fail on them
    answers = {"exact_match": "text", "max_new_tokens": 4}
    task = TaskModel.load(language_model(data={"name": "d", "max_length": 16}, evaluation=answers), folder)
    probe(task)
    assert not task.model.config.output_router_logits
    assert all(parameter.grad is None for parameter in task.trained().values())


def test_a_plan_with_experts_survives_json(tmp_path, tiny_gpt2):
    plan = TaskModel.load(language_model(), mixture(tmp_path, tiny_gpt2, "mixtral")).plan
    assert TrainingPlan.from_dict(plan.to_dict()) == plan


# --- convolutions and other matrices -------------------------------------------------------------------------


def test_kernels_are_trained_as_matrices(tiny_levit):
    task = TaskModel.load(image_classifier(local={"batch_size": 4, "micro_batch_size": 2}), tiny_levit)
    assert "micro_batch_size: each pass changes levit." in remarks(task)[0]
    census = task.plan.census
    assert census.trained["convolution"] == census.parameters["convolution"] > 0
    target = next(target for target in task.plan.targets if target.whole is not None)
    assert target.shape == (target.whole[0], target.whole[1] * target.whole[2] * target.whole[3])
    assert torch.equal(task.weight(target.name).view(target.whole), dict(task.model.named_parameters())[target.name])


def test_the_projection_of_patches_is_an_embedding(tiny_vit):
    census = TaskModel.load(image_classifier(), tiny_vit).plan.census
    assert "convolution" not in census.parameters
    assert "embedding" not in census.trained


@pytest.mark.slow
@pytest.mark.parametrize("method", [{"kind": "fedgalore", "rank": 4}, {"kind": "fedavg"}], ids=str)
def test_a_network_of_convolutions_alone_is_trained(tmp_path, method):
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    transformers.ResNetModel(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    spec = image_classifier(
        method=method, rounds={"count": 1, "min_clients": 2}, local={"steps": 3, "learning_rate": 1e-2}
    )
    sites = [Site(name, squares(tmp_path / name, 12, i)) for i, name in enumerate(("north", "south"))]
    task = simulate(spec, tmp_path, sites).task
    before = dict(transformers.ResNetModel.from_pretrained(tmp_path).named_parameters(prefix="resnet"))
    kernels = [name for name, parameter in before.items() if parameter.dim() == 4]
    after = dict(task.model.named_parameters())
    assert kernels and all(not torch.equal(after[name], before[name]) for name in kernels)


def test_torch_s_attention_is_trained_in_full_and_wrapped_by_no_adapter():
    class Holder(nn.Module):
        base_model_prefix = ""

        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

    kinds = {weight.name: (weight.kind, weight.is_wrappable) for weight in weights_of(Holder())}
    assert kinds["attention.in_proj_weight"] == ("other", False)
    assert kinds["attention.out_proj.weight"] == ("linear", False)
    assert kinds["attention.in_proj_bias"] == ("bias", False)


def test_tokens_and_tables_of_a_model_are_no_matrices(tiny_vit):
    task = TaskModel.load(image_classifier(), tiny_vit)
    kinds = {weight.name: weight.kind for weight in weights_of(task.model)}
    assert kinds["vit.embeddings.cls_token"] == kinds["vit.embeddings.position_embeddings"] == "embedding"


# --- everything, and less than half -----------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["tiny_bert", "tiny_gpt2", "tiny_vit", "tiny_levit"])
def test_fedavg_trains_whatever_has_parameters(request, source):
    specs = {"tiny_bert": classifier, "tiny_gpt2": language_model}
    spec = specs.get(source, image_classifier)(method={"kind": "fedavg"})
    task = TaskModel.load(spec, request.getfixturevalue(source))
    assert {place.parameter for place in task.plan.places().values()} >= {n for n, _ in task.model.named_parameters()}
    assert task.plan.census.frozen() == {}


def test_a_tied_weight_is_trained_once_at_the_backbone_s_rate(tiny_gpt2):
    plan = TaskModel.load(language_model(method={"kind": "fedavg"}), tiny_gpt2).plan
    tied = [item for item in plan.dense if item.name in ("transformer.wte.weight", "lm_head.weight")]
    assert tied == [Dense("transformer.wte.weight", tied[0].shape, head=False)]
    assert plan.shared == ("transformer.wte.weight",) == TrainingPlan.from_dict(plan.to_dict()).shared


def test_target_modules_restrict_fedavg_to_modules_or_to_parameters(tiny_bert):
    def backbone(ends):
        plan = TaskModel.load(classifier(method={"kind": "fedavg", "target_modules": ends}), tiny_bert).plan
        return {*(target.name for target in plan.targets), *(item.name for item in plan.dense if not item.head)}

    layers = [f"bert.encoder.layer.{i}.attention.self.query" for i in (0, 1)]
    assert backbone(["query"]) == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    assert backbone(["query.weight"]) == {f"{layer}.weight" for layer in layers}


def test_one_expert_of_a_stack_cannot_be_named_and_a_name_of_nothing_is_said(tmp_path, tiny_gpt2):
    folder = mixture(tmp_path, tiny_gpt2, "mixtral")
    together = "; the experts of a layer are one parameter of this model and are trained together, so name it without"
    one = {"kind": "fedgalore", "rank": 4, "target_modules": ["experts.1.down_proj"]}
    assert refused(language_model(method=one), folder).endswith(f"ends in experts.1.down_proj{together} a number")
    several = one | {"target_modules": ["down_proj", "down_proj[1]", "q"]}
    task = TaskModel.load(language_model(method=several, data={"name": "d", "max_length": 8}), folder)
    assert {target.parameter.rpartition(".")[2] for target in task.plan.targets} == {"down_proj"}
    assert remarks(task) == (
        f"method.target_modules: nothing that is trained ends in down_proj[1], q{together} a number",
    )


def test_a_layer_that_stands_in_several_places_and_a_tied_weight_are_shared_and_wrapped_by_no_adapter():
    class Holder(nn.Module):
        base_model_prefix = ""

        def __init__(self):
            super().__init__()
            self.first, self.second, self.plain = (nn.ModuleDict({"up": nn.Linear(4, 4)}) for _ in range(3))
            self.second.up.weight = self.first.up.weight
            self.other = nn.ModuleDict({"down": self.plain.up})
            self.again = self.block = nn.ModuleDict({"inner": nn.Linear(4, 4)})

    weights = {weight.name: (weight.is_shared, weight.is_wrappable) for weight in weights_of(Holder())}
    shared = {"first.up.weight": (True, False), "plain.up.weight": (True, False), "again.inner.weight": (False, True)}
    assert weights.items() >= shared.items()


def test_less_than_half_of_a_backbone_is_refused_unless_the_job_names_it(tmp_path, tiny_gpt2):
    folder = mixture(tmp_path, tiny_gpt2, "mixtral")
    message = refused(language_model(method={"kind": "fedit", "rank": 4}), folder)
    assert message == (
        "method.kind: fedit would train 18 % of this model's backbone, its embeddings left out, and freeze 4,608 "
        "experts, 64 other, 48 norm parameters; take method.kind: fedavg, which trains all layers, or fedgalore, which "
        "trains all matrices, or name the modules to train in method.target_modules"
    )
    named = {"kind": "fedit", "rank": 4, "target_modules": ["q_proj", "v_proj"]}
    assert len(TaskModel.load(language_model(method=named), folder).plan.targets) == 2


def test_a_model_without_linear_layers_has_no_adapters(tmp_path):
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=3)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    message = refused(image_classifier(method={"kind": "flora", "rank": 4}), tmp_path)
    assert message == (
        "model.source: flora finds no linear layer in this model; "
        "take method.kind: fedavg, or fedgalore, which trains all matrices"
    )


def test_a_model_that_names_no_backbone_has_a_head_all_the_same():
    sides = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.SiglipConfig(
        text_config={**sides, "vocab_size": 50}, vision_config={**sides, "image_size": 16, "patch_size": 8}
    )
    weights = list(weights_of(transformers.SiglipForImageClassification(config)))
    assert [weight.name for weight in weights if weight.kind == "head"] == ["classifier.weight", "classifier.bias"]
    uncalled = [weight for weight in weights if weight.kind == "linear" and not weight.is_wrappable]
    assert [weight.name for weight in uncalled] == ["vision_model.head.attention.out_proj.weight"]


# --- what trains beside the matrices of layers ---------------------------------------------------------------------

EMBEDDINGS, OUTPUT, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def llama(folder, tokenizer, **changes):
    tokens = transformers.AutoTokenizer.from_pretrained(tokenizer)
    config = transformers.LlamaConfig(**SMALL, vocab_size=len(tokens), **changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def parts(plan):
    """What is trained outside of the layers: as targets, and whole."""
    return [[item.name for item in items if ".layers." not in item.name] for items in (plan.targets, plan.dense)]


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("fedgalore", [[EMBEDDINGS, OUTPUT], [NORM]]),
        ("fedit", [[], [EMBEDDINGS, NORM, OUTPUT]]),
        ("fedavg", [[], [EMBEDDINGS, NORM, OUTPUT]]),
    ],
)
def test_embeddings_norms_and_output_are_trained_where_the_job_says_so(tmp_path, tiny_gpt2, kind, found, is_tied):
    also = {"train_also": ["embeddings", "norms", "output"], "target_modules": ["q_proj"]}
    method = {"kind": kind, **also} | ({} if kind == "fedavg" else {"rank": 4})
    spec = language_model(method=method, local={"steps": 2, "batch_size": 4, "learning_rate": 1e-2})
    task = TaskModel.load(spec, llama(tmp_path, tiny_gpt2, tie_word_embeddings=is_tied))
    without_tied = [[name for name in names if name != OUTPUT] for names in found]
    assert parts(task.plan) == (without_tied if is_tied else found)
    assert len(task.plan.targets) == len(found[0][: 2 - is_tied]) + 1
    assert task.plan.shared == ((EMBEDDINGS,) if is_tied else ())
    said = [
        remark for remark in remarks(task) if remark.startswith("method.train_also: embeddings and output layer of")
    ]
    assert len(said) == is_tied
    site = [Site(name, questions(8, seed)) for seed, name in enumerate(("north", "south"))]
    before, after = task.weights(), simulate(spec, tmp_path, site).task.weights()
    assert [name for name in after if torch.equal(after[name], before[name])] == []


@pytest.mark.parametrize("kind", ["fedgalore", "fedit"])
def test_a_tied_output_layer_is_the_embeddings_and_what_is_not_named_stays(tiny_gpt2, kind):
    def plan_of(*also):
        return TaskModel.load(language_model(method={"kind": kind, "rank": 4, "train_also": also}), tiny_gpt2).plan

    assert plan_of("output") != plan_of()
    names = {item.name for item in plan_of("output").trained} - {item.name for item in plan_of().trained}
    assert names == {"transformer.wte.weight"}
    names = {item.name for item in plan_of("norms").dense}
    assert names == {name for name in names if ".ln_" in name}
    assert len(names) == 10
    assert {item.name.rpartition(".")[2] for item in plan_of("biases").dense} == {"bias"}


def test_what_a_model_lacks_cannot_be_trained_also(tmp_path, tiny_gpt2, tiny_vit):
    spec = language_model(method={"train_also": ["norms", "biases"]})
    words = refused(spec, llama(tmp_path, tiny_gpt2))
    assert words == "method.train_also: LlamaForCausalLM has no biases; leave biases out"
    spec = image_classifier(method={"kind": "fedit", "rank": 4, "train_also": ["norms"], "target_modules": ["nothing"]})
    assert refused(spec, tiny_vit).startswith("method.target_modules: no linear layer of this model's backbone ends in")
