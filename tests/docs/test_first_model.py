"""The notebook runs from top to bottom and is stored without outputs."""

import json
from pathlib import Path

import pytest

from tests.runs import ROOT

NOTEBOOK = ROOT / "docs" / "first_model.ipynb"
NOT_LINKED = ("data", "runs", "build", "docs")  # folders that the notebook writes to, and its own
TIMEOUT_S = 900  # per cell; training takes two minutes, longer on a busy machine


@pytest.fixture
def copy(tmp_path) -> Path:
    """Create a folder that links to everything in the repository except data and runs."""
    for entry in ROOT.iterdir():
        if entry.name not in NOT_LINKED:
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "docs").mkdir()
    return tmp_path


def test_the_notebook_is_stored_without_outputs():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.slow
def test_the_notebook_runs(copy):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=TIMEOUT_S, resources={"metadata": {"path": str(copy / "docs")}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 2  # the clip and the training curves
    printed = "".join(output.get("text", "") for output in outputs)
    assert "cen1-fjdn-b.flac: n e l s o n" in printed
    assert '"utterances": 12' in printed
    assert (copy / "runs" / "first_model" / "curves.png").is_file()
    assert (copy / "runs" / "first_model" / "eval" / "eval.html").is_file()
