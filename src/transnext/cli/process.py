"""Settings of the process of a command, which a library must not choose for its users."""

import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def let_threads_sleep() -> None:
    """Lets OpenMP's threads sleep when there is nothing to do, instead of spinning, unless the user chose otherwise.

    A spinning thread keeps others from its core, the one that it waits for among them when another process is busy too.
    The environment is read when the OpenMP library is loaded: call this before PyTorch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GCC's, in rounds of a loop: some microseconds
        os.environ.setdefault("KMP_BLOCKTIME", "0")  # LLVM's and Intel's, in milliseconds


def keep_freed_memory() -> None:
    """Lets glibc keep what is freed instead of giving it back to the system, which has to clear it at each new request.

    For processes that make and free the same large tensors again and again.
    """
    import ctypes  # --help need not wait for them
    import platform

    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)
