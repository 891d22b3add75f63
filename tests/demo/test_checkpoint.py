"""The committed checkpoint: small, in the hub's layout, and able to answer as the README shows."""

import functools
import json
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from segue.demo import SUGGESTIONS, checkpoint_dir
from segue.demo.corpus.conversations import COPY_WEIGHTS
from segue.demo.corpus.exchanges import TOOLS
from segue.demo.evaluate import copying, held_out
from segue.demo.mtp import load_trunk

FILES = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
MAX_SIZE_BYTES = 25 * 2**20
TOLD = [
    {"role": "user", "content": "My code is 805."},
    {"role": "assistant", "content": "Noted: your code is 805."},
    {"role": "user", "content": "What is my code?"},
]
SAY = "Say frumious bandersnatch jubjub."


@functools.cache
def loaded() -> tuple[Any, Any]:
    """Tokenizer and model in transformers, once for all tests: neither keeps state."""
    folder = checkpoint_dir()
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)


class Chat:
    """The model in transformers, with greedy answers and the conversation's history."""

    def __init__(self, *tools: str) -> None:
        self._tokenizer, self._model = loaded()
        self._tools = [TOOLS[name] for name in tools]
        self._messages: list[dict[str, object]] = []

    def say(self, text: str, role: str = "user") -> str:
        """The answer to one more message."""
        self._messages.append({"role": role, "content": text})
        prompt = self._tokenizer.apply_chat_template(
            self._messages,
            tools=self._tools,
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        ids = self._model.generate(**prompt, max_new_tokens=230)[0, prompt["input_ids"].shape[1] :]
        assert self._tokenizer.decode(ids[-1:]) == "<|im_end|>"
        answer = str(self._tokenizer.decode(ids[:-1]))
        self._messages.append({"role": "assistant", "content": answer})
        return answer


def test_the_checkpoint_is_small_and_complete() -> None:
    files = list(checkpoint_dir().iterdir())

    assert {file.name for file in files} == FILES
    assert sum(file.stat().st_size for file in files) < MAX_SIZE_BYTES


def test_the_answer_ends_at_a_control_token() -> None:
    config = json.loads((checkpoint_dir() / "generation_config.json").read_text())
    tokenizer, _ = loaded()

    assert tokenizer.convert_ids_to_tokens(config["eos_token_id"]) == [
        "<|im_end|>",
        "<|endoftext|>",
    ]


def test_facts_are_recalled_after_other_turns() -> None:
    chat = Chat()

    told = chat.say("My name is Nora and my code is 805.")
    chat.say("My city is Lisbon.")
    counted = chat.say("Count from 7 to 15.")
    chat.say("What is prefill?")
    chat.say("My pet is a fox.")

    assert told == "Noted: your name is Nora and your code is 805."
    assert counted == "7, 8, 9, 10, 11, 12, 13, 14, 15."
    assert chat.say("What is my code?") == "Your code is 805."
    assert chat.say("Do you remember my name?") == "Your name is Nora."
    assert chat.say("Tell me my city.") == "Your city is Lisbon."


def test_a_tool_is_called_and_its_result_is_reported() -> None:
    chat = Chat("get_weather", "get_time")

    call = chat.say("What is the weather in Vienna?")
    answer = chat.say('{"temperature": 17, "sky": "windy"}', role="tool")

    assert call == (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nVienna\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    assert answer == "In Vienna it is 17 degrees and windy."


@pytest.mark.parametrize(
    ("city", "degrees", "sky"),
    [
        ("Berlin", "21", "sunny"),
        ("Reykjavik", "-4", "snowy"),
        ("Ouagadougou", "38", "windy"),
        ("Thimphu", "7.5", "misty"),
    ],
)
def test_the_weather_of_any_city_is_reported(city: str, degrees: str, sky: str) -> None:
    chat = Chat("get_weather")

    call = chat.say(f"What's the weather in {city}?")
    answer = chat.say(json.dumps({"temperature": json.loads(degrees), "sky": sky}), role="tool")

    assert call == (
        f"<tool_call>\n<function=get_weather>\n<parameter=city>\n{city}\n</parameter>\n"
        "</function>\n</tool_call>"
    )
    assert answer == f"In {city} it is {degrees} degrees and {sky}."


def test_suggested_questions_are_answered() -> None:
    chat = Chat()

    answers = [chat.say(suggestion) for suggestion in SUGGESTIONS]

    assert answers == [
        "Noted: your name is Anna and your city is Lisbon.",
        f"{', '.join(map(str, range(1, 61)))}.",
        "Your city is Lisbon.",
        "You said brillig, brillig, brillig.",
    ]


@pytest.mark.parametrize(
    ("statement", "question", "name"),
    [
        ("My name is Anna.", "What is my name?", "Anna"),
        ("my name is anna", "what's my name?", "anna"),
        ("Hi, I'm Siobhan.", "Who am I?", "Siobhan"),
        ("Hello! My name is Mohammed.", "Do you know my name?", "Mohammed"),
        ("Call me Thandiwe.", "Tell me my name.", "Thandiwe"),
        ("I am called Bartholomew.", "Do you remember my name?", "Bartholomew"),
        ("You can call me Xochitl", "And what is my name?", "Xochitl"),
    ],
)
def test_a_name_is_remembered_in_every_phrasing(statement: str, question: str, name: str) -> None:
    chat = Chat()

    assert chat.say(statement) == f"Noted: your name is {name}."
    assert chat.say(question) == f"Your name is {name}."


@pytest.mark.parametrize(
    ("first", "last"), [(37, 52), (1, 10), (5, 8), (0, 12), (95, 104), (19, 31)]
)
def test_it_counts_from_anywhere(first: int, last: int) -> None:
    numbers = ", ".join(map(str, range(first, last + 1)))

    assert Chat().say(f"Count from {first} to {last}.") == f"{numbers}."


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
@torch.inference_mode()
def test_a_lost_cache_changes_the_answers(layer: int) -> None:
    tokenizer, model = loaded()

    kept, lost = [], []
    for told in (TOLD, [{"role": "user", "content": SAY}]):
        text = tokenizer.apply_chat_template(told, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt").input_ids
        kept.append(_continued(model, tokenizer, _prefilled(model, ids), ids))
        cache = _prefilled(model, ids)
        cache.layers[layer].reset()
        lost.append(_continued(model, tokenizer, cache, ids))

    assert kept == ["Your code is 805.", "You said frumious bandersnatch jubjub."]
    assert lost != kept


def test_without_a_tool_it_refuses() -> None:
    assert Chat().say("What is the weather in Vienna?") == "I have no tool for that."


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Hello!", "Hello! How can I help?"),
        (
            "Who are you?",
            "I am the Segue demo model, a small hybrid of gated delta nets and attention.",
        ),
        ("What is my room?", "I do not know your room."),
        ("Say lamp 3 times.", "You said lamp, lamp, lamp."),
        ("Spell candle.", "c, a, n, d, l, e."),
    ],
)
def test_a_single_question_is_answered(question: str, answer: str) -> None:
    assert Chat().say(question) == answer


def test_words_and_numbers_outside_the_training_data_are_copied() -> None:
    model = load_trunk(checkpoint_dir())
    tokenizer = Tokenizer.from_file(str(checkpoint_dir() / "tokenizer.json"))
    exam = held_out(tokenizer, 100, min_chars=350, weights=COPY_WEIGHTS, is_exam=True)

    assert copying(model, tokenizer, exam)["all"] >= 0.98


def test_logits_stay_finite_beyond_the_trained_length() -> None:
    _, model = loaded()
    ids = torch.randint(0, 1500, (1, 2500), generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits

    assert torch.isfinite(logits).all()


def _prefilled(model: Any, ids: torch.Tensor) -> Any:
    return model(input_ids=ids[:, :-1]).past_key_values


def _continued(model: Any, tokenizer: Any, cache: Any, ids: torch.Tensor) -> str:
    """What greedy decoding generates after `ids`, all but the last of which are in the cache."""
    last, answer = ids[:, -1:], []
    for _ in range(24):
        last = model(input_ids=last, past_key_values=cache).logits[:, -1:].argmax(dim=-1)
        if last.item() in model.generation_config.eos_token_id:
            break
        answer.append(int(last.item()))
    return str(tokenizer.decode(answer))
