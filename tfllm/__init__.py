"""tfllm: language models in Keras on TensorFlow, from text to a SavedModel that takes and returns strings."""

from tfllm import startup  # isort: skip  (first: it prepares the import of TensorFlow)
from tfllm import (
    alignment,
    data,
    embeddings,
    evaluation,
    export,
    generation,
    interop,
    layers,
    models,
    runs,
    text,
    training,
)
from tfllm.data import load_text
from tfllm.generation import TextGenerator
from tfllm.models import LanguageModel, RecurrentLM, RecurrentSeq2Seq, TransformerLM, TransformerSeq2Seq
from tfllm.text import BPETokenizer, CharTokenizer, load_tokenizer

__all__ = [
    "BPETokenizer",
    "CharTokenizer",
    "LanguageModel",
    "RecurrentLM",
    "RecurrentSeq2Seq",
    "TextGenerator",
    "TransformerLM",
    "TransformerSeq2Seq",
    "alignment",
    "data",
    "embeddings",
    "evaluation",
    "export",
    "generation",
    "interop",
    "layers",
    "load_text",
    "load_tokenizer",
    "models",
    "runs",
    "startup",
    "text",
    "training",
]
