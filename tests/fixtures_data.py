"""Tiny real data sets for tests, made from the embedded machines without touching a disk cache."""

import tempfile
from pathlib import Path

from trainable.config import DataConfig
from trainable.data.embedded import Amount, make_recordings
from trainable.data.load import Dataset, assemble

TINY = Amount(train_clips=12, test_clips=4, machine_ids=("00", "02"))


def make_tiny_dataset(machine_type: str = "fan", amount: Amount = TINY) -> Dataset:
    """A data set of a few embedded clips of 141 frames, in about half a second."""
    config = DataConfig(machine_type=machine_type)
    with tempfile.TemporaryDirectory() as folder:
        return assemble(config, make_recordings(machine_type, config.front_end, Path(folder), amount=amount))
