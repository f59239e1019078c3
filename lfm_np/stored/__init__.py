"""Matrices larger than memory: CSR in both orders on disk, made and read in pieces that fit a budget."""

from lfm_np.stored.matrix import StoredMatrix

__all__ = ["StoredMatrix"]
