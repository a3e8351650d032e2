"""`python -m decoding.lm`: train a language model, or download one."""

import sys

from decoding.lm.command import main

if __name__ == "__main__":
    sys.exit(main())
