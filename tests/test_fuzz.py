"""Bounded fuzzing; CONTRIBUTING.md has the commands for more."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fuzz import mutations, targets
from hypothesis import example, given
from hypothesis import strategies as st
from optional import require
from strategies import many

from lfm_np import persistence

GUIDED = Path(__file__).parent / "fuzz" / "guided.py"


def on_corpus(name):
    def decorate(test):
        for data in targets.TARGETS[name][1]():
            test = example(data)(test)
        return test

    return decorate


damaged = st.builds(
    lambda seed, mode: mode + mutations.mutated(np.random.default_rng(seed))[1],
    st.integers(0, 2**63),
    st.sampled_from([b"\x00", b"\xff"]),
)


@many
@given(st.one_of(damaged, st.binary(max_size=200)))
@on_corpus("load_model")
def test_load_model(data):
    targets.load_model(data)


@many
@given(st.binary(max_size=80))
@on_corpus("make_csr")
def test_make_csr(data):
    targets.make_csr(data)


cell = st.sampled_from(["", "1", "2", "-1", "1.5", "nan", "inf", "a", "ä", '"x,y"', '"', "2020-01-01", "true", "1e400"])
tables = st.builds(
    lambda how, header, rows, separator: (
        bytes([how]) + "\n".join(separator.join(row) for row in [header, *rows]).encode()
    ),
    st.integers(0, 31),
    st.sampled_from([["user", "item", "value"], ["user", "item"], ["a", "b", "c"], ["user", "user", "item"]]),
    st.lists(st.lists(cell, min_size=2, max_size=4), max_size=6),
    st.sampled_from([",", ";"]),
)


@many
@given(st.one_of(tables, st.binary(max_size=60)))
@on_corpus("read_csv")
def test_read_csv(data):
    require("pyarrow")
    targets.read_csv(data)


def test_damaged_files_are_refused():
    table = mutations.run(2000, seed=1)
    assert set(table) == {kind.__name__[1:] for kind in mutations.KINDS}
    assert sum(row[1] for row in table.values()) == 0
    assert sum(row[3] for row in table.values()) > 0  # past the checksum, the rest of the checks had work to do


def test_what_the_checksum_finds(monkeypatch):
    monkeypatch.setattr(persistence, "_check_digest", lambda buffer, header: None)
    assert sum(row[1] for row in mutations.run(200, seed=1).values()) > 0


@pytest.mark.parametrize("name", sorted(targets.TARGETS))
def test_guided(tmp_path, name):
    require("atheris")
    if name == "read_csv":
        require("pyarrow")
    command = [sys.executable, str(GUIDED), name, "-max_total_time=5", "-seed=1", "-rss_limit_mb=8192", "-timeout=20"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DONE" in done.stderr or "Done" in done.stderr, done.stderr[-3000:]
