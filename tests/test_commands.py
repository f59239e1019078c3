"""Commands that the pages only mention, or show and do not run: every one runs here, on matrices that are tiny.

What makes a command small are words after it, since the last of two equal options counts. TRAIN.npz, the MovieLens
files and what one command leaves for another lie ready.
"""

import importlib
import itertools
import os
import re
import runpy
import shlex
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse as sp
from optional import require
from test_docs import PAGES, ROOT, run_page

import lfm_np

COMMAND = re.compile(r"`((?:[A-Z_]+=\S+ )*(?:python|pip|lfm-np|ruff|mypy|sphinx-build) [^`]+)`")
ELSEWHERE = {  # how commands start that are steps of .ci/run or run by another test, the file, and what it must hold
    "python -m pytest": (".ci/run", "python -m pytest"),
    "NUMBA_BOUNDSCHECK=1 python -m pytest": (".ci/run", "NUMBA_BOUNDSCHECK=1"),
    "NUMBA_DISABLE_JIT=1 python -m pytest": (".ci/run", "NUMBA_DISABLE_JIT=1 python -m pytest -q -m small"),
    "pip install": (".ci/run", "pip install"),
    "ruff format . && ruff check .": (".ci/run", "ruff format --check .\nruff check .\n"),
    "sphinx-build": (".ci/run", "sphinx-build -W"),
    "python tests/fuzz/guided.py": ("tests/test_fuzz.py", '"guided.py"'),
    "python -m lfm_np crosscheck": ("tests/test_torch_crosscheck.py", '"crosscheck", "--device", "cpu"'),
    "python -m benchmarks quick": (".ci/run", "python -m benchmarks quick"),
    "python -m benchmarks.equivalence": ("tests/test_benchmarks.py", "equivalence.main([])"),
    "python -m benchmarks.kill_checkpoint": ("tests/test_atomic.py", '"benchmarks.kill_checkpoint"'),
    "python -m tests.hostile": ("tests/hostile/test_hostile.py", '"tests.hostile"'),
}
RUN = "--datasets small --factors 4 --iterations 1 --device cpu --solvers lfm_np"
SMALL = {  # how commands start, what is written after them, what they need
    "python -m lfm_np": ("--help", "typer"),
    "python -m benchmarks": ("list", ""),
    "python -m benchmarks run": (RUN, ""),
    "python -m benchmarks report als.jsonl": ("", "matplotlib"),
    "python -m benchmarks.als_choice": ("--factors 8 --datasets seed --sweeps 3", ""),
    "python -m benchmarks.als_kernels": ("--largest 64 --seconds 0.001", ""),
    "python -m benchmarks.als_tuning": ("small --factors 4 --alphas 1 --regularizations 1 --sweeps 1", ""),
    "python -m benchmarks.ann": ("--users 50 --factors 4", "usearch faiss"),
    "python -m benchmarks.checkpoint_cost": ("small --factors 4 --sweeps 2 --rounds 1", ""),
    "python -m benchmarks.distributed": ("--factors 4 --sweeps 2 --repeats 1 --workers 1", "distributed"),
    "python -m benchmarks.fold_in": ("--factors 4 --seconds 0.01", ""),
    "python -m benchmarks.growth": ("--axes k --largest 24", "matplotlib"),
    "python -m benchmarks.interrupt": (
        "--rows 20000 --columns 2000 --cells 400000 --factors 32 --trials 1 --until 0.01 als",
        "",
    ),
    "python -m benchmarks.large_index": ("--cells 20000 --copies 3", ""),
    "python -m benchmarks.ml100k_ratings": ("--folds 1", ""),
    "python -m benchmarks.out_of_core": ("--cells 20000 --memory 64 --steps write store transpose", "pyarrow"),
    "python -m benchmarks.reading": ("--rows 20000", "pyarrow"),
    "python -m benchmarks.roofline": ("--cells 30000 --output roofline.svg", "matplotlib"),
    "python -m benchmarks.schedule": ("--sizes 300,100,3000,8 --plot schedule.png", "matplotlib"),
    "python -m benchmarks.sgd_quality": ("blocks curves --seeds 2 --epochs 1 2", "matplotlib"),
    "python -m benchmarks.sgd_quality blocks": ("--matrix ml-1m --seeds 2 --epochs 1 2", ""),
    "python -m benchmarks.sgd_quality losses": ("--seeds 1", ""),
    "python -m benchmarks.sgd_search": ("ratings --trials 1 --epochs 3", ""),
    "python -m benchmarks.sgd_search ml1m": ("BPR --trials 1 --epochs 3", ""),
    "python -m benchmarks.sgd_search ncf SampledSoftmax": ("--trials 1 --epochs 3", ""),
    "python -m benchmarks.sgd_speed": ("TRAIN.npz --factors 4 --rounds 1 --seconds 0.05 --profile", ""),
    "python -m benchmarks.evaluation": ("--users 50 --items 300 --factors 4", ""),
    "python -m benchmarks.topn": ("--users 50 --factors 4 --repeats 1", ""),
    "python -m benchmarks.validation": ("small --factors 4", ""),
    "python benchmarks/import_time.py": ("1", ""),
    "python -m tests.hostile --peers": ("--only cell", "implicit"),
    "python -m tests.moments": ("to_csr", "pyarrow"),
    "python tests/fuzz/mutations.py": ("--files 50", ""),
}
ALONE = ("benchmarks.interrupt", "benchmarks.distributed")  # send signals, or start processes that live on


def shown_commands():
    """Commands within sentences and tables, and those of blocks that are not run."""
    found = set()
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for block in run_page.blocks(page):
            if block.note.startswith("not run"):
                found |= {line.partition(" #")[0].strip() for line in block.code.splitlines()}
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        found |= {" ".join(command.split()) for command in COMMAND.findall(prose)}
    return {re.sub("^lfm-np", "python -m lfm_np", command) for command in found}


def start_of(command):
    """The longest of the starts in both tables, word by word."""
    starts = [start for start in (*ELSEWHERE, *SMALL) if f"{command} ".startswith(f"{start} ")]
    assert starts, f"{command}: how does it run on little data? Say so in SMALL"
    return max(starts, key=len)


def tiny_movielens(path, users, items, count):
    """A file of the format of MovieLens-1M and -100k: ratings of pairs in random order, one of each user held out."""
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.choice(users * items, count, replace=False), items)
    held = np.zeros(count, np.int8)
    held[np.unique(user, return_index=True)[1]] = 2
    np.savez(
        path,
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        value=rng.integers(1, 6, count).astype(np.float32),
        timestamp=rng.integers(10**9, 2 * 10**9, count),
        known=np.ones(count, bool),
        ncf_split=held,
        ncf_test_negatives=rng.integers(0, items, (users, 99)).astype(np.int32),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What commands of the pages find in the folder where they run."""
    place = tmp_path_factory.mktemp("commands")
    tiny_movielens(place / "ml-1m.npz", 200, 200, 5000)
    tiny_movielens(place / "ml-100k.npz", 100, 60, 2000)
    sp.save_npz(place / "TRAIN.npz", lfm_np.datasets.planted(300, 100, 5000, random_state=0).matrix)
    run = ["run", *RUN.split(), "--output", str(place / "als.jsonl")]
    assert importlib.import_module("benchmarks.__main__").main(run) == 0
    return place


def run_here(words, arguments, monkeypatch):
    """Run ``python WORDS`` in this process; its exit status."""
    monkeypatch.setattr(sys, "argv", arguments)
    try:
        if words[0] == "-m":
            for module in (words[1], f"{words[1]}.__main__"):
                monkeypatch.delitem(sys.modules, module, raising=False)  # runpy warns of what another test imported
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    except SystemExit as left:
        return left.code or 0
    return 0


def run_small(command, folder, monkeypatch):
    """Run ``command`` with what `SMALL` has for it; its exit status."""
    more, needs = SMALL[start_of(command)]
    for package in needs.split():
        require(package)
    words = [word for word in shlex.split(f"{command} {more}") if not re.match("[A-Z_]+=", word)]
    assert words.pop(0) == "python"
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LFM_NP_DATA", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))))
    if words[1] in ALONE:
        status = subprocess.run([sys.executable, *words], timeout=120).returncode
    else:
        status = run_here(words, words[1 if words[0] == "-m" else 0 :], monkeypatch)
    written = [word for option, word in itertools.pairwise(words) if option in ("--output", "--html", "--plot")]
    assert status or all((folder / name).exists() for name in written), f"{command} has not written {written}"
    return status


@pytest.mark.parametrize("command", sorted(shown_commands()))
def test_a_command_that_is_only_shown_runs(command, folder, monkeypatch, capfd):
    start = start_of(command)
    if start in SMALL:
        assert run_small(command, folder, monkeypatch) == 0
        assert capfd.readouterr().out or "--output" in command
    else:
        where, step = ELSEWHERE[start]
        assert step in (ROOT / where).read_text(encoding="utf-8")
        for path in re.findall(r"\btests/\S+\.py", command):
            assert (ROOT / path).exists(), command


SMALLER = {"demo": ["--rows", "1000"], "fit": ["--iterations", "2", "--factors", "8", "-o", "tried.safetensors"]}
STATUS = {"evaluate": (0, 1)}  # whether the model is as good as the example asks


def test_the_examples_of_help_run(tmp_path, monkeypatch, capfd):
    """In the order of the commands, on small files of the names that they use."""
    for package in ("typer", "pyarrow", "matplotlib"):
        require(package)
    from lfm_np import cli
    from lfm_np.cli.app import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LFM_NP_DATA", str(tmp_path))
    tiny_movielens(tmp_path / "ml-1m.npz", 200, 200, 5000)
    example_files(tmp_path)
    ran = []
    for command in (command.callback for command in app.registered_commands):
        for words in map(shlex.split, re.findall(r"`lfm-np ([^`]+)`", command.__doc__)):
            if words[0] == "crosscheck":  # half a minute; tests/test_torch_crosscheck.py runs it
                continue
            status = cli.main([*words, *SMALLER.get(words[0], ())])
            assert status in STATUS.get(words[0], (0,)), (words, capfd.readouterr().err)
            ran += [words[0]]
    assert {*ran, "crosscheck"} == {command.callback.__name__ for command in app.registered_commands}


def example_files(folder):
    pa, pq = require("pyarrow"), require("pyarrow.parquet")
    require("pyarrow.csv")
    pairs = lfm_np.datasets.make_interactions(100, 60, 12, random_state=0)
    users = np.array(["ann", "bob", *(f"u{i}" for i in range(98))])[pairs[:, 0]]
    columns = [pa.array(users), pa.array(pairs[:, 1]), pa.array(np.arange(len(pairs)))]
    for name, titles in (("plays", ["listener", "track", "plays"]), ("events", ["listener", "track", "time"])):
        pq.write_table(pa.table(columns, names=titles), folder / f"{name}.parquet")
    pa.csv.write_csv(pa.table(columns, names=["user", "item", "time"]), folder / "events.csv")
    (folder / "today.csv").write_text("user,item,time\nzoe,3,9999\n")
    (folder / "titles.csv").write_text("item,label\n50,Fifty\n")
    model = ["-o", str(folder / "model.safetensors"), "--hold-out", str(folder / "test.csv"), "--factors", "8"]
    assert importlib.import_module("lfm_np.cli").main(["fit", str(folder / "events.csv"), *model]) == 0


def test_a_command_that_does_not_exist_would_be_seen(folder, monkeypatch, capfd):
    assert {start_of(command) for command in shown_commands()} == {*SMALL, *ELSEWHERE}
    assert run_small("python -m benchmarks run --fctors 64", folder, monkeypatch) == 2
    assert "--fctors" in capfd.readouterr().err
    with pytest.raises(AssertionError, match="Say so in SMALL"):
        run_small("python -m benchmarks.sgd_sped", folder, monkeypatch)
    with pytest.raises(ImportError):
        run_here(["-m", "benchmarks.sgd_sped"], ["benchmarks.sgd_sped"], monkeypatch)
