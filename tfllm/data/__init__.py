"""Text by name, and ids into batches."""

from tfllm.data.corpora import corpus_names, load_text
from tfllm.data.datasets import dataset_names, iterate_texts, load, write_jsonl
from tfllm.data.pipeline import lm_dataset, split_text

__all__ = [
    "corpus_names",
    "dataset_names",
    "iterate_texts",
    "lm_dataset",
    "load",
    "load_text",
    "split_text",
    "write_jsonl",
]
