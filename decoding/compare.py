"""`python -m decoding.compare`: whether a model is better than another one."""

import sys

from decoding.scoring.compare import main

if __name__ == "__main__":
    sys.exit(main())
