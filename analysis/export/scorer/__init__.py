"""Scores recordings with an exported detector: `detector.ExportedDetector`. Needs NumPy and onnxruntime only.

`python -m analysis.best RUN --export DIR` copies this package into the folder that it writes. So nothing here may
import anything else of the project.

P patches of a stretch, F = 64 mel bins, T frames, H frequency rows and W columns in time of the code grid, M codebooks
with K codes in all, D numbers of a code's vector.
"""
