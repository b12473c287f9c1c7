from __future__ import annotations

import re

import pytest
import torch
from released_decoders import (
    WORDS,
    billa_release,
    tiny_llama,
    tuned,
    vicuna_delta,
    ziya_delta,
)

from video_llama.common.errors import CheckpointMismatch
from video_llama.models.decoders.deltas import (
    choose_rule,
    embedding_sum,
    is_difference,
    merged_tensor,
    plan_merge,
)

MAKERS = {"vicuna": vicuna_delta, "ziya": ziya_delta, "billa": billa_release}
GROWN = {"vicuna": WORDS + 1, "ziya": WORDS + 24, "billa": WORDS + 300}


@pytest.fixture(scope="module")
def base():
    return tiny_llama()


@pytest.fixture(scope="module", params=list(MAKERS))
def case(request, base):
    """(rule, what it should give, what is released)."""
    rule = request.param
    target = tuned(base, words=GROWN[rule])
    return rule, target.state_dict(), MAKERS[rule](base, target)


def merge(base, release, rule):
    names = plan_merge(base, release, rule=rule)
    return {n: merged_tensor(n, base=base, release=release, rule=rule) for n in names}


def test_the_rule_is_told_from_the_tensors(base, case):
    rule, _, release = case
    assert choose_rule(base.state_dict(), release) == rule


def test_merging_gives_the_model_back_within_two_roundings_of_float16(base, case):
    rule, target, release = case
    merged = merge(base.state_dict(), release, rule)
    assert merged.keys() == target.keys()
    for name, tensor in merged.items():
        assert tensor.dtype == torch.float16
        # The delta, or the sum, was rounded when it was made, and is again when it is undone.
        torch.testing.assert_close(tensor, target[name], rtol=2**-9, atol=2**-10)


def test_a_vicuna_delta_is_applied_as_fastchat_applies_it(base):
    delta = vicuna_delta(base, tuned(base, words=WORDS + 1))
    # FastChat 0.1.10 resizes the whole model, empties the new rows and adds state dicts.
    grown = tiny_llama()
    grown.load_state_dict(base.state_dict())
    grown.resize_token_embeddings(WORDS + 1, mean_resizing=False)
    with torch.no_grad():
        grown.get_input_embeddings().weight[-1:] = 0
        grown.get_output_embeddings().weight[-1:] = 0
        for name, tensor in grown.state_dict().items():
            tensor += delta[name]
    merged = merge(base.state_dict(), delta, "vicuna")
    assert all(torch.equal(merged[name], tensor) for name, tensor in grown.state_dict().items())


def test_a_delta_without_a_new_word_is_added_as_it_is(base):
    target = tuned(base, words=WORDS)
    delta = vicuna_delta(base, target)
    assert choose_rule(base.state_dict(), delta) == "vicuna"
    name = "lm_head.weight"
    merged = merge(base.state_dict(), delta, "vicuna")[name]
    assert torch.equal(merged, base.state_dict()[name] + delta[name])


def test_ziyas_vocabulary_is_taken_whole(base):
    release = ziya_delta(base, tuned(base, words=GROWN["ziya"]))
    merged = merge(base.state_dict(), release, "ziya")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(merged[name], release[name])


def test_billa_differs_from_its_release_in_the_rows_of_llamas_words_only(base):
    release = billa_release(base, tuned(base, words=GROWN["billa"]))
    merged = merge(base.state_dict(), release, "billa")
    changed = [name for name in release if not torch.equal(merged[name], release[name])]
    assert changed == ["model.embed_tokens.weight"]
    rows = (merged[changed[0]] != release[changed[0]]).any(dim=1).nonzero()[:, 0]
    assert rows.tolist() == list(range(WORDS))


def test_billa_needs_only_metas_embedding(base):
    release = billa_release(base, tuned(base, words=GROWN["billa"]))
    embedding = base.state_dict()["model.embed_tokens.weight"]
    meta = {"tok_embeddings.weight": embedding, "layers.0.attention.wq.weight": embedding}
    assert choose_rule(meta, release) == "billa"
    ours, theirs = merge(base.state_dict(), release, "billa"), merge(meta, release, "billa")
    assert all(torch.equal(ours[name], theirs[name]) for name in release)


def test_billas_subtraction_is_done_in_float32_and_rounded_once(base):
    release = billa_release(base, tuned(base, words=GROWN["billa"]))
    name = "model.embed_tokens.weight"
    ours = base.state_dict()[name]
    expected = release[name].float()
    expected[: len(ours)] -= ours.float()
    assert torch.equal(merge(base.state_dict(), release, "billa")[name], expected.half())


def test_base_and_release_in_other_precisions_are_brought_to_float16(base):
    delta = vicuna_delta(base, tuned(base, words=WORDS + 1))
    wide = {name: tensor.float() for name, tensor in base.state_dict().items()}
    merged, expected = merge(wide, delta, "vicuna"), merge(base.state_dict(), delta, "vicuna")
    assert all(torch.equal(merged[name], expected[name]) for name in delta)


def test_nothing_that_was_read_is_changed(base, case):
    rule, _, release = case
    before = {name: tensor.clone() for name, tensor in release.items()}
    ours = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    merge(base.state_dict(), release, rule)
    assert all(torch.equal(release[name], before[name]) for name in release)
    assert all(torch.equal(tensor, ours[name]) for name, tensor in base.state_dict().items())


def test_old_rotary_buffers_are_left_out_whichever_side_holds_them(base):
    delta = vicuna_delta(base, tuned(base, words=WORDS + 1))
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    ours = base.state_dict()
    for left, right in ((ours | buffer, delta), (ours, delta | buffer)):
        assert merge(left, right, "vicuna").keys() == delta.keys()


def test_a_delta_is_recognised_and_a_model_is_not(base):
    assert is_difference(vicuna_delta(base, tuned(base, words=WORDS + 1)))
    assert is_difference(ziya_delta(base, tuned(base, words=GROWN["ziya"])))
    assert not is_difference(base.state_dict())
    assert not is_difference(billa_release(base, tuned(base, words=GROWN["billa"])))


def test_one_small_norm_does_not_make_a_model_a_delta(base):
    state = base.state_dict()
    # The first layer of LLaMA-1 has norm weights of a few hundredths.
    name = "model.layers.0.input_layernorm.weight"
    assert not is_difference(state | {name: state[name] * 0.02})


def test_swapped_arguments_are_recognised(base):
    delta = vicuna_delta(base, tuned(base, words=WORDS + 1))
    with pytest.raises(CheckpointMismatch, match="exchange the two"):
        choose_rule(delta, base.state_dict())


def test_whole_weights_need_no_merging(base):
    whole = tuned(base, words=WORDS + 1).state_dict()
    with pytest.raises(CheckpointMismatch, match="need no merging"):
        choose_rule(base.state_dict(), whole)


def test_another_size_is_named_with_the_tensor(base):
    wide = tiny_llama(width=32)
    delta = vicuna_delta(wide, tuned(wide, words=WORDS + 1))
    words = r"'model.embed_tokens.weight' is (1000, 16) in the base and (1001, 32) in the delta"
    with pytest.raises(CheckpointMismatch, match=re.escape(words)):
        plan_merge(base.state_dict(), delta, rule="vicuna")


def test_llamas_published_widths_name_the_model():
    name = "model.embed_tokens.weight"
    base, delta = ({name: torch.zeros(rows, w)} for rows, w in ((3, 4096), (4, 5120)))
    with pytest.raises(CheckpointMismatch, match="a base of 7B and a delta for 13B"):
        plan_merge(base, delta, rule="vicuna")


def test_another_depth_is_named(base):
    delta = vicuna_delta(base, tuned(base, words=WORDS + 1))
    shallow = {name: t for name, t in base.state_dict().items() if ".layers.1." not in name}
    with pytest.raises(CheckpointMismatch, match=r"9 only in the delta, e\.g\. 'model\.layers\.1"):
        plan_merge(shallow, delta, rule="vicuna")


@pytest.mark.parametrize(("rule", "more"), [("vicuna", 2), ("ziya", -1), ("billa", -1)])
def test_a_vocabulary_that_the_rule_cannot_join_is_refused(base, rule, more):
    target = tuned(base, words=WORDS + 2)
    smaller = {
        name: tensor[: WORDS + more] if "embed" in name or "head" in name else tensor
        for name, tensor in MAKERS[rule](base, target).items()
    }
    with pytest.raises(CheckpointMismatch, match=r"base has 1,000 words, the delta (1,002|999)"):
        plan_merge(base.state_dict(), smaller, rule=rule)


def test_the_sum_of_an_embedding_is_taken_in_float64():
    # 10,000 rows of float16 ones and a thousandth: float16 and float32 would lose the small part.
    embedding = torch.full((10_000, 8), 1.0, dtype=torch.float16)
    embedding[:, 0] = 0.001
    small = float(torch.tensor(0.001, dtype=torch.float16))
    assert embedding_sum(embedding) == pytest.approx(70_000 + 10_000 * small, abs=1e-6)
