"""Anomaly scores from code indices only, and their evaluation: AUC, pAUC, intervals."""
