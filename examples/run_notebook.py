"""Run chat.ipynb and keep its outputs, small and without the traces of the machine it ran on.

    python examples/run_notebook.py

Call it after a change of the notebook or of what it shows. It needs nbclient and ipykernel, which
the extra `dev` brings.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "chat.ipynb"
TIMEOUT_S = 300
PICTURES = ("image/png", "image/jpeg")


def main() -> None:
    """Run the notebook where it lies."""
    notebook = read()
    run(notebook, folder=ROOT)
    nbformat.write(cleaned(notebook), NOTEBOOK)


def read() -> NotebookNode:
    """Return the notebook as it is in the repository."""
    return nbformat.read(NOTEBOOK, as_version=4)


def run(notebook: NotebookNode, *, folder: Path) -> None:
    """Run all cells in a process of their own, which ends with the last one.

    Args:
        notebook: gets the outputs.
        folder: the working directory.

    Raises:
        CellExecutionError: a cell raised; its source and the traceback are shown.
    """
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name="python3",
        coalesce_streams=True,
        resources=where,
    ).execute()


def cleaned(notebook: NotebookNode) -> NotebookNode:
    """Drop times, versions and what was logged, in place; what is left is what a reader wants."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            shown = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [lightened(output) for output in shown]
    return notebook


def lightened(output: NotebookNode) -> NotebookNode:
    """Keep one form of a picture, the smallest."""
    data = output.get("data", {})
    pictures = sorted((kind for kind in data if kind in PICTURES), key=lambda kind: len(data[kind]))
    if pictures:
        output.data = {pictures[0]: data[pictures[0]]}
    return output


if __name__ == "__main__":
    main()
