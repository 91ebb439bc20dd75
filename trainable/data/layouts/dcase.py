"""The layouts of DCASE's Task 2: one of 2020, one of 2021 and every year since."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from trainable.data.layout import ClipFile, Layout, Part, some_names, sound_files, title_below

_NAME_2020 = re.compile(r"(normal|anomaly|abnormal)_id_([0-9A-Za-z]+)_[0-9A-Za-z]+", re.IGNORECASE)
_UNLABELLED_2020 = re.compile(r"id_([0-9A-Za-z]+)_[0-9A-Za-z]+")
"""Of an evaluation set."""
_NAME_2021 = re.compile(
    r"section_(?P<section>[0-9A-Za-z]+)_(?:(?P<domain>[a-z]+)_)??(?P<part>train|test)_(?P<label>normal|anomaly)_.+"
)
_UNLABELLED_2021 = re.compile(r"section_(?P<section>[0-9A-Za-z]+)_(?:(?P<domain>[a-z]+)_test_)?[0-9]+")
_PARTS_2021: Mapping[str, Part] = {"train": "train", "test": "test", "source_test": "test", "target_test": "test"}


class Dcase2020(Layout):
    """``{train,test}/{normal,anomaly}_id_NN_SSSSSSSS.{wav,npy,…}``, in sub-folders too."""

    title: ClassVar[str] = "DCASE 2020"

    def recognises(self, folder: Path) -> bool:
        return (folder / "train").is_dir()

    def clips(self, folder: Path, skipped: list[str]) -> list[ClipFile]:
        # Without a folder of test clips there are no labels; not every search needs them.
        parts: list[Part] = ["train", "test"] if (folder / "test").exists() else ["train"]
        clips = []
        for part in parts:
            for path in sound_files(folder / part, skipped):
                match = _NAME_2020.fullmatch(path.stem)
                if match is None and part == "test" and (unlabelled := _UNLABELLED_2020.fullmatch(path.stem)):
                    title = title_below(folder / part, path)
                    clips.append(ClipFile(path, part, unlabelled[1], None, title))
                    continue
                if match is None:
                    skipped.append(f"{path}: its name is not {{normal,anomaly}}_id_NN_SSSSSSSS.{{wav,npy,…}}")
                    continue
                label: Literal[0, 1] = 0 if match[1].lower() == "normal" else 1
                clips.append(ClipFile(path, part, match[2], label, title_below(folder / part, path)))
        return clips

    def lacking(self, folder: Path, part: Part, word: str) -> str:
        return f"{folder / part} holds no {word}_id_NN_*.npy or .wav"


class Dcase2021(Layout):
    """``{train,test,source_test,target_test}/section_NN_{source,target}_{train,test}_{normal,anomaly}_SSSS_….wav``.

    A section is a machine id, a domain is kept. Test clips of an evaluation set (``section_NN_SSSS.wav``) have no
    label. Supplemental clips (2025 on) are not read.
    """

    title: ClassVar[str] = "DCASE 2021 and later"

    def recognises(self, folder: Path) -> bool:
        return any(name.startswith("section_") for name in some_names(folder / "train"))

    def clips(self, folder: Path, skipped: list[str]) -> list[ClipFile]:
        clips = []
        for name, part in _PARTS_2021.items():
            if not (folder / name).is_dir():
                continue
            for path in sound_files(folder / name, skipped):
                clip = self._clip(path, part, title_below(folder / name, path))
                if clip is None:
                    skipped.append(f"{path}: its name is not section_NN_DOMAIN_{part}_{{normal,anomaly}}_SSSS….wav")
                else:
                    clips.append(clip)
        return clips

    def _clip(self, path: Path, part: Part, title: str) -> ClipFile | None:
        match = _NAME_2021.fullmatch(path.stem)
        if match is not None and match["part"] == part:
            label: Literal[0, 1] = 0 if match["label"] == "normal" else 1
            return ClipFile(path, part, match["section"], label, title, domain=match["domain"] or "")
        match = _UNLABELLED_2021.fullmatch(path.stem)
        if match is not None and part == "test":
            return ClipFile(path, part, match["section"], None, title, domain=match["domain"] or "")
        return None


DCASE2020 = Dcase2020()
DCASE2021 = Dcase2021()
