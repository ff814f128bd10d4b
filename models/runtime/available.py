"""How much memory a process may still take, before the system ends it.

A system that promises more memory than it has (Linux does) refuses nothing: it kills whoever touches the last page. So
what is left is asked first: MemAvailable of /proc/meminfo, and what the limit of the process's control group (version
2, which is what containers have) leaves beyond what it uses and cannot drop. Source: proc(5); cgroup-v2 of the kernel's
documentation, memory.max, memory.current and inactive_file of memory.stat.
"""

import math
from pathlib import Path

MEMORY, GROUP, GROUPS = "proc/meminfo", "proc/self/cgroup", "sys/fs/cgroup"


def available(root: Path = Path("/")) -> float:
    """Bytes; infinite where the system does not say."""
    return min(_of_the_machine(root), _of_the_group(root))


def _of_the_machine(root: Path) -> float:
    try:
        return 1024 * _number((root / MEMORY).read_text(), "MemAvailable:")
    except (OSError, ValueError, StopIteration):
        return math.inf


def _of_the_group(root: Path) -> float:
    try:
        name = next(line for line in (root / GROUP).read_text().splitlines() if line.startswith("0::"))[3:]
        group = root / GROUPS / name.strip("/")
        most, used, statistics = ((group / f"memory.{part}").read_text() for part in ("max", "current", "stat"))
        return int(most) - int(used) + _number(statistics, "inactive_file")
    except (OSError, ValueError, StopIteration):  # no group, or no limit: "max" is no number
        return math.inf


def _number(text: str, name: str) -> int:
    """Of the line that starts with a name. StopIteration if there is none."""
    return int(next(line for line in text.splitlines() if line.split()[:1] == [name]).split()[1])
