"""8. How does the set lie: which images are alike, and where are the misclassified ones?

python analysis/08_embed.py [IMAGES] [--classes A,B] [--box-kind KIND] [-o FOLDER]
"""

import arguments

from featlab import embed, features, heads, images, plots, splits
from featlab.store import MapStore

given = arguments.read(arguments.parser(__doc__))

with MapStore(given.store) as store:
    labels, groups = store.images["label"], store.images["group"]
    split = splits.make_split(store.images, random_state=0)
    X = features.feature_table(store)
    files = [store.root / path for path in store.images["path"]]

scores = heads.evaluate_heads(X, labels, split, groups=groups, heads=["logistic"])
seen = embed.overview(X, labels, scores.of("logistic"))
plane, wrong = seen.embedding, seen.misclassified
print(f"perplexity {plane.perplexity:.3g}, trustworthiness {plane.trustworthiness}")
print(seen.separation.table.round(3).to_string())
print(wrong.to_string())
print(embed.nearest_neighbours(X, 0, 5, y=labels).round(3).to_string())

# %%
figure = plots.embedding_scatter(plane, labels, misclassified=wrong["row"]).figure
figure.savefig(given.folder / "embedding.svg")
print(given.folder / "embedding.svg")

# %%
pictures = {row: images.decode_picture(files[row].read_bytes()) for row in plane.thumbnails["row"]}
figure = plots.embedding_thumbnails(plane, pictures, labels).figure
figure.savefig(given.folder / "thumbnails.png", dpi=150)
print(given.folder / "thumbnails.png")
