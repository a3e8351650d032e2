"""`python -m input_pipeline.stats`: feature statistics of a corpus."""

import sys

from input_pipeline.manifest.stats import main

if __name__ == "__main__":
    sys.exit(main())
