"""What a training does, as one record of plain values, each with its rule; and the model, loss and optimizer it asks for."""

import dataclasses

from tfllm.models import RecurrentLM, TransformerLM
from tfllm.training import OPTIMIZERS, SCHEDULES, make_optimizer, make_schedule

MODELS = ("transformer", "lstm", "gru", "rnn")
TOKENIZERS = ("char", "bpe")
DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """What `train_run` does; the defaults train a small Transformer on characters.

    Attributes:
        model: "transformer", "lstm", "gru" or "rnn".
        dim, num_layers: int, size of the model.
        num_heads: int, for the Transformer.
        dropout: float in [0, 1).
        dtype: "float32", "mixed_bfloat16" or "mixed_float16".
        remat: bool, for the Transformer: blocks are computed a second time for their gradients, which takes less memory.

        tokenizer: "char" or "bpe".
        vocab_size: int, for "bpe".
        validation: float in (0, 1), share of the text, from its end, that is kept for validation.
        sequence_length: int, tokens a model looks back on in training.
        batch_size: int, sequences in a batch.

        steps: int, optimization steps, at most.
        patience: int, evaluations in a row without a better validation loss after which training ends; 0 for never.
        min_delta: float in [0, 1): better is what lies below the best validation loss by more than this share of it.
        optimizer: one of `training.OPTIMIZERS`, see `training.make_optimizer`.
        lookahead: bool, whether `training.Lookahead` goes around the optimizer.
        learning_rate: float > 0, the highest rate.
        schedule: one of `training.SCHEDULES`, see `training.make_schedule`. With "plateau" the rate is halved after every
            `plateau_patience` evaluations in a row without a better validation loss.
        warmup_steps: int in [0, steps), until the rate is reached; None for 100, at most half of the steps ("one_cycle": 30 %).
        decay_steps: int, for "wsd": steps of the decay at the end; None for a fifth of the steps.
        final_rate: float in [0, 1], the lowest rate of "cosine", "linear" and "wsd", as a share of `learning_rate`.
        plateau_patience: int >= 1.
        weight_decay: float >= 0, but on biases and norms; None for 0.1 with "adamw" and 0 with others.
        clip_norm: float >= 0, the longest gradient; 0 for any length.
        accumulate: int, parts of a batch that are computed one after another, which takes less memory; divides `batch_size`.
        label_smoothing: float in [0, 1), see `training.make_lm_loss`.
        z_loss: float >= 0, see there.
        chunk_tokens: int, tokens whose logits are computed at a time, for large vocabularies; 0 for all.
        average: float in [0, 1), decay of the moving average of the weights, taken from the end of the warm-up on, which is
            then what is validated, sampled from and kept; 0 for the last weights.

        evaluations: int, how often validation loss, sample and curves are taken on the way.
        prompt: str, beginning of the samples; empty takes the first line of the validation part.
        checkpoint_every: int, steps between two checkpoints, from which a run that was cut off goes on; 0 for one after
            every evaluation.
        keep_checkpoints: int >= 1, how many of the last stay until the run is done.
        seed: int, decides weights, batches, dropout and samples.

    Raises:
        ValueError: when a value breaks its rule.
    """

    model: str = "transformer"
    dim: int = 128
    num_layers: int = 4
    num_heads: int = 4
    dropout: float = 0.0
    dtype: str = "float32"
    remat: bool = False

    tokenizer: str = "char"
    vocab_size: int = 4096
    validation: float = 0.1
    sequence_length: int = 64
    batch_size: int = 16

    steps: int = 1500
    patience: int = 0
    min_delta: float = 0.0
    optimizer: str = "adamw"
    lookahead: bool = False
    learning_rate: float = 2e-3
    schedule: str = "cosine"
    warmup_steps: int | None = None
    decay_steps: int | None = None
    final_rate: float = 0.1
    plateau_patience: int = 2
    weight_decay: float | None = None
    clip_norm: float = 1.0
    accumulate: int = 1
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    chunk_tokens: int = 0
    average: float = 0.0

    evaluations: int = 10
    prompt: str = ""
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    seed: int = 1337

    def __post_init__(self):
        choices = {"model": MODELS, "tokenizer": TOKENIZERS, "dtype": DTYPES}
        for name, known in (choices | {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}).items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}; got {getattr(self, name)!r}")
        for least, names in (
            (2, ("sequence_length",)),
            (1, ("dim", "num_layers", "num_heads", "vocab_size", "batch_size", "steps", "evaluations", "accumulate")),
            (1, ("plateau_patience", "keep_checkpoints")),
            (0, ("patience", "chunk_tokens", "checkpoint_every", "seed", "z_loss", "clip_norm")),
        ):
            for name in names:
                if not getattr(self, name) >= least:
                    raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")
        for name in ("dropout", "label_smoothing", "average", "min_delta"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1); got {getattr(self, name)}")
        if self.seed >= 2**31:
            raise ValueError(f"seed must be below 2**31; got {self.seed}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be above 0 and finite; got {self.learning_rate}")
        if not 0 <= self.final_rate <= 1:
            raise ValueError(f"final_rate must lie in [0, 1]; got {self.final_rate}")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must lie in (0, 1); got {self.validation}")
        if self.weight_decay is not None and not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"weight_decay must be at least 0 and finite; got {self.weight_decay}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide batch_size={self.batch_size}; got {self.accumulate}")
        if self.remat and self.model != "transformer":
            raise ValueError(f"remat must be left out but for model='transformer'; got model={self.model!r}")
        make_run_schedule(dataclasses.asdict(self))  # refuses steps that do not fit together


def make_run_schedule(settings):
    """Makes the schedule of a run.

    Args:
        settings: dict of `TrainingSettings`, or of an earlier version's, which lacks some and took a cosine.

    Returns:
        A Keras `LearningRateSchedule`.
    """
    return make_schedule(
        settings.get("schedule", "cosine"),
        settings["learning_rate"],
        settings["steps"],
        warmup_steps=settings.get("warmup_steps"),
        decay_steps=settings.get("decay_steps"),
        final=settings.get("final_rate", 0.1),
    )


def make_run_optimizer(model, schedule, settings):
    """Makes the optimizer of a run, for a model and a schedule."""
    decay = settings.weight_decay
    if decay is None:
        decay = 0.1 if settings.optimizer == "adamw" else 0.0
    return make_optimizer(model, settings.optimizer, schedule, weight_decay=decay, lookahead=settings.lookahead)


def make_model(vocab_size, settings):
    """Makes the untrained model of a run."""
    common = {
        "dim": settings.dim,
        "num_layers": settings.num_layers,
        "dropout": settings.dropout,
        "dtype": settings.dtype,
    }
    if settings.model == "transformer":
        return TransformerLM(
            vocab_size,
            max_length=settings.sequence_length,
            num_heads=settings.num_heads,
            positions="rotary",
            remat=settings.remat,
            **common,
        )
    return RecurrentLM(vocab_size, cell=settings.model, **common)
