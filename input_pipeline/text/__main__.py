"""`python -m input_pipeline.text`: make a vocabulary from manifests."""

import sys

from input_pipeline.manifest.vocabulary import main

if __name__ == "__main__":
    sys.exit(main())
