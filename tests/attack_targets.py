"""Files that are attacked, and how the program reads them: each `make_...` writes them to a folder, `read_...` returns what is in
them in a form that can be compared.
"""

import json
import shutil
from pathlib import Path

from tests.arpa import write_arpa


def make_bundle(folder: Path) -> None:
    """Write a bundle with a language model."""
    from ds2_jax.artifacts.bundle import save_bundle
    from ds2_jax.network.model import init_variables

    meta = tiny_meta()
    released = Path(__file__).parents[1] / "models" / "an4"
    extra = {name: released / name for name in ("lm.bin", "decode.json")}
    save_bundle(folder / "bundle", meta, init_variables(meta.network, meta.feature_size, 0), "# card\n", extra)


def make_foreign_bundle(folder: Path) -> None:
    """Write a bundle without digests."""
    make_bundle(folder)
    (folder / "bundle" / "SHA256SUMS").unlink()


def tiny_meta():
    import numpy as np

    from ds2_jax.artifacts.bundle import ModelMeta
    from ds2_jax.network.model import ModelSettings
    from input_pipeline.audio.features import FeatureSettings
    from input_pipeline.audio.front_end import FeatureStats
    from input_pipeline.text import Vocabulary

    stats = FeatureStats(np.linspace(-9, -5, 7, dtype=np.float32), np.linspace(1, 2, 7, dtype=np.float32))
    model = ModelSettings(conv="3x5/2x2:3", rnn_size=4, rnn_layers=1)
    vocabulary = Vocabulary(tuple(" '-abcdefghijklmnopqrstuvwxyz"))
    return ModelMeta(model, FeatureSettings(kind="fbank", mel_bins=7), "corpus", stats, vocabulary, "en")


def read_bundle(folder: Path) -> object:
    """Load the model and its decoder."""
    from ds2_jax.artifacts.load import digest_model, load_model
    from ds2_jax.recognition import decode_settings

    meta, variables = load_model(str(folder / "bundle"))
    settings = decode_settings.complete({}, str(folder / "bundle"))
    decode_settings.make_engine(settings, meta)
    return digest_model(meta, variables), repr(settings).replace(str(folder), "")


def make_checkpoint(folder: Path) -> None:
    """Write a checkpoint as a training does."""
    import jax.numpy as jnp
    import optax

    from ds2_jax.network.model import init_variables
    from ds2_jax.training.checkpoint import Checkpoints
    from ds2_jax.training.progress import Progress
    from ds2_jax.training.state import init_state

    meta = tiny_meta()
    variables = init_variables(meta.network, meta.feature_size, 0)
    state = init_state(variables, optax.sgd(0.1, momentum=0.9), None, average=False)
    with Checkpoints(str(folder / "run")) as checkpoints:
        checkpoints.save(state.replace(step=jnp.asarray(3, jnp.int32)), Progress(step=3), meta)


def make_foreign_checkpoint(folder: Path) -> None:
    """Write a checkpoint without digests."""
    make_checkpoint(folder)
    (folder / "run" / "checkpoints" / "3" / "SHA256SUMS").unlink()


def read_checkpoint(folder: Path) -> object:
    """Load the model of a checkpoint."""
    from ds2_jax.artifacts.load import digest_model, load_model

    return digest_model(*load_model(str(folder / "run")))


def resume_checkpoint(folder: Path) -> object:
    """Find the checkpoint to resume from; None if it is set aside."""
    from ds2_jax.training.checkpoint import Checkpoints

    with Checkpoints(str(folder / "run")) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise ValueError("set aside")
        return repr((checkpoints.progress(step), checkpoints.meta(step).to_json())), read_checkpoint(folder)


def make_lm(folder: Path) -> None:
    """Write a language model with its digest."""
    from input_pipeline.storage import digests

    make_foreign_lm(folder)
    digests.write_for(folder / "lm.bin")


def make_foreign_lm(folder: Path) -> None:
    """Write a language model without a digest."""
    released = Path(__file__).parents[1] / "models" / "an4"
    for name in ("lm.bin", "vocabulary.txt"):
        shutil.copyfile(released / name, folder / name)


def make_arpa(folder: Path) -> None:
    """Write a language model as text."""
    shutil.copyfile(Path(__file__).parents[1] / "models" / "an4" / "vocabulary.txt", folder / "vocabulary.txt")
    write_arpa(folder / "lm.arpa", ["go to the left", "stop", "turn to the right", "go right"])


def read_lm(folder: Path) -> object:
    """Decode noise with a language model."""
    import numpy as np

    from decoding.search import beam
    from decoding.settings import BeamSettings
    from input_pipeline.text import Vocabulary

    vocabulary = Vocabulary.load(folder / "vocabulary.txt")
    lm = next(folder / name for name in ("lm.bin", "lm.arpa") if (folder / name).exists())
    engine = beam.make_engine(vocabulary, BeamSettings(engine="native", lm=str(lm), threads=1), 0.02)
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (4, 150, vocabulary.size))
    log_probs = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)
    return repr([[hypothesis.text for hypothesis in found] for found in engine.decode_batch(list(log_probs))])


def make_stats(folder: Path) -> None:
    """Write feature statistics."""
    stats = tiny_meta().stats
    assert stats is not None
    stats.save(folder / "stats.npz")


def read_stats(folder: Path) -> object:
    """Read feature statistics."""
    from input_pipeline.audio.front_end import FeatureStats

    stats = FeatureStats.load(folder / "stats.npz")
    return repr((stats.mean.tolist(), stats.std.tolist()))


def make_audio(folder: Path) -> None:
    """Write a clip in several formats."""
    import numpy as np
    import soundfile

    rng = np.random.default_rng(0)
    samples = np.cumsum(rng.normal(0, 0.01, 8000)).clip(-0.9, 0.9).astype(np.float32)
    for suffix in ("wav", "flac", "ogg", "mp3", "aiff", "au"):
        soundfile.write(folder / f"clip.{suffix}", samples, 16000)


def read_audio(folder: Path) -> object:
    """Read all clips; the first that is refused ends it."""
    from input_pipeline import audio

    return [len(audio.read(str(file), 16000, longest_s=60.0)[0]) for file in sorted(folder.iterdir())]


def make_manifest(folder: Path) -> None:
    """Write a manifest and its audio."""
    make_audio(folder)
    rows = [{"audio_filepath": f"clip.{s}", "duration": 0.5, "text": f"a text {s}"} for s in ("wav", "flac", "ogg")]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def read_manifest(folder: Path) -> object:
    """Read a manifest and its clips."""
    from input_pipeline import audio, manifest

    rows = manifest.read(folder / "manifest.jsonl")
    return [(len(audio.read(rows.clips[i], 16000, longest_s=60.0)[0]), rows.text[i]) for i in range(len(rows))]


def make_shards(folder: Path) -> None:
    """Pack a manifest of noise into two shards."""
    import numpy as np
    import soundfile

    from input_pipeline.manifest.pack import pack

    rows = []
    for number in range(4):
        soundfile.write(folder / f"{number}.wav", np.random.default_rng(number).normal(0, 0.1, 80000), 16000)
        rows.append({"audio_filepath": f"{number}.wav", "duration": 5.0, "text": f"a text {number}"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pack(str(folder / "manifest.jsonl"), str(folder / "packed"), shards=2)


def read_shards(folder: Path) -> object:
    """Read the packed manifest and its clips."""
    from input_pipeline import audio, manifest
    from input_pipeline.shards import source

    source.reset()  # no shard is still open from the try before
    rows = manifest.read(folder / "packed" / "manifest.jsonl")
    return [(audio.read(rows.clips[i], 16000)[0].tobytes(), rows.text[i]) for i in range(len(rows))]
