"""5. Everything on one page.

python analysis/05_report.py [STORE] [FOLDER]
"""

import sys
from pathlib import Path

from featlab import pipeline, report
from featlab.store import MapStore

path = Path(sys.argv[1] if len(sys.argv) > 1 else "reports/analysis/maps.h5")
folder = Path(sys.argv[2]) if len(sys.argv) > 2 else path.parent

with MapStore(path) as store:
    command = " ".join(["python", *sys.argv])
    results = pipeline.analyse(store, random_state=0, command=command)
    page, _ = pipeline.write_results(results, folder)
    summary = report.summary(results)

for question, answer in summary["heads"]["logistic"].items():
    print(question, answer)
print(page)
