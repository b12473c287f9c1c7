"""Two systems on the same questions: how large is the difference, and is there one.

Questions about one clip are not independent of each other, and a system trained with another seed
is another system. So answers form a table of seeds by clips, and both are taken as drawn from more
of their kind: the interval is of what one may expect of other clips and other seeds.

    d[s, c]   what clip c, with seed s, adds to the difference of the means (Taylor-linearised
              where clips have different numbers of questions: Cochran, Sampling Techniques,
              3rd ed. 1977, ch. 9A)
    variance  of the mean: max(MS_seed, MS_rest) / (S C) + max(MS_clip - MS_rest, 0) / (S C), with
              the mean squares of the two-way table: crossed random effects, as readers by cases
              in radiology (Hillis, Berbaum and Metz, Acad. Radiol. 15 (2008) 647). MS_seed is
              expected to be MS_rest and more; below it, seeds agree by luck, which with two of
              them is common, and no component of variance is negative
    interval  half its width is the root of t(S - 1)^2 times the first and t(C - 1)^2 times the
              second part (Banerjee, Sankhya 22 (1960) 357): with few seeds, Satterthwaite's
              degrees of freedom are too many, and up to one interval in ten would miss

With one seed the clips alone vary (C - 1 degrees, the usual interval clustered by clip), and what
is found is true of two trained models, not of two ways to train. Right-or-wrong answers get one
more clip in favour of each side, so that few or no changes do not pass for certainty (Bonett and
Price, Statist. Med. 31 (2012) 479, carried over to clips).

What a difference means, among several, is said by `verdicts`.

Shape legend: S seeds, Q questions, C clips.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from video_llama.tasks.statistics import Estimate, student_quantile, student_two_sided

LEVEL = 0.05
POWER = 0.8
"""How often a difference of the size `detectable` is shown."""

SMALLEST_P = 1e-12
"""Smaller ones are all given as this."""

NUM_HALVINGS = 24
"""Of the search for a p-value: it is right to six digits."""

TINY = 1e-12
"""Below it, a variation is a rounding error."""

Measure = Literal["accuracy", "loss"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """A mean and the two parts of its variance.

    Attributes:
        centre: the mean.
        by_seed: variance that more seeds would lower.
        by_clip: variance that more clips would lower.
        num_seeds: as counted.
        num_clips: with those that were added.
    """

    centre: float
    by_seed: float
    by_clip: float
    num_seeds: int
    num_clips: int

    def reach(self, level: float) -> float:
        """Return half the width of the interval that misses as often as `level`, 0..1."""
        wide = student_quantile(1 - level / 2, degrees=self.num_clips - 1) ** 2 * self.by_clip
        if self.num_seeds > 1:
            wide += student_quantile(1 - level / 2, degrees=self.num_seeds - 1) ** 2 * self.by_seed
        return math.sqrt(wide)

    def detectable(self, level: float) -> float:
        """Return the smallest true difference that is shown at a level four times in five."""
        return self.reach(level) + self.reach(2 * (1 - POWER))

    def p_value(self) -> float:
        """Return the level whose interval ends at zero."""
        if self.reach(LEVEL) < TINY * max(1.0, abs(self.centre)):
            # Losses that differ by the same on every clip.
            return 1.0 if abs(self.centre) < TINY else 0.0
        if self.num_seeds == 1:
            statistic = self.centre / math.sqrt(self.by_clip)
            return student_two_sided(statistic, degrees=self.num_clips - 1)
        # Searched by its logarithm: small ones are multiplied by the number of comparisons.
        low, high = math.log(SMALLEST_P), 0.0
        for _ in range(NUM_HALVINGS):
            middle = (low + high) / 2
            if self.reach(math.exp(middle)) > abs(self.centre):
                low = middle
            else:
                high = middle
        return math.exp((low + high) / 2)


@dataclass(frozen=True)
class Difference:
    """The difference of two means over seeds and questions, with its uncertainty.

    Attributes:
        estimate: first minus second, with its 95 % interval.
        p_value: of no difference, two-sided.
        mean: what the interval was made from.
        num_seeds: rows of the table.
        num_clips: columns of the table.
        num_questions: each of them asked once for every seed.
    """

    estimate: Estimate
    p_value: float
    mean: Mean
    num_seeds: int
    num_clips: int
    num_questions: int


def mean_with_interval(
    values: Sequence[Sequence[float]], *, clips: Sequence[Hashable], measure: Measure
) -> Estimate:
    """Estimate one system's mean.

    Args:
        values: float[S, Q], of every seed on every question.
        clips: Q names; questions of one name are about one clip.
        measure: "accuracy" for 0 or 1, whose interval stays within.
    """
    table = np.asarray(values, dtype=np.float64)
    # Two clips right and two wrong: Agresti and Coull, Am. Stat. 52 (1998) 119.
    added = (0.0, 0.0, 1.0, 1.0) if measure == "accuracy" else ()
    bounds = (0.0, 1.0) if measure == "accuracy" else (-math.inf, math.inf)
    mean = _crossed(table, groups=_numbered(clips), added=added)
    return _interval(float(table.mean()), mean, bounds=bounds)


def paired_difference(
    first: Sequence[Sequence[float]],
    second: Sequence[Sequence[float]],
    *,
    clips: Sequence[Hashable],
    measure: Measure,
) -> Difference:
    """Estimate how much larger the mean of the first system is on the same questions.

    Args:
        first: float[S, Q], of every seed on every question.
        second: float[S, Q]; row s is trained as row s of the first where seeds are shared.
        clips: Q names; questions of one name are about one clip.
        measure: "accuracy" for 0 or 1, "loss" for any number.

    Raises:
        ValueError: the tables are empty or of different shapes.

    Worked example, one seed, a question per clip, 9 clips only the first has right, 1 only the
    second, 10 both: value 0.4; with one more clip for each side 10 - 2 of 22 are 0.364, give or
    take 2.080 (t at 21 degrees) times 0.140.
    """
    table = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    added = (-1.0, 1.0) if measure == "accuracy" else ()
    bounds = (-1.0, 1.0) if measure == "accuracy" else (-math.inf, math.inf)
    groups = _numbered(clips)
    mean = _crossed(table, groups=groups, added=added)
    return Difference(
        _interval(float(table.mean()), mean, bounds=bounds),
        p_value=mean.p_value(),
        mean=mean,
        num_seeds=len(table),
        num_clips=len(set(groups.tolist())),
        num_questions=len(groups),
    )


def _numbered(clips: Sequence[Hashable]) -> NDArray[np.int64]:
    """Return int64[Q], the number of every question's clip."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(clip, len(numbers)) for clip in clips], dtype=np.int64)


def _interval(value: float, mean: Mean, *, bounds: tuple[float, float]) -> Estimate:
    """Put an interval around a value, within bounds."""
    half = mean.reach(LEVEL)
    low = min(max(mean.centre - half, bounds[0]), value)
    return Estimate(value, low, max(min(mean.centre + half, bounds[1]), value))


def _crossed(table: Values, *, groups: NDArray[np.int64], added: Sequence[float]) -> Mean:
    """Take the mean of float[S, Q] over seeds and clips."""
    if table.ndim != 2 or 0 in table.shape or table.shape[1] != len(groups):
        raise ValueError(f"expected seeds by {len(groups)} questions, found {table.shape}")
    num_clips = int(groups.max()) + 1
    if num_clips < 2:
        return Mean(float(table.mean()), 0.0, math.inf, len(table), 2)
    sizes_C = np.asarray(np.bincount(groups, minlength=num_clips), dtype=np.float64)
    sums_SC = np.zeros((len(table), num_clips))
    for row, values in zip(sums_SC, table, strict=True):
        row += np.bincount(groups, values, minlength=num_clips)
    if added:
        size = _typical_size(sums_SC, sizes_C, is_difference=sum(added) == 0)
        extra = np.array(added) * size
        sums_SC = np.concatenate([sums_SC, np.tile(extra, (len(table), 1))], axis=1)
        sizes_C = np.concatenate([sizes_C, np.full(len(added), size)])
    return _moments(sums_SC, sizes_C)


def _typical_size(sums_SC: Values, sizes_C: Values, *, is_difference: bool) -> float:
    """Return how many questions an added clip has.

    A clip that changes at all changes by so much; where none does, it might be all its questions.
    """
    mean = float(sizes_C.mean())
    if not is_difference:
        return mean
    changes = np.abs(sums_SC[sums_SC != 0])
    return float(changes.mean()) if changes.size else mean


def _moments(sums_SC: Values, sizes_C: Values) -> Mean:
    """Take the variation of a table apart."""
    num_seeds, num_clips = sums_SC.shape
    centre = float(sums_SC.sum() / (num_seeds * sizes_C.sum()))
    # What every clip adds, as if all had the same number of questions.
    parts_SC = (sums_SC - centre * sizes_C) * (num_clips / sizes_C.sum())
    of_seed, of_clip = parts_SC.mean(axis=1), parts_SC.mean(axis=0)
    square_clip = num_seeds * float((of_clip**2).sum()) / (num_clips - 1)
    if num_seeds == 1:
        return Mean(centre, 0.0, square_clip / num_clips, 1, num_clips)
    square_seed = num_clips * float((of_seed**2).sum()) / (num_seeds - 1)
    rest = parts_SC - of_seed[:, None] - of_clip[None, :]
    square_rest = float((rest**2).sum()) / ((num_seeds - 1) * (num_clips - 1))
    size = num_seeds * num_clips
    by_seed = max(square_seed, square_rest)
    own = max(square_clip - square_rest, 0.0)
    return Mean(centre, by_seed / size, own / size, num_seeds, num_clips)
