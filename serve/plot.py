"""A plot of quality against cost, as SVG: a point a mode, the good ones at the top left.

Written by hand, for a plotting library would be the largest thing that the command line depends on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final

WIDTH: Final = 640
HEIGHT: Final = 420
LEFT: Final = 70
RIGHT: Final = 30
TOP: Final = 56
BOTTOM: Final = 60
FONT: Final = 'font-family="sans-serif" font-size="13"'
COLOURS: Final = ("#1b6ca8", "#c8553d", "#3a7d44", "#7d4fa0", "#b08900", "#4a4e69")


def quality_against_cost(found: Mapping[str, Any]) -> str:
    """The SVG of an evaluation.

    Args:
        found: as `evaluation.evaluate` gives it, with at least one mode.
    """
    points = [(max(mode["cpu_s_per_1000"], 1e-3), mode["ndcg_at_10"], mode["mode"]) for mode in found["modes"]]
    low, high = _decades([cost for cost, _, _ in points])
    bottom, top = _range([quality for _, quality, _ in points])
    title = f"{escape(str(found['folder']))}: {found['documents']:,} documents, {found['queries']:,} queries"
    said = "; ".join(f"{name}: nDCG@10 {quality:.4f} at {cost:g} CPU s" for cost, quality, name in points)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f"<title>{title}</title>",
        f"<desc>Quality against cost of a search. {escape(said)}</desc>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="28" font-size="15">{title}</text>',
    ]
    for decade in range(low, high + 1):
        x = _x(10.0**decade, low, high)
        lines += [_line(x, TOP, x, HEIGHT - BOTTOM), _text(x, HEIGHT - BOTTOM + 20, f"{10.0**decade:g}", "middle")]
    for value in _steps(bottom, top):
        y = _y(value, bottom, top)
        lines += [_line(LEFT, y, WIDTH - RIGHT, y), _text(LEFT - 8, y + 4, f"{value:.2f}", "end")]
    lines.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, "CPU seconds per 1,000 queries", "middle"))
    lines.append(f'<text x="18" y="{HEIGHT / 2:g}" transform="rotate(-90 18 {HEIGHT / 2:g})">nDCG@10</text>')
    for number, (cost, quality, name) in enumerate(points):
        x, y = _x(cost, low, high), _y(quality, bottom, top)
        lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{COLOURS[number % len(COLOURS)]}"/>')
        # On the side where there is more room.
        left = x > WIDTH / 2
        lines.append(_text(x - 11 if left else x + 11, y + 4, name, "end" if left else "start"))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _decades(costs: Sequence[float]) -> tuple[int, int]:
    """Exponents of the powers of ten around all costs."""
    low = math.floor(math.log10(min(costs)))
    return low, max(math.ceil(math.log10(max(costs))), low + 1)


def _range(qualities: Sequence[float]) -> tuple[float, float]:
    """Bounds around all of them, on twentieths, with some air."""
    bottom = max(0.0, math.floor(20 * min(qualities) - 0.5) / 20)
    return bottom, max(min(1.0, math.ceil(20 * max(qualities) + 0.5) / 20), bottom + 0.05)


def _steps(bottom: float, top: float) -> Iterator[float]:
    count = round((top - bottom) * 20)
    stride = max(1, count // 8)
    return (bottom + number / 20 for number in range(0, count + 1, stride))


def _x(cost: float, low: int, high: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (math.log10(cost) - low) / (high - low)


def _y(quality: float, bottom: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (quality - bottom) / (top - bottom)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#d9d9d9"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
