"""Architectures of transformers, each as a tiny random model: trained a round, written, loaded back, the same answers.

    python -m benchmarks.sweep                     # about ten minutes on two cores; needs no network
    python -m benchmarks.sweep --only bert vit     # some of them

Each architecture is trained for one round by `fedgalore` and by `fedavg`. Its outcome is one of:

    same      the folder was loaded as a user would load it, and gives the trained model's logits
    refused   in a sentence, before any training
    differs   the folder gives another model; says how
    broken    anything else, such as an error that nobody has foreseen

Exits with 1 where an architecture differs or is broken.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from fedgalore.data.examples import Example
from fedgalore.model.inputs import TaskError
from fedgalore.model.load_back import answers, difference
from fedgalore.model.tasks.registry import TASKS
from fedgalore.simulation import Site, simulate
from fedgalore.spec.job import JobSpec, parse

METHODS = ("fedgalore", "fedavg")
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
WORDS = ["rain", "sun", "wind", "snow", "song", "drum", "bread", "soup", "the", "a", "some", "more", "yes", "no"]
SIDE = 64  # pixels of an image

# By task: an architecture is in one of them, though many could be in several.
ARCHITECTURES: dict[str, str] = {
    "sequence-classification": "albert bart bert big_bird biogpt canine convbert ctrl deberta-v2 distilbert ernie esm "
    "flaubert fnet funnel gpt-sw3 gpt_neo gptj gte ibert jina_embeddings_v3 longformer luke mbart "
    "modernbert mpnet mpt mra mvp nomic_bert nystromformer "
    "openai-gpt opt plbart rembert roberta roberta-prelayernorm roc_bert squeezebert t5 umt5 xlm xlm-roberta-xl "
    "xlnet yoso",
    "token-classification": "bros camembert data2vec-text deberta electra gpt_bigcode layoutlm markuplm megatron-bert "
    "mobilebert roformer xlm-roberta xmod",
    "causal-lm": "arcee bloom codegen cohere exaone4 falcon falcon_mamba gemma gemma2 gemma3_text glm glm4 gpt2 "
    "gpt_neox granite granitemoe helium hrm_text jetmoe llama mamba mamba2 mistral mixtral olmo olmo2 olmoe "
    "persimmon phi phi3 qwen2 qwen2_moe qwen3 qwen3_moe recurrent_gemma smollm3 stablelm starcoder2",
    "seq2seq-lm": "bigbird_pegasus blenderbot blenderbot-small led m2m_100 marian mt5 nllb-moe pegasus pegasus_x "
    "prophetnet switch_transformers",
    "image-classification": "beit bit convnext convnextv2 data2vec-vision deit dinov2 "
    "efficientnet focalnet levit mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 poolformer "
    "pvt pvt_v2 regnet resnet segformer siglip swiftformer swin swinv2 vit vit_msn",
}
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "emb_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_encoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_inner"), 64),
    **dict.fromkeys(("hidden_dim", "ffn_hidden_size", "n_inner"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"), 4),
    "num_key_value_heads": 2,
    "head_dim": 8,
    "d_kv": 8,
    "num_experts_per_tok": 2,
    "attention_window": 8,
    "image_size": SIDE,
    "patch_size": 8,
    "drop_path_rate": 0.0,
    "dropout": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 2,
}
# What else an architecture needs to be small, or to be at all.
MORE: dict[str, dict[str, Any]] = {
    "codegen": {"rotary_dim": 4},
    "efficientnet": {"hidden_dim": 1280, "width_coefficient": 1.0, "depth_coefficient": 0.25},
    "funnel": {"block_sizes": [1, 1], "d_head": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 4},
    "led": {"attention_window": [8, 8]},
    "levit": {
        "hidden_sizes": [16, 24, 32],
        "num_attention_heads": [1, 1, 2],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
        "mlp_ratio": [2, 2, 2],
        "attention_ratio": [2, 2, 2],
        "drop_path_rate": 0,
        "patch_size": 16,
    },
    "mamba2": {"num_heads": 8, "expand": 2, "n_groups": 1, "state_size": 8},
    "mobilevitv2": {"patch_size": 2},
    "mt5": {"decoder_start_token_id": 2},
    "pvt": {"hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]},
    "pvt_v2": {"hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "segformer": {"hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]},
    "siglip": {
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": SIDE,
        },
    },
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "patch_size": 4, "window_size": 4},
    "swinv2": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "patch_size": 4, "window_size": 4},
    "switch_transformers": {"decoder_start_token_id": 2},
    "t5": {"decoder_start_token_id": 2},
    "umt5": {"decoder_start_token_id": 2},
}


@dataclass(frozen=True)
class Outcome:
    architecture: str
    task: str
    method: str
    outcome: str
    words: str
    seconds: float


def tokenizer() -> Any:
    """Words, with each text between `<s>` and `</s>`."""
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    names |= {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, **names)


def small(architecture: str) -> Any:
    """The architecture's configuration at the size of a test."""
    kind = CONFIG_MAPPING[architecture]
    known = kind().to_dict()
    values = {name: value for name, value in SMALL.items() if name in known}
    if "vocab_size" in known:
        values["vocab_size"] = len(SPECIAL) + len(WORDS) + 3
    more = MORE.get(architecture, {})
    return kind(**{name: value for name, value in values.items() if not isinstance(known[name], list)} | more)


def write_base(architecture: str, task: str, folder: Path) -> None:
    """A base model's folder, as a user would have it."""
    torch.manual_seed(0)
    config = small(architecture)
    config.architectures = []  # transformers looks through it, whether there is one or not
    if task == "image-classification":
        transformers.ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    else:
        tokenizer().save_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TASKS[task].auto_model.from_config(config).save_pretrained(folder)


def job(task: str, method: str, source: Path) -> JobSpec:
    model: dict[str, Any] = {"source": str(source), "task": task}
    if task not in ("causal-lm", "seq2seq-lm"):
        model["num_labels"] = 2
    kind = {"kind": method} if method == "fedavg" else {"kind": method, "rank": 2}
    return parse(
        {
            "name": "sweep",
            "model": model,
            "data": {"name": "words", "max_length": 16},
            "method": kind,
            "rounds": {"count": 1, "min_clients": 2},
            "local": {"steps": 2, "batch_size": 4, "learning_rate": 1e-3},
        }
    )


def examples(task: str, folder: Path, seed: int) -> list[Example]:
    """Eight of them."""
    chance = np.random.default_rng(seed)
    return [_example(task, folder / f"{seed}-{row}.png", row, chance) for row in range(1, 9)]


def _example(task: str, image: Path, row: int, chance: np.random.Generator) -> Example:
    words, label = chance.choice(WORDS, 6).tolist(), int(row % 2)
    match task:
        case "image-classification":
            Image.fromarray(chance.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(image)
            return {"row": row, "image": str(image), "label": label}
        case "token-classification":
            return {"row": row, "tokens": words, "tags": [label] * len(words)}
        case "causal-lm" | "seq2seq-lm":
            return {"row": row, "prompt": " ".join(words), "completion": WORDS[label]}
        case _:
            return {"row": row, "text": " ".join(words), "text_pair": None, "label": label}


def tried(architecture: str, task: str, method: str, base: Path, scratch: Path) -> Outcome:
    """One round of an architecture, and its folder loaded back."""
    started = time.perf_counter()
    try:
        sites = [Site(name, examples(task, scratch, seed)) for seed, name in enumerate("ab")]
        result = simulate(job(task, method, base), base, sites)
        result.task.save(scratch / "out")
        words = difference(scratch / "out", answers(result.task))
        outcome = "same" if words is None else "differs"
    except TaskError as error:
        outcome, words = "refused", str(error)
    except Exception as error:
        outcome, words = "broken", f"{type(error).__name__}: {str(error).strip()}".split("\n")[0]
    return Outcome(architecture, task, method, outcome, words or "", time.perf_counter() - started)


def sweep(architectures: Sequence[str], methods: Sequence[str] = METHODS) -> Iterator[Outcome]:
    """Each architecture with each method."""
    for task, names in ARCHITECTURES.items():
        for architecture in names.split():
            if architecture in architectures:
                yield from _of_architecture(architecture, task, methods)


def _of_architecture(architecture: str, task: str, methods: Sequence[str]) -> Iterator[Outcome]:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        base.mkdir()
        try:
            write_base(architecture, task, base)
        except Exception as error:
            yield Outcome(architecture, task, "-", "unbuilt", f"{type(error).__name__}: {error}".split("\n")[0], 0.0)
            return
        for method in methods:
            scratch = Path(folder) / method
            scratch.mkdir()
            yield tried(architecture, task, method, base, scratch)


def main(arguments: Sequence[str] | None = None) -> int:
    everything = [name for names in ARCHITECTURES.values() for name in names.split()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=everything, default=everything, metavar="ARCHITECTURE")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    outcomes = []
    for outcome in sweep(options.only, options.methods):
        outcomes.append(outcome)
        print(
            f"{outcome.architecture:<22} {outcome.task:<24} {outcome.method:<10} {outcome.outcome:<8} "
            f"{outcome.seconds:5.1f} s  {outcome.words}",
            flush=True,
        )
    counts = Counter(outcome.outcome for outcome in outcomes)
    print(f"\n{len({outcome.architecture for outcome in outcomes})} architectures, {len(outcomes)} runs: ", end="")
    print(", ".join(f"{count} {name}" for name, count in counts.most_common()))
    return int(bool(counts["differs"] or counts["broken"]))


if __name__ == "__main__":
    sys.exit(main())
