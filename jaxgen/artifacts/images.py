"""Pictures as an artifact: a grid, and a grid in motion."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Shaped
from PIL import Image


@dataclass(frozen=True)
class Images:
    """Pictures in [0, 1], and, where a sampler kept it, the path that led to or through them.

    pixels: (count, height, width, channels), one or three channels.
    columns: pictures in a row of the grid.
    frames: (frames, moving, height, width, channels) or None; saved as a GIF, in as many columns.
    enlarge: each pixel becomes a square this wide, so that 8×8 pictures can be seen.
    """

    pixels: Shaped[np.ndarray, "count height width channels"]
    columns: int = 10
    frames: Shaped[np.ndarray, "frames moving height width channels"] | None = None
    enlarge: int = 1

    @staticmethod
    def of_signed(pixels: Any, columns: int = 10, frames: Any = None, enlarge: int = 1) -> Images:
        """The same of pictures in [-1, 1], as models make them; what lies outside is clipped."""

        def displayed(signed: Any) -> np.ndarray:
            return np.clip((np.asarray(signed, np.float32) + 1) / 2, 0, 1)

        kept = None if frames is None else displayed(frames)
        return Images(displayed(pixels), columns=columns, frames=kept, enlarge=enlarge)

    def save(self, stem: epath.PathLike) -> list[epath.Path]:
        """The grid as `.png`; with frames, their grid in motion as `.gif`."""
        png = epath.Path(f"{stem}.png")
        png.parent.mkdir(parents=True, exist_ok=True)
        png.write_bytes(_encoded(_picture(self.pixels, self.columns, self.enlarge), "PNG"))
        if self.frames is None:
            return [png]
        first, *rest = [_picture(frame, self.columns, self.enlarge) for frame in self.frames]
        buffer = io.BytesIO()
        # The last frame stays for a second, so that the result can be looked at.
        durations = [80] * len(rest) + [1000]
        first.save(buffer, "GIF", save_all=True, append_images=rest, duration=durations, loop=0)
        gif = epath.Path(f"{stem}.gif")
        gif.write_bytes(buffer.getvalue())
        return [png, gif]

    def show(self) -> str:
        """What there is; a terminal shows no pictures."""
        count, height, width, _ = self.pixels.shape
        return f"{count} pictures of {height}×{width}"


def grid(
    pixels: Shaped[np.ndarray, "count height width channels"], columns: int, gap: int = 1
) -> np.ndarray:
    """Lays pictures out row by row: (rows·(height+gap)+gap, columns·(width+gap)+gap, channels).

    Cells that no picture fills stay black; the gap is mid-grey.
    """
    count, height, width, channels = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    cells = np.zeros((rows * columns, height, width, channels), np.float32)
    cells[:count] = pixels
    framed = np.full((rows, columns, height + gap, width + gap, channels), 0.5, np.float32)
    framed[:, :, gap:, gap:] = cells.reshape(rows, columns, height, width, channels)
    sheet = framed.transpose(0, 2, 1, 3, 4).reshape(
        rows * (height + gap), columns * (width + gap), channels
    )
    return np.pad(sheet, ((0, gap), (0, gap), (0, 0)), constant_values=0.5)


def _picture(pixels: np.ndarray, columns: int, enlarge: int) -> Image.Image:
    levels = np.clip(grid(np.asarray(pixels, np.float32), columns) * 255 + 0.5, 0, 255)
    sheet = levels.astype(np.uint8).repeat(enlarge, 0).repeat(enlarge, 1)
    return Image.fromarray(sheet[..., 0] if sheet.shape[-1] == 1 else sheet)


def _encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()
