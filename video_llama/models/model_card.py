"""The README.md of a model's own folder: what it consists of, from what, under which terms.

The terms are those of the README's table; they are a reminder, not legal advice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from video_llama.common.hub import hub_ref
from video_llama.common.schema import ModelConfig
from video_llama.models.trainable import PartRow

TERMS = {
    "llama_model": "those of the language model: LLaMA and Vicuna for research only, LLaMA-2 under "
    "Meta's community licence, others as their pages say",
    "vit_model": "EVA, as its repository says",
    "q_former_model": "BLIP-2, as LAVIS says",
    "llama_proj_model": "MiniGPT-4, as its repository says",
    "imagebind_ckpt_path": "ImageBind, CC BY-NC-SA 4.0",
}
"""What binds the use of each base file, by its key."""

MEDIA = {"image": "pictures", "video": "clips", "audio": "sound"}
SHIPPED = "${package:"
"""How a path opens that ships with this package."""

RUN_KEYS = (
    "task",
    "init_lr",
    "min_lr",
    "lr_sched",
    "max_epoch",
    "iters_per_epoch",
    "batch_size_train",
    "accum_grad_iters",
    "seed",
)
"""Keys of a run that a reader of the card wants to know."""


def model_card(
    config: ModelConfig,
    *,
    rows: Sequence[PartRow],
    bases: Mapping[str, str],
    run: Mapping[str, Any] | None,
) -> str:
    """Write the card.

    Args:
        config: of the model.
        rows: the table of parts.
        bases: files of weights the folder does not hold, by their key.
        run: the resolved run file of the training, None if it is not known.

    Returns:
        Markdown with a YAML header, as the hub reads it.
    """
    hub_bases = {ref.repo for path in bases.values() if (ref := hub_ref(path)) is not None}
    kinds = sorted({kind for branch in config.branches.values() for kind in branch.media})
    header: dict[str, Any] = {
        "library_name": "video-llama",
        "pipeline_tag": "video-text-to-text",
        "license": "other",
        "license_name": "terms-of-the-base-models",
        "tags": ["video-llama", *kinds],
    }
    if hub_bases:
        header["base_model"] = sorted(hub_bases)
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {config.arch}/{config.model_type}",
        f"A language model that takes {' and '.join(MEDIA[kind] for kind in kinds)}, made with "
        "video_llama.",
        _loading(),
        _parts(rows),
        _bases(bases),
        _training(run),
        "## Limitations\n\nAnswers may be wrong or made up. The model inherits the biases of its "
        "base models and of its training data, and their terms of use.",
    ]
    return "\n\n".join(parts) + "\n"


def _loading() -> str:
    return (
        "## How to load\n\n```python\nfrom video_llama import VideoLLM\n\n"
        'model = VideoLLM.from_pretrained("this folder, or its name on the hub")\n```\n\n'
        "In a run file: `model.ckpt: ...` takes the trained parts from this folder. Base files lie "
        "elsewhere if a table below names any; say where with "
        '`options=["model.llama_model=..."]`.'
    )


def _parts(rows: Sequence[PartRow]) -> str:
    lines = ["## Parts", "", "| part | type | parameters | trainable |", "|---|---|---|---|"]
    for row in rows:
        name = row.name.removeprefix("branches.")
        lines.append(f"| {name} | {row.type} | {row.num_params:,} | {row.num_trainable:,} |")
    return "\n".join(lines)


def _bases(bases: Mapping[str, str]) -> str:
    if not bases:
        return (
            "## Base models\n\nThis folder holds every weight; the terms of its base models hold."
        )
    lines = ["## Base models", "", "| key | file | terms |", "|---|---|---|"]
    for key, path in bases.items():
        terms = TERMS.get(key, "as its source says")
        if path.startswith(SHIPPED):
            path, terms = (
                path.removeprefix(SHIPPED).rstrip("}"),
                "Apache-2.0, ships with video_llama",
            )
        lines.append(f"| `model.{key}` | `{path}` | {terms} |")
    return "\n".join(lines)


def _training(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return "## Training\n\nNot recorded."
    lines = ["## Training", "", "| data set | reader | annotations | share |", "|---|---|---|---|"]
    for name, entry in (run.get("datasets") or {}).items():
        if entry is not None and entry.get("split", "train") == "train":
            share = entry.get("sample_ratio", 1.0)
            annotations = entry.get("annotations", "")
            lines.append(f"| {name} | `{entry.get('type')}` | `{annotations}` | {share} |")
    settings = run.get("run") or {}
    said = ", ".join(f"`{key}` {settings[key]}" for key in RUN_KEYS if key in settings)
    return "\n".join([*lines, "", said])
