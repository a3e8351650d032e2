"""Try an unverified language model in a process of its own: KenLM maps a binary and trusts all offsets in it.

A damaged or hostile binary may end the process that reads it. The trial opens the model with the engine that will use it, and
decodes noise, which leads a beam search through many n-grams. It finds most damage, not all, and gives no protection from
a file that was made to deceive it.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from decoding.lm.model_file import LanguageModelError
from decoding.lm.verification import Memory
from decoding.settings import BeamSettings
from input_pipeline.text import Vocabulary

TIMEOUT_S = 600
UTTERANCES, FRAMES = 4, 150  # of noise


def try_model(vocabulary: Vocabulary, settings: BeamSettings, engine: str) -> None:
    """Open and query the model `settings.lm` in a child process, once for each state of the file.

    Raises LanguageModelError if that process ends by a signal or does not end.
    """
    memory = Memory(Path(settings.lm))
    if memory.read(engine) is not None:
        return
    task = {"symbols": vocabulary.symbols, "settings": dataclasses.asdict(settings), "engine": engine}
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", ""))))
    try:
        code = subprocess.run(
            [sys.executable, "-c", "from decoding.search import beam; beam.run_trial()"],
            input=json.dumps(task).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            timeout=TIMEOUT_S,
        ).returncode
    except subprocess.TimeoutExpired:
        code = -signal.SIGALRM
    if code < 0:
        fate = "does not return" if code == -signal.SIGALRM else f"is ended by {signal.Signals(-code).name}"
        raise LanguageModelError(
            f"{settings.lm} is damaged: a process that queries it {fate}; copy it again, or train another one: "
            "python -m decoding.lm train --help"
        )
    if code == 0:
        memory.write(engine, "tried")


def decode_noise(decode: Callable[[Sequence[np.ndarray]], object], size: int) -> None:
    """Decode log probabilities [FRAMES, size] of noise, some with many candidates in each frame, some with few."""
    rng = np.random.default_rng(0)
    for peak in (1.0, 3.0):
        logits = rng.normal(0.0, peak, (UTTERANCES, FRAMES, size))
        decode(list((logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)))
