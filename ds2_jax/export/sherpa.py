"""What sherpa-onnx requires of a model: `OfflineRecognizer.from_omnilingual_asr_ctc`, `OnlineRecognizer.from_nemo_ctc`."""

from ds2_jax.artifacts.bundle import ModelMeta

RATE_HZ = 16000  # of the samples that it gives to a model
FRAME_SAMPLES = 320  # of the frames of 20 ms by which it computes times
STREAM_FRAME_MS = 40.0  # of the frames by which it computes times in a stream
# The features that it computes for a stream, which has as many as it is told.
STREAM_FEATURES = {
    "kind": "sherpa",
    "sample_rate_hz": RATE_HZ,
    "window_ms": 25.0,
    "stride_ms": 10.0,
    "max_freq_hz": 0.0,
}


def obstacle_to(meta: ModelMeta) -> str:
    """Return why sherpa-onnx cannot run a model; '' if it can."""
    features = meta.features
    if features.sample_rate_hz != RATE_HZ:
        return f"it needs samples at {features.sample_rate_hz} Hz, the engine gives it {RATE_HZ}"
    if not features.normalise_db or features.level_s:
        return "the engine normalises the level of the clip, which this model (features.normalise_db, level_s) does not"
    if frame_samples(meta) < FRAME_SAMPLES:
        return f"its output frames of {meta.output_frame_s * 1000:g} ms are shorter than the engine's of 20 ms"
    return ""


def obstacle_to_stream(meta: ModelMeta) -> str:
    """Return why sherpa-onnx cannot run a model on audio that arrives; '' if it can."""
    for name, value in STREAM_FEATURES.items():
        if getattr(meta.features, name) != value:
            return f"features.{name} is {getattr(meta.features, name)!r}, the engine computes features with {value!r}"
    if meta.features.normalise_db:
        return "this model normalises the level of the clip (features.normalise_db), which the engine does not"
    if meta.normalisation not in ("corpus", "none"):
        return f"features.normalisation is {meta.normalisation!r}, which needs the whole clip"
    if meta.model.bidirectional:
        return "a bidirectional network needs the whole clip (model.bidirectional)"
    if meta.output_frame_s * 1000 != STREAM_FRAME_MS:
        return f"its output frames have {meta.output_frame_s * 1000:g} ms, the engine takes them as {STREAM_FRAME_MS:g}"
    return ""


def frame_samples(meta: ModelMeta) -> int:
    """Return the samples from one output frame to the next."""
    return meta.model.time_stride * meta.features.stride_samples
