"""``python -m tests.matrix [VERSION …] [-- ARGUMENT …]``: run the database tests on other versions of PostgreSQL.

What follows the dashes is for pytest.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from tests.matrix.servers import SOURCES, fetch, readable_copy


def main() -> int:
    """Run the tests on each version, even if they fail on one; return 1 if they did."""
    parser = argparse.ArgumentParser(prog="make test-matrix", description=__doc__)
    parser.add_argument("versions", nargs="*", default=list(SOURCES), metavar="VERSION", help=", ".join(SOURCES))
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    versions = parser.parse_args(sys.argv[1:end]).versions
    pytest_arguments = sys.argv[end + 1 :]
    if unknown := [version for version in versions if version not in SOURCES]:
        parser.error(f"no server of version {', '.join(unknown)}; there are {', '.join(SOURCES)}")
    failed = [version for version in versions if not _passes(version, pytest_arguments)]
    print(f"PostgreSQL {', '.join(versions)}: {'failed on ' + ', '.join(failed) if failed else 'all passed'}")
    return 1 if failed else 0


def _passes(version: str, pytest_arguments: list[str]) -> bool:
    with readable_copy(fetch(version)) as bin_directory:
        print(f"PostgreSQL {version}:", flush=True)
        environment = {**os.environ, "RELIEF_PG_BIN": str(bin_directory)}
        for name in ("RELIEF_TEST_DSN", "RELIEF_TEST_IMAGE"):
            environment.pop(name, None)
        # As in make test; what is given comes last, and wins.
        parallel = ["--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal"]
        command = [sys.executable, "-m", "pytest", "-m", "server and not soak", *parallel, *pytest_arguments]
        return subprocess.run(command, env=environment, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
