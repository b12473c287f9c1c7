"""A bundle of adapters as the published scripts write it, on top of a base decoder."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llava import HIDDEN, WIDTH, original_state, tree, typed, write_original
from transformers import LlamaForCausalLM

from video_llama.apps.checks import named_files
from video_llama.apps.evaluate_identity import model_identity
from video_llama.common.errors import CheckpointMismatch, ConfigError
from video_llama.common.lora_bundle import take_lora_bundle
from video_llama.common.schema import Config, RunConfig
from video_llama.common.state_files import read_state
from video_llama.models.exporting import export_branches, export_directory
from video_llama.models.loading import build_model, check_model
from video_llama.models.pretrained import read_folder
from video_llama.models.released import video_llava_config

peft = pytest.importorskip("peft")
TARGETS = ("q_proj", "v_proj", "down_proj")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_original(tmp_path_factory.mktemp("base") / "llava")


@pytest.fixture(scope="module")
def written_by_peft(base, tmp_path_factory):
    """A bundle that peft wrote, what learnt beside it, and the model of transformers it is of."""
    bundle = tmp_path_factory.mktemp("bundle")
    decoder = build_model(typed(tree(base))).model.decoder.model
    copy = LlamaForCausalLM(decoder.config).eval()
    copy.load_state_dict(decoder.state_dict())
    settings = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=list(TARGETS), task_type="CAUSAL_LM"
    )
    torch.manual_seed(3)
    adapted = peft.get_peft_model(copy, settings)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape) * 0.3
    adapted.save_pretrained(bundle)
    projector = {
        "0.weight": torch.randn(HIDDEN, WIDTH),
        "0.bias": torch.randn(HIDDEN),
        "2.weight": torch.randn(HIDDEN, HIDDEN),
        "2.bias": torch.randn(HIDDEN),
    }
    others = {f"base_model.model.model.mm_projector.{name}": t for name, t in projector.items()}
    torch.save(others, bundle / "non_lora_trainables.bin")
    return bundle, adapted.eval()


def section(base, bundle, **decoder):
    """A `model` section as a run file would have it after its preset."""
    given = {**tree(base), "lora_bundle": str(bundle)}
    given["decoder"] |= decoder
    return take_lora_bundle(given)


@torch.no_grad()
def logits(decoder, embeds):
    return decoder.logits(decoder(embeds, attention_mask=None))


@torch.no_grad()
def test_the_decoder_answers_as_peft_lets_it(base, written_by_peft):
    bundle, adapted = written_by_peft
    loaded = build_model(typed(section(base, bundle)))
    embeds = torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(1))
    found = logits(loaded.model.decoder, embeds)
    expected = adapted(inputs_embeds=embeds).logits
    assert (found - expected).abs().max() <= 1e-5
    with adapted.disable_adapter():
        assert (found - adapted(inputs_embeds=embeds).logits).abs().max() > 1e-2
    loaded.model.merge_adapters()
    assert (logits(loaded.model.decoder, embeds) - expected).abs().max() <= 1e-4


def test_what_learnt_beside_the_adapters_replaces_the_projector(base, written_by_peft):
    bundle, _ = written_by_peft
    loaded = build_model(typed(section(base, bundle)))
    projector = loaded.model.branches["image"].stages["projection"].layers
    others = torch.load(bundle / "non_lora_trainables.bin", weights_only=True)
    assert torch.equal(projector[2].weight, others["base_model.model.model.mm_projector.2.weight"])
    assert loaded.replaced == [f"4 tensors of {base} by {bundle / 'non_lora_trainables.bin'}"]


def test_adapters_may_go_on_learning(base, written_by_peft):
    model = build_model(typed(section(base, written_by_peft[0], trainable=["*lora_*"]))).model
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(learning) == 2 * 2 * len(TARGETS)
    assert all("lora_" in name for name in learning)


def test_a_folder_saved_from_it_needs_no_bundle(base, written_by_peft, tmp_path):
    model = build_model(typed(section(base, written_by_peft[0]))).model
    model.save_pretrained(tmp_path / "saved")
    config = read_folder(tmp_path / "saved")
    assert config.paths.get("lora_bundle") is None
    again = build_model(config).model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in model.state_dict().items())


def test_a_check_agrees_with_the_loading(base, written_by_peft):
    config = typed(section(base, written_by_peft[0]))
    checked, problems = check_model(config)
    assert problems == []
    reports = [str(report) for report in build_model(config).reports]
    assert [str(report) for report in checked.reports] == reports


def test_adapters_that_are_not_all_there_are_refused(base, written_by_peft, tmp_path):
    bundle = copy_of(written_by_peft[0], tmp_path)
    file = bundle / "adapter_model.safetensors"
    state = {name: t for name, t in load_file(file).items() if "layers.1.mlp" not in name}
    save_file(state, file)
    with pytest.raises(CheckpointMismatch, match=r"lacks 2 of 12 adapters.*layers\.1\.mlp"):
        build_model(typed(section(base, bundle)))


@pytest.mark.parametrize("within", ["model.language_model", "language_model.model"])
def test_adapters_of_the_port_of_transformers_are_read_too(within, base, written_by_peft, tmp_path):
    bundle = copy_of(written_by_peft[0], tmp_path)
    file = bundle / "adapter_model.safetensors"
    prefix = "base_model.model."
    state = load_file(file)
    save_file({n.replace(f"{prefix}model", prefix + within): t for n, t in state.items()}, file)
    found, plain = (
        build_model(typed(section(base, b))).model.state_dict()
        for b in (bundle, written_by_peft[0])
    )
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())


def test_adapters_on_towers_are_refused_by_name(base, written_by_peft, tmp_path):
    bundle = copy_of(written_by_peft[0], tmp_path)
    file = bundle / "adapter_model.safetensors"
    strange = "base_model.model.model.image_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({**load_file(file), strange: torch.zeros(4, WIDTH)}, file)
    with pytest.raises(CheckpointMismatch, match=r"\+ .*image_tower"):
        build_model(typed(section(base, bundle)))


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_it_serves_over_a_decoder_in_fewer_bits(bits, base, written_by_peft):
    pytest.importorskip("bitsandbytes")
    given = section(base, written_by_peft[0])
    whole = build_model(typed(given)).model.state_dict()
    model = build_model(typed({**given, "low_resource": bits})).model
    state = model.state_dict()
    adapters = [name for name in whole if "lora_" in name]
    assert len(adapters) == 12
    assert all(torch.equal(state[name], whole[name]) for name in adapters)
    assert all(torch.equal(state[n], t) for n, t in whole.items() if n.startswith("branches."))
    embeds = torch.randn(1, 4, HIDDEN, generator=torch.Generator().manual_seed(1))
    assert logits(model.decoder, embeds).isfinite().all()


def test_adapters_of_another_size_are_refused(base, written_by_peft, tmp_path):
    bundle = copy_of(written_by_peft[0], tmp_path)
    file = bundle / "adapter_model.safetensors"
    save_file({name: torch.zeros(4, 4) for name in load_file(file)}, file)
    with pytest.raises(CheckpointMismatch, match="another shape"):
        build_model(typed(section(base, bundle)))


def test_an_evaluation_knows_a_bundle_by_its_content(base, written_by_peft, tmp_path):
    bundle = copy_of(written_by_peft[0], tmp_path)
    run = RunConfig(task="question_answering", output_dir=str(tmp_path))
    config = Config(typed(section(base, bundle)), {}, run, resolved={"model": {}})
    before = model_identity(config)
    assert ("lora_bundle", str(bundle)) in list(named_files(config.model))
    assert model_identity(config) == before
    file = bundle / "adapter_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file)
    assert model_identity(config) != before


def copy_of(bundle, folder):
    copy = folder / "copy"
    copy.mkdir()
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def test_keys_of_the_run_file_win_over_the_bundle(base, written_by_peft):
    lora = section(base, written_by_peft[0], lora={"dropout": 0.5})["decoder"]["lora"]
    assert (lora["dropout"], lora["rank"]) == (0.5, 4)


def test_the_published_projector_is_another_than_that_of_the_bundle(written_by_peft):
    others = torch.load(written_by_peft[0] / "non_lora_trainables.bin", weights_only=True)
    assert not torch.equal(
        others["base_model.model.model.mm_projector.0.bias"],
        original_state()["model.mm_projector.0.bias"],
    )


@pytest.fixture
def trained(base, tmp_path):
    """The `model` section of a run that trained adapters and the projector, and what it trained."""
    given = tree(base)
    given["decoder"]["lora"] = {"rank": 4, "alpha": 6.0, "targets": list(TARGETS)}
    given["decoder"]["trainable"] = ["*lora_*"]
    given["branches"]["image"]["stages"]["projection"]["trainable"] = True
    model = build_model(typed(given)).model
    learnt = {
        name: torch.randn(parameter.shape) * 0.3
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    folder = tmp_path / "run/checkpoints/last"
    folder.mkdir(parents=True)
    save_file(learnt, folder / "trainable.safetensors")
    return {**given, "ckpt": str(tmp_path / "run")}, learnt


@torch.no_grad()
def test_what_a_run_trained_comes_out_as_a_bundle_that_peft_reads(base, trained, tmp_path):
    given, learnt = trained
    names = export_directory(typed(given), out=tmp_path / "out", file_format="bundle")
    assert len(names) == len(learnt)
    model = build_model(typed(given)).model
    plain = build_model(typed(tree(base))).model.decoder.model
    embeds = torch.randn(1, 4, HIDDEN, generator=torch.Generator().manual_seed(1))
    found = peft.PeftModel.from_pretrained(plain, tmp_path / "out")(inputs_embeds=embeds).logits
    assert (logits(model.decoder, embeds) - found).abs().max() <= 1e-5
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["mm_projector_type"] == "mlp2x_gelu"


def test_a_bundle_goes_through_ours_and_comes_out_as_it_was(base, trained, tmp_path):
    export_directory(typed(trained[0]), out=tmp_path / "first", file_format="bundle")
    config = typed(section(base, tmp_path / "first"))
    export_directory(config, out=tmp_path / "second", file_format="bundle")
    for file in ("adapter_model.safetensors", "non_lora_trainables.bin"):
        first, second = (read_state(tmp_path / name / file) for name in ("first", "second"))
        assert set(first) == set(second)
        assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
    model = build_model(config).model.state_dict()
    assert all(torch.equal(model[name], tensor) for name, tensor in trained[1].items())


@torch.no_grad()
def test_a_whole_directory_has_the_adapters_in_its_weights(trained, tmp_path):
    export_directory(typed(trained[0]), out=tmp_path / "out", file_format="original")
    model = build_model(typed(trained[0])).model
    merged = build_model(typed(tree(tmp_path / "out"))).model
    embeds = torch.randn(1, 4, HIDDEN, generator=torch.Generator().manual_seed(1))
    difference = logits(model.decoder, embeds) - logits(merged.decoder, embeds)
    assert difference.abs().max() <= 1e-4
    assert not any("lora" in name for name in merged.state_dict())
    projector = "branches.image.stages.projection.layers.0.weight"
    assert torch.equal(merged.state_dict()[projector], trained[1][projector])


def test_a_bundle_of_peft_goes_through_ours_and_comes_out_as_it_was(
    base, written_by_peft, tmp_path
):
    config = typed(section(base, written_by_peft[0]))
    export_directory(config, out=tmp_path / "out", file_format="bundle")
    for file in ("adapter_model.safetensors", "non_lora_trainables.bin"):
        first, second = (
            read_state(folder / file) for folder in (written_by_peft[0], tmp_path / "out")
        )
        assert set(first) == set(second)
        assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_the_projector_of_a_bundle_comes_out_as_the_file_of_stage_1(
    base, written_by_peft, tmp_path, caplog
):
    out = tmp_path / "mm_projector.bin"
    with caplog.at_level("WARNING", logger="video_llama"):
        export_branches(typed(section(base, written_by_peft[0])), out=out, file_format="plain")
    assert "12 tensors of adapters are left out" in caplog.text
    others = torch.load(written_by_peft[0] / "non_lora_trainables.bin", weights_only=True)
    written = torch.load(out, weights_only=True)
    assert len(written) == len(others)
    for name, tensor in written.items():
        assert torch.equal(tensor, others[f"base_model.model.{name}"])


def test_a_bundle_of_a_model_with_other_towers_names_them(trained, tmp_path, monkeypatch):
    # As beside a language model of its own.
    monkeypatch.setattr(video_llava_config, "read_config", lambda folder: None)
    pytest.importorskip("timm")
    given = trained[0]
    encoder = {"type": "timm_vit", "model": "vit_tiny_patch16_224", "image_size": 32}
    given["branches"]["image"] |= {"encoder": encoder}
    given["branches"]["video"] |= {"encoder": dict(encoder)}
    export_directory(typed(given), out=tmp_path / "out", file_format="bundle")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["mm_image_tower"] == config["mm_video_tower"] == "timm_vit"
    # Of a ViT-Tiny.
    assert config["mm_hidden_size"] == 192


def test_a_bundle_of_a_model_with_another_projector_is_refused_by_name(trained, tmp_path):
    given = trained[0]
    projection = given["branches"]["image"]["stages"]["projection"]
    projection["activation"] = "relu"
    with pytest.raises(CheckpointMismatch, match="no word for .*projection.activation relu"):
        export_directory(typed(given), out=tmp_path / "out", file_format="bundle")
    del projection["activation"]
    projection["type"] = "projection"
    adapters = {name: tensor for name, tensor in trained[1].items() if "lora_" in name}
    save_file(adapters, tmp_path / "run/checkpoints/last/trainable.safetensors")
    with pytest.raises(ConfigError, match="no mlp in the branches"):
        export_directory(typed(given), out=tmp_path / "out", file_format="bundle")
    assert not (tmp_path / "out").exists()


def test_a_bundle_without_adapters_is_not_written(base, tmp_path):
    with pytest.raises(ConfigError, match="no adapters to export"):
        export_directory(typed(tree(base)), out=tmp_path / "out", file_format="bundle")
    given = tree(base)
    given["decoder"]["lora"] = {"rank": 2}
    with pytest.raises(CheckpointMismatch, match="no adapters in it"):
        export_directory(typed(given), out=tmp_path / "out", file_format="bundle")
