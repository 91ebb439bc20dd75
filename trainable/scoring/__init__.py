"""Anomaly scores from code indices only, and what they are worth: AUC, pAUC, intervals."""
