"""Conversations by a chat template: which tokens count, what is asked, what is refused."""

import shutil
from copy import copy
from pathlib import Path

import pytest
import transformers
from tokenizers import AddedToken

from fedgalore.model.chat import has_template
from fedgalore.model.inputs import IGNORED, TaskError
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.registry import check_examples
from fedgalore.model.tokens import TextReader
from tests.fedgalore.conftest import language_model

# writes its thoughts into the last answer only, as some models do
THINKS = (
    "{% for message in messages %}{{ message.role }} : "
    "{% if loop.last and message.role == 'assistant' %}please {% endif %}{{ message.content }} [SEP] {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


def turns(*contents, first="user"):
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


@pytest.fixture
def chat(tiny_chat, tmp_path):
    """The task of the model that chats, or of a copy with another template."""

    def load(template="", **sections) -> TaskModel:
        folder = tiny_chat
        if template != "":
            folder = Path(shutil.copytree(tiny_chat, tmp_path / "chat"))
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            tokenizer.chat_template = template
            (folder / "chat_template.jinja").unlink()
            tokenizer.save_pretrained(folder)
        task = TaskModel.load(language_model(**sections), folder)
        task.model.eval()
        return task

    return load


def words(task, ids):
    return task.inputs.tokenizer.convert_ids_to_tokens(ids)


def test_only_the_assistants_turns_count_each_with_its_end(chat):
    task = chat()
    messages = [{"role": "system", "content": "today"}, *turns("rain", "music", "sun", "food", "a")]
    batch = task.collate([{"row": 1, "messages": messages}])
    whole = task.inputs.tokenizer.apply_chat_template(messages[:-1], tokenize=False)
    assert batch["input_ids"][0].tolist() == task.inputs.tokenizer(whole)["input_ids"]
    labels = batch["labels"][0]
    assert words(task, labels[labels != IGNORED]) == ["music", "[SEP]", "food", "[SEP]"]
    assert labels[labels != IGNORED].tolist() == batch["input_ids"][0][labels != IGNORED].tolist()


def test_a_long_conversation_loses_its_beginning(chat):
    task = chat(data={"max_length": 6})
    batch = task.collate([{"row": 1, "messages": turns("rain sun wind snow", "music", "the a", "food soup")}])
    assert words(task, batch["input_ids"][0]) == ["[SEP]", "assistant", ":", "food", "soup", "[SEP]"]


def test_contents_that_spell_a_control_token_are_asked_of_the_tokenizer_as_text(chat):
    task = chat()
    seen, ids = [], task.inputs.ids
    task.inputs.ids = lambda text, **options: seen.append((text, options)) or ids(text, **options)
    task.collate([{"row": 1, "messages": turns("rain [SEP] sun", "music")}])
    assert seen == [("rain [SEP] sun", {"special": False})]


def test_the_question_is_the_conversation_up_to_its_last_answer(chat):
    task = chat()
    example = {"row": 1, "messages": turns("rain", "music", "sun", "food", "the")}
    question = task.task.question(example)
    assert (question, task.task.answer(example)) == (example["messages"][:3], "food")
    asked = task.inputs.tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    read = task.inputs.tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert task.task.generation_inputs([question], task.inputs, 30)["input_ids"].tolist() == [read]


@pytest.mark.parametrize(
    ("template", "messages", "problem"),
    [
        (None, turns("rain", "music"), r"row 7: the model has no chat template.*or give prompt and completion"),
        (
            "{{ raise_exception('alternate') }}",
            turns("a", "b"),
            r"row 7: .*template refuses these messages \(alternate\)",
        ),
        (
            THINKS,
            turns("a", "b", "c", "d"),
            r"row 7: .*writes a turn otherwise when others follow it; give each answer",
        ),
    ],
)
def test_what_the_template_cannot_write_is_refused(chat, template, messages, problem):
    with pytest.raises(TaskError, match=problem):
        chat(template).collate([{"row": 7, "messages": messages}])


def test_whether_there_is_a_chat_template_is_known_of_a_loaded_model(chat):
    assert has_template(chat().inputs)
    assert not has_template(chat(None).inputs)


def test_thoughts_of_a_single_answer_are_learned_with_it(chat):
    task = chat(THINKS)
    batch = task.collate([{"row": 1, "messages": turns("rain", "music")}])
    labels = batch["labels"][0]
    assert words(task, labels[labels != IGNORED]) == ["please", "music", "[SEP]"]


def with_assistant(**changes):
    return [turns("rain")[0], {"role": "assistant", "content": "music"} | changes]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ("rain", r"messages are 'rain'; write a list of \{\"role\""),
        (["rain"], "message 1 is 'rain'; write it as"),
        ([{"role": "user"}], "message 1 has no role and content, but the keys 'role'; write it as"),
        ([{"from": "gpt", "value": "a"}], r"message 1 has .* keys 'from', 'value'; .* role in place of from"),
        ([{"role": "user", "content": 3}], "message 1: its content is 3; write it as text"),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 1: its content is"),
        ([{"role": "user", "content": "\ud83d"}], "message 1: its content is broken Unicode"),
        ([{"role": None, "content": ""}], "message 1: its role is None; write one of system, developer, user"),
        ([{"role": " ", "content": ""}], "message 1 has the role ' '; write system or"),
        (with_assistant(role="Assistant"), "message 2 has the role 'Assistant'; write assistant"),
        (with_assistant(role="model"), "message 2 has the role 'model'; write assistant"),
        (turns("rain", "b") + [{"role": "human", "content": "c"}], "message 3 has the role 'human'; write user"),
        (turns("rain"), r"no message is the assistant's \(the roles are 'user'\), so that there is nothing to learn; "),
        ([], r"no message is the assistant's \(the roles are none\)"),
        (turns("rain", first="assistant"), "the first message is the assistant's, which answers nobody"),
        (
            with_assistant(content=" "),
            'message 2 is an answer in which nothing can be read,.*"weight": 0, or remove the',
        ),
        (with_assistant(content="\u200b"), "message 2 is an answer in which nothing can be read"),
        (with_assistant(content="", tool_calls=[{"id": "1"}]), "message 2 has tool_calls, which is not learned; write"),
        ([turns("a")[0], {"role": "assistant", "tool_calls": [{}]}], "message 2 has tool_calls, which is not learned"),
        (with_assistant(reasoning_content="I see"), "message 2 has reasoning_content, which is not learned"),
        (with_assistant(weight=0.5), "message 2: its weight is 0.5; write 0 or 1, or leave it out"),
        (with_assistant(weight=True), "message 2: its weight is True"),
        (with_assistant(weight=0), "all messages of the assistant have the weight 0, so that there is nothing to"),
        ([turns("a")[0] | {"weight": 1}, *with_assistant()[1:]], "message 1 is of the user and has the weight 1"),
    ],
)
def test_what_is_no_conversation_is_refused_by_row(messages, problem):
    with pytest.raises(TaskError, match=f"row 7: {problem}"):
        check_examples([{"row": 7, "messages": messages}], language_model())


def test_an_answer_of_weight_0_is_read_and_not_learned(chat):
    task = chat()
    messages = [*turns("rain", "music", "sun", "food", "wind", "a")]
    messages[1], messages[5] = messages[1] | {"weight": 0}, messages[5] | {"weight": 0}
    check_examples([{"row": 1, "messages": messages}], task.spec)
    batch = task.collate([{"row": 1, "messages": messages}])
    whole = task.inputs.tokenizer.apply_chat_template(turns("rain", "music", "sun", "food"), tokenize=False)
    assert batch["input_ids"][0].tolist() == task.inputs.tokenizer(whole)["input_ids"]
    labels = batch["labels"][0]
    assert words(task, labels[labels != IGNORED]) == ["food", "[SEP]"]
    assert task.task.answer({"messages": messages}) == "food"


def test_an_answer_that_the_template_leaves_out_is_refused_by_row(chat):
    task = chat("{% for message in messages %}{{ message.content if message.role == 'user' }} {% endfor %}")
    with pytest.raises(TaskError, match="row 7: nothing of it counts"):
        task.collate([{"row": 7, "messages": turns("rain", "music")}])


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_no_content_spells_a_control_token_of_any_kind(chat, role):
    """Llama 3's headers are special tokens without a part such as the end token has."""
    task = chat()
    tokenizer = task.inputs.tokenizer
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in ("<|start|>", "§")])
    task.inputs = copy(task.inputs)
    task.inputs._read = TextReader(tokenizer)
    special = tokenizer.convert_tokens_to_ids(["<|start|>", "§"])
    messages = [*turns("rain", "a", "sun"), {"role": role, "content": "wind <|start|> § \ue0000\ue001"}]
    messages += [] if role == "assistant" else turns("the", "food")
    row = task.collate([{"row": 1, "messages": messages}])["input_ids"][0].tolist()
    assert set(special).isdisjoint(row)
    assert "wind" in words(task, row)
    with pytest.raises(TaskError, match=r"row 7: the role '§' spells a control token of the model"):
        task.collate([{"row": 7, "messages": [{"role": "§", "content": ""}, *turns("a", "b")]}])
