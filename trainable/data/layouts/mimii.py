"""MIMII as it unpacks, and trees made like it: ``id_NN/{normal,abnormal}/SSSSSSSS.wav`` (Purohit et al. 2019)."""

from pathlib import Path
from typing import ClassVar

from trainable.data.layout import ClipFile, Layout, entries, normal_test_clips, sound_files, title_below

_KINDS = {"normal": 0, "abnormal": 1, "anomaly": 1, "anomalous": 1}
"""Folders of an id, in lower case → label."""


class Mimii(Layout):
    """``id_NN/{normal,abnormal}``; the first normal clips of an id, as many as it has anomalies, are test clips."""

    title: ClassVar[str] = "MIMII"

    def recognises(self, folder: Path) -> bool:
        return any((each / kind).is_dir() for each in folder.glob("id_*") for kind in _KINDS)

    def clips(self, folder: Path, skipped: list[str]) -> list[ClipFile]:
        train, test = [], []
        for machine in (each for each in entries(folder) if each.name.startswith("id_") and each.is_dir()):
            machine_id = machine.name.removeprefix("id_")
            # An id without a folder of anomalies has none, and trains.
            normal: list[tuple[Path, str]] = []
            anomalous: list[tuple[Path, str]] = []
            for kind in (each for each in entries(machine) if each.is_dir() and not each.name.startswith(".")):
                files = list(sound_files(kind, skipped))
                if kind.name.lower() in _KINDS:
                    of_kind = anomalous if _KINDS[kind.name.lower()] else normal
                    of_kind += [(path, title_below(kind, path)) for path in files]
                else:
                    skipped += [f"{path}: lies in neither {machine}/normal nor abnormal" for path in files]
            count = normal_test_clips(len(normal), len(anomalous))
            train += [ClipFile(path, "train", machine_id, 0, title) for path, title in normal[count:]]
            test += [ClipFile(path, "test", machine_id, 0, title) for path, title in normal[:count]]
            test += [ClipFile(path, "test", machine_id, 1, title) for path, title in anomalous]
        return [*train, *test]


MIMII = Mimii()
