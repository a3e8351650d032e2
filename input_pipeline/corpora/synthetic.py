"""A small corpus of English or Mandarin voice commands, spoken by espeak-ng, for trying out the whole program.

espeak-ng is installed with the wheel `espeakng-loader`, a development dependency. The seed determines everything: two runs
write the same bytes, for any number of workers.
"""

import argparse
import ctypes
import itertools
import multiprocessing
import os
import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import soxr
from tqdm import tqdm

from input_pipeline import audio
from input_pipeline.cores import usable_cores
from input_pipeline.corpora import next_step
from input_pipeline.corpora.assemble import Prepared
from input_pipeline.manifest import write as write_manifest

SAMPLE_RATE_HZ = 16_000
RECIPES = {"en": "configs/tiny.py", "zh": "configs/tiny_mandarin.py"}
HELD_OUT = {"dev": 60, "test": 100, "test_voices": 60}  # utterances
CHUNK = 100  # utterances per process

# Accents of espeak-ng; `en` is British English. `+name` after an accent selects a timbre.
ACCENTS = {"en": ("en-us", "en", "en-gb-scotland", "en-gb-x-rp"), "zh": ("cmn",)}
TIMBRES = ("m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f3", "f4", "Alex", "steph", "belinda", "shelby")
UNHEARD_ACCENTS = {"en": ("en-us", "en", "en-gb-scotland", "en-us-nyc"), "zh": ("cmn",)}
UNHEARD_TIMBRES = ("m5", "m8", "f5", "Annie", "Michael", "linda")
WORDS_PER_MINUTE = {"en": (145, 195), "zh": (185, 240)}  # espeak-ng's unit of speaking rate
PITCH = (35, 65)  # within 0..99; 50 is the timbre's default

# A sentence is a template with values for its slots, which may contain slots themselves.
GRAMMAR = {
    "en": {
        "sentence": (
            "turn {switch} the {place} {device}",
            "turn {switch} the {place} {device} {when}",
            "turn {switch} the {place} {device} and call {name}",
            "call {name} {when}",
            "remind {name} to call {name} {when}",
            "set a timer for {number} minutes",
            "set a timer for {number} seconds please",
            "set the alarm for {time} {day}",
        ),
        "switch": ("on", "off"),
        "place": ("kitchen", "bedroom", "garden"),
        "device": ("light", "heater", "radio"),
        "name": ("anna", "peter", "maria", "jack"),
        "when": ("now please", "at {time}", "{day} at {time}"),
        "day": ("today", "tomorrow"),
        "time": ("{hour}", "{hour} {tens}"),
        "number": ("{hour}", "{tens}", "{tens} {unit}"),
        "hour": ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
        "unit": ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        "tens": ("twenty", "thirty", "forty", "fifty"),
    },
    "zh": {
        "sentence": (
            "{switch}{place}的{device}",
            "{day}{hour}点{switch}{place}的{device}",
            "给{name}打电话",
            "{day}{hour}点给{name}打电话",
            "定一个{number}分钟的闹钟",
            "{day}{hour}点半叫我起床",
            "{day}{hour}点播放音乐",
            "{number}分钟后{switch}{device}",
        ),
        "switch": ("打开", "关闭"),
        "place": ("厨房", "卧室", "客厅", "花园"),
        "device": ("灯", "风扇", "空调", "电视"),
        "name": ("妈妈", "小明", "老师", "小王"),
        "day": ("今天早上", "今天晚上", "明天早上", "明天晚上"),
        "hour": ("一", "两", "三", "四", "五", "六", "七", "八", "九", "十"),
        "number": ("{unit}", "十{unit}", "{unit}十", "{unit}十{unit}"),
        "unit": ("二", "三", "四", "五", "六", "七", "八", "九"),
    },
}


class SyntheticCorpusError(ValueError):
    """The synthetic corpus cannot be made with these options or on this machine."""


@dataclass(frozen=True)
class Utterance:
    """An utterance to speak: text, voice, and its file (relative to the corpus)."""

    audio_filepath: str
    text: str
    voice: str
    words_per_minute: int
    pitch: int
    seed: int  # for level, pauses and noise of this recording


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the corpus's options to a command line."""
    parser.add_argument("--target_dir", help="folder to write (default: data/synthetic_<language>)")
    parser.add_argument("--language", choices=sorted(GRAMMAR), default="en", help="spoken language (default: en)")
    parser.add_argument("--utterances", type=int, default=1000, help="number of training utterances (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="different seeds give different corpora (default: 0)")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="number of processes (default: all cores)")


def prepare(args: argparse.Namespace) -> Prepared:
    """Speak the corpus, and write the manifests."""
    folder = Path(args.target_dir or f"data/synthetic_{args.language}")
    if args.utterances < 1 or args.workers < 1:
        raise SyntheticCorpusError(f"--utterances={args.utterances} --workers={args.workers}: use 1 or more for both")
    _import_loader()
    splits = plan(args.language, args.utterances, args.seed)
    folder.mkdir(parents=True, exist_ok=True)
    return Prepared(write_corpus(splits, folder, args.workers), next_step.train(RECIPES[args.language], folder))


def plan(language: str, train_utterances: int, seed: int) -> dict[str, list[Utterance]]:
    """Plan all utterances of all splits; a held-out sentence is in one split only, and never in train.

    The held-out splits do not depend on the size of train.
    """
    taken: set[str] = set()
    splits = {name: _plan_split(name, language, count, seed, taken, distinct=True) for name, count in HELD_OUT.items()}
    train = _plan_split("train", language, train_utterances, seed, taken, distinct=False)
    return {"train": train, **splits}


def _plan_split(name: str, language: str, count: int, seed: int, taken: set[str], *, distinct: bool) -> list[Utterance]:
    """Draw `count` utterances whose sentences are not in `taken`; a distinct split adds its sentences to it."""
    rng = random.Random(f"{seed} {language} {name}")
    unheard = name == "test_voices"
    accents = (UNHEARD_ACCENTS if unheard else ACCENTS)[language]
    timbres = UNHEARD_TIMBRES if unheard else TIMBRES
    voices = [f"{accent}+{timbre}" for accent, timbre in itertools.product(accents, timbres)]
    rng.shuffle(voices)
    utterances = []
    for number, voice in zip(range(count), itertools.cycle(voices), strict=False):
        text = draw_sentence(language, rng)
        while text in taken:
            text = draw_sentence(language, rng)
        if distinct:
            taken.add(text)
        speed, pitch = rng.randint(*WORDS_PER_MINUTE[language]), rng.randint(*PITCH)
        path = f"audio/{name}/{name}_{number:05d}.flac"
        utterances.append(Utterance(path, text, voice, speed, pitch, rng.getrandbits(32)))
    return utterances


def draw_sentence(language: str, rng: random.Random) -> str:
    """Draw a sentence from a language's grammar."""
    grammar = GRAMMAR[language]
    text = "{sentence}"
    while "{" in text:
        before, _, rest = text.partition("{")
        slot, _, after = rest.partition("}")
        text = before + rng.choice(grammar[slot]) + after
    return text


def write_corpus(splits: dict[str, list[Utterance]], folder: Path, workers: int) -> dict[str, list[dict]]:
    """Speak all splits into FLAC files in a folder, and write a manifest for each; return the manifests' records.

    espeak-ng carries hidden state from one utterance to the next. The work is therefore divided into the same chunks for
    any number of workers, and each chunk gets a new process.
    """
    chunks = [split[start : start + CHUNK] for split in splits.values() for start in range(0, len(split), CHUNK)]
    for name in splits:
        (folder / "audio" / name).mkdir(parents=True, exist_ok=True)
    records: list[dict] = []
    total = sum(len(chunk) for chunk in chunks)
    with ThreadPoolExecutor(workers) as threads, tqdm(total=total, desc="speak", unit=" utterances") as bar:
        try:
            for spoken in threads.map(_speak_in_new_process, chunks, itertools.repeat(folder)):
                records += spoken
                bar.update(len(spoken))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    remaining = iter(records)
    manifests = {name: list(itertools.islice(remaining, len(split))) for name, split in splits.items()}
    for name, lines in manifests.items():
        write_manifest(folder / f"{name}.jsonl", lines)
    return manifests


def _speak_in_new_process(chunk: Sequence[Utterance], folder: Path) -> list[dict]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(speak, chunk, folder).result()
        except BrokenProcessPool as error:
            raise SyntheticCorpusError(
                f"espeak-ng crashed while speaking {chunk[0].audio_filepath} to {chunk[-1].audio_filepath}: "
                "run the same command again, with --workers=1 if memory is short"
            ) from error


def speak(utterances: Iterable[Utterance], folder: Path) -> list[dict]:
    """Speak utterances into 16-bit FLAC files in a folder; return records. To be called in a new process."""
    espeak = Espeak()
    records = []
    for utterance in utterances:
        samples = espeak.say(utterance.text, utterance.voice, utterance.words_per_minute, utterance.pitch)
        samples = record(soxr.resample(samples, espeak.sample_rate_hz, SAMPLE_RATE_HZ), utterance.seed)
        audio.write_flac(folder / utterance.audio_filepath, samples, SAMPLE_RATE_HZ)
        records.append(
            {
                "audio_filepath": utterance.audio_filepath,
                "duration": round(len(samples) / SAMPLE_RATE_HZ, 3),
                "text": utterance.text,
                "speaker": utterance.voice,
                "sample_rate": SAMPLE_RATE_HZ,
            }
        )
    return records


def record(samples: np.ndarray, seed: int) -> np.ndarray:
    """Turn speech [N] f32 into a recording with pauses, a random level and the noise of a quiet room.

    The noise is needed because no microphone records digital silence, whose logarithm is an outlier.
    """
    rng = np.random.default_rng(seed)
    before, after = rng.integers(SAMPLE_RATE_HZ // 20, SAMPLE_RATE_HZ // 4, size=2)
    level = rng.uniform(0.3, 0.9) / max(float(np.abs(samples).max()), 1e-3)
    noise = rng.standard_normal(before + len(samples) + after, dtype=np.float32) * 10 ** (rng.uniform(-70, -55) / 20)
    noise[before : before + len(samples)] += samples * level
    return noise.astype(np.float32)


def _import_loader() -> ModuleType:
    try:
        import espeakng_loader
    except ImportError as error:
        raise SyntheticCorpusError(
            "the synthetic corpus needs espeak-ng, which is not installed: pip install espeakng-loader"
        ) from error
    return espeakng_loader


class Espeak:
    """The espeak-ng library, whose state is global: create only one instance, in a new process."""

    # Values of speak_lib.h
    AUDIO_OUTPUT_SYNCHRONOUS, CHARS_UTF8, POS_CHARACTER = 2, 1, 1
    RATE, PITCH = 1, 3

    def __init__(self) -> None:
        loader = _import_loader()
        self._data = Path(loader.get_data_path())
        self._library = ctypes.CDLL(loader.get_library_path())
        self.sample_rate_hz = self._library.espeak_Initialize(
            self.AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(self._data), 0
        )
        if self.sample_rate_hz <= 0:
            raise SyntheticCorpusError(
                f"espeak-ng does not start with its data in {self._data}: reinstall it with "
                "pip install --force-reinstall espeakng-loader"
            )
        # Breathy voices use a random generator that is otherwise seeded from the clock.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._received: list[np.ndarray] = []
        self._callback = self._make_callback()  # kept alive, because the library calls it
        self._library.espeak_SetSynthCallback(self._callback)

    def _make_callback(self) -> Callable:
        @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        def receive(samples, count, _events):
            if samples and count > 0:
                self._received.append(np.ctypeslib.as_array(samples, (count,)).copy())
            return 0

        return receive

    def say(self, text: str, voice: str, words_per_minute: int, pitch: int) -> np.ndarray:
        """Speak a text; return its samples [N] f32 in -1..1, at `sample_rate_hz`."""
        self._received.clear()
        timbre = voice.partition("+")[2]
        # espeak-ng silently uses the default instead of an unknown timbre.
        known = not timbre or (self._data / "voices" / "!v" / timbre).is_file()
        if not known or self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise SyntheticCorpusError(
                f"espeak-ng has no voice {voice!r} in {self._data}: install the tested version with "
                "pip install 'espeakng-loader==0.2.4'"
            )
        self._library.espeak_SetParameter(self.RATE, words_per_minute, 0)
        self._library.espeak_SetParameter(self.PITCH, pitch, 0)
        encoded = text.encode()
        failed = self._library.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded) + 1), 0, self.POS_CHARACTER, 0, self.CHARS_UTF8, None, None
        )
        if failed or not self._received:
            raise SyntheticCorpusError(f"espeak-ng cannot speak {text!r} with voice {voice!r} (error {failed})")
        return np.concatenate(self._received).astype(np.float32) / 32768
