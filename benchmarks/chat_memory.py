"""Whether a conversation takes the memory that `video-llama plan --chat` says, at full size.

    python benchmarks/chat_memory.py --device cuda                    # a GPU: weights and peak
    python benchmarks/chat_memory.py --device cuda --bits 4bit --preset vicuna13b
    python benchmarks/chat_memory.py --device cpu --bits 4bit --layers 4   # a CPU: a decoder

Prints a row of `RESULTS.md`. No published file is needed: the decoder's is a file of zeros without
blocks on disk, read as any other; branches start from random values. Values change no size. On a
GPU 8 frames and 8 pieces of sound are encoded and 2,000 positions filled; the peak is the
allocator's. On a CPU the peak is that of the memory the process asked for while it loaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from video_llama.apps.plan_chat import ChatPlan, ChatPlanner
from video_llama.apps.plan_memory import CONTEXT_BYTES, GIB
from video_llama.common.config import load_preset
from video_llama.common.generation import GenerationSettings
from video_llama.common.logger import get_logger, start_logging
from video_llama.common.schema import FRESH, ModelConfig
from video_llama.common.types import MediaItem
from video_llama.models.decoders.placement import Placement
from video_llama.models.video_llm import VideoLLM
from video_llama.models.weight_sizes import held_bytes

POSITIONS = 2000
NEW_TOKENS = 32
ONE = b"\x80\x3f"
"""In bfloat16."""


class LoadingPeak(threading.Thread):
    """Watches the anonymous memory of this process, as Linux counts it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._start = self._now()
        self._most, self._runs = 0, True

    def run(self) -> None:
        """Look every few milliseconds."""
        while self._runs:
            self._most = max(self._most, self._now())
            time.sleep(0.005)

    def stop(self) -> int:
        """Return the most bytes above the start."""
        self._runs = False
        self.join()
        return self._most - self._start

    @staticmethod
    def _now() -> int:
        found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1]) * 1024


def main() -> None:
    """Print one row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="vicuna7b")
    parser.add_argument("--bits", choices=["none", "8bit", "4bit"], default="none")
    parser.add_argument("--layers", type=int, help="of the decoder, fewer than it has, for a CPU")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    start_logging()
    with tempfile.TemporaryDirectory() as folder:
        fewer = "model.decoder.architecture.num_hidden_layers"
        changes = [] if args.layers is None else [f"{fewer}={args.layers}"]
        config = config_of(args.preset, Path(folder), changes=changes)
        config = dataclasses.replace(config, low_resource=args.bits)
        if args.device == "cpu":
            measure_loading(dataclasses.replace(config, branches={}))
        else:
            measure_talking(config, device=args.device)


def config_of(preset: str, folder: Path, *, changes: Sequence[str] = ()) -> ModelConfig:
    """Return a preset whose decoder lies in a folder of zeros and whose branches are random."""
    parts = load_preset("video_llama", preset, options=changes)
    write_zeros(parts, folder)
    options = [*changes, f"model.llama_model={folder}"]
    for name, branch in parts.branches.items():
        options.append(f"model.branches.{name}.encoder.weights={FRESH}")
        options += [f"model.branches.{name}.stages.{s}.weights={FRESH}" for s in branch.stages]
    return load_preset("video_llama", preset, options=options)


def write_zeros(config: ModelConfig, folder: Path) -> None:
    """Write a decoder's directory whose weights are zeros that take no room."""
    decoder = config.decoder.config
    architecture = AutoConfig.for_model(**decoder.architecture)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(architecture)
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in network.state_dict().items():
        begin, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    architecture.save_pretrained(folder)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
        for entry in header.values():
            # Norms of zero would be taken for those of a delta.
            if len(entry["shape"]) == 1:
                file.seek(8 + len(text) + entry["data_offsets"][0])
                file.write(ONE * entry["shape"][0])


def measure_loading(config: ModelConfig) -> None:
    """Load the decoder on the CPU and compare its size with the plan, and the peak with both."""
    plan = ChatPlanner(config, positions=POSITIONS).plan(on_gpu=False)
    peak, start = LoadingPeak(), time.perf_counter()
    peak.start()
    model = VideoLLM(config, placement=Placement("cpu"))
    most, took = peak.stop(), time.perf_counter() - start
    show(config, plan, weights=held_bytes(model), peak=most)
    get_logger().info("loaded in %.0f s", took)


@torch.no_grad()
def measure_talking(config: ModelConfig, *, device: str) -> None:
    """Talk on a GPU until every position is in use."""
    plan = ChatPlanner(config, positions=POSITIONS).plan()
    model = VideoLLM(config, placement=Placement(device))
    (model.branches if config.low_resource != "none" else model).to(device)
    model.eval()
    media = model.encode_items(list(zero_items(model)))
    torch.cuda.reset_peak_memory_stats(device)
    media = model.encode_items(list(zero_items(model)))
    slots = [k for k, tokens in enumerate(media, start=1) for _ in range(len(tokens))]
    slots = [0, *slots] + [0] * (POSITIONS - NEW_TOKENS - 1 - len(slots))
    settings = GenerationSettings(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    cache = model.new_prompt_cache()
    answer = model.stream_prompt(
        input_ids=[1] * len(slots), slots=slots, media=media, settings=settings, cache=cache
    )
    assert len(list(answer)) == NEW_TOKENS
    peak = torch.cuda.max_memory_allocated(device)
    show(config, plan, weights=held_bytes(model), peak=peak)


def zero_items(model: VideoLLM) -> list[MediaItem]:
    """Return a clip and a sound of all their steps."""
    items = []
    for spec in model.branch_specs().values():
        steps = torch.zeros(spec.spec.num_steps, *spec.spec.step_shape)
        sounds = "audio" in spec.media
        items.append(
            MediaItem("audio", "zeros", mel=steps)
            if sounds
            else MediaItem("video", "zeros", pixels=steps)
        )
    return items


def show(config: ModelConfig, plan: ChatPlan, *, weights: int, peak: int) -> None:
    """Print planned and real sizes; the allocator does not see CUDA's own memory."""
    allowance = CONTEXT_BYTES if any("CUDA" in line.name for line in plan.lines) else 0
    get_logger().info(
        "| %s | %s | %d | %d | %.2f | %.2f |",
        config.model_type,
        config.low_resource,
        plan.weight_bytes,
        weights,
        (plan.total_bytes - allowance) / GIB,
        peak / GIB,
    )


if __name__ == "__main__":
    main()
