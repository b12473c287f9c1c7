"""Which dtype each part computes in, and what autograd keeps alive for the backward pass."""

from __future__ import annotations

import pytest
import torch
from models.tiny_model import QFORMER, batch_of, build

from video_llama.common.types import IGNORE_INDEX
from video_llama.models.precision import autocast

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
NUM_MATRICES = 2 * 7 + 1
"""Of the tiny LLaMA: seven a block (q, k, v, o, gate, up, down), and the head."""


def kept_alive(run):
    """What autograd saves while a function runs."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.detach()) or tensor, lambda tensor: tensor
    ):
        run()
    return kept


def copied(module, kept):
    """The names of frozen matrices of which a copy in another dtype is among these tensors."""
    by_size = {}
    for tensor in kept:
        by_size.setdefault(tensor.numel(), []).append(tensor)
    return [
        name
        for name, weight in module.named_parameters()
        if weight.ndim > 1
        and not weight.requires_grad
        and any(is_copy(tensor, weight) for tensor in by_size.get(weight.numel(), []))
    ]


def is_copy(tensor, weight):
    if tensor.dtype == weight.dtype:
        return False
    as_it_would_be = weight.detach().to(tensor.dtype)
    return any(torch.equal(tensor, other) for other in (as_it_would_be, as_it_would_be.mT))


def with_decoder(**changes):
    return build(lambda tree: tree["decoder"].update(changes)).train()


@pytest.mark.parametrize("precision", HALVES)
def test_autocast_alone_would_keep_a_copy_of_every_frozen_matrix(precision):
    decoder = with_decoder(dtype="float32").decoder
    embeds = torch.randn(1, 5, 24, requires_grad=True)

    def run():
        with autocast(precision, device="cpu"):
            decoder.model(inputs_embeds=embeds)

    assert len(copied(decoder, kept_alive(run))) == NUM_MATRICES


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_no_copy_of_a_frozen_weight_is_kept_whatever_the_two_dtypes_are(precision, dtype):
    model = with_decoder(dtype=dtype)

    def run():
        with autocast(precision, device="cpu"):
            model(batch_of())

    kept = kept_alive(run)
    assert copied(model, kept) == []
    # The weights themselves are what the backward pass needs, and they are there.
    own = {parameter.data_ptr() for parameter in model.decoder.parameters()}
    assert len({tensor.data_ptr() for tensor in kept} & own) >= NUM_MATRICES


def test_a_frozen_stage_behind_one_that_learns_is_not_copied_either_and_passes_gradients():
    def change(tree):
        stages = tree["branches"]["video"]["stages"]
        stages["projection"]["trainable"] = False
        stages["again"] = {**QFORMER, "num_queries": 2, "num_layers": 1}
        stages["projection"] = stages.pop("projection")

    model = build(change).train()

    def run():
        with autocast("bf16", device="cpu"):
            model(batch_of()).loss_sum.backward()

    assert copied(model, kept_alive(run)) == []
    assert model.branches["video"].stages["joint"].queries.grad.any()


def test_a_decoder_in_the_dtype_of_autocast_computes_what_it_computes_without():
    decoder = with_decoder(dtype="bfloat16").decoder
    embeds, mask = torch.randn(1, 5, 24), torch.ones(1, 5, dtype=torch.bool)
    alone = decoder.logits(decoder(embeds, attention_mask=mask))
    for precision in HALVES:
        with autocast(precision, device="cpu"):
            assert torch.equal(decoder.logits(decoder(embeds, attention_mask=mask)), alone)


def test_what_learns_computes_in_half_precision_and_is_float32():
    model = with_decoder(dtype="bfloat16")
    seen = []
    projection = model.branches["video"].stages["projection"].linear
    projection.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with autocast("bf16", device="cpu"):
        model(batch_of()).loss_sum.backward()
    assert seen == [torch.bfloat16]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {parameter.dtype for parameter in learning} == {torch.float32}
    assert {parameter.grad.dtype for parameter in learning} == {torch.float32}


@pytest.mark.parametrize(("dtype", "computes"), [("bfloat16", "bfloat16"), ("float32", "float32")])
def test_adapters_follow_autocast_where_it_copies_nothing_of_their_base(dtype, computes):
    pytest.importorskip("peft")
    lora = {"rank": 2}
    model = with_decoder(dtype=dtype, lora=lora, trainable=["*lora_*"])
    seen = set()
    for name, module in model.decoder.named_modules():
        if name.endswith("lora_A.default"):
            module.register_forward_hook(lambda _, args, output: seen.add(output.dtype))

    def run():
        with autocast("bf16", device="cpu"):
            model(batch_of()).loss_sum.backward()

    assert copied(model, kept_alive(run)) == []
    assert seen == {getattr(torch, computes)}
    adapters = [p for name, p in model.decoder.named_parameters() if "lora_B" in name]
    assert all(adapter.grad.any() for adapter in adapters)


def test_a_decoder_that_learns_is_run_in_half_precision_from_float32_weights():
    model = with_decoder(dtype="float32", trainable=True)
    seen = set()
    layer = model.decoder.model.model.layers[0].mlp.down_proj
    layer.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    with autocast("bf16", device="cpu"):
        model(batch_of()).loss_sum.backward()
    assert seen == {torch.bfloat16}
    assert layer.weight.grad.dtype is torch.float32


def test_half_precision_gives_nearly_the_loss_of_float32():
    model = with_decoder(dtype="float32")
    exact = model(batch_of()).loss_sum.item()
    with autocast("bf16", device="cpu"):
        rough = model(batch_of()).loss_sum.item()
    assert rough != exact
    # bfloat16 keeps 8 bits: a relative error of 2 ** -9 at each of a few roundings.
    assert rough == pytest.approx(exact, rel=0.02)


class TestHead:
    """At 2,000 positions the float32 logits of LLaMA's vocabulary are 256 MB, at 60 they are 8."""

    LENGTH, SUPERVISED, VOCAB = 2000, 60, 32000

    @pytest.fixture
    def decoder(self):
        sizes = {"vocab_size": self.VOCAB, "max_position_embeddings": self.LENGTH + 4}

        def change(tree):
            tree["decoder"]["architecture"] |= sizes

        return build(change).decoder

    @pytest.fixture
    def rows(self, decoder):
        """How many positions the head was asked about, call by call."""
        asked = []
        head = decoder.model.get_output_embeddings()
        head.register_forward_hook(lambda _, args, output: asked.append(output.numel()))
        return asked

    def test_training_computes_logits_where_labels_are_and_keeps_no_others(self, decoder, rows):
        labels = torch.full((1, self.LENGTH), IGNORE_INDEX)
        labels[0, -self.SUPERVISED :] = 7
        embeds = torch.randn(1, self.LENGTH, 24, requires_grad=True)
        mask = torch.ones(1, self.LENGTH, dtype=torch.bool)
        kept = kept_alive(
            lambda: decoder.loss(embeds, attention_mask=mask, labels=labels).token_loss.sum()
        )
        assert rows == [self.SUPERVISED * self.VOCAB]
        weights = {parameter.data_ptr() for parameter in decoder.parameters()}
        logits = [t for t in kept if self.VOCAB in t.shape and t.data_ptr() not in weights]
        assert max(t.numel() for t in logits) == self.SUPERVISED * self.VOCAB

    def test_a_prompt_is_read_with_the_logits_of_its_end_alone(self, decoder, rows):
        embeds = torch.randn(2, self.LENGTH, 24)
        mask = torch.ones(2, self.LENGTH, dtype=torch.bool)
        decoder.step(embeds, attention_mask=mask, cache=decoder.new_cache())
        assert rows == [2 * self.VOCAB]


def test_cached_and_fresh_features_are_the_same_under_autocast():
    model = with_decoder()
    batch = batch_of(with_audio=False)
    with autocast("bf16", device="cpu"):
        under = model(batch).frontier
    plain = model(batch).frontier
    assert all(torch.equal(under[key], plain[key]) for key in plain)
