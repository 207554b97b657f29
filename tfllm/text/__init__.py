"""Text before it is numbers."""

from tfllm.text.tokenizers import BPETokenizer, CharTokenizer, Tokenizer, load_tokenizer

__all__ = ["BPETokenizer", "CharTokenizer", "Tokenizer", "load_tokenizer"]
