"""Runs a notebook in its own kernel and saves the outputs."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from analysis.notebooks import FOLDER
from trainable.durable import write_text
from trainable.errors import RunError

CELL_SECONDS = 600
"""A cell that takes longer has hung: the slowest one scores a few thousand clips."""


def execute(name: str, run: Path, target: Path) -> Path:
    """Executes one of the notebooks on a run and returns the path of the written file.

    The kernel works in the current folder, so a relative path of the run stays relative in the output. An existing
    file is replaced only when every cell has succeeded.

    Raises
    ------
    RunError
        If a cell fails (the message is its last line of error), or if the file cannot be written.
        # Sockets in a folder of this kernel's alone: others on the machine cannot listen as they can to ports, and
    """
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    metadata = dict(notebook.metadata)
    with TemporaryDirectory(prefix="kernel-") as private:
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": os.getcwd()}},
        )
        manager = client.create_kernel_manager()
        if os.name == "posix":
            # Sockets in a folder of this kernel's alone: others on the machine cannot listen as they can to ports, and
            # Sockets in a private folder: other users of the machine cannot connect as they could to ports, and two
            # kernels at a time do not clash, although their sockets have the same names.
            manager.transport = "ipc"
            manager.ip = str(Path(private) / "socket")
        try:
            client.execute(env={**os.environ, "AD_RUN": str(run)})
        except CellExecutionError as error:
            raise RunError(f"{name}.ipynb failed on {run}: {error.ename}: {error.evalue}") from None
        except (CellTimeoutError, DeadKernelError) as error:
            raise RunError(f"{name}.ipynb failed on {run}: {' '.join(str(error).split())}") from None
    # The kernel adds its Python's patch version, but the same run should give the same file.
    notebook.metadata.clear()
    notebook.metadata.update(metadata)
    path = target / f"{name}.ipynb"
    try:
        write_text(path, nbformat.writes(notebook) + "\n")
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}") from None
    return path
