"""Promise: LoRA touches only the decoder; save, reload and merge give the same model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from apps.tiny_project import write_project
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from video_llama.apps.loading import load_model
from video_llama.apps.train import train
from video_llama.common.config import load
from video_llama.common.types import IGNORE_INDEX, Batch, BatchItem, BranchInput
from video_llama.models.video_llm import VideoLLM

pytest.importorskip("peft")
pytestmark = pytest.mark.slow

NUM_LAYERS, WIDTH, RANK = 2, 16, 3
TARGETS = ("q_proj", "v_proj")
STAGES = {"video": ("video_qformer", "projection"), "audio": ("audio_qformer", "projection")}
BASE = LlamaConfig(
    hidden_size=WIDTH,
    intermediate_size=WIDTH,
    num_hidden_layers=NUM_LAYERS,
    num_attention_heads=2,
    vocab_size=1000,
    max_position_embeddings=96,
    attention_dropout=0.5,
)
DECODER = {
    "type": "causal_lm",
    "architecture": {"num_hidden_layers": NUM_LAYERS},
    "lora": {"rank": RANK, "alpha": 6, "dropout": 0.5, "targets": list(TARGETS)},
    "trainable": ["*lora_*"],
}


@dataclass(frozen=True)
class Run:
    """A run that is over.

    Attributes:
        file: its run file.
        llama: directory of the decoder.
    """

    file: Path
    llama: Path

    @property
    def out(self) -> Path:
        return Path(load(self.file).run.output_dir)

    def model(self, *options: str) -> VideoLLM:
        """Load what the run left, in evaluation mode."""
        return load_model(load(self.file, options=[f"model.ckpt={self.out}", *options])).model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs of two steps, a checkpoint after each; encoders are trained as well."""
    folder = tmp_path_factory.mktemp("lora")
    torch.manual_seed(0)
    LlamaForCausalLM(BASE).save_pretrained(folder / "llama")
    path = write_project(folder)
    tree = yaml.safe_load(path.read_text())
    sizes = tree["model"]["decoder"]["architecture"] | DECODER["architecture"]
    tree["model"]["decoder"] = {
        **DECODER, "architecture": sizes, "weights": str(folder / "llama")
    }  # fmt: skip
    tree["run"] |= {"max_epoch": 2, "init_lr": 0.05, "keep_last": 9, "num_workers": 0}
    path.write_text(yaml.safe_dump(tree))
    assert train(load(path)).is_finished
    return Run(path, folder / "llama")


@pytest.fixture(scope="module")
def trained(run):
    return run.model()


def adapters(prefix="decoder.model.model.layers"):
    """Return the names LoRA should bring, from its paper's rule: A and B beside every target."""
    return {
        f"{prefix}.{layer}.self_attn.{target}.lora_{matrix}.default.weight"
        for layer in range(NUM_LAYERS)
        for target in TARGETS
        for matrix in "AB"
    }


def batch():
    """Two texts, one behind a clip."""
    ids = torch.tensor([[1, 0, 0, 30, 31, 32], [1, 40, 41, 42, 43, 44]])
    labels = torch.where(ids > 1, ids, IGNORE_INDEX)
    pixels = torch.rand(1, 8, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    clip = BranchInput(pixels, torch.ones(1, 8, dtype=torch.bool), torch.arange(1))
    slots = torch.zeros_like(ids).int()
    slots[0, 1:3] = 1
    return Batch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        labels=labels,
        slots=slots,
        items=[BatchItem("video", 0, 2, 0)],
        media={"video": clip},
        keys=["clip", "text"],
    )


def losses(model, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        return model(batch()).sample_loss


def test_what_learns_is_the_bridges_and_the_adapters_and_nothing_else(trained):
    found = {name for name, p in trained.named_parameters() if p.requires_grad}
    of_decoder = {name for name in found if name.startswith("decoder.")}
    assert of_decoder == adapters()
    branches = {name for name, _ in trained.named_parameters() if name.startswith("branches.")}
    assert found - of_decoder == branches


def test_no_layer_outside_of_the_decoder_is_wrapped(trained):
    linears = [m for m in trained.branches.modules() if isinstance(m, nn.Linear)]
    assert {type(layer) for layer in linears} <= {
        nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear
    }  # fmt: skip
    qformer = trained.branches["video"].stages["video_qformer"].layers[0]
    assert type(qformer.self_attention.query) is nn.Linear
    assert not any("lora" in name for name, _ in trained.branches.named_modules())


def test_the_base_is_bit_for_bit_what_it_was(run, trained):
    before = load_file(run.llama / "model.safetensors")
    now = {
        name.replace(".base_layer", ""): tensor
        for name, tensor in trained.decoder.model.state_dict().items()
        if "lora_" not in name
    }
    assert now.keys() == before.keys()
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())


def test_every_checkpoint_holds_all_that_learns_and_its_moments(run, trained):
    learning = {name for name, p in trained.named_parameters() if p.requires_grad}
    checkpoints = sorted(run.out.glob("checkpoints/step_*"))
    assert [path.name for path in checkpoints] == ["step_0000002", "step_0000004"]
    states = [load_file(path / "trainable.safetensors") for path in checkpoints]
    for path, state in zip(checkpoints, states, strict=True):
        assert state.keys() == learning
        moments = load_file(path / "optimizer.safetensors")
        assert {name.split("::")[0] for name in moments} == learning
    # B starts at zero, so that a fresh adapter changes nothing; both learn from the second step.
    assert all(states[0][name].abs().max() > 0 for name in adapters())
    assert all(not torch.equal(states[0][name], states[1][name]) for name in adapters())


def test_a_reloaded_model_gives_the_same_losses(run, trained, tmp_path):
    expected = losses(trained)
    assert torch.equal(losses(run.model()), expected)
    folder = trained.save_pretrained(tmp_path / "mine")
    assert torch.equal(losses(VideoLLM.from_pretrained(folder)), expected)
    # The adapters matter: without them it is another model.
    assert not torch.allclose(losses(run.model("model.ckpt=null")), expected, atol=1e-3)


@pytest.mark.parametrize("full", [False, True])
def test_a_merged_model_gives_the_same_losses_and_so_does_its_folder(run, tmp_path, full):
    model = run.model()
    expected = losses(model)
    model.merge_adapters()
    torch.testing.assert_close(losses(model), expected, rtol=1e-5, atol=1e-5)
    assert not any("lora" in name for name, _ in model.named_parameters())
    reloaded = VideoLLM.from_pretrained(model.save_pretrained(tmp_path / "merged", full=full))
    assert reloaded.config.decoder.config.lora is None
    assert torch.equal(losses(reloaded), losses(model))


def test_adapters_drop_out_in_training_and_the_base_never_does(run):
    # The base's attention would drop half of its weights.
    model = run.model()
    for name, module in model.decoder.named_modules():
        if name.endswith("lora_dropout.default"):
            module.p = 0.0
    model.decoder.requires_grad_(False)
    for name, parameter in model.decoder.named_parameters():
        parameter.requires_grad_("lora_" in name)
    model.branches.requires_grad_(False)
    still = losses(model)
    assert torch.equal(losses(model.train()), still)
    for name, module in model.decoder.named_modules():
        if name.endswith("lora_dropout.default"):
            module.p = 0.5
    assert not torch.equal(losses(model, seed=1), losses(model, seed=2))
    assert torch.equal(losses(model.eval()), still)


def test_a_run_goes_on_with_layers_recomputed_and_learns_the_very_same(run, tmp_path):
    options = [
        f"run.output_dir={tmp_path}",
        "model.decoder.gradient_checkpointing=true",
        "model.branches.video.stages.video_qformer.gradient_checkpointing=true",
    ]
    config = load(run.file, options=options)
    half = run.out / "checkpoints" / "step_0000002"
    resumed = load(run.file, options=[*options, f"run.resume_ckpt_path={half}"])
    assert train(resumed).is_finished
    ours, theirs = (
        load_file(out / "checkpoints" / "step_0000004" / "trainable.safetensors")
        for out in (Path(config.run.output_dir), run.out)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.decoder.lora.targets=[q_proj,w_proj]", "is called w_proj; found: .*q_proj"),
        ("model.decoder.lora.targets=[.*]", "names of layers"),
        ("model.decoder.trainable=false", "8 parameters of adapters are frozen"),
    ],
)
def test_adapters_that_could_not_be_as_asked_are_refused(run, change, words):
    with pytest.raises(ValueError, match=words):
        load_model(load(run.file, options=[change]))
