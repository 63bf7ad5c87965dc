"""SmallWebRTC rooms: we offer, the bot answers."""

from runner.rooms.smallwebrtc.room import SmallWebRTCRoom

__all__ = ["SmallWebRTCRoom"]
