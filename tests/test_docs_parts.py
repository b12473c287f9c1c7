"""The parts that README and docs show are real: written to files and used as the text says."""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from pages import ADDING, PAGES, README, ROOT, blocks, commands
from PIL import Image

from video_llama.common.config import load
from video_llama.common.registry import registry
from video_llama.common.sections import parse_datasets
from video_llama.common.types import Features, MediaItem, Message, Sample, Shape
from video_llama.conversation.encode import encode
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import load_tokenizer
from video_llama.models.video_llm import VideoLLM
from video_llama.processors.media import Request
from video_llama.processors.upload_folder import UploadFolder
from video_llama.runners.optim import LrSpan

TOY_RUN = "train_configs/toy/visionbranch_stage1_pretrain.yaml"
AUDIO_RUN = "train_configs/audiobranch_stage1_pretrain.yaml"
FULL_RUN = "train_configs/audiovisual_stage3_joint.yaml"
TOKENIZER = ROOT / "tests" / "goldens" / "conversation" / "llama"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """A package `my_lab` outside the tree with every part the docs show."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "my_lab").mkdir()
    for page in PAGES:
        # The scripts of the page about data sets are run where its rows are.
        for block in blocks(page, "python") if page.name != "data_sets.md" else ():
            # What talks to a model is run by the tests of the chat's pages.
            if "load_chat" in block:
                continue
            name = re.match(r"# (my_lab/\w+\.py)\n", block)
            assert name, f"{page.name}: a Python block does not say which file it is"
            (folder / name[1]).write_text(block)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def part(lab: Path, name: str):
    return importlib.import_module(f"my_lab.{name}")


def test_the_careful_loader_of_the_docs_reads_a_picture(lab, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    model = VideoLLM(load(TOY_RUN).model)
    loader = part(lab, "careful").careful(model.branch_specs())
    item = MediaItem("image", str(tmp_path / "red.png"))
    loaded = loader.load_all([Request(item, "video")])
    assert loaded[0].pixels.shape == (1, 3, 64, 64)
    loader.close()


def test_what_the_docs_receive_is_read_and_not_kept(lab, tmp_path):
    receiving = part(lab, "receiving")
    reader = receiving.reader_for(VideoLLM(load(TOY_RUN).model))
    with UploadFolder(parent=tmp_path) as folder:
        kept = list(folder.path.iterdir())
        with (ROOT / "examples" / "toy_silent.mp4").open("rb") as body:
            upload = receiving.receive(body, reader=reader, folder=folder)
        assert upload.items[0].times_s == (0.0, 1.0)
        assert list(folder.path.iterdir()) == kept
    assert not list(tmp_path.iterdir())
    reader.close()


def test_the_stage_of_the_readme_gives_one_step_and_ignores_padding(lab):
    stage_class = part(lab, "time_pool").TimePool
    shape = Shape(num_steps=4, num_tokens=2, width=6)
    stage = stage_class(stage_class.Config(), shape)
    tokens, mask = torch.randn(3, 4, 2, 6), torch.ones(3, 4, 2, dtype=torch.bool)
    mask[:, 2:] = False
    out = stage(Features(tokens, mask))
    same = stage(Features(tokens[:, :2], mask[:, :2]))
    assert out.tokens.shape == (3, 1, 2, 6)
    assert stage_class.Config().out_shape(shape) == Shape(1, 2, 6)
    assert torch.allclose(out.tokens, same.tokens, atol=1e-6)


def test_the_stage_of_the_readme_learns_without_any_row(lab):
    stage_class = part(lab, "time_pool").TimePool
    stage = stage_class(stage_class.Config(), Shape(4, 2, 6))
    empty = Features(torch.zeros(0, 4, 2, 6), torch.zeros(0, 4, 2, dtype=torch.bool))
    stage(empty).tokens.sum().backward()
    assert all(parameter.grad is not None for parameter in stage.parameters())


def test_the_stage_of_the_readme_replaces_the_video_qformer(lab):
    words = next(w for w in commands(README) if "imports=[my_lab.time_pool]" in w)
    options = words[words.index("--options") + 1 :]
    with torch.device("meta"):
        model = VideoLLM(load(ROOT / TOY_RUN, options=options).model)
    rows = {row.name: row for row in model.rows()}
    assert rows["branches.video.stages.video_qformer"].type == "time_pool"
    assert rows["branches.video.stages.video_qformer"].num_trainable == 96 * 64 + 64 + 64 + 1


def test_the_encoder_of_the_docs_builds_a_trainable_branch(lab, tmp_path):
    text = next(b for b in blocks(ADDING, "yaml") if "conv_stem" in b)
    shown, run = yaml.safe_load(text), yaml.safe_load((ROOT / TOY_RUN).read_text("utf-8"))
    run["imports"] = shown["imports"]
    video = shown["model"]["branches"]["video"]
    stages = {**run["model"]["branches"]["video"]["stages"], **video["stages"]}
    run["model"]["branches"]["video"] = {**video, "stages": stages}
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(run))
    with torch.device("meta"):
        model = VideoLLM(load(file).model)
    assert all(row.num_params == row.num_trainable for row in model.rows()[:-1])
    encoder_class = part(lab, "conv_stem").ConvStem
    encoder = encoder_class(encoder_class.Config())
    mask = torch.tensor([[True, True], [True, False]])
    features = encoder(torch.randn(2, 2, 3, 64, 64), mask)
    assert features.tokens.shape == (2, 2, 16, 96)
    assert (features.tokens[1, 1] == 0).all()


def test_the_decoder_of_the_docs_is_built_with_its_adapters(lab):
    pytest.importorskip("peft")
    text = next(b for b in blocks(ADDING, "yaml") if "lora" in b)
    model = yaml.safe_load(text)["model"]
    options = [
        f"model.llama_model={model['llama_model']}",
        f"model.decoder={json.dumps(model['decoder'])}",
    ]
    with torch.device("meta"):
        built = VideoLLM(load(ROOT / FULL_RUN, options=options).model)
    assert built.config.decoder.config.architecture["model_type"] == "mistral"
    row = next(row for row in built.rows() if row.name == "decoder")
    # Four square-ish maps a layer: q and o 4096 x 4096, k and v as wide as Mistral's 8 key heads.
    assert row.num_trainable == 32 * 64 * (2 * (4096 + 4096) + 2 * (4096 + 1024))


def test_the_reader_of_the_docs_names_its_clips_and_finds_bad_rows(lab, tmp_path):
    part(lab, "msr_vtt")
    file = tmp_path / "data.json"
    row = {"video_id": "video1", "caption": "a cat plays", "sen_id": 7}
    file.write_text(json.dumps({"sentences": [row]}))
    problems: list[str] = []
    entry = {"type": "msr_vtt", "annotations": str(file), "media": "clips"}
    config = parse_datasets({"m": entry}, problems)["m"].config
    assert problems == []
    reader_class = registry.get_dataset_class("msr_vtt")
    sample = reader_class(config, name="m").sample(0)
    assert (sample.media[0].path, sample.form) == ("clips/video1.mp4", "caption")
    file.write_text(json.dumps({"sentences": [{"video_id": "video1"}]}))
    (tmp_path / "clips").mkdir()
    config = reader_class.Config(annotations=str(file), media=str(tmp_path / "clips"))
    assert "no 'caption'" in reader_class(config, name="m").missing()[0]


def test_the_template_of_the_docs_renders_a_chat_as_the_beginning_of_a_training_text(lab):
    part(lab, "alpaca")
    settings = {
        "template": get_template("alpaca"),
        "tokenizer": load_tokenizer(TOKENIZER),
        "num_slots": [2],
        "max_len": 200,
    }
    question = Message("user", [MediaItem("video", "a.mp4"), "what is it?"])
    whole = Sample("k", [question, Message("assistant", ["a boat"])])
    chat = encode(Sample("k", [question], form="chat"), generation_prompt=True, **settings)
    trained = encode(whole, **settings)
    text = settings["tokenizer"].decode([i for i in trained.input_ids if i > 2])
    assert trained.input_ids[: len(chat.input_ids)] == chat.input_ids
    assert re.search(r"(?s)### Instruction:\n ?<Video>.*is it\?\n\n### Response:\na boat", text)


def test_the_task_of_the_docs_reports_the_exponential_of_the_loss(lab):
    part(lab, "perplexity")
    task = registry.get_task_class("perplexity")()
    batch = argparse.Namespace(dataset="d")
    output = argparse.Namespace(sample_loss=torch.tensor([4.0]), sample_targets=torch.tensor([2]))
    assert task.evaluate(lambda _: output, [batch])["perplexity"] == pytest.approx(7.389056)
    assert task.metrics(["d"]).keys() == task.evaluate(lambda _: output, [batch]).keys()


def test_the_schedule_of_the_docs_peaks_after_the_warm_up(lab):
    part(lab, "inverse_sqrt")
    schedule = registry.get_lr_scheduler_class("inverse_sqrt_lr")
    span = LrSpan(init_lr=1.0, warmup_steps=100, steps_per_epoch=1000)
    assert [schedule(step, span=span) for step in (0, 50, 100, 400)] == [0.0, 0.5, 1.0, 0.5]


@pytest.mark.parametrize("option", re.findall(r"\| `(model\.[^`]+)`", README.read_text("utf-8")))
def test_every_one_line_swap_of_the_readme_builds_another_model(option, lab):
    imports = ["imports=[my_lab.time_pool]"] if "time_pool" in option else []
    run_file = ROOT / (AUDIO_RUN if "audio" in option else FULL_RUN)
    config = load(run_file, options=[option, *imports])
    key, value = option.split("=")
    said = functools.reduce(lambda node, name: node[name], key.split("."), config.resolved)
    assert said == yaml.safe_load(value)
    with torch.device("meta"):
        model = VideoLLM(config.model)
    assert model.config != load(run_file).model
