"""A saved word-level tokenizer as prompts are checked with it, without transformers, whose import takes seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel


@dataclass(frozen=True)
class Encoded:
    """Of T tokens, the special ones included."""

    input_ids: list[int]
    offset_mapping: list[tuple[int, int]]  # in the prompt
    special_tokens_mask: list[int]


class WordFile:
    """Answers like the `PreTrainedTokenizerFast` of the same folder, as far as prompts and a prior that reads them ask.

    It takes no new words and is not saved.
    """

    def __init__(self, backend: Tokenizer, unknown: str, end: str, pad: str, length: int) -> None:
        self.backend_tokenizer, self.model_max_length, self._pad = backend, length, pad
        self.unk_token_id, self.eos_token_id = backend.token_to_id(unknown), backend.token_to_id(end)

    @staticmethod
    def of_folder(folder: Path) -> WordFile | None:
        """The tokenizer in `folder`; None where there is none, or one of another kind."""
        file, settings_file = folder / "tokenizer.json", folder / "tokenizer_config.json"
        if not (file.is_file() and settings_file.is_file()):
            return None
        backend = Tokenizer.from_file(str(file))
        if not isinstance(backend.model, WordLevel):
            return None
        backend.no_truncation()
        backend.no_padding()
        settings = json.loads(settings_file.read_text("utf-8"))
        unknown, end, pad = (settings[f"{name}_token"] for name in ("unk", "eos", "pad"))
        return WordFile(backend, unknown, end, pad, settings["model_max_length"])

    def get_vocab(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab()

    def __call__(self, prompt: str, **_: bool) -> Encoded:
        """All of it is always returned, whatever is asked for."""
        found = self.backend_tokenizer.encode(prompt)
        return Encoded(found.ids, found.offsets, found.special_tokens_mask)

    def padded(self, prompts: Sequence[str]) -> list[list[int]]:
        """The ids of each prompt, filled up or cut to the model's length."""
        backend, length = self.backend_tokenizer, self.model_max_length
        backend.enable_truncation(length)
        backend.enable_padding(length=length, pad_token=self._pad, pad_id=backend.token_to_id(self._pad))
        found = backend.encode_batch(list(prompts))
        backend.no_truncation()
        backend.no_padding()
        return [encoding.ids for encoding in found]
