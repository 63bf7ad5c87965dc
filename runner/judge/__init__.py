"""The judge: asks a language model whether what the agent said satisfies a criterion."""
