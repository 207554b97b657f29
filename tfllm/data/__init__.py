"""Text by name, and ids into batches."""

from tfllm.data.corpora import corpus_names, load_text
from tfllm.data.datasets import dataset_names, iterate_texts, load, write_jsonl
from tfllm.data.order import shuffle_index
from tfllm.data.pipeline import lm_dataset, split_text
from tfllm.data.shards import Shards, open_shards
from tfllm.data.tokenizing import tokenize_files

__all__ = [
    "Shards",
    "corpus_names",
    "dataset_names",
    "iterate_texts",
    "lm_dataset",
    "load",
    "load_text",
    "open_shards",
    "shuffle_index",
    "split_text",
    "tokenize_files",
    "write_jsonl",
]
