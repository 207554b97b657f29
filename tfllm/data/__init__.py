"""Text by name, and ids into batches."""

from tfllm.data import augmentation
from tfllm.data.augmentation import augment_dataset, back_translate, load_lexicon
from tfllm.data.bucketing import Buckets, make_buckets, pair_dataset
from tfllm.data.corpora import corpus_names, load_text
from tfllm.data.datasets import dataset_names, iterate_texts, load, write_jsonl
from tfllm.data.delivery import distribute, prefetch_to_device
from tfllm.data.mixing import Mixture, mix_datasets
from tfllm.data.objectives import (
    fill_in_the_middle,
    fill_in_the_middle_documents,
    masked_language_model,
    span_corruption,
)
from tfllm.data.order import shuffle_index
from tfllm.data.packing import Packing, pack_documents, packed_dataset
from tfllm.data.pipeline import lm_dataset, split_text
from tfllm.data.shards import Shards, open_shards
from tfllm.data.tokenizing import tokenize_files
from tfllm.data.vocabularies import load_vocabulary

__all__ = [
    "Buckets",
    "Mixture",
    "Packing",
    "Shards",
    "augment_dataset",
    "augmentation",
    "back_translate",
    "corpus_names",
    "dataset_names",
    "distribute",
    "fill_in_the_middle",
    "fill_in_the_middle_documents",
    "iterate_texts",
    "lm_dataset",
    "load",
    "load_lexicon",
    "load_text",
    "load_vocabulary",
    "make_buckets",
    "masked_language_model",
    "mix_datasets",
    "open_shards",
    "pack_documents",
    "packed_dataset",
    "pair_dataset",
    "prefetch_to_device",
    "shuffle_index",
    "span_corruption",
    "split_text",
    "tokenize_files",
    "write_jsonl",
]
