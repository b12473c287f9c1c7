"""A model's own folder gives the very same model again, here and by way of the hub."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from video_llama.common.config import load
from video_llama.common.errors import CheckpointMismatch, ConfigError, VideoLlamaError
from video_llama.common.sections import model_section, parse_model
from video_llama.models.pretrained import CONFIG_FILE, FROZEN_FILE
from video_llama.models.sources import WEIGHTS_FILE
from video_llama.models.video_llm import VideoLLM

RUN_FILES = sorted((Path(__file__).parents[2] / "train_configs").glob("*.yaml"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WIDTH = 8
QFORMER = {"type": "qformer", "width": WIDTH, "num_heads": 2, "ffn_width": 8, "num_queries": 2}
EVA = {"type": "eva_vit_g", "image_size": 16, "patch_size": 8, "width": WIDTH, "depth": 1}


@pytest.fixture
def base(tmp_path) -> Path:
    """A language model of transformers with tied embeddings, and an encoder's file."""
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 1}
    config = LlamaConfig(
        **sizes,
        num_attention_heads=2,
        vocab_size=20,
        max_position_embeddings=16,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base" / "llama")
    (tmp_path / "base" / "llama" / "tokenizer.model").write_bytes(b"words")
    encoder = VideoLLM(typed(tree(tmp_path / "base", vit=False))).branches["video"].encoder
    published = encoder.key_map().invert()
    state = {published.translate(key): value for key, value in encoder.state_dict().items()}
    save_file(state, tmp_path / "base" / "eva.safetensors")
    return tmp_path / "base"


def tree(folder: Path, *, vit: bool = True, **decoder):
    weights = str(folder / "eva.safetensors") if vit else None
    return {
        "arch": "video_llama",
        "model_type": "tiny",
        "template": "vicuna_v0",
        "llama_model": str(folder / "llama"),
        "vit_model": str(folder / "eva.safetensors"),
        "branches": {
            "video": {
                "media": ["video", "image"],
                "encoder": {**EVA, "num_heads": 2, "weights": weights},
                "stages": {
                    "video_qformer": {**QFORMER, "num_layers": 1, "trainable": True},
                    "projection": {"type": "projection", "width": WIDTH, "trainable": True},
                },
            }
        },
        "decoder": {"type": "causal_lm", "weights": str(folder / "llama"), **decoder},
    }  # fmt: skip


def typed(node):
    problems: list[str] = []
    config = parse_model(copy.deepcopy(node), preset_keys=set(node), problems=problems)
    assert config is not None, problems
    return config


def built(node) -> VideoLLM:
    torch.manual_seed(1)
    return VideoLLM.from_config(typed(node))


def assert_equal(found: torch.nn.Module, expected: torch.nn.Module) -> None:
    left, right = found.state_dict(), expected.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_folder_gives_the_same_model_bit_for_bit(base, tmp_path):
    model = built(tree(base))
    folder = model.save_pretrained(tmp_path / "mine")
    found = VideoLLM.from_pretrained(folder)
    assert_equal(found, model)
    assert not found.training
    assert {file.name for file in folder.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE, "README.md"}


def test_only_what_was_trained_is_in_the_folder(base, tmp_path):
    folder = built(tree(base)).save_pretrained(tmp_path / "mine")
    prefixes = {".".join(name.split(".")[:4]) for name in load_file(folder / WEIGHTS_FILE)}
    assert prefixes == {
        "branches.video.stages.video_qformer",
        "branches.video.stages.projection",
    }


def test_a_full_folder_needs_no_other_file(base, tmp_path):
    model = built(tree(base))
    folder = model.save_pretrained(tmp_path / "mine", full=True)
    shutil.rmtree(base)
    assert_equal(VideoLLM.from_pretrained(folder), model)
    assert (folder / "decoder" / "tokenizer.model").read_bytes() == b"words"


def test_a_full_folder_may_be_moved(base, tmp_path):
    model = built(tree(base))
    folder = model.save_pretrained(tmp_path / "mine", full=True)
    moved = folder.rename(tmp_path / "moved")
    assert_equal(VideoLLM.from_pretrained(moved), model)


def test_a_folder_of_a_folder_is_equal_too(base, tmp_path):
    model = built(tree(base))
    first = model.save_pretrained(tmp_path / "first", full=True)
    second = VideoLLM.from_pretrained(first).save_pretrained(tmp_path / "second")
    assert_equal(VideoLLM.from_pretrained(second), model)


def test_saving_again_without_full_leaves_nothing_of_the_full_one_to_be_read(base, tmp_path):
    model = built(tree(base))
    folder = model.save_pretrained(tmp_path / "mine", full=True)
    model.save_pretrained(folder)
    assert not (folder / FROZEN_FILE).exists()
    assert_equal(VideoLLM.from_pretrained(folder), model)


def test_adapters_are_saved_apart_from_the_language_model(base, tmp_path):
    pytest.importorskip("peft")
    adapters = {"rank": 2, "targets": ["q_proj"]}
    model = built(tree(base, lora=adapters, trainable=["*lora_*"]))
    for name, parameter in model.decoder.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    for full in (False, True):
        folder = model.save_pretrained(tmp_path / str(full), full=full)
        assert_equal(VideoLLM.from_pretrained(folder), model)
    with safe_open(folder / "decoder" / "model.safetensors", framework="pt") as file:
        assert not any("lora" in name or "base_layer" in name for name in file.keys())  # noqa: SIM118


def test_a_decoder_without_a_file_is_saved_with_the_rest(base, tmp_path):
    architecture = {
        "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20,
        "max_position_embeddings": 16,
    }  # fmt: skip
    node = tree(base, architecture=architecture, trainable=True)
    node["decoder"]["weights"] = None
    model = built(node)
    assert_equal(VideoLLM.from_pretrained(model.save_pretrained(tmp_path / "mine")), model)


def test_what_a_checkpoint_brought_is_saved_although_it_is_frozen(base, tmp_path):
    first = built(tree(base)).save_pretrained(tmp_path / "first")
    node = {**tree(base), "ckpt": str(first)}
    for stage in node["branches"]["video"]["stages"].values():
        stage["trainable"] = False
    model = built(node)
    second = model.save_pretrained(tmp_path / "second")
    shutil.rmtree(first)
    assert_equal(VideoLLM.from_pretrained(second), model)


def test_a_run_file_takes_the_trained_parts_of_a_folder(base, tmp_path):
    model = built(tree(base))
    folder = model.save_pretrained(tmp_path / "mine")
    torch.manual_seed(2)
    assert_equal(VideoLLM.from_config(typed({**tree(base), "ckpt": str(folder)})), model)


def test_a_base_file_that_has_moved_is_named_by_its_key(base, tmp_path):
    model = built(tree(base))
    folder = model.save_pretrained(tmp_path / "mine")
    moved = base.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointMismatch, match="llama"):
        VideoLLM.from_pretrained(folder)
    options = [f"model.llama_model={moved}/llama", f"model.vit_model={moved}/eva.safetensors"]
    assert_equal(VideoLLM.from_pretrained(folder, options=options), model)


def test_files_of_the_package_are_named_wherever_it_lies(tmp_path):
    config = load("eval_configs/toy/shipped.yaml").model
    folder = VideoLLM.from_config(config).save_pretrained(tmp_path / "toy")
    section = json.loads((folder / CONFIG_FILE).read_text())["model"]
    assert section["llama_model"] == "${package:foundations/toy/llama}"
    assert section["branches"]["video"]["encoder"]["weights"] == "${model.vit_model}"
    assert_equal(VideoLLM.from_pretrained(folder), VideoLLM.from_config(config))


@pytest.mark.parametrize("cfg_path", RUN_FILES, ids=lambda path: path.stem)
def test_every_run_files_model_is_written_and_read_back_as_equal(cfg_path):
    config = load(cfg_path).model
    assert typed(model_section(config)) == config


TREE = tree(Path("base"))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_queries=st.integers(1, 64),
    trainable=st.one_of(st.booleans(), st.lists(st.text("ab*.", min_size=1), max_size=3)),
    ckpt=st.none() | st.text("abc/"),
)
def test_any_settings_are_written_and_read_back_as_equal(num_queries, trainable, ckpt):
    node = copy.deepcopy(TREE)
    stage = node["branches"]["video"]["stages"]["video_qformer"]
    stage.update(num_queries=num_queries, trainable=trainable)
    config = typed({**node, "ckpt": ckpt})
    assert typed(json.loads(json.dumps(model_section(config)))) == config


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no config.json in it"),
        ("{", "not JSON"),
        ('{"model_type": "llama"}', "not a folder that save_pretrained wrote"),
        ('{"format": 99, "model": {}}', "format 99, this release reads 1"),
    ],
)
def test_another_folder_is_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / CONFIG_FILE).write_text(content)
    with pytest.raises(ConfigError, match=said):
        VideoLLM.from_pretrained(tmp_path)


def test_a_folder_that_is_nowhere_is_named_with_the_command_that_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="`video-llama weights get lab/mine` fetches it"):
        VideoLLM.from_pretrained("lab/mine")


def test_a_folder_in_the_cache_of_the_hub_is_found_by_its_name(base, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--lab--mine"
    model = built(tree(base))
    model.save_pretrained(repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    assert_equal(VideoLLM.from_pretrained("lab/mine"), model)


def test_the_card_names_bases_terms_data_and_schedule(base, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    datasets = {
        "clips": {"type": "webvid", "annotations": "train.csv", "sample_ratio": 9},
        "held_out": {"type": "webvid", "annotations": "valid.csv", "split": "valid"},
    }
    said = {"datasets": datasets, "run": {"task": "video_text_pretrain", "init_lr": 3e-5}}
    (run / "config.yaml").write_text(yaml.safe_dump(said))
    node = {**tree(base), "vit_model": str(base / "eva.safetensors")}
    card = (built(node).save_pretrained(tmp_path / "mine", run=run) / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["pipeline_tag"] == "video-text-to-text"
    assert header["license"] == "other"
    assert "| `model.vit_model` |" in card
    assert "LLaMA-2 under Meta's community licence" in card
    assert "| clips | `webvid` | `train.csv` | 9 |" in card
    assert "held_out" not in card
    assert "`init_lr` 3e-05" in card


def test_a_folder_without_a_run_cannot_tell_what_trained_it(base, tmp_path):
    with pytest.raises(ConfigError, match=r"it has no config\.yaml"):
        built(tree(base)).save_pretrained(tmp_path / "mine", run=tmp_path)


class FakeHub:
    """Stands where huggingface_hub's client stands; keeps what is put on it."""

    kept: dict[str, bytes]
    calls: list[tuple[str, object]]
    error: Exception | None = None

    def create_repo(self, repo, *, private, exist_ok):
        if self.error is not None:
            raise self.error
        assert exist_ok
        type(self).calls = [(repo, private)]

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        type(self).kept = {f.name: f.read_bytes() for f in Path(folder_path).iterdir()}
        return type("Commit", (), {"commit_url": f"https://hub/{repo_id}/{commit_message}"})


def test_a_model_is_put_on_the_hub_as_its_folder(base, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    model = built(tree(base))
    url = model.push_to_hub("lab/mine", private=True, message="first")
    assert url == "https://hub/lab/mine/first"
    assert FakeHub.calls == [("lab/mine", True)]
    (tmp_path / "again").mkdir()
    for name, content in FakeHub.kept.items():
        (tmp_path / "again" / name).write_bytes(content)
    assert_equal(VideoLLM.from_pretrained(tmp_path / "again"), model)


def test_what_the_hub_refuses_is_told(base, monkeypatch):
    error = ConnectionError("no way to the hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", type("Refusing", (FakeHub,), {"error": error}))
    with pytest.raises(VideoLlamaError, match="lab/mine: no way to the hub"):
        built(tree(base)).push_to_hub("lab/mine")
