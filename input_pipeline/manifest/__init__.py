"""Manifests of utterances, and programs that check, pack, join and measure them."""

from input_pipeline.manifest.table import (
    Manifest,
    ManifestError,
    absolute_path,
    filter_duration,
    parse_weight,
    read,
    read_many,
    records,
    rounding_unit_s,
    write,
)

__all__ = [
    "Manifest",
    "ManifestError",
    "absolute_path",
    "filter_duration",
    "parse_weight",
    "read",
    "read_many",
    "records",
    "rounding_unit_s",
    "write",
]
