"""PEFT's MetaMathQA comparison on an L40S: `max_memory_reserved` of fine-tuning Llama-3.2-3B with each of its methods.

The figures are in peft_l40s.csv; each method's configuration is in the same result of github.com/huggingface/peft,
`method_comparison/MetaMathQA/results`: put a checkout at ../shared/data/peft, or name it in VRAMPROF_PEFT. Batches are
of four texts whose lengths are not stated. Taken are a bucket of 40 lengths, spread as a lognormal distribution about
the mean that the results tell (212 tokens), and then one batch as long as the longest, whose length is the one thing
that was fitted: about 20 lengths were tried with up to five rows in view, LoRA of rank 32 among them, and 712 tokens
taken. The peak jumps with that length, from 0.4 % too little at 699 to 1 % too much at 712. So no row is fully stated,
and the errors are those of one fitted constant, not of a blind prediction. Evaluation, which needs less, is left out.
The results are of a development version of PEFT 0.20; 0.20.0 was taken, and torch 2.14.1 for 2.13.0. AdaMSS and SHiRA
choose what to train by values, which a dry run has not. The rows of the image model in the same table are left out.
"""

from __future__ import annotations

import csv
import errno
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from statistics import NormalDist

from prediction_accuracy.report import error_95, median_error
from prediction_accuracy.rows import SHARED_DATA, Explanation, Goal, Program, Result, Row

TABLE = SHARED_DATA / "measured" / "peft_l40s.csv"
RESULTS = Path(os.environ.get("VRAMPROF_PEFT") or SHARED_DATA / "peft") / "method_comparison" / "MetaMathQA" / "results"
BUCKET, BATCH = 40, 4
MEAN_TOKENS, SPREAD, LONGEST_TOKENS = 212, 0.38, 712
FITTED = "lora/llama-3.2-3B-rank32"
PACKAGES = ("transformers==5.13.1", "huggingface-hub==1.10.0", "tokenizers==0.22.2", "peft==0.20.0")


def _is_predicted(result: Result) -> bool:
    return result.key != FITTED


GOALS = (
    Goal("median error (one constant fitted; all rows but LoRA-32)", _is_predicted, median_error, 0.02),
    Goal("95th percentile (one constant fitted; all rows but LoRA-32)", _is_predicted, error_95, 0.06),
)
EXPLANATIONS: tuple[Explanation, ...] = ()


def rows() -> Iterator[Row]:
    """One for each method on Llama-3.2-3B; the rows of an image model in the same table are left alone."""
    if not RESULTS.is_dir():
        raise FileNotFoundError(errno.ENOENT, "clone github.com/huggingface/peft", str(RESULTS))
    with TABLE.open(newline="") as file:
        for line in csv.DictReader(file):
            if line["file"].startswith("MetaMathQA__results__"):
                yield _row(line)


def _row(line: dict[str, str]) -> Row:
    run = json.loads((RESULTS / line["file"].removeprefix("MetaMathQA__results__")).read_text())["run_info"]
    adapter = run["peft_config"] and {name: value for name, value in run["peft_config"].items() if value is not None}
    version = line["torch"].partition("+")[0]
    return Row(
        source="peft_l40s",
        group="full fine-tuning" if adapter is None else "adapters",
        key=line["experiment"],
        card="l40s",
        quantity="reserved",
        measured_bytes=int(line["max_reserved_bytes"]),
        program=Program.of(
            "peft_metamath",
            "l40s",
            torch_version=version,
            packages=PACKAGES,
            peft=json.dumps(adapter),
            train=json.dumps(run["train_config"]),
            lengths=(*_bucket(), LONGEST_TOKENS),
        ),
        point="grown",
        torch_version=version,
        fully_stated=False,
        note=f"{line['peft_type'] or 'all weights'}, transformers {line['transformers']}",
    )


def _bucket() -> tuple[int, ...]:
    """Tokens of the longest text in each batch of one bucket, which PEFT sorts from long to short."""
    lengths = NormalDist(math.log(MEAN_TOKENS) - SPREAD**2 / 2, SPREAD)
    texts = [math.exp(lengths.inv_cdf(1 - (place + 0.5) / BUCKET)) for place in range(BUCKET)]
    return tuple(round(tokens) for tokens in texts[::BATCH])
