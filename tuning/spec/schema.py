"""The JSON schema of the study file, for completion and validation in editors."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from proxytune.tuning import studies
from proxytune.tuning.spec.metrics import METRICS

SHIPPED_SCHEMA = Path(studies.__file__).with_name("study.schema.json")
"""The output of `proxytune schema`, stored beside the shipped studies. Their first line refers to it."""


def study_schema() -> dict[str, Any]:
    """The schema of a study file (JSON Schema 2020-12). Rules across keys are checked only by `proxytune check`."""
    from proxytune.datasets import TASKS
    from proxytune.models.config import ModelConfig
    from proxytune.models.training_config import TrainingConfig
    from proxytune.tuning.spec.search import SEARCHABLE
    from proxytune.tuning.spec.study_spec import StudySpec
    from proxytune.tuning.spec.trial_spec import FROM_TASK, RunConfig

    schema = StudySpec.model_json_schema()
    schema["$defs"]["Task"]["properties"]["name"]["enum"] = list(TASKS)
    sections, search = schema["properties"], schema["$defs"]["Search"]["properties"]
    sections["model"] = _section(ModelConfig, "Fields of ModelConfig.", leave_out=FROM_TASK)
    sections["training"] = _section(TrainingConfig, "Fields of TrainingConfig; default: the task's protocol.")
    sections["training"]["properties"] |= _section(RunConfig, "")["properties"]
    search["space"]["propertyNames"] = {"enum": sorted(SEARCHABLE)}
    domain = search["space"].pop("additionalProperties")
    choice = {"type": "array", "minItems": 1, "description": "short for choice"}
    search["space"]["additionalProperties"] = {"anyOf": [domain, choice]}
    for key in ("objectives", "constraints"):
        search[key]["propertyNames"] = {"enum": list(METRICS)}
    for key, section in (("sampler", "Sampler"), ("stopping", "Stopping")):
        names = schema["$defs"][section]["properties"]["name"]["enum"]
        search[key] = {"anyOf": [{"enum": names}, {"$ref": f"#/$defs/{section}"}]}
    sections["task"] = {"anyOf": [{"enum": list(TASKS)}, {"$ref": "#/$defs/Task"}]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "proxytune study"} | schema


def _section(config: type, description: str, leave_out: Collection[str] = ()) -> dict[str, Any]:
    from pydantic import TypeAdapter

    properties = TypeAdapter(config).json_schema()["properties"]
    return {
        "type": "object",
        "description": description,
        "properties": {key: value for key, value in properties.items() if key not in leave_out},
        "additionalProperties": False,
    }


def schema_text() -> str:
    """The schema as text: the output of `proxytune schema` and the shipped file."""
    return json.dumps(study_schema(), indent=1) + "\n"


def study_keys() -> list[str]:
    """Every dotted key of a study file, read from the shipped schema so that completion does not import pydantic."""
    schema = json.loads(SHIPPED_SCHEMA.read_text(encoding="utf-8"))
    return sorted(_keys(schema, schema["$defs"], ""))


def _keys(section: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> Iterator[str]:
    names = section.get("propertyNames", {})
    names = names.get("enum") or names.get("anyOf", [{}])[0].get("enum", ())
    yield from (f"{prefix}{name}" for name in names)
    for key, value in section.get("properties", {}).items():
        inner = [value, *value.get("anyOf", ())]
        for option in inner:
            reference = str(option.get("$ref", "")).rpartition("/")[2]
            yield from _keys(definitions.get(reference, option), definitions, f"{prefix}{key}.")
        if not any(
            "properties" in option or "$ref" in option or "propertyNames" in option for option in inner
        ):
            yield f"{prefix}{key}"
