"""Defers imports of libraries that a command seldom uses, or only for tables, until their first use.

=============== =============================== =====================================================================
deferred        imported by                     for
=============== =============================== =====================================================================
torch._dynamo   lightning.fabric.wrappers       ``isinstance(_, OptimizedModule)``, which only torch.compile makes
torch._dynamo   torch._compile, torch.optim     ``disable`` and ``graph_break``, which do nothing while nothing is compiled
scipy.signal    torchmetrics                    to add the name ``hamming``, for a package of audio metrics
matplotlib      torchmetrics.utilities.plot     ``Metric.plot``: its argument types, and the style of its functions
triton          torch.utils.flop_counter        ``isinstance(_, JITFunction)``, for Lightning's summary of a model
polars          torchbp.data                    tables, and predictions written as a table
=============== =============================== =====================================================================

A stand-in takes the module's place in ``sys.modules`` and has the attributes that these imports need. Any other attribute
imports the real module, which then replaces the stand-in. Only the command line defers; ``import torchbp`` does not.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, ExitStack, contextmanager
from functools import wraps
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from threading import RLock
from types import ModuleType
from typing import Any

from torchbp._interrupts import uninterrupted

_lock = RLock()


class Deferred(ModuleType):
    """A stand-in for a module, until an attribute is needed that it does not have.

    Args:
        name: the module's name.
        holds: the attributes that the stand-in has.
        family: the stand-ins whose modules are imported together; this one is added.
        then: called after that import.
    """

    def __init__(self, name: str, family: list["Deferred"], then: Callable[[], None] = lambda: None, **holds: Any) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None, is_package=True)
        self.__path__: list[str] = []  # importing a submodule asks _Submodules below
        self._family, self._then = family, then
        self._module: ModuleType | None = None
        family.append(self)
        vars(self).update(holds)

    def __getattr__(self, name: str) -> Any:
        # Code that looks through sys.modules, such as inspect, does not need the module.
        if name.startswith("__") and name not in ("__version__", "__all__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self._real(), name)

    def _real(self) -> ModuleType:
        with _lock:
            if self._module is None:
                with uninterrupted():  # an interrupted import may not be repeated
                    self._module = self._import()
            return self._module

    def _import(self) -> ModuleType:
        waiting = [module for module in self._family if sys.modules.get(module.__name__) is module]
        for module in waiting:
            del sys.modules[module.__name__]
        for module in waiting:
            importlib.import_module(module.__name__)
        for module in waiting:
            module._then()
        return importlib.import_module(self.__name__)


class _Submodules:
    """Imports the real package when a submodule of a stand-in is imported.

    A finder and loader without the base classes of importlib.abc, which would make ``torchbp --help`` take 20 ms more.
    """

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        package = sys.modules.get(fullname.rpartition(".")[0])
        if not isinstance(package, Deferred):
            return None
        package._real()
        return ModuleSpec(fullname, self) if fullname in sys.modules else find_spec(fullname)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        pass


class _ClassLater(type):
    """The type of a stand-in class: nothing is an instance of it before the real module is imported."""

    module: str

    def __instancecheck__(cls, instance: Any) -> bool:
        module = sys.modules.get(cls.module)
        return module is not None and not isinstance(module, Deferred) and isinstance(instance, getattr(module, cls.__name__))


def _class(module: str, name: str) -> type:
    return _ClassLater(name, (), {"module": module})


def _dynamo() -> None:
    waiting: list[Callable[[], None]] = []

    def disable(fn: Callable[..., Any], recursive: bool = True, **options: Any) -> Callable[..., Any]:
        called = fn

        @wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            return called(*args, **kwargs)

        def disable_now() -> None:
            import torch._dynamo

            nonlocal called
            called = torch._dynamo.disable(fn, recursive, **options)

        waiting.append(disable_now)
        return call

    def disable_all() -> None:
        for disable_now in waiting:
            disable_now()

    _install(
        Deferred(
            "torch._dynamo",
            [],
            disable_all,
            OptimizedModule=_class("torch._dynamo", "OptimizedModule"),
            graph_break=lambda msg="": None,
            disable=disable,
        )
    )


def _scipy_signal() -> None:
    def hamming(*args: Any, **kwargs: Any) -> Any:
        from scipy.signal.windows import hamming

        return hamming(*args, **kwargs)

    def name_hamming() -> None:
        import scipy.signal

        if not hasattr(scipy.signal, "hamming"):
            scipy.signal.hamming = scipy.signal.windows.hamming

    _install(Deferred("scipy.signal", [], name_hamming, hamming=hamming))


def _matplotlib() -> None:
    class Style(ContextDecorator):
        """``plt.style.context``, which decorates torchmetrics' functions: opened only when they are called."""

        def __init__(self, style: Any) -> None:
            self.style = style

        def __enter__(self) -> None:
            import matplotlib.pyplot as plt

            self.opened = ExitStack()
            self.opened.enter_context(plt.style.context(self.style))

        def __exit__(self, *error: Any) -> None:
            self.opened.close()

    family: list[Deferred] = []
    axes = Deferred("matplotlib.axes", family, Axes=_class("matplotlib.axes", "Axes"))
    colors = Deferred("matplotlib.colors", family, Colormap=_class("matplotlib.colors", "Colormap"))
    style = ModuleType("style")
    style.context = Style  # type: ignore[attr-defined]
    pyplot = Deferred("matplotlib.pyplot", family, Figure=_class("matplotlib.figure", "Figure"), style=style)
    _install(Deferred("matplotlib", family, axes=axes, colors=colors, pyplot=pyplot), axes, colors, pyplot)


def _triton() -> None:
    _install(Deferred("triton.runtime.jit", [], JITFunction=_class("triton.runtime.jit", "JITFunction")))


def _polars() -> None:
    _install(Deferred("polars", []))


def _install(*modules: Deferred) -> None:
    if find_spec(modules[0].__name__.partition(".")[0]) and not any(module.__name__ in sys.modules for module in modules):
        sys.modules.update({module.__name__: module for module in modules})


@contextmanager
def deferred() -> Iterator[None]:
    """Defer the libraries above in the block, which imports Lightning, if they are installed and not imported yet.

    After the block, matplotlib is deferred only for torchmetrics, triton only for PyTorch, polars only for torchbp; the others
    for the whole process. Other libraries that look for them in ``sys.modules`` find none.
    """
    if not any(isinstance(finder, _Submodules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Submodules())
    for install in (_dynamo, _scipy_signal, _matplotlib, _triton, _polars):
        install()
    try:
        yield
    finally:
        for name, module in [*sys.modules.items()]:
            if isinstance(module, Deferred) and name.startswith(("matplotlib", "triton", "polars")):
                del sys.modules[name]
