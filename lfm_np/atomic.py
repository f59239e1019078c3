"""Replace a file in one step: after a crash at any moment it is the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from lfm_np import paths
from lfm_np.signals import pass_on, signals_held

try:
    import fcntl
except ImportError:  # Windows: temporary files of killed writers stay
    fcntl = None  # type: ignore[assignment]

_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
_TEMPORARY = ".lfm_np."
_MARK = ".lfm_np.partial"  # in a folder that is being written
_NOT_FOLLOWED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def open_regular(path: str) -> BinaryIO:
    """``path`` opened to read, if it is a regular file; nothing else can keep the caller waiting."""
    check_regular(path, os.stat(path))
    file: BinaryIO | None = None
    try:
        with signals_held():  # until the file has its descriptor
            file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 (the caller closes it)
        check_regular(path, os.fstat(file.fileno()))
        return file
    except BaseException:
        if file:
            file.close()
        raise


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def check_regular(path: str, info: os.stat_result) -> None:
    """Refuse folders, FIFOs, sockets and devices."""
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(info.st_mode):
        raise ValueError(f"path must name a regular file, got {path}, {_KINDS[stat.S_IFMT(info.st_mode)]}")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file to write; when the block ends without an exception, it takes the place of ``path``.

    It lies in the same folder, and file and folder reach the disk before this returns. A new file has the mode that the
    umask leaves, a replaced one keeps its mode, and a symbolic link its place. Any number of writers may be at work.

    Raises
    ------
    OSError
        With ``path`` as its file name, whatever went wrong. The file is then as it was before.
    """
    path = os.fsdecode(path)
    with _named(path):
        target = _target(path)
        mode = _mode(target)
        with _temporary(os.path.dirname(target)) as (temporary, file):
            if mode is not None and mode != stat.S_IMODE(os.fstat(file.fileno()).st_mode):  # some systems cannot
                os.chmod(temporary, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":  # where an open file cannot be renamed
                file.close()
            try:
                os.replace(temporary, target)
            except OSError:  # as there, where somebody has the target open
                if file.closed:
                    os.unlink(temporary)
                raise
    _sync_folder(os.path.dirname(target))


@contextlib.contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder to write files to, ``folder.partial``; when the block ends without an exception, it becomes ``folder``.

    What a killed writer left is removed by the next one; a folder of that name that no writer made is refused. The
    files are the caller's to bring to the disk.
    """
    _refuse_what_is_there(folder)
    claim = _Claim(folder.with_name(f"{folder.name}.partial"))
    try:
        claim.take()
        _refuse_what_is_there(folder)  # by now, from a writer that was faster
        for left in os.scandir(claim.folder):
            if left.name == _MARK:
                continue
            with signals_held():
                shutil.rmtree(left.path) if left.is_dir(follow_symlinks=False) else os.unlink(left.path)
        yield claim.folder
        _sync_folder(str(claim.folder))
        claim.rename(folder)
    finally:
        try:
            claim.end()
        except BaseException:  # a handler raised before it could begin
            claim.end()
            raise
    _sync_folder(str(folder.parent))


def _refuse_what_is_there(folder: Path) -> None:
    if paths.exists(folder):
        raise FileExistsError(
            errno.EEXIST, "There is such a folder or file already; remove it, or name another", str(folder)
        )


class _Claim:
    """Of a writer to a folder, which is locked for as long as it is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mine = False
        self._descriptors: list[int] = []

    def take(self) -> None:
        with signals_held():
            while not self._mine:
                self._mine = self._taken()
            (self.folder / _MARK).touch()

    def rename(self, folder: Path) -> None:
        with signals_held():
            os.rename(self.folder, folder)
            self._mine = False
            os.unlink(folder / _MARK)

    def end(self) -> None:
        """Give back what this writer has and remove what it did not rename."""
        with signals_held():
            if self._mine:
                shutil.rmtree(self.folder, ignore_errors=True)
                self._mine = False
            while self._descriptors:
                os.close(self._descriptors.pop())

    def _taken(self) -> bool:
        """Whether this writer has the folder for itself; False if it vanished meanwhile, with another writer.

        Without locks only a folder that is new can be had.
        """
        try:
            self.folder.mkdir()
            alone = True
        except FileExistsError:
            alone = False
        if fcntl is not None:
            try:
                descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            except FileNotFoundError:
                return False
            self._descriptors.append(descriptor)
            locked = _lock(descriptor, wait=False)
            alone = alone if locked is None else locked
            if alone and not _is(str(self.folder), descriptor):
                return False
        if not alone:
            raise FileExistsError(errno.EEXIST, "Somebody may be writing here; if not, remove it", str(self.folder))
        if (there := os.listdir(self.folder)) and _MARK not in there:
            raise FileExistsError(
                errno.EEXIST, "This folder, in which to write, holds what no writer left; move it", str(self.folder)
            )
        return True


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise what `replacing` would raise before its block."""
    path = os.fsdecode(path)
    with _named(path):
        target = _target(path)
        _mode(target)
        with _temporary(os.path.dirname(target)):
            pass


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Errors of the system name the file that the caller knows; those of other files are left as they are."""
    try:
        yield
    except OSError as error:
        pass_on(error)
        if error.errno is None or _of_another(error.filename, path):
            raise
        raise OSError(error.errno, f"{error.strerror}; nothing was written", path) from error


def _of_another(name: Any, path: str) -> bool:
    """Whether an error names a file that is neither ``path`` nor the temporary one beside it."""
    if not isinstance(name, str) or os.path.basename(name).startswith(_TEMPORARY):
        return False
    return paths.real(name) != paths.real(path)


def _target(path: str) -> str:
    """Where links lead; ``NAME/`` and ``NAME/.`` are folders, also where there is none."""
    if os.path.basename(path) in ("", ".", ".."):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    target = paths.real(path)
    if os.path.basename(target).startswith(_TEMPORARY):
        raise ValueError(f"path must be no name of a temporary file, which writers remove; got {path}")
    return target


def _mode(target: str) -> int | None:
    """Permissions of the file that will be replaced; None if there is none."""
    try:
        info = os.stat(target)
    except FileNotFoundError:
        return None
    check_regular(target, info)
    if not os.access(target, os.W_OK):  # renaming would do it all the same
        raise PermissionError(errno.EACCES, "The file is write-protected", target)
    return stat.S_IMODE(info.st_mode)


@contextlib.contextmanager
def _temporary(folder: str) -> Iterator[tuple[str, BinaryIO]]:
    """A new file, locked, that is gone afterwards unless it was renamed."""
    made: list[tuple[str, BinaryIO]] = []
    try:
        with signals_held():
            made.append(_create(folder))
        yield made[0]
    finally:
        try:
            _end(made)
        except BaseException:  # a handler raised before it could begin
            _end(made)
            raise


def _end(made: list[tuple[str, BinaryIO]]) -> None:
    with signals_held():
        for path, file in made:
            if not file.closed and _is(path, file.fileno()):
                os.unlink(path)
            file.close()


def _create(folder: str) -> tuple[str, BinaryIO]:
    """A new file ``.lfm_np.N.tmp``.

    A writer holds the lock of its file, so one that can be locked was left by a writer that was killed, and is removed.
    N is the smallest number that is free: killed writers leave no more files than ever wrote side by side.
    """
    slot = 0
    while True:
        path = os.path.join(folder, f"{_TEMPORARY}{slot}.tmp")
        try:
            file = open(path, "x+b")  # noqa: SIM115 (the caller closes it)
        except FileExistsError:
            slot += not _removed_if_dead(path)
            continue
        _lock(file.fileno())
        if _is(path, file.fileno()):  # not taken for a dead writer's before it was locked
            return path, file
        file.close()


def _lock(descriptor: int, wait: bool = True) -> bool | None:
    """Take the lock of a file: whether it could be had; None on file systems without, where no writer is dead."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (OSError, AttributeError):  # fcntl is None
        return None
    return True


def _is(path: str, descriptor: int) -> bool:
    """Whether ``path`` still is the file that was opened."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _removed_if_dead(path: str) -> bool:
    """Whether the name is free again."""
    try:
        descriptor = os.open(path, os.O_RDWR | _NOT_FOLLOWED)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if not _lock(descriptor, wait=False):
            return False
        if _is(path, descriptor):
            os.unlink(path)
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a process forked meanwhile has a copy of the descriptor
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _sync_folder(folder: str) -> None:
    """Make a rename last. A folder that cannot be opened, or a file system without such a thing, is left alone."""
    if os.name == "nt":
        return
    with signals_held():  # until the descriptor is closed
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except PermissionError:
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise OSError(error.errno, f"{error.strerror}; written, but perhaps not to last", folder) from error
        finally:
            os.close(descriptor)
