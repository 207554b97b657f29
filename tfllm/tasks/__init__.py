"""Applications on real data, each one file: the task, its data, its command, the score to expect. `README.md` has the table."""

from tfllm.tasks.baselines import BM25, WordDictionary, fit_crf, fit_tfidf, lead, majority, most_frequent_answer
from tfllm.tasks.classification import Classification
from tfllm.tasks.dialogue import Dialogue
from tfllm.tasks.generation import Generation
from tfllm.tasks.kneser_ney import KneserNey, choose_kneser_ney
from tfllm.tasks.music import Music
from tfllm.tasks.ngram_encoder import NGramEncoder
from tfllm.tasks.running import run_task
from tfllm.tasks.sentiment import Sentiment
from tfllm.tasks.speech_rescoring import SpeechRescoring
from tfllm.tasks.task import Baseline, Task, TaskSettings
from tfllm.tasks.training import Watch, fit_model

TASKS = {task.name: task for task in (Generation, Dialogue, Sentiment, Classification, SpeechRescoring, Music)}

__all__ = [
    "BM25",
    "TASKS",
    "Baseline",
    "Classification",
    "Dialogue",
    "Generation",
    "KneserNey",
    "Music",
    "NGramEncoder",
    "Sentiment",
    "SpeechRescoring",
    "Task",
    "TaskSettings",
    "Watch",
    "WordDictionary",
    "choose_kneser_ney",
    "fit_crf",
    "fit_model",
    "fit_tfidf",
    "lead",
    "majority",
    "most_frequent_answer",
    "run_task",
]
