"""`python -m input_pipeline.manifest check`: look for problems of a manifest."""

import sys

from input_pipeline.manifest.doctor import main

if __name__ == "__main__":
    sys.exit(main())
