"""``python -m lfm_np``."""

import sys

from lfm_np.cli import main

if __name__ == "__main__":
    sys.exit(main())
