"""What a run is validated on, how often, and which checkpoint is the best."""

from dataclasses import asdict, replace

import pytest
from tiny_run import build, config_of

from video_llama.common.dist import World
from video_llama.common.errors import ConfigError
from video_llama.common.schema import Config, DatasetEntry, RunConfig
from video_llama.common.valid import Valid
from video_llama.runners.checkpoint import read_state
from video_llama.runners.goal import Goal, check_goal
from video_llama.runners.metrics import read_lines
from video_llama.runners.retention import complete_checkpoints
from video_llama.tasks.video_text_pretrain import VideoTextPretrain

ALONE = World()


def a_config(valid, *, names=("clips", "talks"), **keys):
    datasets = {name: DatasetEntry("webvid", None, split="valid") for name in names}
    datasets["lessons"] = DatasetEntry("webvid", None, split="train")
    run = RunConfig(task="video_text_pretrain", output_dir="out", valid=valid, **keys)
    return Config(None, datasets, run)


def goal_of(valid, **keys):
    return Goal.of(a_config(valid, **keys), task=VideoTextPretrain())


class Accuracy(VideoTextPretrain):
    """Measures numbers from a list, of which greater ones are better."""

    def __init__(self, values):
        self.values = iter(values)

    def evaluate(self, model, batches):
        list(batches)
        return {"valid_loss": 1.0, "accuracy": next(self.values)}

    def metrics(self, datasets):
        return {"valid_loss": "lower", "accuracy": "higher"}


@pytest.mark.parametrize(
    ("valid", "told"),
    [
        (Valid(metric="valid_los"), "run.valid.metric: .*did you mean 'valid_loss'"),
        (Valid(metric="valid_loss/clip"), "did you mean 'valid_loss/clips'"),
        (Valid(datasets=("talk",)), "run.valid.datasets: .*did you mean 'talks'"),
        # It is there, but learnt from.
        (Valid(datasets=("lessons",)), "known: clips, talks"),
        (Valid(datasets=("clips",), metric="valid_loss/clips"), "known: valid_loss"),
    ],
)
def test_what_is_not_there_is_named_before_anything_is_built(valid, told):
    with pytest.raises(ConfigError, match=told):
        check_goal(a_config(valid))


def test_each_of_several_sets_has_a_loss_that_can_decide():
    assert goal_of(Valid(metric="valid_loss/talks")).direction == "lower"


@pytest.mark.parametrize(
    ("direction", "value", "best", "better"),
    [
        ("lower", 1.0, 2.0, True),
        ("lower", 2.0, 2.0, False),
        ("higher", 3.0, 2.0, True),
        ("higher", 1.0, 2.0, False),
        ("lower", 5.0, None, True),
        ("higher", float("nan"), None, False),
        ("lower", float("-inf"), 2.0, False),
    ],
)
def test_better_is_what_the_task_says(direction, value, best, better):
    goal = Goal("m", direction, every=1, terms={})
    assert goal.is_better(value, than=best) == better


def test_its_cadence_is_the_published_key_unless_the_block_has_one():
    assert goal_of(Valid(), valid_freq=3).every == 3
    assert goal_of(Valid(every="5 steps"), valid_freq=3).every == "5 steps"


@pytest.mark.parametrize("every", [0, "5 hours"])
def test_a_cadence_that_is_none_is_refused(every):
    with pytest.raises(ValueError, match="every must be at least 1 epoch"):
        Valid(every=every)


def aiming(out, valid, **keys):
    config = config_of(out, **keys)
    config.resolved["run"]["valid"] = {k: v for k, v in asdict(valid).items() if v is not None}
    return replace(config, run=replace(config.run, valid=valid))


def test_a_run_validates_by_steps_and_keeps_the_most_accurate(tmp_path):
    valid = Valid(every="3 steps", metric="accuracy")
    config = aiming(tmp_path, valid, save_freq=9)
    summary = build(config, ALONE, task=Accuracy([0.5, 0.75, 0.25])).train()
    lines = [line for line in read_lines(tmp_path / "metrics.jsonl") if line["kind"] == "valid"]
    assert [line["step"] for line in lines] == [3, 6, 8]
    assert (summary.state.best_metric, summary.state.best_step) == (0.75, 6)
    assert (tmp_path / "checkpoints/best").resolve().name == "step_0000006"


def test_a_checkpoint_holds_the_run_file_it_was_written_under(tmp_path):
    build(config_of(tmp_path, log_freq=1), ALONE, stop_before_step=6).train()
    config = config_of(tmp_path, log_freq=3, resume_ckpt_path="auto")
    build(config, ALONE).train()
    checkpoints = tmp_path / "checkpoints"
    logged = [
        read_state(path).config["run"]["log_freq"] for path in complete_checkpoints(checkpoints)
    ]
    assert logged[0] == 1
    assert logged[-1] == 3
    # Nothing that the metric is measured on has changed.
    assert read_state(checkpoints / "last").best_metric is not None


def test_the_best_of_another_metric_is_no_best(tmp_path):
    build(config_of(tmp_path, max_epoch=2), ALONE, task=Accuracy([0.0, 0.0])).train()
    back = str(tmp_path / "checkpoints/step_0000004")
    config = aiming(tmp_path, Valid(metric="accuracy"), resume_ckpt_path=back)
    summary = build(config, ALONE, task=Accuracy([0.25])).train()
    # 0.25 would not be lower than the loss of 1.0 that the checkpoint holds as the best.
    assert (summary.state.best_metric, summary.state.best_step) == (0.25, 8)
    assert summary.state.config["run"]["valid"] == {"metric": "accuracy"}
