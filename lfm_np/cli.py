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

    check = commands.add_parser(
        "crosscheck",
        help="compare the solvers with their torch versions on a device, number by number",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    check.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps or auto")
    check.add_argument("--data", type=Path, help="scipy.sparse .npz file; by default planted interactions")
    check.add_argument("--factors", type=int, default=16)
    check.add_argument("--sweeps", type=int, default=3, help="of als")
    check.add_argument("--json", type=Path, help="write the report here as JSON")
    check.add_argument("--html", type=Path, help="write the report here as a page")
    check.set_defaults(run=_crosscheck)
    return parser


def _demo(options: argparse.Namespace) -> int:
    from lfm_np.demo import demo

    demo(options.data, rows=options.rows, output=options.output, random_state=options.seed)
    return 0


def _crosscheck(options: argparse.Namespace) -> int:
    """Exit status 1 where a row fails."""
    import scipy.sparse

    from lfm_np.torch_backend import crosscheck

    X = None if options.data is None else scipy.sparse.load_npz(options.data)
    report = crosscheck(X, device=options.device, factors=options.factors, sweeps=options.sweeps)
    if options.json:
        report.to_json(options.json)
    if options.html:
        report.to_html(options.html)
    print(report)
    return 0 if report.passed else 1
