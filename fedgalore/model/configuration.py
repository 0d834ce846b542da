"""The configuration of a model, made to agree with how the job trains it, so that a download behaves as it did here."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any

from fedgalore.model.inputs import TaskError
from fedgalore.model.tokens import embedding_rows

# What `generate` ignores without sampling, without beams, without a cache.
SAMPLING = ("do_sample", "temperature", "top_p", "min_p", "top_h", "typical_p", "top_k", "epsilon_cutoff", "eta_cutoff")
_BEAMS = ("early_stopping", "length_penalty")
_CACHE = ("cache_implementation", "cache_config")
_OUTPUTS = {
    "return_dict": True,
    "output_router_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
}


def agree_on_tokens(model: Any, tokenizer: Any, *, writes: bool) -> tuple[int, ...]:
    """Tells the model the tokenizer's padding and end tokens; the tokens at which `generate` ends.

    A model that writes also ends at the end tokens of its base model, such as those of another turn. One that does not
    may look for its one end token in the text, where the tokenizer puts it.

    Args:
        writes: the job trains the model to write texts.

    Raises:
        TaskError: the model numbers its positions by another padding token than the tokenizer's.
    """
    _check_positions(model, tokenizer)
    ends = _ends(model, tokenizer) if writes else ()
    one = tokenizer.eos_token_id
    for config in _configs(model):
        config.pad_token_id = tokenizer.pad_token_id
        if one is not None:
            config.eos_token_id = list(ends) if len(ends) > 1 else one
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        generation.pad_token_id = tokenizer.pad_token_id
        if ends:
            generation.eos_token_id = list(ends) if len(ends) > 1 else one
    return ends


def mend_generation(model: Any) -> None:
    """Takes out of the generation's configuration what has no effect there: transformers refuses to save it."""
    config = getattr(model, "generation_config", None)
    if config is None or _can_be_saved(config):
        return
    idle: tuple[str, ...] = () if config.do_sample else SAMPLING[1:]
    idle += _BEAMS if config.num_beams in (None, 1) else ()
    idle += () if config.return_dict_in_generate else config.extra_output_flags
    idle += _CACHE if config.use_cache is False else ()
    for name in idle:
        setattr(config, name, None)


def leave_out_outputs(model: Any) -> None:
    """Lets a model answer by its logits, in transformers' outputs, and keep to itself what no job's loss takes.

    `generate` fails on the logits of routers: for a loss of their own, transformers wants a mask of the tokens of one
    pass, and there is none behind a cache. With attentions, a configuration cannot be saved.
    """
    for config in _configs(model):
        for name, plain in _OUTPUTS.items():
            if getattr(config, name, plain) != plain:
                setattr(config, name, plain)


def _ends(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokenizer's end token, then those of the base model."""
    sources = [getattr(model, "generation_config", None), *_configs(model)]
    ids = [tokenizer.eos_token_id]
    for source in sources:
        of_base = getattr(source, "eos_token_id", None)
        ids += of_base if isinstance(of_base, list | tuple) else [of_base]
    rows = embedding_rows(model) or inf
    return tuple(dict.fromkeys(token for token in ids if token is not None and 0 <= token < rows))


def _check_positions(model: Any, tokenizer: Any) -> None:
    """RoBERTa and its kin count positions from their padding token on: told of another, all texts move.

    Their layers were made with the configuration's.
    """
    for module in model.modules():
        counts = hasattr(module, "create_position_ids_from_input_ids")
        if counts and module.padding_idx != tokenizer.pad_token_id:
            raise TaskError(
                f"model.source: pad_token_id is {module.padding_idx} in config.json and {tokenizer.pad_token_id} in "
                f"the tokenizer, and {type(model).__name__} counts positions from it; correct the one that is wrong"
            )


def _configs(model: Any) -> Iterator[Any]:
    """The model's configuration, and that of its part for texts where this is another."""
    yield model.config
    text = model.config.get_text_config(decoder=True)
    if text is not model.config:
        yield text


def _can_be_saved(config: Any) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True
