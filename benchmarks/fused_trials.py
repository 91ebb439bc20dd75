"""Several trials of one shape trained as one batched model, against the same trials one after another.

    python -m benchmarks.fused_trials
    python -m benchmarks.fused_trials --device cuda

As HFTA does (Wang et al. 2021, "Horizontally Fused Training Array"): the weights of n trials that differ in seed,
learning rate and commitment cost are stacked, and `torch.func.vmap` makes each layer of all of them one operator. Every
trial keeps its own batches, gradient norm and codebook, so its losses are those of training it alone
(`largest_difference`, relative). Steps are of phase 2; batches are drawn beforehand on both sides. Both sides
alternate, and the fastest repeat of each counts. `ratio` is how many times as many steps are made fused.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from benchmarks.tables import command_of, write_table
from benchmarks.throughput import CASES, IDS, noise_clips
from trainable.commandline import Parser, add_flag, run
from trainable.config import TrialConfig
from trainable.execution_plan import ExecutionPlan
from trainable.model.codebook import BatchStatistics
from trainable.model.heads import clip_latents
from trainable.model.transforms import TransformDraws, apply_transforms
from trainable.model.vqvae import VQVAE
from trainable.training.batch import Batch
from trainable.training.phases import PhaseState
from trainable.training.step import load_patches, train_step
from trainable.training.trainer import Trainer

SHAPES = {name: CASES[name] for name in ("standard", "ad_tuning's middle")}
CLIPS = 64
PHASE = PhaseState(2, 1.0)
BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of `torch.optim.AdamW`."""
CODEBOOK = ("codebook_KD", "ema_counts_K", "ema_sums_KD")


class Alone(Trainer):
    """A trial trained by itself, as a search trains it."""

    def begin(self, steps: int) -> None:
        """Starts the codebook and draws the batches of the first steps."""
        self._start_codebook()
        epoch = [batch for batch, _ in self._batches()]
        self.batches = [epoch[step % len(epoch)] for step in range(steps)]
        self.features = self.frames(self.train)
        for group in self.state.optimizer.param_groups:
            group["lr"] = self.config.optim.learning_rate

    def step(self, index: int) -> Tensor:
        """Losses of a step, the total first (on the device)."""
        return train_step(self.state, self.features, self.batches[index], self.plan, PHASE).terms_L


class Network(nn.Module):
    """What `vmap` makes of a trial's model; buffers are not changed."""

    def __init__(self, model: VQVAE):
        super().__init__()
        self.model = model

    def forward(self, part: Callable[..., Any], *inputs: Tensor) -> Any:
        return part(self.model, *inputs)


def encoded(model: VQVAE, patches_BPFT: Tensor, views_BVFT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows to quantize, and what both heads say."""
    latents = model.encode(patches_BPFT.flatten(0, 1))
    id_logits = model.heads.machine_id(clip_latents(latents, patches_BPFT.shape[1]))
    views = model.encode(views_BVFT.flatten(0, 1))
    return model.codebook.rows(latents), id_logits, model.heads.transform(clip_latents(views, views_BVFT.shape[1]))


def decoded(model: VQVAE, vectors_ND: Tensor) -> Tensor:
    grid_XDHW = model.codebook.grid(vectors_ND).contiguous()  # the only layout that a group norm has under vmap
    reconstructed: Tensor = model.decoder(grid_XDHW)
    return reconstructed


def learned(model: VQVAE, rows_ND: Tensor, codes_NM: Tensor, candidates_K: Tensor) -> tuple[Tensor, ...]:
    """The codebook's values after its update, in the order of CODEBOOK."""
    codebook = model.codebook
    statistics = codebook.statistics(rows_ND, codes_NM)
    batch = BatchStatistics(statistics.counts_K, statistics.sums_KD, torch.zeros_like(statistics.sums_KD))
    codebook.offer(batch, rows_ND, codes_NM, candidates_K, 0)
    values = codebook.updated(batch)
    return values.codes_KD, values.counts_K, values.sums_KD


class Fused:
    """n trials as one. Shapes: n trials, W weights of one, N rows, M codebooks of K codes in all, D their width."""

    def __init__(self, trials: Sequence[Alone]):
        self._trials = trials
        models = [trial.state.model for trial in trials]
        self._network = Network(models[0])
        parameters, buffers = stack_module_state([Network(model) for model in models])
        self._shapes = {name: stacked.shape for name, stacked in parameters.items()}
        # One tensor: the optimizer is then a handful of operators, however many layers there are.
        flat = torch.cat([stacked.detach().flatten(1) for stacked in parameters.values()], dim=1)
        self._weights_nW = flat.requires_grad_()
        self._moments = torch.zeros_like(flat), torch.zeros_like(flat)
        self._buffers = buffers
        self._steps = 0
        optims = [trial.config.optim for trial in trials]
        self._rates_n1 = flat.new_tensor([optim.learning_rate for optim in optims])[:, None]
        self._costs_n = flat.new_tensor([trial.config.loss.commitment_cost for trial in trials])

    def step(self, index: int) -> Tensor:
        """Total losses of a step, (n,)."""
        batches = [trial.batches[index] for trial in self._trials]
        rows_nND, codes_nNM, losses_n = self._losses(batches)
        losses_n.sum().backward()
        device = losses_n.device
        candidates_nK = torch.stack([batch.candidate_rows_K for batch in batches]).to(device)
        with torch.no_grad():
            values = vmap(self._call, in_dims=(0, 0, None, 0, 0, 0))(
                self._weights(), self._buffers, learned, rows_nND.detach(), codes_nNM, candidates_nK
            )
            self._apply_gradients()
        self._buffers |= {f"model.codebook.{name}": value for name, value in zip(CODEBOOK, values, strict=True)}
        return losses_n.detach()

    def _losses(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor, Tensor]:
        trial, weights = self._trials[0], self._weights()
        patches_nBPFT, views_nBVFT, draws = self._patches(batches)
        rows_nND, id_logits, transform_logits = vmap(self._call, in_dims=(0, 0, None, 0, 0))(
            weights, self._buffers, encoded, patches_nBPFT, views_nBVFT
        )
        with torch.no_grad():
            codes_nNM, chosen_nND = self._nearest(rows_nND)
        commitments_n = (rows_nND - chosen_nND).square().mean(dim=(1, 2))
        vectors_nND = rows_nND + (chosen_nND - rows_nND).detach()
        reconstructed = vmap(self._call, in_dims=(0, 0, None, 0))(weights, self._buffers, decoded, vectors_nND)
        errors_n = (reconstructed - patches_nBPFT.flatten(1, 2)).square().mean(dim=(1, 2, 3))
        ids_nB = torch.stack([batch.id_labels_B for batch in batches]).to(rows_nND.device)
        losses_n = errors_n + self._costs_n * commitments_n
        for logits_nBC, labels_nB, weight in (
            (id_logits, ids_nB, trial.config.loss.id_weight),
            (transform_logits, draws.labels_B.view_as(ids_nB), trial.config.loss.transform_weight),
        ):
            losses_n = losses_n + weight * vmap(F.cross_entropy)(logits_nBC, labels_nB)
        return rows_nND, codes_nNM, losses_n

    def _patches(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor, TransformDraws]:
        """Patches of every trial's batch, transformed views of some, and the draws of all clips."""
        trial, n = self._trials[0], len(batches)
        patches = load_patches(trial.features, torch.cat([batch.starts_BP for batch in batches]), trial.state)
        device = patches.device
        draws = TransformDraws(
            *(torch.cat(each) for each in zip(*(vars(batch.transforms).values() for batch in batches), strict=True))
        ).to(device)
        columns = torch.stack([batch.view_columns_V for batch in batches]).to(device)
        patches_nBPFT = patches.unflatten(0, (n, -1))
        heard = torch.stack([each[:, chosen] for each, chosen in zip(patches_nBPFT, columns, strict=True)])
        views = apply_transforms(heard.flatten(0, 1), draws, trial.state.model.noise_M)
        return patches_nBPFT, views.unflatten(0, (n, -1)), draws

    def _nearest(self, rows_nND: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (n, N, M) of every row in each trial's codebooks, and the sum of their vectors (n, N, D)."""
        codebook_nKD = self._buffers["model.codebook.codebook_KD"]
        left_nND, codes = rows_nND, []
        size = self._trials[0].config.quantizer.num_embeddings
        for begin in range(0, codebook_nKD.shape[1], size):
            codes_nKD = codebook_nKD[:, begin : begin + size]
            bias_n1K = codes_nKD.square().sum(dim=2).mul(0.5)[:, None]
            nearest_nN = torch.baddbmm(bias_n1K, left_nND, codes_nKD.mT, alpha=-1).argmin(dim=2)
            left_nND = left_nND - codes_nKD.gather(1, nearest_nN[..., None].expand_as(left_nND))
            codes.append(nearest_nN + begin)
        return torch.stack(codes, dim=2), rows_nND - left_nND

    def _apply_gradients(self) -> None:
        """AdamW (Loshchilov & Hutter 2019) with a learning rate and a gradient norm for each trial."""
        weights, gradients = self._weights_nW, self._weights_nW.grad
        assert gradients is not None
        optim = self._trials[0].config.optim
        norms_n1 = gradients.norm(dim=1, keepdim=True)
        gradients *= (optim.gradient_clip / (norms_n1 + 1e-6)).clamp_max(1.0)
        self._steps += 1
        first, second = self._moments
        first.lerp_(gradients, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradients, gradients, value=1 - BETAS[1])
        scales = [1 - beta**self._steps for beta in BETAS]
        weights.mul_(1 - self._rates_n1 * optim.weight_decay)
        weights.sub_(self._rates_n1 / scales[0] * first / (second.sqrt() / scales[1] ** 0.5 + EPSILON))
        weights.grad = None

    def _weights(self) -> dict[str, Tensor]:
        sizes = [shape[1:].numel() for shape in self._shapes.values()]
        parts = self._weights_nW.split(sizes, dim=1)
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def _call(
        self, weights: dict[str, Tensor], buffers: dict[str, Tensor], part: Callable[..., Any], *inputs: Tensor
    ) -> Any:
        return functional_call(self._network, (weights, buffers), (part, *inputs))


def trials_of(
    knobs: dict[str, Any], n: int, steps: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> list[Alone]:
    """`n` trials that differ in seed, learning rate and commitment cost, ready to train."""
    clips, trials = noise_clips(CLIPS), []
    for index in range(n):
        own = {"seed": index, "learning_rate": 3e-4 * (1 + index), "commitment_cost": 0.1 * (1 + index)}
        config = TrialConfig.from_flat(knobs | own)
        plan = ExecutionPlan(micro_batch_clips=config.patch.batch_size)
        trials.append(Alone(config, clips, IDS, plan=plan, device=device, dtype=dtype))
        trials[-1].begin(steps)
    return trials


def largest_difference(trials: Sequence[Alone], fused: Fused, steps: int) -> float:
    """Largest relative difference between the losses of each trial alone and fused, over some first steps."""
    differences = []
    for index in range(steps):
        alone_n = torch.stack([trial.step(index)[0] for trial in trials])
        differences.append((fused.step(index) / alone_n - 1).abs().max())
    return float(torch.stack(differences).max())


def seconds_a_step(makers: Mapping[str, Callable[[int], object]], steps: int, repeats: int) -> dict[str, float]:
    """Of each side's fastest repeat of some steps; sides alternate."""
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(repeats):
        for name, make in makers.items():
            begin = time.perf_counter()
            for index in range(steps):
                make(index)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - begin) / steps)
    return {name: min(times) for name, times in seconds.items()}


def rows_of(counts: Sequence[int], steps: int, repeats: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """One row of the table per case and number of trials."""
    for case, knobs in SHAPES.items():
        for n in counts:
            trials = trials_of(knobs, n, steps, device)
            fused = Fused(trials)
            difference = largest_difference(trials, fused, steps)
            makers = {"alone": lambda index: [trial.step(index) for trial in trials], "fused": fused.step}  # noqa: B023
            seconds = seconds_a_step(makers, steps, repeats)
            yield {
                "case": case,
                "trials": n,
                "device": str(device),
                **{f"{name}_ms": round(each * 1e3, 2) for name, each in seconds.items()},
                "ratio": round(seconds["alone"] / seconds["fused"], 2),
                "largest_difference": f"{difference:.1e}",
            }


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m benchmarks.fused_trials", description=__doc__.split("\n")[0])
    add_flag(parser, "trials", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N", help="(default: 1 2 4 8)")
    add_flag(parser, "steps", type=int, default=4, metavar="N", help="steps a repeat (default: 4)")
    add_flag(parser, "repeats", type=int, default=5, metavar="N", help="the fastest counts (default: 5)")
    add_flag(parser, "device", default="cpu", metavar="NAME", help="cpu or cuda (default: cpu)")
    add_flag(parser, "threads", type=int, default=1, metavar="N", help="torch's CPU threads (default: 1)")
    add_flag(parser, "output", metavar="FILE", help="write the table as CSV")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    rows = []
    for row in rows_of(arguments.trials, arguments.steps, arguments.repeats, torch.device(arguments.device)):
        rows.append(row)
        print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if arguments.output:
        write_table(arguments.output, rows, command_of("fused_trials", argv), device=arguments.device)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
