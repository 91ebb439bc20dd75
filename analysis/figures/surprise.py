"""A spectrogram with the surprise of its codes over it: where a clip sounds wrong."""

import textwrap

import numpy as np
from matplotlib.figure import Figure

from analysis.style import note_below, panels, styled
from trainable.model.geometry import Geometry

TITLE_WIDTH = 80
"""Characters of a title that fit the width of the figure."""


def surprise_map(positions_PHW: np.ndarray, starts_P: np.ndarray, n_frames: int, geometry: Geometry) -> np.ndarray:
    """Mean surprise of the patches that cover each row of the code grid and each frame, float64 (rows, frames).

    NaN where there is no patch.
    """
    total = np.zeros((positions_PHW.shape[1], n_frames))
    count = np.zeros(n_frames)
    for positions_HW, start in zip(positions_PHW, starts_P.tolist(), strict=True):
        end = min(start + geometry.patch_frames, n_frames)
        total[:, start:end] += np.repeat(positions_HW, geometry.cell_frames, axis=1)[:, : end - start]
        count[start:end] += 1
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)


@styled
def spectrogram_with_surprise(
    frames_TF: np.ndarray,
    positions_PHW: np.ndarray,
    starts_P: np.ndarray,
    *,
    geometry: Geometry,
    seconds_per_frame: float,
    title: str,
    unit: str,
    density: str = "codes",
    mel_hz: np.ndarray | None = None,
    scale: tuple[float, float] | None = None,
) -> Figure:
    """Draws the clip's spectrogram (above), and the same with the surprise of each position over it (below).

    Frames outside all patches are hatched: the model did not see them, which is not the same as no surprise.

    Parameters
    ----------
    frames_TF
        Normalised log-mel of one clip, (frames, 64).
    positions_PHW
        Surprise of each position, (patches, rows, columns).
    starts_P
        First frame of each patch.
    geometry
        Geometry of the model that computed the codes.
    unit
        Unit of surprise, such as nats.
    density
        Whose surprise it is, such as the name of a density model.
    mel_hz
        Centre of each mel bin in Hz; without it (unknown front end) the bins are numbered.
    scale
        Lowest and highest surprise of the colour scale; the clip's own range by default.
    """
    figure, (plain, marked) = panels(2, 1, (8.0, 5.2), sharex=True)
    n_frames, n_mels = frames_TF.shape
    extent = (0.0, n_frames * seconds_per_frame, 0.0, float(n_mels))
    surprise = surprise_map(positions_PHW, starts_P, n_frames, geometry)
    low, high = scale if scale is not None else (float(np.nanmin(surprise)), float(np.nanmax(surprise)))
    for axes in (plain, marked):
        image = axes.imshow(frames_TF.T, origin="lower", aspect="auto", extent=extent, cmap="gray", vmin=-2.5, vmax=3.5)
        axes.set_ylabel("mel bin" if mel_hz is None else "frequency (Hz)")
        if mel_hz is not None:
            bins = [0, *range(7, n_mels, 14)]
            axes.set_yticks([each + 0.5 for each in bins], [f"{_two_digits(mel_hz[each]):,}" for each in bins])
        axes.grid(False)
    figure.colorbar(image, ax=plain, label="level (std)")
    span = max(high - low, 1e-12)
    overlay = marked.imshow(
        surprise,
        origin="lower",
        aspect="auto",
        extent=extent,
        cmap="inferno",
        vmin=low,
        vmax=high,
        alpha=np.clip(np.nan_to_num((surprise - low) / span), 0.0, 1.0) * 0.8,
        interpolation="nearest",
    )
    figure.colorbar(overlay, ax=marked, label=f"surprise of {density}\n({unit})")
    uncovered = np.isnan(surprise[0])
    for begin, end in zip(*_edges(uncovered), strict=True):
        for axes in (plain, marked):
            where = (begin * seconds_per_frame, end * seconds_per_frame)
            axes.axvspan(*where, facecolor="#BFBFBF", edgecolor="#666666", hatch="//", alpha=0.75, linewidth=0)
    plain.set_title(textwrap.fill(title, TITLE_WIDTH))
    marked.set_xlabel("time (s)")
    if uncovered.any():
        patches = len(set(starts_P.tolist()))
        note_below(figure, f"Hatched: {uncovered.mean():.0%} of the clip lies outside its {patches} patches.")
    return figure


def _two_digits(hertz: float) -> int:
    """1234.5 → 1200: a mel bin is wider than the dropped digits."""
    return int(float(f"{hertz:.2g}"))


def _edges(mask: np.ndarray) -> tuple[list[int], list[int]]:
    """Start and end (exclusive) indices of the runs of True."""
    steps = np.diff(np.concatenate([[0], mask.astype(int), [0]]))
    return np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist()
