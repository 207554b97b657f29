"""Models on one contract: `call` for training, `initial_state` and `step` for decoding."""

from tfllm.models.contract import LanguageModel
from tfllm.models.draft_heads import WithDraftHeads, multi_token_loss
from tfllm.models.encoder import Encoder, RecurrentEncoder, TransformerEncoder
from tfllm.models.heads import SentenceEmbedder, SpanExtractor, TextClassifier, TokenTagger
from tfllm.models.recurrent import RecurrentLM
from tfllm.models.seq2seq import RecurrentSeq2Seq, Seq2Seq, TransformerSeq2Seq
from tfllm.models.transformer import TransformerLM

__all__ = [
    "Encoder",
    "LanguageModel",
    "RecurrentEncoder",
    "RecurrentLM",
    "RecurrentSeq2Seq",
    "SentenceEmbedder",
    "Seq2Seq",
    "SpanExtractor",
    "TextClassifier",
    "TokenTagger",
    "TransformerEncoder",
    "TransformerLM",
    "TransformerSeq2Seq",
    "WithDraftHeads",
    "multi_token_loss",
]
