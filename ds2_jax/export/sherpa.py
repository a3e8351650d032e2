"""What sherpa-onnx, `OfflineRecognizer.from_omnilingual_asr_ctc`, requires of a model."""

from ds2_jax.artifacts.bundle import ModelMeta

RATE_HZ = 16000  # of the samples that it gives to a model
FRAME_SAMPLES = 320  # of the frames of 20 ms by which it computes times


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


def frame_samples(meta: ModelMeta) -> int:
    """Return the samples from one output frame to the next."""
    return meta.model.time_stride * meta.features.stride_samples
