"""`python -m input_pipeline.manifest`: check manifests, and make one of transcripts."""

import sys

from input_pipeline.manifest.command import main

if __name__ == "__main__":
    sys.exit(main())
