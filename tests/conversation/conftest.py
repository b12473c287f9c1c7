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
