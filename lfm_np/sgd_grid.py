"""The block grid of `sgd`: which cells are trained side by side.

Users are cut into G blocks of rows with about equally many stored cells, items into 2G random blocks, new ones each
epoch. A record belongs to the block of its row and to the pair of blocks of its item and its negative. In one round
every pair of a perfect matching of the item blocks meets another block of users, so no two tasks share a row or an
item; G(2G − 1) rounds bring all pairs and all blocks of users together. The blocks depend on the data only, hence so
does the result.

References
----------
Gemulla, Nijkamp, Haas, Sismanis (2011), "Large-scale matrix factorization with distributed stochastic gradient descent"
(strata, without negatives); the matchings are the circle method for round-robin tournaments.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lfm_np.kernels import random

CELLS_A_TASK = 96  # times G, as the rounds, each of which has a price, are of the order of G²
MOST_BLOCKS = 16
ITEMS_A_BLOCK = 4  # times the negatives or candidates of a record


class Grid(NamedTuple):
    """What stays the same over the epochs."""

    users: np.ndarray  # (G + 1,) first row of every block
    cell_of: np.ndarray  # (item blocks, item blocks) -> number of the pair, by round and slot
    strata: np.ndarray  # items by falling count

    @property
    def tasks(self) -> int:
        """Tasks a round: G."""
        return len(self.users) - 1

    @property
    def item_blocks(self) -> int:
        return len(self.cell_of)

    @property
    def matchings(self) -> int:
        return max(1, self.item_blocks - 1)

    @property
    def pairs(self) -> int:
        """Pairs of item blocks, the cells of one block of users."""
        return self.matchings * self.tasks


def blocks_for(stored: int, items: int, draws: int) -> int:
    """G, a power of two: tasks of some hundred records, and blocks of at least ``ITEMS_A_BLOCK``·draws items.

    Many blocks are good not only for many threads. In a task a row meets items of two blocks only, and the last tasks
    of an epoch weigh most in its factors: MovieLens-1M, with a constant learning rate and 15 to 35 epochs, loses
    0.0005 of 0.508 recall@100 to a shuffled sequence with G = 4, and 0.0003 with G = 8 (paired seeds, ± 0.0002).
    """
    G = 1
    while (
        2 * G <= MOST_BLOCKS
        and stored >= CELLS_A_TASK * (2 * G) ** 3 * (4 * G - 1)
        and items >= ITEMS_A_BLOCK * max(draws, 1) * 4 * G
    ):
        G *= 2
    return G


def make_grid(indptr: np.ndarray, counts: np.ndarray, G: int) -> Grid:
    """The grid for G blocks of users; G = 1 is one cell, sequential SGD."""
    users = np.searchsorted(indptr, np.linspace(0, indptr[-1], G + 1)).astype(np.int64)
    users[0], users[-1] = 0, len(indptr) - 1
    blocks = 2 * G if G > 1 else 1
    return Grid(users, _pairs(blocks), np.argsort(-counts, kind="stable"))


def _pairs(blocks: int) -> np.ndarray:
    """cell_of[p, q] = round·(blocks/2) + slot of the match of p and q; p with itself in its match of round 0."""
    cell_of = np.zeros((blocks, blocks), np.int32)
    for turn in range(blocks - 1):
        ring = [(turn + s) % (blocks - 1) for s in range(blocks - 1)]
        pairs = [(blocks - 1, ring[0]), *((ring[s], ring[-s]) for s in range(1, blocks // 2))]
        for slot, (p, q) in enumerate(pairs):
            cell_of[p, q] = cell_of[q, p] = turn * (blocks // 2) + slot
            if turn == 0:
                cell_of[p, p] = cell_of[q, q] = slot
    return cell_of


def item_blocks(grid: Grid, key: np.uint64) -> np.ndarray:
    """Block of every item, random and balanced: each run of 2G items of similar count is dealt to all blocks."""
    n, blocks = len(grid.strata), grid.item_blocks
    bits = permuted(key, n)
    order = np.lexsort((bits, np.arange(n) // blocks))
    block_of = np.empty(n, np.int32)
    block_of[grid.strata[order]] = np.arange(n) % blocks
    return block_of


def permuted(key: np.uint64, n: int) -> np.ndarray:
    """The first n numbers of a stream."""
    function = getattr(random.draw, "py_func", random.draw)
    return function(key, np.arange(n))


def rounds(grid: Grid, key: np.uint64) -> list[tuple[int, int]]:
    """(matching, shift) of every round in random order; slot g trains the users of block (g + shift) mod G."""
    order = np.argsort(permuted(key, grid.matchings * grid.tasks), kind="stable")
    return [(int(r) // grid.tasks, int(r) % grid.tasks) for r in order]
