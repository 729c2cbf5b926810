"""The C allocator, for threads that allocate and free a chunk-sized buffer thousands of times a second."""

import contextlib
import ctypes

_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, up to 256 MiB, instead of giving each buffer back to the kernel at once.

    Without it an import of new data spends a third of its time in page faults: glibc maps buffers of this size one by
    one and trims its heaps after every free (mallopt(3)). Holds for the rest of the process; other C libraries have no
    such call, or ignore it.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 32 << 20)
        mallopt(_TRIM_THRESHOLD, 256 << 20)
