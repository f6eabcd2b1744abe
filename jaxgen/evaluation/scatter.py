"""Points of the plane as a picture: ink where they lie, rings where they should."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from jaxgen.evaluation.modes import placed_modes

PAPER, INK, RING = (255, 255, 255), (16, 42, 96), (238, 196, 176)


def scatter(
    points: Float[np.ndarray, "count 2"],
    centres: Float[np.ndarray, "modes 2"],
    radius: float,
    title: str,
    size: int = 320,
) -> Float[np.ndarray, "height width 3"]:
    """One panel in [0, 1]: `title` above a square that holds all centres, the second axis upwards.

    The square is centred on 0 and reaches a fifth farther than the farthest coordinate of a centre.

    radius: of the ring about each centre, in the units of the points.
    size: pixels of the square; the title takes an eighth of it on top.
    """
    reach = 1.2 * float(np.abs(centres).max())
    fine = 2 * size  # drawn twice as large, so that edges come out smooth
    top = fine // 8
    picture = Image.new("RGB", (fine, fine + top), PAPER)
    pen = ImageDraw.Draw(picture, "RGBA")

    def disc(place: np.ndarray, spread: float, fill: tuple[int, ...]) -> None:
        x = (place[0] / reach + 1) / 2 * fine
        y = (1 - place[1] / reach) / 2 * fine + top
        pen.ellipse((x - spread, y - spread, x + spread, y + spread), fill=fill)

    for centre in centres:
        disc(centre, max(radius / reach / 2 * fine, 5.0), RING)
    for point in points[np.abs(points).max(1, initial=0) <= reach]:
        disc(point, fine / 260, (*INK, 90))
    pen.rectangle((0, 0, fine, top), fill=PAPER)
    font = ImageFont.load_default(size=fine / 20)
    pen.text((fine / 2, top / 2), title, fill=INK, font=font, anchor="mm")
    small = picture.resize((size, size + size // 8), Image.Resampling.LANCZOS)
    return np.asarray(small, np.float32) / 255


def mode_panels(
    points: Mapping[str, Float[np.ndarray, "count 2"]],
    centres: Float[np.ndarray, "modes 2"],
    deviation: float,
) -> Float[np.ndarray, "panels height width 3"]:
    """A panel for each set of points: its name, the modes it has and its share of good points.

    deviation: of every mode; the discs show the three within which a point is good.
    """
    panels = []
    for name, some in points.items():
        found = placed_modes(np.asarray(some), centres, deviation)
        title = f"{name.replace('_', ' ')}: {found.hit} modes, {found.good:.0%} good"
        panels.append(scatter(np.asarray(some), centres, 3 * deviation, title))
    return np.stack(panels)
