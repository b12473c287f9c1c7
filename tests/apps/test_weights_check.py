"""`weights check` through the command line, on files in the released layouts and on bad ones."""

from __future__ import annotations

import shutil

import pytest
import torch
from released_project import AL, FILES, VL, write_released_folder, write_run_file
from tiny_released import ROLES

from video_llama.apps.main import main


@pytest.fixture
def check(tmp_path, capsys):
    """Run the check on the tiny project with other keys; return exit code and what was said."""

    def run(*options, **keys):
        file = write_run_file(tmp_path, **keys)
        words = ["weights", "check", "--cfg-path", str(file)]
        code = main([*words, "--options", *options] if options else words)
        captured = capsys.readouterr()
        return code, " ".join((captured.out + captured.err).replace("│", " ").split())

    return run


@pytest.fixture
def refused(check):
    """Run the check on a bad key; return what was said."""

    def run(*options, **keys):
        code, said = check(*options, **keys)
        assert code == 2
        return said

    return run


def test_published_files_fit_and_every_part_has_its_source(check):
    code, said = check()
    assert code == 0
    for part, file in (
        ("branches.video.encoder", "eva_vit_g_tiny.pth"),
        ("branches.video.stages.ln_vision", "blip2_pretrained_tiny.pth"),
        ("branches.video.stages.video_qformer", "vl_branch.pth"),
        ("branches.audio.encoder", "imagebind_huge.pth"),
        ("branches.audio.stages.projection", "al_branch.pth"),
    ):
        row = said.split("every parameter has one source")[1].split(part)[1]
        assert file in row[:200].split("branches.")[0]
    assert "replaced: 2 tensors of" in said


def test_nothing_is_loaded(check, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("a weight was written")

    monkeypatch.setattr("video_llama.common.weights._write", never)
    assert check()[0] == 0


def test_all_missing_files_are_listed_together(refused, tmp_path):
    said = refused(
        vit_model=str(tmp_path / "eva_vit_g.pth"),
        imagebind_ckpt_path=str(tmp_path / "imagebind_huge.pth"),
        ckpt=str(tmp_path / "VL.pth"),
    )
    assert "3 missing files" in said
    for key in ("model.vit_model", "model.imagebind_ckpt_path", "model.ckpt"):
        assert key in said
    assert "storage.googleapis.com" in said


def test_imagebind_may_be_named_by_its_directory(check):
    assert check(imagebind_ckpt_path=str(FILES))[0] == 0


def test_a_directory_without_imagebind_says_which_file_it_lacks(refused, tmp_path):
    (tmp_path / "ckpt").mkdir()
    said = refused(imagebind_ckpt_path=str(tmp_path / "ckpt"))
    assert "1 missing files" in said
    assert "imagebind_huge.pth" in said


def test_a_released_folder_is_enough(check, tmp_path):
    release = write_released_folder(tmp_path)
    code, said = check(f"model.released={release}", tokenizer=None)
    assert code == 0
    assert f"{release}/VL_LLaMA_2_7B_Finetuned.pth" in said


def test_what_a_released_folder_lacks_is_listed(refused, tmp_path):
    release = write_released_folder(tmp_path, without="AL_LLaMA_2_7B_Finetuned.pth")
    said = refused(f"model.released={release}", tokenizer=None)
    assert "1 missing files" in said
    assert "AL_LLaMA_2_7B_Finetuned.pth" in said


def truncated(folder):
    whole = VL.read_bytes()
    (folder / "x.pth").write_bytes(whole[: len(whole) // 2])


def web_page(folder):
    (folder / "x.pth").write_text("<!DOCTYPE html><html>Sign in</html>")


class Payload:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of the file was run')",)


def code_inside(folder):
    torch.save({"model": {"a": torch.zeros(1)}, "hook": Payload()}, folder / "x.pth")


def empty_directory(folder):
    (folder / "x.pth").mkdir()


def of_another_width(folder):
    content = torch.load(VL, weights_only=True)
    content["model"]["llama_proj.weight"] = torch.zeros(128, 64)
    content["model"]["llama_proj.bias"] = torch.zeros(128)
    torch.save(content, folder / "x.pth")


def a_part_short(folder):
    content = torch.load(VL, weights_only=True)
    del content["model"]["video_query_tokens"]
    torch.save(content, folder / "x.pth")


def video_llama_2(folder):
    names = ("model.mm_projector.readout.0.weight", "model.layers.0.self_attn.q_proj.weight")
    torch.save({name: torch.zeros(2, 2) for name in names}, folder / "x.pth")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (truncated, "not a complete file of weights"),
        (web_page, "a web page, not weights"),
        (code_inside, "would run code from the file"),
        (empty_directory, "1 missing files"),
        (of_another_width, "llama_proj.weight [128, 64], the model has [64, 64]"),
        (a_part_short, "branches.video.stages.video_qformer.queries"),
        (video_llama_2, "the file is VideoLLaMA 2, another system"),
        (lambda folder: shutil.copy(AL, folder / "x.pth"), "holds the audio branch only"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_a_bad_checkpoint_is_refused_with_its_cause(make, text, refused, tmp_path):
    make(tmp_path)
    assert text in refused(ckpt=str(tmp_path / "x.pth"))


def test_the_video_branch_in_the_place_of_the_audio_branch_is_refused(refused):
    said = refused(ckpt_2=str(VL))
    assert "holds the video branch only, and model.ckpt_2 is for the audio branch" in said


def test_a_branch_that_is_in_no_file_is_refused(refused):
    said = refused(ckpt_2=None)
    assert "model.branches.audio.stages.audio_qformer" in said
    assert "neither `weights` nor model.ckpt fills them" in said


@pytest.mark.parametrize(("key", "other"), [(a, b) for a in ROLES for b in ROLES if a != b])
def test_every_file_in_the_place_of_another_is_recognised(key, other, refused):
    said = refused(**{key: str(FILES / ROLES[other])})
    assert f"it belongs into model.{other}" in said


def test_a_decoder_of_another_size_is_refused(refused):
    said = refused("model.decoder.architecture.hidden_size=128")
    assert "another network than model.decoder.architecture describes: hidden_size 64" in said


def test_a_directory_that_lacks_a_tensor_of_the_decoder_is_refused(refused, tmp_path):
    shutil.copytree(FILES / "llama", tmp_path / "llama")
    file = tmp_path / "llama" / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    del state["model.norm.weight"]
    torch.save(state, file)
    assert "- model.norm.weight" in refused(llama_model=str(tmp_path / "llama"))


def test_a_tokenizer_of_another_vocabulary_is_refused(refused, tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([chr(0x4E00 + i) * 3 for i in range(1197)]),
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=1200,
        character_coverage=1.0,
        model_type="char",
        minloglevel=2,
    )
    said = refused(tokenizer=str(tmp_path))
    assert "ids from 1,000 on cannot be looked up: a tokenizer of another vocabulary" in said
