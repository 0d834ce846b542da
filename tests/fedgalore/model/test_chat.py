"""Conversations by a chat template: which tokens count, what is asked, what is refused."""

import shutil
from pathlib import Path

import pytest
import transformers

from fedgalore.model.inputs import IGNORED, TaskError
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.registry import check_examples
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


def test_thoughts_of_a_single_answer_are_learned_with_it(chat):
    task = chat(THINKS)
    batch = task.collate([{"row": 1, "messages": turns("rain", "music")}])
    labels = batch["labels"][0]
    assert words(task, labels[labels != IGNORED]) == ["please", "music", "[SEP]"]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ("rain", "messages are no list of mappings with a role and a content"),
        ([{"role": "user"}], "messages are no list of mappings"),
        ([{"role": "user", "content": 3}], "messages are no list of mappings"),
        (turns("rain"), "no message is the assistant's, so that there is nothing to learn; remove the row"),
        ([], "no message is the assistant's"),
        (turns("rain", first="assistant"), "the first message is the assistant's, which answers nobody"),
    ],
)
def test_what_is_no_conversation_is_refused_by_row(messages, problem):
    with pytest.raises(TaskError, match=f"row 7: {problem}"):
        check_examples([{"row": 7, "messages": messages}], language_model())
