"""Lists the autograd Functions of a package, for an author who wants to audit them."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

from torch.autograd import Function


class Found(NamedTuple):
    """A Function's import path, the arguments of its forward, and what it has besides forward and backward."""

    path: str
    arguments: str
    has: str

    def __str__(self) -> str:
        return f"{self.path}({self.arguments})" + (f"  has {self.has}" if self.has else "")


def scan(package: ModuleType) -> tuple[list[Found], list[str]]:
    """Import every module of a package; returns the Functions defined there, and the modules that cannot be imported."""
    found: dict[type[Function], Found] = {}
    failed = []
    for name in _modules(package):
        try:
            module = importlib.import_module(name)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module that is a script may even exit
            failed.append(f"{name}: {type(error).__name__}")
            continue
        for value in vars(module).values():
            its_own = isinstance(value, type) and issubclass(value, Function) and value.__module__ == name
            if its_own and value.forward is not Function.forward:
                found[value] = _found(value)
    return sorted(found.values()), failed


def _modules(package: ModuleType) -> Iterator[str]:
    yield package.__name__
    for path in getattr(package, "__path__", ()):
        for entry in pkgutil.walk_packages([path], f"{package.__name__}.", onerror=lambda _: None):
            if not entry.name.endswith("__main__"):
                yield entry.name


def _found(function: type[Function]) -> Found:
    parameters = list(inspect.signature(function.forward).parameters.values())
    parameters = parameters[1:] if parameters and parameters[0].name == "ctx" else parameters
    has = [name for name in ("setup_context", "jvp", "vmap") if getattr(function, name) is not getattr(Function, name)]
    has += ["generate_vmap_rule"] if function.generate_vmap_rule else []
    return Found(
        f"{function.__module__}:{function.__qualname__}",
        ", ".join(str(p.replace(annotation=p.empty)) for p in parameters),
        ", ".join(has),
    )
