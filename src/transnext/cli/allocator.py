"""The C library's memory allocator, for a process that makes and frees the same large tensors again and again."""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Lets glibc keep what is freed instead of giving it back to the system, which has to clear it at each new request.

    For the whole process, which is why the library does not do it.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
