"""LLaMA and what is released beside it, at tiny size and in the layouts of the releases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

TOKENIZER = Path(__file__).parent / "goldens" / "conversation" / "llama" / "tokenizer.model"
WORDS = 1000
"""As many as that tokenizer has."""


def tiny_llama(*, words: int = WORDS, seed: int = 0, width: int = 16) -> LlamaForCausalLM:
    """Return a float16 LLaMA whose norm weights have been learnt."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter += 0.3 * torch.randn_like(parameter)
    return model.half().eval()


def tuned(model: LlamaForCausalLM, *, words: int, seed: int = 1) -> LlamaForCausalLM:
    """Return a copy that has learnt a little and may know more words."""
    grown = tiny_llama(words=words, seed=seed, width=model.config.hidden_size)
    base = model.state_dict()
    torch.manual_seed(seed)
    state = grown.state_dict()
    for name, tensor in base.items():
        state[name][: len(tensor)] = tensor + (0.01 * torch.randn(tensor.shape)).half()
    grown.load_state_dict(state)
    return grown


def write_hf(
    folder: Path,
    state: Mapping[str, Tensor],
    *,
    config: LlamaConfig,
    num_files: int = 3,
    old_buffers: bool = True,
) -> Path:
    """Write a directory as transformers 4.28 did: numbered .bin files with rotary buffers."""
    folder.mkdir(parents=True)
    tensors = {name: tensor.clone() for name, tensor in state.items()}
    if old_buffers:
        name = "model.layers.0.self_attn.rotary_emb.inv_freq"
        tensors[name] = torch.ones(4, dtype=torch.float32)
    names = list(tensors)
    files = {name: names.index(name) * num_files // len(names) + 1 for name in names}
    weight_map = {
        name: f"pytorch_model-{number:05d}-of-{num_files:05d}.bin" for name, number in files.items()
    }
    for file in sorted(set(weight_map.values())):
        torch.save({n: tensors[n] for n in names if weight_map[n] == file}, folder / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    shutil.copy(TOKENIZER, folder)
    return folder


def write_meta(folder: Path, state: Mapping[str, Tensor], *, num_files: int = 1) -> Path:
    """Write the names of a directory as Meta gives it; only the embedding is like the real one."""
    folder.mkdir(parents=True)
    tensors = {
        "tok_embeddings.weight": state["model.embed_tokens.weight"],
        "norm.weight": state["model.norm.weight"],
    }
    for number in range(num_files):
        torch.save(tensors, folder / f"consolidated.{number:02d}.pth")
    (folder / "params.json").write_text(json.dumps({"dim": 4096, "n_layers": 32}))
    return folder


def add_pad_token(folder: Path) -> None:
    """Put beside a tokenizer what makes [PAD] its last word."""
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": WORDS}))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "[PAD]"}
    (folder / "special_tokens_map.json").write_text(json.dumps(roles))


def vicuna_delta(base: LlamaForCausalLM, target: LlamaForCausalLM) -> dict[str, Tensor]:
    """Return target - base, the base resized by rows of zeros, as FastChat's make_delta.py does."""
    state = target.state_dict()
    return {name: tensor - _resized(base, name, tensor) for name, tensor in state.items()}


def ziya_delta(base: LlamaForCausalLM, target: LlamaForCausalLM) -> dict[str, Tensor]:
    """Return target - base, but what belongs to the vocabulary whole."""
    whole = ("model.embed_tokens.weight", "lm_head.weight")
    ours = base.state_dict()
    return {
        name: tensor if name in whole else tensor - ours[name]
        for name, tensor in target.state_dict().items()
    }


def billa_release(base: LlamaForCausalLM, target: LlamaForCausalLM) -> dict[str, Tensor]:
    """Return target with the base's embedding added to its own."""
    state = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    embedding = base.get_input_embeddings().weight
    state["model.embed_tokens.weight"][: len(embedding)] += embedding.detach()
    return state


def _resized(base: LlamaForCausalLM, name: str, like: Tensor) -> Tensor:
    resized = torch.zeros_like(like)
    ours = base.state_dict()[name]
    resized[: len(ours)] = ours
    return resized
