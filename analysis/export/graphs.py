"""ONNX models of what is a network in a detector: an encoder with its quantizer, and autoregressive density models.

X patches of F = 64 mel bins and T frames, H rows and W columns of the code grid, M codebooks with K codes in all.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainable.data.frontend import N_MELS
from trainable.detection.detector import Member
from trainable.errors import ConfigError
from trainable.model.codebook import Codebook
from trainable.model.quantizer import unit_codes
from trainable.model.vqvae import VQVAE
from trainable.scoring.autoregressive import Autoregressive, CausalGrid

_ANY_ROWS: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
_FIXED: dict[int, Any] = {}
TRACED_PATCHES = 3
"""Patches of the example that the exporter traces; any number works afterwards."""


class PatchCodes(nn.Module):
    """Normalised patches → code indices. The codebook is an input, so that a file holds it once, and plainly.

    Raises
    ------
    ConfigError
        If the quantizer is not the project's own: what it does to latents is not known here.
    """

    def __init__(self, model: VQVAE):
        super().__init__()
        if type(model.codebook) is not Codebook:
            raise ConfigError(
                f"the quantizer {model.codebook.config.quantizer!r} cannot be exported; only 'ema' can: "
                "retrain with quantizer ema"
            )
        self.encoder = model.encoder
        self.project_in = model.codebook.project_in
        self.codebooks = model.codebook.config.codebooks
        self.cosine = model.codebook.config.distance == "cosine"
        self.grid = (model.geometry.rows, model.geometry.columns)

    def forward(self, patches_XFT: Tensor, codebook_KD: Tensor) -> Tensor:
        """Code indices, int64 (X, H, W, M)."""
        latents_XDHW = self.encoder(patches_XFT)
        left_ND = self.project_in(latents_XDHW.permute(0, 2, 3, 1).flatten(0, 2))
        left_ND = F.normalize(left_ND, dim=1) if self.cosine else left_ND
        size = codebook_KD.shape[0] // self.codebooks
        codes = []
        for stage in range(self.codebooks):
            codes_KD = codebook_KD[stage * size : (stage + 1) * size]
            # As `trainable.model.quantizer.nearest_codes`, for the same codes where two are equally near.
            half_norms_K = codes_KD.square().sum(dim=1) * 0.5
            nearest_N = torch.argmin(torch.addmm(half_norms_K, left_ND, codes_KD.T, alpha=-1), dim=1)
            left_ND = left_ND - codes_KD[nearest_N]
            codes.append(nearest_N + stage * size)
        return torch.stack(codes, dim=1).unflatten(0, (-1, *self.grid))


def quantizer_codebook(member: Member) -> Tensor:
    """The codes as the quantizer compares them, float32 (K, D)."""
    codebook = member.state.model.codebook
    codes_KD = codebook.codebook_KD.detach().cpu()
    return unit_codes(codes_KD, codebook.config.codebooks) if codebook.config.distance == "cosine" else codes_KD


def codes_model(member: Member) -> bytes:
    """ONNX model with inputs ``patches`` (X, 64, T) and ``codebook`` (K, D) and the output ``codes`` (X, H, W, M).

    Raises ConfigError if the model or its quantizer has no such form.
    """
    network = PatchCodes(member.state.model).cpu().eval()
    patches = torch.zeros(TRACED_PATCHES, N_MELS, member.state.geometry.patch_frames)
    example = (patches, quantizer_codebook(member))
    try:
        return _onnx(network, example, (_ANY_ROWS, _FIXED), ("patches", "codebook"), "codes")
    except torch.onnx.OnnxExporterError as error:
        name, reason = member.config.model.model, (str(error).splitlines() or [""])[0]
        raise ConfigError(f"the model {name!r} cannot be written as ONNX: {reason}") from None


class _Surprise(nn.Module):
    """A causal network whose weights are inputs: machine ids share one model."""

    def __init__(self, grid: CausalGrid, names: Sequence[str]):
        super().__init__()
        self.grid, self.names = grid, tuple(names)

    def forward(self, codes_XHWM: Tensor, *weights: Tensor) -> Tensor:
        """Surprise of each position, (X, H, W)."""
        state = dict(zip(self.names, weights, strict=True))
        log_probabilities: Tensor = torch.func.functional_call(self.grid, state, (codes_XHWM,))
        return -log_probabilities.gather(-1, codes_XHWM).sum(dim=-1)


def surprise_model(density: Autoregressive, rows: int, columns: int) -> bytes:
    """ONNX model with the inputs ``codes`` (X, H, W, M) and a group's weights by their names, and one output."""
    state = next(iter(density.groups.values()))
    grid = CausalGrid(density.codebook_KD, rows, density.codebooks).eval()
    codes = torch.zeros(TRACED_PATCHES, rows, columns, density.codebooks, dtype=torch.int64)
    shapes = (_ANY_ROWS, (_FIXED,) * len(state))
    return _onnx(_Surprise(grid, list(state)), (codes, *state.values()), shapes, ("codes", *state), "surprise")


def _onnx(
    network: nn.Module, example: tuple[Tensor, ...], shapes: tuple[Any, ...], names: Sequence[str], output: str
) -> bytes:
    """An ONNX model of named inputs, without traces of where it was made."""
    with _silent(), torch.no_grad():
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(names),
            output_names=[output],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    # The exporter notes file names and lines of the code beside every node.
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info, model.graph):
        del part.metadata_props[:]
    return bytes(model.SerializeToString())


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's notes on packages that it does without and on its own deprecated parts."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
