"""Probes take away exactly what they say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from video_llama.common.errors import ConfigError
from video_llama.common.types import AudioSpec, MediaItem, Message, Sample
from video_llama.processors.audio import log_mel
from video_llama.tasks.probes import PROBES, alter, frame_order, get_probes, partners, with_media

SPEC = AudioSpec(
    num_clips=4,
    clip_s=0.25,
    sample_rate_hz=16000,
    num_mel_bins=64,
    num_mel_frames=25,
    mean=-4.0,
    std=9.0,
    clip_policy="consecutive",
)


def a_clip(name):
    generator = torch.Generator().manual_seed(len(name))
    video = MediaItem("video", f"{name}.mp4", pixels=torch.rand(8, 3, 4, 4, generator=generator))
    wave = torch.rand(16000, generator=generator) - 0.5
    audio = MediaItem("audio", f"{name}.mp4", mel=log_mel(wave, SPEC))
    return video, audio


def a_question(name="clip"):
    video, audio = a_clip(name)
    return Sample("q", [Message("user", [video, audio, "what colour?"])], form="chat")


def under(name, sample, partner=None):
    other = partner or a_question("other clip")
    items = alter(sample.media, PROBES[name], partner=other.media, audio_spec=SPEC, seed=1)
    return with_media(sample, items)


def test_without_media_only_the_words_are_left():
    altered = under("no_media", a_question())
    assert altered.media == []
    assert altered.messages[0].text == "what colour?"


def test_shuffled_frames_are_the_same_frames_in_another_order():
    sample = a_question()
    before, after = sample.media[0].pixels, under("frames_shuffled", sample).media[0].pixels
    assert not torch.equal(before, after)
    rows = sorted(frame.flatten().tolist() for frame in before)
    assert rows == sorted(frame.flatten().tolist() for frame in after)


def test_shuffled_frames_leave_the_sound_alone():
    sample = a_question()
    assert under("frames_shuffled", sample).media[1] is sample.media[1]


def test_swapped_clips_bring_their_own_sound():
    other = a_question("another")
    assert under("clip_swapped", a_question(), other).media == other.media


def test_swapped_sound_leaves_the_pictures_alone():
    sample, other = a_question(), a_question("another")
    altered = under("sound_swapped", sample, other)
    assert altered.media[0] is sample.media[0]
    assert altered.media[1] is other.media[1]


def test_muted_sound_is_what_a_silent_track_gives():
    silent = log_mel(torch.zeros(16000), SPEC)
    assert torch.equal(under("sound_muted", a_question()).media[1].mel, silent)


@pytest.mark.parametrize("name", ["frames_shuffled", "sound_muted"])
def test_altered_media_lose_the_identity_under_which_features_are_cached(name):
    sample = a_question()
    for item in sample.media:
        item.feature_key, item.content_hash = "key", "hash"
    altered = [item for item in under(name, sample).media if item.feature_key is None]
    assert [item.kind for item in altered] == ["video" if name == "frames_shuffled" else "audio"]


@pytest.mark.parametrize("name", sorted(PROBES))
def test_a_probe_leaves_the_sample_itself_alone(name):
    sample = a_question()
    before = [(item.kind, item.path, item.pixels, item.mel) for item in sample.media]
    under(name, sample)
    after = [(item.kind, item.path, item.pixels, item.mel) for item in sample.media]
    assert all(
        x is y for a, b in zip(before, after, strict=True) for x, y in zip(a, b, strict=True)
    )


@given(st.integers(0, 12), st.integers(0, 5), st.integers(0, 5))
def test_nobody_keeps_its_own_clip_and_every_clip_is_used_once(num_seeing, num_deaf, seed):
    signatures = {f"av{i}": ("video", "audio") for i in range(num_seeing)}
    signatures |= {f"v{i}": ("video",) for i in range(num_deaf)}
    chosen = partners(signatures, seed=seed)
    assert all(clip != partner for clip, partner in chosen.items())
    assert all(signatures[clip] == signatures[partner] for clip, partner in chosen.items())
    assert sorted(chosen) == sorted(chosen.values())
    assert len(chosen) == sum(n for n in (num_seeing, num_deaf) if n > 1)


@given(st.integers(0, 10), st.text(max_size=5), st.integers(0, 3))
def test_a_frame_order_is_a_permutation_that_moves_something(num_frames, name, seed):
    order = frame_order(num_frames, name=name, seed=seed)
    assert sorted(order) == list(range(num_frames))
    assert num_frames < 2 or order != sorted(order)
    assert order == frame_order(num_frames, name=name, seed=seed)


def test_unknown_probes_are_refused_all_together():
    with pytest.raises(ConfigError) as error:
        get_probes(["no_medai", "no_media", "deaf"])
    assert "did you mean 'no_media'" in str(error.value)
    assert "'deaf'" in str(error.value)
