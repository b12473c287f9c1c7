from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from video_llama.common.errors import CheckpointMismatch, ConfigError
from video_llama.common.types import Features, Shape
from video_llama.common.weights import KeyMap, export_weights, load_weights, read_state
from video_llama.models.bridges.layer_norm import LayerNorm
from video_llama.models.bridges.positions import stretch_positions
from video_llama.models.bridges.qformer import QFormer, published_names

SMALL = {"num_queries": 3, "num_layers": 2, "width": 16, "num_heads": 2, "ffn_width": 24}


def features(*shape, mask=None):
    mask = torch.ones(shape[:3], dtype=torch.bool) if mask is None else mask
    return Features(tokens=torch.randn(*shape), mask=mask)


def build(shape: Shape, **sizes) -> QFormer:
    return QFormer(QFormer.Config(**{**SMALL, **sizes}), shape).eval()


def published_shapes(network, *, width, ffn, layers, frequency, source):
    """The names and shapes of a published Q-Former, from its description."""
    bert = f"{network}.bert"
    shapes = {f"{bert}.embeddings.LayerNorm.{leaf}": (width,) for leaf in ("weight", "bias")}

    def linear(name, out, into):
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def attention(name, into):
        block = linear(f"{name}.self.query", width, width)
        block |= linear(f"{name}.self.key", width, into)
        block |= linear(f"{name}.self.value", width, into)
        block |= linear(f"{name}.output.dense", width, width)
        return block | {f"{name}.output.LayerNorm.{leaf}": (width,) for leaf in ("weight", "bias")}

    for index in range(layers):
        layer = f"{bert}.encoder.layer.{index}"
        shapes |= attention(f"{layer}.attention", width)
        if index % frequency == 0:
            shapes |= attention(f"{layer}.crossattention", source)
        shapes |= linear(f"{layer}.intermediate_query.dense", ffn, width)
        shapes |= linear(f"{layer}.output_query.dense", width, ffn)
        shapes |= {
            f"{layer}.output_query.LayerNorm.{leaf}": (width,) for leaf in ("weight", "bias")
        }
    return shapes


@pytest.mark.parametrize(
    ("layers", "frequency", "source", "num_keys", "num_params"),
    [
        (12, 2, 1408, 254, 105_137_664),
        (2, 1, 768, 54, 18_905_088),
        (2, 1, 1024, 54, 19_691_520),
    ],
)
def test_full_size_has_the_published_names_shapes_and_count(
    layers, frequency, source, num_keys, num_params
):
    config = QFormer.Config(num_layers=layers, cross_attention_frequency=frequency)
    with torch.device("meta"):
        qformer = QFormer(config, Shape(8, 1, source))
    inverse = published_names(network="X", queries="q").invert()
    state = qformer.state_dict()
    found = {inverse.translate(name): tuple(t.shape) for name, t in state.items()}
    assert found.pop("q") == (1, 32, 768)
    assert found == published_shapes(
        "X", width=768, ffn=3072, layers=layers, frequency=frequency, source=source
    )
    # The published file has one key more, `position_ids`, a buffer.
    assert len(found) == num_keys
    assert sum(t.numel() for t in state.values()) - qformer.queries.numel() == num_params


def test_the_published_file_gives_the_published_queries(goldens, golden):
    expected = golden("eva_qformer")
    state = read_state(goldens / "blip2_pretrained_tiny.pth")
    norm = LayerNorm(LayerNorm.Config(), Shape(1, 17, 48))
    of_norm = {name: t for name, t in state.items() if name.startswith("ln_vision")}
    load_weights(norm, of_norm, key_map=KeyMap(renames=(("ln_vision.*", "*"),)), source="x")
    config = QFormer.Config(
        num_queries=8,
        num_layers=4,
        width=64,
        num_heads=4,
        ffn_width=128,
        cross_attention_frequency=2,
        over="step",
    )
    qformer = QFormer(config, Shape(1, 17, 48)).eval()
    of_qformer = {name: t for name, t in state.items() if name.lower().startswith("q")}
    load_weights(qformer, of_qformer, key_map=qformer.key_map(), source="x")
    tokens = expected["eva.out"][:, None]
    normed = norm(Features(tokens=tokens, mask=torch.ones(2, 1, 17, dtype=torch.bool)))
    close = {"atol": 2e-5, "rtol": 1e-5}
    torch.testing.assert_close(normed.tokens[:, 0], expected["ln_vision.out"], **close)
    torch.testing.assert_close(qformer(normed).tokens[:, 0], expected["qformer.out"], **close)
    normed.mask = expected["qformer.mask"].bool()[:, None]
    torch.testing.assert_close(
        qformer(normed).tokens[:, 0], expected["qformer.out_masked"], **close
    )


@settings(max_examples=15, deadline=None)
@given(
    heads=st.integers(1, 3),
    layers=st.integers(1, 4),
    frequency=st.integers(1, 3),
    source=st.integers(1, 9),
    queries=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_random_weights_agree_with_the_transformers_twin(
    heads, layers, frequency, source, queries, seed
):
    torch.manual_seed(seed)
    width = 4 * heads
    sizes = {"num_heads": heads, "width": width, "ffn_width": 3 * width, "num_layers": layers}
    ours = build(
        Shape(1, 6, source), **sizes, num_queries=queries, cross_attention_frequency=frequency
    )
    for parameter in ours.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    twin = Blip2QFormerModel(
        Blip2QFormerConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=3 * width,
            cross_attention_frequency=frequency,
            encoder_hidden_size=source,
        )
    ).eval()
    twin.load_state_dict(twin_names(export_weights(ours, key_map=ours.key_map())))
    incoming = features(2, 1, 6, source)
    incoming.mask[1, 0, 4:] = False
    with torch.no_grad():
        expected = twin(
            query_embeds=ours.queries.expand(2, -1, -1),
            encoder_hidden_states=incoming.tokens[:, 0],
            encoder_attention_mask=incoming.mask[:, 0].long(),
        ).last_hidden_state
        torch.testing.assert_close(ours(incoming).tokens[:, 0], expected, atol=1e-6, rtol=1e-5)


def twin_names(state):
    twin = {}
    for name, tensor in state.items():
        if name == "query_tokens":
            continue
        name = name.removeprefix("Qformer.bert.").replace("embeddings.LayerNorm", "layernorm")
        name = name.replace(".self.", ".attention.")
        twin[name] = tensor
    return twin


def test_over_step_reads_each_step_by_itself():
    qformer = build(Shape(4, 5, 7), over="step")
    incoming = features(2, 4, 5, 7)
    tokens = qformer(incoming).tokens
    alone = qformer(Features(incoming.tokens[1:, 2:3], incoming.mask[1:, 2:3])).tokens
    assert tokens.shape == (2, 4, 3, 16)
    torch.testing.assert_close(tokens[1, 2], alone[0, 0])


def test_over_item_without_positions_cannot_see_the_order_of_steps():
    qformer = build(Shape(4, 5, 7))
    incoming = features(2, 4, 5, 7)
    shuffled = Features(incoming.tokens[:, [2, 0, 3, 1]], incoming.mask)
    torch.testing.assert_close(
        qformer(incoming).tokens, qformer(shuffled).tokens, atol=1e-5, rtol=1e-5
    )


def test_positions_make_the_order_visible():
    qformer = build(Shape(4, 5, 7), num_positions=4)
    for layer in qformer.layers:
        torch.nn.init.normal_(layer.cross_attention.key.weight)
    incoming = features(2, 4, 5, 7)
    shuffled = Features(incoming.tokens[:, [2, 0, 3, 1]], incoming.mask)
    assert (qformer(incoming).tokens - qformer(shuffled).tokens).abs().max() > 1e-4


def test_positions_are_added_to_the_incoming_tokens_by_step():
    with_table = build(Shape(3, 5, 7), num_positions=6)
    without = build(Shape(3, 5, 7))
    without.load_state_dict(with_table.state_dict(), strict=False)
    incoming = features(2, 3, 5, 7)
    shifted = incoming.tokens + with_table.positions.weight[:3][None, :, None]
    torch.testing.assert_close(
        with_table(incoming).tokens, without(Features(shifted, incoming.mask)).tokens
    )


def test_positions_start_with_unit_variance_and_weights_near_zero():
    qformer = QFormer(QFormer.Config(num_positions=32), Shape(8, 32, 768))
    assert qformer.positions.weight.std().item() == pytest.approx(1.0, abs=0.03)
    assert qformer.queries.std().item() == pytest.approx(0.02, abs=0.001)
    assert qformer.layers[0].ffn.up.weight.std().item() == pytest.approx(0.02, abs=0.001)
    assert qformer.layers[0].ffn.up.bias.abs().max() == 0


@pytest.mark.parametrize("over", ["step", "item"])
def test_masked_tokens_are_not_seen(over):
    qformer = build(Shape(3, 5, 7), over=over)
    mask = torch.rand(2, 3, 5) < 0.6
    mask[:, :, 0] = True
    incoming = features(2, 3, 5, 7, mask=mask)
    changed = Features(torch.where(mask[..., None], incoming.tokens, 9.0), mask)
    torch.testing.assert_close(qformer(incoming).tokens, qformer(changed).tokens)


@pytest.mark.parametrize(("over", "num_steps"), [("step", 3), ("item", 1)])
def test_a_row_without_any_real_token_is_masked_and_finite(over, num_steps):
    qformer = build(Shape(3, 5, 7), over=over)
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    mask[1] = False
    output = qformer(features(2, 3, 5, 7, mask=mask))
    assert output.mask.shape == (2, num_steps, 3)
    assert output.mask[0].all()
    assert not output.mask[1].any()
    output.tokens.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in qformer.parameters())


def test_dropout_differs_between_rows_in_training_and_is_off_in_eval():
    qformer = build(Shape(1, 5, 7), dropout=0.5)
    incoming = features(1, 1, 5, 7)
    doubled = Features(incoming.tokens.expand(2, -1, -1, -1), incoming.mask.expand(2, -1, -1))
    evaluated = qformer(doubled).tokens
    torch.testing.assert_close(evaluated[0], evaluated[1])
    trained = qformer.train()(doubled).tokens
    assert (trained[0] - trained[1]).abs().max() > 0.1


def added_to(qformer, num_steps):
    """What a stage adds to the tokens of each step, float[T, D]."""
    seen = []
    layer = qformer.layers[0].cross_attention
    hook = layer.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    width = qformer.positions.embedding_dim
    qformer(Features(torch.zeros(1, num_steps, 1, width), torch.ones(1, num_steps, 1).bool()))
    hook.remove()
    return seen[0][0]


def test_a_table_is_used_as_it_is_up_to_its_length():
    qformer = build(Shape(4, 5, 7), num_positions=32)
    for num_steps in (1, 8, 32):
        assert torch.equal(added_to(qformer, num_steps), qformer.positions.weight[:num_steps])


def test_a_longer_clip_shares_the_table_linearly_along_time():
    qformer = build(Shape(3, 1, 1), num_positions=3)
    qformer.positions.weight.data = torch.tensor([[0.0], [8.0], [-4.0]])
    before = {name: tensor.clone() for name, tensor in qformer.state_dict().items()}
    assert added_to(qformer, 5)[:, 0].tolist() == [0.0, 4.0, 8.0, 2.0, -4.0]
    # Steps of 2 / 3 of a row: rows 0, 2/3, 4/3, 2.
    expected = torch.tensor([0.0, 16 / 3, 4.0, -4.0])
    torch.testing.assert_close(added_to(qformer, 4)[:, 0], expected)
    assert all(torch.equal(before[name], t) for name, t in qformer.state_dict().items())


@pytest.mark.parametrize("over", ["item", "step"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 5, 8])
def test_a_clip_alone_gives_the_tokens_that_it_gives_padded_beside_a_longer_one(num_steps, over):
    qformer = build(Shape(9, 5, 7), num_positions=3, over=over)
    mask = torch.ones(2, 9, 5, dtype=torch.bool)
    mask[0, num_steps:] = False
    padded = features(2, 9, 5, 7, mask=mask)
    alone = qformer(Features(padded.tokens[:1, :num_steps], mask[:1, :num_steps]))
    beside = qformer(padded)
    torch.testing.assert_close(beside.tokens[:1][beside.mask[:1]], alone.tokens[alone.mask])


def test_a_stretched_table_stays_in_the_graph_without_any_clip():
    qformer = build(Shape(9, 5, 7), num_positions=3)
    qformer(features(0, 9, 5, 7)).tokens.sum().backward()
    assert qformer.positions.weight.grad is not None


@pytest.mark.parametrize(("num_positions", "num_steps"), [(32, 33), (32, 96), (8, 9), (8, 30)])
def test_no_two_steps_of_a_stretched_table_look_alike(num_positions, num_steps):
    table = torch.arange(float(num_positions))[:, None]
    stretched = stretch_positions(table, num_steps)[:, 0]
    assert stretched.diff().min() > 0
    assert (stretched[0], stretched[-1]) == (0, num_positions - 1)
    # Evenly spaced in time.
    torch.testing.assert_close(
        stretched, torch.linspace(0, num_positions - 1, num_steps), atol=1e-4, rtol=0
    )


def test_a_stretched_table_in_bfloat16_is_computed_in_float32():
    table = torch.tensor([[1.0], [1.5]]).bfloat16()
    stretched = stretch_positions(table, 3)
    assert stretched.dtype == torch.bfloat16
    assert stretched[:, 0].tolist() == [1.0, 1.25, 1.5]


def test_learning_reaches_every_row_of_a_stretched_table():
    qformer = build(Shape(3, 1, 1), num_positions=3)
    added_to(qformer, 5).sum().backward()
    # Each of five steps is shared by its two neighbours: 1 + 1/2, 1/2 + 1 + 1/2, 1/2 + 1.
    assert qformer.positions.weight.grad[:, 0].tolist() == [1.5, 2.0, 1.5]


@pytest.mark.parametrize(("num_steps", "num_told"), [(3, 0), (5, 1)])
def test_a_model_that_always_stretches_its_table_says_so(num_steps, num_told, caplog):
    build(Shape(num_steps, 1, 7), num_positions=3)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == num_told
    assert all("5 time steps share a table of 3 positions" in line for line in told)


def test_a_table_of_one_row_cannot_be_stretched():
    config = QFormer.Config(num_positions=1)
    assert config.out_shape(Shape(1, 1, 1024)).num_steps == 1
    with pytest.raises(ConfigError, match="9 time steps come in.*1 row.*raise num_positions"):
        config.out_shape(Shape(9, 1, 1024))
    qformer = build(Shape(1, 5, 7), num_positions=1)
    with pytest.raises(ConfigError, match="raise num_positions"):
        qformer(features(1, 5, 5, 7))


@pytest.mark.parametrize(("rows", "loads"), [(2, True), (5, True), (1, False), (6, False)], ids=str)
def test_a_longer_table_is_filled_from_a_shorter_one_of_a_file(rows, loads):
    qformer = build(Shape(3, 1, 1), num_positions=5)
    names = published_names(network="Q", queries="q", positions="p.weight")
    state = export_weights(qformer, key_map=names)
    state["p.weight"] = torch.arange(float(rows))[:, None] * 4
    if not loads:
        with pytest.raises(CheckpointMismatch, match=r"p\.weight"):
            load_weights(qformer, state, key_map=names, source="x")
        return
    load_weights(qformer, state, key_map=names, source="x")
    expected = [0.0, 1.0, 2.0, 3.0, 4.0] if rows == 2 else [0.0, 4.0, 8.0, 12.0, 16.0]
    assert qformer.positions.weight[:, 0].tolist() == expected


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"num_queries": 0}, "at least 1"),
        ({"width": 17}, "width 17 is no multiple of num_heads 2"),
        ({"num_positions": -1}, "must not be negative"),
        ({"dropout": 1.0}, r"must lie in \[0, 1\)"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        QFormer.Config(**{**SMALL, **sizes})
