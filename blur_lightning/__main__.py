"""python -m blur_lightning: nothing but the call, since what runs as __main__ exists twice."""

import sys

from blur_lightning.cli import main

if __name__ == "__main__":
    # Not sys.exit(main()): W&B watches sys.exit, and must not while the run itself goes on.
    code = main()
    sys.exit(code)
