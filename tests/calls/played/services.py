"""What the scenario files name for Pipecat's harness: its voice, its ears and its judge."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipecat.classifiers.base_classifier import (
    BaseClassifier,
    ChoiceQuestion,
    ChoiceResult,
    ClassifierImage,
    ClassifierQuestion,
    ClassifierResult,
    YesNoResult,
)
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService

from bots.caller.speech.hibari import HibariTTSService
from bots.caller.speech.whisper import OfflineWhisperSTTService
from tests.calls.played import satisfies


def voice(_config: dict[str, Any]) -> TTSService:
    return HibariTTSService()


def ears(_config: dict[str, Any]) -> STTService:
    return OfflineWhisperSTTService()


def judge(_config: dict[str, Any]) -> BaseClassifier:
    return RuleClassifier()


class RuleClassifier(BaseClassifier):
    """Answers by the rule that our judge goes by as well."""

    async def _ask(
        self,
        state: str | dict[str, Any] | list[Any],
        questions: Mapping[str, ClassifierQuestion],
        images: Sequence[ClassifierImage] = (),
    ) -> tuple[dict[str, ClassifierResult], None]:
        assert isinstance(state, dict)
        return {name: self._answer(state, question) for name, question in questions.items()}, None

    def _answer(self, state: dict[str, Any], question: ClassifierQuestion) -> ClassifierResult:
        criterion = re.search(r"Criterion: (.*?)\. ", str(getattr(question, "instructions", "")))
        assert criterion, question
        if not isinstance(question, ChoiceQuestion):
            return YesNoResult(probability=float(satisfies(criterion[1], json.dumps(state["call"]))))
        choice = "yes" if satisfies(criterion[1], state["latest_bot_reply"]) else "no"
        return ChoiceResult(
            choice=choice,
            probabilities={option: float(option == choice) for option in question.options},
            confidence=1,
        )
