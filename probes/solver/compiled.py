"""Compilation of the loops that numpy and PyTorch have no single call for. numba is imported at the first call."""

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable)


def compiled(function: F) -> F:
    """Compile a function when it is first called, for the types of that call; other threads run meanwhile.

    Sums may be taken in any order, hence many terms at once; infinity and NaN keep their meaning.

    Example:
        >>> @compiled  # doctest: +SKIP
        ... def count(x):
        ...     return len(x)
        >>> count(np.zeros(3))  # doctest: +SKIP
        3
    """
    return cast(F, _Compiled(function))


def specialise(function: Callable) -> Callable[[F], F]:
    """Let compiled code that calls `function` take what the decorated one returns for the numba types of the arguments.

    This is `numba.extending.overload`, applied when numba is first needed.
    """

    def remember(choose: F) -> F:
        _specialisations.append((function, choose))
        return choose

    return remember


def cache_folder(here: Path) -> str | None:
    """Where compiled code of the package in `here` is kept between runs; None where nothing can be written.

    numba looks at the file of a function only, not at those of the functions it calls, so a change there would go
    unnoticed. The folder is therefore named by the content of every source file there that has compiled functions.
    """
    sources = [source.read_bytes() for source in sorted(here.glob("*.py"))]
    content = hashlib.sha256(b"".join(source for source in sources if b"@compiled" in source))
    folder = here / "__pycache__" / f"compiled-{content.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return str(folder) if os.access(folder, os.W_OK) else None


_specialisations: list[tuple[Callable, Callable]] = []  # that numba has not been told of yet
_own_cache_folder = functools.cache(lambda: cache_folder(Path(__file__).parent))


class _Compiled:
    """A function and, from its first calls on, numba's dispatchers of it: for Python, and for compiled code."""

    def __init__(self, function: Callable) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._dispatcher: Any = None
        self._inner: Any = None

    def __call__(self, *arguments: Any) -> Any:
        return (self._dispatcher or self._make_dispatcher())(*arguments)

    @property
    def _numba_type_(self) -> Any:
        """What numba asks of a global that compiled code calls: here, it is to see the dispatcher.

        Compiled code does without the entry from Python: to take dozens of arrays apart there takes as long to compile
        as a function. It is not kept, because what calls it is, as a whole.
        """
        return (self._inner or self._make_dispatcher(inner=True))._numba_type_

    def _make_dispatcher(self, inner: bool = False) -> Any:
        import numba
        from numba.core import config
        from numba.core.compiler_lock import global_compiler_lock
        from numba.extending import overload

        # numba's own lock: it is held, too, when compiled code asks for the functions that it calls, so that a second
        # lock could be waited for in the other order.
        with global_compiler_lock:
            if (made := self._inner if inner else self._dispatcher) is not None:
                return made
            while _specialisations:
                function, choose = _specialisations.pop()
                overload(function)(choose)
            folder, before = _own_cache_folder(), getattr(config, "CACHE_DIR")  # noqa: B009
            # Without numpy's rule for division by zero each is checked, which keeps loops to one number at a time.
            options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "cache": folder is not None and not inner}
            options |= {"no_cfunc_wrapper": True, "no_cpython_wrapper": inner}  # what nothing calls
            # By its name alone, a call would reach whichever copy of a function this process has compiled first; copies
            # may sum in other orders, so that the first run of all would have other last bits than those after it.
            options["forceinline"] = inner
            options["fastmath"] = {"reassoc", "contract", "nsz"}
            setattr(config, "CACHE_DIR", folder or "")  # noqa: B010 - read when a dispatcher is made, by nothing else
            try:
                made = numba.njit(**options)(self._function)
            finally:
                setattr(config, "CACHE_DIR", before)  # noqa: B010
            setattr(self, "_inner" if inner else "_dispatcher", made)
            return made
