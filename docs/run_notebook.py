"""Execute the notebook and write it with its outputs; an error in a cell is an error here.

python docs/run_notebook.py                                             # refresh the committed outputs
LFM_NP_NOTEBOOK_ROWS=20000 python docs/run_notebook.py --output FILE    # a quick check, as in CI
"""

import argparse
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("latent_factor_models.ipynb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=NOTEBOOK)
    output = parser.parse_args().output
    # Frozen modules upset the debugger that the kernel loads, and it says so in the outputs.
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day, which would change with every run
    nbformat.write(notebook, output)
    print(f"executed {sum(cell.cell_type == 'code' for cell in notebook.cells)} cells into {output}")


if __name__ == "__main__":
    main()
