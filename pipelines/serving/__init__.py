"""Model servers, each an OpenAI-protocol URL on loopback: vLLM, the baseline, the stand-in."""
