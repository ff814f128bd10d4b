"""How long a new process takes to its first answer, over the time of one that only imports NumPy and numba.

Processes in turns, the best of each counting. "cold" has an empty folder for what is compiled, and is taken once.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from refimpl.models import compress, packed_file
from refimpl.models.bench.synthetic import synthetic

YARDSTICK = "import numpy, numba"
ANSWER = """
from pathlib import Path
from refimpl.models import packed_file
from refimpl.models.runtime.session import Session
Session(packed_file.load(Path({path!r}))).run_texts(["a b c"])
"""
PROGRAMS = {
    "import the command line": "import refimpl.models.cli",
    "import the engine": "import refimpl.models.runtime.session",
    "first answer": ANSWER,
    "first answer, cold": ANSWER,
}
TURNS = 5


def seconds(program: str, folder: str = "") -> float:
    """Of a new Python process that runs the program."""
    environment = os.environ | ({"REFIMPL_CACHE_DIR": folder} if folder else {})
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    return time.perf_counter() - begin


class Start:
    """Program -> its time over that of the yardstick."""

    params = tuple(PROGRAMS)
    param_names = ("program",)
    unit = "ratio of times"
    timeout = 300

    def setup_cache(self) -> str:
        """A packed model in DistilBERT's shape."""
        path = Path("model.safetensors").resolve()
        packed_file.save(compress.pack(synthetic(0.2)), path)
        return str(path)

    def track_time_ratio(self, path: str, program: str) -> float:
        code = PROGRAMS[program].format(path=path)
        if program.endswith("cold"):
            with tempfile.TemporaryDirectory() as folder:
                return seconds(code, folder) / min(seconds(YARDSTICK) for _ in range(TURNS))
        seconds(code)
        turns = [(seconds(code), seconds(YARDSTICK)) for _ in range(TURNS)]
        return min(own for own, _ in turns) / min(bare for _, bare in turns)
