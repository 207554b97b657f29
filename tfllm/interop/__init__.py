"""Checkpoints of others: Hugging Face folders in and out, GGUF files in, and pretrained models that packages carry."""

from tfllm.interop.gguf_file import load_gguf
from tfllm.interop.huggingface import load_huggingface, load_huggingface_encoder, save_huggingface
from tfllm.interop.pretrained import is_checkpoint, load_checkpoint, load_encoder, load_pretrained

__all__ = [
    "is_checkpoint",
    "load_checkpoint",
    "load_encoder",
    "load_gguf",
    "load_huggingface",
    "load_huggingface_encoder",
    "load_pretrained",
    "save_huggingface",
]
