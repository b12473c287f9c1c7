from pathlib import Path

import pytest
import torch

from video_llama.common import package_paths
from video_llama.common.errors import CheckpointMismatch, ConfigError
from video_llama.common.package_paths import symbolic
from video_llama.common.schema import RunConfig
from video_llama.runners.checkpoint import RunState
from video_llama.runners.resume import check_same_lengths, plan_start, tell_changes
from video_llama.runners.retention import save_checkpoint


def run_section(**changes):
    values = {"task": "t", "output_dir": "out", "max_epoch": 2, "iters_per_epoch": 10}
    return RunConfig(**{**values, "batch_size_train": 4, **changes})


def resolved(**changes):
    return {"model": {"arch": "a"}, "run": {"init_lr": 0.1, "num_workers": 0, **changes}}


def leave_run(folder, *, step, config=None):
    save_checkpoint(
        folder,
        weights={"w": torch.zeros(1)},
        optimizer={},
        state=RunState(
            step=step, steps_per_epoch=10, global_batch_size=8, config=config or resolved()
        ),
        keep_last=9,
    )


def test_an_empty_folder_is_a_fresh_start(tmp_path):
    for wanted in (None, "auto"):
        run = run_section(resume_ckpt_path=wanted)
        start = plan_start(tmp_path / "checkpoints", run=run, resolved=resolved(), world_size=2)
        assert (start.checkpoint, start.is_finished) == (None, False)


def test_auto_goes_on_from_the_newest(tmp_path):
    leave_run(tmp_path, step=5)
    leave_run(tmp_path, step=15)
    run = run_section(resume_ckpt_path="auto")
    start = plan_start(tmp_path, run=run, resolved=resolved(), world_size=2)
    assert start.state.step == 15


def test_a_half_done_run_is_not_overwritten_by_accident(tmp_path):
    leave_run(tmp_path, step=15)
    with pytest.raises(ConfigError, match="run.resume_ckpt_path=auto"):
        plan_start(tmp_path, run=run_section(), resolved=resolved(), world_size=2)


def test_a_finished_run_is_recognised(tmp_path):
    leave_run(tmp_path, step=20)
    start = plan_start(tmp_path, run=run_section(), resolved=resolved(), world_size=2)
    assert start.is_finished


def test_another_configuration_is_refused_with_every_difference(tmp_path):
    leave_run(tmp_path, step=20)
    other = {**resolved(init_lr=0.2), "datasets": {"webvid": {"type": "webvid"}}}
    with pytest.raises(ConfigError) as caught:
        plan_start(tmp_path, run=run_section(), resolved=other, world_size=2)
    assert "run.init_lr: 0.1 in the run, 0.2 now" in str(caught.value)
    assert "datasets.webvid.type: not set in the run, 'webvid' now" in str(caught.value)


def test_a_damaged_newest_is_passed_over_by_auto_and_refused_by_name(tmp_path):
    leave_run(tmp_path, step=5)
    leave_run(tmp_path, step=15)
    weights = tmp_path / "step_0000015" / "trainable.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    run = run_section(resume_ckpt_path="auto")
    start = plan_start(tmp_path, run=run, resolved=resolved(), world_size=2)
    assert start.state.step == 5
    run = run_section(resume_ckpt_path=str(weights.parent))
    with pytest.raises(CheckpointMismatch, match=r"trainable.safetensors: .* checksum differs"):
        plan_start(tmp_path, run=run, resolved=resolved(), world_size=2)


def test_harmless_changes_are_shown_in_a_table(caplog):
    caplog.set_level("INFO")
    state = RunState(
        step=5,
        steps_per_epoch=10,
        global_batch_size=8,
        config=resolved(),
        num_ranks=2,
        written_by={"versions": {"torch": "2.10.0", "av": "15.0"}},
    )
    now = {"versions": {"torch": "2.11.0", "av": "15.0"}}
    tell_changes(state, resolved=resolved(num_workers=4), written_by=now)
    rows = [line.split() for line in caplog.messages[-1].splitlines()[2:]]
    assert rows == [
        ["run.num_workers", "0", "4"],
        ["ranks", "2", "1"],
        ["torch", "2.10.0", "2.11.0"],
    ]


def test_nothing_is_said_where_nothing_changed(caplog):
    caplog.set_level("INFO")
    state = RunState(step=5, steps_per_epoch=10, global_batch_size=8, config=resolved())
    tell_changes(state, resolved=resolved(), written_by={})
    assert not caplog.messages


def test_an_installation_that_moved_goes_on(tmp_path, monkeypatch):
    def at(root):
        monkeypatch.setattr(package_paths, "ROOT", Path(root))
        return {"model": symbolic({"weights": f"{root}/foundations/toy", "ckpt": "/runs/a"})}

    state = RunState(step=5, steps_per_epoch=10, global_batch_size=8, config=at("/old/video_llama"))
    save_checkpoint(tmp_path, weights={"w": torch.zeros(1)}, optimizer={}, state=state, keep_last=1)
    run, now = run_section(resume_ckpt_path="auto"), at("/new/video_llama")
    assert plan_start(tmp_path, run=run, resolved=now, world_size=2).state.step == 5
    now["model"]["weights"] = "/old/video_llama/foundations/toy"
    with pytest.raises(ConfigError, match="model.weights"):
        plan_start(tmp_path, run=run, resolved=now, world_size=2)


def test_keys_that_teach_nothing_may_differ(tmp_path):
    leave_run(tmp_path, step=5)
    run = run_section(resume_ckpt_path="auto")
    now = resolved(num_workers=8, log_freq=3)
    assert plan_start(tmp_path, run=run, resolved=now, world_size=2).state.step == 5


@pytest.mark.parametrize("hints", [{"vit_model": "another address"}, {}, None])
def test_where_to_get_a_file_may_be_said_in_other_words(tmp_path, hints):
    leave_run(tmp_path, step=5)
    run = run_section(resume_ckpt_path="auto")
    now = resolved()
    now["model"]["where_from"] = hints
    assert plan_start(tmp_path, run=run, resolved=now, world_size=2).state.step == 5


def test_the_same_global_batch_on_another_number_of_ranks_goes_on(tmp_path):
    leave_run(tmp_path, step=5)
    run = run_section(resume_ckpt_path="auto", accum_grad_iters=2, iters_per_epoch=20)
    assert plan_start(tmp_path, run=run, resolved=resolved(), world_size=1).state.step == 5


def test_another_global_batch_is_refused_with_the_way_out(tmp_path):
    leave_run(tmp_path, step=5)
    run = run_section(resume_ckpt_path="auto")
    with pytest.raises(ConfigError, match="accum_grad_iters=2 run.iters_per_epoch=20"):
        plan_start(tmp_path, run=run, resolved=resolved(), world_size=1)


def released(**changes):
    return {**resolved(**changes), "model": {"arch": "a", "compat": "released"}}


def go_on_as_released(folder, *, world_size, **changes):
    """Go on with a run of 8 samples in 2 iterations a step, and 10 steps an epoch."""
    leave_run(folder, step=5, config=released(accum_grad_iters=2))
    run = run_section(resume_ckpt_path="auto", **changes)
    now = released(accum_grad_iters=run.accum_grad_iters)
    return plan_start(folder, run=run, resolved=now, world_size=world_size)


def test_a_released_run_refuses_another_accumulation_with_the_batch_size_that_keeps_its_own(
    tmp_path,
):
    with pytest.raises(ConfigError) as caught:
        go_on_as_released(tmp_path, world_size=2, batch_size_train=4)
    said = str(caught.value)
    assert "run.accum_grad_iters: 2 in the run, 1 now" in said
    assert "scales the gradient and counts the warm-up" in said
    assert said.endswith("run.accum_grad_iters=2 run.batch_size_train=2 run.iters_per_epoch=20")


def test_a_released_run_goes_on_where_the_batch_is_divided_among_more_ranks(tmp_path):
    keys = {"accum_grad_iters": 2, "batch_size_train": 1, "iters_per_epoch": 20}
    assert go_on_as_released(tmp_path, world_size=4, **keys).state.step == 5


def test_a_released_run_with_another_global_batch_is_told_no_other_accumulation(tmp_path):
    keys = {"accum_grad_iters": 2, "batch_size_train": 4, "iters_per_epoch": 20}
    with pytest.raises(ConfigError, match="set run.accum_grad_iters=2 run.batch_size_train=1 "):
        go_on_as_released(tmp_path, world_size=4, **keys)


def test_a_released_run_whose_batch_the_ranks_cannot_divide_is_told_how_many_could(tmp_path):
    with pytest.raises(ConfigError, match="take a number of ranks that divides 4$"):
        go_on_as_released(tmp_path, world_size=3, batch_size_train=4)


def begun_with(**lengths):
    return RunState(step=5, steps_per_epoch=10, global_batch_size=8, lengths=lengths)


def test_a_data_set_that_lost_a_row_is_refused_with_both_numbers():
    readers = {"clips": range(99), "talks": range(7)}
    with pytest.raises(
        ConfigError, match="datasets.clips: 99 samples, 100 when .* model.ckpt"
    ) as e:
        check_same_lengths(begun_with(clips=100, talks=7), readers=readers)
    assert "talks" not in str(e.value)


def test_data_sets_of_the_same_length_go_on_whatever_is_validated_on():
    readers = {"clips": range(100), "held_out": range(3)}
    check_same_lengths(begun_with(clips=100), readers=readers)


def test_a_run_begun_before_lengths_were_kept_goes_on():
    check_same_lengths(begun_with(), readers={"clips": range(99)})


def test_a_path_that_is_no_checkpoint_is_refused(tmp_path):
    run = run_section(resume_ckpt_path=str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointMismatch, match="there is no directory"):
        plan_start(tmp_path, run=run, resolved=resolved(), world_size=1)
