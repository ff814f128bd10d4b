"""Where compiled kernels are kept between processes.

numba's own cache key sees one file; a kernel depends on all of ``kernels``. So the folder is named by a digest of every
source file here, of numba's and llvmlite's versions and of the CPU: an edit anywhere can never leave a stale kernel.
``REFIMPL_CACHE_DIR`` moves it; the default is ``~/.cache/refimpl``. When a new folder is made there, those that no
process has used for a month are removed.
"""

import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba

from refimpl.kernels import cpu

config: Any = numba.config  # numba fills this module at run time, unseen by type checkers
_keeping = threading.Lock()

UNUSED = 30 * 24 * 3600.0
"""Seconds after which a folder is removed."""
DIGITS = 16
"""Of the digest, in a folder's name."""


@cache
def directory() -> Path | None:
    """The folder for this source, compiler and CPU, created; None, with a warning, where it cannot be written."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for source in sorted(root.rglob("*.py")):
        digest.update(source.relative_to(root).as_posix().encode() + b"\0" + source.read_bytes())
    for part in (numba.__version__, llvmlite.__version__, cpu.name(), *sorted(cpu.features())):
        digest.update(part.encode() + b"\0")
    base = Path(os.environ.get("REFIMPL_CACHE_DIR") or Path.home() / ".cache" / "refimpl")
    path = base / digest.hexdigest()[:DIGITS]
    try:
        if not path.exists():
            _remove_unused(base)
        path.mkdir(parents=True, exist_ok=True)
        os.utime(path)
        tempfile.TemporaryFile(dir=path).close()  # where numba cannot write, it would keep kernels beside their source
    except OSError as error:
        warnings.warn(f"compiled kernels are not kept: {error}; set REFIMPL_CACHE_DIR", stacklevel=2)
        return None
    return path


def keep(version: Callable[..., Any]) -> Callable[..., Any]:
    """The same jitted function; what is compiled of it is kept in ``directory``."""
    folder = directory()
    if folder is not None and not config.DISABLE_JIT:
        with _keeping:  # numba takes the folder from a variable
            before, config.CACHE_DIR = config.CACHE_DIR, str(folder)
            try:
                version.enable_caching()  # type: ignore[attr-defined]
            finally:
                config.CACHE_DIR = before
    return version


def _remove_unused(base: Path) -> None:
    """Remove the folders that nobody has used for long; nothing else that is there."""
    for old in base.glob("?" * DIGITS):
        if re.fullmatch("[0-9a-f]+", old.name) and old.is_dir() and time.time() - old.stat().st_mtime > UNUSED:
            shutil.rmtree(old, ignore_errors=True)
