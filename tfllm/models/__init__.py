"""Models on one contract: `call` for training, `initial_state` and `step` for decoding."""

from tfllm.models.contract import LanguageModel
from tfllm.models.draft_heads import WithDraftHeads, multi_token_loss
from tfllm.models.encoder import Encoder, RecurrentEncoder, TransformerEncoder
from tfllm.models.heads import SentenceEmbedder, SpanExtractor, TextClassifier, TokenTagger
from tfllm.models.recurrent import RecurrentLM
from tfllm.models.transformer import TransformerLM

__all__ = [
    "Encoder",
    "LanguageModel",
    "RecurrentEncoder",
    "RecurrentLM",
    "SentenceEmbedder",
    "SpanExtractor",
    "TextClassifier",
    "TokenTagger",
    "TransformerEncoder",
    "TransformerLM",
    "WithDraftHeads",
    "multi_token_loss",
]
