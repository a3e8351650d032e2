"""Rank the clips of a manifest by how little their texts fit their audio, to find swapped and wrong texts."""

import dataclasses
import math
from dataclasses import dataclass

from decoding.search import greedy
from ds2_jax.parallel import processes
from ds2_jax.recognition.evaluation import Evaluator, Transcripts
from input_pipeline.batches.labels import encode_transcripts
from input_pipeline.columns import Strings
from input_pipeline.manifest import Manifest
from input_pipeline.text import TextRules
from input_pipeline.text.language import NONE


@dataclass(frozen=True)
class Suspect:
    """A clip, what the network recognises in it, and how far its text is from that.

    row: of the manifest. score: natural logarithm, per symbol, by which the text is less probable than the best path; inf
    if the clip is too short for the text. note: what limits the score, or ''.
    """

    row: int
    recognised: str
    score: float
    note: str = ""


def rank_suspects(evaluator: Evaluator, variables: dict, manifest: Manifest) -> tuple[list[Suspect], dict[int, str]]:
    """Score the texts of a manifest; return the clips, the least fitting text first, and unusable rows with the reason.

    evaluator: one without an engine. Symbols that the network lacks do not count. All processes must call it; all return
    the same.
    """
    meta = evaluator.meta
    known = set(meta.vocabulary.symbols)
    normalised = Strings(map(meta.text.normalise, manifest.text))
    writable = Strings("".join(symbol for symbol in text if symbol in known) for text in normalised)
    labels, _ = encode_transcripts(dataclasses.replace(manifest, text=writable), meta.vocabulary, TextRules(NONE))
    needed = labels.needed_frames()
    found: dict[int, Suspect] = {}
    transcripts = Transcripts()
    for output, rows in evaluator.outputs(variables, evaluator.corpus(manifest, labels), transcripts, "suspects"):
        for batch_row, row in rows.items():
            frames = int(output["lengths"][batch_row])
            ids, probabilities = (output[name][batch_row, :frames] for name in ("ids", "probabilities"))
            best = greedy.decode(ids, probabilities, meta.vocabulary, meta.output_frame_s)
            symbols = int(labels.lengths[row])
            if needed[row] > frames:
                note = f"the text needs {needed[row]} frames of the network, the clip has {frames}"
                found[row] = Suspect(row, best.text, math.inf, note)
                continue
            distance = float(output["text_loss"][batch_row]) + best.score
            note = _describe_unknown(normalised[row], known)
            found[row] = Suspect(row, best.text, distance / max(symbols, len(best.text), 1), note)
    problems: dict[int, str] = {}
    for suspects, unusable in processes.gather((found, transcripts.problems), classes=(Suspect,)):
        found |= suspects
        problems |= unusable
    return sorted(found.values(), key=lambda suspect: (-suspect.score, suspect.row)), problems


def _describe_unknown(text: str, known: set[str]) -> str:
    """Name the symbols of a text that the network lacks, or the absence of a text; '' if nothing limits its score."""
    unknown = sorted(set(text) - known)
    if not text:
        return "the text is empty"
    return f"symbols that the network lacks do not count: {' '.join(map(ascii, unknown))}" if unknown else ""
