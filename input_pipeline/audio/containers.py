"""The true length of compressed audio, found by following its frames; libsndfile relies on headers, or guesses.

It takes the length of an MP3 of variable rate without a header from the first frame, and reads only the first of several
files joined end to end. Formats: ISO/IEC 11172-3, section 2.4.1.3, and 13818-3 (MP3); RFC 3533, section 6 (Ogg); RFC 9639,
section 8 (FLAC).
"""

import re

_KBIT_S = {  # of layer III, by whether it is MPEG-1; 0 is a free rate, whose frames do not state their length
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # MPEG-1, 2, 2.5
_SUMMARIES = (b"Xing", b"Info", b"VBRI")  # mark a frame without audio that states the file's length
_SUMMARY_END = 40  # bytes of a frame within which the mark is
_FIRST_PAGE = 2  # flag of the Ogg page that begins a stream
_FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # and the head of the block that must come first
FLAC_START_BYTES = 8


def mp3_samples(data: bytes) -> int:
    """Return the samples of one channel in the frames of an MP3; 0 if no frames are found."""
    offset, samples = 0, 0
    while 0 <= offset < len(data):
        length, frame_samples = _mp3_frame(data, offset)
        end = offset + length
        if length and (end >= len(data) or _mp3_frame(data, end)[0]):
            summary = any(word in data[offset : offset + _SUMMARY_END] for word in _SUMMARIES)
            samples += 0 if summary else frame_samples
            offset = end
        else:
            offset = data.find(b"\xff", offset + 1)  # skip a tag: at the start, at the end, or where files were joined
    return samples


def _mp3_frame(data: bytes, offset: int) -> tuple[int, int]:
    """Return bytes and samples of the layer III frame at an offset; (0, 0) if there is none."""
    head = data[offset : offset + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0, 0
    version, rate = head[1] >> 3 & 3, head[2] >> 2 & 3
    if version not in _RATES_HZ or rate == 3:
        return 0, 0
    samples = 1152 if version == 3 else 576
    kbit_s = _KBIT_S[version == 3][head[2] >> 4]
    length = samples * 125 * kbit_s // _RATES_HZ[version][rate] + (head[2] >> 1 & 1)
    return (length, samples) if kbit_s else (0, 0)


def ogg_starts(data: bytes) -> list[int]:
    """Return where the Ogg files begin of which the data consists: more than one if files were joined end to end.

    A file begins with a stream that begins after another one's pages.
    """
    offset, begun, starts = 0, True, []
    while data[offset : offset + 4] == b"OggS" and offset + 27 <= len(data):
        first = bool(data[offset + 5] & _FIRST_PAGE)
        if first and begun:
            starts.append(offset)
        begun = not first
        segments = data[offset + 26]
        offset += 27 + segments + sum(data[offset + 27 : offset + 27 + segments])
    return starts


def flac_starts(data: bytes) -> list[int]:
    """Return where FLAC files begin in the data: more than one if files were joined end to end."""
    return [match.start() for match in _FLAC_START.finditer(data)]
