"""Models as files that run without this package."""

from tfllm.export.saved_model import check_free, save

__all__ = ["check_free", "save"]
