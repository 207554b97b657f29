"""How good a model is."""

from tfllm.evaluation.perplexity import evaluate_lm, evaluate_text

__all__ = ["evaluate_lm", "evaluate_text"]
