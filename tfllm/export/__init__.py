"""Models as files that run without this package."""

from tfllm.export.forward import save_litert, save_onnx
from tfllm.export.predictors import make_predictor, run_predictor, save_predictor
from tfllm.export.saved_model import SIGNATURES, check_free, save

__all__ = [
    "SIGNATURES",
    "check_free",
    "make_predictor",
    "run_predictor",
    "save",
    "save_litert",
    "save_onnx",
    "save_predictor",
]
