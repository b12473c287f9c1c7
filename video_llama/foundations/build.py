"""Makes the toy foundations part by part: eyes, ears, towers, the decoder with its tokenizer.

    OUT/eva_vit_g.safetensors, OUT/blip2_qformer.safetensors     from `vision`
    OUT/imagebind_huge.safetensors                               from `audio`
    OUT/languagebind_image.safetensors, ..._video.safetensors    from `towers`
    OUT/llama/                                                   from `decoder`
    OUT/foundations.json                                         seed, gates and cost of each part

A finished part is never made twice, so an interrupted run goes on with the part it was in.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from video_llama.common.errors import ConfigError
from video_llama.common.logger import get_logger
from video_llama.common.whole_files import write_whole
from video_llama.foundations.audio import train_audio
from video_llama.foundations.decoder import train_decoder
from video_llama.foundations.fit import Gate, Trained, write_curve
from video_llama.foundations.text_gate import text_gate
from video_llama.foundations.towers import train_towers
from video_llama.foundations.vision import train_vision
from video_llama.toy.held_out import GATED_KINDS

PARTS = ("vision", "audio", "towers", "decoder")
MANIFEST = "foundations.json"
DECODER_FOLDER = "llama"

TEXT_BAR, PAIR_TEXT_BAR = 0.98, 0.95
"""What the decoder must answer from text alone, or no branch could answer it."""


@dataclass(frozen=True)
class Part:
    """A finished part.

    Attributes:
        name: one of PARTS.
        cpu_s: what it cost, of this process.
        gates: what it reaches.
    """

    name: str
    cpu_s: float
    gates: tuple[Gate, ...]


def build_foundations(
    folder: Path, *, seed: int = 0, parts: tuple[str, ...] = PARTS, curves: Path | None = None
) -> list[Part]:
    """Make foundations, or what is missing of them.

    Args:
        folder: made if need be.
        seed: of everything.
        parts: of PARTS.
        curves: folder for the training curves as JSON lines; None for nowhere.

    Returns:
        The asked parts in the order of PARTS.

    Raises:
        ConfigError: the folder holds foundations of another seed.
    """
    manifest = _read_manifest(folder, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    for name in PARTS:
        if name not in parts or name in manifest["parts"]:
            continue
        get_logger().info("foundations: %s", name)
        start_s = time.process_time()
        gates = _MAKERS[name](folder, seed=seed, curves=curves)
        cost_s = round(time.process_time() - start_s, 1)
        manifest["parts"][name] = {"cpu_s": cost_s, "gates": [asdict(gate) for gate in gates]}
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return [
        Part(name, row["cpu_s"], tuple(Gate(**gate) for gate in row["gates"]))
        for name, row in ((name, manifest["parts"][name]) for name in PARTS if name in parts)
    ]


def _read_manifest(folder: Path, *, seed: int) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.exists():
        return {"seed": seed, "parts": {}}
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
    if manifest["seed"] != seed:
        raise ConfigError(
            f"the folder holds foundations of seed {manifest['seed']}, asked for is seed {seed}; "
            "choose another --out, or delete the folder",
            where=str(folder),
        )
    return manifest


def _make_vision(folder: Path, *, seed: int, curves: Path | None) -> tuple[Gate, ...]:
    return _keep(train_vision(seed=seed), folder=folder, name="vision", curves=curves)


def _make_audio(folder: Path, *, seed: int, curves: Path | None) -> tuple[Gate, ...]:
    return _keep(train_audio(seed=seed), folder=folder, name="audio", curves=curves)


def _make_towers(folder: Path, *, seed: int, curves: Path | None) -> tuple[Gate, ...]:
    return _keep(train_towers(seed=seed), folder=folder, name="towers", curves=curves)


def _make_decoder(folder: Path, *, seed: int, curves: Path | None) -> tuple[Gate, ...]:
    target = folder / DECODER_FOLDER
    curve = curves / "decoder_curve.jsonl" if curves else None
    train_decoder(target, seed=seed, curve_path=curve)
    return tuple(
        Gate(
            f"text alone: {row.kind}",
            row.accuracy,
            PAIR_TEXT_BAR if row.kind.startswith("pair_") else TEXT_BAR,
        )
        for row in text_gate(target, seed=seed)
        if row.kind in GATED_KINDS
    )


_MAKERS = {
    "vision": _make_vision,
    "audio": _make_audio,
    "towers": _make_towers,
    "decoder": _make_decoder,
}


def _keep(trained: Trained, *, folder: Path, name: str, curves: Path | None) -> tuple[Gate, ...]:
    """Write weights, each file all or nothing, and the curve; return the gates."""
    from safetensors.torch import save_file

    for file, tensors in trained.files.items():
        part = folder / f"{file}.part"
        save_file(dict(tensors), part)
        part.replace(folder / file)
    if curves is not None:
        write_curve(curves / f"{name}_curve.jsonl", trained.curve)
    return trained.gates
