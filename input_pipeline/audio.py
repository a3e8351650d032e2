import numpy as np, soundfile, soxr
class AudioError(ValueError): pass
def read(path, sample_rate_hz=None):
    try:
        x, sr = soundfile.read(path, dtype="float32", always_2d=True)
    except Exception as e:
        raise AudioError(f"{path}: {e}") from e
    x = x.mean(1)
    if not len(x): raise AudioError(f"{path} is empty")
    if sample_rate_hz and sr != sample_rate_hz: x = soxr.resample(x, sr, sample_rate_hz)
    return x, sr
