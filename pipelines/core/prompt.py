"""How retrieved passages stand before a question, and how to tell the two apart again."""

from __future__ import annotations

from pipelines.core.records import Example, Message

PASSAGES, QUESTION = "Passages:", "Question:"


def with_passages(example: Example) -> tuple[Message, ...]:
    """The example's turns, the last of them behind the passages that were retrieved for it."""
    if not example.context:
        return example.messages
    *before, last = example.messages
    passages = "\n\n".join(f"[{p.id}] {p.title}\n{p.text}" for p in example.context)
    content = f"{PASSAGES}\n\n{passages}\n\n{QUESTION} {last.content}"
    return (*before, last.model_copy(update={"content": content}))


def question_in(content: str) -> tuple[str, str]:
    """Passages and question of a turn; no passages when there are none."""
    if not content.startswith(PASSAGES):
        return "", content
    passages, _, question = content.rpartition(f"\n\n{QUESTION} ")
    return passages.removeprefix(PASSAGES).strip(), question
