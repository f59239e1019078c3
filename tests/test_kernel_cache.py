"""Compiled kernels on disk: what is damaged or not surely ours is compiled again, never loaded."""

import errno
import hashlib
import os
import pickle
import py_compile
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

from lfm_np.kernels import cache
from lfm_np.kernels.jit import jit

HASHED = py_compile.PycInvalidationMode.UNCHECKED_HASH  # no time of the source in the file


def _twice(x):
    return 2 * x


@pytest.fixture
def root(tmp_path, monkeypatch):
    """LFM_NP_CACHE_DIR, which does not exist yet; the temporary folder is another one."""
    monkeypatch.setenv("LFM_NP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache.cache_folder.cache_clear()
    yield tmp_path / "cache"
    cache.cache_folder.cache_clear()


def loaded():
    """Call a kernel in a new dispatcher; whether it came from the cache."""
    found = []

    class Spy(cache.KernelCache):
        def load_overload(self, *args):
            found.append(super().load_overload(*args))
            return found[-1]

    kernel = jit(_twice)
    kernel._cache = Spy(_twice)
    assert kernel(21.0) == 42.0
    return found[-1] is not None


def file_of(folder):
    (path,) = folder.glob("*/*")
    return path


class Poison:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def sealed(payload, path):
    return hashlib.sha256(path.name.encode() + payload).digest() + payload


def test_a_kernel_is_compiled_once_into_a_private_file(root):
    assert not loaded()
    assert loaded()
    modes = [path.stat().st_mode & 0o777 for path in (root, file_of(root).parent, file_of(root))]
    assert modes == [0o700, 0o700, 0o600]


def test_a_folder_beside_what_a_link_leads_to(root, tmp_path, monkeypatch):
    """Where "link/.." is; tempfile takes it for the folder that the link is in."""
    (tmp_path / "disk/deep").mkdir(parents=True)
    os.symlink("disk/deep", tmp_path / "link")
    monkeypatch.setenv("LFM_NP_CACHE_DIR", str(tmp_path / "link/../here"))
    assert not loaded()
    assert loaded()
    assert file_of(tmp_path / "disk/here").stat().st_mode & 0o777 == 0o600


DAMAGES = {
    "empty": lambda content, path: b"",
    "within the digest": lambda content, path: content[:20],
    "truncated": lambda content, path: content[:-1],
    "digest flipped": lambda content, path: bytes([content[0] ^ 1]) + content[1:],
    "bit flipped": lambda content, path: content[:1000] + bytes([content[1000] ^ 64]) + content[1001:],
    "longer": lambda content, path: content + b"\0",
    "another pickle": lambda content, path: sealed(pickle.dumps({"library": None}), path),
    "no pickle": lambda content, path: sealed(b"text", path),
    "of another name": lambda content, path: sealed(content[32:], path.with_name("other.nbc")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_compiled_again_and_replaced(root, damage):
    assert not loaded()
    path = file_of(root)
    path.write_bytes(DAMAGES[damage](path.read_bytes(), path))
    assert not loaded()
    assert loaded()
    assert file_of(root) == path


def test_of_another_version_is_of_another_folder(root, monkeypatch):
    assert not loaded()
    monkeypatch.setattr(cache.numba, "__version__", "0.0")
    cache.cache_folder.cache_clear()
    assert not loaded()
    assert len(list(root.iterdir())) == 2


def test_every_kernel_source_and_version_is_in_the_name(tmp_path, monkeypatch):
    names = {cache._fingerprint()}
    for module, name in ((cache.numba, "__version__"), (cache.llvmlite, "__version__"), (cache.config, "CPU_NAME")):
        monkeypatch.setattr(module, name, "other")
        names.add(cache._fingerprint())
    for path in sorted(Path(cache.__file__).parent.glob("*.py")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert cache._sources(tmp_path) == cache._SOURCES
    with open(tmp_path / "simd.py", "a") as file:
        file.write("\n")
    monkeypatch.setattr(cache, "_SOURCES", cache._sources(tmp_path))
    assert cache._fingerprint() not in names


CHANGED_AFTER_THE_IMPORT = """
import lfm_np, os, sys
from lfm_np.kernels import cache
folder = os.path.dirname(cache.__file__)
assert folder == os.path.join(os.getcwd(), "lfm_np", "kernels"), folder
kernels = {name[:-3] for name in os.listdir(folder) if name.endswith(".py") and name != "__init__.py"}
assert {f"lfm_np.kernels.{name}" for name in kernels} <= set(sys.modules)  # or later sources would have this name
print(cache._fingerprint())
with open(os.path.join(folder, "scores.py"), "a") as file:
    file.write("# edited")
print(cache._fingerprint())
"""


def test_sources_that_change_after_the_import_do_not_change_the_name(tmp_path):
    shutil.copytree(Path(cache.__file__).parents[1], tmp_path / "lfm_np", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", CHANGED_AFTER_THE_IMPORT]
    old, new = (subprocess.check_output(command, cwd=tmp_path, text=True).split() for _ in range(2))
    assert old[0] == old[1] != new[0]


@pytest.mark.parametrize("form", ["sources", "compiled", "archive"])
def test_kernels_are_known_by_what_is_imported(tmp_path, form):
    """Also where there are no sources: an old kernel from the cache would be taken for the new one."""
    sources = sorted(Path(cache.__file__).parent.glob("*.py"))

    def name(more):
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}" / "kernels"
        folder.mkdir(parents=True)
        for path in sources:
            (folder / path.name).write_text(path.read_text() + (more if path.name == "simd.py" else ""))
        if form == "compiled":
            for path in folder.glob("*.py"):
                py_compile.compile(path, path.with_suffix(".pyc"), path.name, invalidation_mode=HASHED)
                path.unlink()
        if form == "archive":
            return cache._sources(Path(shutil.make_archive(folder.parent / "whole", "zip", folder.parent)) / "kernels")
        return cache._sources(folder)

    names = [name(more) for more in ("", "", "\nX = 1\n", "\nX = 2\n")]
    assert None not in names
    assert len(set(names)) == 3


def test_kernels_of_which_nothing_is_to_be_had_are_not_kept(root, tmp_path, monkeypatch):
    """As in a frozen program: no name would tell them from those of another version."""
    assert cache._sources(tmp_path / "nowhere") is None
    monkeypatch.setattr(cache, "_SOURCES", None)
    assert not loaded()
    assert not loaded()
    assert not root.exists()


def test_a_folder_whose_mode_cannot_be_changed(root, monkeypatch):
    def chmod(*args, **keywords):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chmod", chmod)
    assert not loaded()
    assert loaded()


@pytest.mark.parametrize(
    "opened", ["nothing", "file", "folder", "group", "root", "owner"], ids=lambda name: f"{name} is open"
)
def test_code_in_a_file_runs_only_if_nobody_else_could_write_it(root, tmp_path, monkeypatch, opened):
    assert not loaded()
    path, marker = file_of(root), tmp_path / "poisoned"
    path.write_bytes(sealed(pickle.dumps(Poison(marker)), path))
    cache.cache_folder.cache_clear()
    if opened == "owner":
        user = os.geteuid() + 1
        monkeypatch.setattr(cache.os, "geteuid", lambda: user)
    elif opened != "nothing":
        place = {"file": path, "folder": path.parent, "group": path.parent, "root": root}[opened]
        place.chmod(0o770 if opened == "group" else 0o777)
    if opened in ("nothing", "file"):
        assert not loaded()
    else:
        with pytest.warns(RuntimeWarning, match=r"not kept in .*(belongs to user \d+|lets others write); set LFM"):
            assert not loaded()
    assert marker.exists() == (opened == "nothing")  # the poison works, where it would be our own


def test_a_folder_that_others_may_read_is_closed(root):
    assert not loaded()
    folder = file_of(root).parent
    root.chmod(0o755)
    folder.chmod(0o755)
    cache.cache_folder.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loaded()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_relative_folder_is_that_of_the_first_look(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LFM_NP_CACHE_DIR", "here")
    assert cache.cache_folder().parent == tmp_path / "here"


def _a_file(root):
    root.write_bytes(b"")


def _below_a_file(root):
    root.write_bytes(b"")
    os.environ["LFM_NP_CACHE_DIR"] = str(root / "below")


def _a_link(root):
    (root.parent / "elsewhere").mkdir()
    root.symlink_to(root.parent / "elsewhere")


@pytest.mark.parametrize(
    ("make", "reason"),
    [(_a_file, "is not a folder"), (_below_a_file, "cannot be written"), (_a_link, "is a symbolic link")],
)
def test_what_cannot_be_used_is_passed_over_with_a_warning(root, make, reason):
    make(root)
    with pytest.warns(RuntimeWarning, match=reason):
        assert not loaded()
    assert loaded()  # from the temporary folder
    assert cache.cache_folder().parent.parent == root.parent


def test_without_any_folder_every_process_compiles(monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.delenv("LFM_NP_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    monkeypatch.setattr(tempfile, "gettempdir", none)
    cache.cache_folder.cache_clear()
    assert not loaded()
    assert cache.cache_folder() is None
    cache.cache_folder.cache_clear()


def test_processes_that_compile_at_once(root):
    script = "import numpy as np; from lfm_np.kernels.jit import jit\n@jit\ndef twice(x):\n    return 2 * x\n"
    script += "assert twice(21.0) == 42.0"
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert file_of(root).suffix == ".nbc"  # one, and nothing temporary
    content = file_of(root).read_bytes()
    assert sealed(content[32:], file_of(root)) == content


def test_a_full_disk_costs_a_compile(root, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "replace", full)
    assert not loaded()
    assert list(root.glob("*/*")) == []
    assert not loaded()
