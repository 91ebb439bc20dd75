"""Training clips per second against a straightforward implementation of the same model, in the same run.

    python -m benchmarks.throughput --output benchmarks/results/throughput.csv

The straightforward one has the same encoder, decoder, heads, losses, batch size and number of patches, written in the
usual way: a Dataset that copies each patch of a clip and transforms them one by one in NumPy, torch's DataLoader, all
N × K distances and a one-hot matrix in each codebook, EMA sums as products with it, each layer by itself, tensors in
torch's default layout and its default AdamW. Both train in phase 2 (full loss, heads on, codebook learning). Epochs of
both alternate, and the fastest of each counts, so that other load on the machine disturbs both equally. The loader also
runs with a worker process; `ratio` is ours divided by the faster of its two forms.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.tables import command_of, write_table
from trainable.commandline import Parser, add_flag, run
from trainable.config import QuantizerConfig, TrialConfig
from trainable.data.clips import Split, TrainClips
from trainable.execution_plan import ExecutionPlan
from trainable.model.architecture import segments_of
from trainable.model.geometry import Geometry
from trainable.model.heads import clip_latents
from trainable.model.transforms import TRANSFORMS
from trainable.model.vqvae import VQVAE, make_model
from trainable.training.batch import VIEW_SHARE
from trainable.training.trainer import Trainer

CPU = torch.device("cpu")
FRAMES, IDS, PATCH = 313, ("00", "02", "04", "06"), Geometry().patch_frames
CASES: dict[str, dict[str, Any]] = {
    "standard": {},
    "ad_tuning's middle": {
        "width": 0.5,
        "latent_dim": 32,
        "num_embeddings": 128,
        "codebooks": 4,
        "columns": 16,
        "linear_path": True,
        "batch_size": 4,
        "n_patches": 4,
        "id_weight": 0.0,
    },
    "many codes": {"num_embeddings": 2048},
}
"""Knobs that differ from `TrialConfig`'s defaults."""


def noise_clips(count: int) -> TrainClips:
    rng = np.random.default_rng(0)
    return TrainClips(
        rng.standard_normal((count * FRAMES, PATCH), dtype=np.float32),
        np.arange(count + 1, dtype=np.int64) * FRAMES,
        tuple(IDS[index % len(IDS)] for index in range(count)),
        tuple(f"normal_id_{IDS[index % len(IDS)]}_{index:08d}.wav" for index in range(count)),
        Split.TRAIN,
    )


class Patches(Dataset[tuple[Any, ...]]):
    """Copies a clip's patches, and adds a transformed copy of a quarter of them."""

    def __init__(self, config: TrialConfig, clips: TrainClips):
        self._config = config
        self._clips = [np.array(clip.T) for clip in np.split(clips.frames_TF, clips.offsets[1:-1])]
        self._labels = [IDS.index(machine_id) for machine_id in clips.machine_ids]

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        clip, patch = self._clips[index], self._config.patch
        windows = (clip.shape[1] - PATCH) // patch.stride + 1
        columns = np.random.choice(windows, patch.n_patches, replace=windows < patch.n_patches)
        patches = np.stack([clip[:, column * patch.stride :][:, :PATCH].copy() for column in np.sort(columns)])
        label = np.random.randint(len(TRANSFORMS))
        chosen = np.random.permutation(patch.n_patches)[: -(-patch.n_patches // VIEW_SHARE)]
        views = np.stack([transformed(patches[view], TRANSFORMS[label]) for view in chosen])
        return patches, views, self._labels[index], label


def transformed(patch: np.ndarray, name: str) -> np.ndarray:
    """Applies one of the heads' nine transformations to one patch."""
    out = patch.copy()
    if name == "time_reversal":
        return out[:, ::-1].copy()
    if name == "frequency_shift":
        shift = np.random.randint(6, 17) * np.random.choice([-1, 1])
        return out[np.clip(np.arange(PATCH) + shift, 0, PATCH - 1)]
    if name == "time_shift":
        return np.roll(out, -np.random.randint(16, 49), axis=1)
    if name in ("frequency_mask", "time_mask"):
        width = np.random.randint(8, 21)
        begin = np.random.randint(0, PATCH - width)
        if name == "frequency_mask":
            out[begin : begin + width] = 0
        else:
            out[:, begin : begin + width] = 0
    if name == "gain":
        out += np.float32(np.random.uniform(0.75, 2.0) * np.random.choice([-1, 1]))
    if name == "noise":
        out += np.float32(np.random.uniform(0.5, 1.0)) * np.random.standard_normal(out.shape).astype(np.float32)
    if name == "speed":
        speed = np.random.uniform(1.25, 1.6) if np.random.rand() < 0.5 else np.random.uniform(0.6, 0.8)
        return out[:, (np.arange(PATCH) * speed).astype(int) % PATCH]
    return out


class Straightforward:
    """The usual training loop."""

    def __init__(self, config: TrialConfig, clips: TrainClips, workers: int, device: torch.device = CPU):
        self._config, self._device = config, device
        self._model = layer_by_layer(make_model(config, len(IDS))).to(device)
        codes, width = config.quantizer.num_embeddings, config.model.latent_dim
        self._codebooks = [Ema.random(codes, width, device) for _ in range(config.quantizer.codebooks)]
        optim = config.optim
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=optim.learning_rate, weight_decay=optim.weight_decay
        )
        self._loader = DataLoader(
            Patches(config, clips),
            batch_size=config.patch.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )

    def train_epoch(self) -> None:
        for batch in self._loader:
            self._step(*(each.to(self._device, non_blocking=True) for each in batch))

    def _step(self, patches_BPFT: Tensor, views_BVFT: Tensor, id_labels_B: Tensor, labels_B: Tensor) -> None:
        model, weights = self._model, self._config.loss
        patches_XFT = patches_BPFT.flatten(0, 1)
        latents = model.encoder(patches_XFT)
        quantized, commitment = self._quantize(latents)
        reconstruction = F.mse_loss(model.decoder(quantized), patches_XFT)
        id_logits = model.heads.machine_id(clip_latents(latents, patches_BPFT.shape[1]))
        views = model.encoder(views_BVFT.flatten(0, 1))
        transform_logits = model.heads.transform(clip_latents(views, views_BVFT.shape[1]))
        loss = (
            reconstruction
            + weights.commitment_cost * commitment
            + weights.id_weight * F.cross_entropy(id_logits, id_labels_B)
            + weights.transform_weight * F.cross_entropy(transform_logits, labels_B)
        )
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), self._config.optim.gradient_clip)
        self._optimizer.step()
        loss.item()  # as for a progress bar

    def _quantize(self, latents_XDHW: Tensor) -> tuple[Tensor, Tensor]:
        """The quantizer of van den Oord et al. (2017) as in most repositories, with EMA and revival of dead codes.

        Further codebooks quantize what is left over.
        """
        grid = latents_XDHW.permute(0, 2, 3, 1).contiguous()
        left_ND = grid.view(-1, grid.shape[-1])
        chosen_ND = torch.zeros_like(left_ND)
        for codebook in self._codebooks:
            codes_ND = codebook.nearest(left_ND.detach(), self._config.quantizer)
            chosen_ND, left_ND = chosen_ND + codes_ND, left_ND - codes_ND
        chosen = chosen_ND.view(grid.shape)
        commitment = F.mse_loss(grid, chosen)
        return (grid + (chosen - grid).detach()).permute(0, 3, 1, 2), commitment


@dataclass
class Ema:
    """One codebook: its codes, and the moving averages that they come from."""

    codebook_KD: Tensor
    counts_K: Tensor
    sums_KD: Tensor

    @classmethod
    def random(cls, codes: int, width: int, device: torch.device) -> "Ema":
        codebook_KD = torch.randn(codes, width, device=device)
        return cls(codebook_KD, torch.ones(codes, device=device), codebook_KD.clone())

    @torch.no_grad()
    def nearest(self, rows_ND: Tensor, settings: QuantizerConfig) -> Tensor:
        """Each row's code, (N, D), before the codebook learns from it."""
        distances_NK = (
            rows_ND.pow(2).sum(1, keepdim=True) + self.codebook_KD.pow(2).sum(1) - 2 * rows_ND @ self.codebook_KD.T
        )
        codes_N1 = distances_NK.argmin(1, keepdim=True)
        one_hot_NK = rows_ND.new_zeros(rows_ND.shape[0], settings.num_embeddings).scatter_(1, codes_N1, 1)
        chosen_ND = one_hot_NK @ self.codebook_KD
        decay = settings.ema_decay
        self.counts_K = self.counts_K * decay + (1 - decay) * one_hot_NK.sum(0)
        self.sums_KD = self.sums_KD * decay + (1 - decay) * one_hot_NK.T @ rows_ND
        codes_KD = self.sums_KD / (self.counts_K + 1e-5)[:, None]
        dead_K1 = (self.counts_K < settings.dead_threshold * self.counts_K.mean())[:, None]
        revived = torch.randint(len(rows_ND), (len(codes_KD),), device=rows_ND.device)
        self.codebook_KD = torch.where(dead_K1, rows_ND[revived], codes_KD)
        return chosen_ND


def layer_by_layer(model: VQVAE) -> VQVAE:
    """The model without what it does at once where it could (`trainable.model.layers.Layers`)."""
    for part in (model.encoder, model.decoder):
        part.segments = nn.ModuleList(nn.Sequential(*segment) for segment in segments_of(part))  # type: ignore[misc]
    return model


class Ours:
    """Our trainer, in phase 2 from its first epoch."""

    def __init__(self, config: TrialConfig, clips: TrainClips, device: torch.device = CPU):
        plan = ExecutionPlan(micro_batch_clips=config.patch.batch_size)
        self._trainer = Trainer(config, clips, IDS, plan=plan, device=device)

    def train_epoch(self) -> None:
        losses = self._trainer.train_epoch()
        assert losses.phase.phase == 2


def seconds_of(contenders: dict[str, Any], epochs: int) -> dict[str, float]:
    """Seconds of each one's fastest epoch; a first epoch, in which libraries set themselves up, is not counted."""
    for contender in contenders.values():
        contender.train_epoch()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(epochs):
        for name, contender in contenders.items():
            begin = time.perf_counter()
            contender.train_epoch()  # ends with a loss on the host, so a GPU has finished too
            seconds[name].append(time.perf_counter() - begin)
    return {name: min(times) for name, times in seconds.items()}


def rows_of(n_clips: int, epochs: int, threads: int) -> Iterator[dict[str, Any]]:
    """One row of the table per case."""
    torch.set_num_threads(threads)
    clips = noise_clips(n_clips)
    for name, knobs in CASES.items():
        config = TrialConfig.from_flat({"epochs": 1_000, "vq_only_share": 0.0, "frozen_share": 0.0} | knobs)
        contenders = {
            "ours": Ours(config, clips),
            "straightforward": Straightforward(config, clips, workers=0),
            "straightforward, 1 worker process": Straightforward(config, clips, workers=1),
        }
        rates = {contender: n_clips / seconds for contender, seconds in seconds_of(contenders, epochs).items()}
        fastest = max(rate for contender, rate in rates.items() if contender != "ours")
        yield {
            "case": name,
            **{column: getattr(config.patch, column) for column in ("batch_size", "n_patches")},
            **{column: getattr(config.model, column) for column in ("width", "latent_dim", "columns")},
            **{column: getattr(config.quantizer, column) for column in ("codebooks", "num_embeddings")},
            **{f"{contender} clips/s": round(rate, 1) for contender, rate in rates.items()},
            "ratio": round(rates["ours"] / fastest, 2),
        }


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.throughput", description=__doc__.split("\n")[0])
    add_flag(parser, "clips", type=int, default=256, metavar="N", help=f"{FRAMES}-frame clips per epoch (default: 256)")
    add_flag(parser, "epochs", type=int, default=5, metavar="N", help="epochs; the fastest counts (default: 5)")
    add_flag(parser, "threads", type=int, default=2, metavar="N", help="torch's CPU threads (default: 2)")
    add_flag(parser, "output", metavar="FILE", help="write the table as CSV")
    arguments = parser.parse_args(argv)
    rows = []
    for row in rows_of(arguments.clips, arguments.epochs, arguments.threads):
        rows.append(row)
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if arguments.output:
        write_table(arguments.output, rows, command_of("throughput", argv))
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
