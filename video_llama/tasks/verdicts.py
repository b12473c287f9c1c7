"""Which of several differences are real, in words.

Comparisons are judged together by Holm (Scand. J. Statist. 6 (1979) 65): if each p-value is right,
at most one family in twenty has a difference called real that is none. With one seed that holds of
the trained models at hand, not of the settings they were trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from video_llama.tasks.paired import LEVEL, Difference

Word = Literal["better", "worse", "no difference shown", "too few samples"]


@dataclass(frozen=True)
class Verdict:
    """What a difference means, in words.

    Attributes:
        word: of the first system against the second.
        p_value: after Holm's correction for the comparisons it was judged with.
        detectable: smallest true difference that would be shown four times in five among as many
            comparisons; infinite if nothing can be shown.
    """

    word: Word
    p_value: float
    detectable: float


def judge(
    differences: Sequence[Difference],
    *,
    lower_is_better: bool = False,
    matters: float | Sequence[float] = 0.05,
) -> list[Verdict]:
    """Say of several comparisons, judged together, which are real.

    Args:
        differences: of one family; the more there are, the more each has to show.
        lower_is_better: as for losses.
        matters: difference that one would not want to miss (of each, or one for all). If smaller
            ones would be seen, an interval around zero reads "no difference shown", else "too few
            samples".

    Returns:
        One verdict each.
    """
    limits = [matters] * len(differences) if isinstance(matters, int | float) else matters
    verdicts = []
    p_values = holm([difference.p_value for difference in differences])
    for difference, p_value, limit in zip(differences, p_values, limits, strict=True):
        word: Word
        # As if it were the first of Holm's: what is not shown is then always smaller than this.
        detectable = difference.mean.detectable(LEVEL / len(differences))
        if p_value < LEVEL:
            is_better = (difference.estimate.value > 0) != lower_is_better
            word = "better" if is_better else "worse"
        else:
            word = "no difference shown" if detectable <= limit else "too few samples"
        verdicts.append(Verdict(word, p_value, detectable))
    return verdicts


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values of several tests, so that one false alarm among all stays rare.

    Worked example: 0.01, 0.04, 0.03 become 0.03 (times 3), 0.06 (of the one before), 0.06 (times
    2).
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
