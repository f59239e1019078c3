"""What the package promises before anything is computed: a light import, its extras, its types, its files."""

import configparser
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from optional import require

import lfm_np

pytestmark = pytest.mark.small
ROOT = Path(__file__).parents[1]
OPTIONAL = {
    "torch",
    "distributed",
    "dask",
    "matplotlib",
    "pyarrow",
    "narwhals",
    "pandas",
    "polars",
    "pooch",
    "requests",
}
OPTIONAL |= {"typer", "rich", "sklearn", "hypothesis", "pytest", "IPython", "scipy.stats", "scipy.optimize"}


def run(code, **environment):
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ | environment
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_import_loads_nothing_optional():
    loaded = set(run("import lfm_np, sys; print(*sys.modules)").split())
    assert loaded & OPTIONAL == set()


def test_the_threads_of_blas_can_be_set():
    """Else bits would depend on how many there are: threadpoolctl before 3.5 does not find NumPy's newer libraries."""
    assert "blas" in run(
        "from lfm_np.kernels import jit; print(*(one.user_api for one in jit._blas().lib_controllers))"
    )


def test_every_public_name_is_there_and_documented():
    for name in lfm_np.__all__:
        assert hasattr(lfm_np, name)
        assert name.startswith("__") or getattr(lfm_np, name).__doc__
    for name in lfm_np.datasets.__all__:
        assert getattr(lfm_np.datasets, name).__doc__


def test_modules_of_extras_load_on_first_access():
    assert (
        run("import lfm_np, sys; print('lfm_np.plots' in sys.modules, lfm_np.plots.__name__)") == "False lfm_np.plots\n"
    )
    assert "plots" in dir(lfm_np)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lfm_np.nothing  # noqa: B018


def settings():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_core_dependencies_and_extras():
    def names(text):
        return {
            re.split(r"[><=\[; ]", line.strip())[0] for line in text.replace(";", "\n").splitlines() if line.strip()
        }

    assert names(settings()["options"]["install_requires"]) == {
        "numpy",
        "scipy",
        "numba",
        "threadpoolctl",
        "tqdm",
        "safetensors",
    }
    extras = settings()["options.extras_require"]
    assert set(extras) == {
        "io",
        "cli",
        "plot",
        "torch",
        "sklearn",
        "tune",
        "ann",
        "distributed",
        "test",
        "bench",
        "docs",
        "dev",
        "fuzz",
        "all",
    }
    assert names(extras["io"]) == {"narwhals", "pyarrow", "fsspec", "pooch"}
    assert names(extras["cli"]) == {"typer", "rich"}
    assert names(extras["plot"]) == {"matplotlib"}
    inside = re.search(r"\[(.*)\]", extras["all"]).group(1).split(",")
    assert set(inside) == set(extras) - {"all", "dev", "fuzz", "test"}


def test_a_missing_extra_is_one_sentence_with_the_command():
    found = run(
        "import sys; sys.modules['pooch'] = None\n"
        "import lfm_np\n"
        "try: lfm_np.datasets.movielens('latest-small')\n"
        "except ImportError as error: print(error)",
        LFM_NP_DATA="",
    )
    assert found == "pooch is not installed; install it with: pip install 'lfm_np[io]'\n"


def test_an_extra_that_is_broken_is_not_said_to_be_absent(tmp_path):
    """An error of the package itself, or a package that it needs in turn."""
    for code, why in (("raise ImportError('libx.so.7: no such file')", "libx"), ("import not_there", "not_there")):
        (tmp_path / "pooch.py").write_text(code)
        found = run(
            f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
            "import lfm_np\n"
            "try: lfm_np.datasets.movielens('latest-small')\n"
            "except ImportError as error: print(error)",
            LFM_NP_DATA="",
        )
        assert found.startswith("pooch cannot be imported (")
        assert why in found


def test_a_backend_that_is_broken_is_not_said_to_be_absent(tmp_path):
    require("narwhals")
    require("pyarrow")
    (tmp_path / "polars.py").write_text("raise ImportError('libx.so.7: no such file')")
    found = run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import lfm_np\n"
        "data = lfm_np.Interactions.from_arrays([1], [2])\n"
        "try: lfm_np.recommend_frame(lfm_np.Factors([[1.0]], [[1.0]]), data, backend='polars')\n"
        "except ImportError as error: print(error)"
    )
    assert found == "backend='polars' needs polars, which cannot be imported (libx.so.7: no such file)\n"


@pytest.mark.parametrize(
    ("absent", "code", "command"),
    [
        ("distributed", "lfm_np.distributed", "distributed is not installed; install it with: .*lfm_np.distributed."),
        ("dask", "lfm_np.distributed", r"distributed cannot be imported \(.*dask.*\); .*lfm_np.distributed."),
        ("pyarrow", "lfm_np.distributed", "pyarrow is not installed; install it with: .*lfm_np.distributed."),
        ("pyarrow", "lfm_np.StoredMatrix.from_parquet('a', 'b')", "pyarrow is not installed; .*lfm_np.io."),
        ("narwhals", "frame('pandas')", "narwhals is not installed; .*lfm_np.io."),
        ("pandas", "frame('pandas')", "backend='pandas' needs pandas, which is not installed"),
    ],
)
def test_every_way_to_a_missing_extra_says_so(absent, code, command):
    for needed in ("distributed", "pyarrow", "narwhals", "pandas"):
        require(needed)
    found = run(
        f"import sys; sys.modules[{absent!r}] = None\n"
        "import lfm_np\n"
        "def frame(backend):\n"
        "    data = lfm_np.Interactions.from_arrays([1], [2])\n"
        "    return lfm_np.recommend_frame(lfm_np.Factors([[1.0]], [[1.0]]), data, backend=backend)\n"
        f"try: {code}\n"
        "except ImportError as error: print(error)"
    )
    assert re.fullmatch(command + "'?\n", found), found


def test_the_version_is_the_changelogs():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[({re.escape(lfm_np.__version__)}|Unreleased)\]", changelog, re.MULTILINE)


def test_types_ship():
    assert (Path(lfm_np.__file__).parent / "py.typed").exists()


def test_only_one_module_compiles():
    """Compiler options and the kernel cache have one home."""
    for path in (ROOT / "lfm_np").rglob("*.py"):
        text = path.read_text()
        if path.name != "jit.py":
            assert not re.search(r"\bn?jit\(.*(parallel|cache|fastmath)", text), path
        if path.parent.name != "kernels":
            assert "import numba" not in text, path


def test_metadata():
    try:
        metadata = importlib.metadata.metadata("lfm_np")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("running from a source tree that is not installed")
    assert metadata["Version"] == lfm_np.__version__
    assert "MIT" in metadata.get("License-Expression", metadata.get("License", ""))
    assert metadata["Requires-Python"] == ">=3.11"


STRICT = """
import os, sys, tempfile, warnings
import lfm_np
warnings.simplefilter("error")  # now: Numba itself opens a file without an encoding
X = lfm_np.to_csr([(0, 1), (1, 0), (1, 1)], shape=(2, 2))
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "stored")
    print(lfm_np.als(lfm_np.StoredMatrix.from_matrix(X, path), factors=2, iterations=1))
    print(lfm_np.als(X, factors=2, iterations=1))
"""


def test_encodings_are_named():
    """Python has a warning for those that are not, and programs that make errors of warnings."""
    found = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", STRICT], capture_output=True, text=True, cwd=ROOT
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("Factors(") == 2
