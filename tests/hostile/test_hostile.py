"""The corpus: every case as it should be, and guards that are seen to fail."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from . import corpus, processes
from .case import OK, Case, Holds, raises

ENVIRONMENT = dict(os.environ)  # when tests were collected: dask leaves OMP_NUM_THREADS=1 and more in it
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="cases run in forked processes")


@pytest.fixture(scope="module")
def outcomes():
    """All cases, started from a process that has no threads."""
    command = [sys.executable, "-m", "tests.hostile", "--json"]
    root = Path(__file__).parents[2]
    large_pages = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # a fork takes half the time
    environment = ENVIRONMENT | large_pages
    run = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=1800)
    lines = run.stdout.splitlines()
    return {name: rest for name, *rest in map(json.loads, lines)}


@pytest.mark.parametrize("name", [case.name for case in corpus.cases()])
def test_case(outcomes, name):
    assert outcomes[name][0] == OK, ": ".join(outcomes[name])


def _write(array):
    array[0] = 7


def _forever():
    while True:
        time.sleep(1)


@pytest.mark.parametrize(
    ("kind", "call", "expect", "data"),
    [
        ("silent wrong", lambda: 1, raises(ValueError, "x"), {}),
        ("silent wrong", lambda: 1, Holds(lambda result: result == 2), {}),
        ("obscure error", lambda: [][0], raises(ValueError, "x"), {}),
        ("obscure error", lambda: int("y"), raises(ValueError, "factors"), {}),
        ("valid refused", lambda: int("y"), Holds(lambda result: True), {}),
        ("data changed", _write, Holds(lambda result, array: True), {"array": np.zeros(3)}),
        ("data changed", lambda: np.random.seed(5), Holds(lambda result: True), {}),  # noqa: NPY002
        ("crash", lambda: os.abort(), Holds(lambda result: True), {}),
        ("crash", lambda: os._exit(3), Holds(lambda result: True), {}),
        ("hang", _forever, Holds(lambda result: True), {}),
    ],
)
def test_the_judge_sees_what_goes_wrong(kind, call, expect, data):
    command = Case("case", call, expect, lambda: data)
    assert processes.run([command], seconds=3)["case"].kind == kind
