"""A saved word-level tokenizer as prompts are checked with it, without transformers, whose import takes seconds."""

from __future__ import annotations

import json
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
    """Answers like the `PreTrainedTokenizerFast` of the same folder, as far as `prompts.py` asks."""

    def __init__(self, backend: Tokenizer, unknown: str, end: str, length: int) -> None:
        self.backend_tokenizer, self.model_max_length = backend, length
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
        return WordFile(backend, settings["unk_token"], settings["eos_token"], settings["model_max_length"])

    def get_vocab(self) -> dict[str, int]:
        return self.backend_tokenizer.get_vocab()

    def __call__(self, prompt: str, **_: bool) -> Encoded:
        """All of it is always returned, whatever is asked for."""
        found = self.backend_tokenizer.encode(prompt)
        return Encoded(found.ids, found.offsets, found.special_tokens_mask)
