"""One repair of the installed libraries, made where it is needed and nowhere else."""

import sys

import torch


def import_torchvision():
    """Import torchvision next to a CPU-only build of torch, and return it.

    torchvision's wheels for Linux are built against CUDA. Beside a CPU torch their compiled operators cannot
    load and the import stops at the two operators whose shapes it wants to register. Declaring those two lets
    the pure Python part (models, transforms: all that timm and open_clip use) import. A torchvision that loads
    is left alone.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _DECLARATIONS.append(torch.library.Library("torchvision", "DEF"))
        for operator in ("nms", "qnms"):
            _DECLARATIONS[0].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


_DECLARATIONS: list[torch.library.Library] = []  # a library's declarations live as long as the object
