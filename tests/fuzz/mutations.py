"""Damaged model files, and what becomes of them.

    python tests/fuzz/mutations.py --files 100000

A damaged file must be refused. One that is damaged and then given a right checksum stands for one that was made to do
harm: it may be refused, or loaded as a model that is valid in itself.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from fuzz import targets  # noqa: E402


def _place(rng, data):
    """Mostly in the header, where every byte has a meaning."""
    header = 8 + int.from_bytes(data[:8], "little")
    return int(rng.integers(0, header if rng.random() < 0.6 else len(data)))


def _flip(rng, data, at):
    data[at] ^= 1 << int(rng.integers(0, 8))


def _byte(rng, data, at):
    data[at] = int(rng.integers(0, 256))


def _cut(rng, data, at):
    del data[at:]


def _delete(rng, data, at):
    del data[at : at + int(rng.integers(1, 9))]


def _insert(rng, data, at):
    data[at:at] = rng.bytes(int(rng.integers(1, 9)))


def _append(rng, data, at):
    data += rng.bytes(int(rng.integers(1, 5000)))


def _reverse(rng, data, at):
    size = int(rng.integers(2, 40))
    data[at : at + size] = data[at : at + size][::-1]


def _repeat(rng, data, at):
    data[at:at] = data[at : at + int(rng.integers(1, 60))]


def _zero(rng, data, at):
    size = len(data[at : at + int(rng.integers(1, 60))])
    data[at : at + size] = bytes(size)


def _digit(rng, data, at):
    digits = [place for place, byte in enumerate(data[: 8 + int.from_bytes(data[:8], "little")]) if 48 <= byte < 58]
    data[int(rng.choice(digits))] = 48 + int(rng.integers(0, 10))


def _length(rng, data, at):
    numbers = [0, 1, 2**31, 2**40, 2**63, 2**64 - 1, len(data), len(data) - 8, int(rng.integers(0, 999))]
    data[:8] = numbers[int(rng.integers(len(numbers)))].to_bytes(8, "little")


def _splice(rng, data, at):
    other = FILES[int(rng.integers(len(FILES)))]
    data[at:] = other[at:]


KINDS = (_flip, _byte, _cut, _delete, _insert, _append, _reverse, _repeat, _zero, _digit, _length, _splice)
FILES = tuple(targets.valid_files())


def mutated(rng):
    """A kind of damage and a damaged file."""
    kind = KINDS[int(rng.integers(len(KINDS)))]
    while True:
        data = bytearray(FILES[int(rng.integers(len(FILES)))])
        kind(rng, data, _place(rng, data))
        if bytes(data) not in FILES:
            return kind.__name__[1:], bytes(data)


def run(count, seed):
    """{kind: [refused, accepted, refused though resealed, accepted as resealed]}; anything else is raised."""
    rng, table = np.random.default_rng(seed), {}
    for _ in range(count):
        kind, data = mutated(rng)
        row = table.setdefault(kind, [0, 0, 0, 0])
        row[0 if targets.load(data) is None else 1] += 1
        row[2 if targets.load(targets.resealed(data)) is None else 3] += 1
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table = run(options.files, options.seed)
    print("| damage | files | refused | accepted | with a right checksum: refused | valid |\n| --- |" + " ---: |" * 5)
    for kind, row in [*sorted(table.items()), ("all", np.sum([*table.values()], axis=0).tolist())]:
        print(f"| {kind} | {row[0] + row[1]:,} | {row[0]:,} | {row[1]:,} | {row[2]:,} | {row[3]:,} |")
    return any(row[1] for row in table.values())


if __name__ == "__main__":
    sys.exit(main())
