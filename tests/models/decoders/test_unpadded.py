from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from tests.models.tiny_decoder import LLAMA, WIDTH, decoder_of
from video_llama.common.schema import PartConfig
from video_llama.common.types import IGNORE_INDEX
from video_llama.models.decoders.lora import Lora, add_lora
from video_llama.models.decoders.unpadded import ARCHITECTURES, IMPLEMENTATION
from video_llama.models.layers import recompute_where_asked

LENGTHS = (7, 3, 1, 5)
EACH = {"head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CLOSE = {"atol": 2e-5, "rtol": 1e-5}


def mask_of(lengths=LENGTHS, *, length=9, left=False):
    mask = torch.arange(length) < torch.tensor(lengths)[:, None]
    return mask.flip(1) if left else mask


def batch_of(mask, *, seed=0):
    """Embeddings with noise on the padding, and labels behind every real position."""
    generator = torch.Generator().manual_seed(seed)
    embeds = torch.randn(*mask.shape, WIDTH, generator=generator)
    labels = torch.randint(3, 40, mask.shape, generator=generator)
    is_behind = mask & functional.pad(mask[:, :-1], (1, 0))
    return embeds.requires_grad_(), torch.where(is_behind, labels, IGNORE_INDEX)


def measure(decoder, mask, *, skips, seed=0):
    """Loss by token, and the gradients of the embeddings."""
    decoder.skips_padding = skips
    embeds, labels = batch_of(mask, seed=seed)
    losses = decoder.loss(embeds, attention_mask=mask, labels=labels)
    losses.token_loss.sum().backward()
    return losses.token_loss.detach(), losses.sample_index, embeds.grad


def assert_same(decoder, mask):
    assert decoder.skips_padding
    without, rows, grad = measure(decoder, mask, skips=True)
    padded, padded_rows, padded_grad = measure(decoder, mask, skips=False)
    torch.testing.assert_close(without, padded, **CLOSE)
    torch.testing.assert_close(grad[mask], padded_grad[mask], **CLOSE)
    assert torch.equal(rows, padded_rows)
    assert not grad[~mask].any()


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_every_architecture_learns_the_same_without_its_padding(name, left):
    settings = EACH | {"sliding_window": None} if name in {"mistral", "phi3"} else EACH
    decoder = decoder_of(**{"model_type": name, "num_key_value_heads": 2} | settings)
    assert_same(decoder, mask_of(left=left))


def test_heads_may_share_keys_and_values():
    assert_same(decoder_of(num_key_value_heads=1), mask_of())


def test_padding_may_stand_between_what_is_real():
    mask = mask_of()
    mask[0, 2:4] = False
    assert_same(decoder_of(), mask)


def test_adapters_learn_the_same_without_padding():
    decoder = decoder_of()
    add_lora(decoder.model, Lora(rank=2, dropout=0.0, targets=("q_proj", "v_proj")))
    other = copy.deepcopy(decoder)
    for one in (decoder, other):
        for name, parameter in one.named_parameters():
            parameter.requires_grad_("lora" in name)
            parameter.data += 0.1
    measure(decoder, mask_of(), skips=True)
    measure(other, mask_of(), skips=False)
    learning = {n: p.grad for n, p in other.named_parameters() if p.requires_grad}
    assert learning
    for name, grad in learning.items():
        torch.testing.assert_close(decoder.get_parameter(name).grad, grad, **CLOSE)


def test_layers_that_are_computed_again_learn_the_same():
    decoder, runs = decoder_of(), []
    kept = measure(decoder, mask_of(), skips=True)
    part = PartConfig("causal_lm", decoder.config, gradient_checkpointing=True)
    recompute_where_asked(decoder, part, where="decoder")
    decoder.model.model.layers[0].input_layernorm.register_forward_hook(lambda *_: runs.append(1))
    again = measure(decoder, mask_of(), skips=True)
    torch.testing.assert_close(kept, again, atol=0, rtol=0)
    assert len(runs) == 2


def test_half_precision_loses_no_more_without_padding():
    decoder = decoder_of(dtype="bfloat16")
    without, _, _ = measure(decoder, mask_of(), skips=True)
    exact, _, _ = measure(decoder_of(), mask_of(), skips=False)
    torch.testing.assert_close(without, exact, atol=0.2, rtol=0.05)


def test_a_sample_may_be_nothing_but_padding():
    assert_same(decoder_of(), mask_of((7, 0, 3)))


def test_another_attention_fails_where_it_would_mix_samples():
    decoder = decoder_of()
    decoder.model.set_attn_implementation("sdpa")
    with pytest.raises(RuntimeError):
        measure(decoder, mask_of(), skips=True)


def test_a_saved_decoder_does_not_name_the_attention(tmp_path):
    decoder_of().model.save_pretrained(tmp_path)
    assert IMPLEMENTATION not in (tmp_path / "config.json").read_text()


def test_layers_are_given_the_real_positions_alone():
    decoder, seen = decoder_of(), []
    decoder.model.model.layers[0].mlp.register_forward_hook(
        lambda _module, args, _output: seen.append(args[0].shape)
    )
    measure(decoder, mask_of(), skips=True)
    assert seen == [(1, sum(LENGTHS), WIDTH)]


def test_a_batch_without_padding_is_read_as_it_is():
    decoder, seen = decoder_of(), []
    decoder.model.model.layers[0].mlp.register_forward_hook(
        lambda _module, args, _output: seen.append(args[0].shape)
    )
    measure(decoder, mask_of((9, 9)), skips=True)
    assert seen == [(2, 9, WIDTH)]


def test_prompts_are_read_as_transformers_reads_them():
    decoder, mask = decoder_of(), mask_of(left=True)
    plain = copy.deepcopy(decoder)
    plain.model.set_attn_implementation("sdpa")
    assert decoder.model.config._attn_implementation == IMPLEMENTATION
    embeds, _ = batch_of(mask)
    assert torch.equal(decoder(embeds, attention_mask=mask), plain(embeds, attention_mask=mask))


@pytest.mark.parametrize(
    "architecture",
    [
        {"model_type": "mistral", "sliding_window": 4},
        {"model_type": "gemma3_text", "head_dim": 8},
        {"model_type": "gpt_neox"},
    ],
    ids=["window", "some windows", "untested"],
)
def test_other_decoders_keep_their_padding(architecture):
    settings = {**LLAMA, "num_key_value_heads": 2, **architecture}
    assert not decoder_of(**settings).skips_padding
