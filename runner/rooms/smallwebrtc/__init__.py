"""SmallWebRTC rooms: we offer, the bot answers."""
