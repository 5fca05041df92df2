"""What is allowed, who approved it, and the proof of both."""
