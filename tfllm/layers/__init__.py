"""Keras layers; no models."""

from tfllm.layers.attention import CausalSelfAttention, causal_mask, write_cache
from tfllm.layers.embedding import LearnedPositions, SinusoidalPositions, rotate
from tfllm.layers.recurrent import RecurrentStack
from tfllm.layers.transformer import FeedForward, TransformerBlock

__all__ = [
    "CausalSelfAttention",
    "FeedForward",
    "LearnedPositions",
    "RecurrentStack",
    "SinusoidalPositions",
    "TransformerBlock",
    "causal_mask",
    "rotate",
    "write_cache",
]
