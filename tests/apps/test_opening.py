"""What a path means: run files, folders of models and runs, releases; files a model can use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from apps.released_project import write_released_folder
from pages import ROOT
from tiny_llava import WRITERS

from video_llama import load_chat
from video_llama.apps.loading import check_media, open_chat_config
from video_llama.apps.opening import open_config
from video_llama.common.config import load
from video_llama.common.errors import ConfigError, MediaError
from video_llama.common.state_files import SafetensorsFile
from video_llama.models.loading import build_model
from video_llama.models.video_llm import VideoLLM

SHIPPED = "eval_configs/toy/shipped.yaml"
STAGE_3 = ROOT / "train_configs" / "toy" / "audiovisual_stage3_joint.yaml"
STAGE_2 = ROOT / "train_configs" / "toy" / "visionbranch_stage2_finetune.yaml"
BRIDGES = ROOT / "video_llama" / "foundations" / "toy" / "bridges.safetensors"
CLIP, SOUND, PICTURE = (ROOT / "examples" / n for n in ("web.webm", "sound.wav", "picture.jpg"))
QUESTION = "Which colour does the circle have?"


def write_run(folder: Path, path: Path, *options: str) -> Path:
    """Leave what a run of a file leaves, with the shipped bridges as what it learned."""
    (folder / "checkpoints" / "last").mkdir(parents=True)
    resolved = load(path, options=options).resolved
    (folder / "config.yaml").write_text(yaml.safe_dump(resolved))
    shutil.copy(BRIDGES, folder / "checkpoints" / "last" / "trainable.safetensors")
    return folder


def answer(chat):
    chat.upload(ROOT / "examples" / "camera_720p.mp4")
    return chat.ask(QUESTION)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The shipped model in a folder of its own."""
    folder = tmp_path_factory.mktemp("own") / "model"
    return VideoLLM.from_config(load(SHIPPED).model).save_pretrained(folder)


@pytest.fixture(scope="module")
def expected():
    return answer(load_chat(SHIPPED))


def test_a_run_file_is_read_as_ever():
    assert open_config(SHIPPED, options=["run.seed=7"]) == load(SHIPPED, options=["run.seed=7"])


def test_a_model_s_own_folder_answers_as_the_model_it_was_saved_from(own, expected):
    assert answer(load_chat(own)) == expected


def test_a_run_s_folder_answers_with_what_it_learned(tmp_path, expected):
    assert answer(load_chat(write_run(tmp_path / "run", STAGE_3))) == expected


def test_overrides_reach_the_config_of_a_folder(own, tmp_path):
    config = open_config(own, options=["model.compat=released", "run.seed=7"])
    assert (config.model.compat, config.run.seed) == ("released", 7)
    run = write_run(tmp_path / "run", STAGE_3)
    assert open_config(run, options=["run.seed", "7"]).run.seed == 7


def test_what_a_run_learned_takes_the_place_of_what_it_started_from(tmp_path):
    run = write_run(tmp_path / "run", STAGE_3)
    model = open_config(run).model
    assert (model.ckpt, model.ckpt_2) == (str(run), None)


def test_where_a_run_kept_a_part_of_its_start_the_start_is_read_first(tmp_path):
    frozen = "model.branches.video.stages.projection.trainable=false"
    run = write_run(tmp_path / "run", STAGE_2, frozen)
    start = load(STAGE_2).model.ckpt
    model = open_config(run).model
    assert (model.ckpt, model.ckpt_2) == (start, str(run))


def test_a_run_that_needs_both_of_its_starts_is_refused(tmp_path):
    frozen = "model.branches.video.stages.projection.trainable=false"
    run = write_run(tmp_path / "run", STAGE_3, frozen)
    with pytest.raises(ConfigError, match="give a run file that names all three"):
        open_config(run)


def test_a_release_is_known_by_its_folder(tmp_path):
    folder = write_released_folder(tmp_path)
    model = open_config(folder, options=["run.device=cpu"]).model
    assert model.model_type == "llama2_7b"
    assert model.template == "llama_2_released"
    assert model.decoder.weights == str(folder / "llama-2-7b-chat-hf")
    assert model.ckpt_2 == str(folder / "AL_LLaMA_2_7B_Finetuned.pth")


@pytest.mark.parametrize("layout", WRITERS)
def test_a_release_of_video_llava_is_known_by_what_is_in_it(layout, tmp_path):
    folder = WRITERS[layout](tmp_path / "some_name")
    model = open_config(folder, options=["model.branches.video=null"]).model
    assert (model.arch, model.model_type) == ("video_llava", "vicuna7b")
    filled = ("llama_model", "image_tower", "mm_projector")
    assert {model.paths[key] for key in filled} == {str(folder)}
    assert model.paths["video_tower"] is None


def test_the_port_of_the_published_size_opens_with_its_own_preset(tmp_path):
    folder = WRITERS["hf"](tmp_path / "some_name")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = 4096
    (folder / "config.json").write_text(json.dumps(config))
    model = open_config(folder).model
    assert (model.model_type, model.template) == ("vicuna7b_hf_compat", "llava_hf")
    assert not model.branches["video"].encoder.config.temporal_attention


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no model's folder: neither config.json of save_pretrained, nor a run's config.yaml"),
        ({"config.json": '{"model_type": "llama"}'}, "no model's folder"),
        ({"config.json": "{"}, "not JSON"),
    ],
)
def test_a_folder_of_something_else_is_refused_with_what_is_expected(tmp_path, files, said):
    (tmp_path / "notes.txt").write_text("x")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=said):
        open_config(tmp_path)


def test_what_was_not_fetched_is_answered_with_how_to_fetch_it():
    with pytest.raises(ConfigError, match=r"video-llama weights get some-lab/some-model"):
        open_config("some-lab/some-model")


def test_a_folder_has_no_other_sections(own):
    with pytest.raises(ConfigError, match=r"datasets.x.type: a model's folder has the sections"):
        open_config(own, options=["datasets.x.type=webvid"])


def test_arguments_of_load_chat_win_over_the_file_and_its_overrides():
    options = ["run.device", "cuda", "model.low_resource", "8bit"]
    config = open_chat_config(SHIPPED, options=options, device="cpu", low_resource="4bit")
    assert (config.run.device, config.model.low_resource) == ("cpu", "4bit")
    config = open_chat_config(SHIPPED, options=options)
    assert (config.run.device, config.model.low_resource) == ("cuda", "8bit")


def test_a_reduced_chat_answers(expected):
    pytest.importorskip("bitsandbytes")
    assert answer(load_chat(SHIPPED, low_resource="8bit")) == expected


def test_a_decoder_partly_on_disk_answers_alike(tmp_path, expected):
    tree = yaml.safe_load((ROOT / SHIPPED).read_text())
    names = [f"model.layers.{i}" for i in (0, 1)]
    rest = ["embed_tokens", "rotary_emb", "layers.2", "layers.3", "norm"]
    tree["run"]["device_map"] = {
        **dict.fromkeys(names, "disk"),
        **dict.fromkeys([*(f"model.{name}" for name in rest), "lm_head"], "cpu"),
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    chat = load_chat(path)
    assert {p.device.type for p in chat.model.decoder.parameters()} == {"cpu", "meta"}
    assert answer(chat) == expected


def test_uploads_are_decoded_in_a_child_if_they_may_take_so_long_only(expected):
    chat = load_chat(SHIPPED, decode_timeout_s=20)
    assert answer(chat) == expected
    with pytest.raises(MediaError):
        chat.upload(b"no picture at all")


# --- what is not needed is not read


@pytest.fixture
def read_names(monkeypatch):
    """Names of tensors in the order they are read from safetensors files."""
    names: list[str] = []
    original = SafetensorsFile.__getitem__

    def recorded(self, name):
        names.append(name)
        return original(self, name)

    monkeypatch.setattr(SafetensorsFile, "__getitem__", recorded)
    return names


def test_of_imagebind_only_the_trunk_that_hears_is_read(read_names):
    build_model(load(SHIPPED).model)
    imagebind = {name for name in read_names if name.startswith("modality_")}
    assert len(imagebind) > 20
    assert {name for name in imagebind if ".audio." not in name} == set()


def test_without_sound_nothing_of_imagebind_is_read(read_names):
    build_model(load(SHIPPED, options=["model.branches.audio=null"]).model)
    assert len(read_names) > 20
    assert not [name for name in read_names if name.startswith("modality_") or "audio" in name]


# --- files that a model can use


def test_sound_for_a_model_that_cannot_hear_is_refused_before_loading():
    config = open_chat_config(SHIPPED, options=["model.branches.audio=null"])
    check_media(config, [CLIP, PICTURE])
    with pytest.raises(MediaError, match=r"this is audio, and the model takes image, video; .*"):
        check_media(config, [CLIP, SOUND])


def test_a_model_with_both_branches_takes_everything():
    check_media(open_chat_config(SHIPPED), [CLIP, str(SOUND), PICTURE])


def test_a_file_that_is_no_medium_is_named(tmp_path):
    (tmp_path / "notes.mp4").write_text("not a clip")
    with pytest.raises(MediaError, match=r"notes\.mp4"):
        check_media(open_chat_config(SHIPPED), [tmp_path / "notes.mp4"])
