import itertools

import numpy as np
import pytest

from input_pipeline.audio.cutting import CutSettings, Cutter, Part

RATE_HZ, STEP = 8000, 80  # steps of 10 ms
DEFAULT = CutSettings()


def speech(*lengths_s: float, pause_s: float = 0.4, silence: float = 1e-3) -> np.ndarray:
    """Return bursts of noise of these lengths, with a softer noise before, between and after them."""
    rng = np.random.default_rng(0)
    pieces = [silence * rng.standard_normal(int(pause_s * RATE_HZ))]
    for length_s in lengths_s:
        pieces.append(0.1 * rng.standard_normal(int(length_s * RATE_HZ)))
        pieces.append(silence * rng.standard_normal(int(pause_s * RATE_HZ)))
    return np.concatenate(pieces).astype(np.float32)


def cut(samples: np.ndarray, block: int = RATE_HZ, settings: CutSettings = DEFAULT) -> list[Part]:
    cutter = Cutter(STEP, RATE_HZ, settings)
    parts: list[Part] = []
    for start in range(0, len(samples), block):
        parts += cutter.feed(samples[start : start + block])
    return [*parts, *cutter.feed(np.zeros(0, np.float32), last=True)]


@pytest.mark.parametrize("silence", [1e-3, 1e-5, 0.0])
def test_parts_end_in_pauses_and_see_the_pauses_around_them(silence):
    lengths_s = [3, 2.5, 5, 4, 2.2] * 4
    parts = cut(speech(*lengths_s, silence=silence))
    assert len(parts) == len(lengths_s)
    pauses = np.cumsum([0.8 + lengths_s[0], *(0.4 + length_s for length_s in lengths_s[1:])])
    ends = [(part.first + part.steps) * STEP / RATE_HZ for part in parts]
    assert ends[:-1] == pytest.approx(pauses[:-1] - CutSettings().lead_s, abs=0.03)
    assert not any(part.joined for part in parts)
    assert [part.context * STEP / RATE_HZ for part in parts[1:]] == pytest.approx([0.2] * (len(parts) - 1), abs=0.03)


def test_parts_hold_the_samples_at_their_place_whatever_the_blocks():
    samples = speech(*[3, 14, 40, 2.5], pause_s=0.6)
    parts = cut(samples)
    for part in parts:
        first = (part.first - part.context) * STEP
        np.testing.assert_array_equal(part.samples, samples[first : first + len(part.samples)])
    for block in (777, 5 * RATE_HZ, len(samples)):
        for one, other in zip(cut(samples, block), parts, strict=True):
            assert (one.first, one.steps, one.context, one.joined) == (
                other.first,
                other.steps,
                other.context,
                other.joined,
            )
            np.testing.assert_array_equal(one.samples, other.samples)


def test_audio_without_pauses_is_cut_into_parts_that_see_their_neighbours():
    settings = CutSettings()
    parts = cut(speech(100))
    assert all(part.joined for part in parts[1:])
    assert not parts[0].joined
    for part, following in itertools.pairwise(parts):
        assert part.first + part.steps == following.first
        assert following.context == settings.context_s * RATE_HZ / STEP
        assert len(part.samples) == (part.context + part.steps) * STEP + settings.context_s * RATE_HZ
        assert part.steps * STEP / RATE_HZ <= settings.longest_s


def test_long_parts_end_at_the_first_pause_after_their_length_or_else_at_the_longest_one_before():
    pieces = [speech(4.0), speech(3.0), speech(20.0)[int(0.4 * RATE_HZ) :]]  # pauses of 0.8 s and 0.4 s
    parts = cut(np.concatenate(pieces), settings=CutSettings(shortest_s=6.0))
    ends = [(part.first + part.steps) * STEP / RATE_HZ for part in parts]
    assert ends[0] == pytest.approx(0.4 + 4.0 + 0.8 + 3.0 + 0.4 - 0.1, abs=0.05)
    parts = cut(np.concatenate(pieces), settings=CutSettings(shortest_s=9.0))
    ends = [(part.first + part.steps) * STEP / RATE_HZ for part in parts]
    assert ends[0] == pytest.approx(0.4 + 4.0 + CutSettings().edge_s, abs=0.05)
    assert not parts[1].joined


def test_long_silence_is_in_no_part():
    samples = np.concatenate([speech(3), np.zeros(60 * RATE_HZ, np.float32), speech(2)])
    parts = cut(samples)
    assert len(parts) == 2
    assert sum(part.steps for part in parts) * STEP / RATE_HZ < 5.05 + 4 * CutSettings().edge_s
    assert cut(np.zeros(100 * RATE_HZ, np.float32)) == []
    assert cut(np.zeros(0, np.float32)) == []


def test_memory_does_not_grow_with_the_recording():
    cutter, piece = Cutter(STEP, RATE_HZ, DEFAULT), speech(4, 3)
    sizes = []
    for _ in range(200):
        list(cutter.feed(piece))
        sizes.append(len(cutter._samples))
    assert max(sizes[100:]) <= max(sizes[:100]) < 60 * RATE_HZ
