"""The four presets at full size against the names and shapes of the published files, on meta."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import yaml
from key_lists import key_list, meta_state, num_params

from video_llama.common.config import load
from video_llama.models import sources
from video_llama.models.decoders import coverage
from video_llama.models.loading import check_model

DECODERS = {
    "vicuna7b": "vicuna_7b_v0",
    "vicuna13b": "vicuna_13b_v0",
    "llama2_7b": "llama_2_7b_chat",
    "llama2_13b": "llama_2_13b_chat",
}
PUBLISHED_COUNTS = {
    ("eva_vit_g", ""): 985_894_528,
    ("blip2_pretrained_flant5xxl", "Qformer."): 105_137_664,
    ("vl_7b", "video_Qformer."): 18_905_088,
    ("al_7b", "audio_Qformer."): 19_691_520,
    ("imagebind_huge", ""): 1_200_781_057,
    ("vl_7b", ""): 22_104_064,
    ("al_7b", ""): 22_855_680,
    ("llama_2_7b_chat", ""): 6_738_415_616,
    ("llama_2_13b_chat", ""): 13_015_864_320,
}


@pytest.mark.parametrize(("which", "count"), PUBLISHED_COUNTS.items(), ids=str)
def test_the_lists_have_the_published_counts(which, count):
    name, below = which
    assert num_params(name, below=below) == count


def run_file(folder, *, model_type, media):
    """Write a run file whose weights are empty files, each called like its list."""
    size = "13b" if "13b" in model_type else "7b"
    files = {
        "llama_model": DECODERS[model_type],
        "vit_model": "eva_vit_g",
        "q_former_model": "blip2_pretrained_flant5xxl",
        "imagebind_ckpt_path": "imagebind_huge",
        "ckpt": f"vl_{size}",
        "ckpt_2": f"al_{size}",
    }
    model = {"arch": "video_llama", "model_type": model_type, "audio_branch_media": media}
    if media == "video":
        # ImageBind's vision trunk would take the pictures away from the video branch.
        model["branches"] = {"video": None}
        del files["ckpt"]
    for key, name in files.items():
        (folder / name).touch()
        model[key] = str(folder / name)
    run = {"task": "video_text_pretrain", "output_dir": str(folder)}
    (folder / "run.yaml").write_text(yaml.safe_dump({"model": model, "run": run}))
    return folder / "run.yaml"


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """Return a check of a preset against lists of names and shapes instead of files."""

    @functools.cache
    def checked(model_type, media="audio", files_of=None):
        folder = tmp_path_factory.mktemp("files")
        config = load(run_file(folder, model_type=model_type, media=media)).model
        swapped = (lambda name: name.replace("_7b", "_13b")) if files_of == "13b" else str
        with pytest.MonkeyPatch.context() as patch:
            for module in (sources, coverage):
                patch.setattr(module, "read_state", lambda p: meta_state(swapped(Path(p).name)))
            return check_model(config)

    return checked


@pytest.mark.parametrize("model_type", DECODERS)
def test_every_name_and_shape_of_a_preset_is_the_published_one(model_type, check):
    loaded, problems = check(model_type)
    assert problems == []
    model = loaded.model
    assert {name for name, _ in model.branches.named_parameters(prefix="branches")} <= set(
        loaded.origin
    )
    counts = {row.name: row.num_params for row in model.rows()}
    video, audio = "branches.video.stages", "branches.audio.stages"
    assert counts["branches.video.encoder"] == 985_894_528
    assert counts[f"{video}.image_qformer"] == 105_137_664 + 32 * 768
    assert counts[f"{video}.video_qformer"] == 18_905_088 + 32 * 768 + 32 * 768
    assert counts[f"{audio}.audio_qformer"] == 19_691_520 + 8 * 768 + 8 * 1024
    assert counts["decoder"] == num_params(DECODERS[model_type])


@pytest.mark.parametrize(
    ("media", "keys", "values"), [("audio", 177, 86_235_649), ("video", 392, 632_829_440)]
)
def test_a_trunk_takes_its_share_of_imagebind_and_excuses_the_rest(media, keys, values, check):
    loaded, problems = check("vicuna7b", media)
    assert problems == []
    report = next(r for r in loaded.reports if r.source.endswith("imagebind_huge"))
    assert report.matched == keys
    assert report.matched + sum(report.dropped.values()) == len(key_list("imagebind_huge")) == 1311
    tensors = loaded.model.state_dict()
    assert sum(tensors[name].numel() for name in report.filled) == values
    trunk = "vision" if media == "video" else "audio"
    assert list(report.dropped) == [f"only the {trunk} trunk is built"]


@pytest.mark.parametrize(
    ("position", "name", "values"), [(-2, "vl_7b", 22_104_064), (-1, "al_7b", 22_855_680)]
)
def test_a_branch_of_a_release_is_the_published_size(position, name, values, check):
    loaded, _ = check("vicuna7b")
    report = loaded.reports[position]
    tensors = loaded.model.state_dict()
    assert report.source.endswith(name)
    assert report.matched == sum(not key.is_buffer for key in key_list(name).values())
    assert sum(tensors[name].numel() for name in report.filled) == values


def test_files_of_13b_with_a_decoder_of_7b_are_refused_with_that_cause(check):
    _, problems = check("vicuna7b", files_of="13b")
    assert len(problems) == 3
    for problem in problems:
        assert "a file for a 13B decoder (5120 wide) with a 7B one (4096 wide)" in problem
