"""`python -m input_pipeline.join`: join short clips into longer utterances."""

import sys

from input_pipeline.manifest.join import main

if __name__ == "__main__":
    sys.exit(main())
