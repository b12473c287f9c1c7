"""What the patch tokens of an eye must tell while it learns: the thing they lie on.

Without these heads shapes are learned late and badly from so few patches (docs/toy_world.md).

Shapes: K frames, P patches, D width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from video_llama.foundations.frames import Frames
from video_llama.toy.words import COLOURS, SHAPES

_SHAPE_WEIGHT = 2.0


class PatchHeads(nn.Module):
    """Linear heads for shape and colour on patches that a thing covers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape = nn.Linear(width, len(SHAPES))
        self.colour = nn.Linear(width, len(COLOURS))

    def loss(self, patches: Tensor, *, truth: Frames) -> Tensor:
        """Compare patch tokens float[K, P, D] with the truth of the same frames."""
        is_thing = truth.patch_shape >= 0
        covered = patches[is_thing]
        return _SHAPE_WEIGHT * cross_entropy(
            self.shape(covered), truth.patch_shape[is_thing]
        ) + cross_entropy(self.colour(covered), truth.patch_colour[is_thing])

    def measure(self, patches: Tensor, *, truth: Frames) -> float:
        """Return the share of covered patches whose shape is told."""
        is_thing = truth.patch_shape >= 0
        hit = self.shape(patches[is_thing]).argmax(dim=1) == truth.patch_shape[is_thing]
        return hit.float().mean().item()


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross entropy; 0 with the graph kept where a batch has no example."""
    return functional.cross_entropy(logits, target, reduction="sum") / max(1, len(target))
