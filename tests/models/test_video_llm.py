"""Branches and decoder together, at tiny size with random weights."""

import copy

import pytest
import torch
from models.tiny_model import batch_of, build, frames, raw_input
from torch.nn.utils.rnn import pad_sequence

from video_llama.common.errors import ConfigError, ContextOverflow
from video_llama.common.generation import GenerationSettings, Prompt
from video_llama.common.types import IGNORE_INDEX, Batch, BatchItem, BranchInput, MediaItem


def test_a_batch_gives_the_losses_of_its_samples_one_by_one():
    model = build().eval()
    together = model(batch_of(2, with_audio=False)).sample_loss
    alone = [model(select(batch_of(2, with_audio=False), row)).sample_loss[0] for row in (0, 1)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-5)


def test_the_side_of_the_padding_does_not_change_the_loss():
    model = build().eval()
    right = batch_of(2)
    left = copy.copy(right)
    for name in ("input_ids", "attention_mask", "labels", "slots"):
        rows = []
        for row, mask in zip(getattr(right, name), right.attention_mask, strict=True):
            rows.append(torch.cat([row[~mask], row[mask]]))
        setattr(left, name, torch.stack(rows))
    torch.testing.assert_close(model(left).sample_loss, model(right).sample_loss)


def test_the_loss_is_counted_over_supervised_tokens_only():
    output = build().eval()(batch_of(2))
    assert output.sample_targets.tolist() == [4, 4]
    assert int(output.num_targets) == 8
    torch.testing.assert_close(output.loss_sum, output.sample_loss.sum())


def test_only_parts_that_are_declared_trainable_get_a_gradient():
    model = build().train()
    model(batch_of(2)).loss_sum.backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None}
    assert touched == {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.rsplit(".stages.")[0] for name in touched} == {"branches.video", "branches.audio"}
    assert all(".joint." in name or ".projection." in name for name in touched)


def test_a_branch_without_media_stays_in_the_graph_with_zero_gradient():
    model = build().train()
    model(batch_of(2, with_audio=False)).loss_sum.backward()
    audio = [p for n, p in model.named_parameters() if n.startswith("branches.audio.stages")]
    assert audio
    assert all(p.grad is not None and not p.grad.any() for p in audio)


def test_an_encoder_that_learns_stays_in_the_graph_without_media():
    def learning(tree):
        tree["branches"]["audio"]["encoder"]["trainable"] = True

    model = build(learning).train()
    model(batch_of(2, with_audio=False)).loss_sum.backward()
    encoder = list(model.branches["audio"].encoder.parameters())
    assert all(p.grad is not None and not p.grad.any() for p in encoder)


def test_media_reach_the_loss():
    model = build().eval()
    one, other = batch_of(1), batch_of(1)
    other.media["video"].raw = frames(1, seed=9)
    assert model(one).loss_sum != model(other).loss_sum


def test_cached_features_give_the_very_same_loss():
    model = build().eval()
    fresh = model(batch_of(3))
    cached = batch_of(3)
    rows = torch.tensor([0, 2])
    cached.media["video"] = BranchInput(
        raw=frames(3)[1:2],
        raw_mask=torch.ones(1, 3, dtype=torch.bool),
        raw_rows=torch.tensor([1]),
        cached=torch.stack([fresh.frontier["clip0"], fresh.frontier["clip2"]]),
        cached_mask=torch.ones(2, 3, dtype=torch.bool),
        cached_rows=rows,
    )
    again = model(cached)
    assert torch.equal(again.sample_loss, fresh.sample_loss)
    assert set(again.frontier) == {"clip1"}
    assert torch.equal(again.frontier["clip1"], fresh.frontier["clip1"])


def test_frontier_features_hold_only_the_frames_there_are():
    model = build().eval()
    batch = batch_of(1, with_audio=False)
    batch.media["video"].raw_mask[0, 2] = False
    assert model(batch).frontier["clip0"].shape == (2, 5, 16)


def test_frozen_parts_stay_in_eval_while_the_model_trains():
    model = build().train()
    video = model.branches["video"]
    assert not video.encoder.training
    assert not model.decoder.training
    assert video.stages["joint"].training


def test_adapters_follow_the_mode_while_the_layers_they_wrap_stay_in_eval():
    pytest.importorskip("peft")
    lora = {"rank": 2, "dropout": 0.5, "targets": ["q_proj"]}
    model = build(lambda tree: tree["decoder"].update(lora=lora, trainable=["*lora_*"])).train()
    modes = {name: module.training for name, module in model.decoder.named_modules()}
    dropout = [mode for name, mode in modes.items() if "lora_dropout.default" in name]
    base = [mode for name, mode in modes.items() if name.endswith(("base_layer", "mlp", "norm"))]
    assert (len(dropout), set(dropout)) == (2, {True})
    # Two wrapped layers, two MLPs, and five norms.
    assert (len(base), set(base)) == (9, {False})
    assert not any(module.training for module in model.eval().decoder.modules())


def test_slots_and_tokens_that_disagree_are_named():
    batch = batch_of(1, with_audio=False)
    batch.slots[0, 2] = 0
    with pytest.raises(ValueError, match=r"sample 's0': branch 'video' made 2 tokens .* 1 slots"):
        build()(batch)


def test_a_batch_longer_than_the_context_is_refused():
    with pytest.raises(ContextOverflow, match="holds 32"):
        build()(batch_of(1, text=tuple(range(3, 40))))


def test_a_branch_of_the_wrong_width_is_refused_before_it_is_built():
    def narrow(tree):
        tree["branches"]["audio"]["stages"]["projection"]["width"] = 20

    with pytest.raises(ConfigError, match=r"branches.audio: its last stage is 20 wide.* 24"):
        build(narrow)


def test_two_branches_must_not_claim_the_same_media():
    def greedy(tree):
        tree["branches"]["audio"]["media"] = ["audio", "image"]

    with pytest.raises(ConfigError, match="'image' goes to branch 'video' already"):
        build(greedy)


def test_a_trainable_pattern_that_matches_nothing_is_refused():
    def typo(tree):
        tree["branches"]["video"]["stages"]["joint"]["trainable"] = ["querys*"]

    with pytest.raises(ConfigError, match=r"joint.trainable: no parameter matches querys\*"):
        build(typo)


def test_only_the_parameters_named_by_a_pattern_learn():
    def queries_only(tree):
        tree["branches"]["video"]["stages"]["joint"]["trainable"] = ["queries"]

    stage = build(queries_only).branches["video"].stages["joint"]
    assert [n for n, p in stage.named_parameters() if p.requires_grad] == ["queries"]


def test_without_frame_positions_the_order_of_frames_is_invisible():
    def no_positions(tree):
        tree["branches"]["video"]["stages"]["joint"]["num_positions"] = 0

    def tokens(model, raw):
        for parameter in model.branches["video"].stages["joint"].layers.parameters():
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
        return model.branches["video"](raw_input(raw)).features.tokens

    blind, seeing = build(no_positions).eval(), build().eval()
    clip = frames(1)
    torch.testing.assert_close(tokens(blind, clip), tokens(blind, clip.flip(1)))
    assert (tokens(seeing, clip) - tokens(seeing, clip.flip(1))).abs().max() > 1e-3


def test_greedy_generation_equals_taking_the_likeliest_token_step_by_step():
    model = build().eval()
    batch = batch_of(1)
    ids = model.generate(batch, settings=GenerationSettings(max_new_tokens=4))[0]
    prompt = batch
    for expected in ids:
        embeds = model.embed(prompt, model._run_branches(prompt.media))
        hidden = model.decoder(embeds, attention_mask=prompt.attention_mask)
        assert int(model.decoder.logits(hidden[:, -1]).argmax()) == expected
        prompt = append(prompt, expected)


def test_answers_of_a_left_padded_batch_equal_single_ones():
    model = build().eval()
    settings = GenerationSettings(max_new_tokens=5)
    batch = batch_of(2)
    for name in ("input_ids", "attention_mask", "labels", "slots"):
        value = getattr(batch, name)
        mask = batch.attention_mask if name != "attention_mask" else value.clone()
        rows = [torch.cat([r[~m], r[m]]) for r, m in zip(value, mask, strict=True)]
        setattr(batch, f"new_{name}", torch.stack(rows))
    for name in ("input_ids", "labels", "slots", "attention_mask"):
        setattr(batch, name, getattr(batch, f"new_{name}"))
    together = model.generate(batch, settings=settings)
    single = model.generate(select(batch_of(2), 1), settings=settings)[0]
    assert together[1] == single


def test_sampling_with_a_seed_gives_the_same_answer_twice():
    model = build().eval()
    settings = GenerationSettings(max_new_tokens=6, temperature=2.0, top_p=1.0, seed=3)
    assert model.generate(batch_of(1), settings=settings) == model.generate(
        batch_of(1), settings=settings
    )


def test_a_stop_rule_ends_one_row_and_not_the_other():
    model = build().eval()

    def stop(row, ids):
        return row == 0

    rows = model.generate(batch_of(2), settings=GenerationSettings(max_new_tokens=4), stop=stop)
    assert [len(rows[0]), len(rows[1])] == [1, 4]


def test_generation_ends_where_the_context_ends():
    model = build().eval()
    batch = batch_of(1, with_audio=False, text=tuple(range(3, 30)))
    ids = model.generate(batch, settings=GenerationSettings(max_new_tokens=50))[0]
    assert len(ids) == 32 - batch.input_ids.shape[1]


@pytest.mark.parametrize("rows", [(0, 1), (1, 0, 1), (1,)])
def test_scores_behind_prompts_are_the_losses_of_both_in_one(rows):
    model = build().eval()
    prompts, rest = cut_behind_media(batch_of(2))
    for name in ("input_ids", "attention_mask", "labels"):
        setattr(rest, name, getattr(rest, name)[list(rows)])
    scored = model.score(prompts, continuations=rest, rows=rows)
    whole = batch_of(2)
    whole.labels[[0, 1], [4, 3]] = IGNORE_INDEX  # the first word behind the media
    expected = model(whole)
    torch.testing.assert_close(
        scored.sample_loss, expected.sample_loss[list(rows)], atol=1e-5, rtol=0
    )
    assert scored.sample_targets.tolist() == [3] * len(rows)
    torch.testing.assert_close(scored.loss_sum, scored.sample_loss.sum())
    assert scored.frontier.keys() == expected.frontier.keys()


def test_only_a_prompt_with_its_own_continuation_must_fit_the_context():
    model = build().eval()
    short, long = [1, 5, 6], [1, *range(3, 27)]
    prompts, rest = text_batch([short, long], side="left"), text_batch([long, short])
    assert prompts.input_ids.shape[1] + rest.input_ids.shape[1] > model.max_context
    scored = model.score(prompts, continuations=rest, rows=[0, 1])
    for index, (row, end) in enumerate([(short, long), (long, short)]):
        whole = text_batch([row + end])
        whole.labels[0, : len(row) + 1] = IGNORE_INDEX
        expected = model(whole).sample_loss[0]
        torch.testing.assert_close(scored.sample_loss[index], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ContextOverflow, match="50 positions, .* holds 32"):
        model.score(prompts, continuations=rest, rows=[1, 0])


def cut_behind_media(batch):
    """The rows of a batch up to their last slot, padded on the left, and what follows there."""
    prompts, rest = copy.copy(batch), copy.copy(batch)
    rest.items, rest.media = [], {}
    ends = [int(slots.nonzero().max()) + 1 for slots in batch.slots]
    for name in ("input_ids", "attention_mask", "labels", "slots"):
        rows = getattr(batch, name)
        heads = [row[:end] for row, end in zip(rows, ends, strict=True)]
        tails = [
            r[end:][m[end:]] for r, m, end in zip(rows, batch.attention_mask, ends, strict=True)
        ]
        setattr(prompts, name, pad_sequence(heads, batch_first=True, padding_side="left"))
        setattr(rest, name, pad_sequence(tails, batch_first=True))
    rest.labels[:, 0] = IGNORE_INDEX
    return prompts, rest


def text_batch(rows, *, side="right"):
    """A batch without media; all but the first token of a row is supervised."""
    rows = [torch.tensor(row) for row in rows]

    def pad(values, fill):
        return pad_sequence(values, batch_first=True, padding_value=fill, padding_side=side)

    ids, mask = pad(rows, 0), pad([torch.ones_like(row).bool() for row in rows], False)
    labels = pad([torch.cat([torch.tensor([IGNORE_INDEX]), row[1:]]) for row in rows], IGNORE_INDEX)
    keys = [f"s{i}" for i in range(len(rows))]
    return Batch(ids, mask, labels, torch.zeros_like(ids), items=[], media={}, keys=keys)


def select(batch, row):
    """One row of a batch whose rows have one video each, without its padding."""
    keep = batch.attention_mask[row]
    items = [item for item in batch.items if item.sample == row]
    slots = batch.slots[row][keep]
    numbers = {old: new for new, old in enumerate(sorted(set(slots.tolist()) - {0}), start=1)}
    media = {
        name: raw_input(batch.media[name].raw[[i.row for i in items if i.branch == name]])
        for name in batch.media
    }
    return Batch(
        input_ids=batch.input_ids[row][keep][None],
        attention_mask=batch.attention_mask[row][keep][None],
        labels=batch.labels[row][keep][None],
        slots=torch.tensor([[numbers.get(s, 0) for s in slots.tolist()]]).int(),
        items=[BatchItem(i.branch, 0, i.num_slots, 0, i.feature_key) for i in items],
        media=media,
        keys=[batch.keys[row]],
    )


def append(batch, token):
    """The batch with one more token of text."""
    longer = copy.copy(batch)
    longer.input_ids = torch.cat([batch.input_ids, torch.tensor([[token]])], dim=1)
    longer.attention_mask = torch.cat([batch.attention_mask, torch.ones(1, 1).bool()], dim=1)
    longer.slots = torch.cat([batch.slots, torch.zeros(1, 1).int()], dim=1)
    return longer


def test_a_second_turn_reads_only_what_is_new_and_says_the_same():
    model = build().eval()
    clip = MediaItem("video", "a.mp4", pixels=frames(1)[0])
    tokens = model.encode_items([clip])
    cache, settings = model.new_prompt_cache(), GenerationSettings(max_new_tokens=4)
    ids, slots = [1, 0, 0, 5, 6], [0, 1, 1, 0, 0]
    for _ in range(2):
        turn = {"input_ids": ids, "slots": slots, "media": tokens, "settings": settings}
        said = list(model.stream_prompt(**turn, media_keys=["a.mp4, 3 frames"], cache=cache))
        assert said == list(model.stream_prompt(**turn))
        num_new = len(ids) - cache.num_reused
        ids, slots = [*ids, *said, 7], [*slots, *[0] * (len(said) + 1)]
    assert num_new == 2


def test_prompts_side_by_side_are_answered_as_one_by_one():
    model = build().eval()
    tokens = model.encode_items([MediaItem("video", "a.mp4", pixels=frames(1)[0])])
    prompts = [Prompt([1, 0, 0, 5, 6, 7], [0, 1, 1, 0, 0, 0], tokens), Prompt([1, 9], [0, 0])]
    settings = GenerationSettings(max_new_tokens=4)
    assert model.answer_prompts(prompts, settings=settings) == [
        list(
            model.stream_prompt(
                input_ids=p.input_ids, slots=p.slots, media=p.media, settings=settings
            )
        )
        for p in prompts
    ]


@pytest.mark.parametrize(("kind", "num_steps"), [("video", 9), ("audio", 7)])
def test_an_item_may_have_more_steps_than_its_table_of_positions(kind, num_steps):
    def with_tables(tree):
        tree["branches"]["audio"]["stages"]["joint"]["num_positions"] = 2

    model = build(with_tables).eval()
    raw = torch.randn(num_steps, *((3, 16, 16) if kind == "video" else (1, 16, 16)))
    item = (
        MediaItem(kind, "long", pixels=raw) if kind == "video" else MediaItem(kind, "long", mel=raw)
    )
    (tokens,) = model.encode_items([item])
    assert len(tokens) == model.branch_specs()[kind].slots(num_steps)
    stage = model.branches[kind].stages["joint"]
    assert len(stage.positions.weight) == {"video": 4, "audio": 2}[kind]
