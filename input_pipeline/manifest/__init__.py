"""Manifests of utterances, and programs that check, pack, join and measure them."""

from input_pipeline.manifest.lines import ManifestError, records
from input_pipeline.manifest.segments import Segments
from input_pipeline.manifest.table import (
    Manifest,
    absolute_path,
    filter_duration,
    parse_ignored,
    parse_weight,
    paths_of,
    read,
    read_many,
    rounding_unit_s,
    write,
)

__all__ = [
    "Manifest",
    "ManifestError",
    "Segments",
    "absolute_path",
    "filter_duration",
    "parse_ignored",
    "parse_weight",
    "paths_of",
    "read",
    "read_many",
    "records",
    "rounding_unit_s",
    "write",
]
