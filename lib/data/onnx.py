"""Open ONNX files with onnxruntime, and say in one sentence what is wrong with one."""

import os
from pathlib import Path

import onnxruntime

from lib.errors import InputError
from lib.files import check_sha256


def open_onnx(path: Path | str, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session for a model with one image input (B, 3, H, W).

    Raises
    ------
    InputError
        The file is missing, damaged, of another checksum than is known of it, or wants another input.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no ONNX file {path}; give the path of a model.")
    check_sha256(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 4  # errors reach the user as one sentence
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class; all mean that the file cannot be used
        raise InputError(f"{path} is no ONNX model that can be read ({type(error).__name__}); replace it.") from error
    shapes = [entry.shape for entry in session.get_inputs()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3:
        raise InputError(f"{path} takes inputs of shape {shapes}; a model with one image input (B, 3, H, W) is needed.")
    return session
