"""Metrics of the training loop: read from the device with a delay, summed, averaged, displayed and logged."""

import collections
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from ds2_jax.parallel import processes
from ds2_jax.training.metrics_log import MetricsLog
from ds2_jax.training.progress import Progress
from ds2_jax.training.settings import TrainSettings
from input_pipeline.batches.corpus import Corpus

logger = logging.getLogger("ds2_jax")

LAG = 2  # steps by which reading metrics is delayed, so that the device never waits for the host
INPUT_LIMIT = 0.1  # share of time spent waiting for data above which a warning is logged


class Meter:
    """Collects the metrics of all steps, guards against non-finite values, and updates the progress bar and the log."""

    def __init__(
        self,
        settings: TrainSettings,
        corpus: Corpus,
        log: MetricsLog,
        schedule: Callable,
        progress: Progress,
        total_steps: int,
    ):
        self._settings = settings
        self._manifest = corpus.manifest
        self._inputs = corpus.inputs
        self._frame_s = corpus.front_end.settings.stride_ms / 1000
        self._log = log
        self._schedule = schedule
        self._progress = progress
        self._bar = tqdm(total=total_steps, initial=progress.step, desc="train", unit=" steps", dynamic_ncols=True)
        self._pending: collections.deque = collections.deque()
        self._nonfinite = 0
        self._bad = set(progress.bad_utterances)
        self._started = time.monotonic()
        self._paused_s = 0.0
        self._counted_until = self._clock()
        self._waited_s = 0.0  # for data, not yet counted
        self._trained_before = progress.trained_s
        self._warned = False
        self._sums = collections.defaultdict(float, progress.interval)

    def __enter__(self) -> "Meter":
        return self

    def __exit__(self, *_):
        self._bar.close()

    @property
    def trained_s(self) -> float:
        """Seconds of training so far, including earlier starts of this run."""
        return self._trained_before + time.monotonic() - self._started

    @property
    def interval(self) -> dict[str, float]:
        """Sums since the last line of metrics.jsonl; a checkpoint stores them, so that a resumed run logs the same values."""
        return dict(self._sums)

    def _clock(self) -> float:
        """Return monotonic seconds, without the time spent in `paused`."""
        return time.monotonic() - self._paused_s

    def timed(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield batches, and measure the time spent waiting for each."""
        while True:
            processes.report_progress(f"waiting for the data of step {self._progress.step + 1}")
            start = time.monotonic()
            batch = next(batches, None)
            self._waited_s += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def add(self, batch: dict[str, np.ndarray], problems: np.ndarray, metrics: dict[str, jax.Array]) -> None:
        """Take the metrics of the step just started, and read those of the step LAG steps ago."""
        processes.report_progress(f"step {self._progress.step}")
        self._warn_about_problems(batch["utterance"], problems)
        padded = len(batch["valid"]) * self._inputs.room(batch) * processes.count()
        self._pending.append((self._progress.step, self._progress.epoch, metrics, batch["utterance"], padded))
        if len(self._pending) > LAG:
            self._read(*self._pending.popleft())
        self._bar.update()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Read all pending metrics, and exclude the enclosed work (evaluation) from the training speed."""
        self.flush()
        start = time.monotonic()
        try:
            yield
        finally:
            self._paused_s += time.monotonic() - start

    def flush(self) -> None:
        """Read all pending metrics. Call this before saving a checkpoint, so that non-finite values are noticed first."""
        while self._pending:
            self._read(*self._pending.popleft())

    def _warn_about_problems(self, utterances: np.ndarray, problems: np.ndarray) -> None:
        for row in np.flatnonzero(problems != ""):
            utterance = int(utterances[row])
            if utterance not in self._bad:
                self._bad.add(utterance)
                self._progress.add_bad_utterances([utterance])
                logger.warning("skipped %s: %s", self._manifest.where(utterance), problems[row])

    def _read(self, step: int, epoch: int, metrics: dict[str, jax.Array], utterances: np.ndarray, padded: int) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if values.pop("skipped"):
            self._guard(step, values, utterances)
        else:
            for name in ("loss", "count", "infeasible", "grad_norm"):
                self._sums[name] += values[name]
            self._sums["steps"] += 1
        self._sums["frames"] += values["frames"]
        self._sums["room"] += padded
        share = 1 / (1 + len(self._pending))  # pending steps have run, and waited, in this time, too
        elapsed_s, waited_s = (self._clock() - self._counted_until) * share, self._waited_s * share
        self._sums["seconds"] += elapsed_s
        self._sums["waited"] += waited_s
        self._counted_until += elapsed_s
        self._waited_s -= waited_s
        if step % self._settings.log_every == 0:
            self._write(step, epoch)

    def _guard(self, step: int, values: dict[str, float], utterances: np.ndarray) -> None:
        """Report a step with a non-finite loss or gradient; the device has not updated the parameters.

        Raises FloatingPointError if the settings say to stop, or after too many such steps.
        """
        self._nonfinite += 1
        names = ", ".join(self._manifest.where(int(u)) for u in utterances[utterances >= 0][:8])
        what = f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}, utterances {names}"
        if self._settings.nonfinite == "stop" or self._nonfinite > self._settings.max_nonfinite:
            raise FloatingPointError(
                f"{what}. Non-finite steps so far: {self._nonfinite}. Lower config.optim.learning_rate or "
                "config.optim.clip_norm, or check these utterances (python -m input_pipeline.manifest check)"
            )
        logger.warning("%s: the loss or gradient is not finite; the step was skipped", what)

    def _write(self, step: int, epoch: int) -> None:
        sums, seconds = self._sums, max(self._sums["seconds"], 1e-9)
        count, steps = max(sums["count"], 1), max(sums["steps"], 1)
        audio_s_per_s = sums["frames"] * self._frame_s / seconds
        waiting = sums["waited"] / seconds
        padding = 1 - sums["frames"] / max(sums["room"], 1)
        values = {
            "epoch": epoch,
            "loss": sums["loss"] / count,
            "grad_norm": sums["grad_norm"] / steps,
            "learning_rate": float(self._schedule(step - 1)),
            "infeasible": int(sums["infeasible"]),
            "skipped_utterances": len(self._progress.bad_utterances),
            "audio_s_per_s": audio_s_per_s,
            "padding": padding,
            "waiting_for_data": waiting,
            "trained_s": self.trained_s,
        }
        self._log.write(step, **values)
        self._bar.set_postfix_str(
            f"epoch {epoch}, loss {values['loss']:.3f}, {audio_s_per_s:.0f} audio s/s, padding {padding:.0%}",
            refresh=False,
        )
        if waiting > INPUT_LIMIT and step > 10 * self._settings.log_every and not self._warned:
            self._warned = True
            logger.warning(
                "%.0f%% of the time is spent waiting for data; increase config.data.workers or config.data.threads",
                100 * waiting,
            )
        self._sums.clear()
