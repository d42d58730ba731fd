"""Which way to render, and the renderer's chunks compiled for the machine at hand.

A chunk's function is traced once for each shape (`make_fx`: the tensor operations alone, with the differentiation
already written out) and handed to the compiler behind `torch.compile`, without what that does at every call: chunks
are short. What has been compiled is kept on disk, so that the next run starts at once.
"""

import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_structure, tree_unflatten

from lib.errors import InputError

RenderPath = Literal["auto", "plain", "fast", "compiled"]
LONG_RUN = 3e8  # points rendered in training: below, compiling costs more than it saves
LARGE_STEP = 200_000  # points rendered in a step: above, the plain renderer needs gigabytes

_programs: dict[tuple, Callable] = {}  # what has been compiled in this process
_broken = False  # compiling failed in this process
_one_at_a_time = threading.Lock()


def choose_render_path(setting: str, points: float = 0, steps: int = 1, device: str = "cpu") -> RenderPath:
    """What "auto" stands for; any other setting is itself.

    The choice depends on the machine and the plan of the run, never on the clock, so that a run can be repeated.

    Parameters
    ----------
    points : float
        Rendered in a training step.
    steps : int
        Of the run.

    Raises
    ------
    InputError
        An unknown setting.
    """
    if setting not in get_args(RenderPath):
        raise InputError(f"render_path: {setting!r} is none of 'auto', 'plain', 'fast', 'compiled'")
    if setting != "auto":
        return setting
    if points * steps >= LONG_RUN and can_compile(device):
        return "compiled"
    return "fast" if points >= LARGE_STEP else "plain"


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


def run_compiled(function: Callable, layout, with_normals: bool, *inputs) -> tuple:
    """`function(layout, with_normals, *inputs)` by its compiled form, which is made where it is not at hand yet."""
    example = inputs[2]  # depths: the other shapes follow from it and the layout
    key = (function, layout, with_normals, tuple(example.shape), example.dtype, example.device)
    if key not in _programs:
        with _one_at_a_time:
            if key not in _programs:
                _programs[key] = _made(partial(function, layout, with_normals), inputs)
    return _programs[key](*inputs)


def _made(function: Callable, inputs: tuple) -> Callable:
    """The compiled form, or the function itself where one could not be compiled."""
    global _broken
    if _broken:
        return function
    try:
        return _compile(function, inputs)
    except Exception as error:  # compilers fail in many ways, none of which is a reason not to train
        _broken = True
        print(f"The renderer could not be compiled ({type(error).__name__}); it goes on without.", file=sys.stderr)
        return function


def _compile(function: Callable, inputs: tuple) -> Callable[..., tuple[Tensor, ...]]:
    """The compiled form of a function of tensors, tried with these."""
    from torch._inductor import compile as compile_graph
    from torch.fx.experimental.proxy_tensor import make_fx

    print("compiling a part of the renderer (at most a minute; kept for later runs) ...", file=sys.stderr, flush=True)
    started = time.perf_counter()
    flat, given = tree_flatten(inputs)
    found = tree_structure(function(*inputs))
    trace = make_fx(lambda *tensors: tuple(tree_leaves(function(*tree_unflatten(tensors, given)))), tracing_mode="fake")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # C++ from end to end leaves Python's lock to the other threads
        program = compile_graph(trace(*flat), flat, {"cpp_wrapper": flat[0].device.type == "cpu"})
        program(*flat)
    print(f"... done in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return lambda *tensors: tree_unflatten(program(*tree_leaves(tensors)), found)
