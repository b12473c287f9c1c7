"""Training of the toy decoder's tokenizer: a LLaMA-type SentencePiece model.

BPE with byte fallback, a dummy prefix, and no normalisation, so that characters stay what they
are. The folder it writes looks like a LLaMA directory of 2023.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

VOCAB_SIZE = 896

_CONFIG = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "legacy": True,
    "model_max_length": 512,
    "pad_token": None,
    "sp_model_kwargs": {},
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
}


def train_tokenizer(out_dir: Path, *, lines: Sequence[str], vocab_size: int = VOCAB_SIZE) -> None:
    """Train a tokenizer and write it as `tokenizer.model` and `tokenizer_config.json`.

    Args:
        out_dir: existing folder of the decoder.
        lines: text to learn pieces from; equal lines give an equal model.
        vocab_size: pieces in all: 3 special ones, 256 bytes, the rest learned.
    """
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        character_coverage=1.0,
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    (out_dir / "tokenizer.model").write_bytes(model.getvalue())
    text = json.dumps(_CONFIG, indent=2) + "\n"
    (out_dir / "tokenizer_config.json").write_text(text, encoding="utf-8")
