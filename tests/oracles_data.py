"""Plain loops for everything that turns records into cells. Imports nothing from the library."""

import math


def build_dict(pairs):
    found = {}
    for i, j in pairs:
        found.setdefault(int(i), set()).add(int(j))
    return {i: sorted(js) for i, js in sorted(found.items())}


def cells(pairs, values, duplicates, timestamps=None):
    """{(i, j): (value, time)}; the last record is the one with the latest time, unknown times being the earliest."""
    groups = {}
    for position, (i, j) in enumerate(pairs):
        time = position if timestamps is None else timestamps[position]
        early = -math.inf if time != time else time
        groups.setdefault((int(i), int(j)), []).append((early, position, time, float(values[position])))
    found = {}
    for pair, group in groups.items():
        group.sort(key=lambda record: record[:2])
        numbers = [record[3] for record in group]
        value = {
            "sum": sum(numbers),
            "mean": sum(numbers) / len(numbers),
            "max": max(numbers),
            "last": numbers[-1],
            "count": len(numbers),
        }[duplicates]
        found[pair] = (value, group[-1][2])
    return found


def last_out(rows, columns, times, n):
    """The set of (row, column) that leave-last-out holds out."""
    held = set()
    for row in set(rows):
        mine = sorted((time, column) for r, column, time in zip(rows, columns, times) if r == row)
        held |= {(row, column) for _, column in mine[max(1, len(mine) - n) :]}
    return held


def late(times, fraction):
    """A flag a cell: the most cells that are later than all others and at most ``fraction`` of them."""
    best = [False] * len(times)
    for cut in set(times):
        flags = [time >= cut for time in times]
        if sum(best) < sum(flags) and sum(flags) / len(times) <= fraction:
            best = flags
    return best


def core(pairs, least_user, least_item):
    """The pairs that are left when users and items with fewer pairs go, until nothing changes."""
    pairs = set(pairs)
    while True:
        kept = {
            (u, i)
            for u, i in pairs
            if sum(v == u for v, _ in pairs) >= least_user and sum(j == i for _, j in pairs) >= least_item
        }
        if kept == pairs:
            return kept
        pairs = kept
