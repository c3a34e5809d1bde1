"""The exported classifier as MLflow serves it: `load_model` calls `_load_pyfunc` with the export folder. No pickle."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxytune.tuning.predict.exported import load_export
from proxytune.tuning.predict.predict import Predictor

if TYPE_CHECKING:
    import pandas

COLUMN = "line"
"""The input's one column: an example a row, in the form that `proxytune predict` reads."""


class ServedModel:
    """What MLflow calls."""

    def __init__(self, folder: Path) -> None:
        self._predictor = Predictor(load_export(folder))

    def predict(self, model_input: "pandas.DataFrame", params: Any = None) -> "pandas.DataFrame":
        """A label and the probabilities for each row.

        Raises:
            ValueError: a row is not in the task's form; names it.
        """
        import pandas

        lines = [str(line).encode() for line in model_input[COLUMN]]
        answers = self._predictor.predict(lines, first=0)
        for answer in answers:
            if "error" in answer:
                raise ValueError(f"row {answer['line']}: {answer['error']}")
        return pandas.DataFrame(
            {name: [answer[name] for answer in answers] for name in ("label", "probabilities")}
        )


def _load_pyfunc(data_path: str) -> ServedModel:
    return ServedModel(Path(data_path))
