"""The final measure: where the agent speaks, from the recording of a finished call.

A speech model says *whether*, levels say *when*, and both go by a background and a voice that are taken from the call
itself. Every edge says how sure it is. Audio in, figures out: the same input gives the same output, byte for byte.
"""

from runner.evaluation.measure.agent import METHOD, Measured, MeasuredSpeech, measure_agent, measured_facts

__all__ = ["METHOD", "Measured", "MeasuredSpeech", "measure_agent", "measured_facts"]
