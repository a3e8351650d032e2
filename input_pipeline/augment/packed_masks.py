"""What augmentors of features drew for an utterance, as one row of numbers: warp, bands, times of each augmentor in turn."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from input_pipeline.augment.augmentors import Masks, SpecAugment


def packed_size(augmentors: Sequence[SpecAugment]) -> int:
    """Return the length of a row, K."""
    return sum(2 + 2 * augmentor.freq_masks + 2 * augmentor.most_time_masks for augmentor in augmentors)


def pack(augmentors: Sequence[SpecAugment], drawn: Sequence[Masks | None]) -> np.ndarray:
    """Return what was drawn as a row [K] i32; zeros stand for no warp and for masks that are not used."""
    row = np.zeros(packed_size(augmentors), np.int32)
    for (warp, bands, times), masks in zip(_parts(augmentors, row), drawn, strict=True):
        if masks is not None:
            warp[:] = masks.warp
            bands[: masks.bands.size] = masks.bands.ravel()
            times[: masks.times.size] = masks.times.ravel()
    return row


def unpack(augmentors: Sequence[SpecAugment], rows: Any) -> list[tuple[Any, Any, Any]]:
    """Return warps [B, 2], bands [B, n, 2] and times [B, m, 2] of each augmentor from rows [B, K], NumPy's or JAX's."""
    return [
        (warp, *(spans.reshape(len(spans), spans.shape[1] // 2, 2) for spans in masks))
        for warp, *masks in _parts(augmentors, rows)
    ]


def _parts(augmentors: Sequence[SpecAugment], rows: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the columns of each augmentor in rows [..., K]."""
    start = 0
    for augmentor in augmentors:
        bands = start + 2
        times = bands + 2 * augmentor.freq_masks
        end = times + 2 * augmentor.most_time_masks
        yield rows[..., start:bands], rows[..., bands:times], rows[..., times:end]
        start = end
