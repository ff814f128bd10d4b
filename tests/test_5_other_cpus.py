"""Rung 5 again on what this machine is not: an emulated CPU of 2013, with AVX2 and without AVX-512, and no compiler."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parent
QEMU = shutil.which("qemu-x86_64")
HASWELL = [QEMU, "-cpu", "Haswell"]
needs_qemu = pytest.mark.skipif(QEMU is None, reason="qemu-x86_64 is not installed")


def python(*arguments, before=(), **environment):
    """What Python prints, after a successful end."""
    done = subprocess.run(
        [*before, sys.executable, *arguments],
        env=os.environ | environment,
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def suite(files, *options, **settings):
    """How many tests of these files passed and how many were skipped."""
    names = [str(path) for file in files for path in sorted(TESTS.glob(file))]
    printed = python("-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *names, **settings)
    assert "failed" not in printed
    return [int(re.search(rf"(\d+) {outcome}", printed)[1]) for outcome in ("passed", "skipped")]


@needs_qemu
def test_the_other_cpu_is_one():
    program = "from refimpl.kernels import cpu; print(cpu.name(), *cpu.features())"
    name, *features = python("-c", program, before=HASWELL).split()
    assert name == "haswell"
    assert {"avx2", "fma"} <= set(features)
    assert not [feature for feature in features if feature.startswith(("avx512", "avxvnni", "amx"))]


@needs_qemu
def test_portable_kernels_on_a_cpu_without_avx512(tmp_path):
    """Machine code for that CPU, from an empty cache, run by an interpreter that has no newer instruction."""
    passed, skipped = suite(
        ["test_5_kernels.py", "test_5_saturating.py"],
        *("-k", "1-portable or 1-native or yardstick_computes or published"),
        before=HASWELL,
        REFIMPL_CACHE_DIR=str(tmp_path),
        NUMBA_NUM_THREADS="1",
    )
    assert passed >= 14
    assert skipped >= 13


def test_kernels_without_jit():
    passed, skipped = suite(["test_2_*.py", "test_5_*.py"], NUMBA_DISABLE_JIT="1")
    assert passed > 300
    assert skipped > 50
