"""Front matter of model cards, which hubs read: language, licence, data, and results that were measured.

https://huggingface.co/docs/hub/model-cards
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds2_jax.artifacts.bundle import is_bundle
from ds2_jax.artifacts.load import find_checkpoint, resolve_model
from input_pipeline.text.language import NONE

TASK = {"type": "automatic-speech-recognition", "name": "Speech recognition"}
RATES = ("wer", "cer")
REPORTS = ("test.json", "eval.json")  # of a run folder
IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]*")


class ResultsError(ValueError):
    """A file of results that a model card cannot quote; the message names it and says what to do."""


@dataclass(frozen=True)
class Publication:
    """What the author says about a model: the section `export` of a config.

    license: identifier as on the hub, such as apache-2.0. datasets: names of the training data, comma-separated. results:
    files eval.json to quote, comma-separated; empty: those of the run. Raises ValueError for an impossible licence.
    """

    license: str = ""
    datasets: str = ""
    results: str = ""

    def __post_init__(self):
        """Refuse a licence that is no identifier."""
        if self.license and not IDENTIFIER.fullmatch(self.license):
            raise ValueError(
                f"config.export.license is {self.license!r}: use an identifier in lower case such as apache-2.0, cc-by-4.0, or other"
            )


def front_matter(
    name: str, language: str, publication: Publication, results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the front matter of a model card as values of YAML; what is not known is left out.

    results: contents of eval.json.
    """
    code = language.replace("_", "-").partition("-")[0].lower()
    datasets = [one.strip() for one in publication.datasets.split(",") if one.strip()]
    values = {
        "language": "" if language == NONE else code,
        "license": publication.license,
        "library_name": "ds2-jax",
        "pipeline_tag": TASK["type"],
        "tags": ["automatic-speech-recognition", "speech", "deepspeech2", "ctc", "jax", "flax"],
        "datasets": datasets,
        "metrics": list(RATES),
        "model-index": [{"name": name, "results": list(map(_result, results))}] if results else [],
    }
    return {key: value for key, value in values.items() if value}


def read_results(publication: Publication, source: str) -> list[dict[str, Any]]:
    """Return the results that a card quotes: of the named files, otherwise those that the model's run folder has of it.

    source: the model that is exported. Raises ResultsError for a named file that is not of this model, or no result.
    """
    named = [path.strip() for path in publication.results.split(",") if path.strip()]
    if named:
        return [_read(os.path.expanduser(path), source) for path in named]
    found = []
    for path in _reports_of_run(source):
        try:
            found.append(_read(path, source))
        except ResultsError:  # of another checkpoint, or written by an earlier version
            continue
    return found


def _reports_of_run(source: str) -> Iterable[str]:
    folder = resolve_model(source)
    if is_bundle(folder):
        return []
    run = Path(find_checkpoint(folder)).parent.parent
    return [str(run / name) for name in REPORTS if (run / name).is_file()]


def _read(path: str, source: str) -> dict[str, Any]:
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        rates = {name: float(record[name]) for name in RATES}
        data, model, decoding = list(record["data"]), str(record["model"]), str(record["decoding"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(
            f"config.export.results: {path} has no results of an evaluation ({error!r}): write it with --mode=eval --workdir=DIR"
        ) from error
    if not _is_of(model, record.get("checkpoint"), source):
        raise ResultsError(
            f"config.export.results: {path} was measured with {model} ({record.get('checkpoint') or 'a bundle'}), not with the "
            f"model that is exported, {source}: measure that one"
        )
    return {**rates, "data": data, "decoding": decoding}


def _is_of(model: str, checkpoint: str | None, source: str) -> bool:
    folder = resolve_model(source)
    if is_bundle(folder):
        return os.path.realpath(resolve_model(model)) == os.path.realpath(folder)
    best = Path(find_checkpoint(folder))
    same = os.path.realpath(model) in (os.path.realpath(best.parent.parent), os.path.realpath(best))
    return same and checkpoint == f"step {best.name}"


def _result(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of the model index; rates are in per cent."""
    engine = record["decoding"].partition(",")[0]
    alone = engine == "greedy" or "no language model" in record["decoding"]
    decoding = engine if alone else f"{engine} with a language model"
    paths = [Path(path) for path in record["data"]]
    name = ", ".join(dict.fromkeys(path.parent.name or path.stem for path in paths))
    return {
        "task": dict(TASK),
        "dataset": {
            "name": name,
            "type": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "audio",
            "split": ", ".join(dict.fromkeys(path.stem for path in paths)),
        },
        "metrics": [
            {"type": rate, "name": f"{rate.upper()}, {decoding}", "value": round(100 * record[rate], 2)}
            for rate in RATES
        ],
    }
