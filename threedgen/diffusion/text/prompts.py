"""What a prompt says to a tokenizer's model: words that it does not know, plain English, the mark of 3D assets."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeAlias

from tokenizers.models import WordLevel

from threedgen.core.arguments import program
from threedgen.core.errors import ConfigError
from threedgen.data.miniworld import vocabulary
from threedgen.data.miniworld.reading import Reading, read, read_negative
from threedgen.data.miniworld.refusing import EVERYTHING

if TYPE_CHECKING:  # it imports torch, and a prompt is read before that
    from transformers import PreTrainedTokenizerFast

    from threedgen.diffusion.text.word_file import WordFile

    PromptTokenizer: TypeAlias = PreTrainedTokenizerFast | WordFile

ASSET_SUFFIX = ", 3d asset"  # how MVDream marks captions of 3D data
_ENDS_AS_ASSET = re.compile(r"[\s,;.]*\b3d[\s-]asset[\s.]*$", re.IGNORECASE)


def as_asset(prompt: str) -> str:
    """The prompt marked once as MVDream's 3D captions are: `, 3d asset` is added unless `3d asset` is in it."""
    return prompt if ASSET_SUFFIX.strip(", ") in prompt.lower() else prompt + ASSET_SUFFIX


def unknown_words(tokenizer: PromptTokenizer, prompt: str) -> list[str]:
    """The words that the tokenizer has no token for, in order; CLIP's spells every word in pieces."""
    if tokenizer.unk_token_id == tokenizer.eos_token_id:
        return []
    encoding = tokenizer(prompt, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False)
    columns = zip(encoding.input_ids, encoding.offset_mapping, encoding.special_tokens_mask, strict=True)
    unknown = tokenizer.unk_token_id
    return [prompt[start:end] for token, (start, end), special in columns if token == unknown and not special]


def read_prompt(tokenizer: PromptTokenizer, prompt: str, *, negative: bool = False) -> Reading:
    """The prompt as the model is to be told it, and notes on what was changed.

    A model that was trained on miniworld's captions is told the one that means the same (`miniworld.reading`), the
    mark ", 3d asset" kept. A prompt with a word that it has learned besides, such as a subject's name, and any
    prompt for another model stay as they are.

    Args:
        prompt: what the user typed.
        negative: it says what is not wanted; words that mean nothing to the model are then left out.

    Raises:
        ConfigError: the model cannot be told this.
    """
    if not _knows_captions_only(tokenizer, prompt):
        check_prompt(tokenizer, prompt)
        return Reading(prompt)
    known = tokenizer.get_vocab()
    if negative:
        return read_negative(prompt, known)
    marked = _ENDS_AS_ASSET.search(prompt)
    reading = read(prompt[: marked.start()] if marked else prompt, known)
    return Reading(reading.text + ASSET_SUFFIX, reading.notes) if marked else reading


def _knows_captions_only(tokenizer: PromptTokenizer, prompt: str) -> bool:
    """Whether all that the model knows of the prompt's words is from miniworld's captions."""
    backend = tokenizer.backend_tokenizer
    if not isinstance(backend.model, WordLevel):
        return False
    known, captions = tokenizer.get_vocab(), vocabulary()
    if any(word not in known for word in captions if word not in EVERYTHING):
        return False
    words = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(prompt))
    return {word for word, _ in words if word in known} <= {*captions}


def check_prompt(tokenizer: PromptTokenizer, prompt: str) -> None:
    """Raise ConfigError if a word-level tokenizer does not know a word, or if the prompt would be cut off."""
    vocabulary = tokenizer.get_vocab()
    if unknown := unknown_words(tokenizer, prompt):
        known = sorted(word for word in vocabulary if re.search(r"\w", word) and not word.startswith("<"))
        near = dict.fromkeys(found for word in unknown for found in get_close_matches(word.lower(), known, 3))
        nearest = f"nearest that it knows: {', '.join(near)}; " if near else ""
        raise ConfigError(
            f"the mini prior does not know {', '.join(map(repr, dict.fromkeys(unknown)))}; {nearest}it knows: "
            f"{' '.join(known)} ({program()} vocabulary says how they go together). For any other prompt use "
            "--config mvdream-sd21.yaml (full-size weights), or set allow_unknown_words=true to go on"
        )
    tokens, limit = len(tokenizer(prompt, verbose=False).input_ids), tokenizer.model_max_length
    if tokens > limit:
        raise ConfigError(f"the prompt has {tokens} tokens, the model reads {limit}; shorten it")
