"""`train.py` from run file and clips to a checkpoint, with a tiny model."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from video_llama.apps import train as train_app
from video_llama.apps.main import main
from video_llama.common.registry import registry
from video_llama.processors.media import MediaLoader
from video_llama.runners.metrics import read_lines
from video_llama.toy.captions import visual_caption
from video_llama.toy.codec import encode_mp4
from video_llama.toy.render import FRAMES_PER_S, render_clip
from video_llama.toy.scenes import sample_scene

ROOT = Path(__file__).parents[2]
TOKENIZER = ROOT / "tests" / "goldens" / "conversation" / "llama"
DECODER = ROOT / "tests" / "goldens" / "models" / "llama"
NUM_CLIPS = 6
FRESH = {"weights": None, "trainable": True}


def clip_scene(index):
    return sample_scene(index, seed=0, split="train")


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Six captioned clips in WebVid's layout, one of them broken, and a frozen encoder."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "clips").mkdir()
    rows = ["videoid,name,page_dir"]
    for index in range(NUM_CLIPS):
        clip = encode_mp4(render_clip(clip_scene(index)), frames_per_s=FRAMES_PER_S)
        (folder / "clips" / f"{index}.mp4").write_bytes(clip if index else b"not a film")
        rows.append(f"{index},clip number {'very ' * index}{index}.,clips")
    (folder / "train.csv").write_text("\n".join(rows))
    encoder = registry.get_encoder_class("eva_vit_g")
    sizes = {"image_size": 64, "patch_size": 8, "width": 96, "depth": 1, "num_heads": 4}
    state = encoder(encoder.Config(**sizes)).state_dict()
    weights = {name.removeprefix("vit."): value for name, value in state.items()}
    save_file(weights, folder / "vit.safetensors")
    return folder


@pytest.fixture
def run_file(tmp_path, material):
    """A run of four steps over the clips; encoder and decoder are frozen."""
    captions = {"type": "webvid", "annotations": str(material / "train.csv")}
    captions |= {"media": str(material)}
    stages = ("ln_vision", "image_qformer", "video_qformer", "projection")
    architecture = {
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 1000,
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    tree = {
        "model": {
            "arch": "video_llama",
            "model_type": "toy",
            "tokenizer": str(TOKENIZER),
            "decoder": {"weights": str(DECODER), "architecture": architecture},
            "branches": {
                "audio": None,
                "video": {
                    "encoder": {"weights": str(material / "vit.safetensors"), "depth": 1},
                    "stages": {stage: dict(FRESH) for stage in stages},
                },
            },
        },
        "datasets": {"clips": captions, "held_out": {**captions, "split": "valid"}},
        "run": {
            "task": "video_text_pretrain",
            "output_dir": str(tmp_path / "out"),
            "device": "cpu",
            "init_lr": 1e-3,
            "max_epoch": 2,
            "iters_per_epoch": 2,
            "batch_size_train": 3,
            "batch_size_eval": 4,
            "log_freq": 1,
            "max_skip_rate": 1.0,
            "seed": 0,
        },
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def run(run_file, *options):
    words = ["--options", *options] if options else []
    return main(["train", "--cfg-path", str(run_file), *words])


def last_weights(folder):
    return load_file(folder / "checkpoints" / "last" / "trainable.safetensors")


def everything_in(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_features_from_the_cache_train_the_same_model_and_no_media_are_read(
    run_file, tmp_path, monkeypatch
):
    cached = f"run.feature_cache={tmp_path / 'features'}"
    for name, options in (("plain", []), ("first", [cached])):
        assert run(run_file, f"run.output_dir={tmp_path / name}", *options) == 0
    loads = []
    load_all = MediaLoader.load_all

    def count(self, requests):
        loads.extend(Path(request.item.path).name for request in requests)
        return load_all(self, requests)

    monkeypatch.setattr(MediaLoader, "load_all", count)
    here = "run.decode_timeout_s=null"
    assert run(run_file, f"run.output_dir={tmp_path / 'second'}", cached, here) == 0
    # The broken clip has no features to keep and is tried again each time.
    assert set(loads) == {"0.mp4"}
    plain = last_weights(tmp_path / "plain")
    for name in ("first", "second"):
        weights = last_weights(tmp_path / name)
        assert all(torch.equal(weights[key], plain[key]) for key in plain)


def test_a_decoder_that_only_guesses_is_warned_of_once(run_file, tmp_path):
    assert run(run_file) == 0
    log = (tmp_path / "out" / "log.txt").read_text()
    assert log.count("no better than guessing among 1,000 tokens, and the decoder's loss") == 1
    assert f"{DECODER} is a delta that was never merged" in log


def test_the_toy_decoder_with_fresh_bridges_gives_no_cause_for_a_warning(run_file, tmp_path):
    tree = yaml.safe_load(run_file.read_text())
    stages = {name: {"trainable": True} for name in ("video_qformer", "projection")}
    branches = {"audio": None, "video": {"stages": stages}}
    tree["model"] = {"arch": "video_llama", "model_type": "toy", "branches": branches}
    captions = [visual_caption(clip_scene(index)) for index in range(NUM_CLIPS)]
    rows = [f'{index},"{text}",clips' for index, text in enumerate(captions)]
    table = tmp_path / "captions.csv"
    table.write_text("\n".join(["videoid,name,page_dir", *rows]))
    tree["datasets"]["clips"] |= {"annotations": str(table), "cleaning": "none"}
    del tree["datasets"]["held_out"]
    run_file.write_text(yaml.safe_dump(tree))
    assert run(run_file) == 0
    assert "no better than guessing" not in (tmp_path / "out" / "log.txt").read_text()


def test_the_broken_clip_is_named(run_file, tmp_path):
    assert run(run_file) == 0
    skips = read_lines(tmp_path / "out" / "skipped.jsonl")
    assert {skip["key"] for skip in skips} == {"clips/0"}


def test_a_finished_run_is_not_even_built_again(run_file, tmp_path, monkeypatch):
    assert run(run_file) == 0
    before = everything_in(tmp_path / "out")
    monkeypatch.delattr(train_app, "build_runner")
    assert run(run_file) == 0
    assert everything_in(tmp_path / "out") == before


def test_the_folder_of_another_config_is_left_alone(run_file, tmp_path, capsys):
    assert run(run_file) == 0
    before = everything_in(tmp_path / "out")
    assert run(run_file, "run.init_lr=0.5", "run.log_freq=7") == 2
    errors = capsys.readouterr().err
    assert "run.init_lr: 0.001 in the run, 0.5 now" in errors
    assert "log_freq" not in errors
    assert everything_in(tmp_path / "out") == before


def test_a_run_half_done_whose_table_lost_a_row_is_left_alone(run_file, material, tmp_path, capsys):
    table = tmp_path / "own.csv"
    rows = (material / "train.csv").read_text().splitlines()
    table.write_text("\n".join(rows))
    options = [f"datasets.clips.annotations={table}", "run.save_freq=1 steps", "run.keep_last=9"]
    assert run(run_file, *options) == 0
    half = tmp_path / "out" / "checkpoints" / "step_0000002"
    table.write_text("\n".join(rows[:-1]))
    before = everything_in(tmp_path / "out")
    assert run(run_file, *options, f"run.resume_ckpt_path={half}") == 2
    assert "datasets.clips: 5 samples, 6 when the run was begun" in capsys.readouterr().err
    assert everything_in(tmp_path / "out") == before


def test_all_missing_files_are_named_and_nothing_is_written(run_file, tmp_path, capsys):
    options = (
        "model.branches.video.encoder.weights=nowhere.pth",
        "datasets.clips.annotations=no/table.csv",
    )
    assert run(run_file, *options) == 2
    errors = capsys.readouterr().err
    assert "there is no nowhere.pth" in errors
    assert "datasets.clips.annotations" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_data_that_are_all_broken_stop_the_run_with_their_names(
    run_file, material, tmp_path, capsys, num_workers
):
    broken = tmp_path / "broken" / "clips"
    broken.mkdir(parents=True)
    for index in range(NUM_CLIPS):
        (broken / f"{index}.mp4").write_bytes(b"not a film")
    options = (f"datasets.clips.media={broken.parent}", f"run.num_workers={num_workers}")
    assert run(run_file, *options) == 2
    errors = capsys.readouterr().err
    assert "error: datasets.clips: 6 samples in a row cannot be used" in errors
    assert "Traceback" not in errors
