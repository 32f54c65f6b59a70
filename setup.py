"""Builds the CPU kernels, where there is a compiler. Everything else about the package is in pyproject.toml."""

import os
import shutil
import sys
from pathlib import Path

from setuptools import setup

SOURCES = Path("src/transnext/ops/cpu")


def extension_modules() -> dict[str, object]:
    """The arguments of `setup` that build the extension; none where it cannot be built."""
    if os.environ.get("TRANSNEXT_NO_EXTENSION") == "1":
        return {}
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        return _without("PyTorch is not there while building: install it first, and build with --no-build-isolation")
    compiler = os.environ.get("CXX", "c++").split()[0]
    if sys.platform == "win32" or shutil.which(compiler) is None:
        return _without(f"no C++ compiler was found ({compiler})")

    class OptionalBuildExtension(BuildExtension):
        """A build that fails leaves a package that works without it, and says so."""

        def run(self) -> None:
            try:
                super().run()
            except Exception as error:
                _without(f"building it failed ({type(error).__name__}: {error})")

    flags = ["-std=c++17", "-O2", "-ftree-vectorize", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wno-psabi"]
    extension = CppExtension(
        "transnext.ops._cpu",
        sorted(map(str, SOURCES.rglob("*.cpp"))),
        depends=sorted(map(str, SOURCES.rglob("*.h"))),
        py_limited_api=True,
        extra_compile_args=[
            *flags,
            "-g0",  # Python's own flags ask for debug symbols, which would be nine tenths of the file
            "-fvisibility=hidden",
            "-DTORCH_TARGET_VERSION=0x020a000000000000",
        ],
        extra_link_args=["-Wl,-x" if sys.platform == "darwin" else "-Wl,-s"],
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": OptionalBuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def _without(reason: str) -> dict[str, object]:
    print(f"transnext: the CPU kernels are left out, the reference path will run: {reason}", file=sys.stderr)
    return {}


setup(**extension_modules())
