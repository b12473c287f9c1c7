"""A run file of the published system at tiny size, whose files have the published layouts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml
from tiny_released import FILES, ROLES, tree

TOKENIZER = FILES.parent / "conversation" / "llama"
VL, AL = FILES / "vl_branch.pth", FILES / "al_branch.pth"
ARCHITECTURE = {
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
}


def model_section(**keys: Any) -> dict[str, Any]:
    """Return a `model` section on the preset vicuna7b; `keys` are put in place of its own."""
    section = tree()
    for branch in section["branches"].values():
        for part in (branch["encoder"], *branch["stages"].values()):
            part.pop("weights", None)
    section["branches"]["video"]["encoder"]["dtype"] = "float32"
    section["branches"]["audio"].pop("media")
    decoder = {"dtype": "float32", "architecture": ARCHITECTURE}
    files = {"llama_model": str(FILES / "llama"), "tokenizer": str(TOKENIZER)}
    return section | files | {"model_type": "vicuna7b", "decoder": decoder} | keys


def write_run_file(folder: Path, **keys: Any) -> Path:
    """Write a run file; `keys` of the `model` section are put in place of its own."""
    run = {"task": "video_text_pretrain", "output_dir": str(folder / "output"), "device": "cpu"}
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump({"model": model_section(**keys), "run": run}))
    return file


def write_released_folder(folder: Path, *, without: str = "") -> Path:
    """Lay the files out as Video-LLaMA-2-7B-Finetuned has them."""
    release = folder / "Video-LLaMA-2-7B-Finetuned"
    names = {
        "VL_LLaMA_2_7B_Finetuned.pth": VL,
        "AL_LLaMA_2_7B_Finetuned.pth": AL,
        "imagebind_huge.pth": FILES / ROLES["imagebind_ckpt_path"],
        "eva_vit_g.pth": FILES / ROLES["vit_model"],
        "blip2_pretrained_flant5xxl.pth": FILES / ROLES["q_former_model"],
    }
    release.mkdir()
    for name, source in names.items():
        if name != without:
            shutil.copy(source, release / name)
    llama = release / "llama-2-7b-chat-hf"
    shutil.copytree(FILES / "llama", llama)
    shutil.copytree(TOKENIZER, llama, dirs_exist_ok=True)
    return release
