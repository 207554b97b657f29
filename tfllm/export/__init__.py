"""Models as files that run without this package."""

from tfllm.export.forward import save_litert, save_onnx
from tfllm.export.saved_model import SIGNATURES, check_free, save

__all__ = ["SIGNATURES", "check_free", "save", "save_litert", "save_onnx"]
