"""One copy of the weights for any number of processes.

    shared = share(session.weights)
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(shared,))

    def serve(shared):
        session = Session(shared.tree)

The tree is pickled with the bytes of its arrays out of band (pickle protocol 5): a skeleton of a few KB is left, and
the bytes lie one after the other in one block, each array on a cache line. Which array is which, the offset alone says.
Intel Extension for Transformers names a weight by the digits of its offset and of its size, run together, so that 644
bytes at 640 and 4 bytes at 64064 are the same weight; here nothing has a name. What appears twice is stored once.

The block is a file without a name: in memory on Linux (``memfd_create``), elsewhere a temporary file, unlinked as it is
made. So the size of /dev/shm is no limit, there is nothing for multiprocessing's resource tracker to track, and
whichever process is killed, nothing is left: the system frees the block with the last process that maps it. Each maps
it copy on write: its arrays can be written to, since kernels are compiled for ordinary arrays, but only the process
that writes will see it.

The skeleton reaches another process through multiprocessing alone, while that process starts: at any other time,
pickling is a RuntimeError. Nothing is unpickled that comes from a file.
Source: appendix A.3.2 of Fast DistilBERT on CPUs, arXiv 2211.07715; pickle protocol 5, PEP 574.
"""

import mmap
import os
import pickle
import tempfile
import weakref
from collections.abc import Sequence
from functools import cached_property
from multiprocessing import context
from typing import Any, NamedTuple

import numpy as np

from refimpl.kernels.layout.aligned import LINE


class Place(NamedTuple):
    """Where bytes are in this process's memory, and how many."""

    address: int
    size: int


def share(tree: Any) -> "Shared":
    """Copy a tree of tuples, dataclasses and C-contiguous arrays, such as ``Weights``, into a block.

    Raises OSError if there is no room for it.
    """
    buffers: list[pickle.PickleBuffer] = []
    skeleton = pickle.dumps(tree, protocol=5, buffer_callback=buffers.append)
    arrays = [np.asarray(buffer.raw()) for buffer in buffers]
    offsets, size = lay_out([Place(array.ctypes.data, array.nbytes) for array in arrays])
    made = Shared(
        _nameless(), skeleton, [slice(at, at + array.nbytes) for at, array in zip(offsets, arrays, strict=True)]
    )
    with open(made.file, "wb", closefd=False) as file:
        file.truncate(max(size, LINE))
        for offset, array in zip(offsets, arrays, strict=True):
            file.seek(offset)
            file.write(array.data)
    return made


def lay_out(places: Sequence[Place]) -> tuple[list[int], int]:
    """The offset of each in the block, on cache lines and one for the same place; the size of the block.

    >>> lay_out([Place(7000, 100), Place(9000, 64), Place(7000, 100)])
    ([0, 128, 0], 192)
    """
    offsets: dict[Place, int] = {}
    end = 0
    for place in places:
        if place not in offsets:
            offsets[place] = end
            end += -(-place.size // LINE) * LINE
    return [offsets[place] for place in places], end


class Shared:
    """What ``share`` returns, here and in the processes that it is given to. file: the descriptor of the block."""

    def __init__(self, file: int, skeleton: bytes, spans: Sequence[slice]):
        self.file, self._skeleton, self._spans = file, skeleton, spans
        weakref.finalize(self, os.close, file)

    @cached_property
    def tree(self) -> Any:
        """The copy, its arrays in the block. It may outlive this object."""
        block = memoryview(mmap.mmap(self.file, 0, access=mmap.ACCESS_COPY))
        return pickle.loads(self._skeleton, buffers=[block[span] for span in self._spans])

    def __reduce__(self) -> tuple[Any, ...]:
        context.assert_spawning(self)
        from multiprocessing.reduction import DupFd  # where file descriptors cannot be passed, it cannot be imported

        return _attach, (DupFd(self.file), self._skeleton, self._spans)


def _attach(descriptor: Any, skeleton: bytes, spans: Sequence[slice]) -> Shared:
    return Shared(descriptor.detach(), skeleton, spans)


def _nameless() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("refimpl")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
