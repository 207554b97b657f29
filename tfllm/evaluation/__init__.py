"""How good a model is."""

from tfllm.evaluation.answers import ExactMatch, Meteor, TokenF1, normalize_answer
from tfllm.evaluation.calibration import CalibrationError, fit_temperature
from tfllm.evaluation.classification import F1, Accuracy, Precision, Recall, class_scores, confusion_matrix
from tfllm.evaluation.diversity import distinct_n, self_bleu
from tfllm.evaluation.edits import CharacterErrorRate, WordErrorRate, edit_counts
from tfllm.evaluation.harness import HarnessModel, as_harness_model
from tfllm.evaluation.metric import (
    KerasMetric,
    Mean,
    MeanMetric,
    Metric,
    PairedTest,
    bootstrap_interval,
    paired_test,
)
from tfllm.evaluation.overlap import Bleu, ChrF
from tfllm.evaluation.perplexity import (
    BitsPerByte,
    BitsPerCharacter,
    Perplexity,
    Segments,
    TokenScores,
    evaluate_lm,
    evaluate_text,
    score_tokens,
)
from tfllm.evaluation.pictures import draw_class_scores, draw_confusion, draw_positions, draw_reliability
from tfllm.evaluation.ranking import NDCG, RecallAt, ReciprocalRank
from tfllm.evaluation.rouge import Rouge
from tfllm.evaluation.spans import SpanF1, spans_of_tags
from tfllm.evaluation.table import examples_html, examples_markdown, load_examples, save_examples, sort_examples

__all__ = [
    "F1",
    "NDCG",
    "Accuracy",
    "BitsPerByte",
    "BitsPerCharacter",
    "Bleu",
    "CalibrationError",
    "CharacterErrorRate",
    "ChrF",
    "ExactMatch",
    "HarnessModel",
    "KerasMetric",
    "Mean",
    "MeanMetric",
    "Meteor",
    "Metric",
    "PairedTest",
    "Perplexity",
    "Precision",
    "Recall",
    "RecallAt",
    "ReciprocalRank",
    "Rouge",
    "Segments",
    "SpanF1",
    "TokenF1",
    "TokenScores",
    "WordErrorRate",
    "as_harness_model",
    "bootstrap_interval",
    "class_scores",
    "confusion_matrix",
    "distinct_n",
    "draw_class_scores",
    "draw_confusion",
    "draw_positions",
    "draw_reliability",
    "edit_counts",
    "evaluate_lm",
    "evaluate_text",
    "examples_html",
    "examples_markdown",
    "fit_temperature",
    "load_examples",
    "normalize_answer",
    "paired_test",
    "save_examples",
    "score_tokens",
    "self_bleu",
    "sort_examples",
    "spans_of_tags",
]
