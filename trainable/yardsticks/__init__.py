"""Detectors to compare ours with on the same clips: a covariance, a linear map, two dense networks.

One idea a file, all named in `catalogue`; `comparison` sets a detector's AUC beside theirs. Uses `data`, and for one
yardstick `scoring` and the quantizer; of the project's other rooms nothing.
"""
