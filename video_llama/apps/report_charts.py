"""Learning curves as small SVG drawings that take their colours and text from the page.

No plotting library: the page is read in light and dark, on a phone and on paper, so its style
sheet must reach into the drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 240
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 34
NUM_TICKS = 5


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: shown in the legend.
        points: (x, y), x non-decreasing; points that are not finite are left out.
        style: CSS class suffix that gives the colour: train, valid, another-1 .. another-4,
            run-1 .. run-8.
        dots: mark every point.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: str
    dots: bool = False


@dataclass(frozen=True)
class Scale:
    """Maps numbers to drawing units."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, *, num: int = NUM_TICKS) -> list[float]:
    """Return round numbers that span a range: steps of 1, 2 or 5 times a power of ten.

    Args:
        low: smallest value to be covered.
        high: largest value to be covered.
        num: about so many steps.

    Returns:
        Increasing numbers; the first is at most `low`, the last at least `high`.
    """
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / num))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= num)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def line_chart(
    series: Sequence[Series], *, x_label: str, y_label: str, starts_at_zero: bool = True
) -> str:
    """Draw curves over a common axis.

    Args:
        series: at least one finite point among them, else an empty text is returned.
        x_label: below the axis.
        y_label: read out to those who cannot see the drawing.
        starts_at_zero: whether 0 is on the axis; else it spans the values.

    Returns:
        An `<svg>` element.
    """
    finite = [
        Series(s.name, [p for p in s.points if math.isfinite(p[1])], s.style, s.dots)
        for s in series
    ]
    points = [point for s in finite for point in s.points]
    if not points:
        return ""
    x_ticks = ticks(0.0, max(x for x, _ in points))
    values = [y for _, y in points]
    low = min(0.0, *values) if starts_at_zero else min(values)
    y_ticks = ticks(low, _usual_maximum(values))
    x_scale = Scale(x_ticks[0], max(x for x, _ in points) or 1.0, LEFT, WIDTH - RIGHT)
    y_scale = Scale(y_ticks[0], y_ticks[-1], HEIGHT - BOTTOM, TOP)
    return "".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(y_label)}">',
            *_axes(x_ticks, y_ticks, x_scale, y_scale),
            f'<text class="label" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" '
            f'text-anchor="middle">{escape(x_label)}</text>',
            *(_curve(s, x_scale, y_scale) for s in finite if s.points),
            "</svg>",
        ]
    )


def _usual_maximum(values: Sequence[float]) -> float:
    """Return the top of the axis: the first few losses of a run may tower over all the rest."""
    ordered = sorted(values)
    usual = ordered[math.ceil(0.97 * (len(ordered) - 1))]
    return ordered[-1] if ordered[-1] <= 1.5 * usual else usual


def _axes(
    x_ticks: Sequence[float], y_ticks: Sequence[float], x_scale: Scale, y_scale: Scale
) -> list[str]:
    """Draw grid lines and numbers."""
    parts = []
    for value in y_ticks:
        y = f"{y_scale(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<text x="{LEFT - 7}" y="{y}" dy="0.34em" text-anchor="end">{_short(value)}</text>'
        )
    for value in x_ticks:
        if value <= x_scale.high:
            parts.append(
                f'<text x="{x_scale(value):.1f}" y="{HEIGHT - BOTTOM + 15}" '
                f'text-anchor="middle">{_short(value)}</text>'
            )
    return parts


def _short(value: float) -> str:
    """Write a number for an axis: 2000 is 2k, 0.0001 is 1e-4."""
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    if 0 < abs(value) < 0.001:
        mantissa, _, power = f"{value:e}".partition("e")
        return f"{float(mantissa):g}e{int(power)}"
    return f"{value:g}"


def _curve(series: Series, x_scale: Scale, y_scale: Scale) -> str:
    """Draw one curve; what lies above the axis is drawn at its top."""
    top = y_scale.high
    places = [(x_scale(x), y_scale(min(y, top))) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = (
        f'<polyline class="curve {series.style}" points="{path}">'
        f"<title>{escape(series.name)}</title></polyline>"
    )
    if series.dots:
        drawn += "".join(
            f'<circle class="dot {series.style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
            for x, y in places
        )
    return drawn
