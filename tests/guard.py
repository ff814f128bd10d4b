"""Arrays between pages that nobody may touch: whoever reads or writes beyond their ends dies of SIGSEGV."""

import ctypes
import mmap
import os

import numpy as np

PAGE = mmap.PAGESIZE
MOAT = 16 * PAGE
PROT_NONE = 0  # of every POSIX system; the mmap module has no name for it


def empty(size, dtype, at_end):
    """1-D, with a forbidden page right behind the last element, or else right before the first one."""
    nbytes = size * np.dtype(dtype).itemsize
    body = max(-(-nbytes // PAGE), 1) * PAGE
    memory = mmap.mmap(-1, body + 2 * MOAT)
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for start in (first, first + MOAT + body):
        forbid(start)
    return np.frombuffer(memory, dtype, size, MOAT + (body - nbytes if at_end else 0))


def forbid(start):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(MOAT), PROT_NONE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def copy(x, at_end):
    """The same elements, guarded."""
    guarded = empty(x.size, x.dtype, at_end)
    guarded[:] = x.reshape(-1)
    return guarded.reshape(x.shape)


def overlap(x, y):
    """Whether x is an array in the memory of the array y."""
    return isinstance(x, np.ndarray) and x.size > 0 and np.shares_memory(x, y)


def execution(compiled, at_end):
    """What a kernel's ``call`` takes: runs on guarded copies of all arrays, and copies back what may be written. Of
    two arguments that are the same memory, so are the copies."""

    def run(*args):
        copies = []
        for x in args:
            same = [c for y, c in zip(args, copies, strict=False) if isinstance(y, np.ndarray) and overlap(x, y)]
            guarded = same[0].view(x.dtype) if same else copy(x, at_end) if isinstance(x, np.ndarray) else x
            copies.append(guarded)
        compiled(*copies)
        for x, guarded in zip(args, copies, strict=True):
            if isinstance(x, np.ndarray) and x.flags.writeable:
                x[...] = guarded

    return run
