"""How good a model is."""

from tfllm.evaluation.perplexity import evaluate_lm

__all__ = ["evaluate_lm"]
