"""What docs/released_weights.md shows is what its commands print, at the size of the tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import ROOT, blocks, table
from released_project import write_released_folder, write_run_file
from tiny_llava import write_hub

from video_llama.apps.main import main
from video_llama.models.released.releases import RELEASES

PAGE = ROOT / "docs" / "released_weights.md"
RELEASE = "ckpt/Video-LLaMA-2-7B-Finetuned"
OWN_FILES = ("model.tokenizer=null", "model.llama_proj_model=null")
COMMANDS = (
    ["inspect", f"{RELEASE}/VL_LLaMA_2_7B_Finetuned.pth"],
    ["check", "--cfg-path", "run.yaml", "--options", f"model.released={RELEASE}", *OWN_FILES],
    ["export", "--cfg-path", "run.yaml", "--branch", "video", "--out", "VL.pth"],
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "ckpt").mkdir()
    monkeypatch.chdir(tmp_path)
    write_released_folder(Path("ckpt"))
    write_run_file(Path())


@pytest.mark.parametrize("index", range(len(COMMANDS)), ids=[words[0] for words in COMMANDS])
def test_the_output_on_the_page_is_the_commands_own(index, project, capsys):
    assert main(["weights", *COMMANDS[index]]) == 0
    said = [line.rstrip() for line in capsys.readouterr().out.strip("\n").splitlines()]
    assert said == blocks(PAGE, "text")[index].strip("\n").splitlines()


def test_the_verdict_on_the_page_of_video_llava_is_the_commands_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_hub(Path("ckpt/Video-LLaVA-7B-hf"))
    assert main(["weights", "inspect", "ckpt/Video-LLaVA-7B-hf"]) == 0
    said = [line.rstrip() for line in capsys.readouterr().out.strip("\n").splitlines()]
    page = ROOT / "docs" / "weights_video_llava.md"
    assert said == blocks(page, "text")[0].strip("\n").splitlines()


def test_every_release_is_on_a_page():
    pages = "".join(
        (ROOT / "docs" / f"weights_{name}.md").read_text() for name in ("llama2", "vicuna")
    )
    for release in RELEASES:
        if "llama2" in release.preset:
            folder = f"Video-LLaMA-2-{release.preset[7:].upper()}-{release.file.split('_')[4][:-4]}"
            assert folder in pages
        elif "vicuna" in release.preset:
            assert f"`{release.file}`" in pages
        else:
            assert f"*-{release.preset}-zh.pth" in pages


def test_the_pages_say_what_every_vicuna_file_was_trained_on():
    rows = table(ROOT / "docs" / "weights_vicuna.md", "| file |")
    for release in RELEASES:
        if "vicuna" in release.preset:
            branch, preset, data = rows[f"`{release.file}`"]
            assert preset == f"`{release.preset}`"
            assert branch == {"video": "vision", "audio": "audio"}[release.branch]
            assert re.sub(r"^then |, as pictures$", "", data) == release.data
