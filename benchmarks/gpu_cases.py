"""The cases of `benchmarks.gpu_memory`: named configurations and plans, and the clips they train on."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import product

import numpy as np

from trainable.config import TrialConfig
from trainable.data.clips import Split, TrainClips
from trainable.errors import ConfigError
from trainable.execution_plan import ExecutionPlan
from trainable.memory.predict import DataSizes

CLIPS, FRAMES, IDS = 256, 313, ("00", "02", "04", "06")
DATA = DataSizes(train_frames=CLIPS * FRAMES, test_frames=0, train_clips=CLIPS, test_clips=0, n_ids=len(IDS))


@dataclass(frozen=True)
class Case:
    """A configuration under a plan."""

    name: str
    """Unique; its first word is the group it belongs to."""
    config: TrialConfig
    plan: ExecutionPlan
    capped: bool = False
    """Whether its memory is capped at its own prediction: planned to fit, it must not run out of memory."""


def cases() -> Iterator[Case]:
    """All cases, including the recipe's claim (16 clips of 16 patches) for several widths."""
    for width in (1.0, 2.0, 4.0, 8.0, 16.0):
        config = TrialConfig.from_flat({"width": width, "n_patches": 16, "batch_size": 16})
        recipe = f"recipe w{width:g}"
        yield Case(f"{recipe} plain", config, ExecutionPlan(micro_batch_clips=16))
        yield Case(f"{recipe} encoder", config, ExecutionPlan(micro_batch_clips=16, recompute_encoder=True))
        yield Case(f"{recipe} decoder", config, ExecutionPlan(micro_batch_clips=16, recompute_decoder=True))
        yield Case(f"{recipe} amp", config, ExecutionPlan(micro_batch_clips=16, precision="amp_bfloat16"))
        yield Case(f"{recipe} both amp", config, _recipes_own())
        yield Case(f"{recipe} saver", config, _saver())
    yield from _parts()
    for width, n_patches, batch in product((1.0, 4.0), (4, 16, 32), (16, 64)):
        config = TrialConfig.from_flat({"width": width, "n_patches": n_patches, "batch_size": batch})
        sizes = f"w{width:g} p{n_patches} b{batch}"
        yield Case(f"whole {sizes}", config, ExecutionPlan(micro_batch_clips=batch))
        quarter = ExecutionPlan(micro_batch_clips=batch // 4, recompute_encoder=True, recompute_decoder=True)
        yield Case(f"quarter {sizes}", config, quarter)
    for codes, latent_dim, chunk in product((64, 1024, 8192), (16, 256), (1_024, 16_384)):
        config = TrialConfig.from_flat({"num_embeddings": codes, "latent_dim": latent_dim, "n_patches": 16})
        plan = ExecutionPlan(micro_batch_clips=16, quantizer_chunk_rows=chunk)
        yield Case(f"codes k{codes} d{latent_dim} chunk{chunk}", config, plan)
    for distance, gradient in product(("euclidean", "cosine"), ("straight_through", "rotation")):
        config = TrialConfig.from_flat({"distance": distance, "code_gradient": gradient, "codebook_dim": 16})
        plan = ExecutionPlan(micro_batch_clips=16, precision="amp_float16")
        yield Case(f"quantizer {distance} {gradient}", config, plan)
    for width, batch in ((4.0, 128), (8.0, 64), (8.0, 128), (16.0, 64), (16.0, 96), (16.0, 128)):
        config = TrialConfig.from_flat({"width": width, "n_patches": 32, "batch_size": batch})
        yield Case(f"large w{width:g} b{batch}", config, ExecutionPlan(micro_batch_clips=batch))
    yield from _deep()
    yield from _planned_to_fit()


def _deep() -> Iterator[Case]:
    """A full stem, residual blocks, and both."""
    for stem, depth, width in (("full", 0, 1.0), ("strided", 2, 1.0), ("full", 2, 1.0), ("strided", 4, 4.0)):
        knobs = {"stem": stem, "depth": depth, "width": width, "n_patches": 16, "batch_size": 16}
        config, whole = TrialConfig.from_flat(knobs), ExecutionPlan(micro_batch_clips=16)
        name = f"deep {stem} d{depth} w{width:g}"
        yield Case(f"{name} plain", config, whole)
        yield Case(f"{name} encoder", config, replace(whole, recompute_encoder=True))
        yield Case(f"{name} decoder", config, replace(whole, recompute_decoder=True))
        yield Case(f"{name} both amp", config, _recipes_own())


def _parts() -> Iterator[Case]:
    """Cases that change one part of a plan at a time, and the plain plan of the same configuration."""
    for width, batch in ((1.0, 16), (4.0, 32)):
        config = TrialConfig.from_flat({"width": width, "n_patches": 8, "batch_size": batch})
        name = f"part w{width:g}"
        yield Case(f"{name} plain", config, ExecutionPlan(micro_batch_clips=batch))
        for parts in (2, 4, 8, batch):
            yield Case(f"{name} micro{parts}", config, ExecutionPlan(micro_batch_clips=batch // parts))
        yield Case(f"{name} host", config, ExecutionPlan(micro_batch_clips=batch, data_placement="host"))
        for chunk in (1_024, 4_096):
            plan = ExecutionPlan(micro_batch_clips=batch, quantizer_chunk_rows=chunk)
            yield Case(f"{name} chunk{chunk}", config, plan)
        both = ExecutionPlan(micro_batch_clips=batch, recompute_encoder=True, recompute_decoder=True)
        yield Case(f"{name} both", config, both)


def _planned_to_fit() -> Iterator[Case]:
    for width, n_patches, batch in product((1.0, 4.0, 8.0), (8, 32), (16, 64)):
        config = TrialConfig.from_flat({"width": width, "n_patches": n_patches, "batch_size": batch})
        sizes = f"w{width:g} p{n_patches} b{batch}"
        yield Case(f"capped {sizes} whole", config, ExecutionPlan(micro_batch_clips=batch), capped=True)
        yield Case(f"capped {sizes} saver", config, _saver(), capped=True)


def _recipes_own() -> ExecutionPlan:
    """What the recipe says fits into 24 GB, and `--memory-saver` plans without a budget."""
    return ExecutionPlan(micro_batch_clips=16, recompute_encoder=True, recompute_decoder=True, precision="amp_bfloat16")


def _saver() -> ExecutionPlan:
    """Every part as small as it gets, as `--smallest-plan` has it."""
    return ExecutionPlan(
        micro_batch_clips=1,
        recompute_encoder=True,
        recompute_decoder=True,
        quantizer_chunk_rows=1_024,
        data_placement="host",
        precision="amp_bfloat16",
    )


TIMED = ((16.0, 16, 16), (1.0, 64, 32), (1.0, 16, 8))
"""Width, clips and patches: arithmetic counts in the first two, the launching of kernels in the last."""


def plans_by_part(batch: int) -> dict[str, ExecutionPlan]:
    """Plans that change one part of the plain plan of a batch (clips) at a time, by name."""
    whole = ExecutionPlan(micro_batch_clips=batch)
    return {
        "plain": whole,
        "encoder": replace(whole, recompute_encoder=True),
        "decoder": replace(whole, recompute_decoder=True),
        "encoder and decoder": replace(whole, recompute_encoder=True, recompute_decoder=True),
        "2 micro-batches": replace(whole, micro_batch_clips=batch // 2),
        "4 micro-batches": replace(whole, micro_batch_clips=batch // 4),
        "chunk 1024": replace(whole, quantizer_chunk_rows=1_024),
        "host": replace(whole, data_placement="host"),
        "bfloat16": replace(whole, precision="amp_bfloat16"),
        "float16": replace(whole, precision="amp_float16"),
        "plain again": whole,
    }


def timed_cases() -> Iterator[Case]:
    """Cases whose steps are timed: one part of a plan at a time, and the plain plan at the beginning and the end."""
    for width, batch, patches in TIMED:
        knobs = {"width": width, "batch_size": batch, "n_patches": patches, "kmeans_start": False}
        for name, plan in plans_by_part(batch).items():
            yield Case(f"times w{width:g} p{patches} b{batch} {name}", TrialConfig.from_flat(knobs), plan)


def chosen(patterns: str | None) -> list[Case]:
    """The cases whose names match any of the patterns, such as ``recipe*,part w1*``. Raises ConfigError if none do.

    A number is matched whole: ``part w1*`` takes no case of ``w16``.
    """
    wanted = [part.strip() for part in (patterns or "*").split(",")]
    found = [case for case in cases() if any(_matches(case.name, pattern) for pattern in wanted)]
    if not found:
        groups = ", ".join(dict.fromkeys(case.name.split()[0] for case in cases()))
        raise ConfigError(f"--cases {patterns!r} matches no case; names begin with {groups} (such as 'recipe w4*')")
    return found


def _matches(name: str, pattern: str) -> bool:
    """As in a shell, but a ``*`` behind a digit does not go on with the number."""
    found = re.search(r"(?<=\d)\*", pattern)
    if found is None:
        return fnmatchcase(name, pattern)
    begin, rest = pattern[: found.start()], pattern[found.end() :]
    return _matches(name, begin + rest) or _matches(name, f"{begin}[!0-9.]*{rest}")


def noise_train_clips() -> TrainClips:
    """`CLIPS` clips of noise; memory and speed do not depend on their content."""
    rng = np.random.default_rng(0)
    return TrainClips(
        rng.standard_normal((CLIPS * FRAMES, 64), dtype=np.float32),
        np.arange(CLIPS + 1, dtype=np.int64) * FRAMES,
        tuple(IDS[index % len(IDS)] for index in range(CLIPS)),
        tuple(f"normal_{index:04d}.wav" for index in range(CLIPS)),
        Split.TRAIN,
    )
