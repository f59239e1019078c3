"""The blocks of an SGD epoch."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp

import lfm_np
from lfm_np import sgd_epoch, sgd_grid


@pytest.mark.small
@pytest.mark.parametrize("G", [1, 2, 4, 8, 16])
def test_tasks_of_a_round_share_nothing_and_rounds_cover_all(G):
    counts = np.random.default_rng(G).integers(0, 9, 200)
    grid = sgd_grid.make_grid(np.arange(0, 4001, 10), counts, G)
    blocks = grid.item_blocks
    owners = {}
    for p, q in itertools.product(range(blocks), repeat=2):
        owners.setdefault(int(grid.cell_of[p, q]), set()).update((p, q))
    seen = set()
    for turn, shift in sgd_grid.rounds(grid, np.uint64(5)):
        tasks = [(turn * G + slot, (slot + shift) % G) for slot in range(G)]
        items = [block for pair, _ in tasks for block in owners[pair]]
        assert len(items) == len(set(items))
        assert len({user for _, user in tasks}) == G
        seen.update(tasks)
    assert seen == set(itertools.product(range(grid.pairs), range(G)))


@pytest.mark.small
def test_item_blocks_are_balanced_random_and_new():
    counts = np.sort(np.random.default_rng(0).zipf(1.5, 103))[::-1]
    grid = sgd_grid.make_grid(np.array([0, 5, 10]), counts, 2)
    first, second = (sgd_grid.item_blocks(grid, np.uint64(key)) for key in (1, 2))
    for block_of in (first, second):
        sizes = np.bincount(block_of, minlength=4)
        assert sizes.max() - sizes.min() <= 1
        assert set(block_of[:4]) == {0, 1, 2, 3}  # the most popular ones are dealt apart
    assert (first != second).any()


@pytest.mark.small
def test_the_number_of_blocks_is_a_function_of_the_data():
    assert sgd_grid.blocks_for(1000, 10**6, 1) == 1
    assert sgd_grid.blocks_for(10**9, 10**6, 1) == sgd_grid.MOST_BLOCKS
    assert sgd_grid.blocks_for(10**9, 100, 20) == 1
    assert lfm_np.sgd(sp.csr_array(np.eye(9)), factors=2, epochs=1).params["blocks"] == 1


@pytest.mark.small
@pytest.mark.parametrize("G", [2, 4, 8, 16])
@pytest.mark.parametrize("draws", [0, 1, 5])
def test_the_fewest_cells_and_items_of_so_many_blocks(G, draws):
    cells, items = 96 * G**3 * (2 * G - 1), 8 * G * max(draws, 1)
    assert sgd_grid.blocks_for(cells, items, draws) == G
    assert sgd_grid.blocks_for(cells - 1, items, draws) == G // 2
    assert sgd_grid.blocks_for(cells, items - 1, draws) == G // 2


@pytest.mark.small
def test_blocks_of_users_hold_about_equally_many_cells():
    lengths = np.random.default_rng(0).integers(0, 30, 400)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    for G in (1, 2, 8):
        users = sgd_grid.make_grid(indptr, np.ones(5, np.int64), G).users
        assert (users[0], users[-1], len(users)) == (0, 400, G + 1)
        assert np.abs(np.diff(indptr[users]) - indptr[-1] / G).max() < 30


@pytest.mark.small
@pytest.mark.parametrize("count", [2, 17])
def test_workers_write_cache_lines_of_their_own(count):
    workers = [sgd_epoch.empty_scratch(count, np.zeros((3, 16), np.float32)) for _ in range(8)]
    lines = [{at // 64 for a in w for at in range(a.ctypes.data, a.ctypes.data + a.nbytes)} for w in workers]
    assert sum(map(len, lines)) == len(set.union(*lines))
    assert all(a.flags.c_contiguous for w in workers for a in w)
