"""Runs go on where compiled kernels cannot be kept: a full disk, a used-up quota, no folder that can be written.

Numba raises what it meets when it writes its cache, though the kernel is compiled and ready; and it refuses to
define a kernel that is to be cached but has no folder. Both would end a run for want of something that only saves time.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: Numba's module that makes a cache for each kernel, and its name in there for how.
MODULE, MAKER = "numba.core.dispatcher", "FunctionCache"


def go_on_without_cache(quiet: bool = False) -> None:
    """From now on, kernels that cannot be kept are compiled anew in each run, and the user is told once.

    Numba is not imported for this: if it is later, it is changed then.

    Parameters
    ----------
    quiet
        Do not tell.
    """
    if MODULE in sys.modules:
        _change(sys.modules[MODULE], quiet)
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch(quiet))


class _Watch(MetaPathFinder):
    """Waits for numba's import."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Numba's own, with our loader."""
        if fullname != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Changed(spec.loader, self._quiet)
        return spec


class _Changed(Loader):
    """Loads the module, then changes it."""

    def __init__(self, loader: Loader, quiet: bool) -> None:
        self._loader, self._quiet = loader, quiet

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As ever."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As ever, and then ours."""
        self._loader.exec_module(module)
        _change(module, self._quiet)


def _change(module: ModuleType, quiet: bool) -> None:
    """Have numba make forgiving caches."""
    original = getattr(module, MAKER)
    if not getattr(original, "forgiving", False):
        setattr(module, MAKER, _forgiving(original, module.NullCache, quiet))


def _forgiving(original: type[Any], nothing: type[Any], quiet: bool) -> Callable[[Any], Any]:
    """Makes caches, or what stands for none."""
    told: list[str] = []

    def tell(where: str, why: str) -> None:
        if not told and not quiet:
            print(
                f"centralslice: warning: compiled kernels cannot be kept{where} ({why}), each run compiles them "
                "anew; make room, or set NUMBA_CACHE_DIR to another folder",
                file=sys.stderr,
                flush=True,
            )
        told.append(why)

    class Forgiving(original):  # type: ignore[misc]  # numba has no types
        def save_overload(self, sig: Any, data: Any) -> None:
            try:
                super().save_overload(sig, data)
            except OSError as error:
                tell(f" in {self.cache_path}", error.strerror or str(error))

    def make(py_func: Any) -> Any:
        try:
            return Forgiving(py_func)
        except (OSError, RuntimeError) as error:  # RuntimeError: none of numba's places will do
            tell("", " ".join(str(error).split()))
            return nothing()

    make.forgiving = True  # type: ignore[attr-defined]
    return make
