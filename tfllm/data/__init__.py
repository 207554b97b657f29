"""Text by name, and ids into batches."""

from tfllm.data.corpora import corpus_names, load_text
from tfllm.data.pipeline import lm_dataset, split_text

__all__ = ["corpus_names", "lm_dataset", "load_text", "split_text"]
