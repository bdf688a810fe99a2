"""5. Everything on one page.

python analysis/05_report.py [IMAGES] [--classes A,B] [--box-kind KIND] [-o FOLDER]
"""

import sys

import arguments

from featlab import pipeline, report
from featlab.store import MapStore

given = arguments.read(arguments.parser(__doc__))

with MapStore(given.store) as store:
    command = " ".join(["python", *sys.argv])
    results = pipeline.analyse(store, box_kind=given.box_kind, random_state=0, command=command)
    page, _ = pipeline.write_results(results, given.folder)
    summary = report.summary(results)

for question, answer in summary["heads"]["logistic"].items():
    print(question, answer)
print(page)
