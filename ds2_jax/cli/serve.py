"""`--mode=serve`: a server for live speech and files."""

from ml_collections import ConfigDict

from ds2_jax.artifacts.load import load_model
from ds2_jax.cli import settings
from ds2_jax.parallel import processes
from ds2_jax.recognition.recogniser import Recogniser
from ds2_jax.serving.server import serve
from ds2_jax.serving.settings import Address, Limits


def run_serve(config: ConfigDict, workdir: str, address: Address) -> None:
    """Serve `config.restore` (or the run in the workdir) until a signal. Raises ValueError for settings that cannot work."""
    if processes.count() > 1:
        raise ValueError("--mode=serve runs in one process: start it without a launcher")
    path = config.restore or workdir
    streams, limits = settings.read_streams(config), settings.read_section(Limits, config.serve)
    meta, variables = load_model(path)
    serve(
        Recogniser(meta, variables, settings.read_decoding(config)),
        path.rstrip("/").rpartition("/")[2],
        streams,
        address,
        limits,
    )
