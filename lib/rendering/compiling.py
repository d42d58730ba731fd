"""Functions of tensors compiled for the machine at hand: chunks of the renderer, parts of SDF-SRN's rays and points.

A function is traced once for each shape (`make_fx`: the tensor operations alone, with the differentiation already
written out) and handed to the compiler behind `torch.compile`, without what that does at every call: chunks are
short. What has been compiled is kept on disk, so that the next run starts at once.
"""

import sys
import threading
import time
import warnings
from collections.abc import Callable, Hashable

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_structure, tree_unflatten

ANNOUNCEMENT = "compiling a part of the step (at most a minute; kept for later runs) ..."
_programs: dict[tuple, Callable] = {}  # what has been compiled in this process
_broken = False  # compiling failed in this process
_one_at_a_time = threading.Lock()


def can_compile(device: str = "cpu") -> bool:
    """Whether `torch.compile` has what it needs: a C++ compiler, or Triton for a GPU."""
    try:
        if torch.device(device).type == "cpu":
            from torch._inductor.cpp_builder import get_cpp_compiler

            return bool(get_cpp_compiler())
        from torch.utils._triton import has_triton

        return has_triton()
    except (ImportError, RuntimeError, OSError):  # what is raised differs between releases; all mean no
        return False


def being_compiled() -> bool:
    """Whether what is computed at this moment is only written down for a compiler."""
    return get_proxy_mode() is not None


def run_compiled(function: Callable, settings: tuple[Hashable, ...], *inputs) -> tuple:
    """`function(*settings, *inputs)` by its compiled form, which is made where it is not at hand yet.

    Parameters
    ----------
    function : callable
        Of settings, which its compiled form has for good, and of tensors and tuples of them; differentiation inside.
    inputs : Tensor or tuple
        Of one precision, on one device. There is a compiled form for all their shapes together: with others it would
        read memory that is not theirs.
    """
    leaves, given = tree_flatten(inputs)
    key = (function, settings, tuple(leaf.shape for leaf in leaves), leaves[0].dtype, leaves[0].device)
    if key not in _programs:
        with _one_at_a_time:
            if key not in _programs:
                _programs[key] = _made(lambda *flat: function(*settings, *tree_unflatten(flat, given)), leaves)
    return _programs[key](*leaves)


def _made(function: Callable, leaves: list[Tensor]) -> Callable:
    """The compiled form, or the function itself where one could not be compiled."""
    if _broken:
        return function
    try:
        return _compile(function, leaves)
    except Exception as error:
        _give_up(error)
        return function


def _give_up(error: Exception) -> None:
    """Compilers fail in many ways, none of which is a reason not to train."""
    global _broken
    _broken = True
    print(f"The step could not be compiled ({type(error).__name__}); it goes on without.", file=sys.stderr)


def _compile(function: Callable, leaves: list[Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """The compiled form of a function of tensors, tried with these."""
    from torch._inductor import compile as compile_graph
    from torch.fx.experimental.proxy_tensor import make_fx

    print(ANNOUNCEMENT, file=sys.stderr, flush=True)
    started = time.perf_counter()
    leaves = [leaf.detach() for leaf in leaves]  # one tensor given twice is not one input
    found = tree_structure(function(*leaves))
    trace = make_fx(lambda *tensors: tuple(tree_leaves(function(*tensors))), tracing_mode="fake")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # C++ from end to end leaves Python's lock to the other threads
        program = compile_graph(trace(*leaves), leaves, {"cpp_wrapper": leaves[0].device.type == "cpu"})
        program(*leaves)
    print(f"... done in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return lambda *tensors: tree_unflatten(program(*tensors), found)
