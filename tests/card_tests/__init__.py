"""What needs torch's CUDA build and a card, if only one that computes nothing: FAKE_CARD names its Python.

Each test starts that Python, in which torch, NumPy and scikit-learn are enough; the tests themselves need no card.
"""
