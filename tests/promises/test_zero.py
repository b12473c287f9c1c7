"""Promise: ZeRO 1, 2 and 3 learn what DDP learns, go on from each other, and never wait forever.

All runs of two ranks share one start of two processes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
import yaml
from PIL import Image
from promises.launch import as_torchrun, run_ranks
from promises.recorded_task import samples_in_order
from promises.small_project import conversation, conversations, write_project
from promises.zero_worker import QUESTIONED, Job, ask, run_jobs, train_job
from safetensors.torch import load_file

from video_llama.common.dist import World
from video_llama.runners.metrics import read_lines

pytestmark = pytest.mark.slow
NUM_STEPS, HALF = 20, 10
TOLERANCE = 1e-5
STAGES = (1, 2, 3)
KINDS = ("text", "video", "audio", "both") * 2 + ("image", "image", "text", "text")
"""Of the rows of `own`."""


def zero(stage: int, **offload: str) -> tuple[str, ...]:
    """Return the options of a run with DeepSpeed."""
    keys = {"stage": stage, **offload}
    return ("run.engine=deepspeed", *(f"run.zero.{key}={value}" for key, value in keys.items()))


ALL_LEARNS = (
    "model.branches.video.encoder.trainable=true",
    "model.branches.audio.encoder.trainable=true",
    "model.decoder.trainable=true",
    "model.decoder.lora=null",
    "run.max_epoch=2",
)
JOBS = [
    Job("ddp"),
    *(Job(f"zero_{stage}", zero(stage)) for stage in STAGES),
    *(Job(f"zero_{stage}_again", zero(stage), (f"zero_{stage}", HALF)) for stage in STAGES),
    Job("zero_3_then_ddp", (), ("zero_3", HALF)),
    Job("ddp_then_zero_3", zero(3), ("ddp", HALF)),
    Job("zero_1_then_2", zero(2), ("zero_1", HALF)),
    Job(
        "zero_3_recomputed",
        (*zero(3), "model.decoder.gradient_checkpointing=true"),
        from_step=("zero_3", HALF),
    ),
    Job("moments_on_the_host", zero(2, offload_optimizer="cpu")),
    Job(
        "all_on_the_host",
        zero(3, offload_optimizer="cpu", offload_parameters="cpu"),
        from_step=("zero_3", HALF),
    ),
    Job("all_learns_ddp", ALL_LEARNS),
    Job("all_learns_zero_3", zero(3) + ALL_LEARNS),
]


def add_pictures(run_file):
    """Let `own` have two rows about a picture and two more of text."""
    Image.new("RGB", (20, 12), (200, 10, 10)).save(run_file.parent / "clips" / "picture.png")
    more = [
        conversation(number, kinds=[KINDS[number]] if number < 10 else [], path="picture.png")
        for number in range(8, len(KINDS))
    ]
    rows = map(json.dumps, conversations() + more)
    (run_file.parent / "own.jsonl").write_text("\n".join(rows))


def freeze(run_file):
    """Freeze the encoders, and the decoder but for its adapters, as in the recipes."""
    tree = yaml.safe_load(run_file.read_text())
    for branch in tree["model"]["branches"].values():
        branch["encoder"] |= {"weights": "fresh", "trainable": False}
    tree["model"]["decoder"] |= {
        "weights": "fresh",
        "trainable": ["*lora_*"],
        "lora": {"rank": 2},
    }
    own = tree["datasets"]["own"]
    # Three samples for two ranks: one of them has a batch less.
    tree["datasets"]["valid"] = {**own, "split": "valid", "max_samples": 3}
    tree["run"] |= {
        # Of which the batches below come.
        "seed": 4,
        "batch_size_eval": 1,
        "valid_freq": 2,
        "save_freq": f"{HALF} steps",
        "keep_last": 9,
        "accum_grad_iters": 2,
        "iters_per_epoch": 2 * NUM_STEPS // 4,
        "init_lr": 3.0e-3,
        "weight_decay": 0.1,
        "grad_clip_norm": 0.5,
    }
    run_file.write_text(yaml.safe_dump(tree))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Return the run file, with all jobs done in folders beside it."""
    run_file = write_project(tmp_path_factory.mktemp("zero"), iters=4, batch_size=1)
    freeze(run_file)
    add_pictures(run_file)
    logs = run_file.parent / "logs"
    run_ranks(partial(run_jobs, run_file, JOBS), worlds=as_torchrun(2), logs=logs)
    return run_file


def numbers(project, name):
    """Return loss and gradient norm of every step, and the losses of the validations."""
    lines = read_lines(project.parent / name / "metrics.jsonl")
    return [
        (line["step"], line.get("loss", line.get("valid_loss")), line.get("grad_norm", 0))
        for line in lines
    ]


def stored(project, name, step=NUM_STEPS):
    """Return weights and moments of a checkpoint."""
    folder = project.parent / name / "checkpoints" / f"step_{step:07d}"
    files = ("trainable.safetensors", "optimizer.safetensors")
    return {key: tensor for file in files for key, tensor in load_file(folder / file).items()}


def assert_same_curve(left, right):
    """Compare numbers of two runs from where the shorter one starts."""
    right = right[-len(left) :]
    assert [step for step, _, _ in left] == [step for step, _, _ in right]
    for (_, *ours), (_, *theirs) in zip(left, right, strict=True):
        assert ours == pytest.approx(theirs, rel=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "same_as"),
    [
        *((f"zero_{stage}", "ddp") for stage in STAGES),
        ("moments_on_the_host", "ddp"),
        ("all_learns_zero_3", "all_learns_ddp"),
    ],
)
def test_it_learns_what_ddp_learns(project, name, same_as):
    ours, theirs = numbers(project, name), numbers(project, same_as)
    steps = [step for step, _, norm in ours if norm]
    assert steps == list(range(1, (NUM_STEPS if same_as == "ddp" else HALF) + 1))
    assert_same_curve(ours, theirs)


@pytest.mark.parametrize("stage", STAGES)
def test_resumed_it_is_the_same_to_the_bit(project, stage):
    ours, whole = numbers(project, f"zero_{stage}_again"), numbers(project, f"zero_{stage}")
    assert len(ours) >= HALF
    assert ours == whole[-len(ours) :]
    left, right = stored(project, f"zero_{stage}_again"), stored(project, f"zero_{stage}")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    "name",
    ["zero_3_then_ddp", "ddp_then_zero_3", "zero_1_then_2", "zero_3_recomputed", "all_on_the_host"],
)
def test_a_run_moves_between_engines_and_stages(project, name):
    ours = numbers(project, name)
    assert len(ours) >= HALF
    assert_same_curve(ours, numbers(project, "ddp"))


def test_a_run_of_stage_3_goes_on_in_one_process(project):
    options = ("run.batch_size_train=2",)
    train_job(project, Job("alone", options, ("zero_3", HALF)), world=World())
    ours = numbers(project, "alone")
    assert len(ours) >= HALF
    assert_same_curve(ours, numbers(project, "ddp"))


def test_a_checkpoint_says_nothing_of_the_engine(project):
    ddp = stored(project, "ddp", HALF)
    for stage in STAGES:
        ours = stored(project, f"zero_{stage}", HALF)
        assert {name: t.shape for name, t in ours.items()} == {n: t.shape for n, t in ddp.items()}
        # A bias of attention keys changes nothing: its gradient is rounding, which Adam blows up.
        names = [name for name in ddp if "key.bias" not in name]
        assert all(torch.allclose(ours[name], ddp[name], atol=1e-5) for name in names)


def test_ranks_may_ask_a_divided_model_different_things(project):
    alone = replace(QUESTIONED, name="questioned_alone", options=("run.batch_size_train=2",))
    left, right = (json.loads((project.parent / f"said{rank}.json").read_text()) for rank in (0, 1))
    for rank, said in enumerate((left, right)):
        assert said["after"] == said["before"]
        assert len(said["ids"][0]) in range(3, 3 + 3 * rank + 1)
    whole = ask(project, alone, world=World())
    for key in ("before", "loss", "score"):
        assert left[key] == pytest.approx(whole[key], rel=TOLERANCE)
    assert left["ids"] == whole["ids"]


def test_float16_overflows_and_steps_left_out_are_those_of_ddp(project):
    ddp, *stages = json.loads((project.parent / "halves0.json").read_text())
    scales = [scale for _, scale, _ in ddp]
    assert scales == [2.0**15, 2.0**14, 2.0**14, 2.0**14, 2.0**14, 2.0**14]
    assert [norm for norm, _, _ in ddp[2:]] == [5 / 8, 5 / 4, 5 / 8, 5 / 2]
    assert ddp[0][2] == ddp[1][2] == [1.0, 1.0]
    assert ddp[3][2] == ddp[4][2] != ddp[5][2]
    for stage in stages:
        for ours, theirs in zip(stage, ddp, strict=True):
            assert ours[:2] == theirs[:2]
            assert ours[2] == pytest.approx(theirs[2], rel=1e-6)


def collectives(project, name):
    """Return what each of the two ranks asked of the other."""
    folder = project.parent / name
    return [json.loads((folder / f"collectives{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", ["zero_3", "zero_3_again", "all_on_the_host", "all_learns_zero_3"])
def test_ranks_with_different_batches_ask_the_same_of_each_other(project, name):
    left, right = collectives(project, name)
    gathers = [call for call in left if call[0] == "all_gather_into_tensor"]
    assert len(gathers) > NUM_STEPS
    assert left == right


def test_the_batches_were_different(project):
    ranks = [
        (project.parent / "zero_3" / "record" / f"rank{rank}.jsonl").read_text().splitlines()
        for rank in (0, 1)
    ]
    met = set()
    for left, right in zip(*ranks, strict=True):
        dataset, first = json.loads(left)
        _, second = json.loads(right)
        if dataset == "own":
            met.add((KINDS[int(first)], KINDS[int(second)]))
        else:
            met.add((dataset, dataset))
    assert set(KINDS) <= {kind for pair in met for kind in pair}
    assert ("text", "text") in met
    assert {("video", "both"), ("both", "video")} & met
    assert {("both", "both"), ("silent", "silent")} <= met
    assert any("audio" in pair and set(pair) & {"text", "video"} for pair in met)
    assert samples_in_order(project.parent / "zero_3" / "record") == samples_in_order(
        project.parent / "ddp" / "record"
    )


def test_the_run_folder_shows_what_deepspeed_was_told(project):
    told = json.loads((project.parent / "moments_on_the_host" / "deepspeed.json").read_text())
    assert told["zero_optimization"]["stage"] == 2
    assert told["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert told["gradient_accumulation_steps"] == 2
    assert not (project.parent / "ddp" / "deepspeed.json").exists()
