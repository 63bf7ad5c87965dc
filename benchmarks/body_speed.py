"""How fast the body is: facts and whole conversations a second, with a virtual clock.

    python -m benchmarks.body_speed

A conversation has a greeting and six spoken turns, each answered and settled. Time passes as fast as it is computed.
"""

import sys
import time
from dataclasses import dataclass

from benchmarks.common import Claim, median, parser, report
from bots.caller.body import Body, HangUp, Say
from bots.caller.script import Expectation, Script, Speak, Turn, Words
from bots.clock import NS_PER_S
from bots.timeline import (
    AgentStartedSpeaking,
    AgentStoppedSpeaking,
    AgentTurnEnded,
    CallerStartedSpeaking,
    CallerStoppedSpeaking,
    MessageReceived,
    TimelineEvent,
)

TURNS = 6
MIN_CONVERSATIONS_PER_S = 1_000.0


@dataclass
class Conversation:
    """A caller directed through a conversation with an agent that always answers."""

    body: Body
    now_ns: int = 0
    facts: int = 0
    said: int | None = None
    hung_up: bool = False

    def play(self) -> None:
        """Play it to its end."""
        self._take(self.body.begin(0))
        self._agent_speaks()
        while self.said is not None:
            turn, self.said = self.said, None
            self._fact(0.05, CallerStartedSpeaking(at_ns=self.now_ns, turn=turn, text=""))
            self._fact(2.0, CallerStoppedSpeaking(at_ns=self.now_ns, turn=turn))
            self._agent_speaks()
            self._take(self.body.settled(turn, failed=False, now_ns=self.now_ns))
            wake_ns = self.body.wake_at_ns
            if wake_ns is not None and self.said is None:
                self.now_ns = max(self.now_ns, wake_ns)
                self._take(self.body.tick(self.now_ns))

    def _agent_speaks(self) -> None:
        self._told("bot-llm-started")
        self._fact(0.8, AgentStartedSpeaking(at_ns=self.now_ns))
        self._told("bot-started-speaking")
        self._fact(3.0, AgentStoppedSpeaking(at_ns=self.now_ns))
        self._told("bot-stopped-speaking")
        self._fact(1.0, AgentTurnEnded(at_ns=self.now_ns))

    def _told(self, kind: str) -> None:
        self._fact(0.01, MessageReceived(at_ns=self.now_ns, message={"label": "rtvi-ai", "type": kind}))

    def _fact(self, after_s: float, event: TimelineEvent) -> None:
        self.now_ns += int(after_s * NS_PER_S)
        self.facts += 1
        self._take(self.body.fact(event, self.now_ns))

    def _take(self, actions: list[object]) -> None:
        for action in actions:
            if isinstance(action, Say):
                self.said = action.turn
            elif isinstance(action, HangUp):
                self.hung_up = True


def main() -> int:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=1.0, help="how long to measure, for each repetition")
    options.add_argument("--repeat", type=int, default=5)
    options.add_argument("--min-conversations-per-s", type=float, default=MIN_CONVERSATIONS_PER_S)
    chosen = options.parse_args()
    turn = Turn(action=Speak(parts=(Words(text="A table for two, please."),)), expect=(Expectation(),))
    script = Script(name="benchmark", turns=(turn,) * TURNS)
    conversations_per_s: list[float] = []
    facts_per_s: list[float] = []
    all_ended = True
    for _ in range(chosen.repeat):
        conversations = facts = 0
        began_s = time.perf_counter()
        while (took_s := time.perf_counter() - began_s) < chosen.seconds:
            conversation = Conversation(Body(script))
            conversation.play()
            conversations += 1
            facts += conversation.facts
            all_ended = all_ended and conversation.hung_up
        conversations_per_s.append(conversations / took_s)
        facts_per_s.append(facts / took_s)
    speed = median(conversations_per_s)
    return report(
        f"The body, conversations of {TURNS} turns",
        ("", "median", "range"),
        [
            ["conversations/s", f"{speed:.0f}", f"{min(conversations_per_s):.0f}-{max(conversations_per_s):.0f}"],
            ["facts/s", f"{median(facts_per_s):.0f}", f"{min(facts_per_s):.0f}-{max(facts_per_s):.0f}"],
        ],
        [
            Claim("every conversation came to its end", all_ended),
            Claim(
                f"at least {chosen.min_conversations_per_s:.0f} conversations a second ({speed:.0f})",
                speed >= chosen.min_conversations_per_s,
            ),
        ],
        raw={"conversations_per_s": conversations_per_s, "facts_per_s": facts_per_s},
        json_file=chosen.json,
    )


if __name__ == "__main__":
    sys.exit(main())
