"""Compile the native decoder into the package if there is a C++ compiler; pyproject.toml has everything else."""

import runpy
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).parent))  # a build does not do so
NATIVE = Path("decoding", "native")
native = runpy.run_path(str(NATIVE / "build.py"))  # its package imports what a build does not install


class CleanBuild(build):
    """Build from nothing: else modules that were renamed since the last build in this folder would be packed, too."""

    def run(self) -> None:
        """Empty the folder that the wheel is made of, then fill it."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildNative(build_ext):
    """Compile as `python -m decoding.native.build` does; without a compiler, report that in one line and continue."""

    def build_extension(self, ext: Extension) -> None:
        """Compile the extension into the place that setuptools names."""
        folder, output = Path(self.build_temp).absolute(), Path(self.get_ext_fullpath(ext.name)).absolute()
        try:
            native["build"](folder, output, native["find_compiler"]())
        except native["BuildError"] as error:
            print(
                f"ds2-jax: the native decoder is left out, ctc_beam_decoder decodes instead: {error}", file=sys.stderr
            )


setup(
    ext_modules=[Extension("decoding.native._native", sources=[], optional=True)],
    cmdclass={"build": CleanBuild, "build_ext": BuildNative},
)
