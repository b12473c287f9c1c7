"""`template: tokenizer` from a run file to a chat, an evaluation, a server and a saved model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from apps.served import MODEL as SERVED
from apps.served import served, user
from apps.tiny_project import MODEL, TOKENIZER, write_clips
from transformers import LlamaConfig, LlamaForCausalLM

from video_llama import load_chat
from video_llama.apps.main import main
from video_llama.apps.vocabulary import text_settings
from video_llama.common.config import load
from video_llama.common.errors import ConfigError

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' + message['content'] }}"
    "<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)
pytestmark = pytest.mark.slow
WORDS, ROWS = 1000, 1064
STARTS, ENDS, PICTURE = 1000, 1001, 1002
"""Ids of the tokens that were added behind the words."""


def write_decoder(folder: Path) -> Path:
    """A language model whose directory says how it is talked to, with more rows than tokens."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = LlamaConfig(
        **sizes, num_attention_heads=2, vocab_size=ROWS, max_position_embeddings=96
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    shutil.copy(TOKENIZER / "tokenizer.model", folder)
    names = {STARTS: "<|im_start|>", ENDS: "<|im_end|>", PICTURE: "<image>"}
    added = {str(i): {"content": text, "special": True} for i, text in names.items()}
    tokenizer = {"bos_token": "<s>", "eos_token": "</s>", "added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (folder / "chat_template.jinja").write_text(CHATML)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A run file of two steps over conversations about clips, with questions to be evaluated."""
    folder = tmp_path_factory.mktemp("own_template")
    clips = write_clips(folder / "clips") / "page"
    turns = [("user", "<video>What is it?"), ("assistant", "A shade.")]
    turns += [("user", "Sure?"), ("assistant", "Yes.")]
    messages = [{"role": role, "content": text} for role, text in turns]
    rows = [{"messages": messages, "videos": [f"{number}.mp4"]} for number in range(4)]
    (folder / "talks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = [{"video_name": "0", "question": "What?", "question_id": n} for n in range(3)]
    answers = [{"answer": "A shade.", "question_id": n} for n in range(3)]
    (folder / "test_q.json").write_text(json.dumps(asked))
    (folder / "test_a.json").write_text(json.dumps(answers))
    entry = {"type": "messages", "annotations": str(folder / "talks.jsonl"), "media": str(clips)}
    decoder = {"weights": str(write_decoder(folder / "decoder")), "trainable": False}
    sizes = {**MODEL["decoder"]["architecture"], "vocab_size": ROWS}
    model = {
        **MODEL,
        "tokenizer": None,
        "template": "tokenizer",
        "decoder": {**decoder, "architecture": sizes},
        "branches": {**MODEL["branches"], "audio": None},
    }
    questions = {"annotations": str(folder / "test_q.json"), "answers": str(folder / "test_a.json")}
    questions |= {"type": "video_qa", "split": "test", "media": str(clips)}
    run = {
        "task": "video_text_pretrain",
        "output_dir": str(folder / "out"),
        "device": "cpu",
        "iters_per_epoch": 2,
        "max_epoch": 1,
        "batch_size_train": 2,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"model": model, "datasets": {"talks": entry}, "run": run}))
    model |= {"ckpt": str(folder / "out")}
    run = {"task": "question_answering", "output_dir": str(folder / "asked"), "device": "cpu"}
    run |= {"max_new_tokens": 3}
    tree = {"model": model, "datasets": {"asked": questions}, "run": run}
    (folder / "evaluate.yaml").write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def trained(project: Path) -> Path:
    """The folder of the run."""
    assert main(["train", "--cfg-path", str(project)]) == 0
    return project.parent / "out"


def prompt_of(chat, clip: Path) -> list[int]:
    chat.upload(clip)
    return list(chat.lay_out("What is it?").prompt.input_ids)


def test_a_trained_and_a_saved_model_are_asked_as_the_directory_says(trained, project, tmp_path):
    clip = project.parent / "clips" / "page" / "0.mp4"
    chat = load_chat(trained)
    ids = prompt_of(chat, clip)
    spell = chat.tokenizer.encode_run
    question = [*spell("user\n").ids, 0, 0, *spell("\nWhat is it?").ids]
    assert ids == [STARTS, *question, ENDS, *spell("\n").ids, STARTS, *spell("assistant\n").ids]
    assert chat.template.stop == ("<|im_end|>", "</s>")
    folder = chat.model.save_pretrained(tmp_path / "own", full=True)
    again = load_chat(folder)
    assert prompt_of(again, clip) == ids
    assert again.ask("What is it?") == chat.ask("What is it?")


def test_only_words_and_the_closing_mark_are_generated(trained):
    decoder = load_chat(trained).model.decoder
    assert decoder.silent_ids == frozenset(range(WORDS, ROWS)) - {ENDS}


def test_the_answers_of_a_run_are_taught_with_their_closing_mark(project):
    text = text_settings(load(project).model)
    assert text.template.name == "tokenizer"
    assert text.tokenizer.end_ids(text.template.stop) == {text.tokenizer.eos_id, ENDS}


@pytest.mark.usefixtures("trained")
def test_questions_are_evaluated_with_it(project):
    assert main(["evaluate", "--cfg-path", str(project.parent / "evaluate.yaml")]) == 0
    lines = (project.parent / "asked" / "asked" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 3


def test_it_is_served_as_it_talks(trained):
    chat = load_chat(trained)
    with served(chat) as server:
        asked = [{"role": "system", "content": "Be brief."}, user("What is it?<|im_end|>")]
        said = server.client().chat.completions.create(
            model=SERVED, messages=asked, max_tokens=4, temperature=0.0
        )
    chat.set_system("Be brief.")
    laid = chat.lay_out("What is it?<|im_end|>")
    assert said.usage.prompt_tokens == len(laid.prompt.input_ids)
    assert [i for i in laid.prompt.input_ids if i >= WORDS] == [STARTS, ENDS] * 2 + [STARTS]


def test_a_decoder_without_a_chat_template_is_named_before_anything_is_trained(project, capsys):
    options = [f"model.tokenizer={TOKENIZER}", f"run.output_dir={project.parent / 'none'}"]
    code = main(["train", "--cfg-path", str(project), "--dry-run", "--options", *options])
    assert code == 2
    said = capsys.readouterr()
    assert "has no chat template" in " ".join((said.out + said.err).split())
    with pytest.raises(ConfigError, match="has no chat template"):
        text_settings(load(project, options=options).model)
