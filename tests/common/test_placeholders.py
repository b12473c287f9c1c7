"""Placeholders of published run files are told from paths that are merely missing."""

from __future__ import annotations

import pytest

from video_llama.common.hub import hub_ref
from video_llama.common.placeholders import is_placeholder, placeholder_hint

PLACEHOLDERS = (
    "path/pretrained_ckpt",
    "path/pretrained_visual_branch_ckpt",
    "/path/LLaVA_cc3m",
    "/path/to/cc_sbu_align_dataset",
    "path/webvid/webvid_train_data/videos",
    "path/to/visual_instruction...",
    "ckpt/imagebind_path",
    "ckpt/imagebind_path/",
    "your_path/vicuna",
    "ckpt path",
    "<folder>/imagebind_huge.pth",
)


@pytest.mark.parametrize("path", PLACEHOLDERS)
def test_a_placeholder_of_the_published_files_is_known(path):
    assert is_placeholder(path)
    assert "put the path of your own there" in placeholder_hint(path)


@pytest.mark.parametrize(
    "path",
    ["ckpt/vicuna-7b", "data/webvid/videos", "/data/my_paths/x.pth", "pathology/x", "../a.b/c"],
)
def test_a_path_that_somebody_may_have_is_none(path):
    assert not is_placeholder(path)
    assert placeholder_hint(path) == ""


@pytest.mark.parametrize("path", PLACEHOLDERS)
def test_a_placeholder_is_not_looked_for_on_the_hub(path):
    assert hub_ref(path) is None
