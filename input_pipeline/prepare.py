"""`python -m input_pipeline.prepare CORPUS`: prepare a speech corpus."""

import sys

from input_pipeline.corpora.prepare import main

if __name__ == "__main__":
    sys.exit(main())
