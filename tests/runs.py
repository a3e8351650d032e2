"""Small trainings that several tests share: a synthetic config, and main.py as a process."""

import os
import subprocess
import sys
from pathlib import Path

from ml_collections import ConfigDict

from configs import base

ROOT = Path(__file__).parent.parent


def small_config(manifest: str | Path) -> ConfigDict:
    """Return a config that trains a network of a few thousand parameters on a manifest in seconds."""
    config = base.get_config()
    config.data.train = str(manifest)
    config.batch.size = 4
    config.batch.buckets = 2
    config.batch.eval_buckets = 1
    config.features.kind = "fbank"
    config.features.mel_bins = 20
    config.model.conv = "5x5/3x2:4"
    config.model.rnn_size = 12
    config.model.rnn_layers = 1
    config.optim.warmup_steps = 5
    config.train.epochs = 4
    config.train.log_every = 1
    return config


def small_flags(manifest: str | Path) -> list[str]:
    """Return the same settings as flags of main.py."""
    config, default = small_config(manifest), base.get_config()
    flags = []
    for section, values in config.items():
        if isinstance(values, ConfigDict):
            flags += [f"--config.{section}.{k}={v}" for k, v in values.items() if v != default[section][k]]
    return flags


def start_main(*arguments: str, devices: int = 1) -> subprocess.Popen:
    """Start main.py as users do, with this many fake devices."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run_main(*arguments: str, devices: int = 1) -> subprocess.CompletedProcess:
    """Run main.py to its end."""
    with start_main(*arguments, devices=devices) as process:
        out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
