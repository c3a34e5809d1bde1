"""A hook of mkdocs: the reference of the study file, from its schema and the comments of the fields."""

import inspect
import re
from typing import Any

from proxytune.models.config import ModelConfig
from proxytune.models.training_config import TrainingConfig
from proxytune.tuning.spec import search, space, task, trial_spec
from proxytune.tuning.spec import study_spec as study
from proxytune.tuning.spec.schema import study_schema

SOURCES = (ModelConfig, TrainingConfig, study, search, space, task, trial_spec)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Add a table for the study file and for each of its sections to `study-file.md`."""
    if page.file.src_uri != "reference/study-file.md":
        return markdown
    schema = study_schema()
    sections = {"The file": schema}
    sections |= {key: schema["properties"][key] for key in ("model", "training")}
    sections |= {name: part for name, part in schema["$defs"].items() if "properties" in part}
    return "\n".join([markdown, *(line for item in sections.items() for line in _section(*item))])


def _section(title: str, schema: dict[str, Any]) -> list[str]:
    lines = [f"## {title}", "", schema.get("description", ""), ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in schema["properties"].items():
        default = f"`{field['default']}`" if "default" in field else ""
        meaning = field.get("description") or _comment(key)
        cells = (f"`{key}`", _kind(key, field), default, meaning)
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def _kind(key: str, field: dict[str, Any]) -> str:
    if key in ("model", "training"):
        return f"[{key}](#{key})"
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    options = field.get("anyOf") or field.get("oneOf")
    return (
        ", ".join(dict.fromkeys(_kind("", option) for option in options))
        if options
        else field.get("type", "any")
    )


def _comment(key: str) -> str:
    """The comment of the field in the source."""
    for source in SOURCES:
        found = re.search(
            rf"^    {key}: (?:(?!\n    \w)[^#])*# (.*)$", inspect.getsource(source), re.MULTILINE
        )
        if found:
            return found[1]
    return ""
