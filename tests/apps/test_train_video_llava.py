"""Video-LLaVA's recipes from end to end: alignment, then adapters or the whole decoder, then
somebody asks the result.

The shipped recipes with narrow random towers and decoder in published files, and generated media.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from narrow_video_llava import OPTIONS, write_files
from PIL import Image
from processors.made_media import shade, write_clip
from safetensors.torch import load_file

from video_llama import load_chat
from video_llama.apps.checks import named_files
from video_llama.apps.main import main
from video_llama.apps.train import train
from video_llama.common.config import load
from video_llama.common.generation import GenerationSettings
from video_llama.runners.ledger import read_entry
from video_llama.runners.metrics import read_lines

pytest.importorskip("peft")
pytestmark = pytest.mark.slow

ALIGN = "train_configs/video_llava_stage1_align.yaml"
LORA = "train_configs/video_llava_stage2_lora.yaml"
WHOLE = "train_configs/video_llava_stage2_finetune.yaml"
SMALL = [
    "run.device=cpu", "run.precision=fp32", "run.num_workers=0", "run.log_freq=1",
    "run.batch_size_train=2", "run.decode_timeout_s=null",
    # Fewer positions, as a tower of 224 pixels takes its time here.
    "model.branches.video.encoder.num_frames=2",
]  # fmt: skip
PROJECTION = "branches.image.stages.projection"


def row(number, *, marks, answer, **files):
    question = f"{marks}\nWhat is it?" if marks else "What is it?"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": str(number), "conversations": turns, **files}


def write_data(folder: Path) -> list[str]:
    """Write two pictures, two clips and the rows about them; return options that name them."""
    rng = np.random.default_rng(0)
    for number in range(2):
        colours = rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)
        Image.fromarray(colours).save(folder / f"{number}.png")
        write_clip(
            folder / f"{number}.mp4", [shade(number + i, height=32, width=32) for i in range(4)]
        )
    pictures = [row(n, marks="<image>", answer=f"Noise {n}.", image=f"{n}.png") for n in range(2)]
    clips = [row(n, marks="<video>", answer=f"A shade {n}.", video=f"{n}.mp4") for n in range(2)]
    both = row(9, marks="<video><image>", answer="Both.", video="0.mp4", image="1.png")
    texts = [row(n, marks="", answer=f"Nothing {n}.") for n in range(2)]
    files = {
        "alignment": [("llava_image_", pictures), ("valley_", clips)],
        "instructions": [
            ("llava_image_tune_", pictures), ("videochatgpt_tune_", [*clips, both]),
            ("nlp_tune", texts),
        ],
    }  # fmt: skip
    options = []
    for name, parts in files.items():
        paths = [folder / f"{stem}.json" for stem, _ in parts]
        for path, (_, rows) in zip(paths, parts, strict=True):
            path.write_text(json.dumps(rows))
        options.append(f"datasets.{name}.annotations=[{','.join(map(str, paths))}]")
        options.append(f"datasets.{name}.media={folder}")
    return options


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the folders of both runs and the options that name the files."""
    folder = tmp_path_factory.mktemp("video_llava")
    files = write_files(folder / "files")
    alignment, instructions = (
        [option for option in write_data(folder) if f".{name}." in option]
        for name in ("alignment", "instructions")
    )
    first, second = folder / "stage1", folder / "lora"
    common = [*files, *SMALL]
    own = [option for option in common if "mm_projector" not in option]
    options = [*own, *alignment, f"run.output_dir={first}"]
    assert train(load(ALIGN, options=options)).is_finished
    sizes = ["model.decoder.lora.rank=2", "run.init_lr=0.01", "run.max_epoch=2"]
    options = [*own, *instructions, *sizes, f"run.output_dir={second}", f"model.ckpt={first}"]
    assert train(load(LORA, options=options)).is_finished
    return first, second, own


def trained(run):
    return load_file(run / "checkpoints" / "last" / "trainable.safetensors")


@pytest.mark.parametrize("recipe", [ALIGN, LORA])
def test_a_dry_run_shows_places_and_every_missing_file(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--cfg-path", recipe, "--dry-run"]) == 2
    said = capsys.readouterr().out
    assert "2312 slots of 3072 positions (max_txt_len); context 4096" in said
    config = load(recipe)
    (entry,) = config.datasets.values()
    wanted = [path for _, path in named_files(config.model)]
    wanted += [*entry.config.annotations, entry.config.media]
    assert len(wanted) == (6 if recipe == ALIGN else 8)
    assert all(f"there is no {path}" in said for path in wanted)


def test_one_pass_aligns_the_projection_alone(runs):
    first, _, _ = runs
    steps = [line["step"] for line in read_lines(first / "metrics.jsonl") if "loss" in line]
    assert steps == [1, 2]
    seen = {s.trace.key for step in steps for s in read_entry(first, step=step).samples}
    assert len(seen) == 4
    assert all(name.startswith(PROJECTION) for name in trained(first))


def test_adapters_learn_with_the_aligned_projection_on_rows_of_every_kind(runs):
    first, second, _ = runs
    names = set(trained(second))
    assert {name for name in names if ".lora_" not in name} == set(trained(first))
    # Seven layers in each of two blocks, two matrices each.
    assert sum(".lora_" in name for name in names) == 2 * 7 * 2
    assert any(not trained(second)[n].equal(t) for n, t in trained(first).items())
    lines = [line for line in read_lines(second / "metrics.jsonl") if "loss" in line]
    # Seven rows, two a step: 3.5 batches a pass, so 4, twice.
    assert len(lines) == 8
    assert sum(line["loss"] for line in lines[4:]) < sum(line["loss"] for line in lines[:4])
    media = [
        {sample.trace.media[0].kind if sample.trace.media else "text" for sample in entry.samples}
        for entry in (read_entry(second, step=line["step"]) for line in lines)
    ]
    assert {"text", "image", "video"} == set().union(*media)


def test_the_whole_decoder_learns_with_the_aligned_projection(runs):
    first, _, own = runs
    folder = first.parent
    data = [option for option in write_data(folder) if ".instructions." in option]
    out = folder / "whole"
    sizes = ["run.engine=ddp", "run.zero=null", "run.max_epoch=1", "run.iters_per_epoch=2"]
    options = [*own, *data, *sizes, f"run.output_dir={out}", f"model.ckpt={first}"]
    assert train(load(WHOLE, options=options)).is_finished
    assert len([line for line in read_lines(out / "metrics.jsonl") if "loss" in line]) == 2
    learned = trained(out)
    start = {**trained(first), **decoder_before(folder)}
    assert set(learned) == set(start)
    assert [name for name in start if learned[name].equal(start[name])] == []


def decoder_before(folder):
    """Return the decoder's file by the names of a checkpoint."""
    state = load_file(folder / "files" / "llama" / "model.safetensors")
    return {f"decoder.model.{name}": tensor for name, tensor in state.items()}


def test_the_parts_learn_at_their_own_rates(runs):
    _, second, _ = runs
    line = read_lines(second / "metrics.jsonl")[2]
    rates = {name: value for name, value in line.items() if name.startswith("lr")}
    of_projection = next(value for name, value in rates.items() if "projection" in name)
    of_decoder = next(value for name, value in rates.items() if "decoder" in name)
    assert of_projection / of_decoder == pytest.approx(2e-5 / 0.01, rel=1e-4)


def test_what_was_trained_is_talked_to(runs):
    _, second, own = runs
    picture, clip = second.parent / "0.png", second.parent / "0.mp4"
    chat = load_chat(second)
    assert chat.template.name == "vicuna_v1"
    chat.upload(picture)
    chat.upload(clip)
    prompt = chat.lay_out("What is it?").prompt
    assert [prompt.slots.count(number) for number in (1, 2)] == [256, 2 * 257]
    said = chat.ask("What is it?", settings=GenerationSettings(max_new_tokens=6))
    assert isinstance(said, str)
    assert len(OPTIONS) < len(own)
