"""Literal tables of what each grader reads, and of what it must not read."""

import json
import sys
from pathlib import Path

import pytest

from skipthinking.data.sources import Files
from skipthinking.records import DataError, UserError
from skipthinking.tasks import Choices, Expressions, Numbers, Task, Text, YesNo, get_task, task_names
from skipthinking.tasks.graders import after_cue, boxed


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234", "1234"),  # not 1
        ("18.00", "18"),  # not "18.00"
        ("$5", "5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("-3", "-3"),
        ("−7", "-7"),  # unicode minus
        ("3/4", "0.75"),
        ("1 1/2", "1.5"),
        ("1½", "1.5"),
        ("2/3", "2/3"),
        ("50%", "50"),
        ("1.5e3", "1500"),
        ("5 dollars", "5"),
        ("12 apples", "12"),
        ("5 km2", "5"),
        ("42.", "42"),
        (".5", "0.5"),
        ("-0", "0"),
        ("1\u00a0234", "1234"),
        ("1,000,000.50", "1000000.5"),
        ("x = 7", "7"),
        ("12 + 5 = 17", "17"),
        ("**18**", "18"),
        (r"$\boxed{18}$", "18"),
        (r"\$1,200", "1200"),
        ("1.234.567", None),
        ("1,23", None),
        ("12,345,67", None),
        ("5 or 6", None),
        ("12 + 5", None),
        ("3-4", None),
        ("12:30", None),
        ("2^10", None),
        ("3/0", None),
        ("03/14/2021", None),
        ("about 5", None),
        ("five", None),
        ("", None),
        ("1e999999999", None),  # must not fill the memory
        ("9" * 5000, None),  # int() refuses more than 4300 digits
    ],
)
def test_numbers_read(text: str, number: str | None) -> None:
    assert Numbers().read(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 5. Then 1,234.", "1234"),
        ("10-3=7", "7"),
        ("between 5-7", "7"),
        ("it is -3 degrees", "-3"),
        ("it costs $5 and not 1.234.567", "5"),
        ("1, 2, 3", "3"),
        ("about 1 1/2 cups", "1.5"),
        ("at 12:30", None),
        ("on 03/14/2021", None),
        ("version v2", None),
        ("nothing", None),
    ],
)
def test_numbers_last(text: str, number: str | None) -> None:
    assert Numbers().last(text) == number


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("1,234.0", "1234", True),
        ("3/4", "0.75", True),
        ("50%", "50", True),
        ("1/3", "0.3333", True),  # four places, less than one unit of the last
        ("2/3", "0.6667", True),
        ("2/3", "0.6666", True),
        ("1/3", "0.333", False),  # three places are a different number
        ("18", "18.0001", False),
        ("0.0003", "1/3000", False),  # relative error of a tenth
        ("7", "-7", False),
        ("1/3", "1/4", False),
    ],
)
def test_numbers_are_exact_but_for_long_decimals(a: str, b: str, same: bool) -> None:
    grader = Numbers()
    x, y = grader.read(a), grader.read(b)
    assert x is not None
    assert y is not None
    assert grader.same(x, y) is grader.same(y, x) is same


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("(B)", "B"),
        ("B", "B"),
        ("b", "B"),
        ("b)", "B"),
        ("B.", "B"),
        ("B: populated areas", "B"),
        ("B populated areas", "B"),
        ("(b) populated areas", "B"),
        ("**(E)**", "E"),
        ("option C", "C"),
        ("A because it is true", "A"),
        ("A: a dog", "A"),
        ("A", "A"),
        ("A dog barks", None),
        ("a dog", None),
        ("A or B", None),
        ("(A) and (C)", None),
        ("Because", None),
        ("E-mail", None),
        ("F", None),
        ("", None),
        ("B. fridge", "B"),
        ("B) fridge", "B"),
        ("(B)12", "B"),
        ("B.fridge", "B"),
        ("B - fridge", "B"),
        ("**B. fridge**", "B"),
        ("[B]", "B"),
        (r"$\textbf{(B)}\ 12$", "B"),
        (r"\boxed{\text{B}}", "B"),
        ("Option B: fridge", "B"),
        ("option (b)", "B"),
        ("The answer is B", "B"),
        ("The correct option is (B).", "B"),
        ("Answer: B", "B"),
        ("answer: option B", "B"),
        ("(B) because (A) and (C) are too small", "B"),
        ("(B) fridge and (C) oven", None),
        ("A and B", None),
        ("B/C", None),
        ("D.C.", None),
        ("e.g. a fridge", None),
    ],
)
def test_choices_read(text: str, label: str | None) -> None:
    assert Choices().read(text) == label


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("A dog is in the park.", None),
        ("So the dog is a pet. A cat too.", None),
        ("the answer is A dog", None),
        ("I think a cat (b) fits", "B"),
        ("Option A is best", "A"),
        ("B is too small. A is the answer.", "A"),
        ("A is correct", "A"),
        ("A is a letter", None),
        ("it must be C.", "C"),
        ("I'd say (C). A reason follows.", "C"),
        ("the answer: A", "A"),
        ("U.S.A. is big", None),
        ("written in C++", None),
        ("D-day", None),
        ("first b), then d)", "D"),
        (r"So it is $\boxed{\text{C}}$", "C"),
    ],
)
def test_choices_last(text: str, label: str | None) -> None:
    assert Choices().last(text) == label


def test_choices_have_no_other_labels() -> None:
    assert Choices(labels="ABC").read("D") is None
    assert Choices(labels="ABCDEFGH").read("(h)") == "H"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("TRUE", "yes"),
        ("False", "no"),
        ("yes, because", "yes"),
        ("not true", "no"),
        ("no one", None),
        ("nope", None),
        ("The answer is no.", "no"),
        (r"\boxed{\text{Yes}}", "yes"),
        ("yes or no", None),
        ("yes/no", None),
        ("unknown", None),
        ("", None),
    ],
)
def test_yes_no_read(text: str, verdict: str | None) -> None:
    assert YesNo().read(text) == verdict


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("There is no coin", None), ("Yes. There is no way.", "yes"), ("So no.", "no"), ("no-one", None)],
)
def test_yes_no_last(text: str, verdict: str | None) -> None:
    assert YesNo().last(text) == verdict


def test_text_ignores_case_quotes_and_blanks() -> None:
    assert Text().read(' "New   York". ') == "new york"
    assert Text().show('"New York".') == "New York"
    assert Text().read(" .") is None
    assert Text().last('They call it "the Big  Apple" there.') == "the big apple"
    assert Text().last("It is in Paris.") == "paris"


def test_text_pattern_restricts_answers() -> None:
    letters = Text(pattern="[a-z](?: [a-z])+")
    assert letters.read("N K.") == "n k"
    assert letters.read("nk") is None
    assert letters.last("The letters are n, then n k for now.") == "n k"
    assert Text(pattern="[0-9]{2}/[0-9]{2}/[0-9]{4}").read("03 / 14 / 2021") == "03/14/2021"
    assert Text(pattern="ball|cup").read("the ball") == "ball"


@pytest.mark.parametrize(
    "answer",
    ["Paris", "Dr. Smith", "J. R. R. Tolkien", "U.S. Army", "ice-cream", "42", "(A)", r"\text{Monday}", "São Paulo"],
)
def test_a_short_answer_survives_its_answer_sentence(answer: str) -> None:
    task = get_task("short_answer")
    assert task.grade(f"Hm. Not Rome. {task.answer_sentence(answer)}", answer).correct
    assert task.grade(f"Therefore, the answer is {task.grader.show(answer).upper()}.", answer).correct
    assert not task.grade("Therefore, the answer is Rome.", answer).correct


@pytest.mark.parametrize(
    ("gold", "completion", "right"),
    [
        ("Lions", "the Lions", True), ("the Lions", "Lions", True), ("apple", "an apple", True), ("A k", "k", False),
        ("caf\u00e9", "cafe\u0301", True), ("O\u2019Brien", "O'Brien", True), ("-3", "\u22123", True),
        ("3", "-3", False), ("-3", "- 3", False), (".5", "5", False), ("-.5", ".5", False), ("3.5", "35", False),
        ("The Who", "who", True), ("Paris", "\u2014 Paris", True),
    ],
)  # fmt: skip
def test_spellings_of_a_short_answer_are_one_and_numbers_keep_their_sign(
    gold: str, completion: str, right: bool
) -> None:
    assert get_task("short_answer").grade(f"Hm. Therefore, the answer is {completion}.", gold).correct is right


def test_a_text_of_several_sentences_is_not_a_short_answer() -> None:
    with pytest.raises(DataError, match=r"short_answer can read, got 'It is red\. Then blue'"):
        get_task("short_answer").check_gold("It is red. Then blue", "data.jsonl:3")


@pytest.mark.parametrize(
    ("answer", "text", "extracted"),
    [
        ("A: {answer}", "There is a 5 and a 6.\nA: 26", "26"),
        ("A: {answer}", "There is a 26", None),
        ("#### {answer}", "It is 3.\n#### 17", "17"),
        ("My final answer: {answer}", "my final  answer: 17.", "17"),
        ("So it is **{answer}**.", "So it is **17**.", "17"),
        ("Answer => {answer}", "the answer 3\nAnswer => 17", "17"),
    ],
)
def test_a_cue_keeps_its_punctuation(answer: str, text: str, extracted: str | None) -> None:
    assert Task(name="mine", grader=Numbers(), answer=answer).grade(text, "1").extracted == extracted


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"$x=\boxed{3}$ or $x=\boxed{5}$", "3, 5"),
        (r"x=\boxed{3} or x=\boxed{5}", "3, 5"),
        (r"\(x = \boxed{3}\) or \(x = \boxed{5}\)", "3, 5"),
        (r"$\boxed{3}$, $\boxed{4}$, and $\boxed{5}$", "3, 4, 5"),
        (r"\boxed{3}\text{ or }\boxed{5}", "3, 5"),
        (r"$x=\boxed{3}$ and $y=\boxed{5}$", "x=3, y=5"),
        (r"x_1=\boxed{3},\quad x_2=\boxed{5}", "x_1=3, x_2=5"),
        (r"First $\boxed{3}$, so it is \boxed{5}", "5"),
        (r"\boxed{3} or rather \boxed{5}", "5"),
        (r"\boxed{5}\n\n\boxed{5} and \boxed{5}", "5"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed {3}", "3"),
        (r"\boxed 3.", "3"),
        (r"\boxed{1} or \boxed{2", None),
    ],
)
def test_boxes_with_a_separator_between_them_are_a_list(text: str, content: str | None) -> None:
    assert boxed(text) == content


def test_a_gold_answer_of_two_boxes_needs_both() -> None:
    pytest.importorskip("math_verify")
    task = get_task("math")
    both = r"So $x=\boxed{3}$ or $x=\boxed{5}$."
    gold = boxed(both)
    assert gold is not None
    assert task.grade(both, gold).correct
    assert task.grade(r"So $x$ is $\boxed{5, 3}$.", gold).correct
    assert not task.grade(r"So $x$ is $\boxed{5}$.", gold).correct
    assert not task.grade(r"So $x=\boxed{4}$ or $x=\boxed{5}$.", "5").correct


def test_gold_answers_that_are_read_in_part_are_counted(tmp_path: Path) -> None:
    rows = [
        {"question": f"{n}+3?", "answer": answer} for n, answer in enumerate(["72 clips in total", "$5", "6 (apples)"])
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = Files(str(path), task="gsm8k").load()
    assert "2 gold answers read in part ('72 clips in total' is 72)" in loaded.description
    path.write_text(json.dumps(rows[1]))
    assert "in part" not in Files(str(path), task="gsm8k").load().description


def test_strict_takes_the_last_answer_phrase_up_to_the_sentence_end() -> None:
    task = get_task("gsm8k")
    grade = task.grade("The answer is 5. But THE ANSWER IS: $1,234.00 now. Was it 7?\n8", "1234")
    assert (grade.extracted, grade.correct) == ("1234", True)
    assert after_cue("the answer is .5. Good", "the answer is") == ".5"
    assert after_cue("breathe answer is 5", "the answer is") is None


@pytest.mark.parametrize(
    ("answer", "cue"),
    [("A: {answer}", "A:"), ("So the answer is: {answer}", "So the answer is:"), ("#### {answer}", "####")],
)
def test_cue_keeps_its_punctuation(answer: str, cue: str) -> None:
    task = Task(name="own", grader=get_task("gsm8k").grader, answer=answer)
    assert task.cue == cue
    assert task.grade(f"He buys a 7 foot pole and so the answer is 8.\n{answer.format(answer=5)}", "5").extracted == "5"
    assert task.grade("He buys a 7 foot pole.", "7").extracted is None


def test_lenient_is_strict_where_strict_finds_one() -> None:
    task = get_task("gsm8k")
    assert task.grade("The answer is 5. 7", "7").extracted_lenient == "5"
    found = task.grade("So 12 + 5 = 17", "17")
    assert (found.extracted, found.correct, found.extracted_lenient, found.correct_lenient) == (None, False, "17", True)


def test_no_answer_is_none_and_wrong() -> None:
    grade = get_task("gsm8k").grade("I do not know", "17")
    assert (grade.extracted, grade.extracted_lenient, grade.correct, grade.correct_lenient) == (
        None,
        None,
        False,
        False,
    )


def test_gold_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(DataError, match=r"gsm8k can read, got 'seventeen' \(data.jsonl:3\)"):
        get_task("gsm8k").check_gold("seventeen", "data.jsonl:3")
    with pytest.raises(DataError):
        get_task("aqua").answer_sentence("F")


GOLD = {
    "gsm8k": ["18.0", "1,234", "-3"],
    "aqua": ["(b)", "E"],
    "math": [r"\frac{1}{2}", "5!", r"\text{Evelyn}", "[2,5)", "f'(x)", r"\$18.90", r"\text{a}+\text{b}"],
    "commonsense_qa": ["A", "(e)"],
    "strategy_qa": ["True", "no"],
    "short_answer": ["valid", "Dr. Smith"],
    "coin_flip": ["yes", "no"],
    "last_letter": ["n k", "a e i"],
    "shuffled_objects": ["ball", "kite"],
    "date_understanding": ["03/14/2021"],
}


@pytest.mark.parametrize("name", task_names())
def test_answer_sentence_of_gold_is_strictly_correct(name: str) -> None:
    task = get_task(name)
    for gold in GOLD.get(name, GOLD["gsm8k"]):
        if name == "math":
            pytest.importorskip("math_verify")
        task.check_gold(gold, "table")
        grade = task.grade("Some words, 3 of them. " + task.answer_sentence(gold), gold)
        assert grade.correct, (gold, grade)
        assert grade.correct_lenient


def test_answer_sentence_shows_canonical_form() -> None:
    assert get_task("gsm8k").answer_sentence("18.0") == "Therefore, the answer is 18."
    assert get_task("aqua").answer_sentence("(b)") == "Therefore, the answer is B."
    assert get_task("strategy_qa").answer_sentence("True") == "Therefore, the answer is yes."


def test_expressions_compare_by_meaning() -> None:
    pytest.importorskip("math_verify")
    task = get_task("math")
    assert task.grade(r"so \boxed{1} or rather \boxed{0.5}", r"\frac{1}{2}").correct
    assert task.grade(r"Therefore, the answer is $\frac{2}{4}$.", r"\frac{1}{2}").correct
    assert not task.grade(r"so \boxed{0.6}", r"\frac{1}{2}").correct
    assert not task.grade(r"so \boxed{5}", "5!").correct
    assert task.grade("I get $3$", "3").extracted is None
    assert task.grade("I get $3$", "3").correct_lenient


def test_expressions_without_library_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(UserError, match=r"pip install 'skipthinking\[math\]'"):
        Expressions().read("1")


def test_task_texts_need_their_slots() -> None:
    with pytest.raises(UserError, match="answer"):
        Task(name="mine", grader=Numbers(), answer="The end.")


@pytest.mark.parametrize("answer", ["#### {answer}", "{answer}", "So it is {answer}!", "My final answer: {answer}"])
def test_other_answer_formats_round_trip(answer: str) -> None:
    task = Task(name="mine", grader=Numbers(), answer=answer)
    assert task.grade("It is 3 and 4.\n" + task.answer_sentence("17"), "17").extracted == "17"


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UserError, match="coin_flip"):
        get_task("coinflip")
    with pytest.raises(UserError, match="gsm8k"):
        get_task("zzzz")
