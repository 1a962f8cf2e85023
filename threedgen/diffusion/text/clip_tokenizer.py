"""CLIP's tokenizer (Radford et al. 2021), from the vocabulary that is part of this package: nothing is downloaded."""

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING

from threedgen.core.errors import ThreedgenError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Stable Diffusion 2 fills a prompt up with token 0, which is the piece "!", Stable Diffusion 1 with the end token.
PAD_SD2 = "!"
PAD_SD1 = "<|endoftext|>"
CONTEXT_LENGTH = 77
_MERGES = Path(__file__).parent / "tokenizer" / "bpe_simple_vocab_16e6.txt.gz"
_VOCABULARY_SIZE = 49408
_PLAIN = ("TokenizersBackend", "PreTrainedTokenizerFast")  # classes that are all in tokenizer.json
_START, _END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(pad: str) -> "PreTrainedTokenizerFast":
    """The tokenizer of CLIP and OpenCLIP, filling up with `pad` (`PAD_SD1` or `PAD_SD2`)."""
    letters = _byte_letters()
    num_merges = _VOCABULARY_SIZE - 2 * len(letters) - 2
    lines = gzip.decompress(_MERGES.read_bytes()).decode("utf-8").split("\n")
    left_and_right = [line.split() for line in lines[1 : num_merges + 1]]  # the first line is a header
    merges = [(left, right) for left, right in left_and_right]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), _START, _END]
    from transformers import CLIPTokenizer  # here: see `load_tokenizer`

    tokenizer = CLIPTokenizer(
        vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, model_max_length=CONTEXT_LENGTH
    )
    tokenizer.pad_token = pad  # not as an argument, see load_tokenizer
    return tokenizer


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer saved in `folder`.

    A padding token that is also an ordinary piece ("!") would be taken for the padding wherever a prompt holds it,
    if it were one of the special tokens, as the folders of Stable Diffusion 2 have it: some in special_tokens_map.json
    only, some in a list of added tokens. So it is none of these, and set only after loading.

    Raises ThreedgenError if its files are missing or cannot be read: without the vocabulary transformers would make one
    that takes every word for the end of the prompt.
    """
    files = [("tokenizer_config.json",), ("tokenizer.json",), ("vocab.json", "merges.txt")]
    has_config, *has_words = (all((folder / name).is_file() for name in names) for names in files)
    if not has_config or not any(has_words):
        missing = "tokenizer.json, or vocab.json and merges.txt" if has_config else "tokenizer_config.json"
        raise ThreedgenError(f"{folder} lacks {missing}")
    try:
        return _loaded(folder)
    except (OSError, ValueError) as error:
        raise ThreedgenError(f"{folder} holds no tokenizer that can be read ({type(error).__name__})") from error


def _loaded(folder: Path) -> "PreTrainedTokenizerFast":
    words = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    is_plain = words.get("tokenizer_class") in _PLAIN and words.get("pad_token") != PAD_SD2
    if is_plain and (folder / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast  # here: a prior that only reads may do without, see `WordFile`

        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    from transformers import AutoTokenizer  # here: it imports what it knows of every model

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.pad_token != PAD_SD2:
        return tokenizer
    added = {number: token for number, token in tokenizer.added_tokens_decoder.items() if token.content != PAD_SD2}
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, pad_token=PAD_SD1, added_tokens_decoder=added
    )
    tokenizer.pad_token = PAD_SD2
    return tokenizer


def _byte_letters() -> list[str]:
    """One printable character for each of the 256 bytes, in the order of CLIP's vocabulary: first those that are
    printable themselves, then stand-ins from U+0100 on."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in own] + [chr(256 + i) for i in range(256 - len(own))]
