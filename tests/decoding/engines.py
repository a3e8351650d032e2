"""The engines that tests of decoding go through; those that are not installed are skipped, with the reason."""

import importlib.util

import pytest

from decoding.search import beam

needs_pyctcdecode = pytest.mark.skipif(
    importlib.util.find_spec("pyctcdecode") is None, reason="pyctcdecode is not installed: make pyctcdecode"
)
needs_native = pytest.mark.skipif(not beam.native_available(), reason="the native engine is not built: make install")

LIBRARIES = ("ctc_beam_decoder", pytest.param("pyctcdecode", marks=needs_pyctcdecode))
ENGINES = (*LIBRARIES, pytest.param("native", marks=needs_native))
