"""The command line: thin commands over the library's functions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lfm_np._version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    options = _parser().parse_args(arguments)
    return options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lfm-np", description="Latent factor models on the CPU.")
    parser.add_argument("--version", action="version", version=f"lfm_np {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="factor real or synthetic data, judge the model, save it and draw its training curve",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--data", choices=("auto", "movielens", "synthetic"), default="auto", help="what to factor")
    demo.add_argument("--rows", type=int, default=1_000_000, help="rows of the synthetic data")
    demo.add_argument("--output", type=Path, default=Path(), help="folder for the model and the picture")
    demo.add_argument("--seed", type=int, default=0, help="of the split and the starting factors")
    demo.set_defaults(run=_demo)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from lfm_np.demo import demo

    demo(options.data, rows=options.rows, output=options.output, random_state=options.seed)
    return 0
