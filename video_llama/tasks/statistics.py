"""How sure an accuracy is: intervals for proportions, and a test for paired answers.

Plain arithmetic, no tables and no sampling, so equal counts give equal numbers everywhere.
Sources: Wilson, J. Am. Stat. Assoc. 22 (1927) 209; Newcombe, Statist. Med. 17 (1998) 857 and 873
(methods 3 and 10); McNemar's test in its exact binomial form.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

MAX_TERMS = 1000
PRECISION = 1e-14
"""Of a continued fraction: where it ends."""

NUM_STEPS = 6
"""Of Newton, from within 5 %: the error is squared by each."""


@dataclass(frozen=True)
class Estimate:
    """A proportion or a difference of proportions with its 95 % interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float

    def may_reach(self, bar: float) -> bool:
        """Say whether "at least `bar`" is compatible with the interval."""
        return self.high >= bar

    def may_stay_below(self, bar: float) -> bool:
        """Say whether "at most `bar`" is compatible with the interval."""
        return self.low <= bar


def proportion(num_correct: int, num_total: int) -> Estimate:
    """Estimate an accuracy with its Wilson score interval.

    Args:
        num_correct: successes, 0..num_total.
        num_total: trials, >= 1.

    Returns:
        The share of successes; 81 of 263 give 0.308 in [0.255, 0.366].

    Raises:
        ValueError: the counts are impossible.
    """
    if num_total < 1 or not 0 <= num_correct <= num_total:
        raise ValueError(f"{num_correct} of {num_total} is not a proportion")
    share = num_correct / num_total
    z_squared = Z_95 * Z_95
    scale = 1 + z_squared / num_total
    centre = (share + z_squared / (2 * num_total)) / scale
    spread = share * (1 - share) / num_total + z_squared / (4 * num_total * num_total)
    half = Z_95 * math.sqrt(spread) / scale
    # At 0 and 1 the ends are exact in theory and off by a rounding error in floating point.
    low = 0.0 if num_correct == 0 else max(0.0, centre - half)
    high = 1.0 if num_correct == num_total else min(1.0, centre + half)
    return Estimate(share, low, high)


def difference(first: Estimate, second: Estimate) -> Estimate:
    """Estimate `first - second` of two independent proportions (Newcombe's hybrid interval).

    On answers to the same questions it is too wide rather than too narrow, as long as the two
    are not negatively correlated.

    Args:
        first: from `proportion`.
        second: from `proportion`.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, value - below, value + above)


def paired_p_value(num_only_first: int, num_only_second: int) -> float:
    """Test whether two systems differ on the same questions (exact McNemar, two-sided).

    Args:
        num_only_first: questions that only the first system got right.
        num_only_second: questions that only the second system got right.

    Returns:
        The probability of a split at least as uneven if both were equally good, in (0, 1].
    """
    total = num_only_first + num_only_second
    smaller = min(num_only_first, num_only_second)
    tail = sum(math.comb(total, count) for count in range(smaller + 1))
    return min(1.0, float(2 * tail / 2**total))


def student_two_sided(value: float, *, degrees: float) -> float:
    """Return how often Student's t is at least as far from zero as a value.

    Args:
        value: of the statistic.
        degrees: of freedom, > 0, not necessarily whole.

    Returns:
        A probability; 2.228 at 10 degrees gives 0.050.
    """
    if math.isinf(value):
        return 0.0
    share = degrees / (degrees + value * value)
    return _incomplete_beta(share, first=degrees / 2, second=0.5)


def student_quantile(probability: float, *, degrees: float) -> float:
    """Return the value below which Student's t stays with a probability.

    Args:
        probability: 0.5..1, without its ends.
        degrees: of freedom, > 0.
    """
    beyond = 2 * (1 - probability)
    low, high = 0.0, 1.0
    while student_two_sided(high, degrees=degrees) > beyond:
        low, high = high, high * 2
    while high - low > 0.05 * high:
        middle = (low + high) / 2
        if student_two_sided(middle, degrees=degrees) > beyond:
            low = middle
        else:
            high = middle
    # From the left, where the distribution bends away, Newton's steps never pass the value.
    for _ in range(NUM_STEPS):
        low += (student_two_sided(low, degrees=degrees) - beyond) / (2 * _density(low, degrees))
    return low


def _density(value: float, degrees: float) -> float:
    """Return the density of Student's t."""
    scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
    fall = (degrees + 1) / 2 * math.log1p(value * value / degrees)
    return math.exp(scale - fall) / math.sqrt(degrees * math.pi)


def _incomplete_beta(value: float, *, first: float, second: float) -> float:
    """Return the regularised incomplete beta function (dlmf.nist.gov, 8.17.22 and 8.17.4)."""
    if value <= 0 or value >= 1:
        return min(max(value, 0.0), 1.0)
    if value > (first + 1) / (first + second + 2):
        return 1 - _incomplete_beta(1 - value, first=second, second=first)
    scale = math.lgamma(first + second) - math.lgamma(first) - math.lgamma(second)
    front = math.exp(scale + first * math.log(value) + second * math.log1p(-value)) / first
    # Lentz's way to evaluate a continued fraction from its front.
    upper, lower, product = 1.0, 0.0, 1.0
    for index in range(MAX_TERMS):
        half = index // 2
        if index == 0:
            term = 1.0
        elif index % 2:
            term = -(first + half) * (first + second + half) * value
            term /= (first + 2 * half) * (first + 2 * half + 1)
        else:
            term = half * (second - half) * value
            term /= (first + 2 * half - 1) * (first + 2 * half)
        lower = 1 / (1 + term * lower)
        upper = 1 + term / upper
        product *= upper * lower
        if index and abs(upper * lower - 1) < PRECISION:
            break
    return front * (product - 1)
