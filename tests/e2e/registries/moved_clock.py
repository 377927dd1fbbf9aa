"""``entrepot`` with a wall clock that a test sets forward: the file that ``ENTREPOT_CLOCK`` names
holds by how many seconds."""

import os
import time

_right = time.time
_offset = os.open(os.environ["ENTREPOT_CLOCK"], os.O_RDONLY)


def _moved() -> float:
    return _right() + float(os.pread(_offset, 32, 0))


# Before anything of the engine is imported, which holds on to the function.
time.time = _moved

from entrepot.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main()
