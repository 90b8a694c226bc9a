"""Conversations in the forms of OpenAI, ShareGPT and TRL: the question and the reply of a single exchange."""

from __future__ import annotations

from collections.abc import Mapping

from skipthinking.data.fields import KEYS, Row, RowError, is_blank, shown, structured, text_of

__all__ = ["last_question", "reply_of", "turns_of"]

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
} | dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt"), "assistant")
Turn = tuple[str, Row]
"""Role (system, user or assistant) and the message."""


def turns_of(value: object, key: str, where: str, role: str | None = None) -> list[Turn]:
    """Returns the turns of a conversation without system messages.

    Sample value: [{"role": "user", "content": "2+3?"}, {"role": "assistant", "content": "2+3=5. The answer is 5."}]
    Sample value: [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "2+3=5. The answer is 5."}]

    Args:
        value: The conversation.
        key: Key of the conversation, for errors.
        where: File and line, for errors.
        role: Role of a conversation that is a plain text, of which each part of TRL's prompt/completion may be one.

    Raises:
        RowError: The value is no conversation, or has a role that is not known.
    """
    value = structured(value)
    if role is not None and isinstance(value, str):
        value = [{"role": role, "content": value}]
    if not isinstance(value, list) or not value or not all(isinstance(turn, Mapping) for turn in value):
        raise RowError(
            f'Expected a list of messages in "{key}", got {shown(value)} ({where}). Fix the row.',
            f'without messages in "{key}"',
        )
    turns = [(str(turn.get("role") or turn.get("from")).lower(), turn) for turn in value]
    if unknown := [role for role, _ in turns if role not in _ROLES]:
        raise RowError(
            f"Expected the roles user and assistant (or human and gpt), got {unknown[0]!r} ({where}). Rename the role, "
            "or remove the row.",
            f"with the role {unknown[0]!r}",
        )
    return [(_ROLES[role], turn) for role, turn in turns if _ROLES[role] != "system"]


def last_question(turns: list[Turn], where: str) -> Row:
    """Returns the message with the question of a conversation that has one question, and at most one reply.

    Raises:
        RowError: There are other turns.
    """
    roles = [role for role, _ in turns]
    if roles not in (["user"], ["user", "assistant"]):
        raise RowError(
            f"Expected one question and one reply (roles user, assistant; system is ignored), got roles {roles} "
            f"({where}). Split longer conversations, one row per question that can be answered without the turns "
            "before it, or remove the row.",
            "with more or fewer turns than one question and one reply",
        )
    return turns[0][1]


def reply_of(turns: list[Turn], where: str) -> str:
    """Returns the reply; thoughts that are stored beside it are put before it, in tags.

    Raises:
        RowError: There is no reply, there are other turns, or thoughts are stored twice with different texts.
    """
    last_question(turns, where)
    if len(turns) < 2:
        raise RowError(
            f"Expected one question and one reply, got no reply (roles ['user']) ({where}). Add the reply, or answer "
            "the questions with predict.",
            "without a reply",
        )
    reply = turns[1][1]
    content, thoughts = content_of(reply, where)
    for key in KEYS["rationale"]:  # DeepSeek's API and the chat templates of reasoning models store them separately
        if not is_blank(reply.get(key)):
            thoughts.append(text_of(reply, key, where))
    distinct = list(dict.fromkeys(text.strip() for text in thoughts))
    if len(distinct) > 1:
        raise RowError(
            f"Expected the thoughts of a reply once, got {len(distinct)} different texts ({where}). Remove one.",
            "with two texts of thoughts",
        )
    if not distinct or f"<think>{distinct[0]}</think>" in "".join(content.split("\n")):
        return content
    return f"<think>{distinct[0]}</think>{content}"


def content_of(turn: Row, where: str) -> tuple[str, list[str]]:
    """Returns the text of a message, and its thoughts if the content is a list of parts."""
    key = "content" if is_blank(turn.get("value")) else "value"
    parts = turn.get(key)
    if not isinstance(parts, list):
        return text_of(turn, key, where), []
    texts: dict[str, list[str]] = {"text": [], "thinking": []}
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        kind = "thinking" if kind == "reasoning" else kind
        if kind not in texts:
            raise RowError(
                f'Expected parts of type text or thinking in "{key}", got {shown(part)} ({where}). Remove the row.',
                "with a message that is not text",
            )
        texts[kind].append(text_of(part, kind if kind in part else "text", where))
    return text_of({key: "\n".join(texts["text"])}, key, where), texts["thinking"]
