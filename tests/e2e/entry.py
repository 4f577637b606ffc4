"""`python -m tests.e2e.entry WORDS`: the command `s3mount`, of this checkout, whether it is installed or not."""

import sys

from s3mount.cli import main

if __name__ == "__main__":
    sys.argv[0] = "s3mount"
    sys.exit(main())
