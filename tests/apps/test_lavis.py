"""What a user of LAVIS tries first works, and mistakes are errors with a way out."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from pages import ROOT, blocks
from tiny_project import write_project

import video_llama
from video_llama.common.errors import ConfigError


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_examples_of_the_page_run_as_they_stand(tmp_path, monkeypatch):
    for name in ("eval_configs", "train_configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    text = "\n".join(blocks(ROOT / "docs" / "api.md", "pycon"))
    test = doctest.DocTestParser().get_doctest(text, {}, "api.md", "docs/api.md", 0)
    said: list[str] = []
    results = doctest.DocTestRunner().run(test, out=said.append)
    assert results.failed == 0, "".join(said)
    assert results.attempted > 15


def test_every_public_name_is_there_and_listed():
    assert all(getattr(video_llama, name) is not None for name in video_llama.__all__)
    assert set(video_llama.__all__) <= set(dir(video_llama))


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        video_llama.load_modle  # noqa: B018


def test_listing_the_public_names_imports_no_torch():
    code = "import sys, video_llama as v; dir(v); v.registry; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_model_in_evaluation_mode_is_the_shipped_one():
    model = video_llama.load_model("video_llama", "toy", is_eval=True)
    assert not model.training
    trained = model.state_dict()["branches.video.stages.projection.linear.weight"]
    file = ROOT / "video_llama" / "foundations" / "toy" / "bridges.safetensors"
    from safetensors.torch import load_file

    assert torch.equal(trained, load_file(file)["branches.video.stages.projection.linear.weight"])


def test_a_loaded_model_generates_no_id_that_its_tokenizer_lacks():
    words = ROOT / "tests" / "goldens" / "conversation" / "llama"
    fresh = ["weights=null", "trainable=true", "architecture.vocab_size=1064"]
    options = [f"model.tokenizer={words}", *(f"model.decoder.{option}" for option in fresh)]
    model = video_llama.load_model("video_llama", "toy", options=options)
    assert model.decoder.silent_ids == frozenset(range(1000, 1064))


def test_a_checkpoint_takes_the_place_of_the_shipped_weights(tmp_path):
    model = video_llama.load_model("video_llama", "toy", True)
    torch.nn.init.zeros_(model.get_parameter("branches.video.stages.projection.linear.weight"))
    folder = model.save_pretrained(tmp_path / "mine")
    found = video_llama.load_model("video_llama", "toy", True, "cpu", str(folder))
    assert not found.get_parameter("branches.video.stages.projection.linear.weight").any()


def test_missing_files_of_a_preset_are_named_all_at_once(tmp_path):
    options = [f"model.llama_model={tmp_path}/llama", f"model.vit_model={tmp_path}/eva.pth"]
    with pytest.raises(ConfigError) as caught:
        video_llama.load_model("video_llama", "vicuna7b", options=options)
    assert len(caught.value.problems) == 2
    assert "model.llama_model: there is no" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "model_type", "said"),
    [
        ("blip2", "opt", "unknown arch 'blip2'"),
        ("video_llama", "vicuna", "did you mean 'vicuna7b'"),
    ],
)
def test_an_unknown_model_names_the_known_ones(name, model_type, said):
    with pytest.raises(ConfigError, match=said):
        video_llama.load_model(name, model_type)


def test_on_the_cpu_every_part_computes_in_float32():
    from video_llama.apps.lavis import _in_float32
    from video_llama.common.config import load_preset

    config = _in_float32(load_preset("video_llama", "vicuna7b"))
    assert config.decoder.config.dtype == "float32"
    assert config.branches["video"].encoder.config.dtype == "float32"


def test_a_data_set_of_a_run_file_is_opened_by_split(tmp_path):
    path = write_project(tmp_path)
    readers = video_llama.load_dataset("clips", str(path), data_type="videos")
    assert list(readers) == ["train"]
    assert len(readers["train"]) == 8
    assert readers["train"].sample(3).messages[0].text == "clip number 3"


def test_a_data_set_is_found_by_its_reader_too(tmp_path):
    path = write_project(tmp_path)
    assert len(video_llama.load_dataset("webvid", str(path))["train"]) == 8


def test_the_folder_of_the_media_may_be_another(tmp_path):
    path = write_project(tmp_path)
    (tmp_path / "clips").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"datasets\.clips\.media: there is no"):
        video_llama.load_dataset("clips", str(path))
    readers = video_llama.load_dataset("clips", str(path), str(tmp_path / "moved"))
    assert Path(readers["train"].sample(0).media[0].path).is_file()


def test_a_data_set_of_other_media_than_asked_for_is_refused(tmp_path):
    path = write_project(tmp_path)
    with pytest.raises(ConfigError, match="holds video, audio, not images"):
        video_llama.load_dataset("clips", str(path), data_type="images")


def test_a_data_set_that_is_not_in_the_run_file_names_those_that_are(tmp_path):
    path = write_project(tmp_path)
    with pytest.raises(ConfigError, match=r"datasets\.llava_instruct: not in .* \(there: clips\)"):
        video_llama.load_dataset("llava_instruct", str(path))


def test_two_entries_of_one_reader_and_split_have_to_be_told_apart(tmp_path):
    path = write_project(tmp_path)
    tree = yaml.safe_load(path.read_text())
    tree["datasets"]["more"] = tree["datasets"]["clips"]
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match="clips and more are both train; name one of them"):
        video_llama.load_dataset("webvid", str(path))
    assert len(video_llama.load_dataset("more", str(path))["train"]) == 8


def test_without_a_run_file_a_shipped_one_says_what_is_missing():
    with pytest.raises(ConfigError, match=r"datasets\.\w+\.annotations: there is no"):
        video_llama.load_dataset("webvid")


@pytest.mark.parametrize("name", ["cc_sbu", "laion"])
def test_data_sets_of_tars_are_found_by_their_published_names(name):
    reader = video_llama.registry.get_builder_class(name)
    assert reader.Config(shards="{0..1}.tar").cleaning == "blip"


def test_processors_are_built_from_a_preprocess_section():
    section = yaml.safe_load(
        """
        vis_processor:
          train: {name: blip2_image_train, image_size: 32}
          eval: {name: blip2_image_eval, image_size: 32}
        text_processor:
          train: {name: blip_caption, prompt: 'a photo of '}
        """
    )
    vis, text = video_llama.load_preprocess(section)
    assert vis["eval"](ROOT / "examples" / "picture.jpg").shape == (3, 32, 32)
    assert text["train"]("A Dog.") == "a photo of a dog"


def test_the_tables_name_every_preset_and_reader():
    assert "vicuna13b" in str(video_llama.model_zoo)
    assert "toy" in dict(video_llama.model_zoo)["video_llama"]
    assert len(video_llama.dataset_zoo) == len(video_llama.registry.list_datasets())
