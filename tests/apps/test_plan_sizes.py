"""`video-llama plan`: memory by hand, verdicts, time, exit codes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from video_llama.apps.main import main
from video_llama.apps.plan_memory import (
    Sharding,
    Weights,
    largest_batch,
    memory_lines,
    sharding_of,
    total,
)
from video_llama.apps.plan_run import Machine, disk_lines, run_time
from video_llama.apps.plan_steps import StepCost, StepMemory
from video_llama.common.config import load
from video_llama.common.errors import UnknownName
from video_llama.common.gpus import GPUS, gpu_named, recognise
from video_llama.models.video_llm import VideoLLM

CONFIGS = Path(__file__).parents[2] / "train_configs"
TOY = CONFIGS / "toy" / "visionbranch_stage1_pretrain.yaml"
GIB = 2**30
# Two billion frozen bfloat16 weights, a hundred million that learn.
WEIGHTS = Weights({"bfloat16": 4 * 10**9}, num_trainable=10**8, num_params=21 * 10**8)


def sizes(**sharding):
    lines = memory_lines(
        WEIGHTS, sharding=Sharding(**sharding), activation_bytes=10**9, logit_bytes=10**8
    )
    return {line.name: line.size for line in lines}


def step(dataset, *, share=1.0, fresh, cached):
    return StepCost(
        dataset=dataset,
        share=share,
        takes={},
        flops={"bfloat16": fresh},
        cached_flops={"bfloat16": cached},
        memory=StepMemory(0, 0),
        recomputed_bytes=0,
    )


def test_ddp_keeps_everything_on_every_gpu():
    found = sizes(world_size=8)
    assert found["frozen weights, bfloat16"] == 4 * 10**9
    assert found["trained weights, float32"] == 4 * 10**8
    assert found["gradients, float32"] == 4 * 10**8
    assert found["AdamW's moments, float32"] == 8 * 10**8
    assert found["activations"] + found["logits"] == 10**9


def test_each_stage_of_zero_divides_one_thing_more():
    # Beside two moments, DeepSpeed steps on a float32 copy of the weights.
    optimizer = "AdamW's moments and weights, float32"
    one, two, three = (sizes(stage=stage, world_size=8) for stage in (1, 2, 3))
    assert one[optimizer] == 12 * 10**8 // 8
    assert (one["gradients, float32"], two["gradients, float32"]) == (4 * 10**8, 4 * 10**8 // 8)
    assert two["frozen weights, bfloat16"] == 4 * 10**9
    assert three["frozen weights, bfloat16"] == 4 * 10**9 // 8
    # A billion of the 2.1 billion weights may be there at once.
    assert three["weights gathered for use"] == pytest.approx(4.4e9 / 2.1, rel=1e-6)


def test_what_is_offloaded_is_not_on_the_gpu():
    found = sizes(stage=3, world_size=2, moments_on_host=True, weights_on_host=True)
    assert not [name for name in found if "moments" in name or "frozen" in name]


def test_the_engine_of_a_run_file_decides_what_is_divided():
    options = ["run.engine=deepspeed", "run.zero.stage=3", "run.zero.offload_optimizer=cpu"]
    run = load(TOY, options=options).run
    assert sharding_of(run, world_size=4) == Sharding(3, 4, moments_on_host=True)
    assert sharding_of(load(TOY).run, world_size=4) == Sharding(0, 4)


def test_the_largest_batch_fills_the_gpu_and_no_more():
    gpu = GPUS["l4"]

    def lines(batch):
        return memory_lines(
            WEIGHTS, sharding=Sharding(), activation_bytes=batch * 10**9, logit_bytes=0
        )

    most = largest_batch(lines(4), activation_bytes=4 * 10**9, batch=4, gpu=gpu)
    assert total(lines(most)) <= gpu.memory_mib * 2**20 < total(lines(most + 1))


def test_time_is_operations_over_what_the_gpu_reaches():
    config = load(TOY, options=["run.max_epoch=1", "run.iters_per_epoch=100"])
    # 312 TFLOP/s at 50 %: 156 TFLOP take a second.
    machine = Machine(GPUS["a100-80gb"], world_size=8, mfu=0.5)
    steps = [
        step("a", share=0.75, fresh=156e12, cached=0),
        step("b", share=0.25, fresh=312e12, cached=0),
    ]
    time = run_time(config, steps=steps, machine=machine, lengths={})
    assert time.num_steps == 100
    assert time.step_s == pytest.approx(0.75 * 1 + 0.25 * 2)
    assert time.total_s == pytest.approx(125)


def test_features_are_computed_once_if_there_is_a_cache():
    options = ["run.max_epoch=1", "run.iters_per_epoch=100", "run.batch_size_train=10"]
    config = load(TOY, options=[*options, "run.feature_cache=cache"])
    machine = Machine(GPUS["a100-80gb"], world_size=1, mfu=0.5)
    steps = [step("a", fresh=156e12, cached=39e12)]
    # 1000 samples are seen, 250 different ones: three quarters come from the cache.
    time = run_time(config, steps=steps, machine=machine, lengths={"a": 250})
    assert time.share_cached == pytest.approx(0.75)
    assert time.step_s == pytest.approx(0.25 * 1 + 0.75 * 0.25)


def test_checkpoints_hold_what_learns_and_its_moments():
    config = load(TOY, options=["run.keep_last=3"])
    lines = disk_lines(config, weights=WEIGHTS, steps=[], specs={}, lengths={}, world_size=2)
    assert lines[0].size == 5 * 12 * 10**8


def test_features_on_disk_are_items_times_real_steps_at_the_frontier():
    config = load(TOY)
    with torch.device("meta"):
        specs = VideoLLM(config.model).branch_specs()
    pictures = dataclasses.replace(step("pictures", fresh=0, cached=0), takes={"video": 1})
    clips = dataclasses.replace(step("clips", fresh=0, cached=0), takes={"video": 8})
    sizes = {
        line.name: line.size
        for line in disk_lines(
            config,
            weights=WEIGHTS,
            steps=[pictures, clips],
            specs=specs,
            lengths={"pictures": 100, "clips": 10},
            world_size=2,
        )
    }
    # The image Q-Former is the last frozen part: 8 queries of width 96 a frame, float32.
    assert sizes["feature cache, pictures"] == 100 * 1 * 8 * 96 * 4
    assert sizes["feature cache, clips"] == 10 * 8 * 8 * 96 * 4


def test_a_gpu_without_bfloat16_is_no_place_for_a_run_in_it(capsys):
    words = ["--cfg-path", str(TOY), "--gpu", "t4", "--no-files"]
    assert main(["plan", *words, "--options", "run.precision=bf16"]) == 2
    assert "has no bfloat16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("Tesla T4", "t4"),
    ],
)
def test_a_drivers_name_is_recognised(device, name):
    assert recognise(device) is GPUS[name]


@pytest.mark.parametrize(
    "device",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GH200 480GB",
        "NVIDIA H200 NVL",
        "NVIDIA H200 MIG 1g.18gb",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "AMD Instinct MI250X",
        "",
    ],
)
def test_an_unknown_gpu_is_not_taken_for_another(device):
    assert recognise(device) is None


def test_a_wrong_name_of_a_gpu_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'a100-80gb'"):
        gpu_named("a100-80g")


def test_a_small_run_fits_and_its_costs_are_shown(capsys):
    words = ["--cfg-path", str(TOY), "--gpus", "2", "--gpu", "t4", "--no-files"]
    assert main(["plan", *words]) == 0
    said = capsys.readouterr().out
    assert "fits" in said
    assert "1,600 optimizer steps" in said
    assert "not measured" in said


def test_a_run_that_does_not_fit_is_told_what_to_change(capsys):
    words = ["--cfg-path", str(TOY), "--gpus", "2", "--gpu", "t4", "--no-files"]
    assert main(["plan", *words, "--options", "run.batch_size_train=8000"]) == 2
    said = capsys.readouterr().out
    assert "does not fit" in said
    assert "run.batch_size_train=" in said
    assert "gradient_checkpointing=true" in said


def test_as_published_a_run_that_does_not_fit_is_told_to_take_more_gpus(capsys):
    words = ["--cfg-path", str(TOY), "--gpus", "2", "--gpu", "t4", "--no-files"]
    options = ["run.batch_size_train=8000", "model.compat=released"]
    assert main(["plan", *words, "--options", *options]) == 2
    said = " ".join(capsys.readouterr().out.split())
    (batch_size, num_gpus) = map(int, re.search(r"=(\d+) fits; on (\d+) GPUs", said).groups())
    assert (num_gpus - 1) * batch_size < 2 * 8000 <= num_gpus * batch_size
    assert "run.accum_grad_iters" not in said


def test_a_file_that_trains_on_nothing_is_told_so(capsys):
    path = CONFIGS.parent / "eval_configs" / "toy" / "only_vl.yaml"
    assert main(["plan", "--cfg-path", str(path), "--no-files"]) == 2
    assert "datasets: none has split: train" in capsys.readouterr().err


def test_missing_files_alone_are_reason_enough_not_to_start(capsys):
    words = ["--cfg-path", str(TOY), "--gpus", "1", "--gpu", "t4"]
    options = ["--options", "datasets.webvid.annotations=nothing.csv"]
    assert main(["plan", *words, *options]) == 2
    said = capsys.readouterr().out
    assert "fits" in said
    assert "nothing.csv" in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gpus", "0"], "--gpus 0"),
        (["--mfu", "1.5"], "--mfu"),
        (["--gpu", "a100"], "no GPU is called 'a100'"),
    ],
)
def test_flags_that_describe_nothing_are_refused(flags, said, capsys):
    assert main(["plan", "--cfg-path", str(TOY), *flags]) == 2
    assert said in capsys.readouterr().err
