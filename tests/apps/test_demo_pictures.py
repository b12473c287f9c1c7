from __future__ import annotations

import dataclasses

import numpy as np
import torch

from video_llama.apps.demo_pictures import mels_of
from video_llama.common.types import AudioSpec, MediaItem

CLAP = AudioSpec(1, 1.0, 48000, 4, 8, 0.0, 1.0, recipe="clap")


def drawn(mel, spec):
    (picture,) = mels_of(MediaItem("audio", "a.wav", mel=mel[None, None]), spec)
    return np.asarray(picture).sum(axis=-1)


def test_decibels_are_drawn_from_their_own_darkest_to_their_brightest():
    mel = torch.linspace(-100.0, -20.0, 32).view(4, 8)
    seen = drawn(mel, CLAP)
    # Low notes are at the bottom: the first row of a mel is the last of its picture.
    assert seen[-1, 0] == seen.min() < seen.max() == seen[0, -1]
    kaldi = drawn(mel, dataclasses.replace(CLAP, recipe="kaldi"))
    assert kaldi.min() == kaldi.max()


def test_silence_is_all_dark():
    assert len(np.unique(drawn(torch.full((4, 8), -100.0), CLAP))) == 1
