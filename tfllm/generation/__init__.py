"""Decoding: sees a model's `initial_state`, `step` and `max_length`, and no model."""

from tfllm.generation.generator import TextGenerator
from tfllm.generation.loop import generate_ids
from tfllm.generation.sampling import Sampling, keep_likeliest, pick

__all__ = ["Sampling", "TextGenerator", "generate_ids", "keep_likeliest", "pick"]
