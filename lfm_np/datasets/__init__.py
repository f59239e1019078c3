"""Data sets: planted ones of any size, and MovieLens."""

from lfm_np.datasets.grouplens import Records, Split, movielens, movielens_records, movielens_split, movielens_titles
from lfm_np.datasets.synthetic import make_interactions, make_interactions_train_test, planted

__all__ = [
    "Records",
    "Split",
    "make_interactions",
    "make_interactions_train_test",
    "movielens",
    "movielens_records",
    "movielens_split",
    "movielens_titles",
    "planted",
]
