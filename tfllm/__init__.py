"""tfllm: language models in Keras on TensorFlow, from text to a SavedModel that takes and returns strings."""

import os

# Both are read when TensorFlow and Keras are first imported; what the user has set stays.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(f"tfllm needs KERAS_BACKEND=tensorflow; got {keras.backend.backend()!r}")

from tfllm import data, evaluation, export, generation, layers, models, runs, text, training
from tfllm.data import load_text
from tfllm.generation import TextGenerator
from tfllm.models import LanguageModel, RecurrentLM, TransformerLM
from tfllm.text import BPETokenizer, CharTokenizer, load_tokenizer

__all__ = [
    "BPETokenizer",
    "CharTokenizer",
    "LanguageModel",
    "RecurrentLM",
    "TextGenerator",
    "TransformerLM",
    "data",
    "evaluation",
    "export",
    "generation",
    "layers",
    "load_text",
    "load_tokenizer",
    "models",
    "runs",
    "text",
    "training",
]
