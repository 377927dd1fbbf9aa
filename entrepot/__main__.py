"""``python -m entrepot``.

Older Pythons can read this file, so that a checkout that is not installed fails with one sentence.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    version = ".".join(map(str, sys.version_info[:3]))
    sys.exit(
        f"Error: Entrepot needs Python 3.11 or later, and {sys.executable} is {version}. "
        "Run it with a later one, such as python3.12."
    )

from entrepot.cli import main

if __name__ == "__main__":
    main()
