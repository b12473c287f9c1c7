import json

import pytest

from video_llama.runners.metrics import MetricsLog, Window, drop_lines_after, read_lines
from video_llama.runners.step import StepRecord


def step(window, *, dataset, loss_sum, num_targets):
    record = StepRecord(
        step=0,
        dataset=dataset,
        lr=0.1,
        loss_sum=loss_sum,
        num_targets=num_targets,
        num_tokens=10,
        num_samples=2,
        grad_norm=0.5,
    )
    window.add(record)


def test_losses_are_means_over_tokens_not_over_steps():
    window = Window()
    step(window, dataset="clips", loss_sum=30.0, num_targets=10)
    step(window, dataset="clips", loss_sum=10.0, num_targets=30)
    step(window, dataset="talks", loss_sum=20.0, num_targets=10)
    record = window.record()
    assert record["loss"] == pytest.approx(60 / 50)
    assert record["loss/clips"] == pytest.approx(40 / 40)
    assert record["loss/talks"] == pytest.approx(20 / 10)


def test_a_step_without_supervised_tokens_is_no_division_by_zero():
    window = Window()
    step(window, dataset="clips", loss_sum=0.0, num_targets=0)
    assert window.record()["loss"] == 0.0


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert [line["step"] for line in read_lines(path)] == [1, 2]


def test_damage_before_the_last_line_is_not_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"ste\n{"step": 2}\n')
    with pytest.raises(json.JSONDecodeError):
        read_lines(path)


def test_going_back_drops_later_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {number}}}\n' for number in range(6)))
    drop_lines_after(path, step=3)
    assert [line["step"] for line in read_lines(path)] == [0, 1, 2, 3]


def test_a_log_goes_on_where_it_was_left(tmp_path):
    for start in (0, 1):
        log = MetricsLog(tmp_path, step=start)
        for number in (start + 1, start + 2):
            log.write(number, kind="train", values={"loss": 1 / number})
        log.close()
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[2] == {"step": 3, "kind": "train", "loss": 0.333333}


def test_tensorboard_files_lie_beside_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    log = MetricsLog(tmp_path, step=0)
    log.write(1, kind="train", values={"loss": 1.0})
    log.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))
