"""Text rules of the formats: phrases that state an answer, answer choices, and prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from skipthinking.tasks.graders import boxed, unwrap

__all__ = [
    "bare", "closing", "plain_question", "question_key", "split_choices", "strip_closing", "with_choices",
]  # fmt: skip

# A statement of the answer is a phrase, the answer, and nothing else. AQuA's rationales alone have some sixty kinds:
# "Answer is D.", "ANSWER : OPTION C", "Hence (C) is correct answer", "correct option: D", "ANS:B", "Answer C)59, 43".
# The parts of a phrase: "the correct" "answer" "to this question" "is therefore:", or "final" "answer" "-".
_KIND = r"(?:(?:most\s+)?(?:final|correct|right|best|accurate|appropriate|likely|desired|plausible|required|given)\s+)*"
_NOUN = r"(?:answers?(?:\s+(?:choice|option))?|ans|option|choice)"
_ABOUT = r"(?:\s+(?:to|of)\s+(?:(?:the|this|our)\s+(?:\w+\s+)?(?:question|problem)|whether\s[^.!?\n]{1,150}?))?"
_VERB = r"(?:equals|remains|(?:will|would|must|can)\s+be(?:\s+considered)?|(?:comes|turns)\s+out\s+to\s+be)"
_ADVERB = r"(?:\s+(?:therefore|thus|hence|then|indeed|clearly|simply|actually|most\s+likely)\b)?"
_LETTER = r"(?:(?-i:[A-J])|(?<=[(\[])[A-J](?=[)\]]))"
_OPEN = r"[*_$(\[]*(?:\\boxed\{)?\(?"
_PHRASE = re.compile(
    # "40 kgThe answer is": some data sets lost the line break before "The".
    rf"(?:(?<![^\W\d_])|(?-i:(?<=[a-z])(?=[A-Z])))(?P<own>(?:the|our|my|this)\s+(?:(?:most\s+)?\w+\s+and\s+)?)?"
    rf"{_KIND}(?P<noun>{_NOUN})(?![^\W\d_]){_ABOUT}[*_]*"
    rf"(?:(?P<verb>\s+(?:(?P<is>is|are|was)|{_VERB})(?!\w){_ADVERB}[*_]*\s*[:,=]?)"
    r"|(?P<label>\s*(?:[:=–—]|[-=]*>|-(?=\s))|[ \t]*[*_]*[ \t]*\n|\.(?=\s?\S))"
    rf"|(?=\s*{_OPEN}{_LETTER}(?!\w))|(?=\s+\d))"
    r"\s*[*_]*\s*(?:\(?(?:option|choice)(?!\w)\s*:?\s*)?",
    re.IGNORECASE,
)
# "D is the answer", "option (A) is correct", "6 is the correct answer"
_REVERSED = re.compile(
    rf"(?:(?:option|choice|answer)\s+)?(?P<answer>{_OPEN}{_LETTER}(?:[).:]\s[^=.!?]{{1,60}}?)?[)\]}}*_$]*(?=\s+is)"
    rf"|[-$€£(*]*(?:\\boxed\{{)?\d[\d.,/%]*[)}}*$]*(?=\s+is\s.*{_NOUN}))\s+is\s+(?:also\s+|therefore\s+)?"
    rf"(?:(?:the\s+|our\s+|my\s+)?{_KIND}{_NOUN}|(?:the\s+)?(?:correct|right)(?:\s+one)?)[.!*_)\s]*\Z",
    re.IGNORECASE,
)
_USUAL = re.compile(r"the\s+(?:(?:final|correct|right)\s+)?answer\s+is\W*", re.IGNORECASE)
_ONLY_LETTER = re.compile(r"[*_(\[]*[A-E][)\].*_]*\Z")
# No answer, but the last item of a list: after "The letters are:", "x =" or another letter.
_LIST_BEFORE = re.compile(r"(?:[:,=]|(?:\A|\n)\W*\w)\W*\Z")
_DIALOGUE = re.compile(r"A:\s*(?P<answer>[-$€£*]*\d[\d.,/%]*(?:\s+[a-z]+){0,3}[.*]*)\Z")
_HASHES = re.compile(r"####[^\S\n]*(?P<answer>[^\n]*\S)\Z")
# Minerva: "Final Answer: The final answer is $5$. I hope it is correct." Tokenized data has a space before the period.
_AFTER_ANSWER = re.compile(
    r"\.?\s{1,3}I hope (?:it|this|that) (?:is correct|helps)[.!\s]*\Z|(?<!\s)\s+\.\Z", re.IGNORECASE
)

# What may stand before a statement without content: words that lead in, marks, and headings that it would leave empty.
_LEAD = re.compile(
    r"(?:(?:\A|(?<=[^a-z]))(?:so|thus|hence|therefore|consequently|accordingly|and|then|but|however|"
    r"finally|overall|ergo|in conclusion|as a result|"
    r"(?:we|i) (?:can )?(?:conclude|say|see|know|get|have|find|obtain)(?: that)?|"
    r"(?:this|which|that)(?: \w+ly)? (?:means|shows|implies|gives)(?: us)?(?: that)?|"
    r"it follows(?: \w+ly)? that|it (?:can be|is) concluded that|"
    r"(?:among|of) (?:all )?(?:the|these)(?: \w+)? (?:choices|options))(?![a-z])[\s,:]*"
    r"|(?:[-=]+>|(?<!\S)>>?|[⇒→∴])\s*"
    r"|(?:\A|(?<=\s))[*_(\[#]+\s*|(?:\A|(?<=\n))[ \t]*[-•]\s+|(?<=\n\n)---+\n+"
    r"|(?:\A|(?<=[\n*#])|(?<=[*#.!?] ))(?:step\s+\d+|(?:final\s+)?conclusion|(?:final\s+)?answer)(?!\w)\W*)+\Z",
    re.IGNORECASE,
)
_CLAUSE_ENDS = tuple("\n.!?;:,>|)]}(")
_UNSTATED = re.compile(
    r"(?:\b(?:if|whether|unless|until|since|as|because|given that)|n['’]t (?:think|mean|say)(?: that)?|\{)\s*\Z",
    re.IGNORECASE,
)
# "The answer is 3, but the question asks for more": a step of the reasoning rather than its close.
_HEDGE = re.compile(
    r",?[\s(]+(?:but|not|because|since|which|so|however|though|although|if|when)(?![a-z])|,\s+as\s", re.IGNORECASE
)
_NO_ANSWER = re.compile(r"(?:not(?!\s+(?:yes|no|true|false)\b)|however|obtained|found)\b", re.IGNORECASE)
_CONTRAST = re.compile(r"[\s,(]*(?:but|however|though|although)\b.*(?:\d|(?-i:\b[B-J]\b))", re.IGNORECASE)
_TWO_ANSWERS = re.compile(
    r"\d.*\bor\b.*\d|\b[A-J]\b\W*\bor\b\W*[A-J]\b|=[^=]*(?:,|\band\b|\bor\b|\\text\{)[\s$]*[a-zA-Z]\w*\s*="
)
# A sentence ends at "5 apples. We" and at "B. We", but not at the choice "B. New York" or at "Rs. 5".
_STARTER = (
    r"(?:The|This|That|These|It|He|She|We|They|You|I|If|In|So|Then|Thus|Hence|Therefore|There|However|But|Since|No|Wait|"
    r"Yes|Note|Now|Let|Here|For|Also|Option|Answer)\b"
)
_NEXT_SENTENCE = re.compile(
    rf"(?:[!?]|(?<!\b[A-Za-z])(?<!\b(?:Rs|St|Dr|Mr|sq|No|vs))\.)[\"')\]*]*\s+\S|\.\s+(?:{_STARTER}|[A-Z]\w*(?:\s+\S+){{4}})"
)
_EQUATION = re.compile(r"(?<![!<>=:])=(?![=>])|≈|\\approx")
# "4 + 79 = 83", "\frac{8!}{4} = 2", "x = 5"
_CALCULATION = re.compile(
    r"(?:(?:x\s*=)?(?:[-+*/×÷().,$%\d\s=!^{}]|\\[dt]?frac|\\times|\\cdot|\\div|x(?=\s*[\d(]))*=|x\s*=)\s*"
    r"(-?\$?[\d.,]*\d)[.\s$]*"
)
_MATH = re.compile(r"[-\d$€£(\\]|[a-zA-Z]\b")
_LETTER_FIRST = re.compile(r"(\([A-Ja-j]\)|[A-J][).:,])\s*(?=\S)")
# Answers that need no "The answer is" before them, and the few words of "Our answer is race track"
_PLAIN_ANSWER = re.compile(
    r"\(?[A-Ja-j]\)?|[(\[]?[A-J](?:\s*[)\].:]+\s*|\s+(?=[-$\d]))(?:(?!\b(?:is|are|was)\b)[^=]){1,60}"
    r"|[-+$€£]*\d[\d.,/]*\s*%?|yes|no|true|false",
    re.IGNORECASE,
)
_FORMULA = re.compile(r"\$+[^$]+\$+|\\boxed\{.*\}|\\\(.*\\\)|\\\[.*\\\]", re.DOTALL)
_FEW_WORDS = re.compile(r"(?!(?:that|to|not|based|in)\s)\S+(?:\s+\S+){,3}")
_CHOICES = re.compile(r"\s*\(?(?:answer\s+)?(?:choices|options)\s*:\s*", re.IGNORECASE)
_BEFORE = re.compile(r"\A\s*(?:Q|Question)\s*:\s*", re.IGNORECASE)
_AFTER = re.compile(r"(?:\s*###|\s*\n\s*(?:A|Answer)\s*:(?:\s*Let['’]s think step by step\.?)?)\s*\Z")


def closing(text: str) -> tuple[str, str] | None:
    """Splits a text into its reasoning and the answer that its end states.

    The end is a statement of the answer: "The answer is X" (or "Therefore, the final answer is: X."), "Answer: X",
    "X is the correct option", "#### X", or a last line that is only the letter of a choice. What the statement has
    beside the answer stays in the reasoning: the calculation of "The answer is 4 + 79 = 83", whose answer is 83, and
    all of "The answer is B, because ...".

    Args:
        text: A completion.

    Returns:
        Reasoning and answer, or None if the end of the text does not state one answer ("5 or 6" are two).
    """
    statement = _last_statement(text.strip())
    return (strip_closing(statement[0]), statement[1]) if statement else None


def strip_closing(text: str) -> str:
    """Returns the reasoning without statements of the answer at its end, and without white space around it."""
    text = text.strip()
    while (statement := _last_statement(text)) and statement[0] != text:
        text = statement[0]
    return "" if _ONLY_LETTER.match(text) else text


def _last_statement(text: str) -> tuple[str, str] | None:
    """Returns the text without the statement of the answer at its end, and the answer; None without a statement."""
    if extra := _AFTER_ANSWER.search(text, max(0, len(text) - 50)):
        text = text[: extra.start()]
    for phrase in reversed(list(_PHRASE.finditer(text, max(0, len(text) - 500)))):
        start = _start(text, phrase.start())
        if _certain(text, start, phrase) and (statement := _split(text, start, text[phrase.end() :])):
            return statement
    line = text.rfind("\n") + 1
    if hashes := _HASHES.search(text, line):
        return _split(text, hashes.start(), hashes["answer"])
    if reply := _REVERSED.search(text, max(line, len(text) - 150)):
        start = _start(text, reply.start())
        if _opens_clause(text, start, reply.start()):
            return _split(text, start, reply["answer"])
    dialogue = _DIALOGUE.match(text, line)
    if dialogue and not re.search(r"^\W*[B-E]\s*:", text, re.MULTILINE):
        return _split(text, line, dialogue["answer"])
    letter = _ONLY_LETTER.search(text, line)
    if letter is None or not line or _LIST_BEFORE.search(text, max(0, line - 200), line):
        return None
    start = _start(text, letter.start())
    return None if text[line:start].strip() else (text[:start].rstrip(), bare(letter.group()))


def _certain(text: str, start: int, phrase: re.Match[str]) -> bool:
    """Whether a phrase with the text after it states the answer: the weaker the phrase, the plainer the answer."""
    head, opens = text[:start].rstrip(" \t"), _opens_clause(text, start, phrase.start())
    answer = _HEDGE.split(_without_bracket(text[phrase.end() :]), maxsplit=1)[0]
    own, verb, label = phrase["own"], phrase["verb"], phrase["label"]
    opens_line = not head or head.endswith("\n")
    names_answer = phrase["noun"][0] in "aA"  # rather than an option or a choice
    if label and "\n" in label and (own or not opens_line):
        return False  # "we get the answer\nP = 5" continues
    if _USUAL.fullmatch(phrase.group()) or (label and names_answer and opens_line):
        return True
    if _PLAIN_ANSWER.fullmatch(unwrap(answer)) or _FORMULA.fullmatch(answer.strip("*. \n")):
        return bool(opens or (own and verb) or phrase["noun"][0].isupper())
    return bool(opens and (phrase["is"] or label) and names_answer and _FEW_WORDS.fullmatch(unwrap(answer)))


def _start(text: str, offset: int) -> int:
    """Returns where the words that lead in to the statement at ``offset`` begin."""
    lead = _LEAD.search(text, max(0, offset - 100), offset)
    return lead.start() if lead else offset


def _opens_clause(text: str, start: int, offset: int) -> bool:
    """Whether the statement at ``offset``, with the words from ``start`` that lead in to it, begins a clause."""
    head = text[:start].rstrip(" \t")
    return bool(text[start:offset].strip()) or not head or head.endswith(_CLAUSE_ENDS)


def _split(text: str, start: int, tail: str) -> tuple[str, str] | None:
    """Splits at the statement from ``start`` on with the answer in ``tail``; None if it states no single answer."""
    head, tail = text[:start], _without_bracket(tail)
    inner = unwrap(tail)
    if "\n" in inner or tail.endswith("?") or _NO_ANSWER.match(inner) or _UNSTATED.search(head[-40:]):
        return None
    if _NEXT_SENTENCE.search(inner) or _TWO_ANSWERS.search(inner):
        return None
    if hedge := _HEDGE.search(tail):
        before, reason = tail[: hedge.start()], tail[hedge.start() :]
        if before.count("(") > before.count(")"):  # "25 (24 is not possible)"
            before = before[: before.rindex("(")]
        return None if _CONTRAST.match(reason) else (text, _result(before.strip()))
    if _EQUATION.search(tail):
        letter = _LETTER_FIRST.match(tail)
        working = tail[letter.end() :] if letter else tail
        reasoning = f"{head}{'' if head[-1:].isspace() else ' '}{working}" if _MATH.match(working) else text
        return reasoning.strip(), _result(tail)
    same_line = head.rstrip(" \t")[-1:] != "\n"
    head = head.rstrip()
    return head.rstrip(",;").rstrip() if same_line else head, _result(tail)


def _without_bracket(tail: str) -> str:
    """Returns the text after a phrase without the end of a bracket around both: "(Answer: B)"."""
    tail = tail.strip()
    return tail.rstrip(".").removesuffix(")") if tail.count(")") > tail.count("(") + tail.count("[") else tail


def _result(tail: str) -> str:
    """Returns the answer in the text after a phrase: what a calculation comes to, or else all of it."""
    if "=" in tail:
        if letter := _LETTER_FIRST.match(tail):
            return letter.group(1)
        if tail.count("\\boxed") == 1 and (box := boxed(tail)):
            return box
        if match := _CALCULATION.fullmatch(tail.strip("$ ")):
            return match.group(1)
    return bare(unwrap(tail) if "\n" in tail else tail)


def bare(answer: str) -> str:
    """Returns an answer without quotes, asterisks and punctuation around it."""
    return answer.strip().rstrip(" .,;:>\"'”’*").lstrip(" *\"'“‘<")


def plain_question(text: str) -> str:
    """Removes the prompt around a question, and rewrites its answer choices in the form of :func:`with_choices`.

    The prompt is "Q:" or "Question:" before the question, and "###", "A:" or "A: Let's think step by step." after it.
    Choices are "Answer choices: A: race track, B: ..." or "Answer Choices:\\n(a) bank\\n(b) ...".
    """
    text = _AFTER.sub("", _BEFORE.sub("", text)).strip()
    parts = _CHOICES.split(text)
    if len(parts) != 2:
        return text
    labels, texts = split_choices(parts[1])
    return with_choices(parts[0], labels, texts) if labels else text


def with_choices(question: str, labels: Sequence[str], texts: Sequence[str]) -> str:
    """Returns a question with its answer choices, one per line: "...\\nAnswer Choices:\\nA. bank\\nB. library"."""
    lines = [f"{label}. {text.strip()}" for label, text in zip(labels, texts, strict=True)]
    return "\n".join([question.strip(), "Answer Choices:", *lines])


def split_choices(text: str) -> tuple[list[str], list[str]]:
    """Returns the labels and texts of choices A, B, C, ...; empty if the text has no such list."""
    marks: list[re.Match[str]] = []
    while len(marks) < 26:
        label = chr(ord("A") + len(marks))
        before = r"\A\s*" if not marks else r"(?:,\s*|\s+)"
        mark = re.compile(rf"{before}(?:\({label}\)|{label}\s?[.:)])\s*", re.IGNORECASE)
        match = mark.search(text, marks[-1].end() if marks else 0)
        if match is None:
            break
        marks.append(match)
    ends = [*(match.start() for match in marks[1:]), len(text)]
    texts = [text[match.end() : end].strip() for match, end in zip(marks, ends, strict=True)] if marks else []
    if len(texts) < 2 or not all(texts):
        return [], []
    return [chr(ord("A") + index) for index in range(len(texts))], texts


def question_key(question: str) -> str:
    """Returns the form in which questions are compared: without case and extra white space."""
    return " ".join(question.casefold().split())
