from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from video_llama.common.errors import CheckpointMismatch, ConfigError
from video_llama.common.schema import PartConfig
from video_llama.common.types import IGNORE_INDEX
from video_llama.models.decoders.causal_lm import CausalLM
from video_llama.models.decoders.lora import Lora

TINY = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "eos_token_id": 2,
}


def build(*, weights=None, **settings) -> CausalLM:
    return CausalLM(
        PartConfig(
            type="causal_lm",
            config=CausalLM.Config(**settings),
            weights=None if weights is None else str(weights),
        )
    )


@pytest.fixture(scope="module")
def decoder() -> CausalLM:
    torch.manual_seed(0)
    decoder = build(architecture=TINY)
    for parameter in decoder.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    return decoder


@pytest.fixture
def directory(tmp_path):
    build(architecture=TINY).model.save_pretrained(tmp_path)
    return tmp_path


def ones(*shape):
    return torch.ones(shape, dtype=torch.bool)


def test_the_published_directory_gives_the_published_logits_and_loss(goldens, golden):
    expected = golden("llama_forward")
    decoder = build(weights=goldens / "llama")
    embeds, mask = decoder.embed(expected["ids"]), expected["mask"].bool()
    hidden = decoder(embeds, attention_mask=mask)
    close = {"atol": 2e-5, "rtol": 1e-5}
    torch.testing.assert_close(hidden[mask], expected["hidden_last"][mask], **close)
    torch.testing.assert_close(decoder.logits(hidden)[mask], expected["logits"][mask], **close)
    loss = decoder.loss(embeds, attention_mask=mask, labels=expected["labels"])
    torch.testing.assert_close(loss.token_loss.mean(), expected["loss"][0], **close)


def test_old_rotary_buffers_are_dropped_with_a_reason(goldens):
    report = build(weights=goldens / "llama").load_report
    assert report.dropped == {"rotary frequencies, computed from config.json": 2}
    assert report.matched == 21


def test_it_states_width_context_and_end_tokens(goldens):
    decoder = build(weights=goldens / "llama")
    assert (decoder.width, decoder.max_context, decoder.end_ids) == (64, 2048, frozenset({2}))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=1, max_size=4))
def test_the_loss_is_the_plain_cross_entropy_at_supervised_positions(supervised):
    decoder = build(architecture=TINY)
    is_supervised = torch.tensor(supervised)
    ids = torch.randint(0, 50, is_supervised.shape)
    labels = torch.where(is_supervised, ids, IGNORE_INDEX)
    embeds, mask = decoder.embed(ids), ones(*ids.shape)
    loss = decoder.loss(embeds, attention_mask=mask, labels=labels)
    logits = decoder.model(inputs_embeds=embeds, attention_mask=mask.long()).logits
    plain = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none"
    ).view(len(ids), -1)
    by_row = torch.zeros(len(ids)).index_add(0, loss.sample_index, loss.token_loss)
    torch.testing.assert_close(by_row, plain.sum(dim=1))
    assert loss.token_loss.numel() == is_supervised[:, 1:].sum()


def test_without_supervised_positions_the_loss_is_empty_and_has_a_graph(decoder):
    embeds = decoder.embed(torch.ones(2, 5, dtype=torch.int64)).detach().requires_grad_()
    labels = torch.full((2, 5), IGNORE_INDEX)
    loss = decoder.loss(embeds, attention_mask=ones(2, 5), labels=labels)
    assert loss.token_loss.numel() == 0
    loss.token_loss.sum().backward()
    assert not embeds.grad.any()


def test_the_side_of_the_padding_changes_nothing(decoder):
    ids = torch.randint(3, 50, (1, 6))
    embeds = decoder.embed(ids)
    pad = torch.randn(1, 3, 16)
    alone = decoder(embeds, attention_mask=ones(1, 6))
    for sides in ((pad, embeds), (embeds, pad)):
        mask = torch.cat([ones(1, x.shape[1]) & (x is embeds) for x in sides], dim=1)
        hidden = decoder(torch.cat(sides, dim=1), attention_mask=mask)
        torch.testing.assert_close(hidden[mask], alone[0], atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_embeddings_of_a_frozen_decoder(decoder):
    frozen = build(architecture=TINY).requires_grad_(False)
    embeds = torch.randn(1, 4, 16, requires_grad=True)
    labels = torch.tensor([[IGNORE_INDEX, 3, 4, 5]])
    frozen.loss(embeds, attention_mask=ones(1, 4), labels=labels).token_loss.sum().backward()
    assert embeds.grad[:, :3].abs().min() > 0
    assert not embeds.grad[:, 3].any()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("chunks", [(8,), (5, 1, 1, 1), (3, 4, 1)])
def test_reading_on_with_a_cache_equals_reading_at_once(attention, chunks):
    decoder = build(architecture=TINY, attention=attention)
    embeds = torch.randn(2, 8, 16)
    mask = ones(2, 8)
    mask[0, :2] = False
    whole = decoder.logits(decoder(embeds, attention_mask=mask))
    cache, end = decoder.new_cache(), 0
    for size in chunks:
        start, end = end, end + size
        logits = decoder.step(embeds[:, start:end], attention_mask=mask[:, :end], cache=cache)
        torch.testing.assert_close(logits, whole[:, end - 1], atol=1e-5, rtol=1e-5)


def test_attention_by_torch_equals_the_formula_written_out():
    torch.manual_seed(0)
    fast, plain = (
        build(architecture=TINY, attention="sdpa"),
        build(architecture=TINY, attention="eager"),
    )
    plain.load_state_dict(fast.state_dict())
    mask = ones(2, 8)
    mask[0, :3] = False
    embeds = torch.randn(2, 8, 16)
    labels = torch.where(mask, torch.arange(8) + 3, IGNORE_INDEX)
    # Nothing real stands before the first token, from which it could be predicted.
    labels[0, 3] = IGNORE_INDEX
    losses, gradients = [], []
    for decoder in (fast, plain):
        fed = embeds.clone().requires_grad_()
        loss = decoder.loss(fed, attention_mask=mask, labels=labels).token_loss
        loss.sum().backward()
        losses.append(loss)
        gradients.append(fed.grad)
    assert plain.model.config._attn_implementation == "eager"
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)


def test_logits_and_losses_are_float32_whatever_the_weights_are():
    decoder = build(architecture=TINY, dtype="bfloat16")
    assert {p.dtype for p in decoder.parameters()} == {torch.bfloat16}
    embeds = torch.randn(1, 4, 16)
    loss = decoder.loss(embeds, attention_mask=ones(1, 4), labels=torch.tensor([[3, 4, 5, 6]]))
    assert loss.token_loss.dtype is torch.float32


def test_the_directorys_dtype_does_not_decide(directory):
    decoder = build(weights=directory, dtype="bfloat16")
    assert next(decoder.parameters()).dtype is torch.bfloat16


def test_full_size_on_meta_has_llamas_count_and_needs_no_weights():
    architecture = {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
    }
    with torch.device("meta"):
        decoder = build(architecture=architecture, weights="/nowhere", dtype="bfloat16")
    # Touvron et al. 2023: 6.7B; the sum of the shapes in their release.
    assert sum(p.numel() for p in decoder.parameters()) == 6_738_415_616


def test_architecture_and_directory_must_agree(directory):
    other = TINY | {"hidden_size": 32, "num_hidden_layers": 3}
    with pytest.raises(
        CheckpointMismatch, match=r"hidden_size 16 \(architecture: 32\), num_hidden"
    ):
        build(architecture=other, weights=directory)


def test_the_directory_decides_what_architecture_leaves_open(directory):
    decoder = build(architecture=TINY | {"vocab_size": 99}, weights=directory)
    assert decoder.model.config.vocab_size == 50


def test_weights_of_another_shape_than_config_json_are_refused(directory):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 60}))
    with pytest.raises(CheckpointMismatch, match="2 mismatched keys"):
        build(weights=directory)


def test_weights_that_lack_a_layer_are_refused(directory):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(CheckpointMismatch, match=r"missing keys: model\.layers\.2"):
        build(weights=directory)


def test_a_directory_without_config_is_refused(directory):
    (directory / "config.json").unlink()
    with pytest.raises(CheckpointMismatch, match="no config.json there"):
        build(weights=directory)


def test_a_half_downloaded_directory_is_refused(goldens, tmp_path):
    shutil.copytree(goldens / "llama", tmp_path / "llama")
    path = tmp_path / "llama" / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CheckpointMismatch, match="download it again"):
        build(weights=tmp_path / "llama")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "neither a directory of weights nor an architecture"),
        ({"architecture": TINY, "max_context": 65}, "trained on 64 positions"),
        (
            {"architecture": TINY | {"model_type": "cohere", "logit_scale": 0.06}},
            "changes its logits by logit_scale",
        ),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        build(**settings)


class TestLora:
    @pytest.fixture(autouse=True)
    def _peft(self):
        pytest.importorskip("peft")

    def test_fresh_adapters_change_nothing(self, directory):
        plain = build(weights=directory)
        adapted = build(weights=directory, lora=Lora(rank=2))
        embeds = torch.randn(1, 5, 16)
        torch.testing.assert_close(
            adapted(embeds, attention_mask=ones(1, 5)), plain(embeds, attention_mask=ones(1, 5))
        )

    def test_adapters_sit_on_the_targets_of_every_block_and_nowhere_else(self):
        decoder = build(architecture=TINY, lora=Lora(rank=2, targets=("q_proj", "up_proj")))
        found = {
            name.split(".lora_")[0] for name, _ in decoder.named_parameters() if "lora" in name
        }
        assert found == {
            f"model.model.layers.{index}.{layer}"
            for index in range(2)
            for layer in ("self_attn.q_proj", "mlp.up_proj")
        }

    def test_adapters_are_float32_on_a_low_precision_base_and_learn(self):
        decoder = build(architecture=TINY, dtype="bfloat16", lora=Lora(rank=2))
        adapters = {n: p for n, p in decoder.named_parameters() if "lora_B" in n}
        assert {p.dtype for p in adapters.values()} == {torch.float32}
        labels = torch.tensor([[1, 2, 3, 4]])
        embeds = torch.randn(1, 4, 16)
        loss = decoder.loss(embeds, attention_mask=ones(1, 4), labels=labels)
        loss.token_loss.sum().backward()
        assert all(p.grad.any() for p in adapters.values())

    def test_targets_that_exist_nowhere_are_refused(self):
        with pytest.raises(ConfigError, match="no layer of LlamaForCausalLM is called qq"):
            build(architecture=TINY, lora=Lora(targets=("qq",)))
