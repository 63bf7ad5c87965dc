"""Everything that speaks in a room: the scripted caller and the reference agents."""
