"""What a process does on its device: budget, cap, errors that mean out of memory, mixed precision on meta tensors.

Imports neither prediction (trainable.memory) nor training.
"""
