"""Checks across the sections of a study, each of which is valid by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from proxytune.tuning.errors import InputError
from proxytune.tuning.spec.locations import holds_password
from proxytune.tuning.spec.search import Search
from proxytune.tuning.spec.space import Scalar, SearchSpace
from proxytune.tuning.spec.validation import SpecError
from proxytune.tuning.spec.yaml_file import nearest


class Sections(Protocol):
    """The part of StudySpec that is checked. StudySpec imports this module, so it cannot be imported here."""

    @property
    def model(self) -> dict[str, Any]: ...
    @property
    def training(self) -> dict[str, Any]: ...
    @property
    def search(self) -> Search: ...
    @property
    def database(self) -> str | None: ...
    @property
    def space(self) -> SearchSpace: ...
    @property
    def fixed(self) -> dict[str, Any]: ...
    def trial(self, params: Mapping[str, Scalar]) -> object: ...
    def rung_steps(self) -> tuple[int, ...]: ...


def contradictions(spec: Sections) -> Iterator[str]:
    """One line per contradiction, beginning with a key path."""
    try:
        _ = spec.space
    except ValueError as error:
        yield f"search.space.{error}"
        return
    yield from _outside_the_space(spec)
    yield from _conditions(spec)
    yield from _corners(spec)
    try:
        spec.rung_steps()
    except ValueError as error:
        yield str(error)
    yield from _sampler(spec)
    warm_start = spec.search.warm_start
    urls = {"database": spec.database, "search.warm_start.database": warm_start and warm_start.database}
    for key, url in urls.items():
        if url and holds_password(url):
            yield f"{key}: a password in the URL would be stored; use PGPASSFILE or PGPASSWORD"


def _outside_the_space(spec: Sections) -> Iterator[str]:
    for position, params in enumerate(spec.search.enqueue):
        for key, value in params.items():
            if key not in spec.search.space:
                yield f"search.enqueue[{position}]: {key} is not in search.space"
            elif not spec.space.contains(key, value):
                yield f"search.enqueue[{position}]: {key}={value} is outside its domain"


def _conditions(spec: Sections) -> Iterator[str]:
    """Every `when` must name an existing key and values in its domain. Otherwise its key would never be searched."""
    fixed = spec.fixed
    for key, domain in spec.search.space.items():
        for other, wanted in domain.when.items():
            where = f"search.space.{key}.when.{other}"
            if other not in spec.search.space and other not in fixed:
                yield f"{where}: unknown key; {nearest(other, [*spec.search.space, *fixed])}"
                continue
            allowed = wanted if isinstance(wanted, tuple) else (wanted,)
            searched = spec.search.space.get(other)
            if searched is None:
                if fixed[other] not in allowed:
                    yield f"{where}: {other} is {fixed[other]} in every trial, so {key} is never searched"
                continue
            for value in allowed:
                if not searched.contains(value):
                    yield f"{where}: {value} is outside the domain of {other}"


def _corners(spec: Sections) -> Iterator[str]:
    for key, domain in spec.search.space.items():
        for value in domain.corners():
            try:
                spec.trial({key: value})
            except InputError as error:
                lines = error.lines if isinstance(error, SpecError) else (str(error),)
                yield f"search.space.{key}: {value} cannot be built: {'; '.join(lines)}"
                break


def _sampler(spec: Sections) -> Iterator[str]:
    name, domains = spec.search.sampler.name, spec.search.space
    if name in ("qmc", "cmaes"):
        for key, domain in domains.items():
            if domain.when:
                yield f"search.space.{key}: {name} does not support conditional keys; use tpe, random or grid"
    if name in ("cmaes", "gp") and len(spec.search.objectives) > (1 if name == "cmaes" else 2):
        yield f"search.sampler.name: {name} supports fewer objectives; use tpe or nsga2"
    if name == "curve" and len(spec.search.objectives) > 1:
        yield "search.sampler.name: curve supports one objective; use tpe or nsga2"
    if spec.search.stopping.name == "curve" and len(spec.search.objectives) > 1:
        yield "search.stopping.name: curve supports one objective; use asha"
    if spec.search.stop_when is not None and len(spec.search.objectives) > 1:
        yield "search.stop_when: supports one objective; remove the others, or remove stop_when"
    if name == "grid":
        ranges = [key for key, domain in domains.items() if domain.choice is None]
        for key in ranges:
            yield (f"search.space.{key}: a grid needs choice: [...], not low and high; use another sampler")
        size = 0 if ranges else len(spec.space.grid(spec.fixed))
        if not ranges and spec.search.trials > size:
            yield f"search.trials: {spec.search.trials} exceeds the {size} points of the grid"
