"""A run file is merged, checked as a whole, and typed."""

from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from video_llama.common.config import list_presets, load
from video_llama.common.errors import ConfigError

MINIMAL = """
model: {arch: video_llama, model_type: toy}
run: {task: video_text_pretrain, output_dir: out}
"""


@pytest.fixture
def run_file(tmp_path):
    def write(text: str = MINIMAL) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(dedent(text))
        return path

    return write


def test_a_preset_gives_what_the_run_file_leaves_out(run_file):
    config = load(run_file())
    assert list(config.model.branches) == ["video", "audio"]
    assert config.model.branches["video"].encoder.config.width == 96


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(run_file):
    path = run_file("""
        model:
          arch: video_llama
          model_type: toy
          branches: {video: {stages: {video_qformer: {num_queries: 5, num_layers: 3}}}}
        run: {task: video_text_pretrain, output_dir: out, seed: 1}
    """)
    option = "model.branches.video.stages.video_qformer.num_queries=7"
    config = load(path, options=[option, "run.seed=2"])
    stage = config.model.branches["video"].stages["video_qformer"].config
    assert (stage.num_queries, stage.num_layers, stage.width, config.run.seed) == (7, 3, 96, 2)


def test_what_a_run_keeps_of_its_run_file_names_no_place_of_the_package(run_file, tmp_path):
    config = load(run_file())
    assert config.resolved["model"]["foundations"] == "${package:foundations/toy}"
    (tmp_path / "kept.yaml").write_text(yaml.safe_dump(config.resolved))
    assert load(tmp_path / "kept.yaml") == config


def test_numbers_with_an_exponent_are_numbers(run_file):
    assert load(run_file(), options=["run.init_lr=3e-5"]).run.init_lr == 3e-5


def test_model_type_on_the_command_line_chooses_the_preset(run_file):
    config = load(run_file(), options=["model.model_type=vicuna13b"])
    assert config.model.branches["video"].stages["projection"].config.width == 5120


def test_two_mistakes_are_reported_together_with_the_nearest_key(run_file):
    path = run_file("""
        model:
          arch: video_llama
          model_type: toy
          branches: {video: {stages: {video_qformer: {num_querys: 5}}}}
        run: {task: video_text_pretrain, output_dir: out, seed: many}
    """)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert len(caught.value.problems) == 2
    text = str(caught.value)
    assert "model.branches.video.stages.video_qformer.num_querys: unknown key" in text
    assert "did you mean 'num_queries'" in text
    assert "run.seed: expected an integer, found 'many'" in text


def test_a_key_that_nothing_reads_is_an_error_in_every_section(run_file):
    path = run_file(MINIMAL + "datset: {}\n")
    with pytest.raises(ConfigError, match="did you mean 'datasets'"):
        load(path, options=["run.sed=1", "model.llama_modle=x"])


def test_a_part_of_another_type_replaces_the_preset_part(run_file):
    path = run_file("""
        model:
          arch: video_llama
          model_type: toy
          branches: {video: {stages: {video_qformer: {type: layer_norm}}}}
        run: {task: video_text_pretrain, output_dir: out}
    """)
    assert load(path).model.branches["video"].stages["video_qformer"].type == "layer_norm"


def test_null_leaves_a_branch_and_a_stage_out(run_file):
    options = ["model.branches.audio=null", "model.branches.video.stages.video_qformer=null"]
    config = load(run_file(), options=options)
    assert list(config.model.branches) == ["video"]
    assert "video_qformer" not in config.model.branches["video"].stages


def test_a_value_out_of_range_is_named_with_its_key(run_file):
    with pytest.raises(ConfigError, match=r"video_qformer: width 10 is no multiple of num_heads"):
        load(run_file(), options=["model.branches.video.stages.video_qformer.width=10"])


def test_an_unknown_part_lists_the_known_ones(run_file):
    with pytest.raises(ConfigError, match=r"unknown encoder 'eva_vit'.*did you mean 'eva_vit_g'"):
        load(run_file(), options=["model.branches.video.encoder.type=eva_vit"])


def test_a_missing_run_file_shows_the_nearest_names(run_file):
    path = run_file()
    with pytest.raises(ConfigError, match=r"no file .*runn.yaml; nearest: .*run.yaml"):
        load(path.with_name("runn.yaml"))


def test_a_choice_left_open_in_the_file_is_named_with_its_line(run_file):
    path = run_file('model:\n  llama_model: "ckpt/7b" or "ckpt/13b"\n')
    with pytest.raises(ConfigError, match=r"run.yaml:2: .*keep one"):
        load(path)


def test_a_key_written_twice_is_refused(run_file):
    path = run_file(MINIMAL + "run: {task: x, output_dir: y}\n")
    with pytest.raises(ConfigError, match="duplicate key"):
        load(path)


def test_an_option_without_a_value_is_refused(run_file):
    with pytest.raises(ConfigError, match=r"--options run.seed: expected dotted.key=value"):
        load(run_file(), options=["run.seed"])


def test_parts_out_of_tree_are_imported_before_they_are_looked_up(run_file, tmp_path, monkeypatch):
    (tmp_path / "my_lab_bridge.py").write_text(
        dedent("""
        from dataclasses import dataclass
        from video_llama.common.registry import registry

        @registry.register_bridge("my_lab_bridge")
        class Bridge:
            @dataclass(frozen=True)
            class Config:
                gain: float = 1.0
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = run_file("""
        imports: [my_lab_bridge]
        model:
          arch: video_llama
          model_type: toy
          branches: {audio: {stages: {extra: {type: my_lab_bridge, gain: 2}}}}
        run: {task: video_text_pretrain, output_dir: out}
    """)
    assert load(path).model.branches["audio"].stages["extra"].config.gain == 2.0


def test_a_module_that_cannot_be_imported_is_reported(run_file):
    with pytest.raises(ConfigError, match="imports: cannot import 'no_such_lab'"):
        load(run_file(MINIMAL + "imports: [no_such_lab]\n"))


@pytest.mark.parametrize("model_type", list_presets()["video_llama"])
def test_every_preset_can_be_loaded(run_file, model_type):
    config = load(run_file(), options=[f"model.model_type={model_type}"])
    assert set(config.model.branches) == {"video", "audio"}
