"""A detector as files that run without this project: ONNX models, plain arrays, and a scorer of NumPy.

`folder.export_detector` writes them with torch. `scorer/` is what the folder's `score.py` runs: it imports nothing else
of the project.
"""
