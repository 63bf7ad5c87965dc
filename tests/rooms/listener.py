"""Keeps what a room reports, for tests of both kinds of rooms."""

from dataclasses import dataclass, field
from typing import Any

from runner.errors import RoomError


@dataclass
class Listener:
    """Keeps everything a room reports."""

    caller: list[tuple[int, bytes]] = field(default_factory=list)
    agent: list[tuple[int, bytes]] = field(default_factory=list)
    joined: list[tuple[int, str | None]] = field(default_factory=list)
    left: list[tuple[int, str | None]] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    probed: list[bool | None] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)
    lost: list[RoomError] = field(default_factory=list)
    late_ns: list[int] = field(default_factory=list)
    holes: list[tuple[int, float]] = field(default_factory=list)
    late: list[tuple[int, float, float]] = field(default_factory=list)
    missed: list[tuple[int, int, int, int]] = field(default_factory=list)
    not_connected: list[tuple[bool, bool]] = field(default_factory=list)
    """(sending, receiving) of media that was waited for in vain."""
    fails_on: str = ""

    def caller_audio(self, at_ns: int, pcm: bytes, *, late_ns: int | None = 0) -> None:
        if late_ns is not None:
            self._take("caller_audio", self.caller, (at_ns, pcm))
            self.late_ns.append(late_ns)

    def agent_audio_lost(self, at_ns: int, duration_ms: float) -> None:
        self.holes.append((at_ns, duration_ms))

    def agent_audio_late(self, at_ns: int, duration_ms: float, late_ms: float) -> None:
        self.late.append((at_ns, duration_ms, late_ms))

    def caller_audio_lost(self, at_ns: int, *, since_ns: int, lost: int, packets: int) -> None:
        self.missed.append((since_ns, at_ns, lost, packets))

    def agent_audio(self, at_ns: int, pcm: bytes) -> None:
        self._take("agent_audio", self.agent, (at_ns, pcm))

    def agent_joined(self, at_ns: int, participant: str | None) -> None:
        self.joined.append((at_ns, participant))

    def media_not_connected(self, at_ns: int, *, waited_ms: float, sending: bool, receiving: bool) -> None:
        self.not_connected.append((sending, receiving))

    def agent_left(self, at_ns: int, detail: str | None) -> None:
        self.left.append((at_ns, detail))

    def agent_media_stopped(self, at_ns: int) -> None:
        self.stopped.append(at_ns)

    def agent_media_resumed(self, at_ns: int) -> None:
        self.resumed.append(at_ns)

    def agent_probed(self, at_ns: int, *, answers: bool | None) -> None:
        self.probed.append(answers)

    def message_received(self, at_ns: int, message: Any) -> None:
        self._take("message_received", self.messages, message)

    def room_lost(self, error: RoomError) -> None:
        self.lost.append(error)

    def _take(self, what: str, kept: list[Any], value: Any) -> None:
        if what == self.fails_on:
            raise OSError("no space left on device")
        kept.append(value)
