"""The exported classifier as an MLflow pyfunc, without pickle: `load_model` calls `_load_pyfunc` with the folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxytune.tuning.predict.exported import load_export
from proxytune.tuning.predict.predict import Predictor

if TYPE_CHECKING:
    import pandas

COLUMN = "line"
"""The only input column: one example per row, in the format of `proxytune predict`."""


class ServedModel:
    """The model object called by MLflow."""

    def __init__(self, folder: Path) -> None:
        self._predictor = Predictor(load_export(folder))

    def predict(self, model_input: "pandas.DataFrame", params: Any = None) -> "pandas.DataFrame":
        """Label and probabilities for each row; `params` is required by MLflow and ignored.

        Raises:
            ValueError: a row is malformed; the message gives its number.
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
