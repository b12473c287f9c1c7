"""Beam search for the answer to one prompt.

The search is that of transformers 4.28 (generation/beam_search.py, BeamSearchScorer) as Video-LLaMA
uses it: of the continuations of all beams the best go on, one that ends is kept aside, and a stop
rule is asked about the best beam only. Beams are of equal length, so nothing is padded.

Shapes: R beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from video_llama.common.generation import GenerationSettings
from video_llama.models.decoders.base import Decoder
from video_llama.models.generation import StopRule, adjust_scores


@dataclass(frozen=True)
class Beam:
    """One way to answer.

    Attributes:
        ids: generated so far.
        log_prob: sum over them.
        parent: index of the beam it continues.
    """

    ids: tuple[int, ...]
    log_prob: float
    parent: int = 0

    def score(self, penalty: float) -> float:
        """Return what complete answers of different lengths are compared by."""
        # Counted with the token that opens every answer, and without one that ends it.
        return self.log_prob / (len(self.ids) + 1) ** penalty


@dataclass
class _Finished:
    """The best complete answers."""

    penalty: float
    capacity: int
    best: list[tuple[float, tuple[int, ...]]] = field(default_factory=list)

    def add(self, beam: Beam, *, end: tuple[int, ...] = ()) -> None:
        """Keep a beam if it is among the best; `end` closes it but does not count."""
        self.best.append((beam.score(self.penalty), beam.ids + end))
        self.best = sorted(self.best, key=lambda entry: entry[0], reverse=True)[: self.capacity]

    def beats(self, beam: Beam) -> bool:
        """Say whether nothing can come of a beam that is better than all that is kept."""
        return len(self.best) == self.capacity and self.best[-1][0] >= beam.score(self.penalty)


@torch.no_grad()
def search_beams(
    decoder: Decoder,
    *,
    logits: Tensor,
    cache: Cache,
    limit: int,
    settings: GenerationSettings,
    stop: StopRule | None = None,
) -> list[int]:
    """Return the ids of the best answer found.

    Args:
        decoder: in eval mode.
        logits: float[1, V], behind the prompt.
        cache: holds the prompt; becomes the beams'.
        limit: most ids of the answer, at least one.
        settings: beams, penalties.
        stop: called with row 0 and the ids of the best beam after each token.
    """
    beams = [Beam((), 0.0)]
    finished = _Finished(settings.length_penalty, capacity=settings.num_beams)
    while True:
        running, ended = _continue(beams, logits, settings=settings, decoder=decoder)
        for beam in ended:
            finished.add(Beam(beam.ids[:-1], beam.log_prob), end=beam.ids[-1:])
        best = max([*running, *ended], key=lambda beam: beam.log_prob)
        if not running or finished.beats(Beam(best.ids[:-1], best.log_prob)):
            return list(finished.best[0][1])
        beams = running
        if len(beams[0].ids) == limit or (stop is not None and stop(0, beams[0].ids)):
            break
        cache.reorder_cache(torch.tensor([beam.parent for beam in beams]))  # type: ignore[arg-type]
        last = torch.tensor([[beam.ids[-1]] for beam in beams])
        logits = decoder.step(decoder.embed(last), attention_mask=None, cache=cache)
    for beam in beams:
        finished.add(beam)
    return list(finished.best[0][1])


def _continue(
    beams: Sequence[Beam], logits: Tensor, *, settings: GenerationSettings, decoder: Decoder
) -> tuple[list[Beam], list[Beam]]:
    """Return the best continuations, best first: those that go on and those that end."""
    num_beams, end_ids = settings.num_beams, decoder.end_ids
    rows = [beam.ids for beam in beams]
    scores = adjust_scores(
        logits.float().log_softmax(dim=-1),
        rows,
        settings=settings,
        end_ids=end_ids,
        silent_ids=decoder.silent_ids,
    )
    scores += torch.tensor([[beam.log_prob] for beam in beams], device=scores.device)
    # Twice as many, so that enough go on even if every beam has one that ends.
    num_possible = int(scores.isfinite().sum())
    best, places = scores.flatten().topk(min(2 * num_beams, num_possible))
    running: list[Beam] = []
    ended: list[Beam] = []
    for rank, (log_prob, place) in enumerate(zip(best.tolist(), places.tolist(), strict=True)):
        parent, token = divmod(place, scores.shape[1])
        beam = Beam((*beams[parent].ids, token), log_prob, parent)
        if token not in end_ids:
            running.append(beam)
        elif rank < num_beams:
            ended.append(beam)
        if len(running) == num_beams:
            break
    return running, ended
