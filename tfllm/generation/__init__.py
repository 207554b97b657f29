"""Decoding: sees a model's `initial_state`, `step` and `max_length`, and no model."""

from tfllm.generation.generator import Completion, Prefix, Score, TextGenerator
from tfllm.generation.loop import generate_ids
from tfllm.generation.processors import process
from tfllm.generation.sampling import cut_off, pick
from tfllm.generation.settings import Vocabulary, make_settings
from tfllm.generation.strategies import STRATEGIES
from tfllm.generation.strategy import Sample, Strategy

__all__ = [
    "STRATEGIES",
    "Completion",
    "Prefix",
    "Sample",
    "Score",
    "Strategy",
    "TextGenerator",
    "Vocabulary",
    "cut_off",
    "generate_ids",
    "make_settings",
    "pick",
    "process",
]
