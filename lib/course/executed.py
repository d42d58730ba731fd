"""Have nbval judge copies that papermill executed, so that no notebook runs twice: a plugin of pytest.

``COURSE_EXECUTED`` names the copies' folder.
"""

import os
from pathlib import Path

from nbval.plugin import IPyNbFile

from lib.course.build import read_notebook
from lib.course.outputs import tags


def pytest_collect_file(file_path, parent):
    """Take each notebook as nbval does, but for its kernel."""
    return ExecutedNotebook.from_parent(parent, path=file_path) if file_path.suffix == ".ipynb" else None


class ExecutedNotebook(IPyNbFile):
    """A stored notebook, whose cells answer with what their executed copies show; as lax as ``--nbval-lax``."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.compare_outputs = False  # but for cells tagged nbval-check-output

    def setup(self):
        """Answer from the copy instead of starting a kernel."""
        self.kernel = ExecutedCells(Path(os.environ["COURSE_EXECUTED"]) / self.path.name)
        self.setup_sanitize_files()


class ExecutedCells:
    """What nbval asks of a kernel, answered from an executed copy."""

    def __init__(self, path: Path):
        cells = read_notebook(path).cells
        self.cells = [cell for cell in cells if cell.cell_type == "code" and "injected-parameters" not in tags(cell)]

    def execute_cell_input(self, source: str, allow_stdin: bool) -> str:
        """Take the next cell's outputs; its number tells nbval which messages are the cell's."""
        cell = self.cells.pop(0)
        if cell.source != source:
            raise RuntimeError(f"cell '{cell.id}' of the executed copy is not the stored one: run the notebook again")
        outputs = [(output.output_type, output) for output in cell.outputs]
        answers = [*outputs, ("status", {"execution_state": "idle"})]
        parent = {"msg_id": cell.id}
        self.messages = [{"msg_type": kind, "content": content, "parent_header": parent} for kind, content in answers]
        return cell.id

    def get_message(self, stream: str, timeout: float | None = None) -> dict:
        """The next output, and at last that the cell has ended."""
        return self.messages.pop(0)

    def is_alive(self) -> bool:
        """No process, so nothing that dies."""
        return True

    def await_reply(self, message: str, timeout: float | None = None) -> None:
        """Nothing is under way."""

    await_idle = await_reply

    def stop(self) -> None:
        """Nothing is left running."""
