"""Decoding: sees a model's `initial_state`, `step` and `max_length`, and no model."""

from tfllm.generation.attention import Attention, draw_attention, read_attention
from tfllm.generation.automaton import TokenAutomaton
from tfllm.generation.beam import BeamSearch
from tfllm.generation.contrastive import ContrastiveSearch
from tfllm.generation.generator import Completion, Prefix, Score, TextGenerator
from tfllm.generation.loop import generate_ids
from tfllm.generation.mcts import MonteCarloTreeSearch
from tfllm.generation.probabilities import draw_probabilities
from tfllm.generation.processors import process
from tfllm.generation.sampling import cut_off, pick
from tfllm.generation.settings import Vocabulary, make_settings
from tfllm.generation.speculative import Speculative
from tfllm.generation.strategies import STRATEGIES
from tfllm.generation.strategy import Sample, Strategy
from tfllm.generation.tree import SearchTree, draw_tree, search_tree
from tfllm.generation.value import ValueBeam

__all__ = [
    "STRATEGIES",
    "Attention",
    "BeamSearch",
    "Completion",
    "ContrastiveSearch",
    "MonteCarloTreeSearch",
    "Prefix",
    "Sample",
    "Score",
    "SearchTree",
    "Speculative",
    "Strategy",
    "TextGenerator",
    "TokenAutomaton",
    "ValueBeam",
    "Vocabulary",
    "cut_off",
    "draw_attention",
    "draw_probabilities",
    "draw_tree",
    "generate_ids",
    "make_settings",
    "pick",
    "process",
    "read_attention",
    "search_tree",
]
