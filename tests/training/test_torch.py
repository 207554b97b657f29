"""Ten optimizer steps against PyTorch from the same weights, where PyTorch is installed: it is no test requirement."""

import math

import numpy as np
import pytest
import tensorflow as tf
from conftest import VOCAB

import tfllm
from tfllm.training import lm_loss, make_adamw, make_train_step

torch = pytest.importorskip("torch")
functional = torch.nn.functional
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
STEPS, WARMUP, RATE, DECAY, CLIP = 10, 3, 0.01, 0.1, 0.3
MODELS = {
    "rnn": lambda: tfllm.RecurrentLM(VOCAB, "rnn", 12, 2),
    "lstm": lambda: tfllm.RecurrentLM(VOCAB, "lstm", 12, 2, embedding_dim=8),
    "gru": lambda: tfllm.RecurrentLM(VOCAB, "gru", 12, 2),
    "transformer": lambda: tfllm.TransformerLM(VOCAB, 16, 16, 2, 4),
}


def recurrent_logits(cell, parameters, ids):
    """PyTorch's own recurrent layers, given weights in Keras's layout."""
    table, *layers = parameters
    *layers, kernel, bias = layers
    x = table[ids]
    for inputs, states, offsets in zip(layers[::3], layers[1::3], layers[2::3], strict=True):
        if cell == "gru":  # Keras: update, reset, new; PyTorch: reset, update, new
            size = inputs.shape[1] // 3
            order = torch.tensor([*range(size, 2 * size), *range(size), *range(2 * size, 3 * size)])
            inputs, states, offsets = inputs[:, order], states[:, order], offsets[:, order]
            first, second = offsets
        else:
            first, second = offsets, torch.zeros_like(offsets)
        layer = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
        layer = layer(x.shape[2], states.shape[0], batch_first=True)
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        given = dict(zip(names, (inputs.T, states.T, first, second), strict=True))
        x, _ = torch.func.functional_call(layer, given, (x,))
    return x @ kernel + bias


def transformer_logits(parameters, ids):
    table, places, *layers, final = parameters
    x = table[ids] + places[: ids.shape[1]]
    batch, time, dim = x.shape
    for at in range(0, len(layers), 6):
        joint, output, up, down, first, second = layers[at : at + 6]
        y = functional.layer_norm(x, [dim], first, eps=1e-5) @ joint
        query, key, value = y.reshape(batch, time, 3, 4, dim // 4).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + y.transpose(1, 2).reshape(batch, time, dim) @ output
        y = functional.layer_norm(x, [dim], second, eps=1e-5) @ up
        x = x + functional.gelu(y, approximate="tanh") @ down
    return functional.layer_norm(x, [dim], final, eps=1e-5) @ table.T


def rate_of(step):
    if step < WARMUP:
        return RATE * (step + 1) / (WARMUP + 1)
    return RATE * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))))


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_ten_steps_of_adamw_are_those_of_pytorch(name, accumulate):
    random = np.random.default_rng(0)
    model = MODELS[name]()
    for weight in model.trainable_variables:
        if not weight.path.endswith("gamma"):
            weight.assign(random.normal(0, 0.4, weight.shape))
    weights = model.trainable_variables
    parameters = [torch.tensor(weight.numpy(), requires_grad=True) for weight in weights]
    spared = [weight.path.endswith(("bias", "gamma")) for weight in weights]
    groups = [
        {"params": [p for p, out in zip(parameters, spared, strict=True) if out is spares], "weight_decay": decay}
        for spares, decay in ((False, DECAY), (True, 0.0))
    ]
    adamw = torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.99))
    step = make_train_step(
        model,
        make_adamw(model, STEPS, learning_rate=RATE, warmup_steps=WARMUP, weight_decay=DECAY),
        clip_norm=CLIP,
        accumulate=accumulate,
    )

    @tf.function
    def gradients_of(batch):
        with tf.GradientTape() as tape:
            loss = tf.divide(*lm_loss(model, batch)["loss"])
        return [tf.convert_to_tensor(g) for g in tape.gradient(loss, [weight.value for weight in weights])]

    norms = []
    for i in range(STEPS):
        ids = random.integers(0, VOCAB, (3, 9))
        counts = (np.arange(8) <= np.array([1, 4, 7])[:, None]).astype(np.float32)
        batch = ids[:, :-1].astype(np.int32), ids[:, 1:].astype(np.int32), counts
        gradients = gradients_of(batch)
        results = step(batch)

        for group in adamw.param_groups:
            group["lr"] = rate_of(i)
            group["eps"] = 1e-7 / math.sqrt(
                1 - 0.99 ** (i + 1)
            )  # Keras adds its epsilon before the correction (Kingma)
        adamw.zero_grad()
        inputs, targets = torch.tensor(ids[:, :-1]), torch.tensor(ids[:, 1:])
        logits = transformer_logits(parameters, inputs) if name == "transformer" else None
        logits = recurrent_logits(name, parameters, inputs) if logits is None else logits
        nats = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        loss = (nats * torch.tensor(counts)).sum() / counts.sum()
        loss.backward()
        for ours, theirs in zip(gradients, parameters, strict=True):
            np.testing.assert_allclose(ours, theirs.grad, atol=1e-4)
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters, CLIP)))
        adamw.step()
        assert float(results["loss"]) == pytest.approx(float(loss), abs=1e-4)
        assert float(results["grad_norm"]) == pytest.approx(norms[-1], rel=1e-4)
        for ours, theirs in zip(weights, parameters, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs.detach(), atol=1e-4)
    assert max(norms) > CLIP  # clipping acted
