"""Closed forms against published figures, sums that close, and every line that refuses."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import vramprof
from programs import NEUTRAL_FOLDER
from vramprof.cli import main
from vramprof.errors import ArchitectureError, PlanError, UnknownGpuError
from vramprof.prediction.architecture import find_architecture, model_names
from vramprof.prediction.forms import Moment, all_forms, form
from vramprof.prediction.parameters import count_parameters
from vramprof.prediction.plan import plan
from vramprof.units import MIB

GPU = "a100-80gb"
LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
}  # fmt: skip


def category(name: str, model: str, **workload: object) -> int:
    return plan(model, gpu=GPU, **workload).by_category.get(name, 0)


@pytest.mark.parametrize("name", model_names())
def test_every_model_has_as_many_parameters_as_published(name: str) -> None:
    model = find_architecture(name)
    assert count_parameters(model).total == model.parameters_stated
    assert model.source


def test_active_and_resident_parameters() -> None:
    v3 = plan("deepseek-v3", gpu="h200", inference=True)
    assert round(v3.parameters / 1e9) == 671
    assert 37.0e9 < v3.active_parameters < 37.6e9
    assert v3.by_category["weights"] == 2 * v3.parameters  # every expert is resident


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("deepseek-v3", 70_272), ("deepseek-v2-lite", 31_104), ("llama-3-8b", 131_072), ("llama-3.1-405b", 516_096),
        ("qwen2.5-72b", 327_680), ("gpt2-xl", 307_200),
    ],
)  # fmt: skip
def test_cache_bytes_of_one_token(model: str, expected: int) -> None:
    assert plan(model, gpu=GPU, inference=True).cache_bytes_per_token == expected


def test_a_latent_cache_is_on_every_tensor_rank_and_a_head_is_not_split() -> None:
    assert plan("deepseek-v3", gpu=GPU, inference=True, tp=8).cache_bytes_per_token == 70_272
    assert plan("llama-3-8b", gpu=GPU, inference=True, tp=4).cache_bytes_per_token == 131_072 // 4
    assert plan("llama-3-8b", gpu=GPU, inference=True, tp=32).cache_bytes_per_token == 131_072 // 8


def test_one_billion_parameters_in_fp32() -> None:
    """The article: 40 GB. They are 4.00 GB of weights, 16 GB with Adam, 20 GB inside a foreach step."""
    one = plan("1B", gpu=GPU, dtype="fp32", optimizer="adam")
    assert one.by_category["weights"] == 4_000_000_000
    assert one.peak_moment is Moment.STEP
    assert one.allocated_bytes == 20_000_000_000
    assert plan("1B", gpu=GPU, dtype="fp32", optimizer="adamw-fused").allocated_bytes == 16_000_000_000


def test_the_articles_worked_case_and_what_it_left_out() -> None:
    """20B in fp16 with Adam: 40 GB of weights and 160 GB of fp32 moments are its 200 GB."""
    case = plan("20B", gpu=GPU, dtype="fp16", mixed="masters", optimizer="adamw-fused")
    terms = {term.term: term.bytes for term in case.terms}
    assert terms["weights"] + terms["optimizer states"] == 200_000_000_000
    assert (terms["gradients"], terms["fp32 masters"]) == (40_000_000_000, 80_000_000_000)
    assert case.allocated_bytes == 320_000_000_000
    assert next(card for card in case.cards if card.gpu == GPU).cards == 8


def test_the_queries_keys_and_values_of_one_head() -> None:
    """Batch 16, 1024 tokens, head dimension 64: 6.0 MiB in fp16, where the article has 12 MB."""
    sizes = [
        category("activations", f"hidden_size=64,num_hidden_layers=1,num_attention_heads={heads},head_dim=64,"
                 "intermediate_size=64,vocab_size=32", batch=16, seq=1024)
        for heads in (1, 2)
    ]  # fmt: skip
    per_head = sizes[1] - sizes[0]
    output_and_log_sum_exp = 16 * 1024 * (64 * 2 + 4)
    assert per_head - output_and_log_sum_exp == 3 * 16 * 1024 * 64 * 2 == 6 * MIB


@pytest.mark.parametrize(
    "model", ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v2-lite", "gpt2", "bert-base", "vit-base-16"]
)
@pytest.mark.parametrize(
    "workload", [{}, {"dtype": "fp32", "mixed": "amp"}, {"checkpointing": "full"}, {"inference": True}]
)
def test_sums_close(model: str, workload: dict[str, object]) -> None:
    found = plan(model, gpu=GPU, batch=2, seq=512, **workload)
    assert sum(found.by_category.values()) == found.allocated_bytes
    assert sum(term.bytes for term in found.terms) == found.allocated_bytes + found.outside_bytes
    assert found.allocated_bytes == max(moment["allocated_bytes"] for moment in found.as_dict()["moments"].values())
    assert all(term.formula and term.source for terms in found.moments.values() for term in terms)
    json.dumps(found.as_dict())


def test_what_each_kind_of_parallelism_splits() -> None:
    model, whole = "llama-3.1-8b", plan("llama-3.1-8b", gpu=GPU)
    assert category("weights", model, zero=3, dp=8) == pytest.approx(whole.by_category["weights"] / 8, rel=1e-6)
    assert category("weights", model, zero=1, dp=8) == whole.by_category["weights"]
    assert category("optimizer", model, zero=1, dp=8) == pytest.approx(whole.by_category["optimizer"] / 8, rel=1e-6)
    assert category("weights", model, tp=4) == pytest.approx(whole.by_category["weights"] / 4, rel=1e-3)
    assert category("weights", model, pp=4) < 0.4 * whole.by_category["weights"]
    experts = category("weights", "mixtral-8x7b", ep=8, dp=8)
    assert experts < 0.17 * category("weights", "mixtral-8x7b")
    assert (
        plan(model, gpu=GPU, dp=8, optimizer="adamw-fused").allocated_bytes > whole.by_category["weights"] * 5
    )  # buckets


@pytest.mark.parametrize(
    "change",
    [
        {"checkpointing": "full"}, {"checkpointing": "selective"}, {"tp": 4}, {"tp": 4, "sequence_parallel": True},
        {"cp": 2, "zero": 3}, {"offload": ("activations",)}, {"batch": 2}, {"seq": 512}, {"dropout": False},
    ],
)  # fmt: skip
def test_what_makes_activations_smaller(change: dict[str, object]) -> None:
    workload = {"batch": 4, "seq": 1024, "attention": "flash"}
    at_the_loss = [
        sum(
            term.bytes
            for term in plan("gpt2-large", gpu=GPU, **given).moments[Moment.LOSS]
            if term.category == "activations"
        )
        for given in (workload, {**workload, **change})
    ]
    assert at_the_loss[1] < at_the_loss[0]


def test_accumulation_is_not_free() -> None:
    at = [plan("gpt2", gpu=GPU, accumulate=k).moments[Moment.LOSS] for k in (1, 2)]
    more = sum(term.bytes for term in at[1]) - sum(term.bytes for term in at[0])
    assert more == 2 * 124_439_808


def test_quantised_and_sparse_weights() -> None:
    model = count_parameters(find_architecture("llama-3.1-8b"))
    plain = 2 * (model.embedding + model.head + model.outside)
    layers = model.total - plain // 2
    sizes = {
        dtype: category("weights", "llama-3.1-8b", dtype=dtype, inference=True) for dtype in ("int8", "int4", "nf4")
    }
    assert sizes == {"int8": plain + layers, "int4": plain + layers // 2, "nf4": plain + layers * 9 // 16}
    assert category("weights", "llama-3.1-8b", sparse=True, inference=True) == plain + layers * 9 // 8
    lora = plan("llama-3.1-8b", gpu=GPU, dtype="nf4", lora_rank=16, lora_targets="all")
    assert lora.by_category["weights"] < 6.5e9
    assert lora.by_category.get("optimizer", 0) < 1e9


def test_pages_hold_what_sequences_have() -> None:
    static = plan("llama-3-8b", gpu=GPU, inference=True, batch=16, seq=8192)
    paged = plan("llama-3-8b", gpu=GPU, inference=True, batch=16, seq=8192, mean_seq=1000)
    cache = [next(t.bytes for t in one.terms if t.term == "KV cache") for one in (static, paged)]
    assert cache == [16 * 8192 * 131_072, 16 * 1008 * 131_072]


def test_a_window_caps_the_cache() -> None:
    short, long = (plan("mistral-7b-v0.1", gpu=GPU, inference=True, seq=seq) for seq in (4096, 32768))
    assert [next(t.bytes for t in one.terms if t.term == "KV cache") for one in (short, long)] == [4096 * 131_072] * 2


def test_a_config_json(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(LLAMA))
    assert plan(path, gpu=GPU).parameters == 8_030_261_248
    path.write_text(json.dumps({"model_type": "somevision", "text_config": LLAMA}))
    assert plan(path, gpu=GPU).parameters == 8_030_261_248
    for broken, said in (
        ({**LLAMA, "num_hidden_layers": None}, "num_hidden_layers is not given"),
        ({**LLAMA, "hidden_size": -1}, "hidden_size: -1 is not a whole number"),
        ({**LLAMA, "hidden_size": 4095}, "no multiple of 32 heads"),
        ({**LLAMA, "model_type": "mamba"}, "no closed form for model_type 'mamba'"),
        ({**LLAMA, "model_type": "qwen3moe"}, "did you mean qwen3_moe"),
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(ArchitectureError, match=said):
            plan(path, gpu=GPU)
    for text in ("[]", "{", ""):
        path.write_text(text)
        with pytest.raises(ArchitectureError, match=r"not JSON|not a config"):
            plan(path, gpu=GPU)


def test_a_name_as_people_write_it() -> None:
    assert find_architecture("deepseek-ai/DeepSeek-V3").name == "deepseek-v3"
    assert find_architecture("Llama_3.1 8B").name == "llama-3.1-8b"


@pytest.mark.parametrize(
    ("model", "workload", "said"),
    [
        ("lama-3-8b", {}, "did you mean llama-3-8b"),
        ("0.0000001M", {}, "at least one parameter"),
        ("hidden_size=64", {}, "num_attention_heads is not given"),
        ("gpt2", {"batch": -1}, "batch: -1"),
        ("gpt2", {"seq": 2048}, "1024 learned positions"),
        ("gpt2", {"seq": 0}, "seq: 0"),
        ("gpt2", {"dtype": "fp12"}, "none of fp32"),
        ("gpt2", {"zero": 4}, "zero: 4"),
        ("gpt2", {"zero": 3}, "give --dp"),
        ("gpt2", {"tp": 7}, "do not split over tp 7"),
        ("gpt2", {"pp": 13}, "13 pipeline stages for 12 layers"),
        ("gpt2", {"zero": 3, "dp": 2, "pp": 2}, "pipeline"),
        ("gpt2", {"ep": 2, "dp": 2}, "no experts"),
        ("gpt2", {"dtype": "int8"}, "not trained"),
        ("gpt2", {"dtype": "bf16", "mixed": "amp"}, "needs --dtype fp32"),
        ("gpt2", {"mean_seq": 5}, "for --inference"),
        ("gpt2", {"offload": ("all",)}, "offload: 'all'"),
        ("gpt2", {"torch_version": "new"}, "not a version"),
        ("gpt2", {"size": 5}, "plan\\(\\) has no 'size'"),
        ("20B", {"lora_rank": 8}, "only their sum is known"),
    ],
)
def test_what_can_not_be_is_one_line(model: str, workload: dict[str, object], said: str) -> None:
    with pytest.raises((ArchitectureError, PlanError), match=said) as caught:
        plan(model, gpu=GPU, **workload)
    assert "\n" not in str(caught.value)


def test_an_unknown_card() -> None:
    with pytest.raises(UnknownGpuError, match="did you mean"):
        plan("gpt2", gpu="a100-80")


def test_a_form_is_registered_once() -> None:
    assert len(all_forms()) > 20
    with pytest.raises(ValueError, match="two closed forms for 'weights'"):
        form("weights", category="weights", alive=(Moment.LOSS,), formula="", source="")(lambda case: 0)


def test_workspaces_are_those_of_the_torch_release() -> None:
    old, new = (plan("gpt2", gpu="h100-80gb", torch_version=version) for version in ("2.14.1", "2.15.0"))
    more = sum(t.bytes for t in old.moments[Moment.LOSS]) - sum(t.bytes for t in new.moments[Moment.LOSS])
    assert more == 64 * MIB


def test_the_public_name() -> None:
    assert vramprof.plan is plan


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "deepseek-v3", "--gpu", "h200", "--inference", "--dtype", "fp8", "--tp", "8", "--batch", "4"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert text.startswith("PREDICTED")
    assert "70,272 B a token" in text
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["origin"], found["ranks"]) == ("predicted", 8)
    assert main(["plan", "--list"]) == 0
    assert "deepseek-v3" in capsys.readouterr().out
    assert main(["plan", "gpt9", "--gpu", "h200"]) == 2
    assert capsys.readouterr().err.startswith("vramprof: no model 'gpt9'")
    assert main(["plan", "gpt2"]) == 2
    assert "which card" in capsys.readouterr().err


def test_it_answers_at_once_and_without_torch() -> None:
    """In seconds of the processor, since tests share it; the best of three."""
    command = [sys.executable, "-X", "importtime", "-m", "vramprof", "plan", "deepseek-v3", "--gpu", "h200"]
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=NEUTRAL_FOLDER)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "pandas", "pyarrow"}
    assert min(seconds) < 0.5
