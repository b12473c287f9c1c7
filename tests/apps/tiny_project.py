"""A project small enough for a test: eight clips, a table, a run file; everything learns from zero.

The preset is the toy's, cut down until a step takes a moment.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import yaml
from processors.made_media import shade, tone, write_clip

NUM_CLIPS = 8
TOKENIZER = Path(__file__).parents[1] / "goldens" / "conversation" / "llama"
FRESH = {"weights": None, "trainable": True}
QFORMER = {"width": 16, "num_heads": 2, "ffn_width": 16, "num_queries": 2, "num_layers": 1}
MODEL = {
    "arch": "video_llama",
    "model_type": "toy",
    "tokenizer": str(TOKENIZER),
    "max_txt_len": 64,
    "branches": {
        "video": {
            "encoder": {**FRESH, "image_size": 16, "width": 16, "depth": 1, "num_heads": 2},
            "stages": {
                "ln_vision": None,
                "image_qformer": None,
                "video_qformer": {**FRESH, **QFORMER},
                "projection": FRESH,
            },
        },
        "audio": {
            "encoder": {**FRESH, "audio_width": 16, "audio_depth": 1, "audio_num_heads": 2},
            "stages": {"audio_qformer": {**FRESH, **QFORMER}, "projection": FRESH},
        },
    },
    "decoder": {
        **FRESH,
        "architecture": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 1000,
            "max_position_embeddings": 96,
        },
    },
}


def write_clips(folder: Path) -> Path:
    """Write clips page/0.mp4 .. page/7.mp4 of half a second with sound."""
    (folder / "page").mkdir(parents=True)
    for number in range(NUM_CLIPS):
        pictures = [shade(number + i, height=32, width=32) for i in range(4)]
        write_clip(folder / "page" / f"{number}.mp4", pictures, sound=tone(duration_s=0.5))
    return folder


def break_clips(folder: Path) -> None:
    """Cut one clip off, take another's sound away, leave one frame of a third, empty a fourth."""
    page = folder / "page"
    (page / "0.mp4").write_bytes((page / "0.mp4").read_bytes()[:300])
    write_clip(page / "1.mp4", [shade(1, height=32, width=32)] * 4)
    write_clip(page / "2.mp4", [shade(2, height=32, width=32)], sound=tone(duration_s=0.5))
    (page / "3.mp4").write_bytes(b"")


def write_project(folder: Path, *, streams: tuple[str, ...] = ("video", "audio")) -> Path:
    """Write clips, table and run file below a folder; return the run file."""
    clips = write_clips(folder / "clips")
    table = folder / "clips.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["videoid", "name", "page_dir"])
        rows.writerows((str(i), f"Clip number {i}.", "page") for i in range(NUM_CLIPS))
    entry = {"type": "webvid", "annotations": str(table), "media": str(clips)}
    tree: dict[str, Any] = {
        "model": MODEL,
        "datasets": {"clips": {**entry, "streams": list(streams)}},
        "run": {
            "task": "video_text_pretrain",
            "output_dir": str(folder / "out"),
            "device": "cpu",
            "iters_per_epoch": 2,
            "batch_size_train": 4,
            "log_freq": 1,
        },
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path
