"""The peers of `training.py`, each run by a Python that has it.

training_peers.py PROGRAM CELL    serves timed units of `duel.py`; CELL is JSON, a row of `training.SIZES` and its name
"""

import contextlib
import json
import os
import sys

import numpy as np
from duel import serve


def main():
    program, cell = sys.argv[1], json.loads(sys.argv[2])
    sizes = cell["steps"], cell["rows"], cell["time"] + 1
    ids = np.random.default_rng(0).integers(0, cell["vocab_size"], sizes).astype(np.int32)
    unit, parameters = PROGRAMS[program](cell, ids[:, :, :-1], ids[:, :, 1:])
    serve(unit, tokens=cell["steps"] * cell["rows"] * cell["time"], parameters=parameters)


def nanogpt(cell, inputs, targets, compiled=False):
    import torch

    sys.path.insert(0, cell["nanogpt"])
    from model import GPT, GPTConfig

    names = {
        "n_layer": "num_layers",
        "n_head": "num_heads",
        "n_embd": "dim",
        "block_size": "time",
        "vocab_size": "vocab_size",
    }
    torch.manual_seed(0)
    model = GPT(GPTConfig(dropout=0.0, bias=False, **{theirs: cell[ours] for theirs, ours in names.items()}))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    forward = torch.compile(model) if compiled else model
    return torch_unit(cell, model, optimizer, lambda x, y: forward(x, y)[1], inputs, targets)


def torch_recurrent(cell, inputs, targets):
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell["cell"]]
            self.embedding = torch.nn.Embedding(cell["vocab_size"], cell["dim"])
            self.recurrence = layer(cell["dim"], cell["dim"], cell["num_layers"], batch_first=True)
            self.head = torch.nn.Linear(cell["dim"], cell["vocab_size"])

        def forward(self, x, y):
            hidden, _ = self.recurrence(self.embedding(x))
            return torch.nn.functional.cross_entropy(self.head(hidden).flatten(0, 1), y.flatten())

    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.99), weight_decay=0.1, fused=True)
    return torch_unit(cell, model, optimizer, model, inputs, targets)


def torch_unit(cell, model, optimizer, loss_of, inputs, targets):
    import torch

    torch.set_num_threads(os.cpu_count())
    batches = [(torch.from_numpy(x).long(), torch.from_numpy(y).long()) for x, y in zip(inputs, targets, strict=True)]
    half = cell["dtype"] == "bfloat16"

    def unit():
        for x, y in batches:
            with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
                loss = loss_of(x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return unit, sum(p.numel() for p in model.parameters())


def keras_hub(cell, inputs, targets, jit_compile=False):
    import keras
    import keras_hub

    dtype = keras_policy(cell)
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=cell["vocab_size"],
        num_layers=cell["num_layers"],
        num_heads=cell["num_heads"],
        hidden_dim=cell["dim"],
        intermediate_dim=4 * cell["dim"],
        dropout=0.0,
        max_sequence_length=cell["time"],
        dtype=dtype,
    )
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None, dtype=dtype)
    inputs = {"token_ids": inputs, "padding_mask": np.ones_like(inputs)}
    return keras_unit(cell, model, inputs, targets, jit_compile, keras)


def keras_recurrent(cell, inputs, targets, jit_compile=False, unroll=False):
    import keras

    keras.config.set_dtype_policy(keras_policy(cell))
    layer = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}[cell["cell"]]
    model = keras.Sequential(
        [
            keras.Input((cell["time"],), batch_size=cell["rows"], dtype="int32"),
            keras.layers.Embedding(cell["vocab_size"], cell["dim"]),
            *(layer(cell["dim"], return_sequences=True, unroll=unroll) for _ in range(cell["num_layers"])),
            keras.layers.Dense(cell["vocab_size"]),
        ]
    )
    return keras_unit(cell, model, inputs, targets, jit_compile, keras)


def keras_policy(cell):
    return "mixed_bfloat16" if cell["dtype"] == "bfloat16" else "float32"


def keras_unit(cell, model, inputs, targets, jit_compile, keras):
    import tensorflow as tf

    steps = cell["steps"]
    model.compile(
        keras.optimizers.AdamW(1e-3, weight_decay=0.1, beta_2=0.99, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
        steps_per_execution=min(steps, 10),
    )
    batches = tf.data.Dataset.from_tensor_slices((inputs, targets)).repeat().prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = False  # else `fit` waits up to 5 seconds for tf.data's tuning thread, time after time
    batches = batches.with_options(options)

    def unit():
        return model.fit(batches, steps_per_epoch=steps, verbose=0).history["loss"][-1]

    return unit, sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


PROGRAMS = {
    "nanogpt": nanogpt,
    "nanogpt_compiled": lambda *cell: nanogpt(*cell, compiled=True),
    "torch_recurrent": torch_recurrent,
    "keras_hub": keras_hub,
    "keras_hub_xla": lambda *cell: keras_hub(*cell, jit_compile=True),
    "keras": keras_recurrent,
    "keras_xla": lambda *cell: keras_recurrent(*cell, jit_compile=True),
    "keras_unrolled": lambda *cell: keras_recurrent(*cell, unroll=True),
}

if __name__ == "__main__":
    main()
