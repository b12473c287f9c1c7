"""Tokenizers of both kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published import GOLDENS

from video_llama.conversation.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A small LLaMA vocabulary: SentencePiece BPE with byte fallback."""
    return load_tokenizer(GOLDENS / "llama")


@pytest.fixture(scope="session")
def chinese_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece vocabulary of its own with Chinese, in which two marks were added later.

    It is laid out as Ziya's is: LLaMA's settings, `<human>` and `<bot>` in added_tokens.json.
    """
    import io
    import random

    from sentencepiece import SentencePieceTrainer

    draw = random.Random(0)
    chars = [chr(0x4E00 + i) for i in range(120)]
    words = ["Human:", "Assistant:", "the", "video", "a", "red", "boat", "</Video>", "###"]
    lines = []
    for _ in range(400):
        chinese = "".join(draw.choices(chars, weights=range(120, 0, -1), k=draw.randint(2, 8)))
        lines.append(" ".join([*draw.choices(words, k=4), chinese]))
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=640,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp("chinese")
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "added_tokens.json").write_text(json.dumps({"<human>": 640, "<bot>": 641}))
    return folder


@pytest.fixture(scope="session")
def chinese_tokenizer(chinese_dir: Path) -> Tokenizer:
    return load_tokenizer(chinese_dir)


@pytest.fixture(scope="session")
def fast_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level vocabulary in a tokenizer.json, without a bos token, as Qwen's is."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(["the video shows a red car and a boat ###Human: ###"], trainer)
    folder = tmp_path_factory.mktemp("fast")
    library.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|end|>", "pad_token": {"content": "<|pad|>"}, "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def fast_tokenizer(fast_dir: Path) -> Tokenizer:
    return load_tokenizer(fast_dir)
