"""Nearest-neighbour models: how far a clip's codes lie from those of the nearest normal clips.

All of them divide a distance by a power of the radius of the neighbour it leads to (see `local_radii`).
"""

from typing import ClassVar

import torch
from torch import Tensor

from trainable.config import DensityName, ScoreConfig
from trainable.model.quantizer import code_vectors
from trainable.scoring.density import DensityModel, GroupState, PositionModel
from trainable.scoring.distances import (
    chunk_length,
    code_kernels,
    floored,
    local_radii,
    nearest_in_radii,
    reduced_codebook,
    squared_distances,
)

NEIGHBOURS = 4
"""Nearest neighbours averaged; 1 is noisier (on four sets of trained codes, 3 to 5 gave the same results)."""
EMBEDDING_WIDTH = 8
"""Principal axes of the codebook that distances between grids use; 16 measured no better at twice the cost."""
MOST_PATCHES = 4096
"""Training patches kept of a group, evenly thinned (by whole clips where those are compared): bounds time and memory
where thousands of clips are normal."""
REFERENCE_CLIPS = 256
"""Clips against which the radius of every training clip is measured: keeps fitting linear in the clips."""


def thinned(count: int, most: int) -> Tensor:
    """At most `most` of `count` indices, evenly spread."""
    return torch.arange(min(count, most)) * count // min(count, most)


def _units(radii_N: Tensor, config: ScoreConfig) -> Tensor:
    """What distances to normal neighbours are divided by: radius^p. At p = 1 a few normal clips of large radius excuse
    whatever lies near them; at p = 0 loud and varied states are as suspicious as faults."""
    return floored(radii_N) ** config.radius_power


class HistogramNeighbours(DensityModel):
    """Hellinger distance between code histograms per frequency row, each code shared with codes nearby.

    Hellinger's distance does not overrate frequent codes; sharing makes codes of similar sounds similar.
    """

    name: ClassVar[DensityName] = "histogram_neighbours"
    cheap: ClassVar[bool] = True

    def prepare(self) -> None:
        self.kernel_MKL = code_kernels(self.codebook_KD, self.codebooks, seed=self.seed)

    def _histograms(self, codes_BPHWM: Tensor) -> Tensor:
        """Square roots of the shared histograms of all rows and codebooks, float32 (B, M · H · L)."""
        codebooks, per_codebook, width = self.kernel_MKL.shape
        n_rows = codes_BPHWM.shape[2]
        result = torch.empty(len(codes_BPHWM), codebooks, n_rows * width)
        length = chunk_length(4 * n_rows * per_codebook)
        for stage, kernel_KL in enumerate(self.kernel_MKL):
            for begin in range(0, len(codes_BPHWM), length):
                mine = codes_BPHWM[begin : begin + length, ..., stage] - stage * per_codebook
                codes = mine.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
                counts = torch.zeros(len(codes), per_codebook)
                counts.scatter_add_(1, codes, torch.ones(1, 1).expand(codes.shape))
                shared = (counts @ kernel_KL) / codes.shape[1]
                result[begin : begin + length, stage] = shared.view(-1, n_rows * width)
        return result.flatten(1).sqrt_()

    def fit_group(self, codes_BPHWM: Tensor) -> GroupState:
        histograms = self._histograms(codes_BPHWM)
        chosen = thinned(len(histograms), REFERENCE_CLIPS)
        same = torch.arange(len(histograms))[:, None] == chosen
        radii = local_radii(squared_distances(histograms, histograms[chosen]), same)
        return {"histograms": histograms, "radii": _units(radii, self.config)}

    def clip_scores(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        known, radii = state["histograms"], state["radii"]
        return torch.cat(
            [
                nearest_in_radii(squared_distances(chunk, known), radii, NEIGHBOURS)[0].mean(dim=1)
                for chunk in self._histograms(codes_BPHWM).split(chunk_length(4 * len(known)))
            ]
        )


class _GridModel(PositionModel):
    """Base of models that compare code grids position by position: squared distances, mean over positions."""

    unit: ClassVar[str] = "radii of normal neighbours"

    def prepare(self) -> None:
        self.embedding_KD = reduced_codebook(self.codebook_KD, EMBEDDING_WIDTH, self.codebooks)

    def _vectors(self, codes_XHWM: Tensor) -> Tensor:
        """(X, H · W · D); ‖a − b‖² of two is the mean over positions of their vectors' squared distance."""
        positions = codes_XHWM.shape[1] * codes_XHWM.shape[2]
        return code_vectors(codes_XHWM.long(), self.embedding_KD / positions**0.5).flatten(1)

    def _positions(self, asked: Tensor, known: Tensor) -> Tensor:
        """Squared distance of each position's vectors, (…, H, W), of codes (…, H, W, M)."""
        gaps = code_vectors(asked.long(), self.embedding_KD) - code_vectors(known.long(), self.embedding_KD)
        return gaps.square_().sum(dim=-1)


class GridNeighbours(_GridModel):
    """The nearest training patches, compared position by position by the distance between codebook vectors.

    Any patch of the group may be the nearest: a clip of a running machine has no beginning.
    """

    name: ClassVar[DensityName] = "grid_neighbours"
    cheap: ClassVar[bool] = True
    kept_codes = "patches"

    def fit_group(self, codes_BPHWM: Tensor) -> GroupState:
        n_clips, n_patches = codes_BPHWM.shape[:2]
        owners = torch.arange(n_clips).repeat_interleave(n_patches)
        flat = codes_BPHWM.flatten(0, 1)
        # Patches that a short clip repeats would fill up the neighbours of each of them.
        repeated = (codes_BPHWM[:, 1:] == codes_BPHWM[:, :-1]).flatten(2).all(dim=2)
        kept = torch.cat([torch.ones(n_clips, 1, dtype=torch.bool), ~repeated], dim=1).flatten().nonzero()[:, 0]
        kept = kept[thinned(len(kept), MOST_PATCHES)]
        patches, owners = flat[kept], owners[kept]
        vectors = self._vectors(patches)
        radii = [
            local_radii(squared_distances(chunk, vectors), own[:, None] == owners)
            for chunk, own in zip(
                vectors.split(chunk_length(4 * len(vectors))), owners.split(chunk_length(4 * len(vectors))), strict=True
            )
        ]
        return {"patches": patches.to(torch.int32), "radii": _units(torch.cat(radii), self.config)}

    def _nearest(self, state: GroupState, asked_XHWM: Tensor) -> tuple[Tensor, Tensor]:
        known = self._vectors(state["patches"])
        found = [
            nearest_in_radii(squared_distances(self._vectors(chunk), known), state["radii"], NEIGHBOURS)
            for chunk in asked_XHWM.split(chunk_length(4 * (len(known) + known.shape[1])))
        ]
        return torch.cat([scores for scores, _ in found]), torch.cat([indices for _, indices in found])

    def clip_scores(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        if self.config.aggregation != "mean":
            return super().clip_scores(state, codes_BPHWM)
        scores, _ = self._nearest(state, codes_BPHWM.flatten(0, 1))
        return scores.view(len(codes_BPHWM), -1).mean(dim=1)

    def positions(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        asked = codes_BPHWM.flatten(0, 1)
        _, nearest = self._nearest(state, asked)
        length = chunk_length(3 * 4 * self.embedding_KD.shape[1] * asked[0].numel())
        parts = zip(asked.split(length), nearest.split(length), strict=True)
        surprise = [self._surprise(state, chunk, neighbours) for chunk, neighbours in parts]
        return torch.cat(surprise).view(codes_BPHWM.shape[:-1])

    def _surprise(self, state: GroupState, asked_XHWM: Tensor, nearest_XN: Tensor) -> Tensor:
        """The mean over positions of distances in radii is the distance of the grids in radii."""
        total = torch.zeros(asked_XHWM.shape[:-1])
        for neighbour in nearest_XN.unbind(dim=1):
            total += self._positions(asked_XHWM, state["patches"][neighbour]) / state["radii"][neighbour, None, None]
        return total / nearest_XN.shape[1]


class ShiftedNeighbours(_GridModel):
    """The nearest training clips, compared patch by patch, where a patch may lie up to an eighth of a clip elsewhere.

    The distance of two clips is the larger of both directions: each patch of one to its nearest in the other
    (Hausdorff's distance, with means for maxima), so a clip that lacks what the other has is not near either.
    """

    name: ClassVar[DensityName] = "shifted_neighbours"
    kept_codes = "clips"

    def _shifts(self, n_patches: int) -> range:
        most = min(n_patches - 1, max(1, n_patches // 8))
        return range(-most, most + 1)

    def _patches(self, codes_BPHWM: Tensor) -> Tensor:
        """(P, B, H · W · D)"""
        vectors = self._vectors(codes_BPHWM.transpose(0, 1).flatten(0, 1))
        return vectors.view(codes_BPHWM.shape[1], len(codes_BPHWM), -1)

    def _distances(self, asked_PMF: Tensor, known_PNF: Tensor) -> Tensor:
        """Distance (M, N) of all pairs of clips."""
        n_patches, n_asked, _ = asked_PMF.shape
        there = torch.full((n_patches, n_asked, known_PNF.shape[1]), float("inf"))
        back = there.clone()
        norms_asked, norms_known = asked_PMF.square().sum(2), known_PNF.square().sum(2)
        for shift in self._shifts(n_patches):
            mine = slice(max(0, -shift), n_patches - max(0, shift))
            other = slice(max(0, shift), n_patches - max(0, -shift))
            squared = torch.baddbmm(
                norms_known[other, None, :], asked_PMF[mine], known_PNF[other].transpose(1, 2), alpha=-2
            ).add_(norms_asked[mine, :, None])
            torch.minimum(there[mine], squared, out=there[mine])
            torch.minimum(back[other], squared, out=back[other])
        larger: Tensor = torch.maximum(there.mean(dim=0), back.mean(dim=0))
        return larger.clamp_min(0)

    def _chunk(self, n_patches: int, n_known: int) -> int:
        # `there`, `back` and `squared` exist at once.
        return chunk_length(3 * 4 * n_patches * n_known)

    def fit_group(self, codes_BPHWM: Tensor) -> GroupState:
        codes_BPHWM = codes_BPHWM[thinned(len(codes_BPHWM), max(1, MOST_PATCHES // codes_BPHWM.shape[1]))]
        n_clips, n_patches = codes_BPHWM.shape[:2]
        chosen = thinned(n_clips, REFERENCE_CLIPS)
        reference = self._patches(codes_BPHWM[chosen])
        length = self._chunk(n_patches, len(chosen))
        radii = [
            local_radii(self._distances(self._patches(codes_BPHWM[members]), reference), members[:, None] == chosen)
            for members in torch.arange(n_clips).split(length)
        ]
        return {"clips": codes_BPHWM.to(torch.int32), "radii": _units(torch.cat(radii), self.config)}

    def _nearest(self, state: GroupState, codes_BPHWM: Tensor) -> tuple[Tensor, Tensor]:
        if codes_BPHWM.shape[1] != state["clips"].shape[1]:
            raise ValueError(f"clips of {codes_BPHWM.shape[1]} patches against {state['clips'].shape[1]} in training")
        known = self._patches(state["clips"])
        found = [
            nearest_in_radii(self._distances(self._patches(chunk), known), state["radii"], NEIGHBOURS)
            for chunk in codes_BPHWM.split(self._chunk(*known.shape[:2]))
        ]
        return torch.cat([scores for scores, _ in found]), torch.cat([indices for _, indices in found])

    def clip_scores(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        if self.config.aggregation != "mean":
            return super().clip_scores(state, codes_BPHWM)
        return self._nearest(state, codes_BPHWM)[0].mean(dim=1)

    def positions(self, state: GroupState, codes_BPHWM: Tensor) -> Tensor:
        scores, nearest = self._nearest(state, codes_BPHWM)
        total = torch.zeros(codes_BPHWM.shape[:-1])
        for score, neighbour in zip(scores.unbind(dim=1), nearest.unbind(dim=1), strict=True):
            matched = self._matched(codes_BPHWM, state["clips"][neighbour])
            means = matched.mean(dim=(1, 2, 3))
            # What the other clip has and this one lacks lies at no position of this one: all positions share it.
            total += matched / state["radii"][neighbour, None, None, None]
            total += (score - means / state["radii"][neighbour])[:, None, None, None]
        return total / nearest.shape[1]

    def _matched(self, codes_BPHWM: Tensor, known_BPHWM: Tensor) -> Tensor:
        """Squared distance at each position of each patch to the patch of the other clip that it is nearest to."""
        n_patches = codes_BPHWM.shape[1]
        best = torch.full(codes_BPHWM.shape[:2], float("inf"))
        result = torch.empty(codes_BPHWM.shape[:-1])
        for shift in self._shifts(n_patches):
            mine = slice(max(0, -shift), n_patches - max(0, shift))
            other = slice(max(0, shift), n_patches - max(0, -shift))
            positions = self._positions(codes_BPHWM[:, mine], known_BPHWM[:, other])
            means = positions.mean(dim=(2, 3))
            better = means < best[:, mine]
            result[:, mine] = torch.where(better[:, :, None, None], positions, result[:, mine])
            best[:, mine] = torch.minimum(best[:, mine], means)
        return result
