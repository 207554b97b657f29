"""Keras layers; no models."""

from tfllm.layers.attention import CrossAttention, SelfAttention, causal_mask, document_mask, length_mask, write_cache
from tfllm.layers.crf import CRF, bio_forbidden
from tfllm.layers.embedding import LearnedPositions, SinusoidalPositions, document_positions, rotary_rates, rotate
from tfllm.layers.recurrent import BidirectionalStack, RecurrentStack
from tfllm.layers.transformer import FeedForward, TransformerBlock

__all__ = [
    "CRF",
    "BidirectionalStack",
    "CrossAttention",
    "FeedForward",
    "LearnedPositions",
    "RecurrentStack",
    "SelfAttention",
    "SinusoidalPositions",
    "TransformerBlock",
    "bio_forbidden",
    "causal_mask",
    "document_mask",
    "document_positions",
    "length_mask",
    "rotary_rates",
    "rotate",
    "write_cache",
]
