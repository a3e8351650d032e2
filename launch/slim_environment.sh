#!/bin/sh
# Remove from a virtual environment what running does not need: symbols of libraries, headers, tests of packages, bytecode.
# Libraries of NVIDIA and for TPUs come without symbols.
set -eu
environment=$1
find "$environment" -type f -name '*.so*' -not -path '*/nvidia/*' -not -path '*/libtpu/*' -exec strip --strip-unneeded {} +
find "$environment" -type d \( -name __pycache__ -o -name include -o -name tests \) -prune -exec rm -r {} +
find "$environment" -type f \( -name '*_test.py' -o -name '*.a' -o -name '*.pyi' \) -delete
