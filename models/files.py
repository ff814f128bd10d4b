"""Writing a file so that it is either whole or not there; reading text."""

import glob
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PART = ".part-"
"""Of the name of what is being written."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``: renamed onto it when the block ends, removed if the block raises."""
    path = Path(path)
    check_folder(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + PART)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_parts(path: Path) -> None:
    """Remove what a process that was killed while it wrote ``path``, a file or a folder, has left beside it.

    Not for a path that another process may be writing.
    """
    for left in path.parent.glob(f"{glob.escape(path.name + PART)}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink()


def utf8(data: bytes, path: Path) -> str:
    """The text of a file, without a byte order mark. Raises ValueError that names the first row, from 1, which is not
    UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        row, byte = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise ValueError(f"{path}: row {row} is not UTF-8: {error.reason}, its byte {byte}") from None


def check_folder(path: Path) -> None:
    """Raise FileNotFoundError unless the folder of ``path`` exists: worth knowing before the work, too."""
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"{Path(path).parent} is not a folder; create it first")


def check_output(path: Path, force: bool) -> None:
    """Raise ValueError unless ``path`` may be written: no folder, and not there yet or to be replaced by force."""
    check_folder(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; need the name of a file")
    if path.exists() and not force:
        raise ValueError(f"{path} exists; name another file, or --force to replace it")


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


@contextmanager
def atomic_folder(path: Path, replaceable: Callable[[Path], bool]) -> Iterator[Path]:
    """The same for a folder: a new temporary one, renamed to ``path``.

    An empty folder gives way. One with files gives way only if it is ``replaceable``; else ValueError. What
    ``remove_parts`` finds is removed.
    """
    path = Path(path).resolve()
    check_folder(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; need the name of a folder")
    if path.is_dir() and any(path.iterdir()) and not replaceable(path):
        raise ValueError(f"{path} holds other files; name another folder")
    remove_parts(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=path.name + PART))
    old = temporary.with_name(temporary.name + ".old")
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            path.replace(old)
        try:
            temporary.replace(path)
        except OSError:
            if old.exists():
                old.replace(path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
