"""Time of the neuron table, beside scipy in a loop, vectorised scipy and scanpy's Wilcoxon.

    python benchmarks/neurons.py [N_IMAGES] [N_NEURONS]

All figures come from one run on one machine; read them as ratios.
"""

import sys
import time

from scipy.stats import mannwhitneyu

from featlab import datasets, neurons

N = int(sys.argv[1]) if len(sys.argv) > 1 else 3680
C = int(sys.argv[2]) if len(sys.argv) > 2 else 1280


def best_of(work, repeats=3) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


made = datasets.make_neurons(N, C, C // 20, correlation=0.3, dead=0.02)
X, y = made.X, made.y
values = X.to_numpy()
a, b = values[y == "class_0"], values[y != "class_0"]
seconds = {
    "scipy mannwhitneyu, vectorised (p only)": best_of(
        lambda: mannwhitneyu(a, b, axis=0, method="asymptotic")
    ),
    "scipy mannwhitneyu, a loop (p only)": best_of(
        lambda: [mannwhitneyu(a[:, j], b[:, j], method="asymptotic") for j in range(C)], 1
    ),
    "featlab rank_neurons, all columns": best_of(lambda: neurons.rank_neurons(X, y)),
}
ranking = seconds["featlab rank_neurons, all columns"]
seconds["featlab max-T on top, 1,000 permutations"] = (
    best_of(lambda: neurons.rank_neurons(X, y, correction="max_t")) - ranking
)
try:
    import anndata
    import scanpy
except ModuleNotFoundError:
    print("scanpy is not installed: left out")
else:
    data = anndata.AnnData(values, obs={"label": y.to_numpy()})
    data.obs["label"] = data.obs["label"].astype("category")
    seconds["scanpy rank_genes_groups, wilcoxon, ties"] = best_of(
        lambda: scanpy.tl.rank_genes_groups(data, "label", method="wilcoxon", tie_correct=True), 1
    )

base = seconds["scipy mannwhitneyu, vectorised (p only)"]
print(f"{N:,} images x {C:,} neurons, two classes")
for what, value in seconds.items():
    print(f"{what:45s} {value:8.2f} s   {value / base:6.2f} x vectorised scipy")
