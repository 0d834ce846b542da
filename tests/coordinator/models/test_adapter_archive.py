"""Adapters of real tiny models, loaded by PEFT as the folder's README says."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from coordinator.aggregator.compute import prepare
from coordinator.models.adapter_archive import AdapterArchive
from coordinator.models.archive import ArchiveError
from coordinator.models.model_archive import ModelArchive
from coordinator.models.peft_adapter import AUTO_CLASSES
from coordinator.state.errors import NoAdapter, NotReady
from coordinator.state.job_events import LoadedBack
from coordinator.state.job_state import Job, Prepared, Status
from coordinator.state.round_state import ModelVersion
from coordinator.store.binding import Binding
from coordinator.store.blob_store import GRACE_S
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.garbage import Collector
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from fedgalore.client.archive import unpack
from fedgalore.simulation import Site, simulate
from fedgalore.spec import layout
from fedgalore.spec.plan import Dense, Target, TrainingPlan
from tests.builders import a_job, a_receipt, a_spec, put_bytes, whole_version
from tests.coordinator.doors.rest.conftest import stack  # noqa: F401  # a fixture
from tests.coordinator.doors.rest.stack import JOBS, Stack, is_problem
from tests.fedgalore.conftest import (  # noqa: F401  # fixtures
    sentences,
    tiny_bert,
    tiny_dinov2,
    tiny_gpt2,
    tiny_levit,
    tiny_t5,
    tiny_vit,
)
from tests.fedgalore.model.test_plan import mixture
from tests.sites import all_fit

# PEFT 0.21 asks transformers 5 for it.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TOKENS = torch.tensor([[2, 7, 9, 4, 5, 3], [2, 12, 6, 8, 10, 3]])
PIXELS = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
ALL = 10_000  # a rank that no matrix here has


class House:
    """A prepared job with a separate blob store."""

    def __init__(self, folder: Path, source: Path, blobs: Path | None = None, **sections: Any) -> None:
        model = {"source": str(source), "num_labels": 3} | sections.pop("model", {})
        job = a_job(model=model, **sections)
        self.folder = folder
        self.blobs = DirectoryBlobStore(blobs or folder / "blobs")
        folder.mkdir(exist_ok=True)
        prepared = prepare(job.parsed, self.blobs)
        self.job: Job = replace(job, status=Status.RUNNING, prepared=prepared, model=prepared.model)
        self.plan = TrainingPlan.from_dict(prepared.plan)
        with self.blobs.on_disk(prepared.model.weights.sha256) as path:
            self.first = load_file(path)

    def version(self, weights: Mapping[str, Tensor], number: int = 1) -> ModelVersion:
        path = self.folder / "weights.safetensors"
        save_file(dict(weights), path)
        return whole_version(number, self.blobs.put_file(path))

    def trained(self, number: int = 1) -> ModelVersion:
        """A version whose changes have full rank; beside them is an adapter, as in some methods."""
        chance = torch.Generator().manual_seed(number)
        after = {name: old + 0.1 * torch.randn(old.shape, generator=chance) for name, old in self.first.items()}
        after |= {buffer.name: after[buffer.name].abs() for buffer in self.plan.buffers}  # a variance is at least 0
        return self.version(after | {f"{self.plan.targets[0].name}/lora_A": torch.ones(2, 32)}, number)

    def full_model(self, version: ModelVersion) -> Any:
        return full_model(self.job, b"".join(ModelArchive(self.job, version, None, self.blobs)), self.folder / "full")

    def adapter(self, version: ModelVersion, rank: int) -> Path:
        """The folder of the unpacked adapter."""
        archive = AdapterArchive(self.job, version, rank, {"metrics": {"accuracy": 0.5}}, self.blobs)
        data = b"".join(archive)
        assert len(data) == archive.size_bytes
        assert archive.file_name == f"tiny-v{version.version}-rank{rank}.tar"
        folder = self.folder / f"rank-{rank}"
        unpack(iter([data]), folder)
        return folder


def full_model(job: Job, tar: bytes, folder: Path) -> Any:
    unpack(iter([tar]), folder)
    return getattr(transformers, AUTO_CLASSES[job.parsed.model.task]).from_pretrained(folder)


def load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the code of the folder's README and returns its model."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(folder)
    torch.manual_seed(99)  # the user's process draws other random values than the job did
    names: dict[str, Any] = {}
    exec(code[1], names)
    return names["model"].eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        if side := getattr(model.config, "image_size", None):
            return model.eval()(PIXELS[..., :side, :side]).logits
        decoder = {"decoder_input_ids": TOKENS} if model.config.is_encoder_decoder else {}
        return model.eval()(input_ids=TOKENS, **decoder).logits


def close(model: Any, other: Any, atol: float = 1e-5) -> bool:
    return torch.allclose(logits(model).float(), logits(other).float(), rtol=1e-4, atol=atol)


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text())


def card_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "fedgalore.json").read_text())


MODELS = [
    ("tiny_bert", {"num_labels": 3}),
    ("tiny_gpt2", {"num_labels": 3}),
    ("tiny_gpt2", {"task": "causal-lm", "num_labels": None}),
    ("tiny_bert", {"task": "token-classification", "num_labels": 3}),
    ("tiny_bert", {"num_labels": 1}),
    ("tiny_t5", {"task": "seq2seq-lm", "num_labels": None}),
    ("tiny_vit", {"task": "image-classification", "num_labels": 3}),
    ("tiny_dinov2", {"task": "image-classification", "num_labels": 3}),
    ("tiny_levit", {"task": "image-classification", "num_labels": 3}),
]


@pytest.mark.parametrize(
    ("source", "model"),
    MODELS,
    ids=["bert", "gpt2-classifier", "gpt2", "tagger", "number", "t5", "vit", "dinov2", "levit"],
)
@pytest.mark.slow
def test_peft_loads_the_full_model_at_full_rank_and_the_nearest_below(
    source: str, model: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path, request.getfixturevalue(source), model=model)
    version = house.trained()
    full = house.full_model(version)

    loaded = load(house.adapter(version, ALL), monkeypatch)
    assert close(loaded, full)
    kinds = {
        "token-classification": "PeftModelForTokenClassification",
        "image-classification": "PeftModel",
        "causal-lm": "PeftModelForCausalLM",
        "seq2seq-lm": "PeftModelForSeq2SeqLM",
    }
    assert type(loaded).__name__ == kinds.get(house.job.parsed.model.task, "PeftModelForSequenceClassification")
    assert card_of(tmp_path / f"rank-{ALL}")["energy_kept"] == 1

    folder = house.adapter(version, 5)
    merged = load(folder, monkeypatch).merge_and_unload().state_dict()
    after = full.state_dict()
    card = card_of(folder)
    kept = total = 0.0
    for target in (target for target in house.plan.targets if target.is_wrappable):
        change = np.linalg.svd((after[target.name] - house.first[target.name]).double().numpy(), compute_uv=False)
        error = torch.linalg.norm((after[target.name] - merged[target.name]).double())
        assert float(error) == pytest.approx(np.linalg.norm(change[5:]), rel=1e-4), target.name
        share = np.sum(change[:5] ** 2) / np.sum(change**2)
        assert card["matrices"][target.name] == {"rank": 5, "energy_kept": pytest.approx(share, abs=2e-6)}
        kept, total = kept + np.sum(change[:5] ** 2), total + np.sum(change**2)
    assert card["energy_kept"] == pytest.approx(kept / total, abs=2e-6)
    assert 0.1 < card["energy_kept"] < 0.9
    assert not close(load(folder, monkeypatch), full)
    for item in house.plan.dense:
        assert torch.equal(merged[item.name], after[item.name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("mixtral", {}),
        ("mixtral", {"kind": "fedavg"}),
        ("mixtral", {"train_also": ["embeddings", "norms", "output"]}),
        ("gpt_oss", {}),
    ],
)
def test_experts_routers_and_biases_go_whole_with_an_adapter(
    kind: str,
    method: dict[str, Any],
    tiny_gpt2: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = {"task": "causal-lm", "num_labels": None}
    house = House(tmp_path / "house", mixture(tmp_path / "model", tiny_gpt2, kind), model=model, method=method)
    version = house.trained()
    folder = house.adapter(version, ALL)
    assert "model.layers.0.mlp.experts" in config_of(folder)["modules_to_save"]
    assert close(load(folder, monkeypatch), house.full_model(version))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fedgalore", "fedavg", "fedit", "flora"])
def test_any_method_s_result_becomes_an_adapter(
    kind: str,
    tiny_bert: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method: dict[str, Any] = {"kind": kind} if kind == "fedavg" else {"kind": kind, "rank": 2}
    wire = {"bits": 32, "up_rank": 2} if kind == "fedgalore" else {}
    house = House(tmp_path, tiny_bert, method=method, wire=wire, local={"steps": 3, "learning_rate": 0.02})
    sites = [Site(name, sentences(24, seed), sentences(6, seed + 9)) for seed, name in enumerate("ab")]
    result = simulate(house.job.parsed, tiny_bert, sites)
    assert result.weights.keys() == layout.weights_tensors(house.job.parsed, house.plan, 1).keys()
    version = house.version(result.weights)
    assert close(load(house.adapter(version, ALL), monkeypatch), house.full_model(version))
    # Two rounds of two clients at rank 2 cannot make a change of more than rank 8.
    assert (card_of(house.adapter(version, 8))["energy_kept"] == 1) == (kind != "fedavg")


def test_what_the_folder_says(tiny_bert: Path, tmp_path: Path) -> None:  # noqa: F811
    house = House(tmp_path, tiny_bert, method={"target_modules": ["query", "intermediate.dense"]})
    config = config_of(folder := house.adapter(house.trained(), 4))
    modules = [
        f"bert.encoder.layer.{i}.{name}" for i in (0, 1) for name in ("attention.self.query", "intermediate.dense")
    ]
    assert config["target_modules"] == modules
    assert config["modules_to_save"] == ["classifier"]
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (4, 4, {})
    assert (config["peft_type"], config["task_type"], config["bias"]) == ("LORA", "SEQ_CLS", "none")
    assert config["base_model_name_or_path"] == str(tiny_bert)
    assert not config["fan_in_fan_out"]
    tensors = load_file(folder / "adapter_model.safetensors")
    first = f"base_model.model.{modules[0]}"
    assert tensors[f"{first}.lora_A.weight"].shape == (4, 32)
    assert tensors[f"{first}.lora_B.weight"].shape == (32, 4)
    assert {name for name in tensors if "lora" not in name} == {
        "base_model.model.classifier.weight",
        "base_model.model.classifier.bias",
    }
    assert not list(folder.glob("model*"))
    assert transformers.AutoTokenizer.from_pretrained(folder)("rain")["input_ids"]
    card = card_of(folder)
    assert (card["job"], card["model_version"], card["rank"]) == (house.job.id, 1, 4)
    assert card["evaluation_of_the_full_model"] == {"metrics": {"accuracy": 0.5}}

    tall = config_of(house.adapter(house.trained(), 40))
    assert tall["rank_pattern"] == tall["alpha_pattern"] == dict.fromkeys(modules, 32)


def test_the_image_processor_goes_with_base_model_download_and_adapter(tiny_vit: Path, tmp_path: Path) -> None:  # noqa: F811
    house = House(tmp_path, tiny_vit, model={"task": "image-classification"})
    assert house.job.prepared is not None
    assert "preprocessor_config.json" in dict(house.job.prepared.base_model)  # what agents fetch
    version = house.trained()
    house.full_model(version)
    folder = house.adapter(version, 4)
    config = config_of(folder)
    assert (config["task_type"], config["modules_to_save"]) == (None, ["classifier"])
    assert "vit.layers.0.attention.q_proj" in config["target_modules"]
    for loaded in (tmp_path / "full", folder):
        assert transformers.AutoImageProcessor.from_pretrained(loaded).size["height"] == 16
    code = (folder / "README.md").read_text()
    assert "AutoModelForImageClassification" in code
    assert "oken" not in code


@pytest.fixture
def without_pooler(tiny_bert: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A base model whose pooler every `from_pretrained` draws anew."""
    folder = tmp_path / "no-pooler"
    shutil.copytree(tiny_bert, folder)
    transformers.BertModel.from_pretrained(tiny_bert, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("targets", [None, ["query", "value"]], ids=["trained", "not-trained"])
def test_what_is_new_to_the_base_model_goes_along_whole(
    targets: list[str] | None, without_pooler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = House(tmp_path / "house", without_pooler, method={"target_modules": targets})
    assert any("pooler" in target.name for target in house.plan.targets) == (targets is None)
    version = house.trained()
    folder = house.adapter(version, ALL)
    assert config_of(folder)["modules_to_save"] == ["bert.pooler.dense", "classifier"]
    assert not any("pooler" in name for name in config_of(folder)["target_modules"])
    assert close(load(folder, monkeypatch), house.full_model(version))


def test_a_base_model_of_half_precision_is_known_again(
    tiny_bert: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = Path(shutil.copytree(tiny_bert, tmp_path / "half"))
    for dtype in (torch.bfloat16, torch.float16):
        transformers.BertModel.from_pretrained(tiny_bert, dtype=dtype).save_pretrained(base)
        house = House(tmp_path / str(dtype), base)
        version = house.trained()
        folder = house.adapter(version, ALL)
        assert config_of(folder)["modules_to_save"] == ["classifier"]
        assert {tensor.dtype for tensor in load_file(folder / "adapter_model.safetensors").values()} == {dtype}
        full = house.full_model(version)
        assert full.dtype is dtype
        assert close(load(folder, monkeypatch), full, atol=3e-2 if dtype is torch.bfloat16 else 4e-3)


def test_an_adapter_in_another_format_is_still_the_change_of_the_base_model(
    tiny_bert: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    house = House(tmp_path, tiny_bert, model={"dtype": "bfloat16"})
    version = house.trained()
    tensors = load_file(house.adapter(version, ALL) / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    name = house.plan.targets[0].name
    factors = [tensors[f"base_model.model.{name.removesuffix('.weight')}.lora_{part}.weight"].float() for part in "BA"]
    with house.blobs.on_disk(version.weights.sha256) as path:
        change = load_file(path)[name] - house.first[name]
    # Were it the difference of rounded weights, its error would be that of the weights, which are far larger.
    assert torch.linalg.norm(factors[0] @ factors[1] - change) < 0.01 * torch.linalg.norm(change)


@pytest.mark.slow
def test_version_0_changes_nothing(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    house = House(tmp_path, tiny_bert)
    assert house.job.model is not None
    folder = house.adapter(house.job.model, 4)
    assert card_of(folder)["energy_kept"] == 1
    assert close(load(folder, monkeypatch), house.full_model(house.job.model))


def test_a_job_that_trains_new_weights_only_has_no_adapter(without_pooler: Path, tmp_path: Path) -> None:
    house = House(tmp_path / "house", without_pooler, method={"target_modules": ["pooler.dense"]})
    with pytest.raises(
        NoAdapter, match="new to the base model or part of a module that is saved whole; download the whole model"
    ):
        house.adapter(house.trained(), 4)


def test_a_weight_outside_of_all_modules_is_refused(tmp_path: Path) -> None:
    blobs = DirectoryBlobStore(tmp_path / "blobs")
    plan = TrainingPlan((Target("layer.weight", (6, 4), 2),), (Dense("scale", (2,)),))
    save_file({"layer.weight": torch.ones(6, 4), "scale": torch.ones(2)}, tmp_path / "weights")
    files = (("model.safetensors", blobs.put_file(tmp_path / "weights")),)
    prepared = Prepared(plan.to_dict(), files, files, whole_version(0, files[0][1]))
    with pytest.raises(NoAdapter, match="scale belongs to no module"):
        AdapterArchive(replace(a_job(), prepared=prepared), prepared.model, 2, None, blobs)
    tied = replace(prepared, plan=replace(plan, shared=("layer.weight",)).to_dict())
    with pytest.raises(NoAdapter, match=r"layer\.weight is one weight of several layers of this model, of which PEFT"):
        AdapterArchive(replace(a_job(), prepared=tied), prepared.model, 2, None, blobs)


def test_weights_of_another_model_are_refused(tiny_bert: Path, tmp_path: Path) -> None:  # noqa: F811
    house = House(tmp_path, tiny_bert)
    bent = house.version(house.first | {"classifier.bias": torch.zeros(7)})
    with pytest.raises(ArchiveError, match=r"classifier\.bias is not of shape \(3,\)"):
        AdapterArchive(house.job, bent, 4, None, house.blobs)
    short = house.version({name: tensor for name, tensor in house.first.items() if name != "classifier.bias"})
    with pytest.raises(ArchiveError, match=r"classifier\.bias is not in the model's files"):
        AdapterArchive(house.job, short, 4, None, house.blobs)


def test_a_pending_job_has_no_adapter(tmp_path: Path) -> None:
    blobs = DirectoryBlobStore(tmp_path)
    with pytest.raises(NotReady, match="not prepared yet"):
        AdapterArchive(a_job(), whole_version(0, put_bytes(blobs, b"")), 4, None, blobs)


def test_what_is_collected_meanwhile_is_sent_to_the_end(tiny_bert: Path, tmp_path: Path) -> None:  # noqa: F811
    house = House(tmp_path, tiny_bert)
    version = house.trained()
    archive = AdapterArchive(house.job, version, 4, None, house.blobs)
    whole = b"".join(archive)
    again = AdapterArchive(house.job, version, 4, None, house.blobs)
    assert again.etag == archive.etag
    assert b"".join(again.read(5000)) == whole[5000:], "a download that broke goes on"
    assert AdapterArchive(house.job, version, 2, None, house.blobs).etag != archive.etag
    chunks = iter(AdapterArchive(house.job, version, 4, None, house.blobs))
    started = next(chunks)
    shutil.rmtree(tmp_path / "blobs")
    assert started + b"".join(chunks) == whole


@pytest.mark.slow
async def test_rest_serves_what_peft_loads_also_when_the_job_is_over_and_swept(
    stack: Stack,  # noqa: F811
    redis_url: str,
    tiny_bert: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    newest = a_spec().rounds.keep_versions.last
    rounds = {"count": newest}
    job, _ = await stack.engine.people.create(
        a_spec(model={"source": str(tiny_bert), "num_labels": 3}, rounds=rounds), None
    )
    path = f"{JOBS}/{job.id}/adapter"
    is_problem(await stack.http.get(path), 409, "not_ready")
    house = await asyncio.to_thread(House, tmp_path / "house", tiny_bert, blobs=tmp_path / "blobs", rounds=rounds)
    assert house.job.prepared is not None
    for name in ("a", "b"):
        await stack.engine.agents.register(name, PROTOCOL_VERSION, "0.1.0", {"reviews": 20})
    await all_fit(stack.engine)
    await stack.engine.aggregator.prepared(job.id, house.job.prepared)
    for version in range(1, newest + 1):
        number = await stack.next_tasks("train")
        await stack.evaluated(job, number, version - 1)
        for name in ("a", "b"):
            await stack.engine.agents.report(job.id, number, name, a_receipt(name))
        await stack.engine.aggregator.aggregated(job.id, number, house.trained(version), {}, {})

    during = await stack.http.get(path, params={"rank": 3, "version": 2})
    assert during.headers["content-type"] == "application/x-tar"
    assert int(during.headers["content-length"]) == len(during.content)
    assert 'filename="tiny-v2-rank3.tar"' in during.headers["content-disposition"]
    await stack.evaluated(job, await stack.next_tasks("evaluate"), newest)
    assert (await stack.engine.aggregator.loaded_back(job.id, LoadedBack(newest))).status is Status.COMPLETED

    store = RedisStateStore(redis_url)
    try:
        collector = Collector(store, stack.blobs, Binding(store, stack.blobs))
        for later_s in (0, GRACE_S + 1):
            await collector.collect(time.time() + later_s)
    finally:
        await store.close()
    assert not stack.blobs.exists(house.job.prepared.model.weights.sha256)
    assert (await stack.http.get(path, params={"rank": 3, "version": 2})).content == during.content
    answers = await asyncio.gather(*(stack.http.get(path, params={"rank": rank}) for rank in (ALL, 3, ALL)))
    assert answers[0].content == answers[2].content
    unpack(iter([answers[1].content]), tmp_path / "3")
    assert card_of(tmp_path / "3")["evaluation_of_the_full_model"]["metrics"]["accuracy"] == pytest.approx(0.8)
    unpack(iter([answers[0].content]), tmp_path / "all")
    model = await stack.http.get(f"{JOBS}/{job.id}/model")
    full = full_model(house.job, model.content, tmp_path / "full")
    assert close(load(tmp_path / "all", monkeypatch), full)


@pytest.mark.slow
async def test_rest_refuses_a_rank_that_is_none_and_a_version_that_is_not_held(
    stack: Stack,  # noqa: F811
    tmp_path: Path,
) -> None:
    job = await stack.running(tmp_path)
    path = f"{JOBS}/{job.id}/adapter"
    for rank in ("0", "-1", "many", str(2**31)):
        refusal = is_problem(await stack.http.get(path, params={"rank": rank}), 422, "invalid_request")
        assert [row["field"] for row in refusal["errors"]] == ["rank"]
    refusal = is_problem(await stack.http.get(path, params={"version": 5}), 404, "version_not_found")
    assert f"version: 5 of job {job.id} does not exist yet" in refusal["detail"]
    is_problem(await stack.http.get(f"{JOBS}/nowhere/adapter"), 404, "job_not_found")
    assert "rank16" in (await stack.http.get(path)).headers["content-disposition"]
    document = (await stack.http.get("/openapi.json")).json()
    operation = document["paths"][f"{JOBS}/{{job_id}}/adapter"]["get"]
    rank = next(parameter for parameter in operation["parameters"] if parameter["name"] == "rank")
    assert (rank["schema"]["minimum"], rank["schema"]["default"], rank["required"]) == (1, 16, False)
    assert list(operation["responses"]["200"]["content"]) == ["application/x-tar"]
