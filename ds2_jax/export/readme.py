"""The README.md of an exported folder."""

import importlib.metadata

from ds2_jax.artifacts.bundle import ModelMeta
from ds2_jax.export.sherpa import obstacle_to

SCRIPT = """\
import json
import sys
import wave

import numpy as np
import onnxruntime

with open("metadata.json", encoding="utf-8") as file:
    model = json.load(file)
with wave.open(sys.argv[1]) as file:
    if file.getframerate() != model["sample_rate_hz"] or file.getsampwidth() != 2:
        sys.exit(f"convert the file to 16-bit samples at {model['sample_rate_hz']} Hz")
    pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
samples = pcm.mean(axis=1, dtype=np.float32)[None] / 32768
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
inputs = {"samples": samples, "lengths": np.array([samples.shape[1]], np.int32)}
log_probs, frames = session.run(["log_probs", "frames"], inputs)
best = log_probs[0, : frames[0]].argmax(axis=-1)  # the best symbol of each frame; 0 is the blank
changes = np.flatnonzero(np.diff(best, prepend=0))  # repeats are one symbol
print("".join(model["symbols"][best[frame]] for frame in changes).strip())
"""
STREAMING_FILE = "model.sherpa.streaming.onnx"
HEAD = """\
# {name}

A DeepSpeech2 network of DS2-JAX for other engines. Language `{language}`, {count} symbols, {rate} Hz.

| file | content |
|---|---|
"""
FILES = {
    "model.onnx": "the model in float32, ONNX operators 11",
    "model.float16.onnx": "the same with weights in float16; computes in float32",
    "model.int8.onnx": "the same with weights in int8, ONNX operators 13{contrib}",
    "model.sherpa.onnx": "the model in float32 for sherpa-onnx",
    STREAMING_FILE: "the model in float32 for sherpa-onnx, on audio as it arrives, without the front end",
    "model.stablehlo": "the network without its front end, for JAX: StableHLO of `jax.export`, for cpu, cuda and tpu",
    "tokens.txt": "symbols and their columns, as sherpa-onnx reads them",
    "vocabulary.txt": "one symbol a line, from column 1 on; column 0 is the blank",
    "metadata.json": "rate, symbols, features and their statistics, sizes and digests",
    "lm.bin": "language model (KenLM), for a decoder of your own; the engines here do not read it",
    "lm.arpa": "language model (ARPA), for a decoder of your own; the engines here do not read it",
    "lm.arpa.gz": "language model (ARPA), for a decoder of your own; the engines here do not read it",
    "unigrams.txt": "its words",
    "decode.json": "its weights, natural logarithms, and the settings of the beam",
}
ONNX = """
## ONNX

The front end is in the graph. Inputs: `samples` [batch, samples] float32 in [-1, 1], at {rate} Hz, mono; `lengths` [batch] int32,
the samples of each row. Outputs: `log_probs` [batch, frames, {size}] float32, natural-log probabilities, blank first; `frames`
[batch] int32, the valid frames of each row, {frame_ms:g} ms each. A row shorter than {window_ms:g} ms has none. In float32 and
float16, a row does not depend on the other rows of a batch.

### Transcribe with onnxruntime and NumPy

    pip install onnxruntime numpy

```python
{script}```
"""
SHERPA = """
### Transcribe with sherpa-onnx

    pip install sherpa-onnx numpy

```python
import sys
import wave

import numpy as np
import sherpa_onnx

recogniser = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc("model.sherpa.onnx", "tokens.txt")
with wave.open(sys.argv[1]) as file:
    samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    stream = recogniser.create_stream()
    stream.accept_waveform(file.getframerate(), samples)
recogniser.decode_stream(stream)
print(stream.result.text.strip())
print(list(zip(stream.result.tokens, stream.result.timestamps)))
```
"""
STREAMING = """
### Transcribe audio as it arrives with sherpa-onnx

    pip install sherpa-onnx numpy

The engine computes the features; its times are those of output frames of {frame_ms:g} ms. What the network looks ahead has to
follow the last word: here, half a second of silence.

```python
import sys
import wave

import numpy as np
import sherpa_onnx

recogniser = sherpa_onnx.OnlineRecognizer.from_nemo_ctc("tokens.txt", "{streaming}", num_threads=1, feature_dim={features})
stream = recogniser.create_stream()


def accept(samples):
    stream.accept_waveform(rate, samples)
    while recogniser.is_ready(stream):
        recogniser.decode_stream(stream)
    print(recogniser.get_result(stream).strip())


with wave.open(sys.argv[1]) as file:
    rate = file.getframerate()
    while block := file.readframes(rate // 5):
        accept(np.frombuffer(block, "<i2").astype(np.float32) / 32768)
accept(np.zeros(rate // 2, np.float32))
print(list(zip(recogniser.tokens(stream), recogniser.timestamps(stream))))
```
"""
NO_SHERPA = "\nThere is no file for sherpa-onnx: {obstacle}.\n"


STABLEHLO = """
## StableHLO

Input: normalised features [batch, frames, {features}] float32, as `metadata.json` describes them, and the frames of each row
[batch] int32; any number of rows and frames, compiled at the first use of each shape. Output: natural-log probabilities [batch,
output frames, {size}], blank first, and the valid output frames of each row. Versions of JAX that are released within six months
of the one that wrote the file ({jax}) can read it.

    pip install jax flatbuffers numpy

```python
import sys

import numpy as np
from jax import export

with open("model.stablehlo", "rb") as file:
    network = export.deserialize(bytearray(file.read()))
features = np.load(sys.argv[1])  # [frames, {features}]
log_probs, lengths = network.call(features[None], np.array([len(features)], np.int32))
```
"""


def describe(name: str, meta: ModelMeta, files: list[str]) -> str:
    """Return the text for a folder with these files."""
    facts = {
        "name": name,
        "language": meta.language,
        "count": meta.vocabulary.size - 1,
        "rate": meta.features.sample_rate_hz,
        "size": meta.vocabulary.size,
        "frame_ms": meta.output_frame_s * 1000,
        "window_ms": meta.features.window_ms,
        "features": meta.feature_size,
        "jax": importlib.metadata.version("jax"),
        "streaming": STREAMING_FILE,
        "script": SCRIPT,
        "obstacle": obstacle_to(meta),
        "contrib": " and onnxruntime's own `DynamicQuantizeLSTM`" if meta.model.cell == "lstm" else "",
    }
    parts = [HEAD, *(f"| `{file}` | {FILES[file]} |\n" for file in files)]
    if "model.onnx" in files:
        parts.append(ONNX)
        if not facts["obstacle"]:
            parts.append(SHERPA)
        elif STREAMING_FILE not in files:
            parts.append(NO_SHERPA)
    if STREAMING_FILE in files:
        parts.append(STREAMING)
    if "model.stablehlo" in files:
        parts.append(STABLEHLO)
    return "".join(part.format(**facts) for part in parts)
