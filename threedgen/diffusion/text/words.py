"""A tokenizer of whole words, for models that learn their words one by one."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PAD, _BOS, _EOS, _UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"


def word_tokenizer(texts: Iterable[str], length: int) -> "PreTrainedTokenizerFast":
    """Its tokens are the whole words of `texts` and single punctuation marks, in lower case; it reads `length` of them.

    A subject's name such as "[v]" is one word: brackets of their own would move what follows to places in the sentence
    where the text encoder has never met it.
    """
    tokenizer = Tokenizer(models.WordLevel({_UNKNOWN: 0}, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\[\w+\]|\w+|[^\w\s]"), "isolated")]
    )
    ids = {word: i for i, word in enumerate((_PAD, _BOS, _EOS, _UNKNOWN, *words_of(tokenizer, texts)))}
    tokenizer.model = models.WordLevel(ids, unk_token=_UNKNOWN)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A {_EOS}", special_tokens=[(_BOS, ids[_BOS]), (_EOS, ids[_EOS])]
    )
    from transformers import PreTrainedTokenizerFast  # here: only who makes or saves one needs it

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        pad_token=_PAD,
        bos_token=_BOS,
        eos_token=_EOS,
        unk_token=_UNKNOWN,
    )


def words_of(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[str, ...]:
    """Each word of the texts once, in order, as the word-level tokenizer splits and writes it."""
    words: dict[str, None] = {}
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text)
        words |= dict.fromkeys(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    return tuple(words)
