"""Rung 5: no kernel touches memory outside its arrays. Oracle: the processor's memory protection.

Every array that a kernel gets, read or written, ends at a forbidden page, or begins right after one; the result must
still be that of the kernel's oracle. An overrun ends the process, so the cases run in others, which name each case
before they run it.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import guard
import numpy as np
import pytest
import test_5_encoder as encoding
from test_1_arithmetic import equal, rng
from test_2_bf16 import same_bits
from test_2_registers import NEEDS_JIT
from test_5_amx_bf16 import bf16_operands
from test_5_attention import check_attention, check_attention_u8s8
from test_5_epilogue import check_fused
from test_5_kernels import operands
from test_5_rowwise import INPUTS, ROW_KERNELS

from refimpl.kernels import attention, attention_u8s8, linear_gelu_4x1, peak
from refimpl.kernels.catalog import KERNELS
from refimpl.kernels.gemm_bf16 import GEMM_BF16
from refimpl.kernels.simd.instructions.memory import vmovdqu8_load, vmovdqu8_store
from refimpl.kernels.simd.threefold import NATIVE, PORTABLE, kernel

pytestmark = [
    NEEDS_JIT,
    pytest.mark.skipif(os.name != "posix", reason="pages are guarded by POSIX mprotect"),
]
DEADLY = [-signal.SIGSEGV, -signal.SIGBUS]  # the second is macOS's


def in_another_process(call):
    """An expression of this module."""
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_5_memory as t; t.{call}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


# --- the guard -------------------------------------------------------------------------------------------------------


@kernel
def copy_register(x, at, out, to):
    """x[at ... at + 63] into out[to ...]."""
    vmovdqu8_store(out, to, vmovdqu8_load(x, at))


def copy_guarded(at, to, at_end):
    x, out = np.arange(64, dtype=np.uint8), np.zeros(64, np.uint8)
    print("before", flush=True)
    guard.execution(copy_register.compiled(PORTABLE), at_end)(x, at, out, to)
    equal(out, x)
    print("after", flush=True)


@pytest.mark.parametrize("at_end", [True, False], ids=["end", "start"])
def test_what_stays_inside_lives(at_end):
    done = in_another_process(f"copy_guarded(0, 0, {at_end})")
    assert (done.returncode, done.stdout.split()) == (0, ["before", "after"]), done.stderr


@pytest.mark.parametrize("to", [0, 1], ids=["read", "written"])
@pytest.mark.parametrize("at_end", [True, False], ids=["end", "start"])
def test_one_byte_outside_kills(at_end, to):
    outside = 1 if at_end else -1
    done = in_another_process(f"copy_guarded({outside * (1 - to)}, {outside * to}, {at_end})")
    assert (done.returncode in DEADLY, done.stdout.split()) == (True, ["before"]), done.stderr


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.int64], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("size", [0, 1, 5, 4096, 5000])
def test_guarded_arrays_touch_the_page(size, dtype):
    end, start = (guard.empty(size, dtype, at_end) for at_end in (True, False))
    for array in (end, start):
        assert (array.shape, array.dtype) == ((size,), dtype)
        array[:] = 1
        assert array.sum() == size
    if size:
        assert (end.ctypes.data + end.nbytes) % guard.PAGE == start.ctypes.data % guard.PAGE == 0


# --- the kernels -----------------------------------------------------------------------------------------------------


def sizes(most, *others):
    """1 ... most, each once, beside shuffled ones of the other dimensions: every tail of every dimension."""
    columns = [rng(i).permutation(np.resize(np.arange(1, other + 1), most)) for i, other in enumerate(others)]
    return list(zip(range(1, most + 1), *(column.tolist() for column in columns), strict=True))


LARGE = [(129, 130, 131), (128, 128, 128), (70, 193, 67)]
PRODUCTS = [(1, 1, 1), (0, 3, 2), (64, 64, 64), (6, 64, 4), (12, 32, 32), *LARGE, *sizes(66, 67, 68)]
ROWS = [(0, 3), (4, 64), *((n, d) for d, n in sizes(130, 4))]
HEADS = [(2, 2, 16, 16), (0, 1, 4, 4), *((b, h, t, e) for t, e, h, b in sizes(35, 34, 3, 2))]


def check_product(record, execution, shape):
    density = (0, 0.1, 0.5, 1)[sum(shape) % 4]
    a, w = operands(*shape, density)
    equal(record.call(execution, a, record.pack(w)), record.oracle(a, w))


def check_bf16(execution, shape):
    a, w = bf16_operands(*shape, "any bits")
    same_bits(GEMM_BF16.call(execution, a, GEMM_BF16.pack(w)), GEMM_BF16.oracle(a, w))


def check_rows(record, execution, shape):
    inputs = INPUTS[record.name](shape, sum(shape))
    got = record.call(execution, *inputs)
    assert (np.abs(got.astype(np.float64) - record.oracle(*inputs)) <= record.bound(*inputs)).all()


def check_linear_gelu(execution, shape):
    check_fused(lambda *inputs: linear_gelu_4x1.call(execution, *inputs), [(*shape, 0.5)])


def check_f32_heads(execution, shape):
    check_attention(lambda *inputs: attention.call(execution, *inputs), [shape])


def check_u8s8_heads(execution, shape):
    check_attention_u8s8(lambda *inputs: attention_u8s8.call(execution, *inputs), [shape])


def check_yardstick(execution, steps):
    x, w, out = np.ones(64, np.uint8), np.ones(68, np.int8), np.zeros(256, np.int32)
    execution(x, w, steps, out)
    equal(out, np.full(256, 4 + 4 * steps, np.int32))


def check_f32_yardstick(execution, steps):
    x, w, out = np.ones(16, np.float32), np.ones(17, np.float32), np.zeros(256, np.float32)
    execution(x, w, steps, out)
    equal(out, np.full(256, 1 + steps, np.float32))


def check_reads(execution, shares):
    x, out = rng(shares).integers(0, 256, (shares, 1, peak.BLOCK), np.uint8), np.ones(64 * shares, np.uint8)
    execution(x.reshape(-1), 2, shares, out)
    equal(out.reshape(shares, 64), np.bitwise_xor.reduce(x.reshape(shares, -1, 64), 1))


def encoder():
    """The kernels on panels, which their checks give shapes of their own."""
    for width, version in encoding.WIDTHS.items():
        for name, kind in encoding.KINDS:
            check = on_width(encoding.check_linear, width, encoding.FORMS[name], kind)
            yield encoding.linear(name, kind, width), check, [width]
        for name, kind in encoding.FLOAT_KINDS:
            yield (
                encoding.float_linear(name, kind, width),
                on_width(encoding.check_float_linear, width, name, kind),
                [width],
            )
        for source, check in (
            (encoding.attention_u8s8.attention_u8s8, encoding.check_integer_attention),
            (encoding.attention_f32.attention_f32, encoding.check_f32_attention),
            (encoding.layernorm.layernorm_codes, encoding.check_layernorm),
        ):
            yield version(source), on_width(check, width), [width]
        for source, check in (
            (encoding.attention_u8s8.attention_u8s8_to_f32, encoding.check_integer_attention),
            (encoding.attention_f32.attention_f32_to_f32, encoding.check_f32_attention),
        ):
            yield version(source), on_width(check, width, np.float32), [width]
        yield version(encoding.layernorm.layernorm_f32), on_width(encoding.check_layernorm, width, False), [width]


def on_width(check, *rest):
    return lambda execution, _: check(execution, *rest)


def of(check, record):
    return lambda execution, shape: check(record, execution, shape)


FAMILIES = {
    "products": [(record.source, of(check_product, record), PRODUCTS) for record in KERNELS.values()],
    "rows": [(record.source, of(check_rows, record), ROWS) for record in ROW_KERNELS],
    "encoder": list(encoder()),
    "others": [
        (GEMM_BF16.source, check_bf16, PRODUCTS),
        (linear_gelu_4x1.linear_gelu_4x1, check_linear_gelu, PRODUCTS),
        (attention.attention, check_f32_heads, HEADS),
        (attention_u8s8.attention_u8s8, check_u8s8_heads, HEADS),
        (peak.dot_products, check_yardstick, [0, 1, 3]),
        (peak.multiply_adds, check_f32_yardstick, [0, 1, 3]),
        (peak.reads, check_reads, [1, 2]),
    ],
}
"""Of each kernel: its source, a check of one shape by (execution, shape), the shapes."""


def run_family(name, target):
    """Print each case, then run it; in the end the number of cases."""
    cases = 0
    for source, check, shapes in FAMILIES[name]:
        if target == NATIVE and not source.runs_natively():
            continue
        for shape in shapes:
            for at_end in (True, False):
                print(source.__name__, target, shape, "end" if at_end else "start", flush=True)
                check(guard.execution(source.compiled(target), at_end), shape)
                cases += 1
    print(cases)


@pytest.mark.parametrize("target", [PORTABLE, NATIVE])
@pytest.mark.parametrize("name", FAMILIES)
def test_kernels_stay_inside_their_arrays(name, target):
    family = FAMILIES[name]
    here = [case for case in family if target == PORTABLE or case[0].runs_natively()]
    if not here:
        pytest.skip("this CPU has the instructions of none of them")
    done = in_another_process(f"run_family({name!r}, {target!r})")
    *cases, last = done.stdout.splitlines() or ["nothing ran"]
    assert done.returncode == 0, f"exit status {done.returncode} at {last}\n{done.stderr}"
    assert int(last) == len(cases) == sum(2 * len(shapes) for *_, shapes in here)
    if len(here) < len(family):
        lacking = sorted({feature for source, *_ in family for feature in source.missing()})
        pytest.skip(f"{len(here)} of {len(family)} kernels ran; for the others this CPU lacks {', '.join(lacking)}")
