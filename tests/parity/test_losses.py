"""Batches of captions and instructions: what the decoder is fed, the loss, and its gradients."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from closeness import GRADIENTS, assert_close
from safetensors import safe_open
from tiny_released import published_names, tree, typed

from video_llama.common.types import MediaItem, Message, Sample
from video_llama.conversation.layouts import Text
from video_llama.conversation.templates import get_template
from video_llama.datasets.sample_encoder import SampleEncoder, TextSettings
from video_llama.models.loading import build_model
from video_llama.tasks.prompting import Prompter

GOLDENS = Path(__file__).parents[1] / "goldens" / "training"
CASES = json.loads((GOLDENS / "losses.json").read_text())
with safe_open(GOLDENS / "losses.safetensors", framework="pt") as file:
    RECORDED = set(file.keys())
QUESTION = "Describe this image in detail."


@pytest.fixture(scope="module")
def learners():
    """One model per branch whose Q-Former and projection learn, in eval mode."""
    choices = {"vl": {"branches": ("video",)}, "al": {"branches": ("audio",), "trunk": "vision"}}
    return {
        kind: build_model(typed(tree(learn=True, **choice))).model.eval()
        for kind, choice in choices.items()
    }


def template_of(name, case):
    style = "llama_2_released" if "llama" in name else "vicuna_v0_released"
    template = get_template(style, frame_times=any(case.get("msg", ())))
    if name == "cap_llama2_yaml":
        # The run file's single quotes: a backslash and an n stand where a line feed was meant.
        layout = template.prompted_caption
        (before,) = layout.user_before
        before = Text(before.text.replace("\n", "\\n"))
        layout = dataclasses.replace(layout, user_before=(before,))
        template = dataclasses.replace(template, prompted_caption=layout)
    return template


def caption(name, pixels, text):
    form = {"key": name, "form": "caption"}
    if "noprompt" in name or "trunc" in name:
        item = MediaItem("video", "v", pixels=pixels)
        return Sample(messages=[Message("assistant", [item, text])], **form)
    item = MediaItem("image", "i", pixels=pixels)
    asked = Message("user", [item, QUESTION])
    return Sample(messages=[asked, Message("assistant", [text])], **form)


def dialogue(name, pixels, turns, times_s):
    messages = []
    for turn in turns:
        item = MediaItem("video", "v", pixels=pixels, times_s=times_s)
        messages.append(Message("user", [turn["q"]] if messages else [item, turn["q"]]))
        messages.append(Message("assistant", [turn["a"]]))
    return Sample(name, messages)


def samples_of(name, case, tensors):
    """The batch's samples from the published [B, C, T, H, W], or [B, C, H, W] for pictures."""
    images = tensors.get(f"{name}.image", tensors.get(f"{name}.images"))
    images = images[:, :, None] if images.ndim == 4 else images
    clips = images.transpose(1, 2)
    if name.startswith("cap"):
        return [caption(name, *pair) for pair in zip(clips, case["text"], strict=True)]
    times = [(0.0, 1.0, 2.0, 3.0), (0.0, 2.5, 5.0, 7.5)]
    return [dialogue(name, *row) for row in zip(clips, case["QA"], times, strict=True)]


@dataclasses.dataclass
class Run:
    """A model that has read a batch."""

    model: object
    batch: object
    embeds: torch.Tensor
    loss: torch.Tensor


@pytest.fixture(scope="module")
def run(learners, tokenizer, tensors):
    """Return a runner of cases by name; what it has run it remembers."""
    golden = tensors("training/losses")
    runs = {}

    def run_case(name):
        if name in runs:
            return runs[name]
        case = CASES[name]
        model = learners[case["kind"][:2]]
        (spec,) = model.branch_specs().values()
        # Published: the length of a caption alone, to which bos and media are added.
        max_len = 1 + spec.slots(1) + case.get("max_txt_len", 512)
        text = TextSettings(template_of(name, case), tokenizer, max_len=max_len)
        encoder = SampleEncoder(model.branch_specs(), text=text, reader=None)
        batch = Prompter(encoder).collate(samples_of(name, case, golden))
        fed = []
        loss = model.decoder.loss
        model.decoder.loss = lambda embeds, **rest: fed.append(embeds) or loss(embeds, **rest)
        output = model(batch)
        del model.decoder.loss
        runs[name] = Run(model, batch, fed[0], output.loss_sum / output.num_targets)
        return runs[name]

    return run_case


def gradients(ran):
    """Gradients of the mean loss by published name."""
    ran.model.zero_grad()
    ran.loss.backward(retain_graph=True)
    parameters = dict(ran.model.named_parameters())
    return {
        published: parameters[ours].grad for ours, published in published_names(ran.model).items()
    }


@pytest.mark.parametrize("name", CASES)
def test_labels_and_mask_are_the_published_ones(name, run, tensors):
    expected, batch = tensors("training/losses"), run(name).batch
    assert torch.equal(batch.labels, expected[f"{name}.labels"])
    assert torch.equal(batch.attention_mask, expected[f"{name}.attention_mask"].bool())


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("multi")])
def test_token_ids_are_the_published_ones_with_slots_for_placeholders(name, run, tensors):
    batch = run(name).batch
    ids = torch.where(batch.slots > 0, 1000, batch.input_ids)
    assert torch.equal(ids, tensors("training/losses")[f"{name}.input_ids"])


@pytest.mark.parametrize("name", [name for name in CASES if f"{name}.inputs_embeds" in RECORDED])
def test_the_decoder_is_fed_the_published_embeddings(name, run, tensors):
    expected = tensors("training/losses")[f"{name}.inputs_embeds"]
    assert_close(run(name).embeds, expected, kind="decoder inputs")


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_the_published_one(name, run):
    assert_close(run(name).loss, CASES[name]["loss"], kind="losses")


def test_the_logits_are_the_published_ones(run, tensors):
    ran, expected = run("cap_noprompt"), tensors("training/losses")["cap_noprompt.logits"]
    mask, decoder = ran.batch.attention_mask, ran.model.decoder
    with torch.no_grad():
        logits = decoder.logits(decoder(ran.embeds, attention_mask=mask))
    assert_close(logits[mask], expected[mask], kind="logits of a batch")


@pytest.mark.parametrize("name", ["cap_noprompt", "cap_al_noprompt"])
def test_gradients_are_the_published_ones(name, run, tensors):
    expected = {
        key.removeprefix(f"{name}::"): value
        for key, value in tensors("training/grads").items()
        if key.startswith(f"{name}::")
    }
    found = gradients(run(name))
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        # The gradient of a key's bias is zero in theory; what is found is rounding.
        if not key.endswith("key.bias"):
            assert_close(gradient, expected[key], kind="gradients", limit=GRADIENTS)


@pytest.mark.parametrize("name", CASES)
def test_gradient_norms_are_the_published_ones(name, run, record):
    expected = record("training/grad_norms")[name]["norms"]
    found = gradients(run(name))
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        if not key.endswith("key.bias"):
            norm = gradient.double().norm()
            assert_close(norm, expected[key], kind="gradient norms", limit=GRADIENTS)
