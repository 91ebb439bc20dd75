"""``train/good`` and ``test/{good,KIND OF FAULT,…}``, as in MVTec AD (Bergmann et al. 2019)."""

from pathlib import Path
from typing import ClassVar, Literal

from trainable.data.layout import ClipFile, Layout, Part, entries, some_names, sound_files, title_below
from trainable.data.readers import SUFFIXES

NORMAL_WORDS = ("good", "healthy", "normal", "ok")
"""Names of folders of normal recordings, in lower case."""
MACHINE_ID = "00"
"""Of every clip: this layout does not tell machines apart."""


class GoodFolders(Layout):
    """Folders say what is normal: one of `NORMAL_WORDS`. Any other folder of ``test`` holds anomalies."""

    title: ClassVar[str] = "train/good and test/{good,…}"

    def recognises(self, folder: Path) -> bool:
        below = [folder / "train" / name for name in some_names(folder / "train")]
        return any(each.name.lower() in NORMAL_WORDS and each.is_dir() for each in below)

    def clips(self, folder: Path, skipped: list[str]) -> list[ClipFile]:
        parts: list[Part] = ["train", "test"] if (folder / "test").is_dir() else ["train"]
        clips = []
        for part in parts:
            for kind in entries(folder / part):
                if kind.suffix.lower() in SUFFIXES and kind.is_file():
                    skipped.append(f"{kind}: lies in no folder of its part, and so is neither normal nor anomalous")
                if not kind.is_dir() or kind.name.startswith("."):
                    continue
                label: Literal[0, 1] = 0 if kind.name.lower() in NORMAL_WORDS else 1
                clips += [
                    ClipFile(path, part, MACHINE_ID, label, f"{kind.name}_{title_below(kind, path)}")
                    for path in sound_files(kind, skipped)
                ]
        return clips


GOOD_FOLDERS = GoodFolders()
