r"""A real tokenizer, small enough to be trained in a blink: BPE with byte fallback, Gemma style.

Spaces become `▁` and belong to the word that follows, unknown characters become byte tokens, and a
chat is a row of `<start_of_turn>role\n…<end_of_turn>\n`. Every word of the handbook ends up as one
token, so that a text made of those words is split again into the very tokens it was made of
(`speakable_ids`): a server that is sent its own answer back finds it in its cache.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from semantic.testing.handbook import handbook

__all__ = ["BOS", "CHAT_TEMPLATE", "END_OF_TURN", "EOS", "PAD", "speakable_ids", "write_tokenizer"]

PAD = "<pad>"
EOS = "<eos>"
BOS = "<bos>"
START_OF_TURN = "<start_of_turn>"
END_OF_TURN = "<end_of_turn>"

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<start_of_turn>' }}"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}"
    "{{ '\n' + message['content'] + '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""Gemma's turns, with a turn of its own for the system prompt and no trimming of contents."""

_WORD = re.compile("[a-z]+")


def write_tokenizer(folder: Path, *, vocab_size: int = 4096) -> dict[str, int]:
    """Train on the handbook and write `tokenizer.json` and `tokenizer_config.json`.

    Args:
        folder: An existing folder.
        vocab_size: The most merges and symbols to learn; the 256 byte tokens come on top.

    Returns:
        The vocabulary: token to id.
    """
    content = json.loads(_trained(vocab_size))
    vocab: dict[str, int] = content["model"]["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    content["model"]["byte_fallback"] = True
    (folder / "tokenizer.json").write_text(
        json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return vocab


def speakable_ids(folder: Path) -> list[int]:
    """The tokens that are a space and a word of the handbook, and are read back as themselves."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocab = tokenizer.get_vocab()
    words = ("▁" + word for word in set(_WORD.findall(handbook().lower())))
    return sorted(
        vocab[word] for word in words if word in vocab and _reads_back(tokenizer, word, vocab[word])
    )


def _reads_back(tokenizer: Any, token: str, index: int) -> bool:
    ids: list[int] = tokenizer.encode(token.replace("▁", " "), add_special_tokens=False).ids
    return ids == [index]


def _trained(vocab_size: int) -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("\n+"), "isolated"),
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    # mlx-lm picks its streaming detokenizer by this exact sequence.
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, BOS, START_OF_TURN, END_OF_TURN],
        initial_alphabet=sorted({chr(code) for code in range(33, 127)} | {"\n", "▁"}),
        show_progress=False,
    )
    text = handbook()
    # Once more with a space before each paragraph's first word and in lower case.
    corpus = [text, " " + text.lower(), "system\n", "user\n", "model\n"]
    tokenizer.train_from_iterator(corpus, trainer)
    trained: str = tokenizer.to_str()
    return trained
