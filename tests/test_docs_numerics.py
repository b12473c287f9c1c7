"""The bytes on the page about numerics are those of the model it speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from pages import ROOT, table
from torch import nn

from video_llama.common.config import load
from video_llama.models.branch import Branch
from video_llama.models.video_llm import VideoLLM

PAGE = ROOT / "docs" / "numerics.md"
RUN_FILE = "train_configs/audiovisual_stage3_joint.yaml"
GB, MB = 10**9, 10**6


@pytest.fixture(scope="module")
def models():
    """The 7B and the 13B model without memory."""
    found = {}
    for size in ("7B", "13B"):
        config = load(ROOT / RUN_FILE, options=[f"model.model_type=vicuna{size.lower()}"])
        with torch.device("meta"):
            found[size] = VideoLLM(config.model)
    return found


def parts(model: VideoLLM) -> Iterator[tuple[str, nn.Module]]:
    for name, branch in model.branches.items():
        assert isinstance(branch, Branch)
        for part, module, _ in branch.parts():
            yield f"{name}.{part.removeprefix('stages.')}", module
    yield "decoder", model.decoder


def number(text: str) -> float:
    return float(re.sub(r"[^\d.]", "", text))


def frozen_linear_weights(model: VideoLLM) -> int:
    layers = (m for m in model.decoder.modules() if isinstance(m, nn.Linear))
    return sum(p.numel() for layer in layers for p in layer.parameters() if not p.requires_grad)


def test_parameters_dtypes_and_bytes_of_every_part(models):
    rows = table(PAGE, "| part | parameters |")
    listed = {re.findall(r"`([\w.]+)`", name)[0]: (name, cells) for name, cells in rows.items()}
    assert listed.keys() == dict(parts(models["7B"])).keys()
    total = 0
    for name, module in parts(models["7B"]):
        head, cells = listed[name]
        parameters = list(module.parameters())
        num_bytes = sum(p.numel() * p.element_size() for p in parameters)
        total += num_bytes
        assert number(cells[0]) == sum(p.numel() for p in parameters)
        assert set(re.findall(r"b?float\d+", cells[1])) == {
            str(p.dtype).removeprefix("torch.") for p in parameters
        }
        assert number(cells[2]) == pytest.approx(num_bytes / GB, abs=0.005)
        assert ("learns" in head) == any(p.requires_grad for p in parameters)
    text = PAGE.read_text("utf-8")
    assert f"{total / GB:.1f} GB of weights in all" in text
    learning = sum(p.numel() for p in models["7B"].parameters() if p.requires_grad)
    said = f"{learning:,} parameters that learn, {learning * 12 / GB:.2f} GB"
    assert said in " ".join(text.split())


@pytest.mark.parametrize("size", ["7B", "13B"])
def test_the_copies_avoided_are_the_frozen_linear_weights_in_half_precision(models, size):
    weights, avoided = table(PAGE, "| decoder | frozen linear weights |")[size]
    expected = frozen_linear_weights(models[size])
    assert number(weights) == expected
    assert number(avoided.removesuffix("GB")) == pytest.approx(2 * expected / GB, abs=0.05)


def test_the_bytes_of_logits_are_positions_times_vocabulary_times_four():
    rows = table(PAGE, "| float32 logits, vocabulary of 32,000 |")
    said = [number(cells[0].removesuffix("MB")) for cells in rows.values()]
    positions = (2000, 60, 4 * 2000, 4 * 60)
    assert said == [pytest.approx(count * 32000 * 4 / MB, abs=0.05) for count in positions]
