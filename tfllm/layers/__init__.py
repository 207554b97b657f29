"""Keras layers; no models."""

from tfllm.layers.attention import CrossAttention, SelfAttention, causal_mask, document_mask, length_mask, write_cache
from tfllm.layers.attentive import AttentiveRecurrence
from tfllm.layers.copying import copy_probabilities, mix_copied
from tfllm.layers.crf import CRF, bio_forbidden
from tfllm.layers.embedding import LearnedPositions, SinusoidalPositions, document_positions, rotary_rates, rotate
from tfllm.layers.recurrent import BidirectionalStack, RecurrentStack
from tfllm.layers.transformer import FeedForward, TransformerBlock

__all__ = [
    "CRF",
    "AttentiveRecurrence",
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
    "copy_probabilities",
    "document_mask",
    "document_positions",
    "length_mask",
    "mix_copied",
    "rotary_rates",
    "rotate",
    "write_cache",
]
