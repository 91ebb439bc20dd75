"""Writes the folder of ``python -m analysis.best RUN --export DIR``."""

import hashlib
import importlib.util
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analysis.export.arrays import ArrayStore, density_entry
from analysis.export.graphs import codes_model, quantizer_codebook, surprise_model
from analysis.export.scorer.layout import ARRAYS, KIND, MANIFEST, VERSION, digest_of
from analysis.export.target import LAUNCHER, SCORER, check_target
from trainable.detection.detector import Detector, Member
from trainable.durable import write_bytes
from trainable.errors import ConfigError, RunError
from trainable.scoring.autoregressive import Autoregressive
from trainable.scoring.density import DensityModel

_LAUNCHER_TEXT = '''"""Scores recordings with this folder's detector: python score.py FILES"""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER))
    try:
        from scorer.command import main
    except (ImportError, SyntaxError) as error:
        advice = "install numpy and onnxruntime, or export it again"
        print(f"error: {FOLDER} cannot run ({error}); {advice}", file=sys.stderr)
        sys.exit(2)
    sys.exit(main(FOLDER))
'''
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_DEFAULTS: dict[str, Any] = {"windows": "configured", "alarm_rate": None, "lowest_rate_hz": None, "most_clipped": None}
"""What detectors of earlier formats do not say."""


def export_detector(source: Path, folder: Path) -> list[Path]:
    """Writes the detector in the folder `source` as files that need only onnxruntime and NumPy; returns their paths.

    `detector.json` comes last, so that a folder that has it is complete.

    Raises
    ------
    CheckpointError
        If `source` holds no detector or a damaged one.
    ConfigError
        If a part of the detector has no form outside of the project, or a package that makes ONNX models is missing.
    RunError
        If `folder` holds anything else, or cannot be written.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"--export needs the package {missing[0]}: pip install onnx onnxscript onnxruntime")
    check_target(folder)
    detector = Detector.load(source)
    files, content = _described(detector, json.loads((source / MANIFEST).read_text(encoding="utf-8")))
    try:
        return _written(folder, files, content)
    except OSError as error:
        raise RunError(f"--export {folder} cannot be written: {error.strerror or error}") from None


def _described(detector: Detector, saved: dict[str, Any]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of an export by name, and what its `detector.json` says beside their checksums."""
    store, files = ArrayStore(), dict[str, bytes]()
    members = [_member(member, index, store, files) for index, member in enumerate(detector.members)]
    files[ARRAYS] = store.to_bytes()
    content = {
        "kind": KIND,
        "version": VERSION,
        **_DEFAULTS,
        **{name: saved[name] for name in _DEFAULTS if name in saved},
        "machine_type": detector.machine_type,
        "ids": list(detector.ids),
        "front_end": asdict(detector.front_end),
        "axes": detector.axes,
        "stretch_frames": detector.stretch_frames,
        "norm": saved["norm"],
        "calibration": saved["calibration"],
        "thresholds": saved.get("thresholds", {}),
        "members": members,
        "made": detector.made,
    }
    return files, content


def _member(member: Member, index: int, store: ArrayStore, files: dict[str, bytes]) -> dict[str, Any]:
    """What `detector.json` says of a trained model with its density models."""
    network, prefix = f"codes-{index}.onnx", f"member-{index}"
    files[network] = codes_model(member)
    entries = [
        _density(density, member, f"{prefix}/density-{number}", store, files)
        for number, density in enumerate(member.densities)
    ]
    mapped = next((number for number, density in enumerate(member.densities) if density is member.surprise), None)
    return {
        "network": network,
        "codebook": store.add(f"{prefix}/codebook", quantizer_codebook(member).numpy()),
        "patch_frames": member.state.geometry.patch_frames,
        "n_patches": member.config.scored_patches,
        "stride": member.config.patch.stride,
        "densities": entries,
        "mapped": mapped,
        "surprise": None if mapped is not None else _density(member.surprise, member, f"{prefix}/map", store, files),
    }


def _density(
    density: DensityModel, member: Member, prefix: str, store: ArrayStore, files: dict[str, bytes]
) -> dict[str, Any]:
    entry = density_entry(density, store, prefix)
    if isinstance(density, Autoregressive):
        geometry = member.state.geometry
        entry["network"] = f"surprise-{prefix.replace('/', '-')}.onnx"
        files[entry["network"]] = surprise_model(density, geometry.rows, geometry.columns)
    return entry


def _written(folder: Path, files: dict[str, bytes], content: dict[str, Any]) -> list[Path]:
    files = {**files, LAUNCHER: _LAUNCHER_TEXT.encode(), **_scorer_files()}
    (folder / MANIFEST).unlink(missing_ok=True)  # until all is new, nothing is there
    for stale in (*folder.glob("codes-*.onnx"), *folder.glob("surprise-*.onnx")):
        stale.unlink()
    shutil.rmtree(folder / SCORER, ignore_errors=True)
    for name, data in files.items():
        write_bytes(folder / name, data)
    content["files"] = {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items() if not name.endswith(".py")
    }
    content = json.loads(json.dumps(content))  # as it is read back
    write_bytes(folder / MANIFEST, json.dumps({**content, "digest": digest_of(content)}, indent=1).encode())
    return [folder / name for name in (*files, MANIFEST)]


def _scorer_files() -> dict[str, bytes]:
    """The modules of the scorer by their path in the folder."""
    package = Path(__file__).parent / SCORER
    return {f"{SCORER}/{path.name}": path.read_bytes() for path in sorted(package.glob("*.py"))}
