"""Compiled kernels on disk, where only this user can write."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import pkgutil
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import config
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult

from lfm_np.atomic import open_regular
from lfm_np.signals import pass_on, signals_held


class KernelCache(_Cache):
    """One file per compiled signature: a SHA-256 digest of name and content, then the pickled object code.

    Numba's own cache looks at the file that holds the entry point only (numba #1833), so that a kernel keeps running an
    old copy of an edited helper; here the folder's name is a hash of every kernel source, as imported, of the versions
    and of the options. A file that is damaged, foreign or unreadable counts as absent. Only files and folders that
    belong to this user and that nobody else may write are read, since object code is trusted code and unpickling runs
    what it finds.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._enabled = True

    @property
    def cache_path(self) -> str:
        return str(cache_folder() or "")

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        folder = cache_folder()
        for path in folder.glob(f"{self._stem()}.*") if folder else ():
            path.unlink(missing_ok=True)

    def _stem(self) -> str:
        return f"{self._function.__module__.rsplit('.', 1)[-1]}.{self._function.__qualname__}"

    def _path(self, folder: Path, sig: Any, codegen: Any) -> Path:
        key = repr((str(sig), codegen.magic_tuple())).encode()
        return folder / f"{self._stem()}.{hashlib.sha256(key).hexdigest()[:20]}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        folder = cache_folder() if self._enabled else None
        if folder is None:
            return None
        target_context.refresh()
        try:
            path = self._path(folder, sig, target_context.codegen())
            with open_regular(str(path)) as file:
                if _mistrusted(os.fstat(file.fileno())):
                    return None
                digest, payload = file.read(32), file.read()
            if _digest(path, payload) != digest:
                return None
            return CompileResult._rebuild(target_context, *pickle.loads(payload))
        except Exception:  # whatever is wrong with a cache file, compiling again is right
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        folder = cache_folder() if self._enabled else None
        if folder is None or data.library.has_dynamic_globals:
            return
        payload = pickle.dumps(data._reduce(), protocol=pickle.HIGHEST_PROTOCOL)
        with contextlib.suppress(OSError):  # a full disk or a vanished folder only costs the next process a compile
            path = self._path(folder, sig, data.codegen)
            # Mode 0600, a name of its own; the real folder, as tempfile makes "link/.." the folder that the link is in.
            handle, temporary = tempfile.mkstemp(".tmp", self._stem(), folder.resolve())
            try:
                with open(handle, "wb") as file:
                    file.write(_digest(path, payload) + payload)
                os.replace(temporary, path)
            finally:
                Path(temporary).unlink(missing_ok=True)


def _digest(path: Path, payload: bytes) -> bytes:
    """Of the name too: under another one the code is that of another kernel."""
    return hashlib.sha256(path.name.encode() + payload).digest()


# ---- the folder -----------------------------------------------------------------------------------------------------


@functools.cache
def cache_folder() -> Path | None:
    """Folder of the compiled kernels (mode 0700), or None when no private folder can be made, or no source is there.

    ``LFM_NP_CACHE_DIR`` comes first, then the user's cache folder, then the temporary folder. A folder that somebody
    else may write is passed over with a warning, and so is an ``LFM_NP_CACHE_DIR`` that cannot be used.
    """
    if _SOURCES is None:  # nothing would tell these kernels from those of another version
        return None
    roots = _candidates()
    asked = roots[0] if os.environ.get("LFM_NP_CACHE_DIR") else None
    for root in roots:
        folder = root / f"kernels-{_fingerprint()}"
        with signals_held():  # a handler's TimeoutError is an OSError, and would pass for one of the folder
            reason = _unusable(root) or _unusable(folder)
        if not reason:
            with signals_held(), contextlib.suppress(OSError):  # of a file system without modes
                os.chmod(folder, 0o700)
            return folder
        if reason != CANNOT_WRITE or root == asked:
            warnings.warn(
                f"compiled kernels are not kept in {root}: {reason}; set LFM_NP_CACHE_DIR to a folder of your own "
                "with mode 0700, or to one that does not exist yet",
                RuntimeWarning,
                stacklevel=2,
            )
    return None


def _candidates() -> list[Path]:
    found = []
    if os.environ.get("LFM_NP_CACHE_DIR"):
        found.append(Path(os.environ["LFM_NP_CACHE_DIR"]))
    elif os.environ.get("XDG_CACHE_HOME"):
        found.append(Path(os.environ["XDG_CACHE_HOME"]) / "lfm_np")
    else:
        with contextlib.suppress(RuntimeError):  # no HOME and no passwd entry
            found.append(Path.home() / ".cache" / "lfm_np")
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    with contextlib.suppress(OSError):  # no temporary folder
        found.append(Path(tempfile.gettempdir()) / f"lfm_np-{user}")
    with contextlib.suppress(OSError):  # the current folder is gone
        found = [path.absolute() for path in found]
    return found


CANNOT_WRITE = "it cannot be written"


def _unusable(path: Path) -> str:
    """Why a folder, which is made if need be, is not ours alone to write; empty if it is."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.lstat()
    except FileExistsError:
        return f"{path} is not a folder"
    except OSError:
        return CANNOT_WRITE
    if not stat.S_ISDIR(info.st_mode):
        return f"{path} is a symbolic link"
    return _mistrusted(info) or ("" if os.access(path, os.W_OK | os.X_OK) else CANNOT_WRITE)


def _mistrusted(info: os.stat_result) -> str:
    """Why somebody else may have written a file or a folder; empty if nobody may."""
    if not hasattr(os, "geteuid"):  # Windows: a user's folders are closed to others
        return ""
    if info.st_uid != os.geteuid():
        return f"it belongs to user {info.st_uid}"
    return f"its mode {stat.S_IMODE(info.st_mode):04o} lets others write" if info.st_mode & 0o022 else ""


def _fingerprint() -> str:
    """Hash of everything the object code depends on besides the signature and the CPU."""
    digest = hashlib.sha256(_SOURCES or b"")
    options = (sys.version_info[:3], numba.__version__, llvmlite.__version__, np.__version__)
    flags = (config.OPT, bool(config.BOUNDSCHECK), bool(config.DEBUGINFO_DEFAULT), config.ENABLE_AVX)
    digest.update(repr((options, flags, config.CPU_NAME, config.CPU_FEATURES)).encode())
    return digest.hexdigest()[:24]


def _sources(folder: Path) -> bytes | None:
    """As the importer of the folder reads them: sources, compiled modules alone, or parts of a zip archive.

    None where it does not, as in a frozen program.
    """
    digest, modules = hashlib.sha256(), sorted(pkgutil.iter_modules([str(folder)]), key=lambda module: module.name)
    try:
        for finder, name, _ in modules:
            spec = finder.find_spec(name)  # type: ignore[call-arg]
            digest.update(name.encode() + spec.loader.get_data(spec.origin))  # type: ignore[union-attr]
    except (AttributeError, ImportError, OSError) as error:
        pass_on(error)
        return None
    return digest.digest() if modules else None


# Of what is being imported: by the first call an upgrade may have put other files there, and the object code of these
# would be kept under the name of those. One or two milliseconds.
_SOURCES = _sources(Path(__file__).parent)
