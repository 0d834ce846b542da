"""Users' texts as a model's tokens: read as text whatever they spell, and no longer than the model can place."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from fedgalore.model.inputs import Batch, TaskError
from fedgalore.process.panics import panics_as_errors

_ALWAYS = "input_ids"


class TextReader:
    """A tokenizer that reads what users wrote as text: `</s>` in it ends nothing, `<pad>` fills nothing up.

    The special tokens that a tokenizer puts around a text are there as ever.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special |= set(tokenizer.all_special_tokens)
        self._special = re.compile("|".join(map(re.escape, filter(None, special))) or r"(?!)")
        special.discard(str(tokenizer.unk_token))  # it may stand for a text's words
        spelt = sorted((token for token in special if len(token) > 1), key=len, reverse=True)
        self._ids = set(tokenizer.convert_tokens_to_ids(spelt))
        self._spelt = re.compile("|".join(map(re.escape, spelt))) if spelt else None

    @panics_as_errors()
    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None = None, **options: Any) -> Any:
        """What the tokenizer makes of texts, or of pairs of texts."""
        second = None if pairs is None else [self.plain(text) for text in pairs]
        return self._tokenizer([self.plain(text) for text in texts], second, split_special_tokens=True, **options)

    @panics_as_errors()
    def targets(self, texts: Sequence[str], **options: Any) -> Any:
        """What it makes of texts that a decoder writes, for which some models have another vocabulary."""
        targets = [self.plain(text) for text in texts]
        return self._tokenizer(text_target=targets, split_special_tokens=True, **options)

    def spells_special(self, text: str) -> bool:
        """Whether the tokenizer might read a special token in a text."""
        return self._special.search(text) is not None

    @panics_as_errors()
    def plain(self, text: str) -> str:
        """The text, with a blank in what the tokenizer would read as a special token even so.

        Some vocabularies hold their special tokens among the words.
        """
        if self._spelt is None or not self._spelt.search(text):
            return text
        tokens = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if self._ids.isdisjoint(tokens):
            return text
        return self._spelt.sub(lambda spelt: f"{spelt[0][0]} {spelt[0][1:]}", text)


def embedding_rows(model: Any) -> int | None:
    """Tokens that the model has embeddings for; None where it makes them in another way, such as of hashes."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])
    except (AttributeError, NotImplementedError):
        return None


def check_ids(model: Any, tokenizer: Any) -> None:
    """Each token of the tokenizer needs a row of the model's embeddings, where there is a table of them.

    Raises:
        TaskError: one has none.
    """
    rows = embedding_rows(model)
    if rows is None:
        return
    name, last = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if last >= rows:
        raise TaskError(
            f"model.source: the tokenizer numbers its tokens up to {last} ({name!r}), but the model has embeddings for "
            f"0 to {rows - 1}; give it more by model.resize_token_embeddings(len(tokenizer)), and save it anew"
        )


def longest(model: nn.Module, tokenizer: Any, wanted: int) -> int:
    """Tokens that a text may have, special tokens included: `wanted`, or what the model and its tokenizer take.

    Raises:
        TaskError: there is no room beside the special tokens.
    """
    limits = [wanted, tokenizer.model_max_length, *_positions(model)]
    length = min(limit for limit in limits if isinstance(limit, int) and limit > 0)
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if length <= special:
        raise TaskError(
            f"data.max_length: {length} tokens leave no room for a text beside the {special} special tokens of this "
            f"model; take at least {special + 1}"
        )
    return length


def _positions(model: Any) -> list[int | None]:
    """Lengths that the model says it takes, or has positions for; it may say -1, 0 or None for any length."""
    said = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    # As RoBERTa does it: the positions of a text begin behind that of padding.
    tables = [
        module.num_embeddings - module.padding_idx - 1
        for name, module in model.named_modules()
        if type(module) is nn.Embedding and module.padding_idx is not None and "position" in name.rpartition(".")[2]
    ]
    return [said, *tables]


def padding_of(model: Any) -> dict[str, Any]:
    """Where batches of texts are filled up, as a tokenizer's options: a row's loss hangs on no other row.

    On the right, whatever the tokenizer's file says: positions are counted from the left, and the first token may stand
    for the whole text. On the left where the last column stands for it, as XLNet has it. A model that shortens texts on
    the way needs a whole number of its steps.
    """
    reads_last = any(getattr(module, "summary_type", None) == "last" for module in model.modules())
    step = getattr(model.config, "downsampling_rate", 1) * 2 ** len(getattr(model.config, "block_sizes", ()))
    return {"padding_side": "left" if reads_last else "right", "pad_to_multiple_of": step if step > 1 else None}


class ModelInputs:
    """Leaves out of a tokenizer's output what the model does not take."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        parameters = inspect.signature(model.forward).parameters
        self._names = set(parameters) if _ALWAYS in parameters else None
        types = getattr(model.config, "type_vocab_size", None)
        if self._names and types and "token_type_ids" in self._names:
            kinds = tokenizer("a", "a").get("token_type_ids", [])
            if max(kinds, default=0) >= types:  # the tokenizer numbers more texts of a pair than the model knows
                self._names.discard("token_type_ids")

    def __call__(self, tokens: Mapping[str, Any]) -> Batch:
        return {name: tensor for name, tensor in tokens.items() if self._names is None or name in self._names}
