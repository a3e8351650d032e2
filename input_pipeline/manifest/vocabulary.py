"""Make a vocabulary from manifests: `python -m input_pipeline.text --language=en --output=vocabulary.txt train.jsonl`."""

import argparse
import collections
import itertools
import sys
import unicodedata
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from input_pipeline import manifest
from input_pipeline.storage import console
from input_pipeline.storage.paths import refuse_inputs
from input_pipeline.text import TextRules, Vocabulary, VocabularyError, language_code, normalise
from input_pipeline.text.characters import by_frequency, count_characters, describe_character, describe_characters
from input_pipeline.text.scripts import mixed_words, writing_system

SHOWN = 10  # words of mixed scripts in the warning
RARE_SCRIPT = 0.05  # share of the main script's letters below which another script is suspicious


def suspicious(counts: collections.Counter) -> list[str]:
    """Describe characters that are often mistakes: those without a meaning, letters of a rare script, those seen only once."""
    scripts: collections.Counter = collections.Counter()
    for character, count in counts.items():
        if character.isalpha() and writing_system(character):
            scripts[writing_system(character)] += count
    most = max(scripts.values(), default=0)
    groups: dict[str, list[str]] = {
        "private or unassigned characters": [],
        "letters of a rare script": [],
        "seen only once": [],
    }
    for character, count in sorted(counts.items()):
        if unicodedata.category(character) in ("Co", "Cn", "Cs"):
            groups["private or unassigned characters"].append(character)
        elif character.isalpha() and 0 < scripts[writing_system(character)] < RARE_SCRIPT * most:
            groups["letters of a rare script"].append(character)
        elif count == 1:
            groups["seen only once"].append(character)
    return [f"{kind}: {describe_characters(characters)}" for kind, characters in groups.items() if characters]


def mixed(texts: Iterable[str]) -> list[str]:
    """Describe words that mix scripts; an empty list if there are none."""
    words = list(dict.fromkeys(itertools.chain.from_iterable(mixed_words(normalise(text, "none")) for text in texts)))
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return [f"words with letters of two scripts that look alike: {', '.join(words[:SHOWN])}{more}"] if words else []


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m input_pipeline.text", description="Make a vocabulary from manifests."
    )
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST")
    parser.add_argument("--output", required=True, help="vocabulary file to write")
    parser.add_argument(
        "--language", default="en", type=language_code, help="whose normalisation to apply (default en)"
    )
    parser.add_argument("--spell_numbers", action="store_true", help="write numbers as words of the language first")
    parser.add_argument("--count_threshold", type=int, default=0, help="fewest occurrences of a symbol (default 0)")
    return parser


@console.command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        refuse_inputs([args.output], args.manifests)
        texts = [text for path in args.manifests for text in manifest.read(path, need_audio=False).text]
        rules = TextRules(args.language, args.spell_numbers)
        progress = tqdm(texts, desc="count characters", unit=" texts", delay=2.0, leave=False)
        counts = count_characters(map(rules.normalise, progress))
        symbols = tuple(c for c in by_frequency(counts) if counts[c] >= args.count_threshold)
        if not symbols:
            raise VocabularyError(
                f"no character of {len(texts)} transcripts occurs {args.count_threshold} times; lower --count_threshold"
            )
        Vocabulary(symbols).save(args.output)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    for character in by_frequency(counts):
        left_out = "" if counts[character] >= args.count_threshold else ", left out"
        print(f"{counts[character]:9d}  {describe_character(character)}{left_out}")
    for warning in [*suspicious(counts), *mixed(texts)]:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{args.output}: {len(symbols)} symbols from {len(texts)} transcripts")
    return 0
