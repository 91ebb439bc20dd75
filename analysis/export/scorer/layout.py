"""Names in an exported detector's folder."""

KIND = "exported VQ-VAE anomaly detector"
VERSION = 1
MANIFEST = "detector.json"
ARRAYS = "arrays.npz"
