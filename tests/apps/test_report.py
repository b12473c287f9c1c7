"""The report is one readable page made from what runs leave behind."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video_llama.apps.report import group_of, label_of, write_report
from video_llama.apps.report_charts import Series, line_chart, ticks
from video_llama.apps.report_clips import MEL_COLOURS, colour_mel, draw_strip
from video_llama.common.errors import ConfigError
from video_llama.tasks.predictions import NO_PROBE, Prediction, Shown
from video_llama.tasks.scoreboard import score, to_metrics
from video_llama.toy.codec import encode_mp4


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip of 2 s that gets brighter, with a tone."""
    frames = np.stack([np.full((64, 64, 3), 10 * i, dtype=np.uint8) for i in range(16)])
    seconds = np.arange(32000) / 16000
    path = tmp_path_factory.mktemp("media") / "brighter.mp4"
    wave = (0.3 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    path.write_bytes(encode_mp4(frames, frames_per_s=8, waveform=wave))
    return path


@pytest.fixture
def output(tmp_path, clip):
    """One run and two evaluations, the second one worse."""
    run = tmp_path / "out" / "stage1"
    run.mkdir(parents=True)
    lines = [{"step": s, "kind": "train", "loss": 2.0 / s, "lr": 0.1} for s in (10, 20, 30)]
    lines.append({"step": 30, "kind": "valid", "valid_loss": 0.125})
    run.joinpath("metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    shown = (Shown("video", str(clip)), Shown("audio", str(clip)))
    for position, (name, num_right) in enumerate([("test", 9), ("composition", 5)]):
        answers = [
            Prediction(
                f"q{i}",
                probe,
                kind,
                "open",
                "<What> colour?",
                "red",
                "red" if i < num_right and probe == NO_PROBE else "blue & white",
                i < num_right and probe == NO_PROBE,
                media=shown,
            )
            for kind in ("colour", "pair_colour")
            for probe in (NO_PROBE, "no_media")
            for i in range(10)
        ]
        folder = tmp_path / "out" / "evaluation" / name
        folder.mkdir(parents=True)
        rows = score(answers, ceilings={"colour": {"chance": 0.25, "blind": 0.25}})
        metrics = {"position": position, **to_metrics(rows, predictions=answers)}
        folder.joinpath("metrics.json").write_text(json.dumps(metrics))
        folder.joinpath("predictions.jsonl").write_text(
            "".join(json.dumps(dataclasses.asdict(p)) + "\n" for p in answers)
        )
    return tmp_path / "out"


@pytest.fixture
def page(output, tmp_path):
    write_report([output], out=tmp_path / "deep" / "report.html", clips_per_group=1)
    return (tmp_path / "deep" / "report.html").read_text()


def test_the_page_needs_nothing_from_elsewhere(page):
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert "@import" not in page
    assert "url(" not in page


def test_the_page_shows_the_curve_and_the_accuracies(page):
    assert '<polyline class="curve train"' in page
    assert "lowest validation loss 0.125" in page
    assert ">90.0</b>" in page


def test_the_page_says_that_a_model_is_not_the_published_one(page, output, tmp_path):
    assert "Not the published model" not in page
    file = output / "evaluation" / "test" / "metrics.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "fidelity": "quick_gelu"}))
    write_report([output], out=tmp_path / "report.html", clips_per_group=1)
    assert "Not the published model: quick_gelu." in (tmp_path / "report.html").read_text()


def test_texts_of_questions_and_answers_cannot_become_markup(page):
    assert "&lt;What&gt; colour?" in page
    assert "blue &amp; white" in page
    assert "<What>" not in page


def test_a_second_set_of_the_same_model_is_compared_with_the_first(page):
    assert "Against evaluation / test" in page
    # 5 of 10 against 9 of 10.
    assert "&minus;40.0" in page


def test_a_clip_is_shown_with_its_frames_seconds_and_sound(page):
    assert page.count("0.25 s") >= 1
    assert 'alt="mel spectrogram of the sound"' in page


def test_a_media_file_that_is_gone_is_named_and_the_rest_stands(output, tmp_path, clip):
    path = output / "evaluation" / "test" / "predictions.jsonl"
    path.write_text(path.read_text().replace("brighter.mp4", "gone.mp4"))
    write_report([output], out=tmp_path / "report.html", clips_per_group=1)
    assert "gone.mp4" in (tmp_path / "report.html").read_text()


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"metrics\.jsonl"):
        write_report([tmp_path], out=tmp_path / "report.html")


def test_the_film_strip_has_the_frames_an_encoder_would_see(clip):
    strip = draw_strip([Shown("video", str(clip))])
    # 16 frames at 8 per second, cut in 8 segments: every second frame.
    assert [frame.time_s for frame in strip.frames] == [i / 4 for i in range(8)]
    assert strip.sound is None


def test_a_mel_picture_has_low_sounds_at_the_bottom_and_loud_ones_bright():
    mel = np.zeros((4, 3), dtype=np.float32)
    mel[0] = 1.0
    picture = colour_mel(mel)
    assert (picture[-1] == MEL_COLOURS[-1]).all()
    assert (picture[0] == MEL_COLOURS[0]).all()


def test_silence_can_be_drawn():
    assert (colour_mel(np.zeros((2, 2), dtype=np.float32)) == MEL_COLOURS[0]).all()


@given(st.floats(0, 1e5), st.floats(1e-3, 1e5))
def test_ticks_are_few_and_cover_the_range(low, span):
    values = ticks(low, low + span)
    slack = 1e-6 * (low + span)
    assert values[0] <= low + slack
    assert values[-1] >= low + span - slack
    assert 2 <= len(values) <= 8


def test_ticks_are_round_numbers():
    assert ticks(0, 0.9) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0, 930) == [0, 200, 400, 600, 800, 1000]


def test_a_curve_goes_down_when_the_loss_does():
    drawing = line_chart([Series("a", [(0, 1.0), (10, 0.0)], "train")], x_label="x", y_label="y")
    (points,) = re.findall(r'points="([^"]*)"', drawing)
    (x1, y1), (x2, y2) = (map(float, pair.split(",")) for pair in points.split())
    assert x2 > x1
    assert y2 > y1  # y grows downwards on a screen


def test_a_run_without_numbers_has_no_chart():
    empty = [Series("a", [(1, float("nan"))], "train")]
    assert line_chart(empty, x_label="x", y_label="y") == ""


def test_kinds_are_grouped_by_how_their_names_begin():
    assert group_of("colour") == "Open questions"
    assert (group_of("pair_colour"), label_of("pair_colour")) == ("Two objects", "colour")
    assert (group_of("mc_*"), label_of("mc_*")) == ("Multiple choice", "all")
    assert label_of("yn_first_colour") == "first colour, yes or no"
    assert label_of("object_interaction") == "object interaction"
    assert label_of("4*4_grid") == "4*4 grid"


@pytest.mark.browser
def test_nothing_sticks_out_of_a_phones_screen(browser, output, tmp_path):
    write_report([output], out=tmp_path / "report.html")
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto((tmp_path / "report.html").as_uri(), timeout=120_000)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.close()
