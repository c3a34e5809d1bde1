"""Tensors of a CPU that have shapes, strides and storages, but no data.

Each operation runs on the inner tensors, which are on PyTorch's `meta` device. The outer tensors report the CPU, so autocast
and the choice of a fused attention kernel are those of a CPU; `meta` alone has neither. PyTorch's FakeTensorMode does the
same for torch.compile. It takes almost twice the time and imports the compiler, which takes 2 s of CPU in each process.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

CPU, META = torch.device("cpu"), torch.device("meta")
COMPILER = "torch._dynamo"


class DatalessTensor(Tensor):
    """A CPU tensor without data, around the tensor `on_meta`."""

    on_meta: Tensor

    @staticmethod
    def __new__(cls, on_meta: Tensor) -> DatalessTensor:
        """Wrap `on_meta`."""
        outer: DatalessTensor = Tensor._make_wrapper_subclass(
            cls, on_meta.size(), on_meta.stride(), on_meta.storage_offset(), dtype=on_meta.dtype, device=CPU
        )
        outer.on_meta = on_meta
        return outer

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func} on a tensor without data outside of a Dataless context")


class Dataless(TorchDispatchMode):
    """A context in which operations allocate no data and return DatalessTensor; it also accepts usual tensors.

    Reading a value (`item`) and operations whose shape depends on data raise an error.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # PyTorch's hook: True, the default, imports the compiler at the first operation.
        return False

    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        self._stand_in = CompilerStandIn(COMPILER)
        sys.modules.setdefault(COMPILER, self._stand_in)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stand_in.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outers: dict[int, DatalessTensor] = {}

        def without_data(value: Any) -> Any:
            if isinstance(value, DatalessTensor):
                outers[id(value.on_meta)] = value
                return value.on_meta
            return value.to(META) if isinstance(value, Tensor) else value

        def with_device(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            if id(value) in outers:  # an in-place operation
                return outers[id(value)]
            return DatalessTensor(value)

        args, kwargs = tree_map(without_data, (args, kwargs or {}))
        if has_device(func):
            kwargs["device"] = META
        result = func(*args, **kwargs)
        self.observe(func, args, kwargs, result)
        return tree_map(with_device, result)

    def observe(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Called after each operation, with tensors on `meta`."""


class CompilerStandIn(ModuleType):
    """Replaces the compiler's module, which each shape function imports to exclude itself from compilation.

    Any other use of the module imports it. A shape function asks once; it stays included for the life of the process. Only
    PyTorch's own tests compile shape functions.
    """

    def remove(self) -> None:
        """Remove this replacement, if it is there: not that of an outer context, nor the compiler."""
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]

    @staticmethod
    def disable(function: Any, recursive: bool = True, wrapping: bool = True) -> Any:
        """Do nothing: `function` is called by operations, which the compiler does not enter."""
        return function

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # code that inspects all modules
            raise AttributeError(name)
        self.remove()
        return getattr(import_module(COMPILER), name)


@cache
def has_device(func: Any) -> bool:
    """Whether an operation has an argument `device`: it creates a tensor."""
    return any(argument.name == "device" for argument in func._schema.arguments)
