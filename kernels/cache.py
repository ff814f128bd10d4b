"""Where compiled kernels are kept between processes.

numba's own cache key sees one file; a kernel depends on all of ``kernels``. So the folder is named by a digest of every
source file here, of numba's and llvmlite's versions and of the CPU: an edit anywhere can never leave a stale kernel.
``REFIMPL_CACHE_DIR`` moves it; the default is ``~/.cache/refimpl``.
"""

import hashlib
import os
import tempfile
import warnings
from functools import cache
from pathlib import Path

import llvmlite
import numba

from refimpl.kernels import cpu


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
    path = base / digest.hexdigest()[:16]
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()  # where numba cannot write, it would keep kernels beside their source
    except OSError as error:
        warnings.warn(f"compiled kernels are not kept: {error}; set REFIMPL_CACHE_DIR", stacklevel=2)
        return None
    return path
