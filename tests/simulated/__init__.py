"""Calls in a simulated room: the caller, body, pipeline and evaluation of every call, in time that is virtual.

What is simulated is what lies beyond the room's protocol: the network, the agent, and how busy our own machine is. A
call takes the work it makes and not its length, and the same seed gives the same call.
"""
