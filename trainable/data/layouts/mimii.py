"""MIMII as it unpacks, and trees made like it: ``id_NN/{normal,abnormal}/SSSSSSSS.wav`` (Purohit et al. 2019)."""

from pathlib import Path
from typing import ClassVar

from trainable.data.layout import ClipFile, Layout, entries, normal_test_clips, sound_files, title_below


class Mimii(Layout):
    """``id_NN/{normal,abnormal}``; the first normal clips of an id, as many as it has anomalies, are test clips."""

    title: ClassVar[str] = "MIMII"

    def recognises(self, folder: Path) -> bool:
        return any((each / kind).is_dir() for each in folder.glob("id_*") for kind in ("normal", "abnormal"))

    def clips(self, folder: Path, skipped: list[str]) -> list[ClipFile]:
        train, test = [], []
        for machine in (each for each in entries(folder) if each.name.startswith("id_") and each.is_dir()):
            machine_id = machine.name.removeprefix("id_")
            # An id without a folder of anomalies has none, and trains.
            normal, anomalous = (
                list(sound_files(machine / kind, skipped)) if (machine / kind).is_dir() else []
                for kind in ("normal", "abnormal")
            )
            count = normal_test_clips(len(normal), len(anomalous))
            normal_below, anomalous_below = machine / "normal", machine / "abnormal"
            train += [ClipFile(p, "train", machine_id, 0, title_below(normal_below, p)) for p in normal[count:]]
            test += [ClipFile(p, "test", machine_id, 0, title_below(normal_below, p)) for p in normal[:count]]
            test += [ClipFile(p, "test", machine_id, 1, title_below(anomalous_below, p)) for p in anomalous]
        return [*train, *test]


MIMII = Mimii()
