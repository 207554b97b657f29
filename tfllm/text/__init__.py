"""Text before it is numbers."""

from tfllm.text import cleaning
from tfllm.text.cleaning import Cleaner
from tfllm.text.duplicates import near_duplicates, remove_duplicates, remove_near_duplicates
from tfllm.text.tokenizers import (
    BPETokenizer,
    CharTokenizer,
    Tokenizer,
    WordPieceTokenizer,
    WordTokenizer,
    load_tokenizer,
)

__all__ = [
    "BPETokenizer",
    "CharTokenizer",
    "Cleaner",
    "Tokenizer",
    "WordPieceTokenizer",
    "WordTokenizer",
    "cleaning",
    "load_tokenizer",
    "near_duplicates",
    "remove_duplicates",
    "remove_near_duplicates",
]
