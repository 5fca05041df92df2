"""Model servers, each an OpenAI-protocol URL on loopback: vLLM, the classical baseline, the stand-in."""
