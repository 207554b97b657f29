"""The strategies by name."""

import dataclasses

import numpy as np

from tfllm.generation.beam import BeamSearch
from tfllm.generation.contrastive import ContrastiveSearch
from tfllm.generation.mcts import MonteCarloTreeSearch
from tfllm.generation.speculative import Speculative
from tfllm.generation.strategy import Sample, Strategy
from tfllm.generation.value import ValueBeam

STRATEGIES = {
    "sample": Sample,
    "greedy": Sample,
    "beam_search": BeamSearch,
    "contrastive_search": ContrastiveSearch,
    "speculative": Speculative,
    "mcts": MonteCarloTreeSearch,
    "value_beam": ValueBeam,
}


def make_strategy(strategy, settings):
    """Makes the strategy of a request.

    Args:
        strategy: str, a name of `STRATEGIES`, or a `Strategy`.
        settings: dict, of which the strategy's fields are taken.

    Returns:
        (`Strategy`, dict of the settings that are left).

    Raises:
        ValueError: on an unknown strategy.
    """
    if isinstance(strategy, Strategy):
        fields = {field.name for field in dataclasses.fields(strategy)}
        given = {name: value for name, value in settings.items() if name in fields}
        return dataclasses.replace(strategy, **given), {k: v for k, v in settings.items() if k not in fields}
    if not isinstance(strategy, str) or strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, or a Strategy; got {strategy!r}")
    if strategy == "greedy":
        if np.any(np.asarray(settings.get("temperature", 0)) != 0):
            raise ValueError(f"temperature must be 0 for greedy decoding; got {settings['temperature']!r}")
        settings = settings | {"temperature": 0.0}
    return make_strategy(STRATEGIES[strategy](), settings)
