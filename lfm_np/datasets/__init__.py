"""Data sets: planted ones of any size, and MovieLens."""

from lfm_np.datasets.synthetic import make_interactions, make_interactions_train_test, planted

__all__ = ["make_interactions", "make_interactions_train_test", "planted"]
