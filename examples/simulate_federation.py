"""A federation in one process: `python examples/simulate_federation.py`.

Five sites whose data differ train a model together. The script needs no network: it writes a tiny model and small
tables into a temporary folder first. In their place take the folder of a Hugging Face model, and files of your own in
CSV, TSV, JSONL or Parquet, whose columns `SplitFile` names.
"""

import csv
import random
import tempfile
from pathlib import Path

import torch
import transformers

from fedgalore import RoundRecord, Site, SplitFile, parse_job, read_examples, simulate, split

TOPICS = {
    "weather": ["rain", "sun", "wind", "snow"],
    "music": ["song", "drum", "choir", "tune"],
    "food": ["bread", "soup", "rice", "plum"],
}
FILLERS = ["the", "a", "some", "more", "today", "please"]


def write_texts(path: Path, count: int, seed: int) -> None:
    """Sentences of six words, of which three show the topic."""
    chance = random.Random(seed)
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "topic"])
        for _ in range(count):
            topic = chance.choice(list(TOPICS))
            words = chance.choices(TOPICS[topic], k=3) + chance.choices(FILLERS, k=3)
            table.writerow([" ".join(chance.sample(words, k=6)), topic])


def write_model(folder: Path) -> None:
    """An untrained BERT encoder with two small layers, and its tokenizer, which knows the words above."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS]
    for topic in TOPICS.values():
        words += topic
    transformers.BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    transformers.BertModel(config).save_pretrained(folder)


def show(record: RoundRecord) -> None:
    """Called after each round, with the accuracy of the model that it started from; the last call is for the result."""
    print(f"model version {record.model_version}: accuracy {record.held_out['test'].metrics['accuracy']:.3f}")


with tempfile.TemporaryDirectory() as scratch:
    folder = Path(scratch)
    transformers.utils.logging.disable_progress_bar()
    write_model(folder / "model")
    write_texts(folder / "train.csv", 600, seed=1)
    write_texts(folder / "test.csv", 200, seed=2)
    train = read_examples(SplitFile(folder / "train.csv", text=("text",), label="topic"))
    test = read_examples(SplitFile(folder / "test.csv", text=("text",), label="topic"))

    # Label skew by Dirichlet's distribution: the smaller alpha, the fewer topics a site has.
    shards = split("dirichlet", [example["label"] for example in train], clients=5, alpha=0.3, seed=0, min_examples=20)
    sites = [Site(f"site-{number}", [train[index] for index in shard]) for number, shard in enumerate(shards, start=1)]
    for site in sites:
        labels = [example["label"] for example in site.train]
        print(site.name, {topic: labels.count(topic) for topic in TOPICS})

    # The document that a coordinator takes; `load_job` reads it from a YAML file.
    job = parse_job(
        {
            "name": "topics",
            "model": {"source": str(folder / "model"), "label_names": list(TOPICS)},
            "data": {"name": "topics", "max_length": 16},
            "method": {"kind": "fedgalore", "rank": 4},
            "rounds": {"count": 6, "min_clients": 5},
            "local": {"steps": 10, "batch_size": 16},
        }
    )
    result = simulate(job, folder / "model", sites, on_round=show, held_out={"test": test})
    print(f"the sites sent {sum(record.up_bytes for record in result.rounds) / 1000:.0f} kB")

    # The result is a folder that `transformers` loads.
    result.task.save(folder / "trained")
    trained = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "trained")
    print(f"saved a {type(trained).__name__} with the classes {', '.join(trained.config.id2label.values())}")
