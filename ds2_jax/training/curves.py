"""Draw the curves of a run: loss, error rates on dev, learning rate and speed over training steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from input_pipeline.storage import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "curves.png"  # in the workdir

_INCHES, _DPI = (10.0, 6.5), 110
_LOG_SPAN = 10.0  # ratio of largest to smallest value from which an axis is logarithmic
_MANY_DECADES = 1e3  # ratio from which such an axis is labelled at powers of ten only
_SMOOTHED_FROM = 100  # points; shorter curves are not smoothed
_WINDOW = 0.02  # of the smoothed curve, as a share of all points
_EPOCH_LABELS = 8
_TRAIN, _DEV, _OTHER = "#0072b2", "#d55e00", "#009e73"  # distinguishable with red-green colour blindness
_MARGINS = {"left": 0.07, "right": 0.985, "bottom": 0.075, "top": 0.91, "hspace": 0.25, "wspace": 0.16}


def draw_curves(records: Sequence[dict], picture: Path) -> None:
    """Draw the lines of `metrics.jsonl` as a PNG with four panels; do nothing without lines.

    Raises ImportError without matplotlib, and OSError if the picture cannot be written.
    """
    if not records:
        return
    from matplotlib.figure import Figure  # takes half a second, and training works without it

    figure = Figure(figsize=_INCHES, dpi=_DPI)
    panels = figure.subplots(2, 2, sharex=True, gridspec_kw=_MARGINS)
    _draw_loss(panels[0, 0], records)
    _draw_error_rates(panels[0, 1], records)
    _draw_learning_rate(panels[1, 0], records)
    _draw_speed(panels[1, 1], records)
    for panel in panels.flat:
        _finish(panel)
    for panel in panels[0]:
        _add_epochs(panel, records)
    for panel in panels[1]:
        panel.set_xlabel("step")
    with whole_file.open_binary(picture) as file:
        figure.savefig(file, format="png")


def _series(records: Sequence[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps [N] and finite values [N] of a metric."""
    pairs = [(record["step"], record[name]) for record in records if name in record]
    steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
    finite = np.isfinite(values)
    return steps[finite], values[finite]


def _draw_loss(axis: "Axes", records: Sequence[dict]) -> None:
    axis.set_title("Loss, mean of −ln p(text)", fontsize="medium")
    steps, values = _series(records, "loss")
    _draw_noisy(axis, steps, values, _TRAIN, "train")
    dev_steps, dev_values = _series(records, "dev_loss")
    if len(dev_values):
        axis.plot(dev_steps, dev_values, ".-", color=_DEV, label="dev")
    _choose_scale(axis, np.concatenate([values, dev_values]))
    axis.legend(loc="upper right", fontsize="small")


def _draw_error_rates(axis: "Axes", records: Sequence[dict]) -> None:
    axis.set_title("Error rates on dev, %", fontsize="medium")
    drawn = []
    for name, label, colour in (("dev_wer", "WER", _DEV), ("dev_cer", "CER", _TRAIN)):
        steps, values = _series(records, name)
        if not len(values):
            continue
        percent = 100 * values
        best = int(np.argmin(percent))  # the first of equal ones
        axis.plot(steps, percent, ".-", color=colour)
        text = f"{label}: best {percent[best]:.2f} % at step {steps[best]:,.0f}"
        axis.plot(steps[best], percent[best], "*", color=colour, markersize=14, markeredgecolor="white", label=text)
        drawn.append(percent)
    if drawn:
        _choose_scale(axis, np.concatenate(drawn))
        axis.legend(loc="upper right", fontsize="small")
    else:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color="gray")


def _draw_learning_rate(axis: "Axes", records: Sequence[dict]) -> None:
    axis.set_title("Learning rate", fontsize="medium")
    axis.plot(*_series(records, "learning_rate"), color=_OTHER)
    axis.set_ylim(bottom=0)
    axis.ticklabel_format(axis="y", scilimits=(-2, 4))


def _draw_speed(axis: "Axes", records: Sequence[dict]) -> None:
    axis.set_title("Speed, seconds of audio per second", fontsize="medium")
    _draw_noisy(axis, *_series(records, "audio_s_per_s"), _OTHER)
    axis.set_ylim(bottom=0)


def _draw_noisy(axis: "Axes", steps: np.ndarray, values: np.ndarray, colour: str, label: str = "") -> None:
    """Draw a curve; if it has many points, faintly, with its moving average on top."""
    if len(values) < _SMOOTHED_FROM:
        axis.plot(steps, values, ".-" if len(values) == 1 else "-", color=colour, label=label)
    else:
        axis.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
        axis.plot(steps, _moving_average(values), color=colour, label=label)


def _moving_average(values: np.ndarray) -> np.ndarray:
    """Return the average over a centred window, which is shorter at both ends."""
    window = np.ones(2 * int(_WINDOW * len(values) / 2) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def _choose_scale(axis: "Axes", values: np.ndarray) -> None:
    """Use a logarithmic axis for positive values that span a factor of ten, else a linear axis that starts at zero."""
    if not len(values):
        return
    span = values.max() / values.min() if values.min() > 0 else 0.0
    if span >= _LOG_SPAN:
        from matplotlib.ticker import LogLocator, NullLocator

        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < _MANY_DECADES else (1,)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter("{x:g}")
    else:
        axis.set_ylim(bottom=min(0.0, values.min()))


def _finish(axis: "Axes") -> None:
    """Style a panel, with whole steps on its horizontal axis."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.02)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k


def _add_epochs(axis: "Axes", records: Sequence[dict]) -> None:
    """Add an axis of finished epochs above a panel, if there are any."""
    first: dict[int, float] = {}
    for record in records:
        if "epoch" in record:
            first.setdefault(int(record["epoch"]), record["step"])
    finished = sorted(epoch for epoch in first if epoch > 0)
    if not finished:
        return
    shown = finished[:: -(-len(finished) // _EPOCH_LABELS)]
    above = axis.secondary_xaxis("top")
    above.set_xticks([first[epoch] for epoch in shown], [str(epoch) for epoch in shown], fontsize="small", color="gray")
    above.tick_params(length=2, pad=1, color="gray")
    above.spines["top"].set_visible(False)
    axis.annotate("epoch", (1.0, 1.1), xycoords="axes fraction", ha="right", fontsize="small", color="gray")
