"""Text by name, and ids into batches."""

from tfllm.data import augmentation
from tfllm.data.augmentation import augment_dataset, back_translate, load_lexicon
from tfllm.data.bucketing import Buckets, make_buckets, pair_dataset
from tfllm.data.corpora import corpus_names, load_text
from tfllm.data.datasets import dataset_names, iterate_texts, load, load_rows, write_jsonl
from tfllm.data.delivery import distribute, prefetch_to_device
from tfllm.data.labelled import (
    balanced_weights,
    classification_dataset,
    span_dataset,
    tag_entities,
    tagging_dataset,
    text_dataset,
    text_pair_dataset,
)
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
from tfllm.data.windows import span_windows, split_words, text_rows, word_windows

__all__ = [
    "Buckets",
    "Mixture",
    "Packing",
    "Shards",
    "augment_dataset",
    "augmentation",
    "back_translate",
    "balanced_weights",
    "classification_dataset",
    "corpus_names",
    "dataset_names",
    "distribute",
    "fill_in_the_middle",
    "fill_in_the_middle_documents",
    "iterate_texts",
    "lm_dataset",
    "load",
    "load_lexicon",
    "load_rows",
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
    "span_dataset",
    "span_windows",
    "split_text",
    "split_words",
    "tag_entities",
    "tagging_dataset",
    "text_dataset",
    "text_pair_dataset",
    "text_rows",
    "tokenize_files",
    "word_windows",
    "write_jsonl",
]
