"""How threads of OpenMP wait for one another."""

import os


def let_threads_sleep() -> None:
    """Lets OpenMP's threads sleep when there is nothing to do, instead of spinning, unless the user chose otherwise.

    A spinning thread keeps others from its core, the one that it waits for among them when another process is busy too.
    The environment is read when the OpenMP library is loaded: call this before PyTorch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # GCC's, in rounds of a loop: some microseconds
        os.environ.setdefault("KMP_BLOCKTIME", "0")  # LLVM's and Intel's, in milliseconds
