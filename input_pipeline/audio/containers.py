"""What compressed audio really holds, found by hopping from frame to frame: libsndfile believes headers, or guesses.

Where an MP3 of variable rate has none it takes the length from the first frame, and of files joined end to end it reads
the first alone. Formats: ISO/IEC 11172-3, section 2.4.1.3, and 13818-3 (MP3); RFC 3533, section 6 (Ogg).
"""

_KBIT_S = {  # of layer III in MPEG-1 and in the others; 0 is any rate, whose frames tell no length
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # MPEG-1, 2, 2.5
_SUMMARIES = (b"Xing", b"Info", b"VBRI")  # in a frame without audio, which tells the file's length
_SUMMARY_END = 40  # bytes of a frame within which they stand
_FIRST_PAGE = 2  # flag of a page of Ogg with which a stream begins


def mp3_samples(data: bytes) -> int:
    """Return how many samples of a channel the frames of an MP3 hold; 0 where none can be followed."""
    place, samples = 0, 0
    while 0 <= place < len(data):
        length, inside = _mp3_frame(data, place)
        behind = place + length
        if length and (behind >= len(data) or _mp3_frame(data, behind)[0]):
            summary = any(word in data[place : place + _SUMMARY_END] for word in _SUMMARIES)
            samples += 0 if summary else inside
            place = behind
        else:
            place = data.find(b"\xff", place + 1)  # over a tag: before, behind, or where files were joined
    return samples


def _mp3_frame(data: bytes, place: int) -> tuple[int, int]:
    """Return bytes and samples of the frame of layer III that begins there; (0, 0) for none."""
    head = data[place : place + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0, 0
    version, rate = head[1] >> 3 & 3, head[2] >> 2 & 3
    if version not in _RATES_HZ or rate == 3:
        return 0, 0
    samples = 1152 if version == 3 else 576
    kbit_s = _KBIT_S[version == 3][head[2] >> 4]
    length = samples * 125 * kbit_s // _RATES_HZ[version][rate] + (head[2] >> 1 & 1)
    return (length, samples) if kbit_s else (0, 0)


def ogg_is_joined(data: bytes) -> bool:
    """Tell whether a stream of Ogg begins after another one's beginning: files that were put end to end."""
    place, begun = 0, False
    while data[place : place + 4] == b"OggS" and place + 27 <= len(data):
        first = bool(data[place + 5] & _FIRST_PAGE)
        if first and begun:
            return True
        begun = begun or not first
        segments = data[place + 26]
        place += 27 + segments + sum(data[place + 27 : place + 27 + segments])
    return False
