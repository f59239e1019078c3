"""Coverage-guided fuzzing of one target, by atheris (libFuzzer).

    python tests/fuzz/guided.py load_model -max_total_time=60

Targets: load_model, make_csr, read_csv. Options are libFuzzer's; an input that fails is written to the current folder.
"""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

CODE = ("atomic", "cells", "id_columns", "persistence", "reading", "validation")
with atheris.instrument_imports(include=[f"lfm_np.{name}" for name in CODE], enable_loader_override=False):
    from fuzz import targets


def main():
    target, corpus = targets.TARGETS[sys.argv[1]]
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(corpus()):
            Path(folder, str(number)).write_bytes(data)
        atheris.Setup([sys.argv[0], *sys.argv[2:], folder], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
