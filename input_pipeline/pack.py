"""`python -m input_pipeline.pack`: pack a manifest's audio into shards."""

import sys

from input_pipeline.manifest.pack import main

if __name__ == "__main__":
    sys.exit(main())
