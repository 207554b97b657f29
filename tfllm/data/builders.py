"""TFDS builders of the bundled data sets; imported where used, because TensorFlow Datasets is.

Each reads the files that ship with the package, never the network, and writes what TFDS writes. A task that a well-known data
set of TFDS covers has that set's field names, so that the same code reads both: `imdb_reviews`, `conll2003`, `squad`, `xsum`.
After this module is imported, plain `tfds.load("tfllm_translation/en-de")` finds them too.
"""

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils

from tfllm.data.catalogue import CATALOGUE

# fmt: off
_INTENTS = [
    "Broadcast", "CancelAllTimers", "CancelTimer", "ClimateGetTemperature", "ClimateSetFanMode",
    "ClimateSetTemperature", "DecreaseTimer", "FanSetSpeed", "GetCurrentDate", "GetCurrentTime", "GetState",
    "GetWeather", "IncreaseTimer", "LawnMowerDock", "LawnMowerStartMowing", "LightSet", "ListAddItem",
    "ListCompleteItem", "ListRemoveItem", "MediaNext", "MediaPause", "MediaPlayerMute", "MediaPlayerUnmute",
    "MediaPrevious", "MediaSearchAndPlay", "MediaUnpause", "Nevermind", "PauseTimer", "Respond", "SetPosition",
    "SetVolume", "SetVolumeRelative", "ShoppingListAddItem", "ShoppingListCompleteItem", "StartTimer", "TimerStatus",
    "TurnOff", "TurnOn", "UnpauseTimer", "VacuumCleanArea", "VacuumReturnToBase", "VacuumStart",
]
_SLOTS = [
    "area", "brightness", "color", "conversation_command", "device_class", "domain", "fan_mode", "floor", "hours",
    "item", "media_class", "message", "minutes", "name", "percentage", "position", "search_query", "seconds",
    "start_hours", "start_minutes", "start_seconds", "state", "temperature", "volume_level", "volume_step",
]
_CATEGORIES = [
    "Tops", "act", "animal", "artifact", "attribute", "body", "cognition", "communication", "event", "feeling", "food",
    "group", "location", "motive", "object", "person", "phenomenon", "plant", "possession", "process", "quantity",
    "relation", "shape", "state", "substance", "time",
]
# fmt: on
_CLASSES = ["animal", "artifact", "body", "communication", "event", "food", "location", "person", "plant", "substance"]

FeaturesDict, Text = tfds.features.FeaturesDict, tfds.features.Text
ClassLabel, Sequence = tfds.features.ClassLabel, tfds.features.Sequence


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What the builders share; `TASK` names the part of the catalogue, `_features` its fields and the supervised pair of them."""

    VERSION = tfds.core.Version("1.0.0")  # raise it when files, fields or splits change: prepared copies are kept
    TASK = ""

    def _features(self):
        raise NotImplementedError

    def _entry(self):
        return CATALOGUE[f"{self.TASK}/{self.builder_config.name}"]

    def _info(self):
        entry = self._entry()
        features, supervised = self._features()
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{entry.description[0].upper()}{entry.description[1:]}. Bundled with tfllm.",
            features=features,
            supervised_keys=supervised,
            homepage=entry.homepage,
            license=entry.licence,
            citation=entry.citation,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(rows) for split, rows in self._entry().read().items()}

    def _generate_examples(self, rows):
        yield from enumerate(rows)

    # TFDS prints two lines around a second's work.
    def _log_download_bytes(self):
        pass

    def _log_download_done(self):
        pass


def _configs(task):
    return [
        tfds.core.BuilderConfig(name=entry.config, description=entry.description)
        for entry in CATALOGUE.values()
        if entry.task == task
    ]


def _bio(types):
    return ["O", *(f"{mark}-{kind}" for kind in types for mark in "BI")]


class TfllmTranslation(_Builder):
    """Pairs of sentences: one text field for each of two languages."""

    TASK = "translation"
    BUILDER_CONFIGS = _configs(TASK)

    def _features(self):
        pair = tuple(self.builder_config.name.split("-")[-2:])
        return tfds.features.Translation(languages=pair), pair


class TfllmSentiment(_Builder):
    """Short messages with their label and its strength, from -4 (negative) to 4."""

    TASK = "sentiment"
    BUILDER_CONFIGS = _configs(TASK)

    def _features(self):
        labels = ClassLabel(names=["neg", "neu", "pos"])
        return FeaturesDict({"id": Text(), "text": Text(), "label": labels, "score": np.float32}), ("text", "label")


class TfllmClassification(_Builder):
    """Definitions with their class."""

    TASK = "classification"
    BUILDER_CONFIGS = _configs(TASK)

    def _features(self):
        label = ClassLabel(names=_CLASSES)
        return FeaturesDict({"text": Text(), "headword": Text(), "label": label}), ("text", "label")


class TfllmNer(_Builder):
    """Tokens with BIO tags; the smart-home commands also have an intent."""

    TASK = "ner"
    BUILDER_CONFIGS = _configs(TASK)

    def _features(self):
        if self.builder_config.name == "wiki-silver":
            types, more = ["PER", "LOC"], {"article": Text()}
        else:  # the same ids in every language
            types, more = _SLOTS, {"intent": ClassLabel(names=_INTENTS)}
        tags = ClassLabel(names=_bio(types))
        return FeaturesDict({"tokens": Sequence(Text()), "ner": Sequence(tags), **more}), ("tokens", "ner")


class TfllmQuestionAnswering(_Builder):
    """Questions with their contexts and answers, in the form of SQuAD."""

    TASK = "question_answering"
    BUILDER_CONFIGS = _configs(TASK)

    def _features(self):
        answers = Sequence({"text": Text(), "answer_start": np.int32})
        texts = {name: Text() for name in ("id", "title", "context", "question")}
        return FeaturesDict({**texts, "answers": answers}), None


class TfllmSummarization(_Builder):
    """Documents with a title and a summary."""

    TASK = "summarization"
    BUILDER_CONFIGS = _configs(TASK)

    def _features(self):
        return FeaturesDict({name: Text() for name in ("id", "title", "document", "summary")}), ("document", "summary")


class TfllmDialogue(_Builder):
    """Whole conversations, or prompts with a response."""

    TASK = "dialogue"
    BUILDER_CONFIGS = _configs(TASK)

    def _features(self):
        if self.builder_config.name == "chitchat":
            return FeaturesDict({"prompt": Text(), "turns": Sequence(Text())}), None
        return FeaturesDict({name: Text() for name in ("topic", "prompt", "response")}), ("prompt", "response")


class TfllmMusic(_Builder):
    """Tunes in ABC notation."""

    TASK = "music"
    BUILDER_CONFIGS = _configs(TASK)

    def _features(self):
        return FeaturesDict({name: Text() for name in ("title", "meter", "unit_length", "key", "abc")}), None


class TfllmSpeech(_Builder):
    """What was said, what the recogniser put first, and its n-best list."""

    TASK = "speech"
    BUILDER_CONFIGS = _configs(TASK)

    def _features(self):
        guesses = Sequence({"text": Text(), "log_score": np.float32, "word_edits": np.int32})
        return FeaturesDict({"id": Text(), "reference": Text(), "first_pass": Text(), "hypotheses": guesses}), None


class TfllmSearch(_Builder):
    """Queries with what each should find."""

    TASK = "search"
    BUILDER_CONFIGS = _configs(TASK)

    def _features(self):
        if self.builder_config.name == "bible":
            return FeaturesDict({"id": Text(), "query": Text(), "document": Text()}), ("query", "document")
        found = {"headword": Text(), "synonyms": Sequence(Text()), "category": ClassLabel(names=_CATEGORIES)}
        return FeaturesDict({"query": Text(), **found}), ("query", "headword")


_TASKS = [
    TfllmTranslation,
    TfllmSentiment,
    TfllmClassification,
    TfllmNer,
    TfllmQuestionAnswering,
    TfllmSummarization,
    TfllmDialogue,
    TfllmMusic,
    TfllmSpeech,
    TfllmSearch,
]
BUILDERS = {builder.TASK: builder for builder in _TASKS}


def prepare(entry, folder):
    """Writes the prepared form of a bundled data set, unless it is there.

    TFDS writes into a folder of a random name beside the place and renames it, so a copy is whole or not there, and of two
    processes that build at once one is first and the other finds the place taken.

    Args:
        entry: `catalogue.Bundled`.
        folder: str or path, the data folder in the sense of TFDS.

    Raises:
        OSError or tf.errors.OpError: when the folder cannot be written.
    """

    def builder():
        return BUILDERS[entry.task](config=entry.config, data_dir=folder)

    if builder().is_prepared():
        return
    shown = getattr(tqdm_utils, "_active", True)  # TFDS has functions that set it, and none that tells it
    tfds.disable_progress_bar()
    try:
        builder().download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except (OSError, tf.errors.OpError):
        if not builder().is_prepared():  # else another process was first
            raise
    finally:
        tfds.display_progress_bar(shown)
