"""Writing the pictures of the documentation."""

from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from input_pipeline.storage import whole_file


def save(figure: Figure, output: Path, *, dpi: int, colours: int) -> None:
    """Write a figure as a small PNG of a few colours, opaque so that it is legible on dark pages."""
    with whole_file.temporary_path(output) as path:
        figure.savefig(path, dpi=dpi)
        Image.open(path).convert("RGB").quantize(colours).save(path, optimize=True)
