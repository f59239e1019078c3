"""How long ``import lfm_np`` takes against ``import numba, scipy.sparse``, which it needs: interleaved medians.

python benchmarks/import_time.py [repeats]
"""

import argparse
import statistics
import subprocess
import sys
import time

STATEMENTS = {"import numba, scipy.sparse": [], "import lfm_np": []}


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("repeats", nargs="?", type=int, default=15)
    repeats = parser.parse_args().repeats
    for _ in range(repeats + 1):
        for statement, times in STATEMENTS.items():
            times.append(seconds(statement))
    medians = [statistics.median(times[1:]) for times in STATEMENTS.values()]  # the first round warms the disk cache
    empty = statistics.median(seconds("pass") for _ in range(repeats))
    for statement, median in zip(STATEMENTS, medians):
        print(f"{statement:28} {median:.3f} s")
    print(f"{'interpreter alone':28} {empty:.3f} s")
    print(f"ratio {medians[1] / medians[0]:.2f}")
    print(f"ratio without the interpreter's start {(medians[1] - empty) / (medians[0] - empty):.2f}")


if __name__ == "__main__":
    main()
