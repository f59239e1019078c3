"""What tests of the command line share: events, a model of them, and how commands are run."""

import csv
import io
import subprocess
import sys

import pytest
from optional import require

import lfm_np
from lfm_np import cli

COLUMNS = ("--user", "who", "--item", "what", "--timestamp", "when")
SMALL = ("--factors", "8", "--iterations", "4", "--alpha", "10")


@pytest.fixture
def typer():
    return require("typer")


@pytest.fixture(scope="module")
def cli_folder(tmp_path_factory):
    """Events of named users and numbered items, as a CSV file, and a model fitted to most of them."""
    for package in ("pyarrow", "typer"):
        require(package)
    folder = tmp_path_factory.mktemp("cli")
    pairs = lfm_np.datasets.make_interactions(300, 40, 8, random_state=0)
    with open(folder / "events.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["who", "what", "stars", "when"])
        for order, (u, i) in enumerate(pairs.tolist()):
            table.writerow([f"u{u:03}", 100 + i, 1 + (u * i) % 5, order])
    assert (
        run(
            "fit",
            folder / "events.csv",
            *COLUMNS,
            *SMALL,
            "--hold-out",
            folder / "test.csv",
            "-o",
            folder / "m.safetensors",
        )
        == 0
    )
    return folder


def run(*arguments):
    return cli.main([str(argument) for argument in arguments])


def python(*arguments, **options):
    command = [sys.executable, "-m", "lfm_np", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def rows(capsys):
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def data_of(folder):
    return lfm_np.Interactions.from_csv(folder / "events.csv", user="who", item="what", timestamp="when")
