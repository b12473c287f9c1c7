"""Whether a run starts in its right mind: a loss no better than chance is explained.

Shapes: B batch, L text.
"""

from __future__ import annotations

import math

import torch

from video_llama.common.logger import get_logger
from video_llama.common.types import IGNORE_INDEX, Batch
from video_llama.models.video_llm import VideoLLM

NUM_STEPS = 3
"""First steps that are looked at; a good loss in any of them ends the search."""

MARGIN = 0.02
"""A loss at least this share below chance counts as knowing something."""


class StartCheck:
    """Warns once if the first steps are no better than guessing.

    A language model with wrong weights gives all its tokens about the same chance, whatever it
    reads. Its loss stays at the logarithm of the vocabulary (10.37 for 32,000 tokens) and no branch
    can learn to change that. Whether it is the decoder is found out by letting it read the batch's
    text alone.

    Args:
        model: with its weights. A decoder that starts from nothing has every reason to guess, and
            is not looked at.
    """

    def __init__(self, model: VideoLLM) -> None:
        self._model = model
        self._bar = (1 - MARGIN) * math.log(model.decoder.vocab_size)
        self._steps_left = NUM_STEPS if model.config.decoder.file is not None else 0

    def __call__(self, step: int, *, loss: float, batch: Batch) -> None:
        """Look at a step that was made.

        Args:
            step: its number, from 0.
            loss: mean over its supervised tokens, in nats.
            batch: one of its batches.
        """
        if self._steps_left == 0 or step >= NUM_STEPS:
            return
        is_guessing = loss >= self._bar
        self._steps_left = self._steps_left - 1 if is_guessing else 0
        if is_guessing and self._steps_left == 0:
            self._warn(loss, batch)

    def _warn(self, loss: float, batch: Batch) -> None:
        """Say what was found, and on which side of the decoder's door the fault lies."""
        found = (
            f"the loss of the first {NUM_STEPS} steps is {loss:.2f}, no better than guessing among "
            f"{self._model.decoder.vocab_size:,} tokens"
        )
        alone = text_loss(self._model, batch)
        if alone < self._bar:
            get_logger().warning(
                "%s, though the decoder reads the text alone at %.2f: its weights are good, but "
                "what the branches hand it drowns the text. Look at model.ckpt (was it trained "
                "for another decoder?), at the weights of the stages, and at model.template",
                found,
                alone,
            )
            return
        get_logger().warning(
            "%s, and the decoder's loss for the text alone is %.2f, so no branch can learn from "
            "it. Either %s is a delta that was never merged (python apply_delta.py), or its "
            "weights are damaged or untrained, or model.tokenizer is that of another model",
            found,
            alone,
            self._model.config.decoder.weights,
        )


@torch.no_grad()
def text_loss(model: VideoLLM, batch: Batch) -> float:
    """Compute the decoder's loss on a batch as if it had no media.

    Args:
        model: whose decoder is asked.
        batch: with labels; what directly follows a media item is not counted, as the position
            that predicts it is hidden.

    Returns:
        Nats per token, NaN if nothing is supervised.
    """
    decoder, device = model.decoder, model.device
    is_media = batch.slots.to(device) != 0
    follows_media = torch.zeros_like(is_media)
    follows_media[:, 1:] = is_media[:, :-1]
    losses = decoder.loss(
        decoder.embed(batch.input_ids.to(device)),
        attention_mask=batch.attention_mask.to(device) & ~is_media,
        labels=batch.labels.to(device).masked_fill(follows_media, IGNORE_INDEX),
    )
    return float(losses.token_loss.mean())
