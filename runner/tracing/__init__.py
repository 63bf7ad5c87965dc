"""OpenTelemetry: a run as a trace, made from its facts once its call is over."""
