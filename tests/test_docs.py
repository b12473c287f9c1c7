"""What README and docs say works: links lead somewhere, commands exist, the parts they show run."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml

from video_llama.apps.main import VERBS
from video_llama.common.config import load, parse_datasets
from video_llama.common.registry import registry
from video_llama.common.types import Features, MediaItem, Message, Sample, Shape
from video_llama.conversation.encode import encode
from video_llama.conversation.templates import get_template
from video_llama.conversation.tokenizer import load_tokenizer
from video_llama.models.video_llm import VideoLLM
from video_llama.runners.optim import LrSpan

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TOY_RUN = "train_configs/toy/visionbranch_stage1_pretrain.yaml"
FULL_RUN = "train_configs/audiovisual_stage3_joint.yaml"
TOKENIZER = ROOT / "tests" / "goldens" / "conversation" / "llama"
DOORS = {"train.py": "train", "evaluate.py": "evaluate", "demo_audiovideo.py": "demo"}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text("utf-8")) if name == language]


def commands(page: Path) -> list[list[str]]:
    """Every command of the page's shell blocks as words, without comments."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def anchors(page: Path) -> set[str]:
    """The names GitHub gives to a page's headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def links() -> list[tuple[Path, str]]:
    pattern = re.compile(r'\]\(([^)\s]+)\)|src="([^"]+)"')
    return [
        (page, left or right)
        for page in PAGES
        for left, right in pattern.findall(page.read_text("utf-8"))
        if not (left or right).startswith("http")
    ]


@pytest.mark.parametrize(("page", "link"), links(), ids=lambda x: getattr(x, "name", x))
def test_a_link_leads_to_a_file_and_a_heading_that_exist(page, link):
    name, _, anchor = link.partition("#")
    target = page.parent / name if name else page
    assert target.exists()
    assert not anchor or anchor in anchors(target)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_verbs_flags_and_run_files_that_exist(page):
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for words in commands(page):
        while words and re.fullmatch(r"\w+=\S*", words[0]):
            words = words[1:]
        door = next((word for word in words if word in DOORS), None)
        if words[0] == "make":
            assert all(re.search(rf"^{goal}:", makefile, re.MULTILINE) for goal in words[1:])
        elif words[0] == "video-llama" or door:
            rest = words[words.index(door or words[0]) + 1 :]
            verb, rest = (DOORS[door], rest) if door else (rest[0], rest[1:])
            assert verb in VERBS
            check_flags(verb, rest)
            for word in rest:
                if word.endswith(".yaml"):
                    assert (ROOT / word).is_file(), word


def check_flags(verb: str, words: list[str]) -> None:
    """Let the verb's own parser read the words."""
    if words[:1] == ["--help"]:
        return
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(f"video_llama.apps.{verb}").add_arguments(parser)
    parser.parse_args(words)


def test_every_verb_is_in_the_docs():
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    said = set(re.findall(r"video-llama ([a-z]+)", text))
    assert said == set(VERBS)


@pytest.mark.parametrize(
    "option", re.findall(r"\| `(model\.[^`]+)`", (ROOT / "README.md").read_text("utf-8"))
)
def test_every_one_line_swap_of_the_readme_is_a_valid_run(option, lab):
    imports = ["imports=[my_lab.time_pool]"] if "time_pool" in option else []
    config = load(ROOT / FULL_RUN, options=[option, *imports])
    with torch.device("meta"):
        VideoLLM(config.model)


def test_every_run_file_of_the_docs_is_yaml():
    for page in PAGES:
        for block in blocks(page, "yaml"):
            assert isinstance(yaml.safe_load(block), dict)


def test_the_run_file_of_the_readme_loads(tmp_path):
    block = next(b for b in blocks(ROOT / "README.md", "yaml") if "model_type" in b)
    file = tmp_path / "run.yaml"
    file.write_text(block)
    assert load(file).run.init_lr == 3e-5


def test_every_registered_reader_is_in_the_readme_and_in_the_data_page(lab):
    for page in (ROOT / "README.md", ROOT / "docs" / "data.md"):
        listed = set(re.findall(r"^\| `(\w+)` \|", page.read_text("utf-8"), re.MULTILINE))
        assert {n for n in registry.list_datasets() if n not in OUT_OF_TREE} <= listed


def test_the_conversations_of_the_readme_can_be_read(tmp_path):
    lines = next(iter(blocks(ROOT / "README.md", "json")))
    file = tmp_path / "mine.jsonl"
    file.write_text(lines)
    reader = registry.get_dataset_class("messages")
    config = reader.Config(annotations=str(file), media=str(tmp_path))
    samples = [reader(config, name="mine").sample(i) for i in range(len(lines.splitlines()))]
    assert [s.media[0].kind for s in samples] == ["video", "audio", "image"]
    assert [s.messages[-1].text for s in samples] == ["A ball bounces.", "Rain.", "A bus."]


# The parts that README and docs/adding_a_part.md show, written to files and used as they say.

OUT_OF_TREE = ("msr_vtt",)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """A package `my_lab` outside the tree with every part the docs show."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "my_lab").mkdir()
    for page in PAGES:
        for block in blocks(page, "python"):
            name = re.match(r"# (my_lab/\w+\.py)\n", block)
            assert name, f"{page.name}: a Python block does not say which file it is"
            (folder / name[1]).write_text(block)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def part(lab: Path, name: str):
    return importlib.import_module(f"my_lab.{name}")


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
    words = next(w for w in commands(ROOT / "README.md") if "imports=[my_lab.time_pool]" in w)
    options = words[words.index("--options") + 1 :]
    with torch.device("meta"):
        model = VideoLLM(load(ROOT / TOY_RUN, options=options).model)
    rows = {row.name: row for row in model.rows()}
    assert rows["branches.video.stages.video_qformer"].type == "time_pool"
    assert rows["branches.video.stages.video_qformer"].num_trainable == 96 * 64 + 64 + 64 + 1


def test_the_encoder_of_the_docs_builds_a_trainable_branch(lab, tmp_path):
    text = next(b for b in blocks(ROOT / "docs" / "adding_a_part.md", "yaml") if "conv_stem" in b)
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
    text = next(b for b in blocks(ROOT / "docs" / "adding_a_part.md", "yaml") if "lora" in b)
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
    part(lab, "vicuna_v1")
    settings = {
        "template": get_template("vicuna_v1"),
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
    assert re.search(r"USER: ?<Video>.*</Video> what is it\? ASSISTANT: a boat", text)


def test_the_task_of_the_docs_reports_the_exponential_of_the_loss(lab):
    part(lab, "perplexity")
    task = registry.get_task_class("perplexity")()
    batch = argparse.Namespace(dataset="d")
    output = argparse.Namespace(sample_loss=torch.tensor([4.0]), sample_targets=torch.tensor([2]))
    assert task.evaluate(lambda _: output, [batch])["perplexity"] == pytest.approx(7.389056)


def test_the_schedule_of_the_docs_peaks_after_the_warm_up(lab):
    part(lab, "inverse_sqrt")
    schedule = registry.get_lr_scheduler_class("inverse_sqrt_lr")
    span = LrSpan(init_lr=1.0, warmup_steps=100, steps_per_epoch=1000)
    assert [schedule(step, span=span) for step in (0, 50, 100, 400)] == [0.0, 0.5, 1.0, 0.5]
