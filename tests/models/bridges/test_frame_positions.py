from __future__ import annotations

import pytest
import torch

from video_llama.common.errors import ConfigError
from video_llama.common.types import Features, Shape
from video_llama.models.bridges.frame_positions import FramePositions
from video_llama.models.bridges.mlp import Mlp


def build(num_positions, *, num_steps=3):
    stage = FramePositions(FramePositions.Config(num_positions), Shape(num_steps, 2, 1))
    with torch.no_grad():
        stage.weight.copy_(10 ** torch.arange(float(num_positions))[:, None])
    return stage


def added(stage, lengths, *, num_steps):
    """What is added to the first token of every step, of rows that have so many real ones."""
    mask = torch.arange(num_steps) < torch.tensor(lengths)[:, None]
    tokens = torch.zeros(len(lengths), num_steps, 2, 1)
    features = stage(Features(tokens, mask[..., None].expand(-1, -1, 2), grid=(1, 2)))
    assert torch.equal(features.tokens[:, :, 0], features.tokens[:, :, 1])
    rows = features.tokens[:, :, 0, 0].tolist()
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def test_every_token_of_a_step_gets_the_row_of_its_step():
    assert added(build(4), [3], num_steps=3) == [[1, 10, 100]]


def test_more_steps_than_rows_have_the_table_stretched_over_them():
    # Rows 1, 10, 100 over five steps: the ends keep theirs, between them lie the halves.
    assert added(build(3), [5], num_steps=5) == [[1, 5.5, 10, 55, 100]]


def test_how_a_row_is_padded_does_not_change_its_positions():
    assert added(build(3), [5, 2], num_steps=6) == [[1, 5.5, 10, 55, 100], [1, 10]]


def test_a_table_of_a_given_spread_is_made():
    stage = FramePositions(FramePositions.Config(64, init_std=0.5), Shape(8, 1, 256))
    assert stage.weight.std().item() == pytest.approx(0.5, abs=0.02)
    assert not FramePositions(FramePositions.Config(4, init_std=0.0), Shape(2, 1, 8)).weight.any()


def test_the_order_of_frames_is_visible_behind_it_and_not_without_it():
    tokens = torch.randn(1, 3, 2, 1)
    mask = torch.ones(1, 3, 2, dtype=torch.bool)
    mlp = Mlp(Mlp.Config(4), Shape(3, 2, 1))

    def pooled(stages, frames):
        features = Features(frames, mask)
        for stage in stages:
            features = stage(features)
        return features.tokens.mean(dim=1)

    shuffled = tokens[:, [2, 0, 1]]
    torch.testing.assert_close(pooled([mlp], tokens), pooled([mlp], shuffled))
    seen = [pooled([build(3), mlp], frames) for frames in (tokens, shuffled)]
    assert (seen[0] - seen[1]).abs().max() > 1e-3


def test_a_table_of_one_row_is_refused_for_several_steps():
    with pytest.raises(ConfigError, match="3 time steps come in and the table has 1 row"):
        FramePositions.Config(1).out_shape(Shape(3, 2, 1))


def test_fewer_rows_than_frames_are_told(caplog):
    with caplog.at_level("WARNING"):
        build(3, num_steps=8)
    assert "8 time steps share a table of 3 rows" in caplog.text


@pytest.mark.parametrize(
    ("keys", "words"), [({"num_positions": 0}, "at least 1"), ({"init_std": -1.0}, "negative")]
)
def test_settings_that_cannot_be_are_refused(keys, words):
    with pytest.raises(ValueError, match=words):
        FramePositions.Config(**keys)
