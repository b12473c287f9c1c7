import json
import math

import pytest
import torch

from video_llama.common.logger import get_logger
from video_llama.common.types import Batch, BatchItem, LossOutput
from video_llama.runners.metrics import (
    MetricsLog,
    Window,
    drop_lines_after,
    read_lines,
    train_numbers,
)
from video_llama.runners.modalities import MODALITIES, Loss, by_name, modality_of, sum_by_modality
from video_llama.runners.progress import ProgressBar, summary
from video_llama.runners.step import StepRecord


def record(**changes):
    values = {
        "step": 0,
        "lr": 0.1,
        "dataset": "clips",
        "loss_sum": 1.0,
        "num_targets": 1,
        "num_tokens": 10,
        "num_samples": 2,
        "grad_norm": 0.5,
    }
    return StepRecord(**{**values, **changes})


def step(window, *, dataset, loss_sum, num_targets, **changes):
    window.add(record(dataset=dataset, loss_sum=loss_sum, num_targets=num_targets, **changes))


def batch_of(*kinds):
    """Samples that hold these kinds of media."""
    items = [
        BatchItem("any", 0, 1, index, kind=kind)
        for index, group in enumerate(kinds)
        for kind in group
    ]
    empty = torch.zeros(len(kinds), 0)
    return Batch(empty, empty, empty, empty, items, {}, [str(i) for i in range(len(kinds))])


def numbers(window, *, scales=None, loss_scale=1.0, num_skipped=None, peak=None):
    return train_numbers(
        record(),
        window=window,
        scales=scales or {"decoder": 1.0},
        loss_scale=loss_scale,
        num_skipped=num_skipped or {},
        peak=peak,
    )


def test_losses_are_means_over_tokens_not_over_steps():
    window = Window()
    step(window, dataset="clips", loss_sum=30.0, num_targets=10)
    step(window, dataset="clips", loss_sum=10.0, num_targets=30)
    step(window, dataset="talks", loss_sum=20.0, num_targets=10)
    line = window.record()
    assert line["loss"] == pytest.approx(60 / 50)
    assert line["loss/clips"] == pytest.approx(40 / 40)
    assert line["loss/talks"] == pytest.approx(20 / 10)


def test_losses_by_modality_are_means_over_their_tokens():
    window = Window()
    video, talk = {"video": Loss(6.0, 2), "text": Loss(1.0, 1)}, {"video": Loss(2.0, 6)}
    step(window, dataset="clips", loss_sum=7.0, num_targets=3, modalities=video)
    step(window, dataset="clips", loss_sum=2.0, num_targets=6, modalities=talk)
    line = window.record()
    assert line["modality_loss/video"] == pytest.approx(8 / 8)
    assert line["modality_loss/text"] == pytest.approx(1.0)


def test_a_sample_belongs_to_all_kinds_it_holds_together():
    batch = batch_of((), ("video",), ("audio", "video"), ("image",), ("audio",))
    names = [MODALITIES[number] for number in modality_of(batch)]
    assert names == ["text", "video", "video+audio", "image", "audio"]


def test_losses_are_added_sample_by_sample():
    batch = batch_of(("video",), (), ("video",))
    output = LossOutput(
        loss_sum=torch.tensor(9.0),
        num_targets=torch.tensor(6),
        sample_loss=torch.tensor([2.0, 3.0, 4.0]),
        sample_targets=torch.tensor([1, 2, 3]),
    )
    sums = sum_by_modality([batch, batch], [output, output], like=torch.zeros(0).double())
    # Twice the same batch: 2 x (2 + 4) nats over 2 x (1 + 3) tokens with a clip.
    assert by_name(sums.tolist()) == {"video": Loss(12.0, 8), "text": Loss(6.0, 4)}


def test_a_step_without_supervised_tokens_is_no_division_by_zero():
    window = Window()
    step(window, dataset="clips", loss_sum=0.0, num_targets=0)
    assert window.record()["loss"] == 0.0


def test_utilisation_is_operations_over_time_and_peak(monkeypatch):
    monkeypatch.setattr("time.perf_counter", lambda: 104.0)
    window = Window(started_s=100.0)
    step(window, dataset="clips", loss_sum=1.0, num_targets=1, flops=3e12, num_items=6)
    step(window, dataset="clips", loss_sum=1.0, num_targets=1, flops=5e12, num_items=6)
    # 8 TFLOP in 4 s on a machine that could do 10 TFLOP/s.
    line = window.record(peak=10e12)
    assert line["mfu"] == pytest.approx(0.2)
    assert line["clips_per_s"] == pytest.approx(3.0)
    assert line["samples_per_s"] == pytest.approx(1.0)


def test_utilisation_of_an_unknown_machine_is_null(tmp_path):
    window = Window()
    step(window, dataset="clips", loss_sum=1.0, num_targets=1)
    log = MetricsLog(tmp_path, step=0)
    log.write(1, kind="train", values=window.record())
    log.close()
    assert '"mfu": null' in (tmp_path / "metrics.jsonl").read_text()


def test_rates_of_parts_are_written_if_they_differ():
    window = Window()
    step(window, dataset="clips", loss_sum=1.0, num_targets=1)
    line = numbers(window, scales={"branches.video.encoder": 0.1, "decoder": 1.0})
    assert line["lr/branches.video.encoder"] == pytest.approx(0.01)
    assert not [name for name in numbers(window) if name.startswith("lr/")]


def test_skips_are_counted_from_the_beginning_of_the_run():
    window = Window()
    step(window, dataset="clips", loss_sum=1.0, num_targets=1)
    line = numbers(window, num_skipped={"clips": 3, "talks": 1}, loss_scale=1024.0)
    assert (line["num_skipped"], line["num_skipped/clips"]) == (4, 3)
    assert line["loss_scale"] == 1024.0


def test_a_window_goes_on_after_it_was_kept_as_json():
    window = Window()
    losses = {"video": Loss(6.0, 2)}
    step(window, dataset="clips", loss_sum=6.0, num_targets=2, modalities=losses)
    kept = Window.restored(json.loads(json.dumps(window.sums())))
    step(kept, dataset="clips", loss_sum=2.0, num_targets=2, modalities={"video": Loss(2.0, 2)})
    assert kept.record()["modality_loss/video"] == pytest.approx(2.0)


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
    log.write(1, kind="train", values={"loss": 1.0, "mfu": None})
    log.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_a_person_sees_what_matters_in_one_line_and_the_most_important_in_a_short_one():
    values = {"loss": 2.312, "lr": 1e-4, "grad_norm": 0.84, "tokens_per_s": 411.6, "mfu": None}
    assert summary(values) == "loss 2.3120  lr 1.0e-04  norm 0.84  412 tok/s"
    assert summary({**values, "mfu": 0.34}, width=35) == "loss 2.3120  lr 1.0e-04  MFU 34%"
    assert summary(values, width=30) == "loss 2.3120  lr 1.0e-04"


def test_the_time_left_is_judged_by_the_last_steps(monkeypatch):
    now, lines = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr(get_logger(), "info", lambda text, *values: lines.append(text % values))
    bar = ProgressBar(num_steps=200, step=0)
    # The first step takes 1000 s, the others 2 s each.
    for number in range(1, 101):
        now[0] += 1000 if number == 1 else 2
        bar.advance(number)
    bar.show(100, values={"loss": 1.0})
    assert lines == ["step 100/200  loss 1.0000  0:03:20 left"]


def test_what_is_not_finite_is_null_in_the_file(tmp_path):
    log = MetricsLog(tmp_path, step=0)
    log.write(1, kind="valid", values={"valid_loss": math.nan, "grad_norm": math.inf, "lr": 0.5})
    log.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text)["valid_loss"] is None
    assert json.loads(text)["lr"] == 0.5
