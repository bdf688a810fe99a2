"""Realised error rates and power of every test and correction, on activations of known truth.

    python benchmarks/calibration.py [REPEATS]

One family per repeat: 60 images of two classes, 200 neurons in correlated blocks, 10 of them
dead; "noise" has no detector, "planted" has 20. FDR is the mean share of neurons called falsely
among those called, FWER the share of repeats of pure noise with any call, power the mean share of
planted detectors called; all at alpha = 0.05 and without a bound on the AUROC. An error rate that
lies above alpha by more than twice its simulation error is marked.
"""

import sys
from itertools import product

import numpy as np
import pandas as pd
from tqdm import tqdm

from featlab import datasets, neurons
from featlab.neurons._corrections import adjust

REPEATS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
ALPHA = 0.05
TESTS = ("mannwhitneyu", "welch", "brunner_munzel", "kolmogorov_smirnov", "mutual_information")
# Every method of statsmodels' multipletests, by its first name, and our own.
CORRECTIONS = (
    *("bonferroni", "sidak", "holm-sidak", "holm", "simes-hochberg", "hommel"),
    *("fdr_bh", "fdr_by", "fdr_tsbh", "fdr_tsbky", "fdr_gbs", "local_fdr"),
)


def calls(table: pd.DataFrame, truth: pd.DataFrame) -> tuple[int, int]:
    """False and true calls; with two classes one row per neuron is enough."""
    rejected = set(table.loc[table["reject"] & (table["class"] == "class_0"), "neuron"])
    real = set(truth.loc[truth["label"] != "", "neuron"])
    return len(rejected - real), len(rejected & real)


def one_repeat(seed: int, kind: str) -> list[tuple[str, str, str, int, int]]:
    n_detectors = 20 if kind == "planted" else 0
    made = datasets.make_neurons(
        60, 200, n_detectors, effect=1.5, correlation=0.3, dead=0.05, random_state=seed
    )
    found = []
    for test in TESTS:
        table = neurons.rank_neurons(made.X, made.y, test=test, min_auroc=0.5)
        for correction in CORRECTIONS:
            sign = table["effect"].to_numpy()
            p = adjust(table["p"].to_numpy(), correction, ALPHA, sign=sign)
            found.append(
                (test, correction, kind, *calls(table.assign(reject=p <= ALPHA), made.truth))
            )
    table = neurons.rank_neurons(
        made.X, made.y, correction="max_t", min_auroc=0.5, random_state=seed
    )
    found.append(("mannwhitneyu", "max_t", kind, *calls(table, made.truth)))
    return found


records = []
for seed, kind in tqdm(list(product(range(REPEATS), ("noise", "planted"))), unit="family"):
    records += one_repeat(seed, kind)
frame = pd.DataFrame(records, columns=["test", "correction", "kind", "false", "true"])
frame["fdp"] = frame["false"] / np.maximum(frame["false"] + frame["true"], 1)
noise, planted = frame[frame["kind"] == "noise"], frame[frame["kind"] == "planted"]
key = ["test", "correction"]
table = pd.DataFrame(
    {
        "FWER": noise.groupby(key, sort=False)["false"].agg(lambda calls: (calls > 0).mean()),
        "FDR": planted.groupby(key, sort=False)["fdp"].mean(),
        "FDR error": planted.groupby(key, sort=False)["fdp"].sem(),
        "power": planted.groupby(key, sort=False)["true"].mean() / 20,
    }
).reset_index()
spread = 2 * np.sqrt(ALPHA * (1 - ALPHA) / REPEATS)
table["above alpha"] = np.where(table["FWER"] > ALPHA + spread, "FWER ", "") + np.where(
    table["FDR"] > ALPHA + 2 * table["FDR error"], "FDR", ""
)
print(f"{REPEATS} repeats, alpha = {ALPHA}, simulation error of the FWER {spread / 2:.4f}")
print(table.to_string(index=False, float_format="{:.3f}".format))
