"""Tune the weights of a language model by grid search: the fewest errors over the same network outputs win.

Each point is appended to a CSV file, from which an interrupted search resumes; points of another model, other data or
other settings, which have another digest, are ignored.
"""

import csv
import dataclasses
import json
import logging
import math
import multiprocessing
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from decoding.scoring.error_rate import Counts, count_utterance
from decoding.search.beam import Engine, make_engine
from decoding.settings import BeamSettings
from input_pipeline.storage import whole_file
from input_pipeline.text import ScoringRules, Vocabulary

logger = logging.getLogger("decoding")

DIGITS = 6  # to which alpha and beta are rounded
MAX_POINTS = 100_000  # more are a mistake in a step
POINTS, SUMMARY, PICTURE = "points.csv", "tune.json", "surface.png"


class TuningError(ValueError):
    """A search that cannot continue; the message says what is kept and what to do."""


@dataclass(frozen=True)
class Grid:
    """Weights to try, every alpha with every beta; refine: how often the neighbourhood of the minimum is searched again."""

    alphas: tuple[float, ...]
    betas: tuple[float, ...]
    refine: int = 0

    @classmethod
    def regular(cls, alpha: tuple[float, float, float], beta: tuple[float, float, float], refine: int = 0) -> "Grid":
        """Make a grid of (from, to, step) each, both ends included. Raises ValueError for an empty or too large one."""
        if refine < 0:
            raise ValueError(f"config.tune.refine is {refine}: use 0 or more")
        grid = cls(_steps("alpha", *alpha), _steps("beta", *beta), refine)
        if grid.alphas[0] < 0:
            raise ValueError(f"config.tune.alpha_from is {alpha[0]}: use 0 or more")
        if len(grid) > MAX_POINTS:
            raise ValueError(f"config.tune gives {len(grid)} points, more than {MAX_POINTS}: use larger steps")
        return grid

    def __len__(self) -> int:
        return len(self.alphas) * len(self.betas)

    def points(self) -> list[tuple[float, float]]:
        """Return all pairs, ordered by alpha, then beta."""
        return [(alpha, beta) for alpha in self.alphas for beta in self.betas]

    def around(self, alpha: float, beta: float, times: int) -> list[tuple[float, float]]:
        """Return the points around one of them, within the limits of the grid, at its step halved `times` times."""
        axes = []
        for centre, values in ((alpha, self.alphas), (beta, self.betas)):
            step = (values[1] - values[0]) / 2**times if len(values) > 1 else 0.0
            near = (min(max(centre + step * k, values[0]), values[-1]) for k in (-2, -1, 0, 1, 2))
            axes.append(sorted(set(_rounded(near))))
        return [(a, b) for a in axes[0] for b in axes[1]]

    def edges(self, alpha: float, beta: float) -> list[str]:
        """Return the settings at whose limit a point is: beyond it, there may be better ones."""
        return [
            f"config.tune.{name}_{side}"
            for name, value, values in (("alpha", alpha, self.alphas), ("beta", beta, self.betas))
            for side, limit in (("from", values[0]), ("to", values[-1]))
            if value == limit and len(values) > 1 and (name, side, value) != ("alpha", "from", 0.0)
        ]


def _steps(name: str, first: float, last: float, step: float) -> tuple[float, ...]:
    if not all(map(math.isfinite, (first, last, step))) or last < first or (step <= 0 and last > first):
        raise ValueError(
            f"config.tune.{name}_from={first}, {name}_to={last} and {name}_step={step} give an empty grid: the end must not "
            "be less than the start, and the step must be above 0"
        )
    count = math.floor((last - first) / step + 1e-9) + 1 if last > first else 1
    if count > MAX_POINTS:
        raise ValueError(f"config.tune.{name}_step is {step}: {count} values; use a larger step")
    return _rounded(first + step * i for i in range(count))


def _rounded(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(float(value), DIGITS) + 0.0 for value in values)  # + 0.0: no negative zero


@dataclass(frozen=True)
class Point:
    """The errors with a pair of weights (for natural logs), summed over the corpus."""

    alpha: float
    beta: float
    word_errors: int
    words: int
    character_errors: int
    characters: int

    @property
    def wer(self) -> float:
        """Return the word error rate."""
        return self.word_errors / max(self.words, 1)

    @property
    def cer(self) -> float:
        """Return the character error rate."""
        return self.character_errors / max(self.characters, 1)

    def __str__(self) -> str:
        return f"alpha {self.alpha:.4f}  beta {self.beta:.4f}  WER {self.wer:7.2%}  CER {self.cer:7.2%}"


@dataclass(frozen=True)
class Task:
    """What is decoded for every point: log probabilities [U, K] of utterances, and their texts. Can be pickled."""

    symbols: tuple[str, ...]
    settings: BeamSettings
    frame_s: float
    log_probs: Sequence[np.ndarray]
    references: Sequence[str]
    rules: ScoringRules

    def engine(self, threads: int) -> Engine:
        """Make an engine for the task."""
        settings = dataclasses.replace(self.settings, nbest=1, threads=threads)
        return make_engine(Vocabulary(self.symbols), settings, self.frame_s)

    @property
    def by_characters(self) -> bool:
        """Tell whether character errors are minimised: in languages without spaces between words."""
        return self.rules.remove_spaces

    def measure(self, engine: Engine, alpha: float, beta: float) -> Point:
        """Decode all utterances with these weights and count the errors."""
        engine.rescale(alpha, beta)
        words = characters = Counts()
        for reference, hypotheses in zip(self.references, engine.decode_batch(self.log_probs), strict=True):
            more_words, more_characters = count_utterance(reference, hypotheses[0].text, self.rules)
            words, characters = words + more_words, characters + more_characters
        return Point(alpha, beta, words.errors, words.reference, characters.errors, characters.reference)


class PointFile:
    """The points measured so far, kept as lines of a CSV file with the digest of their inputs."""

    FIELDS = ("digest", *(field.name for field in dataclasses.fields(Point)), "wer", "cer")

    def __init__(self, path: Path, digest: str):
        self.path, self._digest = path, digest
        self.points: dict[tuple[float, float], Point] = {}
        rows = self._read()
        with whole_file.open_text(path, newline="") as file:  # without an incomplete last line
            writer = csv.DictWriter(file, self.FIELDS)
            writer.writeheader()
            writer.writerows(rows)

    def _read(self) -> list[dict]:
        rows = []
        if self.path.exists():
            with open(self.path, encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    try:
                        values = {f.name: f.type(row[f.name]) for f in dataclasses.fields(Point) if callable(f.type)}
                    except (KeyError, TypeError, ValueError):
                        continue
                    if row.get("cer"):
                        rows.append(row)
                        if row["digest"] == self._digest:
                            self.points[values["alpha"], values["beta"]] = Point(**values)
        return rows

    def add(self, point: Point) -> None:
        """Add a point and append it to the file."""
        self.points[point.alpha, point.beta] = point
        rates = {"wer": round(point.wer, 6), "cer": round(point.cer, 6)}
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self.FIELDS).writerow({"digest": self._digest, **dataclasses.asdict(point), **rates})


def best_point(points: Iterable[Point], *, characters: bool) -> Point:
    """Return the point with the fewest word errors (or character errors); of equal ones, the fewest of the other kind."""

    def rank(point: Point) -> tuple[float, ...]:
        rates = (point.cer, point.wer) if characters else (point.wer, point.cer)
        return (*rates, point.alpha, point.beta)

    return min(points, key=rank)


def search(task: Task, grid: Grid, folder: Path, digest: str) -> dict:
    """Measure the grid and the neighbourhood of its minimum; write points, summary and picture into a folder.

    Returns alpha, beta, wer, cer and other figures. Raises TuningError if a worker process dies or the user interrupts.
    """
    if not task.references:
        raise TuningError("there is no utterance to tune on: name a manifest with text, --config.data.dev=dev.jsonl")
    file = PointFile(folder / POINTS, digest)
    if file.points:
        logger.info("%d points are read from %s", len(file.points), file.path)
    start = time.monotonic()
    points = _measure_grid(task, grid, file)
    best = best_point(points, characters=task.by_characters)
    logger.info("best: %s", best)  # now, as the files below may not fit on the disk
    edges = grid.edges(best.alpha, best.beta)
    if edges:
        logger.warning("the minimum is at the edge of the grid: another %s may find a better one", ", ".join(edges))
    result = {
        "alpha": best.alpha,
        "beta": best.beta,
        "wer": round(best.wer, 6),
        "cer": round(best.cer, 6),
        "points": len(points),
        "utterances": len(task.references),
        "seconds": round(time.monotonic() - start, 1),
    }
    summary = {**result, "digest": digest, "settings": dataclasses.asdict(task.settings)}
    rows = [{**dataclasses.asdict(p), "wer": round(p.wer, 6), "cer": round(p.cer, 6)} for p in points]
    with whole_file.open_text(folder / SUMMARY) as output:
        output.write(json.dumps({**summary, "all": rows}, indent=1) + "\n")
    draw(points, best, folder / PICTURE, characters=task.by_characters)
    return result


def _measure_grid(task: Task, grid: Grid, file: PointFile) -> list[Point]:
    """Measure the grid and its refinements, as far as the file lacks them; return their points in order."""
    measurer = _Measurer(task, file)
    measurer.measure(grid.points(), "tune")
    pairs = set(grid.points())
    for times in range(1, grid.refine + 1):
        best = best_point((file.points[pair] for pair in pairs), characters=task.by_characters)
        around = grid.around(best.alpha, best.beta, times)
        measurer.measure(around, f"refine {times}")
        pairs |= set(around)
    return [file.points[pair] for pair in sorted(pairs)]


class _Measurer:
    """Measures points on all cores: in threads if the engine releases the interpreter lock, else in processes."""

    def __init__(self, task: Task, file: PointFile):
        self._task, self._file = task, file
        self._engine: Engine | None = None  # made once: loading a language model takes time

    def measure(self, pairs: Sequence[tuple[float, float]], name: str) -> None:
        """Measure pairs of weights that are not in the file yet; show each point and the remaining time."""
        file = self._file
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in file.points]
        with tqdm(total=len(pairs), initial=len(pairs) - len(missing), desc=name, unit=" points") as bar:
            try:
                for point in self._points(missing):
                    file.add(point)
                    bar.write(str(point))
                    best = best_point(file.points.values(), characters=self._task.by_characters)
                    bar.set_postfix_str(f"best at {best.alpha:g}, {best.beta:g}", refresh=False)
                    bar.update()
            except BrokenProcessPool as error:
                raise TuningError(
                    f"a process of the decoder died (killed, or out of memory): {bar.n} of {bar.total} points are kept in "
                    f"{file.path}. Run the same command again to resume, with fewer processes: --config.decode.threads=1"
                ) from error
            except KeyboardInterrupt:
                raise TuningError(
                    f"interrupted: {bar.n} of {bar.total} points are kept in {file.path}; run the same command again to resume"
                ) from None

    def _points(self, pairs: Sequence[tuple[float, float]]) -> Iterator[Point]:
        if not pairs:
            return
        if self._task.settings.engine == "pyctcdecode":
            yield from _measure_in_processes(self._task, pairs)
            return
        self._engine = self._engine or self._task.engine(self._task.settings.threads)
        for alpha, beta in pairs:
            yield self._task.measure(self._engine, alpha, beta)


def _measure_in_processes(task: Task, pairs: Sequence[tuple[float, float]]) -> Iterator[Point]:
    """Measure pairs of weights in several processes and yield the points as they are completed."""
    context = multiprocessing.get_context("spawn")  # a fork of a process that runs JAX may hang
    workers = min(task.settings.thread_count, len(pairs))
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(task,)) as pool:
        try:
            for future in as_completed([pool.submit(_measure_in_worker, *pair) for pair in pairs]):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_worker: list[tuple[Task, Engine]] = []  # in a worker process: its task and engine, set once


def _start_worker(task: Task) -> None:
    _worker.append((task, task.engine(1)))


def _measure_in_worker(alpha: float, beta: float) -> Point:
    task, engine = _worker[0]
    return task.measure(engine, alpha, beta)


def draw(points: Sequence[Point], best: Point, path: Path, *, characters: bool) -> None:
    """Draw the error rates over alpha and beta with the minimum marked, if there are two values of each at least."""
    if min(len({p.alpha for p in points}), len({p.beta for p in points})) < 2:
        logger.info("no picture is drawn: it needs two values of alpha and of beta")
        return
    try:
        import matplotlib
    except ImportError as error:
        logger.warning(
            "no picture is drawn: matplotlib cannot be imported (%s); install it: pip install 'ds2-jax[train]'", error
        )
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    alphas, betas = [p.alpha for p in points], [p.beta for p in points]
    rates = [100 * (p.cer if characters else p.wer) for p in points]
    figure, axes = pyplot.subplots(figsize=(8, 5.5), layout="constrained")
    if max(rates) > min(rates):
        surface = axes.tricontourf(alphas, betas, rates, levels=20, cmap="viridis_r")
        figure.colorbar(surface, label=f"{'character' if characters else 'word'} error rate, %")
    axes.plot(
        alphas, betas, ".", color="white", markeredgecolor="gray", markeredgewidth=0.3, markersize=4, clip_on=False
    )
    axes.plot(best.alpha, best.beta, "*", color="red", markersize=16, markeredgecolor="white", clip_on=False)
    axes.set_xlabel("alpha, weight of the language model (natural logarithms)")
    axes.set_ylabel("beta, added per word or character")
    axes.set_title(f"{len(points)} points, least {min(rates):.2f} % at alpha {best.alpha:g}, beta {best.beta:g}")
    with whole_file.open_binary(path) as file:
        figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)
