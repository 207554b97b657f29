"""How good a model is."""

from tfllm.evaluation.answers import ExactMatch, Meteor, TokenF1, normalize_answer
from tfllm.evaluation.calibration import CalibrationError, fit_temperature
from tfllm.evaluation.classification import F1, Accuracy, Precision, Recall, class_scores, confusion_matrix
from tfllm.evaluation.diversity import distinct_n, self_bleu
from tfllm.evaluation.edits import CharacterErrorRate, WordErrorRate, edit_counts
from tfllm.evaluation.metric import KerasMetric, MeanMetric, Metric, PairedTest, bootstrap_interval, paired_test
from tfllm.evaluation.overlap import Bleu, ChrF
from tfllm.evaluation.perplexity import evaluate_lm, evaluate_text
from tfllm.evaluation.ranking import NDCG, RecallAt, ReciprocalRank
from tfllm.evaluation.rouge import Rouge
from tfllm.evaluation.spans import SpanF1, spans_of_tags

__all__ = [
    "F1",
    "NDCG",
    "Accuracy",
    "Bleu",
    "CalibrationError",
    "CharacterErrorRate",
    "ChrF",
    "ExactMatch",
    "KerasMetric",
    "MeanMetric",
    "Meteor",
    "Metric",
    "PairedTest",
    "Precision",
    "Recall",
    "RecallAt",
    "ReciprocalRank",
    "Rouge",
    "SpanF1",
    "TokenF1",
    "WordErrorRate",
    "bootstrap_interval",
    "class_scores",
    "confusion_matrix",
    "distinct_n",
    "edit_counts",
    "evaluate_lm",
    "evaluate_text",
    "fit_temperature",
    "normalize_answer",
    "paired_test",
    "self_bleu",
    "spans_of_tags",
]
