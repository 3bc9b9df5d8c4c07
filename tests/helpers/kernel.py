"""The kernel: compiled for the server under test, or without a server, to be called by way of ctypes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg

from helpers.database import value
from relief_trainer.cluster import find_server

ROOT = Path(__file__).parent.parent.parent
SOURCES = [ROOT / "kernel" / name for name in ("forest.c", "score.c")]
LIBRARY = "relief_kernel.so"
_WARNINGS = ["-Wall", "-Wextra", "-Werror", "-I", str(ROOT / "kernel"), "-ffp-contract=off"]
SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

USED = "select relief.use_kernel(%s)"
# Of a function that the kernel can take over, the language.
LANGUAGE = (
    "select l.lanname from pg_proc as p join pg_language as l on l.oid = p.prolang where p.oid = 'relief.{}'::regproc"
)
JUDGE = LANGUAGE.format("_judge")

# In the order of WalkPath in kernel/forest.h.
PATHS = ("portable", "AVX2", "AVX-512VL")


# gcc, and the newest clang there is: Debian's headers of a server bring one along.
COMPILERS = ["gcc", *sorted(map(str, Path("/usr/lib").glob("llvm-*/bin/clang")))[-1:]]


def compile_c(target: Path, source: Path, *options: str, compiler: str = "gcc") -> Path:
    """Compile a C file of the tests together with what of the kernel needs no server."""
    subprocess.run([compiler, *_WARNINGS, *options, "-o", target, source, *SOURCES, "-lm"], check=True)
    return target


def may_lack_headers() -> bool:
    """Return whether the tests run on a server that isn't ours, or is named to us and lacks its headers."""
    if os.environ.get("RELIEF_TEST_DSN") or os.environ.get("RELIEF_TEST_IMAGE"):
        return True
    named = os.environ.get("RELIEF_PG_BIN")
    if named is None:
        return False
    pg_config = Path(named) / "pg_config"
    if not pg_config.exists():
        return True
    told = subprocess.run([pg_config, "--pgxs"], capture_output=True, text=True, check=True).stdout
    return not Path(told.strip()).exists()


@contextmanager
def library_for_server(*options: str) -> Iterator[Path]:
    """Yield the kernel's library, compiled with options for the server that the tests start."""
    pg_config = find_server() / "pg_config"
    with tempfile.TemporaryDirectory(prefix="relief-kernel-") as folder:
        command = ["make", "-C", folder, "-f", ROOT / "kernel" / "Makefile", f"VPATH={ROOT / 'kernel'}"]
        flags = " ".join(["-Werror", "-ffp-contract=off", *options])
        command += [f"PG_CONFIG={pg_config}", "with_llvm=no", f"PG_CFLAGS={flags}"]
        subprocess.run(command, check=True, capture_output=True)
        yield Path(folder) / LIBRARY


def library_place(connection: psycopg.Connection) -> Path:
    """Return where a server that runs here looks for the kernel's library."""
    return Path(value(connection, "select setting from pg_catalog.pg_config where name = 'PKGLIBDIR'")) / LIBRARY


def give_library(connection: psycopg.Connection, library: Path) -> None:
    """Put the kernel's library where a server that runs here finds it, for sessions that haven't loaded it yet."""
    place = library_place(connection)
    # A new file: sessions that have the old one keep it.
    copy = place.with_suffix(".new")
    shutil.copy2(library, copy)
    copy.rename(place)


@contextmanager
def without_library(connection: psycopg.Connection, instead: bytes | None = None) -> Iterator[None]:
    """Take the kernel's library away from a server for the length of a ``with`` block, or put bytes into its place."""
    place = library_place(connection)
    kept = place.with_suffix(".kept")
    place.rename(kept)
    if instead is not None:
        place.write_bytes(instead)
    try:
        yield
    finally:
        kept.rename(place)


class Shim:
    """The kernel's forests without a server."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.shim_read.restype = ctypes.c_void_p
        self._library.shim_read.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_char_p)]
        self._library.shim_free.argtypes = [ctypes.c_void_p]
        self._library.shim_size.argtypes = [ctypes.c_void_p]
        self._library.shim_size.restype = ctypes.c_size_t
        self._library.shim_is_in_blocks.argtypes = [ctypes.c_void_p]
        self._library.shim_is_in_blocks.restype = ctypes.c_bool
        doubles = ctypes.POINTER(ctypes.c_double)
        self._library.shim_score.argtypes = [ctypes.c_void_p, ctypes.c_int, doubles, ctypes.c_size_t, doubles]
        self._library.forest_path_exists.restype = ctypes.c_bool
        #: Those of `PATHS` that this processor has, by number.
        self.paths = [path for path in range(len(PATHS)) if self._library.forest_path_exists(path)]

    @contextmanager
    def forest(self, packed: bytes) -> Iterator[ShimForest]:
        """Yield a packed forest, read; raises ValueError where the kernel refuses it."""
        why = ctypes.c_char_p()
        pointer = self._library.shim_read(packed, len(packed), ctypes.byref(why))
        if not pointer:
            raise ValueError((why.value or b"").decode())
        try:
            yield ShimForest(self._library, pointer)
        finally:
            self._library.shim_free(pointer)


class ShimForest:
    """A forest in the kernel's memory."""

    def __init__(self, library: Any, pointer: int) -> None:
        self._library = library
        self._pointer = pointer

    @property
    def size(self) -> int:
        """Return the bytes that it takes."""
        return int(self._library.shim_size(self._pointer))

    @property
    def is_in_blocks(self) -> bool:
        """Return whether it goes through blocks, else through nodes."""
        return bool(self._library.shim_is_in_blocks(self._pointer))

    def score(self, path: int, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the scores of rows by a path of `PATHS`; NaN where every feature is missing."""
        rows = np.ascontiguousarray(rows, dtype=np.float64)
        scores = np.empty(len(rows))
        doubles = ctypes.POINTER(ctypes.c_double)
        self._library.shim_score(
            self._pointer, path, rows.ctypes.data_as(doubles), len(rows), scores.ctypes.data_as(doubles)
        )
        return scores
