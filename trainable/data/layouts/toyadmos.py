"""ToyADMOS as it unpacks (Koizumi et al. 2019): ``caseN/{NormalSound_IND,AnomalousSound_IND}/…_chM_SSSS.wav``.

ToyADMOS2 is mixed by its own tool into the layout of DCASE 2021.
"""

import re
from pathlib import Path
from typing import ClassVar

from trainable.data.layout import ClipFile, Layout, entries, normal_test_clips, sound_files

_CHANNEL = re.compile(r"_ch([0-9]+)_")


class ToyAdmos(Layout):
    """Cases are machine ids. Of a recording's channels, each a file, the first is read.

    Continuous recordings (``NormalSound_CNT``) hold many clips and are left out. The first normal clips of a case, as
    many as it has anomalies but half at most, are test clips.
    """

    title: ClassVar[str] = "ToyADMOS"

    def recognises(self, folder: Path) -> bool:
        return any((each / "NormalSound_IND").is_dir() for each in folder.glob("case*"))

    def clips(self, folder: Path, skipped: list[str]) -> list[ClipFile]:
        train, test = [], []
        for case in (each for each in entries(folder) if each.name.startswith("case") and each.is_dir()):
            machine_id = case.name.removeprefix("case")
            normal, anomalous = (
                self._first_channel(case / kind, skipped) for kind in ("NormalSound_IND", "AnomalousSound_IND")
            )
            count = normal_test_clips(len(normal), len(anomalous))
            train += [ClipFile(path, "train", machine_id, 0) for path in normal[count:]]
            test += [ClipFile(path, "test", machine_id, 0) for path in normal[:count]]
            test += [ClipFile(path, "test", machine_id, 1) for path in anomalous]
        return [*train, *test]

    def _first_channel(self, folder: Path, skipped: list[str]) -> list[Path]:
        if not folder.is_dir():
            return []
        files = list(sound_files(folder, skipped))
        channels = {path: match[1] for path in files if (match := _CHANNEL.search(path.name))}
        first = min(channels.values(), key=int, default="")
        return [path for path in files if channels.get(path, first) == first]


TOYADMOS = ToyAdmos()
